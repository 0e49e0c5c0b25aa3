//! The sandclock binary: parses the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser as _;
use sandclock::cli::{self, Cli, exit::Exit};

/// A run is some hundreds of small allocations on several threads; this allocator spends a fifth less time on them than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(command) => command,
        Err(told) => {
            // Help is no fault, and a reader that has gone is none either.
            let _ = told.print();
            return if told.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sandclock: the system gives no threads ({error}); raise the limit of processes");
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(cli::execute(command));
    // A thread that is held up by a read of stdin must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}
