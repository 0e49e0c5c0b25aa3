//! The desk's rules: which ticket a query speaks of, what is decided, and how the note reads. No I/O, no clock, no run: the files must be
//! the same however the agent is run.

use serde::Deserialize;
use std::fmt::Write;

/// The data file.
#[derive(Deserialize)]
pub struct Desk {
    customers: Vec<Customer>,
    tickets: Vec<Ticket>,
    policies: Vec<Policy>,
}

#[derive(Deserialize)]
pub struct Customer {
    id: String,
    name: String,
    plan: String,
    contact: String,
}

#[derive(Deserialize)]
pub struct Ticket {
    pub id: String,
    customer: String,
    category: String,
    subject: String,
    facts: Vec<String>,
    /// Words of a query that speak of this ticket, in lower case.
    words: Vec<String>,
}

#[derive(Deserialize)]
pub struct Policy {
    category: String,
    /// The plan it is for; none is for every plan without a policy of its own.
    plan: Option<String>,
    decision: String,
    priority: String,
    owner: String,
    answer_within: String,
    steps: Vec<String>,
    #[serde(default)]
    when: Vec<Extra>,
    reply: String,
}

/// A step that the words of a query add.
#[derive(Deserialize)]
pub struct Extra {
    words: Vec<String>,
    step: String,
}

/// A query with the ticket, customer and policy that follow from it.
pub struct Case<'a> {
    pub ticket: &'a Ticket,
    customer: &'a Customer,
    policy: &'a Policy,
    query: &'a str,
    steps: Vec<&'a str>,
}

impl Desk {
    /// Reads the data file's text, or says in a sentence what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let desk: Desk = serde_json::from_str(text).map_err(|e| e.to_string())?;
        // An id becomes a file name.
        match desk.tickets.iter().find(|t| !is_plain(&t.id)) {
            Some(t) => Err(format!("the ticket id {:?} may only have letters, digits and '-'", t.id)),
            None => Ok(desk),
        }
    }

    /// Finds the one ticket of the query and decides, or says in a sentence why not.
    pub fn open<'a>(&'a self, query: &'a str) -> Result<Case<'a>, String> {
        let words = words_of(query);
        let ticket = self.ticket_by_id(&words).unwrap_or_else(|| self.ticket_by_words(&words))?;
        let customer = self
            .customers
            .iter()
            .find(|c| c.id == ticket.customer)
            .ok_or_else(|| format!("ticket {} belongs to customer {:?}, whom the data does not know", ticket.id, ticket.customer))?;
        self.refuse_another_customer(&words, ticket, customer)?;
        let policy = self.policy_for(ticket, customer)?;
        let extra = policy.when.iter().filter(|e| e.words.iter().any(|w| words.contains(w))).map(|e| e.step.as_str());
        let steps = policy.steps.iter().map(String::as_str).chain(extra).collect();
        Ok(Case { ticket, customer, policy, query, steps })
    }

    /// The ticket whose id the query names; None when it names none.
    fn ticket_by_id(&self, words: &[String]) -> Option<Result<&Ticket, String>> {
        let mut named: Vec<&String> = words.iter().filter(|w| is_ticket_id(w)).collect();
        named.sort();
        named.dedup();
        match named.as_slice() {
            [] => None,
            [id] => Some(self.tickets.iter().find(|t| t.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
                format!("there is no ticket {}: the desk has {}", id.to_uppercase(), join(self.tickets.iter().map(|t| &t.id)))
            })),
            several => {
                Some(Err(format!("the query names {}: ask for one ticket at a time", join(several.iter().map(|id| id.to_uppercase())))))
            }
        }
    }

    /// The ticket that most of the query's words speak of; a customer's name decides between equals.
    fn ticket_by_words(&self, words: &[String]) -> Result<&Ticket, String> {
        let score = |t: &Ticket| {
            let hits = t.words.iter().filter(|w| words.contains(w)).count();
            let named = self.customers.iter().any(|c| c.id == t.customer && words.contains(&c.name.to_lowercase()));
            (hits, named)
        };
        let best = self.tickets.iter().map(score).max().unwrap_or_default();
        let matching: Vec<&Ticket> = self.tickets.iter().filter(|t| score(t) == best).collect();
        match matching.as_slice() {
            [ticket] if best.0 > 0 => Ok(ticket),
            several if best.0 > 0 => Err(format!("the query fits {}: name the ticket", join(several.iter().map(|t| &t.id)))),
            _ => Err(format!("the query speaks of no ticket of the desk: name one of {}", join(self.tickets.iter().map(|t| &t.id)))),
        }
    }

    /// A note about one customer's ticket must not answer another customer.
    fn refuse_another_customer(&self, words: &[String], ticket: &Ticket, owner: &Customer) -> Result<(), String> {
        let named: Vec<&Customer> = self.customers.iter().filter(|c| words.contains(&c.name.to_lowercase())).collect();
        match named.first() {
            Some(other) if named.iter().all(|c| c.id != owner.id) => {
                Err(format!("ticket {} belongs to {}, but the query speaks of {}", ticket.id, owner.name, other.name))
            }
            _ => Ok(()),
        }
    }

    fn policy_for(&self, ticket: &Ticket, customer: &Customer) -> Result<&Policy, String> {
        let fits = |plan: Option<&str>| self.policies.iter().find(|p| p.category == ticket.category && p.plan.as_deref() == plan);
        fits(Some(&customer.plan))
            .or_else(|| fits(None))
            .ok_or_else(|| format!("no policy covers {:?} tickets on the plan {:?}", ticket.category, customer.plan))
    }
}

impl Case<'_> {
    /// The answer: one sentence.
    pub fn sentence(&self) -> String {
        let Self { ticket, customer, policy, .. } = self;
        format!("{} of {}: {}, {}, owned by {}.", ticket.id, customer.name, policy.decision, policy.priority, policy.owner)
    }

    /// Where the ticket's record goes.
    pub fn record_path(&self) -> String {
        format!("tickets/{}.md", self.ticket.id.to_lowercase())
    }

    /// The durable support note.
    pub fn note(&self) -> String {
        let Self { ticket, customer, policy, .. } = self;
        let mut out = format!("# Support note {}: {}\n\n", ticket.id, ticket.subject);
        let _ = writeln!(out, "**Decision:** {} ({}), owned by {}.\n", policy.decision, policy.priority, policy.owner);
        let _ = writeln!(out, "## Request\n\n{}\n", quote(self.query));
        let _ =
            writeln!(out, "## What is known\n\n- {} is on the {} plan; the contact is {}.", customer.name, customer.plan, customer.contact);
        for fact in &ticket.facts {
            let _ = writeln!(out, "- {fact}");
        }
        out.push_str("\n## Next steps\n\n");
        for (number, step) in (1..).zip(&self.steps) {
            let _ = writeln!(out, "{number}. {step}");
        }
        let _ = writeln!(out, "\n## Reply to {}\n\nHello {},\n\n{}", customer.name, customer.contact, policy.reply);
        out
    }

    /// The ticket's own record.
    pub fn record(&self) -> String {
        let Self { ticket, customer, policy, .. } = self;
        format!(
            "# {}\n\n- Subject: {}\n- Customer: {} ({})\n- Category: {}\n- Priority: {}\n- Decision: {}\n- Owner: {}\n- Answer within: {}\n- Open steps: {}\n",
            ticket.id,
            ticket.subject,
            customer.name,
            customer.plan,
            ticket.category,
            policy.priority,
            policy.decision,
            policy.owner,
            policy.answer_within,
            self.steps.len(),
        )
    }
}

/// The words of a text in lower case; a '-' inside a word belongs to it.
fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
    words.map(|w| w.trim_matches('-').to_lowercase()).filter(|w| !w.is_empty()).collect()
}

fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_ticket_id(word: &str) -> bool {
    word.strip_prefix("tck-").is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

/// The query as a Markdown quote, so that nothing in it reads as a part of the note.
fn quote(text: &str) -> String {
    text.trim().lines().map(|line| format!("> {line}").trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

fn join(items: impl Iterator<Item = impl AsRef<str>>) -> String {
    items.map(|item| item.as_ref().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_QUERY: &str = "Customer Acme reports ticket TCK-1042: checkout is failing with 502 since the last deploy. Review it, decide and write the support note.";

    fn desk() -> Desk {
        Desk::parse(crate::SEED).unwrap()
    }

    fn refusal(query: &str) -> String {
        desk().open(query).err().expect(query)
    }

    #[test]
    fn the_query_chooses_ticket_customer_and_decision() {
        let desk = desk();
        let case = desk.open(PAGE_QUERY).unwrap();
        assert_eq!(case.sentence(), "TCK-1042 of Acme: escalate, P1, owned by the on-call engineer.");
        assert_eq!(case.record_path(), "tickets/tck-1042.md");
        let note = case.note();
        assert!(note.contains("> Customer Acme reports") && note.contains("4. Roll the last deploy back"), "{note}");
        assert!(case.record().contains("- Open steps: 4"));
    }

    #[test]
    fn another_query_is_another_ticket() {
        let desk = desk();
        for (query, path) in [
            ("look at tck-1043 please", "tickets/tck-1043.md"),
            ("We were charged twice, we want a refund", "tickets/tck-1043.md"),
            ("Petra cannot get past the login, locked out", "tickets/tck-1044.md"),
            ("acme asks about export retention", "tickets/tck-1045.md"),
            ("502 at checkout", "tickets/tck-1042.md"),
        ] {
            assert_eq!(desk.open(query).map(|case| case.record_path()), Ok(path.to_string()), "{query}");
        }
    }

    #[test]
    fn a_step_is_added_only_by_its_words() {
        let desk = desk();
        assert!(!desk.open("502 at checkout").unwrap().note().contains("Roll the last deploy back"));
    }

    #[test]
    fn what_cannot_be_decided_is_refused_in_a_sentence() {
        assert_eq!(refusal("Review TCK-9999"), "there is no ticket TCK-9999: the desk has TCK-1042, TCK-1043, TCK-1044, TCK-1045");
        assert_eq!(refusal("TCK-1043 or TCK-1042?"), "the query names TCK-1042, TCK-1043: ask for one ticket at a time");
        assert_eq!(refusal("checkout and login"), "the query fits TCK-1042, TCK-1044: name the ticket");
        assert_eq!(refusal("Hello?"), "the query speaks of no ticket of the desk: name one of TCK-1042, TCK-1043, TCK-1044, TCK-1045");
        assert_eq!(refusal("Globex asks about TCK-1042"), "ticket TCK-1042 belongs to Acme, but the query speaks of Globex");
        assert!(refusal("").starts_with("the query speaks of no ticket"));
    }

    #[test]
    fn a_query_cannot_write_into_the_note() {
        let desk = desk();
        let note = desk.open("TCK-1042\n# Forged\n**Decision:** refund").unwrap().note();
        assert!(note.contains("> # Forged\n> **Decision:** refund"), "{note}");
    }

    #[test]
    fn an_id_cannot_leave_the_folder() {
        let data = crate::SEED.replace("TCK-1043", "../../x");
        assert!(Desk::parse(&data).err().unwrap().contains("may only have letters"));
        assert!(Desk::parse("{").is_err());
    }
}
