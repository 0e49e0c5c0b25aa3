//! What the client verbs share: the connection, the form of the answer, pages and what an empty list says.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Context;
use super::exit::{Exit, Fault};
use super::remote::{Answer, ClientArgs, Remote};
use super::screen::Colour;
use super::table::Table;
use super::view;
use crate::domain::time::Timestamp;

/// One client verb at work.
pub struct Caller<'a> {
    /// The command's surroundings.
    pub context: &'a Context,
    /// The daemon.
    pub remote: Remote,
    /// Whether the daemon's JSON is wanted.
    pub json: bool,
}

impl<'a> Caller<'a> {
    /// Prepares the connection.
    ///
    /// # Errors
    /// The address or the token cannot be used.
    pub fn new(context: &'a Context, args: &ClientArgs) -> Result<Self, Fault> {
        Ok(Caller { context, remote: Remote::open(args, &context.env)?, json: args.json })
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.context.now()
    }

    /// Prints an answer: the JSON as it came, or the text that `read` makes of it, which ends its lines.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn show(&self, answer: &Answer, read: impl FnOnce(&Value) -> String) -> Result<Exit, Fault> {
        if self.json {
            self.context.screen.json(&answer.raw)?;
        } else {
            self.context.screen.text(&read(&answer.value))?;
        }
        Ok(Exit::Done)
    }

    /// A page of a list as text: the table and how to go on, or what to do when there is nothing.
    pub fn page(&self, table: &Table, answer: &Value, empty: &str) -> String {
        let screen = &self.context.screen;
        if table.is_empty() {
            return format!("{empty}\n");
        }
        let mut text = table.render(screen);
        if let Some(cursor) = view::text(answer, "next_cursor") {
            let total = view::count(answer, "total").map(|total| format!(" of {total} in all")).unwrap_or_default();
            let more = format!("there are more{total}: add --cursor {}", super::human::one_line(&cursor));
            text.push_str(&format!("{}\n", screen.paint(Colour::Dim, &more)));
        }
        text
    }
}

/// Which end of a list comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The oldest first.
    Asc,
    /// The newest first.
    Desc,
}

/// Which page of a list.
#[derive(Args, Clone, Debug)]
pub struct PageArgs {
    /// How many entries at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub limit: u64,
    /// Where the page before this one says that it goes on
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Which end comes first
    #[arg(long, value_enum, value_name = "ORDER")]
    pub order: Option<Order>,
}

impl PageArgs {
    /// The parameters of the request; `order` holds where neither the user nor the cursor says one.
    pub fn query(&self, order: Order) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        let order = self.order.or(self.cursor.is_none().then_some(order));
        match order {
            Some(Order::Asc) => query.push(("order", "asc".to_owned())),
            Some(Order::Desc) => query.push(("order", "desc".to_owned())),
            None => {}
        }
        if let Some(cursor) = &self.cursor {
            query.push(("cursor", cursor.clone()));
        }
        query
    }
}
