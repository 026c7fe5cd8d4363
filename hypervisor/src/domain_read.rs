//! What a definition that somebody else has written says, as far as we have words for it. Pure.
//!
//! Everything else of it is passed over: it stays in the definition, which is kept as it is.

use std::path::PathBuf;

use protocol::hugepages::PageSize;
use protocol::vm::{
    DISK_BYTES_MIN, DISKS_MAX, DiskBus, DiskSpec, Hardware, NICS_MAX, NicModel, NicSpec, Plug,
    VmSpec,
};
use uuid::Uuid;

use crate::xml_walk::{Element, Visit, walk};

/// A definition, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// The domain's uuid.
    pub uuid: Option<Uuid>,
    /// Its name.
    pub name: String,
    /// What runs it: `kvm`, `qemu` or `test`.
    pub kind: String,
    /// CPUs that it starts with.
    pub vcpus: u32,
    /// CPUs that it may have.
    pub vcpus_max: u32,
    /// Memory that it starts with, in bytes; of a running one with what was plugged in.
    pub memory_bytes: u64,
    /// Memory that it may have, if some can be plugged in.
    pub memory_max_bytes: Option<u64>,
    /// Places for memory to be plugged in.
    pub memory_slots: u32,
    /// Pieces of memory that are plugged in.
    pub memory_pieces: u32,
    /// True when the host can't have its memory back: it is in huge pages or locked, or a device of
    /// the host's writes to it.
    pub is_memory_pinned: bool,
    /// The size of the huge pages that its memory is in, if it is in such.
    pub page_size: Option<PageSize>,
    /// True when it has a device by which it can give memory back.
    pub has_balloon: bool,
    /// How often its guest says how much memory it uses, in seconds; 0 for never.
    pub memory_stats_period_s: u16,
    /// Disks that are files, by the name of their target. Their sizes are not in a definition.
    pub disks: Vec<(String, DiskBus)>,
    /// Network cards of kinds that we know.
    pub nics: Vec<NicSpec>,
    /// Its first serial port.
    pub serial: Option<Serial>,
}

/// A serial port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serial {
    /// The file in which libvirt keeps what the guest prints there.
    pub log: Option<PathBuf>,
}

impl Definition {
    /// Reads libvirt's XML; `None` when it is none.
    #[must_use]
    pub fn read(xml: &str) -> Option<Self> {
        let mut found = Found::default();
        walk(xml, "domain", &mut found)?;
        Some(found.definition)
    }

    /// The VM that it is now, given the size that it really has and its disks' sizes.
    #[must_use]
    pub fn to_vm(
        &self,
        uuid: Uuid,
        vcpus: u32,
        memory_bytes: u64,
        disk_bytes: impl Fn(&str) -> Option<u64>,
    ) -> VmSpec {
        let mut disks: Vec<DiskSpec> = Vec::new();
        for (name, bus) in &self.disks {
            let size_bytes = disk_bytes(name).filter(|bytes| *bytes >= DISK_BYTES_MIN);
            if let Some(size_bytes) = size_bytes
                && disks.len() < DISKS_MAX
            {
                let (name, bus) = (name.clone(), *bus);
                disks.push(DiskSpec { name, size_bytes, bus, ..DiskSpec::default() });
                // A name that a spec has no words for, or has already.
                if !is_valid(VmSpec { disks: disks.clone(), ..VmSpec::default() }) {
                    disks.pop();
                }
            }
        }
        VmSpec {
            vcpus,
            memory_bytes: memory_bytes.div_ceil(1 << 20) << 20,
            disks,
            nics: self.nics.iter().take(NICS_MAX).cloned().collect(),
            hardware: Box::new(Hardware {
                hugepages_kib: self.page_size.map(PageSize::kib).filter(|kib| {
                    let hardware = Hardware { hugepages_kib: Some(*kib), ..Hardware::default() };
                    is_valid(VmSpec { hardware: Box::new(hardware), ..VmSpec::default() })
                }),
                ..Hardware::default()
            }),
            adopted: Some(uuid),
            ..VmSpec::default()
        }
    }
}

/// What has been read so far, and the device that is being read.
#[derive(Debug, Default)]
struct Found {
    definition: Definition,
    memory_unit: Option<String>,
    is_file_disk: bool,
    disk: Option<(String, Option<DiskBus>)>,
    nic: Option<Nic>,
    is_first_serial: bool,
}

#[derive(Debug, Default)]
struct Nic {
    kind: String,
    source: Option<String>,
    model: Option<String>,
    mac: Option<String>,
}

impl Visit for Found {
    fn begin(&mut self, path: &[&str], element: &Element<'_>) {
        let attribute = |name: &str| element.attribute(name);
        match *path {
            ["domain"] => {
                self.definition.kind = attribute("type").unwrap_or_default();
            }
            ["domain", "vcpu"] => {
                let current = attribute("current").and_then(|text| text.parse().ok());
                self.definition.vcpus = current.unwrap_or(0);
            }
            ["domain", "memory"] => self.memory_unit = attribute("unit"),
            ["domain", "maxMemory"] => {
                self.memory_unit = attribute("unit");
                let slots = attribute("slots").and_then(|text| text.parse().ok());
                self.definition.memory_slots = slots.unwrap_or(0);
            }
            ["domain", "memoryBacking", "locked"] | ["domain", "devices", "hostdev"] => {
                self.definition.is_memory_pinned = true;
            }
            ["domain", "memoryBacking", "hugepages"] => {
                self.definition.is_memory_pinned = true;
                // Which it is, where it is not said, is the kernel's default.
                self.definition.page_size = Some(PageSize::MIB2);
            }
            ["domain", "memoryBacking", "hugepages", "page"] => {
                self.memory_unit = attribute("unit");
                let bytes = attribute("size").map_or(0, |size| self.bytes_of(&size));
                let size = PageSize::of_kib(bytes >> 10);
                self.definition.page_size = size.or(self.definition.page_size);
            }
            ["domain", "devices", "memory"] => self.definition.memory_pieces += 1,
            ["domain", "devices", "memballoon", "stats"] => {
                let period = attribute("period").and_then(|text| text.parse().ok());
                self.definition.memory_stats_period_s = period.unwrap_or(0);
            }
            ["domain", "devices", "memballoon"] => {
                self.definition.has_balloon = attribute("model").as_deref() != Some("none");
            }
            ["domain", "devices", "disk"] => {
                let is_disk = attribute("device").is_none_or(|device| device == "disk");
                self.is_file_disk = is_disk && attribute("type").as_deref() == Some("file");
                self.disk = None;
            }
            ["domain", "devices", "disk", "target"] => {
                let bus = match attribute("bus").as_deref() {
                    Some("virtio") => Some(DiskBus::Virtio),
                    Some("scsi") => Some(DiskBus::Scsi),
                    Some("sata") => Some(DiskBus::Sata),
                    _ => None,
                };
                self.disk = attribute("dev").map(|name| (name, bus));
            }
            ["domain", "devices", "interface"] => {
                let kind = attribute("type").unwrap_or_default();
                self.nic = Some(Nic { kind, ..Nic::default() });
            }
            ["domain", "devices", "interface", part] => {
                let Some(nic) = &mut self.nic else { return };
                match part {
                    "source" => {
                        nic.source = attribute("network").or_else(|| attribute("bridge"));
                    }
                    "mac" => nic.mac = attribute("address"),
                    "model" => nic.model = attribute("type"),
                    _ => {}
                }
            }
            ["domain", "devices", "serial"] => {
                self.is_first_serial = self.definition.serial.is_none();
                self.definition.serial.get_or_insert_default();
            }
            ["domain", "devices", "serial", "log"] if self.is_first_serial => {
                self.definition.serial = Some(Serial { log: attribute("file").map(PathBuf::from) });
            }
            _ => {}
        }
    }

    fn text(&mut self, path: &[&str], text: &str) {
        match *path {
            ["domain", "name"] => text.clone_into(&mut self.definition.name),
            ["domain", "uuid"] => self.definition.uuid = text.parse().ok(),
            ["domain", "vcpu"] => {
                let most = text.trim().parse().unwrap_or(0);
                self.definition.vcpus_max = most;
                if self.definition.vcpus == 0 {
                    self.definition.vcpus = most;
                }
            }
            ["domain", "memory"] => self.definition.memory_bytes = self.bytes_of(text),
            ["domain", "maxMemory"] => {
                self.definition.memory_max_bytes = Some(self.bytes_of(text));
            }
            _ => {}
        }
    }

    fn end(&mut self, path: &[&str]) {
        match *path {
            ["domain", "devices", "disk"] => {
                if let Some((name, Some(bus))) = self.disk.take()
                    && self.is_file_disk
                {
                    self.definition.disks.push((name, bus));
                }
            }
            ["domain", "devices", "interface"] => {
                self.definition.nics.extend(self.nic.take().and_then(Nic::known));
            }
            _ => {}
        }
    }
}

impl Found {
    fn bytes_of(&self, text: &str) -> u64 {
        let number: u64 = text.trim().parse().unwrap_or(0);
        number.saturating_mul(unit_bytes(self.memory_unit.as_deref()))
    }
}

impl Nic {
    /// `None`: a kind of card, or a name, that a spec has no words for.
    fn known(self) -> Option<NicSpec> {
        let plug = match (self.kind.as_str(), self.source) {
            ("user", _) => Plug::User,
            ("bridge", Some(bridge)) => Plug::Bridge { bridge },
            ("network", Some(name)) => Plug::Libvirt { name },
            _ => return None,
        };
        let model = match self.model.as_deref() {
            Some("virtio") => NicModel::Virtio,
            Some("e1000e") => NicModel::E1000e,
            Some("rtl8139") => NicModel::Rtl8139,
            _ => return None,
        };
        let nic = NicSpec { plug, model, mac: self.mac, limit_kib_s: None };
        let vm = VmSpec { nics: vec![nic.clone()], ..VmSpec::default() };
        is_valid(vm).then_some(nic)
    }
}

/// Whether this is a VM, given a size that is one.
fn is_valid(vm: VmSpec) -> bool {
    VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..vm }.validate().is_ok()
}

/// libvirt prints KiB; people write what they like.
fn unit_bytes(unit: Option<&str>) -> u64 {
    match unit {
        Some("b" | "bytes") => 1,
        Some("KB") => 1_000,
        Some("M" | "MiB") => 1 << 20,
        Some("MB") => 1_000_000,
        Some("G" | "GiB") => 1 << 30,
        Some("GB") => 1_000_000_000,
        Some("T" | "TiB") => 1 << 40,
        Some("TB") => 1_000_000_000_000,
        _ => 1 << 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "<domain type='kvm' id='3'><name>legacy</name>
        <uuid>00000000-0000-0000-0000-000000000005</uuid>
        <memory unit='KiB'>100000</memory><vcpu placement='static' current='2'>4</vcpu>
        <devices>
          <disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
          <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
          <disk type='block' device='disk'><target dev='vdb' bus='virtio'/></disk>
          <disk type='file' device='disk'><target dev='hda' bus='ide'/></disk>
          <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>
            <model type='virtio'/></interface>
          <interface type='direct'><source dev='eth0' mode='bridge'/><model type='virtio'/></interface>
          <interface type='bridge'><source bridge='a-name-that-is-too-long'/><model type='virtio'/></interface>
          <serial type='pty'><log file='/var/log/legacy.log' append='on'/><target port='0'/></serial>
          <serial type='file'><log file='/other'/></serial>
        </devices></domain>";

    #[test]
    fn what_we_have_words_for_is_read_and_the_rest_passed_over() {
        let read = Definition::read(THEIRS).unwrap();
        assert_eq!((read.name.as_str(), read.uuid), ("legacy", Some(Uuid::from_u128(5))));
        assert_eq!((read.vcpus, read.vcpus_max, read.memory_bytes), (2, 4, 100_000 << 10));
        assert_eq!((read.kind.as_str(), read.memory_max_bytes), ("kvm", None));
        assert!(!read.is_memory_pinned && !read.has_balloon);
        assert_eq!(read.disks, [("vda".to_owned(), DiskBus::Virtio)]);
        let mut nic: NicSpec = Plug::Libvirt { name: "default".into() }.into();
        nic.mac = Some("52:54:00:00:00:01".into());
        assert_eq!(read.nics, [nic]);
        assert_eq!(read.serial, Some(Serial { log: Some("/var/log/legacy.log".into()) }));
    }

    #[test]
    fn the_vm_made_of_it_is_valid_and_has_its_present_size() {
        let uuid = Uuid::from_u128(5);
        let vm = Definition::read(THEIRS).unwrap().to_vm(uuid, 3, 100_000 << 10, |disk| {
            assert_eq!(disk, "vda");
            Some(1 << 30)
        });
        assert_eq!(vm.validate(), Ok(()));
        assert_eq!((vm.vcpus, vm.memory_bytes, vm.adopted), (3, 98 << 20, Some(uuid)));
        assert_eq!((vm.disks[0].size_bytes, vm.resources().disk_bytes), (1 << 30, 0));
        let unknown = Definition::read(THEIRS).unwrap().to_vm(uuid, 1, 1 << 30, |_| None);
        assert_eq!(unknown.disks, []);
    }

    #[test]
    fn disks_with_names_that_a_spec_cannot_have_are_passed_over() {
        let disk = |name: &str| (name.to_owned(), DiskBus::Virtio);
        let disks = vec![disk("vda"), disk("vd a"), disk("vda"), disk("vdb")];
        let read = Definition { disks, ..Definition::default() };
        let vm = read.to_vm(Uuid::nil(), 1, 1 << 30, |_| Some(1 << 30));
        assert_eq!(vm.validate(), Ok(()));
        let names: Vec<&str> = vm.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb"]);
    }

    #[test]
    fn the_pages_that_its_memory_is_in_are_read_and_are_those_of_the_vm_if_a_vm_may_have_such() {
        let of = |page: &str| {
            let xml = format!("<domain><memoryBacking>{page}</memoryBacking></domain>");
            let read = Definition::read(&xml).unwrap();
            let vm = read.to_vm(Uuid::nil(), 1, 1 << 30, |_| None);
            (read.page_size.map(PageSize::kib), vm.hardware.hugepages_kib)
        };
        let paged = |page: &str| of(&format!("<hugepages><page {page}/></hugepages>"));
        assert_eq!(of(""), (None, None));
        assert_eq!(of("<hugepages/>"), (Some(2048), Some(2048)));
        assert_eq!(paged("size='1' unit='GiB'"), (Some(1 << 20), Some(1 << 20)));
        assert_eq!(paged("size='2048'"), (Some(2048), Some(2048)));
        assert_eq!(paged("size='64' unit='KiB' nodeset='0'"), (Some(64), None));
    }

    #[test]
    fn how_far_its_size_can_change_is_read() {
        let xml = "<domain type='qemu'><maxMemory slots='16' unit='KiB'>1048576</maxMemory>
            <memory unit='KiB'>393216</memory><currentMemory unit='KiB'>266240</currentMemory>
            <memoryBacking><hugepages/></memoryBacking><vcpu placement='static'>4</vcpu>
            <vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/></vcpus>
            <devices><memballoon model='virtio'><stats period='10'/></memballoon>
            <memory model='dimm'><target><size unit='KiB'>131072</size></target></memory>
            </devices></domain>";
        let read = Definition::read(xml).unwrap();
        assert_eq!((read.vcpus, read.vcpus_max), (4, 4));
        assert_eq!((read.memory_bytes, read.memory_max_bytes), (384 << 20, Some(1 << 30)));
        assert_eq!((read.memory_slots, read.memory_pieces), (16, 1));
        assert!(read.is_memory_pinned && read.has_balloon);
        assert_eq!(read.page_size, Some(PageSize::MIB2));
        assert_eq!(read.memory_stats_period_s, 10);
    }

    #[test]
    fn what_is_no_definition_is_none() {
        for text in ["", "<pool/>", "<domain><name>a", "no xml"] {
            let read = Definition::read(text);
            assert!(read.is_none() || text.starts_with("<domain>"), "{text:?}: {read:?}");
        }
    }
}
