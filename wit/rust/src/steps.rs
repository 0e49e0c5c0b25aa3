//! Work that a later attempt does not do again: [`step`] keeps what a piece of work gave as a checkpoint of the run.
//!
//! Names are the agent's own, and stand for the same work in every attempt. A step that failed keeps nothing.

use crate::{Failure, checkpoint};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What an earlier attempt's step of this name gave; else does the work and keeps what it gives, durably, before it returns.
///
/// # Errors
/// The work's own; what was kept cannot be read as a `T` any more; or what the work gave goes over a limit of checkpoints.
pub fn step<T, F>(name: &str, work: F) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<T, Failure>,
{
    step_in(&mut Run, name, work)
}

/// What an earlier step of this name gave, without doing it.
///
/// # Errors
/// What was kept cannot be read as a `T`.
pub fn done<T: DeserializeOwned>(name: &str) -> Result<Option<T>, Failure> {
    Run.load(name).map(|bytes| read(name, &bytes)).transpose()
}

/// Where steps are kept.
trait Kept {
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    fn save(&mut self, name: &str, value: &[u8]) -> Result<(), String>;
}

/// The run's checkpoints.
struct Run;

impl Kept for Run {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        checkpoint::load(name)
    }

    fn save(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        checkpoint::save(name, value)
    }
}

fn step_in<T, F>(kept: &mut dyn Kept, name: &str, work: F) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<T, Failure>,
{
    if let Some(bytes) = kept.load(name) {
        return read(name, &bytes);
    }
    let value = work()?;
    let bytes = serde_json::to_vec(&value)
        .map_err(|fault| Failure::permanent(format!("what the step {name:?} gave cannot be written as JSON: {fault}")))?;
    kept.save(name, &bytes).map_err(|why| Failure::permanent(format!("what the step {name:?} gave cannot be kept: {why}")))?;
    Ok(value)
}

/// Doing the work again might pay for it twice, so a value that cannot be read is the author's to mend.
fn read<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|fault| {
        Failure::permanent(format!(
            "what an earlier attempt kept for the step {name:?} is not what this agent expects ({fault}): give the step another name to do it again"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Map {
        values: BTreeMap<String, Vec<u8>>,
        full: bool,
    }

    impl Kept for Map {
        fn load(&self, name: &str) -> Option<Vec<u8>> {
            self.values.get(name).cloned()
        }

        fn save(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
            if self.full {
                return Err("it is over the limit".to_owned());
            }
            self.values.insert(name.to_owned(), value.to_vec());
            Ok(())
        }
    }

    #[test]
    fn a_finished_step_is_not_done_again() {
        let mut kept = Map::default();
        let first = step_in(&mut kept, "ask", || Ok(vec![1, 2]));
        let second = step_in(&mut kept, "ask", || -> Result<Vec<i32>, Failure> { panic!("done again") });
        assert_eq!((first.ok(), second.ok()), (Some(vec![1, 2]), Some(vec![1, 2])));
    }

    #[test]
    fn a_failed_step_keeps_nothing() {
        let mut kept = Map::default();
        let failed = step_in(&mut kept, "ask", || Err::<u8, _>(Failure::retryable("busy")));
        assert!(matches!(failed, Err(Failure::Retryable(_))));
        assert_eq!(step_in(&mut kept, "ask", || Ok(7)).ok(), Some(7));
    }

    #[test]
    fn a_limit_and_another_type_are_said() {
        let mut kept = Map { full: true, ..Map::default() };
        let Err(Failure::Permanent(why)) = step_in(&mut kept, "ask", || Ok(7)) else { panic!("kept") };
        assert!(why.contains("\"ask\"") && why.contains("over the limit"), "{why}");
        kept.values.insert("ask".to_owned(), b"\"seven\"".to_vec());
        let Err(Failure::Permanent(why)) = step_in(&mut kept, "ask", || Ok(7)) else { panic!("read") };
        assert!(why.contains("another name"), "{why}");
    }
}
