//! `sandclock runs result`, and files of a workspace: bytes from the daemon to stdout or into a file.
//!
//! Invariant: a file appears under its name only when it is whole.

use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Response;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::domain::id::RunId;

#[derive(Args, Clone, Debug)]
pub(super) struct ResultArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// Where to write the result; stdout when none is given
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
}

pub(super) async fn result(caller: &Caller<'_>, args: ResultArgs) -> Result<Exit, Fault> {
    let segments = ["runs", args.run.as_str(), "result"];
    if caller.json {
        let response = caller.remote.open_stream(&segments, "application/json", None).await?;
        let text = response.text().await.map_err(|error| caller.remote.unreachable(&error))?;
        caller.context.screen.json(&text)?;
        return Ok(Exit::Done);
    }
    to(caller, &segments, args.output.as_deref()).await
}

/// Brings what stands at a path into a file, or to stdout.
pub(super) async fn to(caller: &Caller<'_>, segments: &[&str], output: Option<&Path>) -> Result<Exit, Fault> {
    let response = caller.remote.open_stream(segments, "*/*", None).await?;
    match output.filter(|output| *output != Path::new("-")) {
        Some(output) => into_file(caller, response, output).await?,
        None => to_stdout(caller, response).await?,
    }
    Ok(Exit::Done)
}

async fn to_stdout(caller: &Caller<'_>, mut response: Response) -> Result<(), Fault> {
    let screen = &caller.context.screen;
    if screen.terminals.out {
        // Only the whole text can be made safe: a character may be cut between two pieces.
        let bytes = response.bytes().await.map_err(|error| caller.remote.unreachable(&error))?;
        screen.content(&bytes)?;
        return if bytes.is_empty() || bytes.ends_with(b"\n") { Ok(()) } else { screen.text("\n") };
    }
    while let Some(bytes) = response.chunk().await.map_err(|error| caller.remote.unreachable(&error))? {
        screen.content(&bytes)?;
    }
    Ok(())
}

async fn into_file(caller: &Caller<'_>, response: Response, output: &Path) -> Result<(), Fault> {
    let shown = human::one_line(&output.to_string_lossy());
    let refused = |error: std::io::Error| Fault::failed(format!("`{shown}` cannot be written ({error}); name a file that can"));
    let Some(name) = output.file_name() else {
        return Err(Fault::usage(format!("`{shown}` is no file's name; name the file to write")));
    };
    let mut part_name = std::ffi::OsString::from(".");
    part_name.push(name);
    part_name.push(format!(".{}.part", std::process::id()));
    let part = output.with_file_name(part_name);
    let written = async {
        let file = File::options().write(true).create_new(true).open(&part).await.map_err(refused)?;
        let count = write(caller, response, file).await.map_err(|stopped| stopped.into_fault(refused))?;
        tokio::fs::rename(&part, output).await.map_err(refused)?;
        Ok(count)
    }
    .await;
    match written {
        Ok(count) => {
            caller.context.screen.note(&format!("wrote {} to `{shown}`", human::bytes(count)));
            Ok(())
        }
        Err(fault) => {
            // What is left of it is of no use, and the first fault is the one to tell.
            let _ = tokio::fs::remove_file(&part).await;
            Err(fault)
        }
    }
}

/// Why a download stopped: the connection, or the file.
enum Stopped {
    Remote(Fault),
    Disk(std::io::Error),
}

impl Stopped {
    fn into_fault(self, disk: impl Fn(std::io::Error) -> Fault) -> Fault {
        match self {
            Stopped::Remote(fault) => fault,
            Stopped::Disk(error) => disk(error),
        }
    }
}

async fn write(caller: &Caller<'_>, mut response: Response, mut file: File) -> Result<u64, Stopped> {
    let total = response.content_length();
    let mut count = 0;
    while let Some(bytes) = response.chunk().await.map_err(|error| Stopped::Remote(caller.remote.unreachable(&error)))? {
        file.write_all(&bytes).await.map_err(Stopped::Disk)?;
        count += bytes.len() as u64;
        let of = total.map(|total| format!(" of {}", human::bytes(total))).unwrap_or_default();
        caller.context.screen.status(&format!("{}{of}", human::bytes(count)));
    }
    file.flush().await.map_err(Stopped::Disk)?;
    Ok(count)
}
