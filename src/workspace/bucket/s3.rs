//! The objects of an S3-compatible bucket.
//!
//! Invariant: no message holds a credential. How it fails: a call that is not answered ends within a few minutes, by itself.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, Error, ObjectStore as _, ObjectStoreExt as _, RetryConfig};

use super::BucketOptions;
use super::objects::{ObjectError, Objects};
use crate::domain::text::printable;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one request may take, its body included; whoever asks waits less for a small one.
const REQUEST: Duration = Duration::from_secs(150);
/// How often the client repeats by itself what is worth it, and for how long.
const AGAIN: (usize, Duration) = (2, Duration::from_secs(20));
/// How much of a client's message is told, in characters.
const TOLD: usize = 300;

/// A bucket.
pub(super) struct S3 {
    store: AmazonS3,
    secrets: Vec<String>,
}

impl S3 {
    /// A client for a bucket; nothing is asked of it yet.
    pub(super) fn new(options: &BucketOptions) -> Result<S3, String> {
        crate::tls::provide();
        let client = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST).with_allow_http(options.allow_http);
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&options.name)
            .with_region(&options.region)
            .with_client_options(client)
            .with_retry(RetryConfig { backoff, max_retries: AGAIN.0, retry_timeout: AGAIN.1 });
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        for (variable, value) in &options.credentials {
            let key: AmazonS3ConfigKey =
                variable.to_ascii_lowercase().parse().map_err(|_| format!("{variable} means nothing to its client"))?;
            builder = builder.with_config(key, value);
        }
        let secrets = options.credentials.iter().map(|(_, value)| value.clone()).filter(|value| !value.is_empty()).collect();
        let mut s3 = builder.build().map(|store| S3 { store, secrets: Vec::new() }).map_err(|error| printable(&error.to_string(), TOLD))?;
        s3.secrets = secrets;
        Ok(s3)
    }

    fn fault(&self, error: &Error) -> ObjectError {
        let mut why = error.to_string();
        for secret in &self.secrets {
            why = why.replace(secret, "(hidden)");
        }
        let is_bucket = why.contains("NoSuchBucket") || why.contains("InvalidBucketName");
        let why = printable(&why.split_whitespace().collect::<Vec<_>>().join(" "), TOLD);
        match error {
            Error::NotFound { .. } if is_bucket => ObjectError::Refused("there is no such bucket".to_owned()),
            Error::NotFound { .. } => ObjectError::Missing,
            Error::PermissionDenied { .. } => ObjectError::Refused(format!("access is denied ({why})")),
            Error::Unauthenticated { .. } => ObjectError::Refused(format!("the credentials are not taken ({why})")),
            Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::UnknownConfigurationKey { .. } => ObjectError::Refused(why),
            _ if is_bucket => ObjectError::Refused("there is no such bucket".to_owned()),
            _ => ObjectError::Unavailable(why),
        }
    }
}

#[async_trait]
impl Objects for S3 {
    async fn put(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        match self.store.put(&Path::from(key), content.into()).await {
            Ok(_) => Ok(()),
            // Nothing but the bucket can be missing for what is written.
            Err(Error::NotFound { .. }) => Err(ObjectError::Refused("there is no such bucket".to_owned())),
            Err(error) => Err(self.fault(&error)),
        }
    }

    async fn get(&self, key: &str, most: u64) -> Result<Bytes, ObjectError> {
        let found = self.store.get(&Path::from(key)).await.map_err(|error| self.fault(&error))?;
        if found.meta.size > most {
            return Err(ObjectError::TooLarge);
        }
        found.bytes().await.map_err(|error| self.fault(&error))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        let listed = self.store.list(Some(&Path::from(folder))).map_ok(|meta| meta.location.to_string()).try_collect().await;
        listed.map_err(|error| self.fault(&error))
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), ObjectError> {
        let paths = stream::iter(keys.into_iter().map(|key| Ok(Path::from(key)))).boxed();
        let mut deleted = self.store.delete_stream(paths);
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.fault(&error)),
            }
        }
        Ok(())
    }
}
