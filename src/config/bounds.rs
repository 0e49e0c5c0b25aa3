//! What bounds the store: how many runs may wait, and how long what has ended is kept.

use crate::domain::time::Seconds;

use super::document::{Node, Value};
use super::section::{Key, Section, key, seconds_json, seconds_of};
use super::settings::{Queue, Retention};

const DAY: u64 = 86_400;
/// The longest that a setting may keep anything without keeping it for ever, in seconds: ten years.
const LONGEST: f64 = 3660.0 * 86_400.0;
/// What stands for keeping for ever. A 0 could be taken for it and for its opposite, so it is refused.
const NEVER: &str = "never";

/// Reads `[queue]`.
pub(super) fn queue(mut section: Section<'_, '_>) -> Queue {
    let max_queued_runs = section.whole(key("max_queued_runs", "SANDCLOCK_MAX_QUEUED_RUNS"), 100_000, 0..=1_000_000_000);
    section.finish();
    Queue { max_queued_runs }
}

/// Reads `[retention]`.
pub(super) fn retention(mut section: Section<'_, '_>) -> Retention {
    let completed = kept(&mut section, key("completed_seconds", "SANDCLOCK_RETENTION_COMPLETED_SECONDS"), 30 * DAY);
    let failed = kept(&mut section, key("failed_seconds", "SANDCLOCK_RETENTION_FAILED_SECONDS"), 90 * DAY);
    let cancelled = kept(&mut section, key("cancelled_seconds", "SANDCLOCK_RETENTION_CANCELLED_SECONDS"), 30 * DAY);
    let skipped = kept(&mut section, key("skipped_seconds", "SANDCLOCK_RETENTION_SKIPPED_SECONDS"), 7 * DAY);
    let sessions = kept(&mut section, key("sessions_seconds", "SANDCLOCK_RETENTION_SESSIONS_SECONDS"), 90 * DAY);
    let runs_per_task = section.whole(key("runs_per_task", "SANDCLOCK_RETENTION_RUNS_PER_TASK"), 100_000, 0..=1_000_000_000);
    let plugins =
        section.seconds(key("plugins_seconds", "SANDCLOCK_RETENTION_PLUGINS_SECONDS"), Seconds::whole(3600), 1.0..=366.0 * 86_400.0);
    let pass = section.seconds(key("pass_seconds", "SANDCLOCK_RETENTION_PASS_SECONDS"), Seconds::whole(60), 0.1..=86_400.0);
    section.finish();
    Retention { completed, failed, cancelled, skipped, sessions, runs_per_task, plugins, pass }
}

fn kept(section: &mut Section<'_, '_>, key: Key, default: u64) -> Option<Seconds> {
    let show = |kept: &Option<Seconds>| kept.as_ref().map_or_else(|| NEVER.into(), seconds_json);
    section.or(key, Some(Seconds::whole(default)), show, |node: &Node| match &node.value {
        Value::Text(text) if text.trim() == NEVER => Ok(None),
        _ => seconds_of(node, &(1.0..=LONGEST)).map(Some).map_err(|message| format!("{message}; `{NEVER}` keeps them for ever")),
    })
}
