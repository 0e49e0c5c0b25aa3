//! Where a setting comes from, and what is wrong with one.
//!
//! Invariant: a fault's text is one sentence with the place, the key and the mend, and never holds a secret's value.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing gives it: the default holds.
    Default,
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        file: Arc<Path>,
        /// The line, counted from 1.
        line: u32,
    },
    /// A variable of the environment.
    Environment {
        /// The variable's name.
        variable: String,
    },
}

impl Origin {
    pub(super) fn of_variable(name: &str) -> Self {
        Origin::Environment { variable: name.to_owned() }
    }

    /// Which origin wins where two give the same setting: the greater one.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File { .. } => 1,
            Origin::Environment { .. } => 2,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File { file, line } => write!(out, "{}:{line}", file.display()),
            Origin::Environment { variable } => out.write_str(variable),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file and line, or the variable, that is wrong; the default where something is missing everywhere.
    pub origin: Origin,
    /// The setting's dotted path, where one is concerned.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(out, "{}: ", self.origin)?;
        }
        if let Some(key) = &self.key {
            write!(out, "`{key}` ")?;
        }
        out.write_str(&self.message)
    }
}

/// All that is wrong with the configuration, one sentence a line. There is at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct ConfigFaults(pub Vec<ConfigFault>);

fn lines(faults: &[ConfigFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A text from outside, bounded and without control characters, for a message.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

/// The part of a message that names the known word nearest to a mistyped one, or lists the few that there are.
pub(super) fn suggestion<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let given = given.to_lowercase();
    let near = known
        .iter()
        .map(|word| (distance(&given, &word.to_lowercase()), *word))
        .filter(|(steps, word)| *steps <= 1 + word.chars().count() / 4)
        .min();
    match near {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("known are {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// How many letters have to be added, removed, replaced or swapped with their neighbour to make one word of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // Longer words are no near misses of any key, and the table below is quadratic.
    let from: Vec<char> = from.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = cell(&above, j) + usize::from(a != b);
            let mut best = replaced.min(cell(&above, j + 1) + 1).min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a);
            if swapped {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    cell(&above, to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_letters_and_swaps() {
        for (a, b, steps) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("port", "prot", 1), ("listen", "lisen", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), steps, "{a} {b}");
        }
    }

    #[test]
    fn a_near_word_is_named_and_a_far_one_gets_the_list() {
        assert_eq!(suggestion("max_runing", ["max_running", "enabled"]), "did you mean `max_running`?");
        assert_eq!(suggestion("Listen", ["listen"]), "did you mean `listen`?");
        assert_eq!(suggestion("colour", ["listen", "token"]), "known are `listen`, `token`");
        assert_eq!(suggestion("x", []), "remove it");
    }

    #[test]
    fn control_characters_and_length_do_not_reach_a_message() {
        assert_eq!(shown("a\u{1b}[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 65);
    }
}
