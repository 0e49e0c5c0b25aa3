//! The tables of the documentation name tests; each of them must exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const DEFECTS: &str = include_str!("../../docs/from-omnicoreagent.md");
const SCENARIOS: &str = include_str!("../../docs/semantics.md");

/// The names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

/// The rows of a table below a heading, as their cells.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let table = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The tests that a cell names.
fn tests_of(cell: &str) -> Vec<&str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| name.contains('_') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'))
        .collect()
}

fn exist(rows: &[Vec<&str>]) {
    let mut known = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    functions(&root.join("tests"), &mut known);
    functions(&root.join("src"), &mut known);
    let missing: Vec<&str> = rows.iter().flat_map(|row| tests_of(row[2])).filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "these tests are named and not there: {missing:?}");
}

#[test]
fn every_defect_has_a_test_or_a_reason() {
    let rows = rows(DEFECTS, "## Defects of that system");
    let numbers: Vec<String> = (1..=41).map(|number| format!("W-{number:02}")).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), numbers);
    exist(&rows);
    for row in &rows {
        let own = format!("w_{}_", &row[0][2..]);
        let has_its_own = tests_of(row[2]).iter().any(|name| name.starts_with(&own));
        assert!(has_its_own || row[2].starts_with("cannot be: "), "{} has neither a test of its name nor a reason", row[0]);
    }
}

#[test]
fn every_scenario_has_a_test_or_a_reason() {
    let rows = rows(SCENARIOS, "## What is tested when things break");
    assert_eq!(
        rows.iter().map(|row| row[0].to_owned()).collect::<Vec<_>>(),
        (1..=30).map(|number: u32| number.to_string()).collect::<Vec<_>>()
    );
    exist(&rows);
    for row in &rows {
        assert!(!tests_of(row[2]).is_empty() || row[2].contains("cannot happen"), "scenario {} has neither a test nor a reason", row[0]);
    }
}
