//! What the driver's errors mean, and how they are told: whose they are, where that is, and what to do, never a password.

use std::fmt;

use ::mongodb::error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

use super::super::StoreError;
use super::super::server::unproven;
use crate::domain::text::printable;

/// What is repeated of the server's words, in characters.
const SAID_CHARS: usize = 400;

/// Somebody else has put a record of that name.
pub const DUPLICATE_KEY: i32 = 11000;
/// Somebody else writes the same document.
const WRITE_CONFLICT: i32 = 112;
/// The disk is full, or the quota is.
const NO_ROOM: [i32; 2] = [14031, 12501];
/// The password is wrong, the user may not, or the mechanism is not known.
const NOT_ALLOWED: [i32; 4] = [13, 18, 33, 8000];
/// What is asked for cannot be written in a document.
const TOO_LARGE: [i32; 2] = [10334, 17419];

/// Which server it is, for whoever reads of it.
pub struct Server {
    address: String,
}

/// Why a statement of a transaction did not do.
pub enum Trouble {
    /// It met another one, or its connection broke: the transaction may be begun anew.
    Met(StoreError),
    /// It is no use.
    Failed(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Failed(error)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MongoDB at {}", self.address)
    }
}

impl Server {
    /// The server at this address, which names no user.
    pub fn new(address: String) -> Self {
        Server { address }
    }

    /// It cannot be used now.
    pub fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("{self}: {what}; see that the replica set has a primary and can be reached"))
    }

    /// Its collections are not what was made there.
    pub fn gone(&self) -> StoreError {
        StoreError::Corrupt(format!("{self} has lost the collections of the store; restore the database from a copy"))
    }

    /// A statement's number and words.
    pub fn told(&self, code: i32, said: &str) -> StoreError {
        let said = printable(said, SAID_CHARS);
        if NO_ROOM.contains(&code) {
            StoreError::Full(format!("{self}: {said}"))
        } else if TOO_LARGE.contains(&code) {
            StoreError::Invalid(format!("{self}: {said}"))
        } else if NOT_ALLOWED.contains(&code) {
            StoreError::Invalid(format!("{self}: {said}; see the user, its password and its role, which needs readWrite on the database"))
        } else {
            self.unavailable(&said)
        }
    }

    /// What an error of the driver means.
    pub fn failed(&self, error: &Error) -> StoreError {
        if let Some((code, said)) = of_server(error) {
            return self.told(code, &said);
        }
        let said = printable(&error.kind.to_string(), SAID_CHARS);
        match &*error.kind {
            ErrorKind::Bson(_) | ErrorKind::InvalidResponse { .. } => StoreError::Corrupt(format!("{self}: {said}")),
            ErrorKind::Authentication { .. } if is_outage(error) => self.unavailable(&said),
            ErrorKind::Authentication { .. } => StoreError::Invalid(format!("{self}: {said}; see the user and the password in its URL")),
            ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } | ErrorKind::IncompatibleServer { .. } => {
                StoreError::Invalid(format!("{self}: {said}"))
            }
            ErrorKind::Shutdown => StoreError::Unavailable("it has been closed".to_owned()),
            _ => match unproven(&said, "tlsCAFile") {
                Some(unproven) => StoreError::Unavailable(format!("{self} {unproven}")),
                None => self.unavailable(&said),
            },
        }
    }

    /// What an error of a statement within a transaction means.
    pub fn trouble(&self, error: &Error) -> Trouble {
        let met = of_server(error).is_some_and(|(code, _)| is_met(code));
        let is_unreachable = matches!(*error.kind, ErrorKind::ServerSelection { .. });
        if met || (error.contains_label(TRANSIENT_TRANSACTION_ERROR) && !is_unreachable) {
            Trouble::Met(self.failed(error))
        } else {
            Trouble::Failed(self.failed(error))
        }
    }
}

/// Whether that number says that a transaction met another.
pub fn is_met(code: i32) -> bool {
    code == DUPLICATE_KEY || code == WRITE_CONFLICT
}

/// Whether the handshake broke off for want of a server, not of a right.
fn is_outage(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    source.is_some_and(|source| matches!(*source.kind, ErrorKind::Io(_) | ErrorKind::ServerSelection { .. }))
}

/// The number and the words of an error that the server told.
fn of_server(error: &Error) -> Option<(i32, String)> {
    match &*error.kind {
        ErrorKind::Command(command) => Some((command.code, format!("{} ({})", command.message, command.code_name))),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some((write.code, write.message.clone())),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some((concern.code, concern.message.clone())),
        ErrorKind::InsertMany(many) => {
            let write = many.write_errors.iter().flatten().next().map(|write| (write.code, write.message.clone()));
            write.or_else(|| many.write_concern_error.as_ref().map(|concern| (concern.code, concern.message.clone())))
        }
        _ => None,
    }
}

/// The number of an error that the server told.
pub fn code(error: &Error) -> Option<i32> {
    of_server(error).map(|(code, _)| code)
}
