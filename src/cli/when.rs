//! A schedule as people write it: `manual`, `every 90s`, `cron "*/5 * * * *"`, `once 2026-12-24T18:00`; and a moment of the past.
//!
//! Only the words are read here; whether a schedule is valid is the daemon's to judge.

use std::time::Duration;

use serde_json::{Number, Value, json};

use crate::domain::time::{Seconds, Timestamp};

const FORMS: &str = "write `manual`, `every 90s`, `cron \"*/5 * * * *\"` or `once 2026-12-24T18:00:00`";

/// Reads a schedule as the API takes it, without its zone and window.
///
/// # Errors
/// A sentence that lists the forms.
pub fn schedule(text: &str) -> Result<Value, String> {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match (word, rest.is_empty()) {
        ("manual", true) => Ok(json!({"type": "manual"})),
        ("every" | "interval", false) => Ok(json!({"type": "interval", "seconds": span(rest)?})),
        ("cron", false) => Ok(json!({"type": "cron", "expression": unquoted(rest)})),
        ("once" | "at", false) => Ok(json!({"type": "once", "run_at": unquoted(rest)})),
        (alias, true) if alias.starts_with('@') => Ok(json!({"type": "cron", "expression": alias})),
        _ => Err(format!("this is no schedule: {FORMS}")),
    }
}

/// A moment that is told as a time, or as how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// That time.
    At(Timestamp),
    /// So long before the present.
    Ago(Duration),
}

impl Moment {
    /// The time that is meant at a present.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::At(at) => at,
            Moment::Ago(ago) => now - ago,
        }
    }
}

/// Reads a moment: `2h`, `30m ago`, or a time with its offset.
///
/// # Errors
/// A sentence that says what would be right.
pub fn moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    if let Ok(at) = Timestamp::parse(text) {
        return Ok(Moment::At(at));
    }
    let ago = span(text.strip_suffix("ago").unwrap_or(text).trim()).ok();
    let ago = ago.and_then(|seconds| Seconds::from_f64(seconds.as_f64()?));
    ago.map(|ago| Moment::Ago(ago.duration()))
        .ok_or_else(|| "write how long ago it was, as in `2h` or `30m`, or a time with its offset, as in `2026-11-22T05:00:00Z`".to_owned())
}

fn unquoted(text: &str) -> &str {
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(text).trim()
}

/// A span such as `90`, `90s`, `1.5h` or `1h30m`, in seconds.
fn span(text: &str) -> Result<Number, String> {
    let wrong = || "this is no span: write seconds, or numbers with ms, s, m, h or d, as in `90s` or `1h30m`".to_owned();
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters).ok_or_else(wrong)?;
        let factor = match unit {
            "ms" => 0.001,
            "" | "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = after.trim_start();
    }
    // Whole seconds are told as such; what is beyond a double's whole numbers is no span.
    let number = if seconds.fract() == 0.0 && seconds < 9e15 { Some(Number::from(seconds as u64)) } else { Number::from_f64(seconds) };
    number.filter(|_| seconds > 0.0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_becomes_its_schedule() {
        for (text, expected) in [
            ("manual", json!({"type": "manual"})),
            ("every 60s", json!({"type": "interval", "seconds": 60})),
            ("every 1h30m", json!({"type": "interval", "seconds": 5400})),
            ("every 250ms", json!({"type": "interval", "seconds": 0.25})),
            ("every 90", json!({"type": "interval", "seconds": 90})),
            ("cron \"*/5 * * * *\"", json!({"type": "cron", "expression": "*/5 * * * *"})),
            ("cron 0 9 * * MON", json!({"type": "cron", "expression": "0 9 * * MON"})),
            ("@hourly", json!({"type": "cron", "expression": "@hourly"})),
            (" once 2026-12-24T18:00:00 ", json!({"type": "once", "run_at": "2026-12-24T18:00:00"})),
        ] {
            assert_eq!(schedule(text).unwrap(), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_a_schedule_or_a_sentence(
            text in proptest::prop_oneof!["[ -~]{0,20}", "(every|interval|cron|once|at) [0-9.]{0,8}(ms|s|m|h|d|)[ -~é]{0,6}", proptest::prelude::any::<String>()],
        ) {
            match schedule(&text) {
                Ok(schedule) => proptest::prop_assert!(schedule["seconds"].as_f64().is_none_or(|seconds| seconds > 0.0), "{}", schedule),
                Err(sentence) => proptest::prop_assert!(!sentence.chars().any(char::is_control), "{}", sentence),
            }
        }

        #[test]
        fn a_span_in_parts_is_their_sum(hours in 0u32..100, minutes in 0u32..100, seconds in 1u32..100, blank in "[ ]{0,2}") {
            let told = schedule(&format!("every {hours}h{blank}{minutes}m{blank}{seconds}s")).unwrap();
            proptest::prop_assert_eq!(told["seconds"].as_u64(), Some(u64::from(hours * 3600 + minutes * 60 + seconds)));
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let now = Timestamp::from_seconds(1_000_000);
        for (text, seconds) in
            [("2h", 992_800), ("30m ago", 998_200), ("1970-01-02T00:00:00Z", 86_400), ("1970-01-02T01:00:00+01:00", 86_400)]
        {
            assert_eq!(moment(text).unwrap().from(now), Timestamp::from_seconds(seconds), "{text}");
        }
        for text in ["", "yesterday", "-2h", "1970-01-02T00:00:00", "ago", "1e9d", "99999999999d"] {
            assert!(moment(text).unwrap_err().contains("how long ago"), "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_told_the_forms() {
        for text in ["", "manual 5", "every", "hourly", "*/5 * * * *", "cron", "once"] {
            assert!(schedule(text).unwrap_err().contains("every 90s"), "{text}");
        }
        for text in ["every 0s", "every 5 parsecs", "every -1s", "every 1..5s", "every s", "every é", "every 1é"] {
            assert!(schedule(text).unwrap_err().contains("1h30m"), "{text}");
        }
    }
}
