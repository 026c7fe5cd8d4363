//! The one binary: every role as a subcommand, and the user's commands.
//!
//! Decides nothing but which command runs and what its end means to a shell (`exit.rs`).

mod cli;

mod command;

mod session;

mod picture;

mod gauge;

mod follow;

mod govern;

mod show;

mod exit;

mod interrupt;

mod reaper;

mod traces;

mod dev;

mod ui;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;
use crate::exit::Code;

/// Does what the command line says, and returns how that ended.
#[must_use]
pub fn run() -> std::process::ExitCode {
    let words = Cli::command().try_get_matches().unwrap_or_else(|error| misused(&error));
    let cli = Cli::from_arg_matches(&words).unwrap_or_else(|error| misused(&error));
    let is_json = cli.global.json;
    let code = match command::run(cli, words.subcommand_name().unwrap_or_default()) {
        Ok(code) => code,
        Err(failure) => {
            failure.tell(is_json);
            failure.code
        }
    };
    code.into()
}

/// Ends with what is wrong with the command line, or with the help that was asked for. Nothing of the line was
/// understood, so a script that asks for JSON is known by the word as it stands.
fn misused(error: &clap::Error) -> ! {
    let wants_json = std::env::args_os().any(|word| word == "--json");
    if wants_json && error.use_stderr() {
        exit::Failure::of_usage(error).tell(true);
        std::process::exit(Code::Usage as i32);
    }
    error.exit()
}

/// Every command with its flags, for manual pages.
#[must_use]
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs a command's future on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T, exit::Failure>>) -> Result<T, exit::Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| exit::Failure::new(Code::Failed, "start the runtime").because(error))?;
    let result = runtime.block_on(work);
    // A thread that waits for the keyboard never ends by itself.
    runtime.shutdown_background();
    result
}
