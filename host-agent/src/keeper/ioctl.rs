//! What the kernel is told of a watchdog beside bytes: `linux/watchdog.h`.

#![expect(unsafe_code, reason = "an ioctl is told by a number what it writes to")]

use std::fs::File;
use std::io;

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
const GET_TIMEOUT: Opcode = opcode::read::<i32>(b'W', 7);

/// Says how many seconds after a feed it shall bite; how many they are, which may be others.
pub(super) fn set_timeout(watchdog: &File, seconds: i32) -> io::Result<i32> {
    let mut value = seconds;
    // SAFETY: WDIOC_SETTIMEOUT reads and writes one int, and every other device refuses its number.
    unsafe { ioctl(watchdog, Updater::<SET_TIMEOUT, i32>::new(&mut value)) }?;
    Ok(value)
}

/// How many seconds after a feed it bites.
pub(super) fn timeout(watchdog: &File) -> io::Result<i32> {
    // SAFETY: WDIOC_GETTIMEOUT writes one int, and every other device refuses its number.
    Ok(unsafe { ioctl(watchdog, Getter::<GET_TIMEOUT, i32>::new()) }?)
}
