//! The cryptography behind TLS, one provider for every client in the process.
//!
//! The HTTP client and the stores' drivers ask rustls for the process's provider and panic, or refuse, where several could be meant and
//! none was named; so whoever is about to make a client calls [`provide`] first. It cannot fail: a provider that is there already stays.

/// Names ring as the process's provider, unless one has been named.
pub fn provide() {
    // A second call finds a provider, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
