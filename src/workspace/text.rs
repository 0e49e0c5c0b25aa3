//! Text from guests, made safe to show on a terminal.

/// The text with every character escaped that could steer a terminal or reorder what is read: control characters but for newline and
/// tab, the marks that change the direction of writing, and the line and paragraph separators.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_harmful(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn plain_text_of_every_script_stays_as_it_is() {
        let text = "two\nlines\tand a tab, naïve 日本語 עברית \\ \u{1f468}\u{200d}\u{1f469}";
        assert_eq!(printable(text), text);
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(printable("\u{1b}[2J\u{7}\r\0\u{7f}"), "\\u{1b}[2J\\u{7}\\r\\u{0}\\u{7f}");
        assert_eq!(printable("\u{9b}31m\u{85}"), "\\u{9b}31m\\u{85}");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{200f}d\u{2028}"), "a\\u{202e}b\\u{2066}c\\u{200f}d\\u{2028}");
    }
}
