//! A TOML text as a tree in which every value knows its line.
//!
//! It fails with the text's syntax faults, all of them; what the values mean is not judged here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::fault::{ConfigFault, Origin, shown};

/// A value, and where it is written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A table's values by name.
pub(super) type Table = BTreeMap<String, Node>;

/// What can be written. A variable of the environment is always a text.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    /// A whole number past 64 bits, as it is written.
    TooLarge(String),
    Fraction(f64),
    Flag(bool),
    /// A date, a time or both: RFC 3339, without an offset where none is written.
    Time(String),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// The kind and, where it is short, the value itself, for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Text(text) => format!("`{}`", shown(text)),
            Value::Whole(number) => format!("{number}"),
            Value::TooLarge(digits) => shown(digits),
            Value::Fraction(number) => format!("{number}"),
            Value::Flag(flag) => format!("{flag}"),
            Value::Time(time) => format!("the time {time}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// Parses a text; `file` is what the origins name.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> Result<Table, Vec<ConfigFault>> {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table(root.get_ref(), &lines, file));
    }
    let at = |start: usize| Origin::File { file: Arc::clone(file), line: lines.line_of(start) };
    // One slip can make the parser trip over all that follows; the first ones are what has to be mended.
    let told = errors.iter().take(10).map(|error| ConfigFault {
        origin: at(error.span().map_or(0, |span| span.start)),
        key: None,
        message: format!("this is not TOML: {}; mend the line", shown(error.message())),
    });
    Err(told.collect())
}

/// Where each line starts, in bytes.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Lines(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect())
    }

    fn line_of(&self, byte: usize) -> u32 {
        let before = self.0.partition_point(|start| *start <= byte);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }
}

fn table(from: &DeTable<'_>, lines: &Lines, file: &Arc<Path>) -> Table {
    from.iter().map(|(key, value)| (key.get_ref().to_string(), node(value.get_ref(), value.span().start, lines, file))).collect()
}

fn node(from: &DeValue<'_>, start: usize, lines: &Lines, file: &Arc<Path>) -> Node {
    let value = match from {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::TooLarge(number.to_string()),
        },
        DeValue::Float(number) => number.as_str().parse().map_or_else(|_| Value::Text(number.as_str().to_owned()), Value::Fraction),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(time) => {
            let mut time = *time;
            if let Some(time) = &mut time.time {
                // RFC 3339 has seconds; TOML may leave them out.
                time.second.get_or_insert(0);
            }
            Value::Time(time.to_string())
        }
        DeValue::Array(values) => Value::List(values.iter().map(|value| node(value.get_ref(), value.span().start, lines, file)).collect()),
        DeValue::Table(values) => Value::Table(table(values, lines, file)),
    };
    Node { value, origin: Origin::File { file: Arc::clone(file), line: lines.line_of(start) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Table, Vec<ConfigFault>> {
        parse(text, &Arc::from(Path::new("x.toml")))
    }

    #[test]
    fn values_know_their_lines() {
        let root = read("a = 1\n\n[b]\nc = [\n  2,\n  3,\n]\n[[t]]\n[[t]]\nx.y = 5\n").unwrap();
        let line = |node: &Node| node.origin.to_string();
        assert_eq!(line(&root["a"]), "x.toml:1");
        let Value::Table(b) = &root["b"].value else { panic!("no table") };
        let Value::List(c) = &b["c"].value else { panic!("no list") };
        assert_eq!((line(&b["c"]), line(&c[1])), ("x.toml:4".to_owned(), "x.toml:6".to_owned()));
        let Value::List(t) = &root["t"].value else { panic!("no list") };
        assert_eq!((line(&t[0]), line(&t[1])), ("x.toml:8".to_owned(), "x.toml:9".to_owned()));
    }

    #[test]
    fn times_become_rfc_3339_and_keep_their_missing_offset() {
        let root = read("a = 2026-11-22 05:00:00Z\nb = 2026-11-22T05:00\nc = 2026-11-22\nd = 2026-11-22T05:00:00.5+01:30").unwrap();
        let time = |key: &str| match &root[key].value {
            Value::Time(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(time("a"), "2026-11-22T05:00:00Z");
        assert_eq!(time("b"), "2026-11-22T05:00:00");
        assert_eq!(time("c"), "2026-11-22");
        assert_eq!(time("d"), "2026-11-22T05:00:00.5+01:30");
    }

    #[test]
    fn every_syntax_fault_is_told_with_its_line_and_without_the_line_s_text() {
        let faults = read("a = \n[server]\ntoken = \"tiger-7421\" tiger-7421\nb = ]\n").unwrap_err();
        let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains("x.toml:1: ") && text.contains("x.toml:3: ") && text.contains("x.toml:4: "), "{text}");
        assert!(!text.contains("tiger"), "{text}");
    }

    #[test]
    fn a_number_past_64_bits_and_a_deep_nest_are_no_panic() {
        assert!(matches!(read("a = 99999999999999999999").unwrap()["a"].value, Value::TooLarge(_)));
        assert!(read(&format!("a = {}", "[".repeat(5000))).is_err());
    }
}
