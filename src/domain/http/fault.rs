//! How a call fails for the guest.

/// Why there is no answer, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpFault {
    /// It was refused.
    #[error("the request was refused")]
    Denied,
    /// The attempt has sent as many bytes as it may.
    #[error("the request is larger than it may be")]
    RequestTooLarge,
    /// The attempt has received as many bytes as it may.
    #[error("the answer is larger than it may be")]
    ResponseTooLarge,
    /// The answer's headers are larger than any may be.
    #[error("the answer's headers are larger than they may be")]
    HeadersTooLarge,
    /// The host's name is not known.
    #[error("the host's name is not known")]
    NameUnknown,
    /// The host takes no connection.
    #[error("the host takes no connection")]
    ConnectionRefused,
    /// No connection was made in time.
    #[error("no connection was made in time")]
    ConnectTimeout,
    /// The answer did not come in time.
    #[error("the answer did not come in time")]
    Timeout,
    /// The host's certificate or its TLS is not good.
    #[error("the host's certificate or its TLS is not good")]
    Tls,
    /// The connection broke, or the host speaks no HTTP.
    #[error("the connection broke")]
    Broken,
    /// The guest gave its own request up.
    #[error("the request was given up by who made it")]
    GivenUp,
}
