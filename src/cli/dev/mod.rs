//! `sandclock dev`: builds an agent's sources, runs it, and does both again when they change.
//!
//! Invariant: one thing goes on at a time, a build or a run, and what is shown of a run comes from the sources as they were when its build
//! began. The answer goes to stdout and nothing else does. It fails before the first build only; afterwards a fault is shown and the next
//! change is waited for.

mod build;
mod fires;
mod home;
mod project;
mod sources;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use clap::Args;
use tokio::sync::mpsc;

use super::Context;
use super::exit::{Exit, Fault};
use super::guest_output::GuestOutput;
use super::screen::Colour;
use super::{human, run, wait};
use crate::config::{self, Loaded, Settings};
use crate::daemon::foreground::{Foreground, ForegroundError, ForegroundRun, Workbench};
use crate::domain::id::AgentId;
use crate::domain::time::Seconds;
use crate::sandbox::{AttemptReport, AttemptSignals, Ended, GuestHost, Stop};
use build::Built;
use home::{Home, Terminal};
use project::{Build, Project};
use sources::{Snapshot, Sources, differing};

/// How many builds in a row may change the sources before what they all changed makes no further build by itself.
const BUILDS: u32 = 3;
/// Typed lines that wait.
const LINES: usize = 8;

/// Build an agent, run it, and do both again whenever its sources change; a typed line is the next query
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// The folder of the sources, or a component that something else builds
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// What the agent is asked; the last query when not given, or that of agent.toml or of the agent's first task
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// The command that builds the component; as agent.toml says, or what fits the folder, when not given
    #[arg(long, value_name = "CMD")]
    build: Option<String>,
    /// The configuration file, whose limits, agents and tasks apply; it is read anew for each run [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent whose settings apply; the one of the folder's name when not given
    #[arg(long, value_name = "NAME", value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    /// How long an attempt may take; as configured when not given
    #[arg(long, value_name = "SECONDS", value_parser = wait::seconds)]
    timeout: Option<Seconds>,
    /// Keep the workspace from run to run; otherwise each begins with an empty one
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    answers: run::AnswerArgs,
    /// Print a report of each run in JSON, one a line, instead of the answers
    #[arg(long)]
    json: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Build,
    Run,
    Wait,
    End,
}

/// Carries the verb out.
///
/// # Errors
/// The folder is none of an agent's, the configuration is wrong, or another `sandclock dev` has the agent.
pub async fn execute(args: DevArgs, context: &Context) -> Result<Exit, Fault> {
    context.signals.end_with_terminal()?;
    let _terminal = Terminal::kept();
    let mut dev = Dev::open(args, context).await?;
    let mut next = Next::Build;
    loop {
        next = match next {
            Next::Build => dev.build().await?,
            Next::Run => dev.run().await?,
            Next::Wait => dev.wait().await,
            Next::End => return Ok(Exit::Interrupted),
        };
    }
}

struct Dev<'a> {
    args: DevArgs,
    context: &'a Context,
    project: Project,
    sources: Sources,
    /// The sources as they were when the last build began.
    built_of: Snapshot,
    /// How many builds in a row found the sources changed at their end.
    again: u32,
    /// What changed during each of these builds.
    often: BTreeSet<PathBuf>,
    /// What builds write by themselves, as far as that was found out: a change of that while nothing is built counts as ever.
    made: BTreeSet<PathBuf>,
    loaded: Loaded,
    home: Home,
    agent: Option<AgentId>,
    bench: Workbench,
    /// The component that runs, once there is one.
    component: Option<(PathBuf, Arc<Foreground>)>,
    query: Option<String>,
    lines: mpsc::Receiver<String>,
}

impl<'a> Dev<'a> {
    async fn open(args: DevArgs, context: &'a Context) -> Result<Dev<'a>, Fault> {
        let loaded =
            config::load(args.config.as_deref(), &context.env.without_token()).map_err(|faults| Fault::usage(faults.to_string()))?;
        let project = Project::of(&args.dir, args.build.as_deref()).map_err(Fault::usage)?;
        let named = args.agent.clone().or_else(|| project.agent.clone());
        if let Some(agent) = named.as_ref().filter(|agent| !loaded.settings.agents.contains_key(*agent)) {
            let note = format!("the configuration has no agent `{agent}`; it runs with the defaults");
            context.screen.note(&note);
        }
        let agent = named.or_else(|| project.default_agent());
        let name = agent.as_ref().map_or("agent", AgentId::as_str);
        let home = Home::take(&loaded.settings.paths.data.join("dev").join(name), name)?;
        let query = args.query.clone().or_else(|| home.last_query()).or_else(|| project.query.clone());
        let query = query.or_else(|| fires::first_query(&loaded, agent.as_ref(), context.now()));
        let bench = Workbench::open(&loaded.settings).map_err(|error| Fault::failed(error.to_string()))?;
        let (sources, built_of) = Sources::watch(&project).await;
        let lines = home::typed_lines(LINES);
        let (often, made) = Default::default();
        Ok(Dev {
            args,
            context,
            project,
            sources,
            built_of,
            again: 0,
            often,
            made,
            loaded,
            home,
            agent,
            bench,
            component: None,
            query,
            lines,
        })
    }

    /// Says something of the loop itself.
    fn say(&self, colour: Colour, text: &str) {
        let screen = &self.context.screen;
        screen.note(&format!("{} {}", screen.paint_note(Colour::Dim, "dev |"), screen.paint_note(colour, text)));
    }

    fn is_over(&self) -> bool {
        self.context.signals.asked().is_cancelled()
    }

    async fn build(&mut self) -> Result<Next, Fault> {
        match Project::of(&self.args.dir, self.args.build.as_deref()) {
            Ok(project) if project == self.project => {}
            Ok(project) => {
                (self.sources, self.built_of) = Sources::watch(&project).await;
                self.project = project;
            }
            Err(fault) => {
                self.say(Colour::Bad, &human::printable(&fault));
                return Ok(Next::Wait);
            }
        }
        for note in self.sources.notes() {
            self.say(Colour::Busy, &human::one_line(&note));
        }
        let builds = self.project.build != Build::None;
        if builds {
            self.say(Colour::Dim, &format!("building: {}", human::one_line(&self.project.build.shown())));
        }
        let begun = std::time::Instant::now();
        let built = build::build(&self.project, &self.context.signals.asked()).await;
        if matches!(built, Built::Stopped) {
            return Ok(Next::End);
        }
        match &built {
            Built::Failed(why) => {
                let stays = if self.component.is_some() { "; the component before it stays" } else { "" };
                self.say(Colour::Bad, &format!("{}{stays}", human::one_line(why)));
            }
            Built::Component(_) if builds => self.say(Colour::Good, &format!("built after {}", human::span(begun.elapsed()))),
            Built::Component(_) | Built::Stopped => {}
        }
        if self.has_changed_meanwhile().await {
            return Ok(Next::Build);
        }
        match built {
            Built::Component(path) => Ok(self.load(path).await),
            Built::Failed(_) | Built::Stopped => Ok(Next::Wait),
        }
    }

    /// Whether the sources are others than those that were built, so that one more build is due.
    async fn has_changed_meanwhile(&mut self) -> bool {
        let now = self.sources.snapshot().await;
        let files: BTreeSet<PathBuf> = differing(&self.built_of, &now).into_iter().collect();
        // What a build ends without having changed, no build writes by itself.
        self.made.retain(|file| files.contains(file));
        if files.is_subset(&self.made) {
            (self.again, self.built_of) = (0, now);
            return false;
        }
        self.often = if self.again == 0 { files.clone() } else { &self.often & &files };
        self.again += 1;
        if self.again >= BUILDS {
            let named = self.shown(&Vec::from_iter(files));
            self.say(
                Colour::Busy,
                &format!("each build changes {named}: the next change builds again; name with `ignore` what builds write"),
            );
            self.made.append(&mut self.often);
            (self.again, self.built_of) = (0, now);
            return false;
        }
        let (now, files) = self.sources.changed(&self.built_of).await;
        self.note_change(now, &files);
        true
    }

    fn note_change(&mut self, now: Snapshot, files: &[PathBuf]) {
        self.say(Colour::Busy, &format!("changed: {}", self.shown(files)));
        self.built_of = now;
    }

    /// The files that changed, the first few of them by name.
    fn shown(&self, files: &[PathBuf]) -> String {
        let name = |path: &PathBuf| human::one_line(&path.strip_prefix(&self.project.folder).unwrap_or(path).to_string_lossy());
        let named = files.iter().take(3).map(name).collect::<Vec<_>>().join(", ");
        if files.len() > 3 { format!("{named} and {} more", files.len() - 3) } else { named }
    }

    /// Loads a component; the one before it stays when that is refused.
    async fn load(&mut self, path: PathBuf) -> Next {
        self.context.screen.status("compiling");
        let loaded = tokio::select! {
            loaded = self.bench.load(&path) => loaded,
            () = self.context.signals.asked().cancelled_owned() => return Next::End,
        };
        self.context.screen.clear_status();
        match loaded {
            Ok(foreground) => {
                self.component = Some((path, Arc::new(foreground)));
                if self.query.is_none() {
                    self.say(Colour::Good, "it is accepted; type what to ask it, or give --query");
                    return Next::Wait;
                }
                Next::Run
            }
            Err(error) => {
                let why = match error {
                    ForegroundError::Refused(reason) => reason,
                    other => other.to_string(),
                };
                self.say(Colour::Bad, &human::one_line(&why));
                Next::Wait
            }
        }
    }

    /// Reads the configuration again, so that a run has its agent's settings as they are now.
    async fn configure(&mut self) -> Option<Next> {
        match config::load(self.args.config.as_deref(), &self.context.env.without_token()) {
            Ok(loaded) if loaded.settings == self.loaded.settings => None,
            Ok(loaded) => match Workbench::open(&loaded.settings) {
                Ok(bench) => {
                    (self.loaded, self.bench) = (loaded, bench);
                    let (path, _) = self.component.take()?;
                    Some(self.load(path).await).filter(|next| *next != Next::Run)
                }
                Err(error) => {
                    self.say(Colour::Bad, &human::one_line(&error.to_string()));
                    None
                }
            },
            Err(faults) => {
                self.say(Colour::Bad, &format!("the configuration stays as it was: {}", human::one_line(&faults.to_string())));
                None
            }
        }
    }

    async fn run(&mut self) -> Result<Next, Fault> {
        if let Some(next) = self.configure().await {
            return Ok(next);
        }
        let (Some((_, foreground)), Some(query)) = (self.component.clone(), self.query.clone()) else { return Ok(Next::Wait) };
        let workspace = self.home.workspace(self.args.keep)?;
        let run_id = Foreground::new_run_id();
        let host = Arc::new(GuestOutput::new(Arc::clone(&self.context.screen), run_id.clone(), self.args.answers.given()));
        let signals = AttemptSignals::new();
        self.context.screen.status("running");
        let wish = ForegroundRun {
            agent: self.agent.clone(),
            query,
            workspace: &workspace,
            timeout: self.args.timeout.map(Seconds::duration),
            run_id: run_id.clone(),
        };
        let mut attempt = pin!(foreground.run(wish, Arc::<GuestOutput>::clone(&host) as Arc<dyn GuestHost>, Arc::clone(&signals)));
        let ends = tokio::select! {
            report = &mut attempt => Ok(report),
            changed = self.sources.changed(&self.built_of) => Err((Next::Build, Some(changed))),
            Some(line) = self.lines.recv() => {
                self.query = self.home.keep_query(&line).or(self.query.take());
                Err((Next::Run, None))
            }
            () = self.context.signals.asked().cancelled_owned() => Err((Next::End, None)),
        };
        let (report, next, changed) = match ends {
            Ok(report) => (report, Next::Wait, None),
            Err((next, changed)) => (stopped(self.context, &self.loaded.settings, attempt, &signals).await, next, changed),
        };
        host.finish();
        if let Ended::Completed(result) = &report.ended {
            run::keep_result(&workspace, result)?;
        }
        run::tell(self.context, &report, &run_id, &workspace, self.args.json)?;
        if let Some((now, files)) = changed {
            self.note_change(now, &files);
        } else if next == Next::Wait {
            self.tell_fires();
        }
        Ok(next)
    }

    /// Tells when the tasks of the configuration that have this agent fire next.
    fn tell_fires(&self) {
        let screen = &self.context.screen;
        for line in fires::next(&self.loaded, self.agent.as_ref(), self.context.now()) {
            screen.note(&format!("{} {line}", screen.paint_note(Colour::Dim, "nxt |")));
        }
    }

    async fn wait(&mut self) -> Next {
        self.context.screen.status("waiting for a change");
        let next = tokio::select! {
            (now, files) = self.sources.changed(&self.built_of) => {
                self.note_change(now, &files);
                Next::Build
            }
            Some(line) = self.lines.recv() => {
                self.query = self.home.keep_query(&line).or(self.query.take());
                if self.component.is_some() { Next::Run } else { Next::Wait }
            }
            () = self.context.signals.asked().cancelled_owned() => Next::End,
        };
        self.context.screen.clear_status();
        if self.is_over() { Next::End } else { next }
    }
}

/// Asks an attempt to stop, and stops it after its grace or at a second signal.
async fn stopped(
    context: &Context,
    settings: &Settings,
    attempt: std::pin::Pin<&mut impl Future<Output = AttemptReport>>,
    signals: &AttemptSignals,
) -> AttemptReport {
    signals.ask_cancel();
    let mut attempt = attempt;
    tokio::select! {
        report = &mut attempt => return report,
        () = tokio::time::sleep(settings.worker.cancel_grace.duration()) => {}
        () = context.signals.hurry().cancelled_owned() => {}
    }
    signals.trap_now(Stop::CancelGraceOver);
    attempt.await
}
