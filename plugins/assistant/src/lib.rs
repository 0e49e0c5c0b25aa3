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

use sandclock_agent::{Agent, Failure, config, progress};

struct Assistant;

impl Agent for Assistant {
    fn run(query: String) -> Result<String, Failure> {
        let settings = settings::Settings::read(config::all()).map_err(Failure::permanent)?;
        let files = files::Files::new(".");
        let finished = conversation::run(&settings, &query, &mut daemon::Daemon::new(&settings, &files))?;
        if !finished.wrote_output {
            files.write(conversation::OUTPUT, &finished.text).map_err(Failure::retryable)?;
        }
        progress::report("done", Some(1.0));
        Ok(finished.text)
    }
}

sandclock_agent::export!(Assistant);
