//! Writes the manual pages of `ostler` and its commands into a folder, from the command line's own
//! grammar: `cargo run -p ostler --example manual -- FOLDER`.
//!
//! An example and no command, so that the program that is installed does not carry it.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("name a folder"))?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(ostler::grammar(), folder)
}
