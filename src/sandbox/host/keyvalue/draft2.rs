//! `wasi:keyvalue` 0.2.0-draft2: numbers with a sign, cursors that are texts, and swaps.

use wasmtime::component::{Linker, Resource};

use super::{Answer, Compared, KeyValueError, KeyValueView, Opened};
use crate::sandbox::state::State;

mod generated {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({
        path: "src/sandbox/wit/keyvalue-draft2",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::super::Opened, "wasi:keyvalue/atomics.cas": super::super::Compared },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::super::KeyValueError },
        require_store_data_send: true,
    });
}

pub(crate) use generated::Imports;
use generated::wasi::keyvalue::{atomics, batch, store};

const BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft2";

type Bucket = Resource<Opened>;
type Cas = Resource<Compared>;

impl store::Host for KeyValueView<'_> {
    async fn open(&mut self, identifier: String) -> Answer<Bucket> {
        self.open_bucket(&identifier)
    }

    fn convert_error(&mut self, error: KeyValueError) -> wasmtime::Result<store::Error> {
        told(error)
    }
}

/// The error as the guest learns it; what has to end the attempt is none.
fn told(error: KeyValueError) -> wasmtime::Result<store::Error> {
    match error {
        KeyValueError::Trap(error) => Err(error),
        KeyValueError::NoSuchStore => Ok(store::Error::NoSuchStore),
        KeyValueError::AccessDenied => Ok(store::Error::AccessDenied),
        KeyValueError::Other(why) => Ok(store::Error::Other(why)),
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

    async fn list_keys(&mut self, bucket: Bucket, cursor: Option<String>) -> Answer<store::KeyResponse> {
        let page = match cursor.as_deref().map(str::parse) {
            None => 0,
            Some(Ok(page)) => page,
            Some(Err(_)) => return Err(KeyValueError::Other("the cursor is none that `list-keys` has given".to_owned())),
        };
        let page = self.list_page(&bucket, page).await?;
        Ok(store::KeyResponse { keys: page.keys, cursor: page.next.map(|next| next.to_string()) })
    }

    async fn drop(&mut self, bucket: Bucket) -> wasmtime::Result<()> {
        self.close_bucket(bucket)
    }
}

impl atomics::Host for KeyValueView<'_> {
    async fn increment(&mut self, bucket: Bucket, key: String, delta: i64) -> Answer<i64> {
        let sum = self.add(&bucket, key, i128::from(delta), i128::from(i64::MIN)..=i128::from(i64::MAX)).await?;
        Ok(i64::try_from(sum).unwrap_or(i64::MAX))
    }

    async fn swap(&mut self, cas: Cas, value: Vec<u8>) -> wasmtime::Result<Result<(), atomics::CasError>> {
        Ok(match self.exchange(cas, value).await {
            Ok(None) => Ok(()),
            Ok(Some(again)) => Err(atomics::CasError::CasFailed(again)),
            Err(error) => Err(atomics::CasError::StoreError(told(error)?)),
        })
    }
}

impl atomics::HostCas for KeyValueView<'_> {
    async fn new(&mut self, bucket: Bucket, key: String) -> Answer<Cas> {
        self.compare(&bucket, key).await
    }

    async fn current(&mut self, cas: Cas) -> Answer<Option<Vec<u8>>> {
        self.look(&cas).await
    }

    async fn drop(&mut self, cas: Cas) -> wasmtime::Result<()> {
        self.let_go(cas)
    }
}

impl batch::Host for KeyValueView<'_> {
    async fn set_many(&mut self, bucket: Bucket, key_values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        self.write(&bucket, key_values.into_iter().map(|(key, value)| (key, Some(value))).collect()).await
    }

    async fn delete_many(&mut self, bucket: Bucket, keys: Vec<String>) -> Answer<()> {
        self.write(&bucket, keys.into_iter().map(|key| (key, None)).collect()).await
    }
}

type Many<T> = (Result<Vec<T>, store::Error>,);

/// Links `get-many` as the draft has it now: each key with its value.
pub(crate) fn link_get_many(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(BATCH)?.func_wrap_async("get-many", |mut store, (bucket, keys): (Bucket, Vec<String>)| {
        Box::new(async move {
            let answer: Many<(String, Option<Vec<u8>>)> = match KeyValueView::of(store.data_mut()).get_values(&bucket, &keys).await {
                Ok(values) => (Ok(keys.into_iter().zip(values).collect()),),
                Err(error) => (Err(told(error)?),),
            };
            Ok(answer)
        })
    })
}

/// Links `get-many` as the draft had it first, and as its guests of that time want it: keys without a value are left blank.
pub(crate) fn link_get_many_of_old(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(BATCH)?.func_wrap_async("get-many", |mut store, (bucket, keys): (Bucket, Vec<String>)| {
        Box::new(async move {
            let answer: Many<Option<(String, Vec<u8>)>> = match KeyValueView::of(store.data_mut()).get_values(&bucket, &keys).await {
                Ok(values) => (Ok(keys.into_iter().zip(values).map(|(key, value)| Some((key, value?))).collect()),),
                Err(error) => (Err(told(error)?),),
            };
            Ok(answer)
        })
    })
}
