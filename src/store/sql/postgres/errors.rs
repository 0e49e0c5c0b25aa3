//! What the server's errors mean.
//!
//! Invariant: no message has a user's name, a password or a URL in it.
//!
//! How it fails: an error that is not known here is taken for one that passes.

use std::time::Duration;

use super::super::super::StoreError;
use super::super::super::server::unproven;

/// How a call to the server failed.
#[derive(Debug)]
pub enum Failure {
    /// The server or the way to it.
    Server(sqlx::Error),
    /// What was asked or found.
    Store(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Failure::Server(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl Failure {
    fn state(&self) -> Option<String> {
        match self {
            Failure::Server(error) => state(error),
            Failure::Store(_) => None,
        }
    }

    /// Whether the same again, read anew, may go through: somebody else was faster to a name, or two waited for each other.
    pub fn is_conflict(&self) -> bool {
        matches!(self.state().as_deref(), Some("23505" | "40001" | "40P01"))
    }

    /// Whether the connection is of no use any more.
    pub fn is_broken(&self) -> bool {
        match self {
            Failure::Server(sqlx::Error::Database(_)) => {
                self.state().is_some_and(|state| state.starts_with("08") || state.starts_with("57P") || state == "25P03")
            }
            Failure::Server(error) => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_)),
            Failure::Store(_) => false,
        }
    }
}

fn state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|database| database.code()).map(|code| code.into_owned())
}

/// Where the server is, as messages name it.
#[derive(Clone, Debug)]
pub struct Address(pub String);

impl Address {
    /// What a failure means.
    pub fn failed(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Store(error) => error,
            Failure::Server(error) => match state(&error) {
                Some(state) => self.answered(&state, error.as_database_error().map(|database| database.message()).unwrap_or_default()),
                None => self.unheard(&error),
            },
        }
    }

    /// The server did not answer in time.
    pub fn silent(&self, bound: Duration) -> StoreError {
        StoreError::Unavailable(format!("{} did not answer within {} s", self.0, bound.as_secs()))
    }

    /// The server answered with an error.
    fn answered(&self, state: &str, said: &str) -> StoreError {
        let at = &self.0;
        match state {
            "53100" => StoreError::Full(format!("{at}: {said}")),
            _ if state.starts_with("28") => {
                StoreError::Invalid(format!("{at} does not accept the user or the password; correct them in the store's URL"))
            }
            "3D000" => StoreError::Invalid(format!("{at} does not exist; create the database, or correct its name in the store's URL")),
            "3F000" => StoreError::Invalid(format!("{at}: the schema does not exist; start sandclock once as a user that may create it")),
            "42P07" | "42710" => {
                StoreError::Invalid(format!("{at}: {said}: the schema has tables of another program; give the store another one"))
            }
            "42501" => StoreError::Invalid(format!("{at}: {said}; grant it to the user of the store's URL")),
            _ if state.starts_with("22") || state.starts_with("54") => StoreError::Invalid(format!("{at}: {said}")),
            "23505" => StoreError::Unavailable(format!("{at}: others were faster too often: {said} ({state})")),
            _ if state.starts_with("42") || state.starts_with("XX") || state.starts_with("23") => {
                StoreError::Corrupt(format!("{at}: {said} ({state})"))
            }
            _ => StoreError::Unavailable(format!("{at}: {said} ({state})")),
        }
    }

    /// Nothing that can be understood came from the server.
    fn unheard(&self, error: &sqlx::Error) -> StoreError {
        let at = &self.0;
        match error {
            sqlx::Error::Tls(why) => StoreError::Invalid(format!(
                "{at} cannot be spoken to over TLS: {why}; see to the server's certificate, or set sslmode and sslrootcert in the store's URL"
            )),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => StoreError::Corrupt(format!("{at}: {error}")),
            sqlx::Error::Io(why) => StoreError::Unavailable(match unproven(&why.to_string(), "sslrootcert") {
                Some(unproven) => format!("{at} {unproven}"),
                None => format!("{at} cannot be reached: {why}"),
            }),
            _ => StoreError::Unavailable(format!("{at}: {error}")),
        }
    }
}
