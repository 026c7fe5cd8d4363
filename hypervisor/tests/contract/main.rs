//! One contract, three hypervisors: the same cases on the fake, on libvirt's test driver and on real
//! QEMU. What is true only of one of them is in that one's module.

mod cases;

mod subject;

mod fake;

mod test_driver;

mod real_qemu;

#[path = "../../src/skipped.rs"]
mod skipped;
