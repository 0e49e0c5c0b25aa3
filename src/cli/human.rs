//! Texts for people: ages, spans, sizes, times where the reader is, and the width that a terminal gives to a text.

use std::time::Duration;

use chrono::Local;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

pub use crate::workspace::printable;

use crate::domain::time::Timestamp;

/// How long ago, or how far ahead, an instant is: `3m ago`, `in 2h`.
pub fn age(at: Timestamp, now: Timestamp) -> String {
    match (now.since(at), at.since(now)) {
        (ago, ahead) if ago < Duration::from_secs(1) && ahead < Duration::from_secs(1) => "now".to_owned(),
        (ago, ahead) if ahead.is_zero() => format!("{} ago", coarse(ago)),
        (_, ahead) => format!("in {}", coarse(ahead)),
    }
}

/// The largest unit of a span only.
fn coarse(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long something took: `12ms`, `1.5s`, `2m05s`, `3h07m`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{:.1}s", span.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number of bytes: `812 B`, `1.2 KiB`, `3.4 MiB`.
pub fn bytes(count: u64) -> String {
    let mut size = count;
    let mut rest = 0;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if size < 1024 || unit == "TiB" {
            return if unit == "B" { format!("{size} B") } else { format!("{size}.{} {unit}", rest * 10 / 1024) };
        }
        rest = size % 1024;
        size /= 1024;
    }
    format!("{count} B")
}

/// An instant on the reader's clock, to the second.
pub fn local(at: Timestamp) -> String {
    at.to_datetime().with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A text in one line that cannot steer a terminal; runs of blanks become one.
pub fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    printable(&words.join(" "))
}

/// A text as it is, but on one line and unable to steer a terminal.
pub fn escaped(text: &str) -> String {
    printable(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// A text cut to a number of columns, with `…` where something is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut taken = 0;
    let mut short: String = text
        .chars()
        .take_while(|character| {
            taken += character.width().unwrap_or(0);
            taken < columns
        })
        .collect();
    short.push('…');
    short
}

/// JSON in which every character that could steer a terminal is written as an escape; its value is the same.
pub fn safe_json(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for character in raw.chars() {
        // What is below 0x20 stands between values only, as a blank.
        let is_plain = (' '..='~').contains(&character) || matches!(character, '\n' | '\r' | '\t');
        let mut buffer = [0; 4];
        let text: &str = character.encode_utf8(&mut buffer);
        if is_plain || printable(text) == text { safe.push(character) } else { safe.push_str(&format!("\\u{:04x}", u32::from(character))) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_name_the_largest_unit() {
        let now = Timestamp::from_seconds(1_000_000);
        for (seconds, told) in [(0, "now"), (5, "5s ago"), (185, "3m ago"), (7_200, "2h ago"), (172_800, "2d ago"), (-90, "in 1m")] {
            assert_eq!(age(Timestamp::from_seconds(1_000_000 - seconds), now), told);
        }
    }

    #[test]
    fn spans_and_sizes_are_short() {
        for (millis, told) in [(12, "12ms"), (1_500, "1.5s"), (125_000, "2m05s"), (11_220_000, "3h07m")] {
            assert_eq!(span(Duration::from_millis(millis)), told);
        }
        for (count, told) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (u64::MAX, "16777215.9 TiB")] {
            assert_eq!(bytes(count), told);
        }
    }

    #[test]
    fn a_cut_text_fits_and_wide_characters_count_double() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本語の", 6), "日本…");
        for columns in 0..8 {
            assert!(width(&cut("日本語の", columns)) <= columns.max(1), "{columns}");
        }
    }

    #[test]
    fn json_keeps_its_value_and_loses_what_steers() {
        let raw = "{\"a\":\"x\u{9b}2J\u{202e}y\u{7f}\u{e9}\"}\n";
        let safe = safe_json(raw);
        assert!(safe.chars().all(|character| character == '\n' || !character.is_control()), "{safe:?}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&safe), value(raw));
        assert!(safe.contains('\u{e9}') && safe.contains("\\u009b") && safe.contains("\\u202e"), "{safe}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_in_json_keeps_its_value_and_loses_what_steers(text in proptest::prelude::any::<String>(), astral in 0x10000u32..0x110000) {
            let text = format!("{text}{}", char::from_u32(astral).unwrap_or_default());
            let raw = serde_json::to_string(&text).unwrap();
            let safe = safe_json(&raw);
            proptest::prop_assert_eq!(printable(&safe), safe.clone());
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }

        #[test]
        fn any_text_is_cut_to_its_columns(text in proptest::prelude::any::<String>(), columns in 1usize..40) {
            proptest::prop_assert!(width(&cut(&one_line(&text), columns)) <= columns);
            proptest::prop_assert!(!one_line(&text).contains('\n') && !escaped(&text).contains('\n'));
        }
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(escaped("a  b\n\tc\u{1b}"), "a  b\\n\\tc\\u{1b}");
        assert_eq!(one_line(" a\n\tb \u{1b}[2J\r\n"), "a b \\u{1b}[2J");
    }
}
