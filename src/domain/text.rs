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
