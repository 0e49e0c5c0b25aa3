//! `sandclock init DIR`: a commented configuration, the folders, and a token.
//!
//! Invariant: nothing that exists is overwritten; when something stands in the way, nothing is written at all. The token
//! and the data folder are for their owner only.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::REFERENCE;

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The configuration file.
    pub config: PathBuf,
    /// The file with the token.
    pub token_file: PathBuf,
    /// The folder for plugins.
    pub plugins: PathBuf,
    /// The folder for the daemon's data.
    pub data: PathBuf,
}

/// Why nothing, or not all, was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file is there already.
    #[error("`{}` exists already and is not overwritten: remove it, or choose another directory", .0.display())]
    Exists(PathBuf),
    /// The directory's path cannot be written into a configuration.
    #[error("the path `{}` is not UTF-8: choose another directory", .0.display())]
    Name(PathBuf),
    /// The reference configuration lacks a line that is to be set.
    #[error("the reference configuration has no line `{0}`: this build is faulty, take another")]
    Reference(&'static str),
    /// The file system refused.
    #[error("`{}` cannot be written ({source}): make its directory writable, or choose another", .path.display())]
    Io {
        /// What was being made.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl InitReport {
    /// What to tell the user.
    pub fn text(&self) -> String {
        format!(
            "made {config}\nmade {token} (the token, for your eyes only)\nmade {plugins} (drop components here)\nmade {data}\n\n\
             start:  sandclock serve --config {config}\nclient: SANDCLOCK_TOKEN_FILE={token} sandclock status\n",
            config = self.config.display(),
            token = self.token_file.display(),
            plugins = self.plugins.display(),
            data = self.data.display()
        )
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        serde_json::json!({
            "config": text(&self.config), "token_file": text(&self.token_file), "plugins": text(&self.plugins), "data": text(&self.data),
        })
    }
}

/// Makes `dir` a place to start a daemon from; `token` is the daemon's. Blocks on the file system.
///
/// # Errors
/// One of the files exists, the path is not UTF-8, or the file system refuses.
pub fn init(dir: &Path, token: &str) -> Result<InitReport, InitError> {
    // Absolute paths let the daemon start from any directory.
    let dir = std::path::absolute(dir).map_err(|source| InitError::Io { path: dir.to_owned(), source })?;
    let report = InitReport {
        config: dir.join("sandclock.toml"),
        token_file: dir.join("token"),
        plugins: dir.join("plugins"),
        data: dir.join("data"),
    };
    for path in [&report.config, &report.token_file] {
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path.clone()));
        }
    }
    let config = configuration(&report)?;
    make_folder(&report.plugins, 0o755)?;
    make_folder(&report.data, 0o700)?;
    write_new(&report.token_file, &format!("{token}\n"), 0o600)?;
    write_new(&report.config, &config, 0o644)?;
    Ok(report)
}

/// The reference with the paths of this directory set.
fn configuration(report: &InitReport) -> Result<String, InitError> {
    let mut text = REFERENCE.to_owned();
    let paths = [
        ("#token_file = \"\"", "token_file", &report.token_file),
        ("#data = \".sandclock\"", "data", &report.data),
        ("#plugins = \"plugins\"", "plugins", &report.plugins),
    ];
    for (line, key, path) in paths {
        let path = path.to_str().ok_or_else(|| InitError::Name(path.clone()))?;
        text = replace_line(&text, line, &format!("{key} = {}", toml_edit::Value::from(path)))?;
    }
    for header in ["#[server]", "#[paths]"] {
        text = replace_line(&text, header, header.trim_start_matches('#'))?;
    }
    Ok(text)
}

fn replace_line(text: &str, line: &'static str, by: &str) -> Result<String, InitError> {
    if !text.lines().any(|one| one == line) {
        return Err(InitError::Reference(line));
    }
    Ok(text.lines().map(|one| if one == line { by } else { one }).flat_map(|one| [one, "\n"]).collect())
}

fn make_folder(path: &Path, mode: u32) -> Result<(), InitError> {
    let made = match path.parent() {
        Some(parent) => DirBuilder::new().recursive(true).create(parent),
        None => Ok(()),
    };
    match made.and_then(|()| DirBuilder::new().mode(mode).create(path)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(|source| InitError::Io { path: path.to_owned(), source }),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => InitError::Io { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Environment, Secret, load};

    #[test]
    fn a_daemon_can_start_from_what_it_makes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new \"place\"");
        let report = init(&dir, &"ab".repeat(32)).unwrap();
        let settings = load(Some(&report.config), &Environment::default()).unwrap().settings;
        assert_eq!(settings.server.token, Some(Secret::new("ab".repeat(32))));
        assert_eq!((settings.paths.data, settings.paths.plugins), (report.data.clone(), report.plugins.clone()));
        assert_eq!(settings.paths.workspace, report.data.join("workspace"));
        assert!(report.data.is_dir() && report.plugins.is_dir());
        assert_eq!(fs::metadata(&report.token_file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&report.data).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!fs::read_to_string(&report.config).unwrap().contains(&"ab".repeat(32)));
        assert!(!report.text().contains(&"ab".repeat(32)));
    }

    #[test]
    fn what_exists_stays_and_nothing_else_is_written() {
        for name in ["sandclock.toml", "token"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), "mine").unwrap();
            let error = init(folder.path(), "one").unwrap_err();
            assert!(matches!(&error, InitError::Exists(path) if path.ends_with(name)), "{error}");
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "mine");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plugins"), "mine").unwrap();
        let error = init(folder.path(), "one").unwrap_err();
        assert!(error.to_string().contains("plugins` cannot be written"), "{error}");
        assert!(!folder.path().join("sandclock.toml").exists());
    }
}
