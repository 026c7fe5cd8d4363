//! What libvirt is told of a job: well-formed whatever the spec says, with no element or attribute
//! that the spec's words have brought along; and of a valid spec, read back as it was meant.

#![no_main]

use std::path::PathBuf;

use arbitrary::{Arbitrary, Unstructured};
use fuzz::job_id;
use hypervisor::{
    CpuPlace, Definition, DomainConfig, DriverKind, Volume, VolumeFormat, domain_xml,
};
use libfuzzer_sys::fuzz_target;
use protocol::host::Accel;
use protocol::vm::{
    CpuMode, CpuSpec, DiskBus, DiskCache, DiskSpec, Firmware, Hardware, NicModel, NicSpec, Pin,
    Plug, Topology, VmSpec, Watchdog,
};
use quick_xml::Reader;
use quick_xml::events::Event;

#[derive(Debug, Clone, Arbitrary)]
struct Sketch {
    vcpus: u8,
    memory_mib: u32,
    driver: u8,
    accel: u8,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    console: String,
    exit_file: Option<String>,
    uefi: bool,
    machine: Option<Word>,
    cpu: Option<Cpu>,
    topology: Option<(bool, [u8; 3])>,
    pins: Vec<(u8, Vec<u32>)>,
    hugepages: Option<(bool, u64)>,
    vnc: bool,
    tpm: bool,
    watchdog: Option<u8>,
    pci: Vec<Pci>,
}

/// Any text, or as often a word as a valid spec has it.
#[derive(Debug, Clone)]
struct Word(String);

impl<'a> Arbitrary<'a> for Word {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        if u.arbitrary()? {
            return Ok(Self(u.arbitrary()?));
        }
        let letters = u.bytes(4)?.iter().map(|byte| char::from(b'a' + byte % 26));
        Ok(Self(letters.collect()))
    }
}

#[derive(Debug, Clone, Arbitrary)]
enum Mac {
    Any(String),
    Fine([u8; 3]),
}

#[derive(Debug, Clone, Arbitrary)]
enum Pci {
    Any(String),
    Fine(u8, u8),
}

#[derive(Debug, Clone, Arbitrary)]
struct Disk {
    name: Word,
    path: String,
    format: u8,
    bus: u8,
    cache: u8,
    limits: Option<(u64, u64)>,
    boot: Option<u32>,
}

#[derive(Debug, Clone, Arbitrary)]
struct Nic {
    plug: u8,
    to: Word,
    model: u8,
    mac: Option<Mac>,
    limit: Option<u64>,
}

#[derive(Debug, Clone, Arbitrary)]
struct Cpu {
    mode: u8,
    model: Option<Word>,
    require: Vec<Word>,
    disable: Vec<Word>,
}

fuzz_target!(|sketch: Sketch| {
    let (config, driver) = config(&sketch);
    let xml = domain_xml(&config, driver);
    let tame = domain_xml(&tamed(&config), driver);
    assert_eq!(shape(&xml), shape(&tame), "words of the spec are more than words in {xml}");
    if config.vm.validate().is_ok() {
        assert!(xml.chars().all(is_xml), "libvirt takes no such character: {xml:?}");
        read_back(&config, driver, &xml);
    }
});

fn config(sketch: &Sketch) -> (DomainConfig, DriverKind) {
    let job = job_id(sketch.vcpus);
    let drivers = [DriverKind::Qemu, DriverKind::QemuEmbedded, DriverKind::Test];
    let accels = [Accel::Kvm, Accel::Tcg, Accel::None];
    let hardware = Hardware {
        firmware: if sketch.uefi { Firmware::Uefi } else { Firmware::Bios },
        machine: sketch.machine.clone().map(|word| word.0),
        cpu: sketch.cpu.as_ref().map(cpu),
        topology: sketch.topology.map(|(is_fine, [sockets, cores, threads])| Topology {
            sockets: if is_fine { sketch.vcpus.into() } else { sockets.into() },
            cores: if is_fine { 1 } else { cores.into() },
            threads: if is_fine { 1 } else { threads.into() },
        }),
        pins: (sketch.pins.iter())
            .map(|(vcpu, cpus)| Pin { vcpu: u32::from(*vcpu), cpus: cpus.clone() })
            .collect(),
        dedicated_cpus: false,
        hugepages_kib: sketch.hugepages.map(|(is_fine, kib)| if is_fine { 2048 } else { kib }),
        watchdog: sketch.watchdog.map(|n| one_of(n, &[Watchdog::Reset, Watchdog::Poweroff])),
        vnc: sketch.vnc,
        tpm: sketch.tpm,
        pci: sketch.pci.iter().map(pci).collect(),
    };
    let config = DomainConfig {
        uuid: job.domain_uuid(),
        job,
        vm: VmSpec {
            vcpus: sketch.vcpus.into(),
            memory_bytes: u64::from(sketch.memory_mib) << 20,
            disks: sketch.disks.iter().map(disk).collect(),
            nics: sketch.nics.iter().map(nic).collect(),
            hardware: Box::new(hardware),
            ..VmSpec::default()
        },
        volumes: sketch.disks.iter().map(volume).collect(),
        // Paths are the host's own: what a job can bring into them is its name.
        console_log: path(&sketch.console),
        exit_file: sketch.exit_file.as_deref().map(path),
        accel: one_of(sketch.accel, &accels),
        partition: None,
        cpus: CpuPlace::default(),
    };
    (config, one_of(sketch.driver, &drivers))
}

fn one_of<T: Copy>(n: u8, of: &[T]) -> T {
    of[usize::from(n) % of.len()]
}

fn path(text: &str) -> PathBuf {
    let text: String = text.chars().filter(|c| is_xml(*c) && !c.is_control()).collect();
    PathBuf::from(format!("/{text}"))
}

fn disk(disk: &Disk) -> DiskSpec {
    DiskSpec {
        name: disk.name.0.clone(),
        size_bytes: 1 << 30,
        image: None,
        bus: one_of(disk.bus, &[DiskBus::Virtio, DiskBus::Scsi, DiskBus::Sata]),
        cache: one_of(
            disk.cache,
            &[DiskCache::Writeback, DiskCache::None, DiskCache::Writethrough],
        ),
        limit_iops: disk.limits.map(|(iops, _)| iops),
        limit_bytes_s: disk.limits.map(|(_, bytes)| bytes),
        boot: disk.boot,
        ..DiskSpec::default()
    }
}

fn volume(disk: &Disk) -> Volume {
    let formats = [VolumeFormat::Qcow2, VolumeFormat::Raw, VolumeFormat::Iso];
    Volume {
        name: disk.name.0.clone(),
        path: path(&disk.path),
        format: one_of(disk.format, &formats),
        is_shared: disk.format > 127,
    }
}

fn nic(nic: &Nic) -> NicSpec {
    let plug = match nic.plug % 3 {
        0 => Plug::User,
        1 => Plug::Bridge { bridge: nic.to.0.clone() },
        _ => Plug::Libvirt { name: nic.to.0.clone() },
    };
    let model = one_of(nic.model, &[NicModel::Virtio, NicModel::E1000e, NicModel::Rtl8139]);
    NicSpec { plug, model, mac: nic.mac.as_ref().map(mac), limit_kib_s: nic.limit }
}

fn mac(mac: &Mac) -> String {
    match mac {
        Mac::Any(text) => text.clone(),
        Mac::Fine([a, b, c]) => format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"),
    }
}

fn pci(pci: &Pci) -> String {
    match pci {
        Pci::Any(text) => text.clone(),
        Pci::Fine(bus, slot) => format!("0000:{bus:02x}:{slot:02x}.0"),
    }
}

fn words(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.0.clone()).collect()
}

fn cpu(cpu: &Cpu) -> CpuSpec {
    let modes = [CpuMode::HostModel, CpuMode::HostPassthrough, CpuMode::Maximum, CpuMode::Custom];
    CpuSpec {
        mode: one_of(cpu.mode, &modes),
        model: cpu.model.clone().map(|word| word.0),
        require: words(&cpu.require),
        disable: words(&cpu.disable),
    }
}

/// The same with harmless words in place of all that the spec brings.
fn tamed(config: &DomainConfig) -> DomainConfig {
    let mut tame = config.clone();
    let word = || "x".to_owned();
    for (n, disk) in tame.vm.disks.iter_mut().enumerate() {
        // As many disks may have one name as before: which of them a volume belongs to is by name.
        let first = config.vm.disks.iter().position(|other| other.name == config.vm.disks[n].name);
        disk.name = format!("x{}", first.unwrap_or(n));
    }
    for (n, volume) in tame.volumes.iter_mut().enumerate() {
        volume.name.clone_from(&tame.vm.disks[n].name);
        volume.path = "/x".into();
    }
    for nic in &mut tame.vm.nics {
        nic.mac = nic.mac.is_some().then(word);
        match &mut nic.plug {
            Plug::User => {}
            Plug::Bridge { bridge: name } | Plug::Libvirt { name } => *name = word(),
        }
    }
    let hardware = &mut tame.vm.hardware;
    hardware.machine = hardware.machine.is_some().then(word);
    if let Some(cpu) = &mut hardware.cpu {
        cpu.model = cpu.model.is_some().then(word);
        cpu.require.iter_mut().chain(&mut cpu.disable).for_each(|name| *name = word());
    }
    for pci in &mut hardware.pci {
        if protocol::vm::pci_parts(pci).is_some() {
            *pci = "0000:00:00.0".to_owned();
        }
    }
    tame.console_log = "/x".into();
    tame.exit_file = tame.exit_file.is_some().then(|| "/x".into());
    tame
}

/// Names of elements and their attributes, in order, without what they say.
fn shape(xml: &str) -> Vec<String> {
    let mut reader = Reader::from_str(xml);
    let mut shape = Vec::new();
    loop {
        let event = reader.read_event().unwrap_or_else(|e| panic!("{e}: {xml}"));
        match &event {
            Event::Start(start) | Event::Empty(start) => {
                let names = start.attributes().map(|attribute| {
                    let attribute = attribute.unwrap_or_else(|e| panic!("{e}: {xml}"));
                    format!(" {}", attribute.key.as_ref())
                });
                shape.push(format!("<{}{}", start.name().as_ref(), names.collect::<String>()));
            }
            Event::End(end) => shape.push(format!("/{}", end.name().as_ref())),
            Event::Text(_) | Event::GeneralRef(_) => {}
            Event::Eof => return shape,
            other => panic!("we write no {other:?}: {xml}"),
        }
    }
}

/// What XML 1.0 can hold.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn read_back(config: &DomainConfig, driver: DriverKind, xml: &str) {
    let read = Definition::read(xml).unwrap_or_else(|| panic!("not read back: {xml}"));
    assert_eq!((read.name.as_str(), read.uuid), (config.job.as_str(), Some(config.uuid)));
    assert_eq!(u32::from(read.vcpus > 0), 1, "{xml}");
    assert_eq!((read.vcpus, read.memory_bytes), (config.vm.vcpus, config.vm.memory_bytes));
    let log = read.serial.and_then(|serial| serial.log);
    assert_eq!(log.as_ref(), Some(&config.console_log), "{driver:?} {xml}");
    let nics: Vec<_> = read.nics.iter().map(|nic| (&nic.plug, nic.model)).collect();
    let meant: Vec<_> = config.vm.nics.iter().map(|nic| (&nic.plug, nic.model)).collect();
    assert_eq!(nics, meant, "{xml}");
}
