//! Texts that are not ours, held to a length.

/// Cuts a text at a character's boundary so that it has at most so many bytes, `mark` included, which then stands at its end.
pub fn bounded(mut text: String, bytes: usize, mark: &str) -> String {
    if text.len() > bytes {
        let mut end = bytes.saturating_sub(mark.len());
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        text.truncate(end);
        text.push_str(mark);
    }
    text
}

/// At most so many characters of a text, those that would steer a terminal or break a line escaped.
pub fn printable(text: &str, characters: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(characters));
    for given in text.chars().take(characters) {
        if given.is_control() { shown.extend(given.escape_debug()) } else { shown.push(given) }
    }
    shown
}
