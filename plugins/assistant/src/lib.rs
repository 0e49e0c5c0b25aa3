//! An agent that needs no code: a model with tools, told by its configuration (`[agents.NAME].config`, see `settings.rs`) what to be,
//! against any endpoint that speaks chat completions as OpenAI does. The key is the daemon's to put in; it never comes here.
//!
//! [`conversation`] is the loop; all that is the daemon's is behind its `World`, so that the loop is tested on the host.

mod chat;
mod conversation;
mod daemon;
mod endpoint;
mod files;
mod settings;
mod stream;
mod tools;

use conversation::Finished;
use files::Files;
use sandclock_agent::{Agent, Failure, config, progress};

struct Assistant;

impl Agent for Assistant {
    fn run(query: String) -> Result<String, Failure> {
        let settings = settings::Settings::read(config::all()).map_err(Failure::permanent)?;
        let files = Files::new(".");
        let finished = conversation::run(&settings, &query, &mut daemon::Daemon::new(&settings, &files))?;
        let last = write_output(&files, &finished).err().unwrap_or_else(|| "done".to_owned());
        progress::report(&last, Some(1.0));
        Ok(finished.text)
    }
}

/// Writes what the model did not write itself. All is paid for by now, so a file that cannot be written takes nothing from the result.
fn write_output(files: &Files, finished: &Finished) -> Result<(), String> {
    if finished.wrote_output {
        return Ok(());
    }
    let written = files.write(conversation::OUTPUT, &finished.text).map(|_| ());
    written.map_err(|why| format!("done, but {why}; what it should hold is the result that the run returned"))
}

sandclock_agent::export!(Assistant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_cannot_be_written_is_said_and_no_failure() {
        let root = std::env::temp_dir().join(format!("assistant-output-{}", std::process::id()));
        std::fs::create_dir_all(root.join("output.md")).unwrap();
        let files = Files::new(&root);
        let finished = |wrote_output| Finished { text: "The result.".to_owned(), wrote_output };
        let why = write_output(&files, &finished(false)).unwrap_err();
        assert!(why.starts_with("done, but output.md cannot be written"), "{why}");
        assert_eq!(write_output(&files, &finished(true)), Ok(()), "it is the model's own");
        std::fs::remove_dir(root.join("output.md")).unwrap();
        assert_eq!(write_output(&files, &finished(false)), Ok(()));
        assert_eq!(std::fs::read_to_string(root.join("output.md")).unwrap(), "The result.");
        std::fs::remove_dir_all(root).unwrap();
    }
}
