//! A prefix of a real bucket, with what was asked of it counted, and what fails on demand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandclock::workspace::Bucket;
use sandclock::workspace::bucket::{BucketOptions, ObjectError, Objects, s3_objects};

use super::{TestDatabase, s3};

/// What a client needs to know of the bucket at `http://KEY_ID:SECRET@HOST:PORT/BUCKET`.
pub fn options(url: &str, prefix: &str) -> BucketOptions {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (who, place) = rest.split_once('@').unwrap();
    let (key_id, secret) = who.split_once(':').unwrap();
    let (host, name) = place.split_once('/').unwrap();
    BucketOptions {
        name: name.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(format!("{scheme}://{host}")),
        region: "us-east-1".to_owned(),
        allow_http: true,
        credentials: [("AWS_ACCESS_KEY_ID", key_id), ("AWS_SECRET_ACCESS_KEY", secret)].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        patience: Duration::from_secs(30),
    }
}

/// Objects of which a test knows what was asked.
pub struct Counted {
    objects: Arc<dyn Objects>,
    puts: Mutex<Vec<(String, usize)>>,
    gets: AtomicUsize,
    /// Whether every call fails as if the server were not there.
    pub is_away: AtomicBool,
    /// Whether a call never ends.
    pub hangs: AtomicBool,
}

impl Counted {
    pub fn new(objects: Arc<dyn Objects>) -> Arc<Counted> {
        let (puts, gets) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Counted { objects, puts, gets, is_away: AtomicBool::new(false), hangs: AtomicBool::new(false) })
    }

    /// The keys and lengths of what was put since this was asked last.
    pub fn puts(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.puts.lock().unwrap()).into_iter().collect()
    }

    /// How many objects were read since this was asked last.
    pub fn gets(&self) -> usize {
        self.gets.swap(0, Ordering::SeqCst)
    }

    async fn pass(&self) -> Result<(), ObjectError> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(ObjectError::Unavailable("the test has taken it away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Objects for Counted {
    async fn put(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        self.pass().await?;
        self.puts.lock().unwrap().push((key.to_owned(), content.len()));
        self.objects.put(key, content).await
    }

    async fn get(&self, key: &str, most: u64) -> Result<Bytes, ObjectError> {
        self.pass().await?;
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.objects.get(key, most).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        self.pass().await?;
        self.objects.list(folder).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), ObjectError> {
        self.pass().await?;
        self.objects.delete(keys).await
    }
}

/// A part of the shared bucket that a test has to itself.
pub struct TestBucket {
    pub objects: Arc<Counted>,
    pub options: BucketOptions,
    _place: TestDatabase,
}

impl TestBucket {
    /// None when its tests are left out.
    pub fn new() -> Option<TestBucket> {
        let place = s3()?;
        let options = options(&place.url, &place.name);
        Some(TestBucket { objects: Counted::new(s3_objects(&options).unwrap()), options, _place: place })
    }

    /// The bucket, as one daemon has it: what one keeps in memory no other has.
    pub fn bucket(&self, patience: Duration) -> Arc<Bucket> {
        Arc::new(Bucket::of(Arc::<Counted>::clone(&self.objects), "s3://test", &self.options.prefix, patience))
    }

    /// Every key below the test's prefix, without the prefix.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys = self.objects.objects.list(&self.options.prefix).await.unwrap();
        keys.sort();
        keys.iter().map(|key| key.strip_prefix(&format!("{}/", self.options.prefix)).unwrap().to_owned()).collect()
    }

    /// Replaces an object behind everybody's back.
    pub async fn spoil(&self, key: &str, content: &'static [u8]) {
        self.objects.objects.put(&format!("{}/{key}", self.options.prefix), Bytes::from_static(content)).await.unwrap();
    }

    /// Deletes objects behind everybody's back.
    pub async fn lose(&self, keys: &[String]) {
        self.objects.objects.delete(keys.iter().map(|key| format!("{}/{key}", self.options.prefix)).collect()).await.unwrap();
    }
}
