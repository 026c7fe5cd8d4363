//! Choosing between KVM and TCG, with the reason.
//!
//! A `/dev/kvm` that opens and libvirt's word for it are not enough: on a CPU without virtualisation
//! flags such a guest hangs for ever. A wrong "no" costs speed, a wrong "yes" every guest, so all
//! three signs must agree.

use std::fs::{self, OpenOptions};

use protocol::host::Accel;

use super::ffi::Connection;

/// How guests are to be run here, and why not by KVM, when not.
pub(super) fn choose(connection: &Connection, wanted: Option<Accel>) -> (Accel, Option<String>) {
    match wanted {
        Some(Accel::Kvm) => return (Accel::Kvm, None),
        Some(Accel::Tcg | Accel::None) => return (Accel::Tcg, Some("as configured".to_owned())),
        None => {}
    }
    let obstacle = cpu_obstacle()
        .or_else(device_obstacle)
        .or_else(|| connection.domain_capabilities("kvm").err().map(|raw| raw.message));
    match obstacle {
        None => (Accel::Kvm, None),
        Some(reason) => (Accel::Tcg, Some(reason)),
    }
}

fn cpu_obstacle() -> Option<String> {
    // Only x86 shows virtualisation in its flags; elsewhere the device has to do.
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    match fs::read_to_string("/proc/cpuinfo") {
        Ok(cpuinfo) if has_virtualisation_flag(&cpuinfo) => None,
        Ok(_) => Some("the CPU has neither vmx nor svm".to_owned()),
        Err(error) => Some(format!("read /proc/cpuinfo: {error}")),
    }
}

fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "vmx" | "svm"))
}

fn device_obstacle() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("open /dev/kvm: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flags_decide_about_the_cpu() {
        assert!(has_virtualisation_flag("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualisation_flag("model name : svm vmx\nflags\t\t: fpu vmxnet\n"));
    }
}
