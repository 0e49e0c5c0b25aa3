//! Finds what an answer says of models in JSON that comes in pieces.
//!
//! Invariant: whatever comes, the state is as large as it was, and every byte is looked at once: of what is no member that matters only its
//! end is looked for. What is no JSON gives nothing, or what it says.

/// The longest name of a model, in bytes as they stand in the JSON.
const LONGEST_TEXT: usize = 128;
/// More tokens than any call can have used.
const MOST_TOKENS: u64 = 1 << 40;

/// What was said, each number the largest that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `prompt_tokens` or `input_tokens`.
    pub input: Option<u64>,
    /// `completion_tokens` or `output_tokens`.
    pub output: Option<u64>,
    /// `total_tokens`.
    pub total: Option<u64>,
    /// `cached_tokens` of the details, a part of the input.
    pub cached: Option<u64>,
    /// `cache_read_input_tokens`, which stand beside the input.
    pub cache_read: Option<u64>,
    /// `cache_creation_input_tokens`, which stand beside the input.
    pub cache_made: Option<u64>,
}

/// A member that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Other,
    Wrap,
    Usage,
    Details,
    Model,
    Type,
    Input,
    Output,
    Total,
    Cached,
    CacheRead,
    CacheMade,
}

/// An object that holds members that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Top,
    /// `response` or `message`, in which streams wrap an answer.
    Wrap,
    Usage,
    Details,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    None,
    Text { is_escaped: bool, is_kept: bool },
    Number,
}

/// The scanner of one stream of JSON values.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// The open objects that matter, outermost first.
    open: [Place; 4],
    depth: usize,
    /// Open objects and lists below these, which do not.
    below: u64,
    /// Whether the next text is a member's name.
    is_key: bool,
    key: Key,
    token: Token,
    text: [u8; LONGEST_TEXT],
    length: usize,
    is_too_long: bool,
    is_complete: bool,
    is_last: bool,
    said: Said,
    model: Option<String>,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            open: [Place::Top; 4],
            depth: 0,
            below: 0,
            is_key: false,
            key: Key::Other,
            token: Token::None,
            text: [0; LONGEST_TEXT],
            length: 0,
            is_too_long: false,
            is_complete: false,
            is_last: false,
            said: Said::default(),
            model: None,
        }
    }
}

impl Scanner {
    /// What was said so far.
    pub fn said(&self) -> Said {
        self.said
    }

    /// The model that was named last.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether a value has ended.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether a value said that it is the last of its stream.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Takes what follows for a new value, whatever was open. What was said stays.
    pub fn restart(&mut self) {
        (self.depth, self.below, self.is_key, self.key) = (0, 0, false, Key::Other);
        (self.token, self.is_complete) = (Token::None, false);
    }

    /// Reads on.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            bytes = match self.token {
                Token::Text { is_escaped: false, is_kept: false } => self.skip(bytes),
                Token::Text { is_escaped, is_kept } => {
                    self.text(*byte, is_escaped, is_kept);
                    rest
                }
                Token::Number if is_number(*byte) => {
                    self.keep(*byte);
                    rest
                }
                Token::Number => {
                    self.end_number();
                    bytes
                }
                Token::None => {
                    self.begin(*byte);
                    rest
                }
            };
        }
    }

    /// Goes to the end of a text that does not matter.
    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(at) = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')) else { return &[] };
        let end = bytes.get(at) == Some(&b'"');
        self.token = if end { Token::None } else { Token::Text { is_escaped: true, is_kept: false } };
        bytes.get(at + 1..).unwrap_or_default()
    }

    fn keep(&mut self, byte: u8) {
        match self.text.get_mut(self.length) {
            Some(slot) => {
                *slot = byte;
                self.length += 1;
            }
            None => self.is_too_long = true,
        }
    }

    fn text(&mut self, byte: u8, is_escaped: bool, is_kept: bool) {
        if byte == b'"' && !is_escaped {
            self.token = Token::None;
            self.end_text();
            return;
        }
        if is_kept {
            self.keep(byte);
        }
        self.token = Token::Text { is_escaped: !is_escaped && byte == b'\\', is_kept };
    }

    fn place(&self) -> Option<Place> {
        self.depth.checked_sub(1).and_then(|last| self.open.get(last)).copied()
    }

    /// Whether the next value is a member's of an object that matters.
    fn is_member(&self) -> bool {
        self.below == 0 && self.depth > 0
    }

    fn begin(&mut self, byte: u8) {
        match byte {
            b'"' => {
                (self.length, self.is_too_long) = (0, false);
                let is_kept = self.is_member() && (self.is_key || matches!(self.key, Key::Model | Key::Type));
                self.token = Token::Text { is_escaped: false, is_kept };
            }
            b'{' => self.enter(),
            b'[' => self.below = self.below.saturating_add(1),
            b'}' | b']' => self.leave(),
            b',' if self.is_member() => (self.is_key, self.key) = (true, Key::Other),
            b':' if self.is_member() => self.is_key = false,
            _ if is_number(byte) && self.is_member() && !self.is_key && self.key.is_number() => {
                (self.length, self.is_too_long) = (0, false);
                self.token = Token::Number;
                self.keep(byte);
            }
            _ => {}
        }
    }

    fn enter(&mut self) {
        let place = match (self.place(), self.key) {
            _ if self.below > 0 => None,
            (None, _) => Some(Place::Top),
            _ if self.is_key => None,
            (Some(Place::Top), Key::Wrap) => Some(Place::Wrap),
            (Some(Place::Top | Place::Wrap), Key::Usage) => Some(Place::Usage),
            (Some(Place::Usage), Key::Details) => Some(Place::Details),
            _ => None,
        };
        match (place, self.open.get_mut(self.depth)) {
            (Some(place), Some(slot)) => {
                *slot = place;
                self.depth += 1;
                (self.is_key, self.key) = (true, Key::Other);
            }
            _ => self.below = self.below.saturating_add(1),
        }
    }

    fn leave(&mut self) {
        if self.below > 0 {
            self.below -= 1;
        } else {
            self.depth = self.depth.saturating_sub(1);
        }
        (self.is_key, self.key) = (false, Key::Other);
        if self.below == 0 && self.depth == 0 {
            self.is_complete = true;
        }
    }

    fn kept(&self) -> Option<&[u8]> {
        (!self.is_too_long).then(|| self.text.get(..self.length)).flatten()
    }

    fn end_text(&mut self) {
        if !self.is_member() {
            return;
        }
        if self.is_key {
            self.key = match (self.kept(), self.place()) {
                (Some(name), Some(place)) => Key::of(name, place),
                _ => Key::Other,
            };
            return;
        }
        let read = |kept: &[u8]| serde_json::from_slice::<String>(&[b"\"", kept, b"\""].concat()).ok();
        let Some(text) = self.kept().and_then(read).filter(|text| !text.is_empty()) else { return };
        match self.key {
            Key::Model => self.model = Some(text),
            _ => self.is_last |= matches!(&*text, "response.completed" | "response.incomplete" | "response.failed" | "message_stop"),
        }
    }

    fn end_number(&mut self) {
        self.token = Token::None;
        let Some(number) = self.kept().and_then(tokens) else { return };
        let said = &mut self.said;
        let slot = match self.key {
            Key::Input => &mut said.input,
            Key::Output => &mut said.output,
            Key::Total => &mut said.total,
            Key::Cached => &mut said.cached,
            Key::CacheRead => &mut said.cache_read,
            Key::CacheMade => &mut said.cache_made,
            Key::Other | Key::Wrap | Key::Usage | Key::Details | Key::Model | Key::Type => return,
        };
        // Streams that say it again and again count on.
        *slot = (*slot).max(Some(number));
    }
}

impl Key {
    fn of(name: &[u8], place: Place) -> Key {
        match (place, name) {
            (Place::Top, b"response" | b"message") => Key::Wrap,
            (Place::Top, b"type") => Key::Type,
            (Place::Top | Place::Wrap, b"usage") => Key::Usage,
            (Place::Top | Place::Wrap, b"model") => Key::Model,
            (Place::Usage, b"prompt_tokens" | b"input_tokens") => Key::Input,
            (Place::Usage, b"completion_tokens" | b"output_tokens") => Key::Output,
            (Place::Usage, b"total_tokens") => Key::Total,
            (Place::Usage, b"cache_read_input_tokens") => Key::CacheRead,
            (Place::Usage, b"cache_creation_input_tokens") => Key::CacheMade,
            (Place::Usage, b"prompt_tokens_details" | b"input_tokens_details") => Key::Details,
            (Place::Details, b"cached_tokens") => Key::Cached,
            _ => Key::Other,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Key::Input | Key::Output | Key::Total | Key::Cached | Key::CacheRead | Key::CacheMade)
    }
}

fn is_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

/// A whole number of tokens, at most [`MOST_TOKENS`].
fn tokens(text: &[u8]) -> Option<u64> {
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let is_whole = number >= 0.0 && (number.fract() == 0.0 || number.is_infinite());
    is_whole.then_some(if number >= MOST_TOKENS as f64 { MOST_TOKENS } else { number as u64 })
}
