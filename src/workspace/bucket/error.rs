//! What can go wrong with a bucket, in sentences for the user. None holds a key, a secret or a signature.

use crate::workspace::WorkspaceError;

/// Why something in a bucket could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// It does not answer, or not in time. Asking again may help.
    #[error("the bucket {bucket} cannot be reached now: {why}; look at `workspace.endpoint` and at the network")]
    Unavailable {
        /// The bucket as `s3://NAME/PREFIX`.
        bucket: String,
        /// What the client says.
        why: String,
    },
    /// It answers and does not do it. Somebody has to mend something first.
    #[error(
        "the bucket {bucket} refuses: {why}; look at its name, at `workspace.region`, and whether the credentials may read, write, list and \
         delete below its prefix"
    )]
    Refused {
        /// The bucket.
        bucket: String,
        /// What it says.
        why: String,
    },
    /// An object that a manifest names is not there.
    #[error("the object `{key}` is missing in the bucket {bucket}: restore it from a copy of the bucket, or start the run anew")]
    Missing {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
    },
    /// An object is not what was uploaded.
    #[error(
        "the object `{key}` of the bucket {bucket} is not what was uploaded ({why}): restore it from a copy of the bucket, or start the run anew"
    )]
    Corrupt {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
        /// How it differs.
        why: String,
    },
    /// The settings make no client.
    #[error("the bucket {bucket} cannot be used: {why}; mend `[workspace]` in the configuration")]
    Invalid {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        why: String,
    },
    /// The directory on this machine.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

impl BucketError {
    /// Whether it may go away by itself or by somebody's mending it, so that asking again makes sense.
    pub fn is_transient(&self) -> bool {
        matches!(self, BucketError::Unavailable { .. } | BucketError::Refused { .. })
    }

    /// Whether the attempt that asked may do no more.
    pub fn is_stop(&self) -> bool {
        matches!(self, BucketError::Workspace(WorkspaceError::Stopped { .. }))
    }
}
