//! A support desk in small: finds the ticket that the query speaks of in `data/support.json`, decides by the policies there, and writes
//! the support note (`output.md`) and the ticket's record (`tickets/ID.md`). The same data and query give the same bytes.

mod desk;

use desk::Desk;
use sandclock_agent::{Agent, Failure, progress};
use std::io::ErrorKind;
use std::path::Path;

const DATA_FILE: &str = "data/support.json";
const SEED: &str = include_str!("../data/support.json");

struct SupportOperations;

impl Agent for SupportOperations {
    fn run(query: String) -> Result<String, Failure> {
        progress::report("reading the desk's data", Some(0.1));
        let desk = Desk::parse(&read_data()?).map_err(|e| Failure::permanent(format!("{DATA_FILE} is not usable: {e}")))?;
        progress::report("finding the ticket", Some(0.3));
        let case = desk.open(&query).map_err(Failure::permanent)?;
        progress::report(&format!("deciding on {}", case.ticket.id), Some(0.6));
        write("output.md", &case.note())?;
        write(&case.record_path(), &case.record())?;
        progress::report("done", Some(1.0));
        Ok(case.sentence())
    }
}

/// The data file of the workspace, which gets the seed when it has none.
fn read_data() -> Result<String, Failure> {
    match std::fs::read_to_string(DATA_FILE) {
        Ok(data) => Ok(data),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            write(DATA_FILE, SEED)?;
            Ok(SEED.into())
        }
        Err(e) => Err(Failure::permanent(format!("cannot read {DATA_FILE}: {e}"))),
    }
}

fn write(path: &str, text: &str) -> Result<(), Failure> {
    let folder = Path::new(path).parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|e| Failure::retryable(format!("cannot write {path}: {e}")))
}

sandclock_agent::export!(SupportOperations);
