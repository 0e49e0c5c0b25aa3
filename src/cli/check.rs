//! `sandclock check`: what a plugin is, and whether this daemon would accept it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Context;
use super::exit::{Exit, Fault};
use super::human;
use super::screen::{Colour, Screen};
use super::table::{Cell, Sheet, Table};
use crate::config::{self, Settings};
use crate::daemon::capabilities::{Capability, Grant};
use crate::daemon::foreground::{Foreground, ForegroundError, PluginReport};
use crate::domain::id::AgentId;

/// Say what a plugin exports and imports, and whether the daemon would accept it
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The component
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// The agent that it is looked at as; the one of the file's name when not given
    #[arg(long, value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    /// The configuration file, whose limits and cache apply [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries the verb out.
///
/// # Errors
/// The file cannot be read or the sandbox not be started.
pub async fn execute(args: CheckArgs, context: &Context) -> Result<Exit, Fault> {
    let loaded = config::load(args.config.as_deref(), &context.env.without_token()).map_err(|faults| Fault::usage(faults.to_string()))?;
    context.screen.status("compiling");
    let checked = load(&args.plugin, &loaded.settings).await?;
    context.screen.clear_status();
    let (report, refusal) = match &checked {
        Ok(foreground) => (Some(foreground.report(agent_of(args.agent, &args.plugin, &loaded.settings).as_ref())), None),
        Err(refusal) => (None, Some(refusal.as_str())),
    };
    if args.json {
        context.screen.json(&json!({"accepted": refusal.is_none(), "refusal": refusal, "plugin": report}).to_string())?;
    } else {
        context.screen.text(&text(&context.screen, &args.plugin, report.as_ref(), refusal))?;
    }
    Ok(if refusal.is_none() { Exit::Done } else { Exit::Failed })
}

/// The agent whose settings apply to a file: the one that was given, or else the one of the file's name. The file of a Rust library has `_`
/// where its package, and so an agent of that name, has `-`.
pub fn agent_of(given: Option<AgentId>, plugin: &Path, settings: &Settings) -> Option<AgentId> {
    let stem = plugin.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_configured = |agent: &AgentId| settings.agents.contains_key(agent);
    let dashed = || AgentId::parse(&stem.replace('_', "-")).ok().filter(is_configured);
    let is_plain = AgentId::parse(stem).is_ok_and(|agent| is_configured(&agent));
    given.or_else(|| if is_plain { None } else { dashed() })
}

/// Loads a plugin, or says why the daemon would refuse it.
///
/// # Errors
/// The file is not there, or the sandbox cannot be started.
pub async fn load(plugin: &Path, settings: &Settings) -> Result<Result<Foreground, String>, Fault> {
    let shown = human::one_line(&plugin.to_string_lossy());
    match tokio::fs::metadata(plugin).await {
        Ok(about) if about.is_file() => {}
        Ok(_) => return Err(Fault::usage(format!("`{shown}` is no file; name a component, a *.wasm file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Fault::new(Exit::NotFound, format!("there is no file `{shown}`; name a component, a *.wasm file")));
        }
        Err(error) => return Err(Fault::failed(format!("`{shown}` cannot be read ({error}); name a file that can"))),
    }
    match Foreground::load(plugin, settings).await {
        Ok(foreground) => Ok(Ok(foreground)),
        Err(ForegroundError::Refused(reason)) => Ok(Err(reason)),
        Err(error) => Err(Fault::failed(error.to_string())),
    }
}

fn text(screen: &Screen, plugin: &Path, report: Option<&PluginReport>, refusal: Option<&str>) -> String {
    let mut sheet = Sheet::new();
    sheet.entry("plugin", plugin.to_string_lossy());
    if let Some(report) = report {
        sheet.entry("digest", &report.digest);
        sheet.entry("shape", report.shape);
        sheet.entry("exports", listed(&report.exports));
        sheet.entry("imports", listed(&report.imports));
    }
    let verdict = match refusal {
        None => screen.paint(Colour::Good, "accepted"),
        Some(reason) => format!("{}: {}", screen.paint(Colour::Bad, "refused"), human::one_line(reason)),
    };
    let asked = report.map(|report| capabilities(screen, report)).unwrap_or_default();
    format!("{}{asked}{verdict}\n", sheet.render(screen))
}

/// What the plugin can ask for, and the lines that would grant what is missing.
fn capabilities(screen: &Screen, report: &PluginReport) -> String {
    let mut table = Table::new(&["CAN ASK FOR", "AS THIS AGENT", "WHAT"]);
    for Capability { name, grant, says, .. } in &report.capabilities {
        let colour = match grant {
            Grant::Granted => Colour::Good,
            Grant::Missing | Grant::Unused => Colour::Busy,
            Grant::Refused => Colour::Dim,
        };
        table.row(vec![Cell::new(name), Cell::new(grant.as_str()).in_colour(colour), Cell::new(human::one_line(says))]);
    }
    if table.is_empty() {
        return String::new();
    }
    let lines: Vec<&str> = report.capabilities.iter().filter_map(|capability| capability.toml.as_deref()).collect();
    let mend = match lines.as_slice() {
        [] => String::new(),
        lines => format!("\nWhat is missing is granted by lines such as\n\n{}\n", lines.join("\n\n")),
    };
    format!("\n{}{mend}\n", table.render(screen))
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [name] => name.clone(),
        // A value of several lines is set below its name.
        names => names.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::screen::Terminals;
    use super::*;

    #[test]
    fn names_that_steer_a_terminal_are_made_safe() {
        let screen = Screen::new(Box::new(io::sink()), Box::new(io::sink()), Terminals::default());
        let report = PluginReport {
            digest: "d".into(),
            shape: "agent",
            imports: vec!["wasi:cli/run".into(), "x\u{1b}[2J".into()],
            exports: vec![],
            agent: "a".into(),
            capabilities: vec![],
        };
        let accepted = text(&screen, Path::new("p\u{7}.wasm"), Some(&report), None);
        assert!(!accepted.contains(['\u{1b}', '\u{7}']) && accepted.ends_with("accepted\n"), "{accepted:?}");
        assert!(accepted.contains("imports\n  wasi:cli/run\n  x\\u{1b}[2J\n"), "{accepted}");
        let refused = text(&screen, Path::new("p.wasm"), None, Some("bad\n\u{1b}magic"));
        assert!(refused.ends_with("refused: bad \\u{1b}magic\n"), "{refused:?}");
    }
}
