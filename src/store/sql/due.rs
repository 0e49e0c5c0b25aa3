//! The statements that look for what is due, the same for every SQL server, and others that all spell alike.
//!
//! Each of them takes the present as an expression that the server has, and what stands before the first column, if anything does; $2 is
//! how many records at most.

use super::super::Kind;
use super::rows::RECORD;
use crate::domain::run::Status;

/// The statuses of runs that wait for somebody.
pub const PARKED: [Status; 2] = [Status::AwaitingApproval, Status::AwaitingBudget];

/// Records of a kind other than runs that were due by then, and when the next one is.
pub fn aged(kind: Kind, now: &str, head: &str) -> String {
    conditions(&[format!("kind = '{}' AND status IS NULL", kind.as_str())], now, head)
}

/// Runs with one of these statuses, other than ready ones, that were due by then, and when the next one is.
pub fn runs(statuses: &[Status], now: &str, head: &str) -> String {
    let of_status = |status: &Status| format!("status = '{}' AND ready = 0", status.as_str());
    conditions(&statuses.iter().map(of_status).collect::<Vec<_>>(), now, head)
}

/// Each condition is walked along an index of its own.
fn conditions(conditions: &[String], now: &str, head: &str) -> String {
    let next =
        |condition: &String| format!("SELECT (SELECT due FROM record WHERE {condition} AND due > {now} ORDER BY due LIMIT 1) AS due");
    let due = |condition: &String| format!("SELECT due, ord FROM record WHERE {condition} AND due <= {now}");
    let all = |part: &dyn Fn(&String) -> String| conditions.iter().map(part).collect::<Vec<_>>().join(" UNION ALL ");
    sql(head, &format!("SELECT min(p.due) FROM ({}) AS p", all(&next)), &format!("{} ORDER BY due, ord LIMIT $2 + 0", all(&due)))
}

/// What `due` finds, each behind what `next` finds; at least one row.
pub fn sql(head: &str, next: &str, due: &str) -> String {
    format!(
        "SELECT {head}n.next, {RECORD} FROM (SELECT ({next}) AS next) AS n LEFT JOIN ({due}) AS d ON true \
         LEFT JOIN record AS r ON r.ord = d.ord LEFT JOIN lease AS l ON l.run = r.ord ORDER BY d.due, d.ord"
    )
}

/// The events of run $1 with numbers above $2, at most $3.
pub const EVENTS: &str =
    "SELECT seq, body FROM event WHERE run = (SELECT ord FROM record WHERE id = $1) AND seq > $2 ORDER BY seq LIMIT $3 + 0";
