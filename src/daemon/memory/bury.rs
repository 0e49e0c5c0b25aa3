//! Takes buckets out of the store.
//!
//! Invariant: a bucket goes whole in one small change, which notes what it leaves; the note goes when that has gone. Whoever writes to the
//! bucket meanwhile makes a new one, which has none of the old entries.

use super::{LEAVES, Leaf, bucket_id, leaf_id, value_id};
use crate::daemon::error::ManagerError;
use crate::daemon::inner::Inner;
use crate::daemon::removal;
use crate::daemon::transitions::Step;
use crate::daemon::txn::Txn;
use crate::domain::id::AgentId;
use crate::domain::memory::Bucket;
use crate::domain::time::Timestamp;
use crate::store::RecordId;

/// How many values are deleted in one change, and how many bytes of them.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: u64 = 1024 * 1024;

/// Takes a bucket out of the store, and removes what it held. Answers with the bucket; none where there is none, or where it was written
/// after `unless_after`.
///
/// # Errors
/// The store does not answer. What the bucket held is removed later if it is the answer to that which fails.
pub(in crate::daemon) async fn retire(
    inner: &Inner,
    agent: &AgentId,
    session: Option<&str>,
    unless_after: Option<Timestamp>,
) -> Result<Option<Bucket>, ManagerError> {
    let id = bucket_id(agent, session);
    let note = removal::new_note(inner);
    let (of, noted) = (id.clone(), note.clone());
    let decide = move |txn: &mut Txn<'_>| -> Step<Option<Bucket>> {
        let Some(bucket) = txn.get::<Bucket, ManagerError>(&of)? else { return Ok(None) };
        if unless_after.is_some_and(|after| bucket.written_at > after) {
            return Ok(None);
        }
        txn.delete(of.clone());
        removal::note_bucket(txn, &noted, &bucket.incarnation)?;
        Ok(Some(Bucket::clone(&bucket)))
    };
    let Some(bucket) = inner.committer.commit(vec![id], Vec::new(), decide).await.map_err(ManagerError::from)? else { return Ok(None) };
    bury(inner, &bucket.incarnation).await?;
    removal::forget(inner, note).await?;
    Ok(Some(bucket))
}

/// Removes what a bucket of that incarnation held.
///
/// # Errors
/// The store does not answer.
pub(in crate::daemon) async fn bury(inner: &Inner, incarnation: &str) -> Result<(), ManagerError> {
    for leaf in 0..LEAVES {
        loop {
            let (id, of) = (leaf_id(incarnation, leaf), incarnation.to_owned());
            let decide = move |txn: &mut Txn<'_>| some_of(txn, &of, leaf);
            if !inner.committer.commit(vec![id], Vec::new(), decide).await.map_err(ManagerError::from)? {
                break;
            }
        }
    }
    Ok(())
}

/// Deletes some values of a leaf; answers whether there are more.
fn some_of(txn: &mut Txn<'_>, incarnation: &str, leaf: u8) -> Step<bool> {
    let id = leaf_id(incarnation, leaf);
    let Some(found) = txn.get::<Leaf, ManagerError>(&id)? else { return Ok(false) };
    let mut rest = Leaf::clone(&found);
    let (mut gone, mut bytes): (Vec<RecordId>, u64) = (Vec::new(), 0);
    for (key, length) in &found.0 {
        if gone.len() >= AT_ONCE || (bytes > 0 && bytes + length > BYTES_AT_ONCE) {
            break;
        }
        bytes += length;
        gone.push(value_id(incarnation, key));
        rest.0.remove(key);
    }
    txn.need(&gone)?;
    gone.into_iter().for_each(|value| txn.delete(value));
    let has_more = !rest.0.is_empty();
    if has_more {
        txn.put(id, std::sync::Arc::new(rest))?
    } else {
        txn.delete(id)
    }
    Ok(has_more)
}
