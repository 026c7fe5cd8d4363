//! The agent on every hypervisor: job API, ledger, volumes, images, console, events.
