//! What a folder of sources is: how it is built, and where its component comes out.

use std::path::{Path, PathBuf};

use crate::config::{AGENT_FILE, AgentFile, agent_file};
use crate::domain::id::AgentId;

/// How a component is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// Cargo tells which file it made.
    Cargo,
    /// A command for `sh`.
    Command(String),
    /// The component is there, and somebody else makes it.
    None,
}

/// A folder of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) build: Build,
    /// The component, where it is named.
    pub(super) component: Option<PathBuf>,
    pub(super) agent: Option<AgentId>,
    pub(super) query: Option<String>,
    pub(super) watch: Vec<PathBuf>,
    pub(super) ignore: Vec<String>,
}

impl Project {
    /// Reads what a folder is; a component in its place is a folder that holds just that. `build` beats what is there.
    ///
    /// # Errors
    /// The folder cannot be read, its `agent.toml` is faulty, or nothing tells how to build it.
    pub(super) fn of(place: &Path, build: Option<&str>) -> Result<Project, String> {
        let shown = place.display();
        let about = std::fs::metadata(place).map_err(|error| format!("`{shown}` cannot be read ({error}); name a folder of sources"))?;
        if about.is_file() {
            let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = PathBuf::from(place.file_name().unwrap_or_default());
            let (component, watch) = (Some(folder.join(&name)), vec![name]);
            let folder = folder.to_owned();
            return Ok(Project { folder, build: Build::None, component, agent: None, query: None, watch, ignore: Vec::new() });
        }
        let file = agent_file(place).map_err(|faults| faults.to_string())?;
        let AgentFile { agent, build: of_file, component, query, watch, ignore } = file;
        let command = build.map(str::to_owned).or(of_file).map(Build::Command);
        let component = component.map(|component| place.join(component));
        let build = match (command.or_else(|| build_of(place)), &component) {
            (Some(build), _) => build,
            (None, Some(_)) => Build::None,
            (None, None) => {
                let component = only_component(place)?;
                let folder = place.to_owned();
                return Ok(Project { folder, build: Build::None, component: Some(component), agent, query, watch, ignore });
            }
        };
        Ok(Project { folder: place.to_owned(), build, component, agent, query, watch, ignore })
    }

    /// The agent of this name is meant when nothing else names one: the folder's, or the component's without a folder of its own.
    pub(super) fn default_agent(&self) -> Option<AgentId> {
        let folder = std::fs::canonicalize(&self.folder).ok();
        let of_folder = || folder.as_deref().and_then(Path::file_name).map(ToOwned::to_owned);
        let stem = self.component.as_deref().and_then(Path::file_stem).map(ToOwned::to_owned);
        let name = if self.build == Build::None { stem.or_else(of_folder) } else { of_folder() }?;
        AgentId::parse(name.to_str()?).ok()
    }
}

/// How what is there is built by custom.
fn build_of(folder: &Path) -> Option<Build> {
    if folder.join("Cargo.toml").is_file() {
        return Some(Build::Cargo);
    }
    let package = std::fs::read(folder.join("package.json")).ok();
    let package = package.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    if package.is_some_and(|package| package.pointer("/scripts/build").is_some_and(serde_json::Value::is_string)) {
        return Some(Build::Command("npm run build".to_owned()));
    }
    let has_makefile = ["Makefile", "makefile", "GNUmakefile"].iter().any(|name| folder.join(name).is_file());
    has_makefile.then(|| Build::Command("make".to_owned()))
}

/// The one component at the top of a folder.
fn only_component(folder: &Path) -> Result<PathBuf, String> {
    let shown = folder.display();
    let entries = std::fs::read_dir(folder).map_err(|error| format!("`{shown}` cannot be read ({error}); let me read it"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut components: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
    components.sort();
    match components.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "nothing in `{shown}` tells how to build it: give --build, or put `build = \"…\"` into its {AGENT_FILE}; a Cargo.toml, a package.json with a build script and a Makefile are known too"
        )),
        [first, second, ..] => Err(format!(
            "`{shown}` holds several components, such as {} and {}: name one as DIR, or as `component` in {AGENT_FILE}",
            first.display(),
            second.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn build(files: &[(&str, &str)], given: Option<&str>) -> Result<Build, String> {
        Project::of(folder(files).path(), given).map(|project| project.build)
    }

    #[test]
    fn what_is_given_beats_the_file_and_the_file_beats_custom() {
        let command = |text: &str| Ok(Build::Command(text.to_owned()));
        let cargo = ("Cargo.toml", "");
        let file = ("agent.toml", "build = \"from-file\"");
        assert_eq!(build(&[cargo, file], Some("given")), command("given"));
        assert_eq!(build(&[cargo, file], None), command("from-file"));
        assert_eq!(build(&[cargo, ("Makefile", "")], None), Ok(Build::Cargo));
        let script = ("package.json", r#"{"scripts": {"build": "x"}}"#);
        assert_eq!(build(&[script, ("Makefile", "")], None), command("npm run build"));
        assert_eq!(build(&[("package.json", r#"{"scripts": {}}"#), ("Makefile", "")], None), command("make"));
        assert_eq!(build(&[("a.wasm", "")], None), Ok(Build::None));
        assert!(build(&[], None).unwrap_err().contains("give --build"));
        assert!(build(&[("a.wasm", ""), ("b.wasm", "")], None).unwrap_err().contains("several components"));
        assert!(build(&[("agent.toml", "bild = 1")], None).unwrap_err().contains("did you mean `build`?"));
    }

    #[test]
    fn the_agent_is_named_by_the_folder_or_by_the_component_alone() {
        let root = folder(&[]);
        let place = root.path().join("reporter");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("Makefile"), "").unwrap();
        let agent = |place: &Path| Project::of(place, None).unwrap().default_agent().unwrap().to_string();
        assert_eq!(agent(&place), "reporter");
        std::fs::remove_file(place.join("Makefile")).unwrap();
        std::fs::write(place.join("other.wasm"), "").unwrap();
        assert_eq!((agent(&place), agent(&place.join("other.wasm"))), ("other".to_owned(), "other".to_owned()));
    }
}
