//! `agent.toml`: how an agent is made of its sources, for `sandclock dev`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::id::AgentId;

use super::document::{self, Node, Value};
use super::environment::Environment;
use super::fault::{ConfigFault, ConfigFaults, Origin};
use super::section::{Reading, file_key, text_of};
use super::{seed, text_in};

/// The file's name in the folder of the sources.
pub const AGENT_FILE: &str = "agent.toml";

/// What `agent.toml` says. Everything in it may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFile {
    /// The agent whose settings apply.
    pub agent: Option<AgentId>,
    /// The command that builds the component, for `sh`.
    pub build: Option<String>,
    /// The component that the build writes, from the file's folder.
    pub component: Option<PathBuf>,
    /// What the agent is asked first.
    pub query: Option<String>,
    /// The files and folders to watch, from the file's folder; none for all of it.
    pub watch: Vec<PathBuf>,
    /// Names that are not watched, in which `*` stands for anything.
    pub ignore: Vec<String>,
}

/// Reads the file of a folder; what it says when there is none is nothing. Blocks on the file system.
///
/// # Errors
/// All that is wrong with it.
pub fn agent_file(folder: &Path) -> Result<AgentFile, ConfigFaults> {
    let path = folder.join(AGENT_FILE);
    if matches!(std::fs::metadata(&path), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(AgentFile::default());
    }
    let unreadable = |message| ConfigFaults(vec![ConfigFault { origin: Origin::Default, key: None, message }]);
    parse(&text_in(&path).map_err(unreadable)?, &path)
}

fn parse(text: &str, path: &Path) -> Result<AgentFile, ConfigFaults> {
    let root = document::parse(text, &Arc::from(path)).map_err(ConfigFaults)?;
    let none = Environment::default();
    let mut reading =
        Reading { env: &none, seed: seed::translate(&none), faults: Vec::new(), entries: Vec::new(), variables: BTreeSet::new() };
    let mut top = reading.top(&root);
    let agent = top.given(file_key("agent"), |node| AgentId::parse(text_of(node)?).map_err(|error| format!("names no agent: {error}")));
    let build = top.given(file_key("build"), filled);
    let component = top.given(file_key("component"), |node| filled(node).map(PathBuf::from));
    let query = top.given(file_key("query"), |node| text_of(node).map(str::to_owned));
    let watch = top.given(file_key("watch"), texts);
    let ignore = top.given(file_key("ignore"), texts);
    top.finish();
    if !reading.faults.is_empty() {
        return Err(ConfigFaults(reading.faults));
    }
    fn value<T>(given: Option<(T, Origin)>) -> Option<T> {
        given.map(|(value, _)| value)
    }
    Ok(AgentFile {
        agent: value(agent),
        build: value(build),
        component: value(component),
        query: value(query),
        watch: value(watch).unwrap_or_default().into_iter().map(PathBuf::from).collect(),
        ignore: value(ignore).unwrap_or_default(),
    })
}

fn filled(node: &Node) -> Result<String, String> {
    match text_of(node)? {
        text if text.trim().is_empty() || text.contains('\0') => Err("must not be empty; leave the key out instead".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn texts(node: &Node) -> Result<Vec<String>, String> {
    match &node.value {
        Value::List(items) => items.iter().map(filled).collect(),
        other => Err(format!("must be a list of texts such as [\"src\"], not {}", other.describe())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_all_faults_are_told() {
        let text = "agent = \"a\"\nbuild = \"make\"\ncomponent = \"a.wasm\"\nquery = \"\"\nwatch = [\"src\"]\nignore = [\"*.log\"]\n";
        let file = parse(text, Path::new("agent.toml")).unwrap();
        assert_eq!((file.build.as_deref(), file.query.as_deref()), (Some("make"), Some("")));
        assert_eq!((file.watch, file.ignore), (vec![PathBuf::from("src")], vec!["*.log".to_owned()]));
        let faults = parse("bild = \"make\"\nbuild = \"\"\nwatch = \"src\"\nagent = \"../x\"\n", Path::new("agent.toml")).unwrap_err();
        assert_eq!(faults.0.len(), 4, "{faults}");
        assert!(faults.to_string().contains("agent.toml:1") && faults.to_string().contains("did you mean `build`?"), "{faults}");
    }

    #[test]
    fn without_a_file_nothing_is_said_and_a_folder_in_its_place_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(agent_file(folder.path()).unwrap(), AgentFile::default());
        std::fs::create_dir(folder.path().join(AGENT_FILE)).unwrap();
        assert!(agent_file(folder.path()).is_err());
    }
}
