//! What a run's attempts leave to those that follow, and what they ask people: the bounds of both.

/// The longest name of a checkpoint and the longest key of a question, in bytes.
pub const LONGEST_NAME: usize = 128;
/// The largest value of a checkpoint, in bytes: in a record, which is JSON of at most a megabyte, it takes a third more.
pub const LARGEST_CHECKPOINT: usize = 512 * 1024;
/// The most checkpoints that a run may be allowed: all names are in one record.
pub const MOST_CHECKPOINTS: u32 = 2_000;
/// The longest question, and the longest note on an answer, in bytes.
pub const LONGEST_TEXT: usize = 2_048;
/// The most questions that a run may be allowed: all of them are in one record.
pub const MOST_APPROVALS: u32 = 100;

/// What is wrong with a name or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {LONGEST_NAME} bytes and no control characters")]
pub struct BadName;

/// Checks the name of a checkpoint or the key of a question.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let is_good = (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    if is_good { Ok(()) } else { Err(BadName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_texts_of_one_line() {
        assert!(check_name("turn-0001").is_ok() && check_name(&"é".repeat(64)).is_ok());
        for bad in ["", "a\nb", "\u{7f}", &"é".repeat(65)] {
            assert_eq!(check_name(bad), Err(BadName), "{bad:?}");
        }
    }
}
