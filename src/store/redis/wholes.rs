//! Records as they are: read page by page while nobody writes, and written by one script a page.

use std::sync::Arc;

use ::redis::{Cmd, Value};
use async_trait::async_trait;

use super::super::batch::{Row, Writes};
use super::super::transfer::{EventRow, Page, Picture, Span, StoreRow, Transfer, Whole};
use super::super::{Kind, StoreError};
use super::RedisStore;
use super::answer::{self, Fields};
use super::scripts::{SCRIPTS, list};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// Orders are scores of sorted sets too, which are doubles.
const ORDERS_END: i64 = 1 << 53;

/// What the server holds while nobody writes there.
struct RedisPicture(Arc<RedisStore>);

#[async_trait]
impl Picture for RedisPicture {
    async fn records(&mut self, kind: Kind, after: i64, limit: usize) -> Result<Vec<Whole>, StoreError> {
        let mut call = SCRIPTS.wholes.call(self.0.reads.key());
        call.arg(kind.as_str()).arg(after).arg(limit);
        answer::list(self.0.reads.ask(&call).await?)?.into_iter().map(answer::whole).collect()
    }

    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        let mut call = SCRIPTS.spans.call(self.0.reads.key());
        list(&mut call, spans.iter().map(|span| (span.run.id.text(), span.after, span.count)));
        let mut events = Vec::new();
        for (span, found) in spans.iter().zip(answer::list(self.0.reads.ask(&call).await?)?) {
            let mut found = Fields::of(found)?;
            for (at, sequence) in (0..found.len()).zip(span.after + 1..) {
                events.push(EventRow { run: span.run.clone(), sequence, body: found.bytes(at)? });
            }
        }
        Ok(events)
    }

    async fn fences_above(&mut self) -> Result<u64, StoreError> {
        let mut call = ::redis::cmd("HMGET");
        call.arg(self.0.reads.key()).arg("fence");
        Fields::of(self.0.reads.ask(&call).await?)?.count(0)
    }
}

#[async_trait]
impl Transfer for RedisStore {
    async fn picture(self: Arc<Self>) -> Result<Box<dyn Picture>, StoreError> {
        Ok(Box::new(RedisPicture(self)))
    }

    async fn import(&self, page: &Page) -> Result<(), StoreError> {
        let writes = page.writes();
        let mut call = SCRIPTS.import.call(self.work.key());
        call.arg(page.records.len());
        for whole in &page.records {
            put(&mut call, whole)?;
        }
        append(&mut call, &writes);
        list(&mut call, writes.counts.iter().map(|(scope, status, by)| (scope.text(), status.map_or("", Status::as_str), *by)));
        call.arg(writes.last_order);
        let live = self.work.connect().await?;
        match self.work.proceed(live, &call).await? {
            Value::Int(1) => Ok(()),
            _ => Err(StoreError::Invalid("a record of that name is there already; fill an empty store".to_owned())),
        }
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let key = self.work.key();
        // What says that the store is half filled goes last.
        let last = [format!("{key}:r:{}", StoreRow::id().text()), format!("{key}:o:store"), format!("{key}:n:store")];
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = ::redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("{key}:*")).arg("COUNT").arg(super::MOST);
            let mut fields = Fields::of(self.work.ask(&scan).await?)?;
            cursor = fields.some_text(0)?.to_owned();
            let mut keys = Fields::of(fields.take(1))?;
            let keys = (0..keys.len()).map(|at| keys.bytes(at)).collect::<Result<Vec<_>, _>>()?;
            self.delete(keys.into_iter().filter(|key| !last.iter().any(|last| last.as_bytes() == key))).await?;
            if cursor == "0" {
                break;
            }
        }
        self.delete(last.iter().map(|key| key.as_bytes().to_vec())).await
    }
}

impl RedisStore {
    async fn delete(&self, keys: impl Iterator<Item = Vec<u8>>) -> Result<(), StoreError> {
        let mut call = ::redis::cmd("UNLINK");
        let mut count = 0;
        for key in keys {
            call.arg(key);
            count += 1;
        }
        if count > 0 {
            self.work.ask(&call).await?;
        }
        Ok(())
    }
}

fn put(call: &mut Cmd, whole: &Whole) -> Result<(), StoreError> {
    let Row { id, known, body, .. } = &whole.row;
    if known.order >= ORDERS_END {
        return Err(StoreError::Invalid(format!(
            "{id} has the place {}, and Redis keeps places below 2^53; choose another store",
            known.order
        )));
    }
    call.arg(id.text()).arg(id.kind.as_str()).arg(format!("{:016}", known.order)).arg(answer::head(&whole.row)).arg(&body[..]);
    let time = |time: Option<Timestamp>| time.map(|time| time.micros().to_string()).unwrap_or_default();
    let fence = if known.fence > 0 { known.fence.to_string() } else { String::new() };
    let held = whole.lease.as_ref();
    call.arg(fence).arg(time(held.map(|held| held.until))).arg(time(known.heartbeat_at));
    call.arg(held.map(|held| held.owner.as_str().to_owned()).unwrap_or_default());
    call.arg(held.map(|held| format!("{:x}", held.token.0)).unwrap_or_default());
    Ok(())
}

/// The events, those of one run behind each other at once.
fn append(call: &mut Cmd, writes: &Writes) {
    let of_runs = || writes.events.chunk_by(|one, next| one.run.order == next.run.order);
    call.arg(of_runs().count());
    for of_run in of_runs() {
        if let Some(first) = of_run.first() {
            call.arg(first.run.id.text());
            list(call, of_run.iter().map(|event| &event.body));
        }
    }
}
