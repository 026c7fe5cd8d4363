//! How a domain is described to libvirt: pure, from [`DomainConfig`] to XML.
//!
//! The same configuration gives the same text on every host, network addresses included, so that
//! defining it twice changes nothing and a migrated guest finds the same devices. Files under
//! `golden/` hold what operators will see in `virsh dumpxml`. Whether the driver can do it is
//! decided by [`unsupported`]; whether files exist is left to libvirt.

use std::path::Path;

use protocol::host::Accel;
use protocol::id::JobId;
use protocol::vm::NicSpec;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer, XmlVersion};
use uuid::Uuid;

use crate::domain::{DomainConfig, VolumeFormat};

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
    let is_managed = |nic: &&NicSpec| matches!(nic, NicSpec::Libvirt { .. });
    match (driver, config.vm.nics.iter().find(is_managed)) {
        (DriverKind::QemuEmbedded, Some(NicSpec::Libvirt { name })) => {
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
    let unwritable = paths.chain([config.console_log.as_path()]).find(|path| !is_writable(path));
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
    let memory_kib = (config.vm.memory_bytes / 1024).to_string();
    xml.text("memory", &[("unit", "KiB")], &memory_kib);
    xml.text("vcpu", &[], &config.vm.vcpus.to_string());
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

fn machine(xml: &mut Xml, config: &DomainConfig, driver: DriverKind) {
    let is_qemu = driver != DriverKind::Test;
    xml.open("os", &[]);
    let machine: &[_] = if is_qemu { &[("machine", "q35")] } else { &[] };
    xml.text("type", machine, "hvm");
    xml.empty("boot", &[("dev", "hd")]);
    xml.empty("smbios", &[("mode", "sysinfo")]);
    // The firmware's own words, such as "No bootable device", belong in the console log too.
    if is_qemu {
        xml.empty("bios", &[("useserial", "yes")]);
    }
    xml.close("os");
    xml.open("features", &[]);
    xml.empty("acpi", &[]);
    xml.empty("apic", &[]);
    xml.close("features");
    match config.accel {
        _ if !is_qemu => {}
        // Not host-passthrough: a guest must be able to move to a host with another CPU.
        Accel::Kvm => xml.empty("cpu", &[("mode", "host-model")]),
        Accel::Tcg | Accel::None => {
            xml.open("cpu", &[("mode", "custom"), ("match", "exact"), ("check", "none")]);
            xml.text("model", &[("fallback", "allow")], "qemu64");
            xml.close("cpu");
        }
    }
    xml.empty("clock", &[("offset", "utc")]);
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
    for (volume, letter) in config.volumes.iter().zip('a'..='z') {
        xml.open("disk", &[("type", "file"), ("device", "disk")]);
        let format = match volume.format {
            VolumeFormat::Qcow2 => "qcow2",
            VolumeFormat::Raw => "raw",
        };
        // Writeback honours the guest's flushes, and unlike `none` works on every file system.
        let driver = [("type", format), ("cache", "writeback"), ("discard", "unmap")];
        xml.empty("driver", &[&[("name", "qemu")], &driver[..]].concat());
        xml.empty("source", &[("file", &path_text(&volume.path))]);
        xml.empty("target", &[("dev", &format!("vd{letter}")), ("bus", "virtio")]);
        xml.text("serial", &[], &volume.name);
        xml.close("disk");
    }
    for (index, nic) in config.vm.nics.iter().enumerate() {
        interface(xml, nic, &mac(config.uuid, index));
    }
    let log = path_text(&config.console_log);
    xml.open("serial", &[("type", "pty")]);
    xml.empty("log", &[("file", &log), ("append", "on")]);
    xml.empty("target", &[("port", "0")]);
    xml.close("serial");
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
    xml.empty("memballoon", &[("model", "virtio")]);
    xml.open("rng", &[("model", "virtio")]);
    xml.text("backend", &[("model", "random")], "/dev/urandom");
    xml.close("rng");
    xml.close("devices");
}

fn interface(xml: &mut Xml, nic: &NicSpec, mac: &str) {
    let (kind, source) = match nic {
        NicSpec::User => ("user", None),
        NicSpec::Bridge { bridge } => ("bridge", Some(("bridge", bridge.as_str()))),
        NicSpec::Libvirt { name } => ("network", Some(("network", name.as_str()))),
    };
    xml.open("interface", &[("type", kind)]);
    xml.empty("mac", &[("address", mac)]);
    if let Some(source) = source {
        xml.empty("source", &[source]);
    }
    xml.empty("model", &[("type", "virtio")]);
    xml.close("interface");
}

/// QEMU's prefix and three bytes that follow from the domain: libvirt would invent a new address at
/// every definition, and the guest would lose its lease.
fn mac(uuid: Uuid, index: usize) -> String {
    let [.., a, b, c] = uuid.into_bytes();
    let last = u32::from_be_bytes([0, a, b, c]).wrapping_add(u32::try_from(index).unwrap_or(0));
    let [_, a, b, c] = last.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// Writes elements into memory, where writing can't fail.
struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn new() -> Self {
        Self(Writer::new_with_indent(Vec::new(), b' ', 2))
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Start(start(name, attributes)));
    }

    fn close(&mut self, name: &str) {
        self.write(Event::End(BytesEnd::new(name)));
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Empty(start(name, attributes)));
    }

    fn text(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.open(name, attributes);
        self.write(Event::Text(BytesText::new(text)));
        self.close(name);
    }

    fn write(&mut self, event: Event<'_>) {
        self.0.write_event(event).expect("writing XML into memory can't fail");
    }

    fn into_string(self) -> String {
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

    use protocol::vm::{DiskSpec, VmSpec};

    use super::*;
    use crate::domain::Volume;

    fn config(job: &str) -> DomainConfig {
        let job = JobId::new(job).unwrap();
        DomainConfig {
            uuid: job.domain_uuid(),
            job,
            vm: VmSpec { vcpus: 1, memory_bytes: 64 << 20, disks: vec![], nics: vec![] },
            volumes: vec![],
            console_log: "/var/log/ostler/console.log".into(),
            accel: Accel::Tcg,
        }
    }

    fn with_disk(mut config: DomainConfig, name: &str, format: VolumeFormat) -> DomainConfig {
        let disk = DiskSpec { name: name.into(), size_bytes: 1 << 30, image: None };
        config.vm.disks.push(disk);
        let path = PathBuf::from(format!("/var/lib/ostler/volumes/{}/{name}", config.job));
        config.volumes.push(Volume { name: name.into(), path, format });
        config
    }

    /// The file under `golden/`, the configuration and the driver.
    fn goldens() -> Vec<(&'static str, DomainConfig, DriverKind)> {
        let mut web = with_disk(config("web-1"), "root", VolumeFormat::Qcow2);
        web = with_disk(web, "data", VolumeFormat::Raw);
        web.accel = Accel::Kvm;
        web.vm.vcpus = 4;
        web.vm.nics = vec![
            NicSpec::Libvirt { name: "default".into() },
            NicSpec::Bridge { bridge: "br0".into() },
            NicSpec::User,
        ];
        let mut escaped = with_disk(config("escaped"), "root", VolumeFormat::Qcow2);
        escaped.volumes[0].path = r#"/srv/R&D/it's <"new">"#.into();
        let mut pretended = config("pretended");
        pretended.accel = Accel::None;
        vec![
            ("kvm-disks-and-nics.xml", web, DriverKind::Qemu),
            ("tcg-embedded.xml", config("bare"), DriverKind::QemuEmbedded),
            ("escaped-path.xml", escaped, DriverKind::Qemu),
            ("test-driver.xml", pretended, DriverKind::Test),
        ]
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
    fn every_network_card_has_an_address_of_its_own_that_stays() {
        let uuid = Uuid::from_u128(0xff_ffff);
        assert_eq!(mac(uuid, 0), "52:54:00:ff:ff:ff");
        assert_eq!(mac(uuid, 1), "52:54:00:00:00:00");
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
        config.vm.nics = vec![NicSpec::Libvirt { name: "default".into() }];
        assert!(unsupported(&config, DriverKind::QemuEmbedded).is_some());
        assert_eq!(unsupported(&config, DriverKind::Qemu), None);
    }
}
