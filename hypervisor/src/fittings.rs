//! What a running guest has of what can come and go, as its XML shows it. Pure.
//!
//! A disk is known by its file and a card by its address: those are the same in every definition. The names of
//! disks (`vdb`) follow from their places, and a guest keeps the ones that it was given when others go.

use std::path::{Path, PathBuf};

use crate::xml_walk::{Element, Visit, walk};

/// A disk or card of a guest, by what it is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitting {
    /// The disk that is this file.
    Disk(PathBuf),
    /// The card with this address.
    Card(String),
}

/// A disk or card that a guest has still although it was asked to let go of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub fitting: Fitting,
    /// Why, as far as known.
    pub why: String,
}

/// Disks and cards of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fittings(Vec<Shown>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    /// `None`: a disk that is no file.
    fitting: Option<Fitting>,
    target: Option<String>,
    alias: Option<String>,
}

impl Fittings {
    /// Reads a domain's XML; `None` when it is none.
    #[must_use]
    pub fn read(xml: &str) -> Option<Self> {
        let mut read = Self::default();
        walk(xml, "domain", &mut read)?;
        Some(read)
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, fitting: &Fitting) -> bool {
        self.find(fitting).is_some()
    }

    /// The guest's device that is this file, such as `vdb`.
    #[must_use]
    pub fn device(&self, file: &Path) -> Option<&str> {
        self.find(&Fitting::Disk(file.to_owned()))?.target.as_deref()
    }

    /// libvirt's name for it while its guest runs.
    pub(crate) fn alias(&self, fitting: &Fitting) -> Option<&str> {
        self.find(fitting)?.alias.as_deref()
    }

    /// Names that disks of any kind have.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &str> {
        let disks = self.0.iter().filter(|shown| !matches!(shown.fitting, Some(Fitting::Card(_))));
        disks.filter_map(|shown| shown.target.as_deref())
    }

    fn find(&self, fitting: &Fitting) -> Option<&Shown> {
        let is_it = |shown: &&Shown| match (&shown.fitting, fitting) {
            (Some(Fitting::Card(has)), Fitting::Card(mac)) => has.eq_ignore_ascii_case(mac),
            (has, fitting) => has.as_ref() == Some(fitting),
        };
        self.0.iter().find(is_it)
    }
}

impl Visit for Fittings {
    fn begin(&mut self, path: &[&str], element: &Element<'_>) {
        let attribute = |name: &str| element.attribute(name);
        let ["domain", "devices", kind @ ("disk" | "interface"), ref inner @ ..] = *path else {
            return;
        };
        let [element_name] = *inner else {
            if inner.is_empty() {
                self.0.push(Shown::default());
            }
            return;
        };
        let Some(shown) = self.0.last_mut() else { return };
        match (kind, element_name) {
            ("disk", "source") => {
                shown.fitting = attribute("file").map(|file| Fitting::Disk(file.into()));
            }
            ("interface", "mac") => shown.fitting = attribute("address").map(Fitting::Card),
            (_, "target") => shown.target = attribute("dev"),
            (_, "alias") => shown.alias = attribute("name"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "<domain type='kvm' id='3'><devices>
        <disk type='file' device='disk'><source file='/x/root.qcow2' index='2'/>
          <backingStore type='file'><source file='/x/base.qcow2'/></backingStore>
          <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
        <disk type='block' device='disk'><source dev='/dev/x'/><target dev='vdb' bus='virtio'/></disk>
        <disk type='file' device='disk'><source file='/x/more.qcow2'/><target dev='vdc' bus='virtio'/>
          <alias name='virtio-disk2'/></disk>
        <interface type='user'><mac address='52:54:00:00:00:0a'/><target dev='vnet0'/>
          <alias name='net0'/></interface>
        </devices></domain>";

    #[test]
    fn disks_are_known_by_their_files_and_cards_by_their_addresses() {
        let read = Fittings::read(LIVE).unwrap();
        let disk = |file: &str| Fitting::Disk(file.into());
        assert_eq!(read.alias(&disk("/x/root.qcow2")), Some("virtio-disk0"));
        assert_eq!(read.device(Path::new("/x/more.qcow2")), Some("vdc"));
        assert!(!read.has(&disk("/x/base.qcow2")), "it is what another is made of");
        assert_eq!(read.alias(&Fitting::Card("52:54:00:00:00:0A".into())), Some("net0"));
        assert!(!read.has(&Fitting::Card("52:54:00:00:00:0b".into())));
        assert_eq!(read.devices().collect::<Vec<_>>(), ["vda", "vdb", "vdc"]);
        assert_eq!(Fittings::read("<pool/>"), None);
    }
}
