//! Paths of workspaces and of files in them, and the places in a listing.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use sandclock::domain::id::{AgentId, RunId, TaskId};
use sandclock::domain::policy::WorkspacePolicy;
use sandclock::workspace::Workspaces;

use super::{is_one_sentence, text, try_all};

const RUN: &str = "background/agent/task/run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d";

fn place() -> (tempfile::TempDir, Workspaces) {
    let keep = tempfile::tempdir().unwrap();
    let all = Workspaces::open(&keep.path().join("root")).unwrap();
    let run = all.create(RUN).unwrap().path;
    fs::create_dir(run.join("notes")).unwrap();
    fs::write(run.join("notes/a b.md"), "inside").unwrap();
    fs::write(keep.path().join("secret"), "outside").unwrap();
    symlink(keep.path().join("secret"), run.join("link")).unwrap();
    symlink("/", run.join("notes/root")).unwrap();
    (keep, all)
}

/// Paths made of parts that lead somewhere, and of any others.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => proptest::sample::select(vec!["..", ".", "", "notes", "a b.md", "link", "root", "secret", "background", "etc/passwd", "%2e%2e", ".logs", "*"])
            .prop_map(str::to_owned),
        1 => text(),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.join("/"))
}

#[test]
fn no_path_leads_out_of_a_workspace() {
    let (_keep, all) = place();
    try_all(600, &(path(), path()), |(file, workspace)| {
        match all.open_file(RUN, &file) {
            Ok(opened) => prop_assert!(opened.size == 6 && file == "notes/a b.md", "{file:?} leads to {} bytes", opened.size),
            Err(refused) => is_one_sentence(&refused.to_string())?,
        }
        let listed = all.list(&workspace, None, 10);
        prop_assert!(
            listed.is_err() || workspace.split('/').all(|part| !part.is_empty() && !part.starts_with('.')),
            "{workspace:?} is listed"
        );
        for refused in [listed.map(drop), all.disk_usage(&workspace).map(drop), all.open_file(&workspace, "x").map(drop)] {
            if let Err(refused) = refused {
                is_one_sentence(&refused.to_string())?;
            }
        }
        Ok(())
    });
}

#[test]
fn any_place_in_a_listing_is_gone_on_from() {
    let (_keep, all) = place();
    try_all(300, &(prop_oneof![path(), text()], 0usize..5), |(cursor, limit)| {
        let mut after = Some(cursor);
        for _ in 0..12 {
            let page = all.list(RUN, after.as_deref(), limit).unwrap();
            prop_assert!(page.entries.len() <= limit.max(1));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
        Err(TestCaseError::fail("the pages have no end"))
    });
}

#[test]
fn an_accepted_template_can_be_made_on_disk() {
    let (_keep, all) = place();
    let folder = proptest::sample::select(vec!["{agent_id}", "{task_id}", "x", "run", "a.b", "{agent_id}-{task_id}", "{task_id}{task_id}"]);
    let template = proptest::collection::vec(folder, 1..5).prop_map(|folders| format!("{}/{{run_id}}", folders.join("/")));
    let id = || prop_oneof!["[a-z0-9_-]{1,20}", "[a-z]{128}", Just("run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d".to_owned())];
    try_all(100, &(template, id(), id()), |(template, agent, task)| {
        let (agent, task) = (AgentId::parse(&agent).unwrap(), TaskId::parse(&task).unwrap());
        let template = WorkspacePolicy::fault_of_template(&template).map_or(Some(template), |_| None);
        let policy = template.map(|namespace_template| WorkspacePolicy { namespace_template, ..WorkspacePolicy::default() });
        let Some(policy) = policy.filter(|policy| policy.fault_with(&agent, &task).is_none()) else { return Ok(()) };
        let path = policy.path_of(&agent, &task, &RunId::parse("run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d").unwrap());
        let made = all.create(&path);
        prop_assert!(made.is_ok(), "{}: {}", path, made.err().map(|error| error.to_string()).unwrap_or_default());
        all.remove(&path).unwrap();
        Ok(())
    });
}
