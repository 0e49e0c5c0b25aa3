//! What the binary does, one file per verb.

pub mod config_check;
pub mod config_show;
pub mod init;

/// A text for a terminal, without the characters that would steer it.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] }).collect()
}
