//! Which of QEMU's block nodes is which disk of a guest, and what QEMU is told to do with it. Pure.
//!
//! libvirt has no call for a snapshot inside the disks of a running guest without its memory, so QEMU is
//! asked through libvirt. Disks are found by their devices' aliases, which are part of libvirt's XML; the
//! names that libvirt gives to nodes are not.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::xml_walk::{Element, Visit, walk};

/// What is asked to learn of a guest's disks.
pub(crate) const QUERY: &str = r#"{"execute":"query-block"}"#;

/// A disk of a running guest, as QEMU has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskNode {
    /// The name of its topmost node.
    pub(crate) node: String,
    /// Tags of the snapshots inside it.
    pub(crate) tags: Vec<String>,
}

/// One drive in QEMU's answer to [`QUERY`].
#[derive(Debug, Deserialize)]
struct Drive {
    #[serde(default)]
    qdev: Option<String>,
    #[serde(default)]
    inserted: Option<Inserted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    #[serde(default)]
    node_name: Option<String>,
    drv: String,
    image: Image,
}

#[derive(Debug, Deserialize)]
struct Image {
    #[serde(default)]
    snapshots: Vec<Tagged>,
}

#[derive(Debug, Deserialize)]
struct Tagged {
    name: String,
}

/// The disks of these guest devices, in this order, given the running domain's XML and QEMU's answer. Says
/// what is wrong when one of them is not there, or can't have snapshots.
pub(crate) fn find(xml: &str, answer: &str, devices: &[String]) -> Result<Vec<DiskNode>, String> {
    let mut found = Aliases::default();
    walk(xml, "domain", &mut found).ok_or("libvirt gave no domain's XML")?;
    let drives: Vec<Drive> =
        serde_json::from_value(returned(answer)?).map_err(|e| format!("read QEMU's disks: {e}"))?;
    devices.iter().map(|device| found.node(&drives, device)).collect()
}

/// What QEMU has returned, or its error.
pub(crate) fn returned(answer: &str) -> Result<Value, String> {
    let mut answer: Value =
        serde_json::from_str(answer).map_err(|error| format!("read QEMU's answer: {error}"))?;
    match answer.get("error") {
        Some(error) => Err(error["desc"].as_str().map_or_else(|| error.to_string(), str::to_owned)),
        None => Ok(answer["return"].take()),
    }
}

/// A snapshot of all of these disks of one moment. QEMU stops each disk's requests before it takes that
/// disk's part and lets them go on when all have theirs, and takes all of it back if one fails.
pub(crate) fn snapshot(disks: &[DiskNode], tag: &str) -> String {
    let action = |disk: &DiskNode| {
        let data = json!({ "device": disk.node, "name": tag });
        json!({ "type": "blockdev-snapshot-internal-sync", "data": data })
    };
    let actions: Vec<Value> = disks.iter().map(action).collect();
    json!({ "execute": "transaction", "arguments": { "actions": actions } }).to_string()
}

/// The end of a snapshot of one disk.
pub(crate) fn delete_snapshot(disk: &DiskNode, tag: &str) -> String {
    let arguments = json!({ "device": disk.node, "name": tag });
    let command = "blockdev-snapshot-delete-internal-sync";
    json!({ "execute": command, "arguments": arguments }).to_string()
}

/// The aliases of a domain's disks by guest device.
#[derive(Debug, Default)]
struct Aliases {
    disks: Vec<(String, String)>,
    target: Option<String>,
    alias: Option<String>,
}

impl Aliases {
    fn node(&self, drives: &[Drive], device: &str) -> Result<DiskNode, String> {
        let alias = self.disks.iter().find(|(target, _)| target == device);
        let (_, alias) = alias.ok_or_else(|| format!("the guest has no disk {device}"))?;
        // Either the device itself, or what is behind it: /machine/peripheral/ALIAS/virtio-backend.
        let is_it = |drive: &&Drive| {
            drive.qdev.as_deref().is_some_and(|qdev| qdev.split('/').any(|part| part == alias))
        };
        let drive = drives.iter().find(is_it).and_then(|drive| drive.inserted.as_ref());
        let inserted = drive.ok_or_else(|| format!("QEMU has no disk {device} ({alias})"))?;
        if inserted.drv != "qcow2" {
            return Err(format!("disk {device} is {}, which has no snapshots", inserted.drv));
        }
        let unnamed = || format!("QEMU has no name for disk {device}");
        let node = inserted.node_name.clone().ok_or_else(unnamed)?;
        let tags = inserted.image.snapshots.iter().map(|tagged| tagged.name.clone()).collect();
        Ok(DiskNode { node, tags })
    }
}

impl Visit for Aliases {
    fn begin(&mut self, path: &[&str], element: &Element<'_>) {
        match *path {
            ["domain", "devices", "disk"] => (self.target, self.alias) = (None, None),
            ["domain", "devices", "disk", "target"] => self.target = element.attribute("dev"),
            ["domain", "devices", "disk", "alias"] => self.alias = element.attribute("name"),
            _ => {}
        }
    }

    fn end(&mut self, path: &[&str]) {
        if *path == ["domain", "devices", "disk"]
            && let (Some(target), Some(alias)) = (self.target.take(), self.alias.take())
        {
            self.disks.push((target, alias));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<domain type='qemu'><devices>
        <disk type='file'><source file='/x/root.qcow2' index='2'/><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
        <disk type='file'><source file='/x/data.qcow2' index='1'/><target dev='sdb' bus='scsi'/><alias name='scsi0-0-0-1'/></disk>
        <disk type='file' device='cdrom'><target dev='sdc' bus='sata'/><alias name='sata0-0-2'/></disk>
        </devices></domain>"#;

    /// As QEMU 7.2 answers, shortened.
    const ANSWER: &str = r#"{"return":[
        {"device":"","qdev":"/machine/peripheral/virtio-disk0/virtio-backend","inserted":{"node-name":"libvirt-2-format","drv":"qcow2","image":{"virtual-size":1,"snapshots":[{"name":"a","id":"1"}]}}},
        {"device":"","qdev":"scsi0-0-0-1","inserted":{"node-name":"libvirt-1-format","drv":"qcow2","image":{"virtual-size":1}}},
        {"device":"","qdev":"sata0-0-2","inserted":{"node-name":"libvirt-3-format","drv":"raw","image":{"virtual-size":1}}},
        {"device":"floppy0"}],"id":"libvirt-7"}"#;

    fn devices(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn disks_are_found_by_their_devices_whatever_their_nodes_are_called() {
        let found = find(XML, ANSWER, &devices(&["sdb", "vda"])).unwrap();
        let names: Vec<&str> = found.iter().map(|disk| disk.node.as_str()).collect();
        assert_eq!(names, ["libvirt-1-format", "libvirt-2-format"]);
        assert_eq!(found[1].tags, ["a"]);
    }

    #[test]
    fn what_has_no_snapshots_or_is_not_there_is_said() {
        let no = |device: &str| find(XML, ANSWER, &devices(&[device])).unwrap_err();
        assert_eq!(no("sdc"), "disk sdc is raw, which has no snapshots");
        assert_eq!(no("vdz"), "the guest has no disk vdz");
        let gone = find(XML, r#"{"return":[]}"#, &devices(&["vda"])).unwrap_err();
        assert_eq!(gone, "QEMU has no disk vda (virtio-disk0)");
    }

    #[test]
    fn an_error_of_qemu_is_no_answer() {
        let said = r#"{"id":"x","error":{"class":"GenericError","desc":"no room"}}"#;
        assert_eq!(returned(said), Err("no room".to_owned()));
        assert_eq!(returned(r#"{"return":{},"id":"x"}"#), Ok(json!({})));
        assert!(returned("no JSON").is_err());
    }

    #[test]
    fn all_disks_are_in_one_transaction() {
        let disks = find(XML, ANSWER, &devices(&["vda", "sdb"])).unwrap();
        let told: Value = serde_json::from_str(&snapshot(&disks, "b")).unwrap();
        let actions = told["arguments"]["actions"].as_array().unwrap();
        let nodes: Vec<&Value> = actions.iter().map(|action| &action["data"]["device"]).collect();
        assert_eq!(nodes, ["libvirt-2-format", "libvirt-1-format"]);
        assert!(actions.iter().all(|action| action["data"]["name"] == "b"));
    }
}
