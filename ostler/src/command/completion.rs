//! `ostler completion`: what makes a shell complete the command line.

use std::io::Write as _;

use clap_complete::Shell;

use crate::cli::{ArgShell, CompletionArgs};
use crate::exit::{Code, Failure};

pub(crate) fn run(args: CompletionArgs) -> Result<Code, Failure> {
    let shell = match args.shell {
        ArgShell::Bash => Shell::Bash,
        ArgShell::Zsh => Shell::Zsh,
        ArgShell::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut crate::grammar(), "ostler", &mut text);
    std::io::stdout()
        .write_all(&text)
        .map_err(|error| Failure::new(Code::Failed, "print the completion").because(error))?;
    Ok(Code::Ok)
}
