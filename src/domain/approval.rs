//! What a run asks people, and what they answer.
//!
//! Invariants: a question has one answer, which is never changed; what a record holds of both is bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::RunId;
use super::time::Timestamp;

/// The longest question, and the longest note on an answer, in bytes.
pub const LONGEST_TEXT: usize = 2_048;
/// The longest name of whoever answers, in bytes.
pub const LONGEST_APPROVER: usize = 128;
/// The most questions that a run may be allowed: all of them are in one record.
pub const MOST_APPROVALS: u32 = 100;

/// A person's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it is a yes.
    pub approved: bool,
    /// Who gave it.
    pub by: String,
    /// What they said about it; may be empty.
    pub note: String,
    /// The token with which it came, where that has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Answer {
    /// What was decided, in a word.
    pub const fn word(&self) -> &'static str {
        if self.approved { "approved" } else { "denied" }
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The agent's own words, untrusted.
    pub question: String,
    /// The attempt that asked last.
    pub attempt: u32,
    /// When it asked.
    pub asked_at: Timestamp,
    /// Until when an answer is waited for.
    pub until: Timestamp,
    /// The answer.
    pub answer: Option<Answer>,
}

/// Why an answer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is no such question.
    #[error("has not asked for approval under the key `{key}`{others}")]
    NotAsked {
        /// The key.
        key: String,
        /// The open questions' keys, in a half sentence.
        others: String,
    },
    /// Somebody answered before.
    #[error("has the answer to `{key}` already: it was {word} by {by} at {at}")]
    Answered {
        /// The key.
        key: String,
        /// The answer.
        word: &'static str,
        /// Whose it is.
        by: String,
        /// When it was given.
        at: Timestamp,
    },
    /// The question is another one by now.
    #[error("asks something else under `{key}` by now: it was asked anew in attempt {attempt}; look at it before you answer")]
    Anew {
        /// The key.
        key: String,
        /// The attempt that asked last.
        attempt: u32,
    },
    /// The wait is over.
    #[error("waited for the answer to `{key}` until {until}, and it is later than that")]
    Late {
        /// The key.
        key: String,
        /// When the wait ended.
        until: Timestamp,
    },
}

/// The questions of a run, by their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Questions {
    /// The run.
    pub run_id: RunId,
    /// Its questions.
    pub questions: BTreeMap<String, Question>,
}

impl Questions {
    /// None yet.
    pub const fn none(run_id: RunId) -> Self {
        Questions { run_id, questions: BTreeMap::new() }
    }

    /// Asks. A question that was answered stays as it is. Gives the question as it is now.
    pub fn ask(&mut self, key: &str, question: Question) -> &Question {
        let asked = self.questions.entry(key.to_owned()).or_insert_with(|| question.clone());
        if asked.answer.is_none() {
            *asked = question;
        }
        asked
    }

    /// Answers, once. The same answer again changes nothing and is no fault, for the first one's confirmation may have been lost.
    ///
    /// # Errors
    /// There is no such question, it is not the one that `seen` attempt asked, it has another answer, or the wait is over.
    pub fn answer(&mut self, key: &str, seen: Option<u32>, answer: Answer) -> Result<&Answer, NotTaken> {
        let others = self.open_keys();
        let Some(asked) = self.questions.get_mut(key) else {
            return Err(NotTaken::NotAsked { key: key.to_owned(), others });
        };
        if let Some(given) = &asked.answer
            && (given.approved, &given.by, &given.note) != (answer.approved, &answer.by, &answer.note)
        {
            return Err(NotTaken::Answered { key: key.to_owned(), word: given.word(), by: given.by.clone(), at: given.at });
        }
        if asked.answer.is_none() && seen.is_some_and(|seen| seen != asked.attempt) {
            return Err(NotTaken::Anew { key: key.to_owned(), attempt: asked.attempt });
        }
        if asked.answer.is_none() && answer.at >= asked.until {
            return Err(NotTaken::Late { key: key.to_owned(), until: asked.until });
        }
        Ok(asked.answer.get_or_insert(answer))
    }

    fn open_keys(&self) -> String {
        let open = self.questions.iter().filter(|(_, asked)| asked.answer.is_none());
        let open: Vec<String> = open.map(|(key, _)| format!("`{key}`")).take(5).collect();
        if open.is_empty() { String::new() } else { format!("; it has asked under {}", open.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_seconds(second)
    }

    fn asked(questions: &mut Questions, second: i64) {
        let question = Question { question: "May I?".into(), attempt: 1, asked_at: at(second), until: at(second + 10), answer: None };
        questions.ask("k", question);
    }

    fn answer(approved: bool, by: &str, second: i64) -> Answer {
        Answer { approved, by: by.into(), note: String::new(), token: None, at: at(second) }
    }

    #[test]
    fn a_question_has_one_answer() {
        let mut questions = Questions::none(RunId::parse("run_019ab3f2c1d47000a1b2c3d4e5f60718").unwrap());
        asked(&mut questions, 0);
        let other = questions.answer("x", None, answer(true, "ana", 1)).unwrap_err().to_string();
        assert!(other.contains("`x`; it has asked under `k`"), "{other}");
        assert_eq!(questions.answer("k", None, answer(true, "ana", 1)).unwrap().at, at(1));
        // Said again, late or not, it is the same answer; another is refused.
        assert_eq!(questions.answer("k", None, answer(true, "ana", 99)).unwrap().at, at(1));
        assert!(matches!(questions.answer("k", None, answer(false, "ana", 2)), Err(NotTaken::Answered { .. })));
        assert!(matches!(questions.answer("k", None, answer(true, "bob", 2)), Err(NotTaken::Answered { .. })));
        asked(&mut questions, 50);
        assert!(questions.questions["k"].answer.is_some(), "an answered question is not asked again");
    }

    #[test]
    fn an_answer_after_the_wait_is_late_unless_it_was_asked_again() {
        let mut questions = Questions::none(RunId::parse("run_019ab3f2c1d47000a1b2c3d4e5f60718").unwrap());
        asked(&mut questions, 0);
        assert!(matches!(questions.answer("k", None, answer(true, "ana", 10)), Err(NotTaken::Late { .. })));
        asked(&mut questions, 20);
        assert!(matches!(questions.answer("k", Some(2), answer(false, "ana", 29)), Err(NotTaken::Anew { attempt: 1, .. })));
        assert!(questions.answer("k", Some(1), answer(false, "ana", 29)).is_ok());
    }
}
