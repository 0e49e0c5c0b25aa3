//! Opens the bucket that the settings name.
//!
//! How it fails: a bucket that refuses, or is not there, refuses the start; one that does not answer now is told of, and the daemon starts:
//! runs that need it wait for it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::BucketSettings;
use crate::daemon::identity::Identity;
use crate::workspace::Bucket;
use crate::workspace::bucket::{BucketError, BucketOptions};

/// How long a start waits for a bucket.
const START: Duration = Duration::from_secs(10);

/// Opens the bucket, and tries whether it can be written, read and listed.
///
/// # Errors
/// It refuses, or the settings make no client.
pub(super) async fn open(settings: &BucketSettings, identity: &Identity) -> Result<Arc<Bucket>, BucketError> {
    let bucket = Arc::new(Bucket::s3(&BucketOptions {
        name: settings.name.clone(),
        prefix: settings.prefix.clone(),
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        allow_http: settings.allow_http,
        credentials: settings.credentials.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
        patience: settings.patience.duration(),
    })?);
    match tokio::time::timeout(START, bucket.check(identity.worker().daemon())).await {
        Ok(Ok(())) => tracing::info!(bucket = bucket.shown(), "the bucket for workspaces is there"),
        Ok(Err(error @ BucketError::Unavailable { .. })) => {
            tracing::warn!(%error, "the bucket for workspaces is not there yet; runs that need it wait for it");
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            tracing::warn!(bucket = bucket.shown(), "the bucket for workspaces does not answer; runs that need it wait for it");
        }
    }
    Ok(bucket)
}
