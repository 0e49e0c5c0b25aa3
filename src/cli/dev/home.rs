//! What stays of a `sandclock dev` beside the sources: the workspace, the last query, and the terminal as it was.

use std::fs::File;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use crate::cli::exit::{Exit, Fault};
use crate::cli::human;

/// The largest query that is kept, in bytes.
const LARGEST: u64 = 1 << 20;

/// The folder of one agent's development, which no other `sandclock dev` has meanwhile.
pub(super) struct Home {
    folder: PathBuf,
    _lock: File,
}

impl Home {
    /// Takes the folder.
    ///
    /// # Errors
    /// It cannot be made, or another has it.
    pub(super) fn take(folder: &Path, agent: &str) -> Result<Home, Fault> {
        let shown = human::one_line(&folder.to_string_lossy());
        let broken = |error: std::io::Error| {
            Fault::failed(format!("the folder `{shown}` cannot be used ({error}); make it writable, or set `paths.data`"))
        };
        std::fs::create_dir_all(folder).map_err(broken)?;
        let lock = File::create(folder.join("lock")).map_err(broken)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let sentence = format!("another `sandclock dev` works on the agent `{agent}`; end it, or name another agent with --agent");
            return Err(Fault::new(Exit::Conflict, sentence));
        }
        Ok(Home { folder: std::fs::canonicalize(folder).map_err(broken)?, _lock: lock })
    }

    /// The workspace of the next run: empty, or as the last run left it.
    ///
    /// # Errors
    /// It cannot be made or emptied.
    pub(super) fn workspace(&self, keeps: bool) -> Result<PathBuf, Fault> {
        let path = self.folder.join("workspace");
        let removed = if keeps { Ok(()) } else { std::fs::remove_dir_all(&path) };
        let emptied = removed.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        emptied.and_then(|()| std::fs::create_dir_all(&path)).map_err(|error| {
            let shown = human::one_line(&path.to_string_lossy());
            Fault::failed(format!("the workspace `{shown}` cannot be made empty ({error}); remove it"))
        })?;
        Ok(path)
    }

    /// What was asked last.
    pub(super) fn last_query(&self) -> Option<String> {
        let path = self.folder.join("query");
        let is_small = std::fs::metadata(&path).is_ok_and(|about| about.len() <= LARGEST);
        is_small.then(|| std::fs::read_to_string(path).ok()).flatten()
    }

    /// Keeps a typed line as the query; an empty one asks again what was asked before, and is none.
    pub(super) fn keep_query(&self, line: &str) -> Option<String> {
        let line = line.trim();
        if line.is_empty() {
            return None;
        }
        // The next start asks something else then, which does no harm.
        let _ = std::fs::write(self.folder.join("query"), line);
        Some(line.to_owned())
    }
}

/// The lines of stdin as they come. The thread that reads them ends with the process.
pub(super) fn typed_lines(room: usize) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(room);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The terminal's settings, which are put back at the end whatever a build did to them.
pub(super) struct Terminal(Option<Termios>);

impl Terminal {
    /// The settings as they are.
    pub(super) fn kept() -> Terminal {
        let stdin = std::io::stdin();
        Terminal(stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A terminal that has gone needs none.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, settings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_one_developer_and_a_workspace_that_is_empty_unless_it_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::take(&root.path().join("dev/a"), "a").unwrap();
        assert_eq!(Home::take(&root.path().join("dev/a"), "a").err().unwrap().exit(), Exit::Conflict);
        let workspace = home.workspace(false).unwrap();
        std::fs::write(workspace.join("x"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), workspace.join("out")).unwrap();
        assert!(home.workspace(true).unwrap().join("x").exists());
        assert!(!home.workspace(false).unwrap().join("x").exists());
        assert!(root.path().join("dev/a/lock").exists(), "a guest's link is not followed");
        assert_eq!((home.last_query(), home.keep_query(" \n"), home.keep_query(" q ")), (None, None, Some("q".to_owned())));
        assert_eq!(home.last_query().as_deref(), Some("q"));
    }
}
