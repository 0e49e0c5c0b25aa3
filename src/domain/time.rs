//! Points in time and spans of it, as records carry them.
//!
//! Invariant: a [`Timestamp`] has microsecond precision everywhere, so that a value survives every store unchanged.
//! Nothing here reads a clock; the present is always an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant in UTC, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that a record can carry (year 0001).
    pub const MIN: Timestamp = Timestamp(-62_135_596_800_000_000);
    /// The latest instant that a record can carry (year 9999).
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999_999);

    /// From microseconds since the Unix epoch, held within [`Timestamp::MIN`] and [`Timestamp::MAX`].
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Timestamp(micros)
        }
    }

    /// From whole seconds since the Unix epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self::from_micros(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The same instant for calendar arithmetic.
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// From a calendar instant; what is finer than a microsecond is cut off.
    pub fn from_datetime(at: DateTime<Utc>) -> Self {
        Self::from_micros(at.timestamp_micros())
    }

    /// Parses RFC 3339, which requires an offset.
    ///
    /// # Errors
    /// The text is not RFC 3339.
    pub fn parse(text: &str) -> Result<Self, chrono::ParseError> {
        DateTime::parse_from_rfc3339(text).map(|at| Self::from_datetime(at.with_timezone(&Utc)))
    }

    /// The time from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The event payloads' form of the instant, with `+00:00` where records say `Z`.
    pub fn with_numeric_offset(self) -> String {
        format!("{}+00:00", self.without_offset().as_str())
    }

    /// RFC 3339 with microseconds, up to where the offset stands. Every record has several of these: the digits are set in place.
    fn without_offset(self) -> Text<26> {
        let at = self.to_datetime();
        let mut text = Text::new(*b"0000-00-00T00:00:00.000000");
        text.set(0, 4, u32::try_from(at.year()).unwrap_or(0));
        text.set(5, 2, at.month());
        text.set(8, 2, at.day());
        text.set(11, 2, at.hour());
        text.set(14, 2, at.minute());
        text.set(17, 2, at.second());
        text.set(20, 6, at.timestamp_subsec_micros());
        text
    }

    fn in_utc(self) -> Text<27> {
        let mut text = Text::new(*b"0000-00-00T00:00:00.000000Z");
        text.bytes.iter_mut().zip(self.without_offset().bytes).for_each(|(to, from)| *to = from);
        text
    }
}

/// ASCII of a fixed length.
struct Text<const N: usize> {
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    fn new(bytes: [u8; N]) -> Self {
        Text { bytes }
    }

    /// Writes a number's last `digits` digits from `at` on.
    fn set(&mut self, at: usize, digits: usize, mut number: u32) {
        for place in self.bytes.iter_mut().skip(at).take(digits).rev() {
            *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Duration) -> Timestamp {
        Self::from_micros(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, span: Duration) -> Timestamp {
        Self::from_micros(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.in_utc().as_str())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.in_utc().as_str())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|_| de::Error::custom(format!("`{text}` is not an RFC 3339 time such as 2026-11-22T05:00:00Z")))
    }
}

/// A span given in seconds, fractions allowed. It is finite, not negative and at most [`Seconds::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(Duration);

impl Seconds {
    /// The longest span that a setting may give: a hundred years.
    pub const MAX: Seconds = Seconds(Duration::from_secs(100 * 366 * 86_400));

    /// From a count of whole seconds, held at [`Seconds::MAX`].
    pub const fn whole(seconds: u64) -> Self {
        if seconds > Self::MAX.0.as_secs() { Self::MAX } else { Seconds(Duration::from_secs(seconds)) }
    }

    /// From seconds with a fraction; none where it is not finite, negative or past [`Seconds::MAX`].
    pub fn from_f64(seconds: f64) -> Option<Self> {
        let span = Duration::try_from_secs_f64(seconds).ok()?;
        // Microseconds are all that a record keeps of an instant, so a span keeps no more. The nearest one, not the one below: a long
        // span that is written as a number would lose one each time it is read.
        let span = Duration::from_micros(u64::try_from(span.as_nanos().saturating_add(500) / 1000).ok()?);
        (span <= Self::MAX.0).then_some(Seconds(span))
    }

    /// From a span, held at [`Seconds::MAX`] and cut to microseconds.
    pub fn from_duration(span: Duration) -> Self {
        let span = span.min(Self::MAX.0);
        Seconds(Duration::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The span.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether the span is nothing at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_micros() == 0 { write!(out, "{} s", self.0.as_secs()) } else { write!(out, "{} s", self.0.as_secs_f64()) }
    }
}

impl Serialize for Seconds {
    /// A whole number where it is one, as the seed's scripts expect.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_micros() == 0 {
            serializer.serialize_u64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Self::from_f64(seconds)
            .ok_or_else(|| de::Error::custom(format!("{seconds} is not a number of seconds between 0 and a hundred years")))
    }
}
