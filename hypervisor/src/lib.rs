//! The Hypervisor trait, libvirt behind it, and the fake.
