//! Reading a JSON object from outside, field by field, with every fault reported at once.
//!
//! Invariant: a reader that was given a default for a faulty field has recorded the fault, so the caller's
//! [`Faults::into_result`] cannot succeed with a made-up value in it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::text::printable;

/// What is kept of a message that repeats what was given, in characters.
const MESSAGE_CHARS: usize = 400;

/// One thing that is wrong with an input: where, and what in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path of the field, such as `schedule.seconds`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All that is wrong with an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            if at > 0 {
                out.write_str("; ")?;
            }
            if fault.field.is_empty() { write!(out, "{}", fault.message)? } else { write!(out, "{}: {}", fault.field, fault.message)? }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Faults {
    /// No faults so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// A single fault.
    pub fn one(field: &str, message: impl Into<String>) -> Self {
        let mut faults = Self::new();
        faults.add(field, message);
        faults
    }

    /// Records a fault.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { field: field.into(), message: message.into() });
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// The value when nothing is wrong.
    ///
    /// # Errors
    /// The faults when there are any.
    pub fn into_result<T>(self, value: T) -> Result<T, Faults> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// Takes the fields of one JSON object; what is left over at the end is unknown and refused.
pub struct Fields<'a> {
    path: String,
    object: Map<String, Value>,
    faults: &'a mut Faults,
}

impl<'a> Fields<'a> {
    /// Opens `value` as an object at `path`; anything else is a fault and reads as an empty object.
    pub fn open(path: &str, value: Value, faults: &'a mut Faults) -> Self {
        let object = match value {
            Value::Object(object) => object,
            other => {
                faults.add(path, format!("must be an object, not {}", kind_of(&other)));
                Map::new()
            }
        };
        Fields { path: path.to_owned(), object, faults }
    }

    /// The full path of one of this object's fields.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Records a fault of the named field.
    pub fn fault(&mut self, name: &str, message: impl Into<String>) {
        let path = self.path_of(name);
        self.faults.add(path, message);
    }

    /// Whether the field was given, null included.
    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Whether the field was given as null.
    pub fn is_null(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
    }

    /// The raw value of a field; none when it is absent or null.
    pub fn raw(&mut self, name: &str) -> Option<Value> {
        self.object.shift_remove(name).filter(|value| !value.is_null())
    }

    /// A field that may be absent or null.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.raw(name)?;
        let shown = kind_of(&value);
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                // The reader's message repeats what it was given.
                let error = printable(&error.to_string(), MESSAGE_CHARS);
                self.fault(name, if error.is_empty() { format!("{shown} does not fit") } else { error });
                None
            }
        }
    }

    /// A field that takes its default when it is absent or null.
    pub fn or_default<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        self.optional(name).unwrap_or_default()
    }

    /// A field that takes `default` when it is absent or null.
    pub fn or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// A field that must be given.
    pub fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if self.object.get(name).is_none_or(Value::is_null) {
            self.object.shift_remove(name);
            self.fault(name, "is required");
            return None;
        }
        self.optional(name)
    }

    /// Opens a nested object; none when it is absent or null, or is a fault because it is no object.
    pub fn nested(&mut self, name: &str) -> Option<Fields<'_>> {
        let value = self.raw(name)?;
        if !value.is_object() {
            self.fault(name, format!("must be an object, not {}", kind_of(&value)));
            return None;
        }
        let path = self.path_of(name);
        Some(Fields::open(&path, value, self.faults))
    }

    /// Refuses every field that was not taken.
    pub fn refuse_rest(self, known: &[&str]) {
        for name in self.object.keys() {
            let shown = shown_name(name);
            let path = if self.path.is_empty() { shown } else { format!("{}.{shown}", self.path) };
            self.faults.add(path, format!("is not a known field; known are {}", known.join(", ")));
        }
    }
}

/// A name from outside as a fault can carry it; one without characters is shown in quotes.
pub fn shown_name(name: &str) -> String {
    if name.is_empty() { "``".to_owned() } else { name.chars().take(64).flat_map(char::escape_debug).collect() }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
