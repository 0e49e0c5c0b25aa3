//! `wasi:keyvalue` 0.2.0-draft: numbers without a sign, and cursors that are numbers.

use wasmtime::component::Resource;

use super::{Answer, KeyValueError, KeyValueView, Opened};

mod generated {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({
        path: "src/sandbox/wit/keyvalue-draft",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::super::Opened },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::super::KeyValueError },
        require_store_data_send: true,
    });
}

pub(crate) use generated::Imports;
use generated::wasi::keyvalue::{atomics, batch, store};

type Bucket = Resource<Opened>;

impl store::Host for KeyValueView<'_> {
    async fn open(&mut self, identifier: String) -> Answer<Bucket> {
        self.open_bucket(&identifier)
    }

    fn convert_error(&mut self, error: KeyValueError) -> wasmtime::Result<store::Error> {
        match error {
            KeyValueError::Trap(error) => Err(error),
            KeyValueError::NoSuchStore => Ok(store::Error::NoSuchStore),
            KeyValueError::AccessDenied => Ok(store::Error::AccessDenied),
            KeyValueError::Other(why) => Ok(store::Error::Other(why)),
        }
    }
}

impl store::HostBucket for KeyValueView<'_> {
    async fn get(&mut self, bucket: Bucket, key: String) -> Answer<Option<Vec<u8>>> {
        self.get_value(&bucket, key).await
    }

    async fn set(&mut self, bucket: Bucket, key: String, value: Vec<u8>) -> Answer<()> {
        self.write(&bucket, vec![(key, Some(value))]).await
    }

    async fn delete(&mut self, bucket: Bucket, key: String) -> Answer<()> {
        self.write(&bucket, vec![(key, None)]).await
    }

    async fn exists(&mut self, bucket: Bucket, key: String) -> Answer<bool> {
        self.has_key(&bucket, &key).await
    }

    async fn list_keys(&mut self, bucket: Bucket, cursor: Option<u64>) -> Answer<store::KeyResponse> {
        let page = self.list_page(&bucket, cursor.unwrap_or(0)).await?;
        Ok(store::KeyResponse { keys: page.keys, cursor: page.next })
    }

    async fn drop(&mut self, bucket: Bucket) -> wasmtime::Result<()> {
        self.close_bucket(bucket)
    }
}

impl atomics::Host for KeyValueView<'_> {
    async fn increment(&mut self, bucket: Bucket, key: String, delta: u64) -> Answer<u64> {
        let sum = self.add(&bucket, key, i128::from(delta), 0..=i128::from(u64::MAX)).await?;
        Ok(u64::try_from(sum).unwrap_or(u64::MAX))
    }
}

impl batch::Host for KeyValueView<'_> {
    async fn get_many(&mut self, bucket: Bucket, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let values = self.get_values(&bucket, &keys).await?;
        Ok(keys.into_iter().zip(values).map(|(key, value)| value.map(|value| (key, value))).collect())
    }

    async fn set_many(&mut self, bucket: Bucket, key_values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        self.write(&bucket, key_values.into_iter().map(|(key, value)| (key, Some(value))).collect()).await
    }

    async fn delete_many(&mut self, bucket: Bucket, keys: Vec<String>) -> Answer<()> {
        self.write(&bucket, keys.into_iter().map(|key| (key, None)).collect()).await
    }
}
