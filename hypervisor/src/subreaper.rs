//! Reaping the processes that libvirt leaves to PID 1.
//!
//! libvirt daemonises QEMU and then waits until a killed one has vanished. In a container whose PID 1
//! reaps late, that takes ten seconds for every `destroy`. So a program that drives
//! `qemu:///embed` there runs as a child of one that adopts and reaps its orphans. It must not be
//! the same process: reaping everything would take libvirt's and `std`'s own children away from them.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, WaitOptions, WaitStatus, set_child_subreaper, wait};

/// Runs `command` to its end while reaping every orphan among its descendants.
///
/// The calling process must have no other children whose end anybody waits for. Descendants that
/// outlive the command are left running.
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    set_child_subreaper(Pid::from_raw(1))?;
    let child = Pid::from_child(&command.spawn()?);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(exit_status(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}
