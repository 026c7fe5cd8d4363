//! The program. All of it is in the library beside this, for the sake of those who write its manual.

fn main() -> std::process::ExitCode {
    ostler::run()
}
