//! How a domain is described to libvirt: pure, from [`DomainConfig`] to XML.
//!
//! The same configuration gives the same text on every host, network addresses included, so that
//! defining it twice changes nothing and a migrated guest finds the same devices. Files under
//! `golden/` hold what operators will see in `virsh dumpxml`. Whether the driver can do it is
//! decided by [`unsupported`]; whether files exist is left to libvirt.

use std::path::Path;

use protocol::host::Accel;
use protocol::id::JobId;
use protocol::vm::{
    CpuMode, CpuSpec, DiskBus, DiskCache, DiskSpec, Firmware, NicSpec, Plug, Watchdog, pci_parts,
};
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer, XmlVersion};

use crate::domain::{DomainConfig, Volume, VolumeFormat};
use crate::fittings::{Fitting, Fittings};
use crate::resize::SLOTS;

/// Namespace of our element in a domain's metadata.
pub(crate) const JOB_NAMESPACE: &str = "urn:ostler:job";
/// Prefix of that namespace.
pub(crate) const JOB_PREFIX: &str = "ostler";

/// The libvirt drivers that differ in what a definition may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// QEMU behind a libvirt daemon.
    Qemu,
    /// QEMU driven from inside our own process.
    QemuEmbedded,
    /// libvirt's driver that only pretends.
    Test,
}

/// Devices that nearly every guest has at ports of PCI Express: the controllers of its channel and of disks,
/// its balloon, its source of randomness, USB.
const PORTS_USUAL: usize = 5;
/// Ports for what comes while it runs.
const PORTS_SPARE: usize = 4;
/// Each takes a part of the little room for I/O ports that a PC has.
const PORTS_MAX: usize = 24;

/// The domain's definition.
#[must_use]
pub fn domain_xml(config: &DomainConfig, driver: DriverKind) -> String {
    let mut xml = Xml::new();
    xml.open("domain", &[("type", domain_type(config.accel, driver))]);
    xml.text("name", &[], config.job.as_str());
    xml.text("uuid", &[], &config.uuid.to_string());
    identity(&mut xml, config);
    machine(&mut xml, config, driver);
    lifecycle(&mut xml);
    devices(&mut xml, config, driver);
    xml.close("domain");
    xml.into_string()
}

/// A disk or card by itself.
pub(crate) struct Device {
    /// What it is, in words.
    pub(crate) what: String,
    /// Its element.
    pub(crate) xml: String,
}

/// The disks and cards of a configuration that its guest, which has these, could be given while it runs. A disk
/// whose name is taken, by one that had it before others went, gets one that is free.
pub(crate) fn missing(config: &DomainConfig, has: &Fittings) -> Vec<Device> {
    let mut devices = Vec::new();
    let mut taken: Vec<String> = has.devices().map(str::to_owned).collect();
    let disks = config.vm.disks.iter().zip(&config.volumes).zip('a'..='z');
    for ((spec, volume), letter) in disks {
        if has.has(&Fitting::Disk(volume.path.clone())) {
            continue;
        }
        let (prefix, _) = bus_words(spec.bus);
        let is_free = |letter: &char| !taken.contains(&format!("{prefix}{letter}"));
        let free = std::iter::once(letter).chain('a'..='z').find(is_free);
        let letter = free.unwrap_or(letter);
        taken.push(format!("{prefix}{letter}"));
        let mut xml = Xml::new();
        disk(&mut xml, volume, spec, letter);
        devices.push(Device { what: format!("disk {:?}", spec.name), xml: xml.into_string() });
    }
    for (nic, mac) in config.vm.nics.iter().zip(config.vm.macs(config.uuid)) {
        if has.has(&Fitting::Card(mac.clone())) {
            continue;
        }
        let mut xml = Xml::new();
        interface(&mut xml, nic, &mac);
        devices.push(Device { what: format!("card {mac}"), xml: xml.into_string() });
    }
    devices
}

/// Our metadata element as libvirt wants it when set alone: it adds prefix and namespace itself.
pub(crate) fn job_element(job: &JobId) -> String {
    let mut xml = Xml::new();
    xml.empty("job", &[("id", job.as_str())]);
    xml.into_string()
}

/// The job that our metadata element names; `None` when somebody has spoilt it.
pub(crate) fn job_of_element(element: &str) -> Option<JobId> {
    let mut reader = Reader::from_str(element);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) | Event::Empty(start) => {
                let id = start.try_get_attribute("id").ok()??;
                return JobId::new(id.normalized_value(XmlVersion::Implicit1_0).ok()?).ok();
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// What this driver can't do of the configuration, if anything.
pub(crate) fn unsupported(config: &DomainConfig, driver: DriverKind) -> Option<String> {
    let plugs = config.vm.nics.iter().map(|nic| &nic.plug);
    match (driver, plugs.into_iter().find(|plug| matches!(plug, Plug::Libvirt { .. }))) {
        (DriverKind::QemuEmbedded, Some(Plug::Libvirt { name })) => {
            Some(format!("network {name} needs a libvirt daemon: use `user` or a bridge here"))
        }
        _ => None,
    }
}

/// What is wrong with the configuration whatever the driver, if anything.
pub(crate) fn refused(config: &DomainConfig) -> Option<String> {
    if let Err(error) = config.vm.validate() {
        return Some(error.to_string());
    }
    let paths = config.volumes.iter().map(|volume| volume.path.as_path());
    let written = [Some(&config.console_log), config.exit_file.as_ref()];
    let written = written.into_iter().flatten().map(std::path::PathBuf::as_path);
    let unwritable = paths.chain(written).find(|path| !is_writable(path));
    unwritable.map(|path| format!("path {path:?} is not absolute printable UTF-8"))
}

/// XML can't hold control characters, and libvirt no relative paths.
fn is_writable(path: &Path) -> bool {
    path.is_absolute() && path.to_str().is_some_and(|text| !text.contains(char::is_control))
}

fn domain_type(accel: Accel, driver: DriverKind) -> &'static str {
    match (driver, accel) {
        (DriverKind::Test, _) => "test",
        (_, Accel::Kvm) => "kvm",
        (_, Accel::Tcg | Accel::None) => "qemu",
    }
}

fn identity(xml: &mut Xml, config: &DomainConfig) {
    xml.open("metadata", &[]);
    let namespace = format!("xmlns:{JOB_PREFIX}");
    let attributes = [(namespace.as_str(), JOB_NAMESPACE), ("id", config.job.as_str())];
    xml.empty(&format!("{JOB_PREFIX}:job"), &attributes);
    xml.close("metadata");
    size(xml, config);
    placement(xml, config);
    if let Some(partition) = &config.partition {
        xml.open("resource", &[]);
        xml.text("partition", &[], partition);
        xml.close("resource");
    }
    // cloud-init's NoCloud data source reads its name and instance id from the SMBIOS serial, so
    // an image gets its hostname without a seed disk.
    let serial = format!("ds=nocloud;h={};i={}", config.job, config.uuid);
    xml.open("sysinfo", &[("type", "smbios")]);
    xml.open("system", &[]);
    xml.text("entry", &[("name", "manufacturer")], "Ostler");
    xml.text("entry", &[("name", "product")], "VM");
    xml.text("entry", &[("name", "serial")], &serial);
    xml.close("system");
    xml.close("sysinfo");
}

/// What it starts with, and how far that can change while it runs. CPUs that may come may also go,
/// but for the first.
fn size(xml: &mut Xml, config: &DomainConfig) {
    let (vm, kib) = (&config.vm, |bytes: u64| (bytes / 1024).to_string());
    if let Some(max) = memory_room(config) {
        let attributes = [("slots", &*SLOTS.to_string()), ("unit", "KiB")];
        xml.text("maxMemory", &attributes, &kib(max));
    }
    xml.text("memory", &[("unit", "KiB")], &kib(vm.memory_bytes));
    let (vcpus, shared) = (vm.vcpus.to_string(), config.cpus.shared.to_string());
    let cpuset = (!shared.is_empty()).then_some(("cpuset", &*shared));
    let current = vm.max_vcpus.map(|_| ("current", &*vcpus));
    let attributes: Vec<_> = cpuset.into_iter().chain(current).collect();
    let max = vm.max_vcpus.unwrap_or(vm.vcpus);
    xml.text("vcpu", &attributes, &max.to_string());
    if vm.max_vcpus.is_none() {
        return;
    }
    xml.open("vcpus", &[]);
    for id in 0..max {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let (enabled, moves) = (yes(id < vm.vcpus), yes(id > 0));
        xml.empty(
            "vcpu",
            &[("id", &*id.to_string()), ("enabled", enabled), ("hotpluggable", moves)],
        );
    }
    xml.close("vcpus");
}

/// Most memory that can be plugged in, if that is more than it starts with.
fn memory_room(config: &DomainConfig) -> Option<u64> {
    config.vm.max_memory_bytes.filter(|max| *max > config.vm.memory_bytes)
}

/// A piece of memory to be plugged into a running guest, which then has `total_bytes`.
pub(crate) fn memory_piece_xml(bytes: u64, total_bytes: u64) -> String {
    let mut xml = Xml::new();
    xml.open("memory", &[("model", "dimm")]);
    xml.open("target", &[]);
    xml.text("size", &[("unit", "KiB")], &(bytes / 1024).to_string());
    xml.text("node", &[], "0");
    xml.close("target");
    // The prefix that libvirt asks of names that it has not given itself.
    xml.empty("alias", &[("name", &format!("ua-ostler-{}", total_bytes >> 20))]);
    xml.close("memory");
    xml.into_string()
}

/// Where its memory and CPUs come from.
fn placement(xml: &mut Xml, config: &DomainConfig) {
    let hardware = &config.vm.hardware;
    if let Some(kib) = hardware.hugepages_kib {
        xml.open("memoryBacking", &[]);
        xml.open("hugepages", &[]);
        xml.empty("page", &[("size", &kib.to_string()), ("unit", "KiB")]);
        xml.close("hugepages");
        xml.close("memoryBacking");
    }
    let own = &config.cpus.own;
    if !hardware.pins.is_empty() || !own.is_empty() {
        xml.open("cputune", &[]);
        for (vcpu, cpu) in own.iter().enumerate() {
            xml.empty("vcpupin", &[("vcpu", &vcpu.to_string()), ("cpuset", &cpu.to_string())]);
        }
        for pin in &hardware.pins {
            let cpus: Vec<String> = pin.cpus.iter().map(u32::to_string).collect();
            let vcpu = pin.vcpu.to_string();
            xml.empty("vcpupin", &[("vcpu", &vcpu), ("cpuset", &cpus.join(","))]);
        }
        if !own.is_empty() {
            xml.empty("emulatorpin", &[("cpuset", &config.cpus.shared.to_string())]);
        }
        xml.close("cputune");
    }
    if let Some(node) = config.cpus.node {
        xml.open("numatune", &[]);
        xml.empty("memory", &[("mode", "preferred"), ("nodeset", &node.to_string())]);
        xml.close("numatune");
    }
}

fn machine(xml: &mut Xml, config: &DomainConfig, driver: DriverKind) {
    let is_qemu = driver != DriverKind::Test;
    let hardware = &config.vm.hardware;
    let is_bios = hardware.firmware == Firmware::Bios;
    // libvirt chooses the file, by the descriptions that distributions install.
    xml.open("os", if is_bios { &[] } else { &[("firmware", "efi")] });
    let machine = hardware.machine.as_deref().unwrap_or("q35");
    let machine: &[_] = if is_qemu { &[("machine", machine)] } else { &[] };
    xml.text("type", machine, "hvm");
    // Devices with places in the boot order exclude this.
    if config.vm.disks.iter().all(|disk| disk.boot.is_none()) {
        xml.empty("boot", &[("dev", "hd")]);
    }
    xml.empty("smbios", &[("mode", "sysinfo")]);
    // The firmware's own words, such as "No bootable device", belong in the console log too.
    if is_qemu && is_bios {
        xml.empty("bios", &[("useserial", "yes")]);
    }
    xml.close("os");
    xml.open("features", &[]);
    xml.empty("acpi", &[]);
    xml.empty("apic", &[]);
    xml.close("features");
    cpu(xml, config, is_qemu);
    xml.empty("clock", &[("offset", "utc")]);
}

fn cpu(xml: &mut Xml, config: &DomainConfig, is_qemu: bool) {
    let hardware = &config.vm.hardware;
    let is_arranged = hardware.topology.is_some() || memory_room(config).is_some();
    let arrangement = |xml: &mut Xml| arrangement(xml, config);
    if let Some(spec) = hardware.cpu.as_ref().filter(|_| is_qemu) {
        return asked_cpu(xml, spec, config.accel, arrangement);
    }
    match config.accel {
        _ if !is_qemu => {
            if is_arranged {
                xml.open("cpu", &[]);
                arrangement(xml);
                xml.close("cpu");
            }
        }
        Accel::Kvm if is_arranged => {
            xml.open("cpu", &[("mode", "host-model")]);
            arrangement(xml);
            xml.close("cpu");
        }
        // Not host-passthrough: a guest must be able to move to a host with another CPU.
        Accel::Kvm => xml.empty("cpu", &[("mode", "host-model")]),
        Accel::Tcg | Accel::None => {
            xml.open("cpu", &[("mode", "custom"), ("match", "exact"), ("check", "none")]);
            xml.text("model", &[("fallback", "allow")], "qemu64");
            arrangement(xml);
            xml.close("cpu");
        }
    }
}

/// How CPUs are arranged, and, since QEMU plugs memory only into a node, the one node that there is.
fn arrangement(xml: &mut Xml, config: &DomainConfig) {
    if let Some(topology) = config.vm.hardware.topology {
        let sockets = topology.sockets.to_string();
        let (cores, threads) = (topology.cores.to_string(), topology.threads.to_string());
        let attributes = [("sockets", &*sockets), ("cores", &cores), ("threads", &threads)];
        xml.empty("topology", &attributes);
    }
    if memory_room(config).is_some() {
        let cpus = format!("0-{}", config.vm.vcpus_possible() - 1);
        let memory = (config.vm.memory_bytes / 1024).to_string();
        xml.open("numa", &[]);
        let cell = [("id", "0"), ("cpus", &*cpus), ("memory", &memory), ("unit", "KiB")];
        xml.empty("cell", &cell);
        xml.close("numa");
    }
}

/// The CPU that the spec asks for.
fn asked_cpu(xml: &mut Xml, spec: &CpuSpec, accel: Accel, arrangement: impl Fn(&mut Xml)) {
    let mode = match spec.mode {
        CpuMode::HostModel => "host-model",
        CpuMode::HostPassthrough => "host-passthrough",
        CpuMode::Maximum => "maximum",
        CpuMode::Custom => "custom",
    };
    // What translation lacks of a model can't be asked of the host's CPU.
    let check = if accel == Accel::Kvm { "full" } else { "none" };
    let custom = [("mode", mode), ("match", "exact"), ("check", check)];
    xml.open("cpu", if spec.mode == CpuMode::Custom { &custom } else { &custom[..1] });
    if let Some(model) = &spec.model {
        xml.text("model", &[("fallback", "forbid")], model);
    }
    arrangement(xml);
    let required = spec.require.iter().map(|name| ("require", name));
    for (policy, name) in required.chain(spec.disable.iter().map(|name| ("disable", name))) {
        xml.empty("feature", &[("policy", policy), ("name", name)]);
    }
    xml.close("cpu");
}

fn lifecycle(xml: &mut Xml) {
    xml.text("on_poweroff", &[], "destroy");
    xml.text("on_reboot", &[], "restart");
    // Restarting a crashed guest is its owner's decision, not libvirt's.
    xml.text("on_crash", &[], "destroy");
}

fn devices(xml: &mut Xml, config: &DomainConfig, driver: DriverKind) {
    let path_text = |path: &Path| path.to_string_lossy().into_owned();
    xml.open("devices", &[]);
    let usual = DiskSpec::default();
    for (volume, letter) in config.volumes.iter().zip('a'..='z') {
        let spec = config.vm.disks.iter().find(|disk| disk.name == volume.name);
        disk(xml, volume, spec.unwrap_or(&usual), letter);
    }
    if config.vm.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        xml.empty("controller", &[("type", "scsi"), ("index", "0"), ("model", "virtio-scsi")]);
    }
    for (nic, mac) in config.vm.nics.iter().zip(config.vm.macs(config.uuid)) {
        interface(xml, nic, &mac);
    }
    if driver != DriverKind::Test {
        spare_ports(xml, config);
    }
    let log = path_text(&config.console_log);
    xml.open("serial", &[("type", "pty")]);
    xml.empty("log", &[("file", &log), ("append", "on")]);
    xml.empty("target", &[("port", "0")]);
    xml.close("serial");
    if let Some(file) = &config.exit_file {
        xml.open("serial", &[("type", "file")]);
        xml.empty("source", &[("path", &path_text(file))]);
        xml.empty("target", &[("port", "1")]);
        xml.close("serial");
    }
    xml.open("console", &[("type", "pty")]);
    xml.empty("target", &[("type", "serial"), ("port", "0")]);
    xml.close("console");
    // An embedded driver puts this socket so deep below its root that the path soon exceeds the
    // 107 bytes of a socket address, and then no guest starts.
    if driver == DriverKind::Qemu {
        xml.open("channel", &[("type", "unix")]);
        xml.empty("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]);
        xml.close("channel");
    }
    extras(xml, config);
    xml.empty("memballoon", &[("model", "virtio")]);
    xml.open("rng", &[("model", "virtio")]);
    xml.text("backend", &[("model", "random")], "/dev/urandom");
    xml.close("rng");
    xml.close("devices");
}

/// The guest's device of its disk number `index`, as its definition names it: `vda`.
#[must_use]
pub fn disk_device(index: usize, spec: &DiskSpec) -> Option<String> {
    let letter = ('a'..='z').nth(index)?;
    let (prefix, _) = bus_words(spec.bus);
    Some(format!("{prefix}{letter}"))
}

/// The beginning of a device's name, and libvirt's word for its bus.
fn bus_words(bus: DiskBus) -> (&'static str, &'static str) {
    match bus {
        DiskBus::Virtio => ("vd", "virtio"),
        DiskBus::Scsi => ("sd", "scsi"),
        DiskBus::Sata => ("sd", "sata"),
    }
}

fn disk(xml: &mut Xml, volume: &Volume, spec: &DiskSpec, letter: char) {
    let is_cd = volume.format == VolumeFormat::Iso;
    xml.open("disk", &[("type", "file"), ("device", if is_cd { "cdrom" } else { "disk" })]);
    let format = match volume.format {
        VolumeFormat::Qcow2 => "qcow2",
        VolumeFormat::Raw | VolumeFormat::Iso => "raw",
    };
    let cache = match spec.cache {
        _ if volume.is_shared => "none",
        // Honours the guest's flushes, and unlike `none` works on every file system.
        DiskCache::Writeback => "writeback",
        DiskCache::None => "none",
        DiskCache::Writethrough => "writethrough",
    };
    let driver = [("name", "qemu"), ("type", format), ("cache", cache), ("discard", "unmap")];
    xml.empty("driver", if is_cd { &driver[..2] } else { &driver });
    xml.empty("source", &[("file", &volume.path.to_string_lossy())]);
    let (prefix, bus) = bus_words(if is_cd { DiskBus::Sata } else { spec.bus });
    xml.empty("target", &[("dev", &format!("{prefix}{letter}")), ("bus", bus)]);
    let limits = [("total_bytes_sec", spec.limit_bytes_s), ("total_iops_sec", spec.limit_iops)];
    if limits.iter().any(|(_, limit)| limit.is_some()) {
        xml.open("iotune", &[]);
        for (name, limit) in limits {
            if let Some(limit) = limit {
                xml.text(name, &[], &limit.to_string());
            }
        }
        xml.close("iotune");
    }
    if is_cd {
        xml.empty("readonly", &[]);
    } else {
        xml.text("serial", &[], &volume.name);
    }
    if let Some(place) = spec.boot {
        xml.empty("boot", &[("order", &place.to_string())]);
    }
    xml.close("disk");
}

/// A machine of PCI Express takes a device at run time only into a port that nobody uses, and libvirt makes
/// no more of them than the definition needs. So all are asked for, and some more.
fn spare_ports(xml: &mut Xml, config: &DomainConfig) {
    let hardware = &config.vm.hardware;
    if hardware.machine.as_ref().is_some_and(|machine| !machine.contains("q35")) {
        return;
    }
    let is_virtio = |disk: &&DiskSpec| disk.bus == DiskBus::Virtio;
    let own = config.vm.disks.iter().filter(is_virtio).count() + config.vm.nics.len();
    let used = own + hardware.pci.len() + usize::from(hardware.watchdog.is_some()) + PORTS_USUAL;
    xml.empty("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")]);
    for index in 1..=(used + PORTS_SPARE).min(PORTS_MAX) {
        let index = index.to_string();
        xml.empty("controller", &[("type", "pci"), ("index", &index), ("model", "pcie-root-port")]);
    }
}

/// Devices that only some guests have.
fn extras(xml: &mut Xml, config: &DomainConfig) {
    let hardware = &config.vm.hardware;
    if hardware.vnc {
        // Nobody can connect to it but through libvirt, which hands a viewer's end to the agent.
        xml.open("graphics", &[("type", "vnc")]);
        xml.empty("listen", &[("type", "none")]);
        xml.close("graphics");
        xml.open("video", &[]);
        xml.empty("model", &[("type", "vga")]);
        xml.close("video");
    }
    if let Some(watchdog) = hardware.watchdog {
        let action = match watchdog {
            Watchdog::Reset => "reset",
            Watchdog::Poweroff => "poweroff",
            Watchdog::Pause => "pause",
        };
        xml.empty("watchdog", &[("model", "i6300esb"), ("action", action)]);
    }
    if hardware.tpm {
        xml.open("tpm", &[("model", "tpm-crb")]);
        xml.empty("backend", &[("type", "emulator"), ("version", "2.0")]);
        xml.close("tpm");
    }
    for [domain, bus, slot, function] in hardware.pci.iter().filter_map(|pci| pci_parts(pci)) {
        xml.open("hostdev", &[("mode", "subsystem"), ("type", "pci"), ("managed", "yes")]);
        xml.open("source", &[]);
        let hex = |digits: &str| format!("0x{digits}");
        let (domain, bus, slot, function) = (hex(domain), hex(bus), hex(slot), hex(function));
        let address =
            [("domain", &*domain), ("bus", &bus), ("slot", &slot), ("function", &function)];
        xml.empty("address", &address);
        xml.close("source");
        xml.close("hostdev");
    }
}

fn interface(xml: &mut Xml, nic: &NicSpec, mac: &str) {
    let (kind, source) = match &nic.plug {
        Plug::User => ("user", None),
        Plug::Bridge { bridge } => ("bridge", Some(("bridge", bridge.as_str()))),
        Plug::Libvirt { name } => ("network", Some(("network", name.as_str()))),
    };
    xml.open("interface", &[("type", kind)]);
    xml.empty("mac", &[("address", nic.mac.as_deref().unwrap_or(mac))]);
    if let Some(source) = source {
        xml.empty("source", &[source]);
    }
    xml.empty("model", &[("type", nic.model.as_str())]);
    if let Some(limit) = nic.limit_kib_s {
        let limit = limit.to_string();
        xml.open("bandwidth", &[]);
        xml.empty("inbound", &[("average", &limit)]);
        xml.empty("outbound", &[("average", &limit)]);
        xml.close("bandwidth");
    }
    xml.close("interface");
}

/// Writes elements into memory, where writing can't fail.
pub(crate) struct Xml(Writer<Vec<u8>>);

impl Xml {
    pub(crate) fn new() -> Self {
        Self(Writer::new_with_indent(Vec::new(), b' ', 2))
    }

    pub(crate) fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Start(start(name, attributes)));
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.write(Event::End(BytesEnd::new(name)));
    }

    pub(crate) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Empty(start(name, attributes)));
    }

    pub(crate) fn text(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.open(name, attributes);
        self.write(Event::Text(BytesText::new(text)));
        self.close(name);
    }

    fn write(&mut self, event: Event<'_>) {
        self.0.write_event(event).expect("writing XML into memory can't fail");
    }

    pub(crate) fn into_string(self) -> String {
        let mut bytes = self.0.into_inner();
        bytes.push(b'\n');
        String::from_utf8(bytes).expect("XML made of text is UTF-8")
    }
}

fn start<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
    BytesStart::new(name).with_attributes(attributes.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::{env, fs};

    use protocol::vm::{Hardware, NicModel, Pin, Topology, VmSpec};

    use crate::cpu_place::CpuPlace;

    use super::*;

    fn config(job: &str) -> DomainConfig {
        let job = JobId::new(job).unwrap();
        DomainConfig {
            uuid: job.domain_uuid(),
            job,
            vm: VmSpec {
                vcpus: 1,
                memory_bytes: 64 << 20,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            },
            volumes: vec![],
            console_log: "/var/log/ostler/console.log".into(),
            exit_file: None,
            accel: Accel::Tcg,
            partition: None,
            cpus: CpuPlace::default(),
        }
    }

    fn with_disk(mut config: DomainConfig, name: &str, format: VolumeFormat) -> DomainConfig {
        let disk =
            DiskSpec { name: name.into(), size_bytes: 1 << 30, image: None, ..DiskSpec::default() };
        config.vm.disks.push(disk);
        let path = PathBuf::from(format!("/var/lib/ostler/volumes/{}/{name}", config.job));
        config.volumes.push(Volume { name: name.into(), path, format, is_shared: false });
        config
    }

    /// The file under `golden/`, the configuration and the driver.
    fn goldens() -> Vec<(&'static str, DomainConfig, DriverKind)> {
        let mut web = with_disk(config("web-1"), "root", VolumeFormat::Qcow2);
        web = with_disk(web, "data", VolumeFormat::Raw);
        web.accel = Accel::Kvm;
        web.vm.vcpus = 4;
        web.vm.nics = vec![
            Plug::Libvirt { name: "default".into() }.into(),
            Plug::Bridge { bridge: "br0".into() }.into(),
            Plug::User.into(),
        ];
        let mut escaped = with_disk(config("escaped"), "root", VolumeFormat::Qcow2);
        escaped.volumes[0].path = r#"/srv/R&D/it's <"new">"#.into();
        let mut shared = with_disk(config("shared"), "root", VolumeFormat::Qcow2);
        shared.volumes[0].is_shared = true;
        let mut one_off = config("one-off");
        one_off.exit_file = Some("/var/log/ostler/console.exit".into());
        let mut pretended = config("pretended");
        pretended.accel = Accel::None;
        vec![
            ("kvm-disks-and-nics.xml", web, DriverKind::Qemu),
            ("tcg-embedded.xml", config("bare"), DriverKind::QemuEmbedded),
            ("escaped-path.xml", escaped, DriverKind::Qemu),
            ("one-off.xml", one_off, DriverKind::Qemu),
            ("test-driver.xml", pretended, DriverKind::Test),
            ("everything.xml", everything(), DriverKind::Qemu),
            ("uefi-embedded.xml", uefi(), DriverKind::QemuEmbedded),
            ("room-to-grow.xml", growing(), DriverKind::Qemu),
            ("shared-disk.xml", shared, DriverKind::Qemu),
            ("dedicated-cpus.xml", dedicated(), DriverKind::Qemu),
            ("shared-cpus.xml", beside_dedicated(), DriverKind::Qemu),
        ]
    }

    fn everything() -> DomainConfig {
        let mut all = config("everything");
        for (name, bus) in [("root", DiskBus::Scsi), ("data", DiskBus::Sata)] {
            all = with_disk(all, name, VolumeFormat::Qcow2);
            all.vm.disks.last_mut().unwrap().bus = bus;
        }
        all.vm.disks[0].boot = Some(1);
        all.vm.disks[1].cache = DiskCache::None;
        (all.vm.disks[1].limit_iops, all.vm.disks[1].limit_bytes_s) = (Some(500), Some(1 << 20));
        let seed = "/var/lib/ostler/volumes/everything/seed.iso".into();
        let format = VolumeFormat::Iso;
        all.volumes.push(Volume { name: "seed".into(), path: seed, format, is_shared: false });
        let mut nic: NicSpec = Plug::Bridge { bridge: "br0".into() }.into();
        nic.model = NicModel::E1000e;
        (nic.mac, nic.limit_kib_s) = (Some("52:54:00:00:00:01".into()), Some(1024));
        all.vm.nics = vec![nic];
        (all.accel, all.vm.vcpus) = (Accel::Kvm, 4);
        *all.vm.hardware = Hardware {
            firmware: Firmware::Bios,
            machine: Some("pc-q35-7.2".into()),
            cpu: Some(CpuSpec {
                mode: CpuMode::Custom,
                model: Some("Skylake-Server".into()),
                require: vec!["avx2".into()],
                disable: vec!["hle".into(), "rtm".into()],
            }),
            topology: Some(Topology { sockets: 1, cores: 2, threads: 2 }),
            pins: vec![Pin { vcpu: 0, cpus: vec![0, 1] }, Pin { vcpu: 3, cpus: vec![7] }],
            dedicated_cpus: false,
            hugepages_kib: Some(2048),
            watchdog: Some(Watchdog::Reset),
            vnc: true,
            tpm: true,
            pci: vec!["0000:03:00.0".into()],
        };
        all
    }

    fn uefi() -> DomainConfig {
        let mut uefi = config("uefi");
        uefi.vm.vcpus = 2;
        uefi.vm.hardware.firmware = Firmware::Uefi;
        uefi.vm.hardware.topology = Some(Topology { sockets: 2, cores: 1, threads: 1 });
        uefi
    }

    fn growing() -> DomainConfig {
        let mut growing = config("growing");
        growing.vm.vcpus = 2;
        growing.vm.max_vcpus = Some(4);
        growing.vm.max_memory_bytes = Some(1 << 30);
        growing
    }

    fn dedicated() -> DomainConfig {
        let mut dedicated = config("dedicated");
        (dedicated.vm.vcpus, dedicated.vm.max_vcpus) = (2, Some(3));
        dedicated.vm.hardware.dedicated_cpus = true;
        dedicated.cpus =
            CpuPlace { own: vec![9, 8], shared: "0-3".parse().unwrap(), node: Some(1) };
        dedicated
    }

    fn beside_dedicated() -> DomainConfig {
        let mut beside = config("beside");
        beside.cpus = CpuPlace { shared: "0-3,6".parse().unwrap(), ..CpuPlace::default() };
        beside
    }

    fn golden_path(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
    }

    #[test]
    fn definitions_are_as_in_the_golden_files() {
        for (file, config, driver) in goldens() {
            let (path, xml) = (golden_path(file), domain_xml(&config, driver));
            if env::var_os("OSTLER_REWRITE_GOLDEN").is_some() {
                fs::write(&path, &xml).unwrap();
            }
            let golden = fs::read_to_string(&path).unwrap();
            assert_eq!(xml, golden, "{file}: rewrite with OSTLER_REWRITE_GOLDEN=1");
        }
    }

    #[test]
    fn libvirts_schema_accepts_the_golden_files() {
        for (file, ..) in goldens() {
            match Command::new("virt-xml-validate").arg(golden_path(file)).arg("domain").output() {
                // The script's own way to say that it lacks xmllint.
                Ok(output) if output.status.code() == Some(127) => {
                    let why = String::from_utf8_lossy(&output.stderr);
                    return crate::skipped::note("virt-xml-validate", why.trim());
                }
                Ok(output) => assert!(output.status.success(), "{file}: {output:?}"),
                Err(error) => return crate::skipped::note("virt-xml-validate", &error.to_string()),
            }
        }
    }

    #[test]
    fn head_room_that_is_none_leaves_the_definition_as_it_is() {
        let plain = domain_xml(&config("plain"), DriverKind::Qemu);
        let mut full = config("plain");
        full.vm.max_memory_bytes = Some(full.vm.memory_bytes);
        assert_eq!(domain_xml(&full, DriverKind::Qemu), plain);
    }

    #[test]
    fn paths_that_xml_or_libvirt_could_not_hold_are_refused() {
        assert_eq!(refused(&config("fine")), None);
        for path in ["relative", "/new\nline", "/bell\u{7}"] {
            let bad = DomainConfig { console_log: path.into(), ..config("bad") };
            assert!(refused(&bad).is_some(), "{path:?} was accepted");
        }
    }

    #[test]
    fn the_job_is_read_back_from_its_element() {
        let job = JobId::new("web-1").unwrap();
        assert_eq!(job_of_element(&job_element(&job)), Some(job.clone()));
        let as_libvirt_gives_it = r#"<job xmlns="urn:ostler:job" id='web-1'/>"#;
        assert_eq!(job_of_element(as_libvirt_gives_it), Some(job));
        for spoilt in ["", "<job/>", "<job id='../x'/>", "<job id='"] {
            assert_eq!(job_of_element(spoilt), None, "{spoilt:?} was accepted");
        }
    }

    #[test]
    fn managed_networks_need_a_daemon() {
        let mut config = config("net");
        config.vm.nics = vec![Plug::Libvirt { name: "default".into() }.into()];
        assert!(unsupported(&config, DriverKind::QemuEmbedded).is_some());
        assert_eq!(unsupported(&config, DriverKind::Qemu), None);
    }
}
