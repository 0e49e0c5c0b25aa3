//! Reading one table of the file, and the variables that stand above it, setting by setting.
//!
//! Invariant: a setting whose value is faulty has its fault recorded and reads as its default, so that one pass finds every
//! fault; and a key that nobody asked for is a fault too.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::domain::time::Seconds;

use super::document::{Node, Table, Value};
use super::environment::{Environment, flag_of};
use super::fault::{ConfigFault, Origin, shown, suggestion};
use super::seed::Seed;
use crate::domain::secret::Secret;

/// One setting as `config show` tells it; a secret's value is the text `(hidden)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The dotted path.
    pub key: String,
    /// The value in force.
    pub value: Json,
    /// Where the value comes from.
    pub origin: Origin,
}

/// What one pass over file and environment gathers.
pub(super) struct Reading<'a> {
    pub(super) env: &'a Environment,
    pub(super) seed: Seed,
    pub(super) faults: Vec<ConfigFault>,
    pub(super) entries: Vec<Entry>,
    pub(super) variables: BTreeSet<&'static str>,
}

impl<'a> Reading<'a> {
    /// Opens the table `name` of `root`; one that is missing reads as empty.
    pub(super) fn section<'r>(&'r mut self, root: &'a Table, name: &str) -> Section<'a, 'r> {
        let node = root.get(name);
        self.open(node, name.to_owned())
    }

    /// Opens the file itself; who reads it refuses unknown keys with [`Reading::refuse_unknown`].
    pub(super) fn top<'r>(&'r mut self, root: &'a Table) -> Section<'a, 'r> {
        Section { reading: self, path: String::new(), table: Some(root), asked: Vec::new(), file_only: false }
    }

    /// Opens a value as a table at a dotted path.
    pub(super) fn open<'r>(&'r mut self, node: Option<&'a Node>, path: String) -> Section<'a, 'r> {
        let table = match node.map(|node| (&node.value, &node.origin)) {
            None => None,
            Some((Value::Table(table), _)) => Some(table),
            Some((other, origin)) => {
                self.fault(origin.clone(), &path, format!("must be a table such as `[{path}]`, not {}", other.describe()));
                None
            }
        };
        Section { reading: self, path, table, asked: Vec::new(), file_only: false }
    }

    pub(super) fn fault(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.faults.push(ConfigFault { origin, key: Some(key.to_owned()), message: message.into() });
    }

    pub(super) fn refuse_unknown(&mut self, table: &Table, path: &str, known: &[&str]) {
        for (name, node) in table {
            if !known.contains(&name.as_str()) {
                let key = if path.is_empty() { shown(name) } else { format!("{path}.{}", shown(name)) };
                self.fault(node.origin.clone(), &key, format!("is not a setting: {}", suggestion(name, known.iter().copied())));
            }
        }
    }
}

/// One table that is being read.
pub(super) struct Section<'a, 'r> {
    pub(super) reading: &'r mut Reading<'a>,
    path: String,
    table: Option<&'a Table>,
    asked: Vec<&'static str>,
    file_only: bool,
}

/// A setting's name in its table, and the variable that stands above it.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) variable: Option<&'static str>,
}

/// A setting that a variable can give.
pub(super) const fn key(name: &'static str, variable: &'static str) -> Key {
    Key { name, variable: Some(variable) }
}

/// A setting that only the file can give.
pub(super) const fn file_key(name: &'static str) -> Key {
    Key { name, variable: None }
}

impl<'a> Section<'a, '_> {
    /// Takes what follows from the file alone, and tells only of what the file gives.
    pub(super) fn file_only(mut self) -> Self {
        self.file_only = true;
        self
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The table's value for a name, as it is, marked as asked for.
    pub(super) fn node(&mut self, name: &'static str) -> Option<&'a Node> {
        self.asked.push(name);
        self.table?.get(name)
    }

    /// The value that wins: our variable, the seed's variable, the file.
    fn winner(&mut self, key: Key) -> Option<Node> {
        let in_file = self.node(key.name);
        if let Some(variable) = key.variable.filter(|_| !self.file_only) {
            self.reading.variables.insert(variable);
            if let Some(text) = self.reading.env.get(variable) {
                return Some(Node { value: Value::Text(text.to_owned()), origin: Origin::of_variable(variable) });
            }
            if let Some(node) = self.reading.seed.values.get(self.path_of(key.name).as_str()) {
                return Some(node.clone());
            }
        }
        in_file.cloned()
    }

    /// Where the value of a setting that was told comes from.
    pub(super) fn origin_of(&self, name: &str) -> Origin {
        let path = self.path_of(name);
        let told = self.reading.entries.iter().rev().find(|entry| entry.key == path);
        told.map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// Records what a setting is and where that comes from.
    pub(super) fn tell(&mut self, name: &str, value: Json, origin: Origin) {
        if !self.file_only || origin != Origin::Default {
            let key = self.path_of(name);
            self.reading.entries.push(Entry { key, value, origin });
        }
    }

    /// Reads a setting with a reader of its own; none where nothing gives it or what gives it is faulty.
    pub(super) fn given<T>(&mut self, key: Key, read: impl FnOnce(&Node) -> Result<T, String>) -> Option<(T, Origin)> {
        let node = self.winner(key)?;
        match read(&node) {
            Ok(value) => Some((value, node.origin)),
            Err(message) => {
                let path = self.path_of(key.name);
                self.reading.fault(node.origin, &path, message);
                None
            }
        }
    }

    /// Reads a setting that has a default.
    pub(super) fn or<T>(
        &mut self,
        key: Key,
        default: T,
        show: impl FnOnce(&T) -> Json,
        read: impl FnOnce(&Node) -> Result<T, String>,
    ) -> T {
        let (value, origin) = self.given(key, read).unwrap_or((default, Origin::Default));
        self.tell(key.name, show(&value), origin);
        value
    }

    /// A whole number.
    pub(super) fn whole<N>(&mut self, key: Key, default: N, range: RangeInclusive<u64>) -> N
    where
        N: TryFrom<u64> + Into<u64> + Copy,
    {
        let read = |node: &Node| whole_of(node, &range);
        self.or(key, default, |value| Json::from((*value).into()), read)
    }

    /// A number of seconds, fractions allowed.
    pub(super) fn seconds(&mut self, key: Key, default: Seconds, range: RangeInclusive<f64>) -> Seconds {
        self.or(key, default, seconds_json, |node| seconds_of(node, &range))
    }

    /// A yes or no.
    pub(super) fn flag(&mut self, key: Key, default: bool) -> bool {
        self.or(
            key,
            default,
            |value| Json::from(*value),
            |node| match &node.value {
                Value::Flag(flag) => Ok(*flag),
                Value::Text(text) if is_variable(node) => flag_of(text),
                other => Err(format!("must be true or false, not {}", other.describe())),
            },
        )
    }

    /// A path.
    pub(super) fn path(&mut self, key: Key, default: PathBuf) -> PathBuf {
        let show = |path: &PathBuf| Json::from(path.to_string_lossy());
        self.or(key, default, show, |node| match text_of(node)? {
            "" => Err("must not be empty; give a path, or leave the key out".to_owned()),
            text if text.contains('\0') => Err("must not hold a zero byte; give a path".to_owned()),
            text => Ok(PathBuf::from(text)),
        })
    }

    /// A secret, of which no message repeats anything; an empty text is as good as none.
    pub(super) fn secret(&mut self, key: Key) -> Option<(Secret, Origin)> {
        let found = self.given(key, |node| match &node.value {
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) => token_of(text).map(Some),
            _ => Err("must be a text in quotes".to_owned()),
        });
        let found = found.and_then(|(secret, origin)| Some((secret?, origin)));
        let (value, origin) =
            found.as_ref().map_or((Json::from(""), Origin::Default), |(_, origin)| (Json::from("(hidden)"), origin.clone()));
        self.tell(key.name, value, origin);
        found
    }

    /// Refuses every key that was not asked for.
    pub(super) fn finish(self) {
        if let Some(table) = self.table {
            self.reading.refuse_unknown(table, &self.path, &self.asked);
        }
    }
}

/// Whether a value comes from the environment, where every value is a text.
pub(super) fn is_variable(node: &Node) -> bool {
    matches!(node.origin, Origin::Environment { .. })
}

/// A text.
pub(super) fn text_of(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Text(text) => Ok(text),
        other => Err(format!("must be a text in quotes, not {}", other.describe())),
    }
}

/// A whole number within a range.
pub(super) fn whole_of<N: TryFrom<u64>>(node: &Node, range: &RangeInclusive<u64>) -> Result<N, String> {
    let number = match &node.value {
        Value::Whole(number) => u64::try_from(*number).ok(),
        Value::Text(text) if is_variable(node) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| format!("must be a whole number from {} to {}, not {}", range.start(), range.end(), node.value.describe()))
}

/// A number of seconds within a range.
pub(super) fn seconds_of(node: &Node, range: &RangeInclusive<f64>) -> Result<Seconds, String> {
    let number = match &node.value {
        // Any whole number that loses digits as a fraction is past every range.
        #[allow(clippy::cast_precision_loss)]
        Value::Whole(number) => Some(*number as f64),
        Value::Fraction(number) => Some(*number),
        Value::Text(text) if is_variable(node) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| range.contains(number)).and_then(Seconds::from_f64);
    number.ok_or_else(|| format!("must be a number of seconds from {} to {}, not {}", range.start(), range.end(), node.value.describe()))
}

/// Seconds as the records show them.
pub(super) fn seconds_json(seconds: &Seconds) -> Json {
    serde_json::to_value(seconds).unwrap_or_default()
}

/// A token that a header can carry.
pub(super) fn token_of(text: &str) -> Result<Secret, String> {
    if text.len() > 512 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be at most 512 letters, digits and signs of ASCII without spaces".to_owned());
    }
    Ok(Secret::new(text))
}
