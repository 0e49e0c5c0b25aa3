//! What becomes of occurrences: each is a run or part of a skip range, once, in the change that moves the schedule past it.

use sandclock::domain::id::RunId;
use sandclock::domain::run::Run;
use sandclock::domain::schedule::{Schedule, ScheduleState, SkipRange};
use sandclock::domain::time::Timestamp;

use super::{Model, Written};

/// The most occurrences of one range that are walked over.
const WALKED: u64 = 5000;

/// Occurrences that a change decides about.
struct Piece {
    first: Timestamp,
    last: Timestamp,
    count: u64,
}

impl Model {
    pub(super) fn judge_schedules(&mut self, written: &Written) {
        for state in &written.schedules {
            let before = self.schedules.insert(state.task_id.clone(), state.clone());
            let before = before.filter(|before| before.incarnation == state.incarnation);
            let task = self.tasks.get(&state.task_id).or_else(|| written.tasks.iter().find(|task| task.task_id == state.task_id));
            let after = written.tasks.iter().find(|task| task.task_id == state.task_id).or(task);
            let schedules =
                task.zip(after).map(|(task, after)| (task.schedule.clone(), after.schedule.clone(), task.enabled || after.enabled));
            let is_new = |run: &&Run| run.task_id == state.task_id && run.occurrence_id.is_some() && !self.runs.contains_key(&run.run_id);
            let runs: Vec<Run> = written.runs.iter().map(|(run, _)| run).filter(is_new).cloned().collect();
            let ranges: Vec<&SkipRange> = written.ranges.iter().filter(|range| range.task_id == state.task_id).collect();
            *self.dispatched.entry(state.incarnation.clone()).or_default() += runs.len() as u64;
            let judged = match (before, schedules) {
                (None, _) if runs.is_empty() && ranges.is_empty() && state.totals == Default::default() => Ok(()),
                (None, _) => Err("it is new and has occurrences".to_owned()),
                (Some(before), Some((old, new, enabled))) => judge_step(&before, state, (&old, &new), enabled, &runs, &ranges),
                (Some(_), None) => Err("its task is gone".to_owned()),
            };
            let early = runs.iter().find(|run| run.due_at.is_some_and(|nominal| nominal > self.latest)).map(|run| run.run_id.clone());
            if let Err(fault) = judged {
                self.fault(format!("the schedule of {}: {fault}", state.task_id));
            }
            if let Some(run) = early {
                self.fault(format!("{run} was dispatched before its time"));
            }
        }
        self.judge_made(written);
    }

    /// Runs of occurrences come with the step of their schedule only.
    fn judge_made(&mut self, written: &Written) {
        let stray: Option<RunId> = written
            .runs
            .iter()
            .map(|(run, _)| run)
            .find(|run| {
                let is_new = run.occurrence_id.is_some() && !self.runs.contains_key(&run.run_id);
                is_new && !written.schedules.iter().any(|state| state.task_id == run.task_id)
            })
            .map(|run| run.run_id.clone());
        if let Some(run) = stray {
            self.fault(format!("{run} is of an occurrence and its schedule has not moved"));
        }
    }
}

fn judge_step(
    before: &ScheduleState,
    after: &ScheduleState,
    (old, new): (&Schedule, &Schedule),
    enabled: bool,
    runs: &[Run],
    ranges: &[&SkipRange],
) -> Result<(), String> {
    let skipped: u64 = ranges.iter().map(|range| range.count).sum();
    let made = runs.len() as u64;
    let (was, is) = (before.totals, after.totals);
    if is.runs != was.runs + made || is.skipped != was.skipped + skipped || is.occurrences != is.runs + is.skipped {
        return Err(format!("its totals went from {was:?} to {is:?} with {made} runs and {skipped} skipped"));
    }
    if made > 0 && (!enabled || (before.paused && after.paused)) {
        return Err(format!("{made} runs were dispatched while it was paused or disabled"));
    }
    let mut pieces: Vec<Piece> = ranges.iter().map(|range| Piece { first: range.first, last: range.last, count: range.count }).collect();
    pieces.extend(runs.iter().filter_map(|run| run.due_at).map(|nominal| Piece { first: nominal, last: nominal, count: 1 }));
    pieces.sort_by_key(|piece| piece.first);
    if after.schedule_revision < before.schedule_revision {
        return Err("its revision fell".to_owned());
    }
    // Of several edits in one commit only the last one's schedule is seen.
    if after.schedule_revision > before.schedule_revision + 1 {
        return Ok(());
    }
    let is_edited = before.schedule_revision != after.schedule_revision;
    let (mut schedule, mut cursor, mut began_anew) = (old, before.next_nominal_at, false);
    while !pieces.is_empty() {
        // An edit begins anew, and what it made due already may be dispatched in the same commit, be it nominally before the rest.
        let follows = pieces.iter().position(|piece| Some(piece.first) == cursor);
        let piece = pieces.remove(follows.unwrap_or(0));
        if follows.is_none() && is_edited && !began_anew {
            (schedule, cursor, began_anew) = (new, Some(piece.first), true);
        }
        if cursor != Some(piece.first) {
            return Err(format!("it decided about {} when {cursor:?} was next", piece.first));
        }
        let mut last = piece.first;
        for _ in 1..piece.count.min(WALKED) {
            last = schedule.next(last).ok_or_else(|| format!("the range from {} has fewer than {}", piece.first, piece.count))?;
        }
        if piece.count <= WALKED && last != piece.last {
            return Err(format!("the range from {} to {} does not have {} occurrences", piece.first, piece.last, piece.count));
        }
        cursor = schedule.next(piece.last);
    }
    if (!is_edited || began_anew) && after.next_nominal_at != cursor {
        return Err(format!("{cursor:?} is next and it says {:?}", after.next_nominal_at));
    }
    Ok(())
}
