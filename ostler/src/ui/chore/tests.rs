//! Forms as the command lines that they are.

use serde_json::{Value, json};

use super::*;

fn read(asked: Value, backups: Option<&str>) -> Result<String, Failure> {
    let chore: Chore = serde_json::from_value(asked).unwrap();
    chore.line(backups).map(|line| line.shown())
}

#[test]
fn a_form_is_the_command_line_that_a_person_would_write() {
    let asked = json!({ "chore": "clone", "job": "web-1", "name": " web-2", "on": " " });
    assert_eq!(read(asked, None).unwrap(), "clone web-1 web-2");
    let asked = json!({ "chore": "take_image", "job": "web-1", "name": "golden", "disk": "root" });
    assert_eq!(read(asked, None).unwrap(), "images take --disk=root web-1 golden");
    let asked = json!({ "chore": "take_backup", "job": "web-1", "keep": "7" });
    let shown = read(asked, Some("/var/my backups")).unwrap();
    assert_eq!(shown, "backup take '--to=/var/my backups' --keep=7 web-1");
}

#[test]
fn a_value_is_no_flag_and_nonsense_is_refused_before_anything_runs() {
    for name in ["--force", "web 2", ""] {
        let asked = json!({ "chore": "clone", "job": "web-1", "name": name });
        assert_eq!(read(asked, None).unwrap_err().code, crate::exit::Code::Usage, "{name:?}");
    }
    let asked = json!({ "chore": "take_backups", "keep": "0" });
    assert!(read(asked, Some("/b")).is_err());
}

#[test]
fn the_page_reaches_no_file_but_below_its_folder() {
    let asked = json!({ "chore": "delete_backup", "backup": "/b/web-1/20261130-012014" });
    assert_eq!(read(asked, Some("/b")).unwrap(), "backup rm /b/web-1/20261130-012014");
    let out = json!({ "chore": "delete_backup", "backup": "/b/../etc" });
    assert!(read(out, Some("/b")).is_err());
    let restore =
        |backup: &str, folder| read(json!({ "chore": "restore_backup", "backup": backup }), folder);
    restore("/b/web-1/20261130-012014", Some("/b")).unwrap();
    for outside in ["/etc", "/b/../etc", "b/web-1", "/bb/web-1", "--name=x"] {
        assert!(restore(outside, Some("/b")).is_err(), "{outside}");
    }
    assert!(restore("/b/web-1", None).unwrap_err().to_string().contains("--backups"));
    for file in ["/etc/shadow", "file:///etc/shadow", "shadow"] {
        let asked = json!({ "chore": "import_image", "url": file, "name": "x" });
        assert!(read(asked, None).unwrap_err().to_string().contains("no files"), "{file}");
    }
}

#[test]
fn pools_networks_and_disks_are_what_a_person_would_write() {
    let lines = [
        (
            json!({ "chore": "add_pool", "name": "nfs", "path": "/srv/nfs", "shared": true, "create": true, "on": "h1, h2" }),
            "pools add --shared --create --on=h1 --on=h2 nfs /srv/nfs",
        ),
        (json!({ "chore": "remove_pool", "name": "nfs", "on": "" }), "pools rm nfs"),
        (
            json!({ "chore": "restore_volumes", "pool": "nfs", "entry": "web-1.7" }),
            "volumes restore nfs web-1.7",
        ),
        (
            json!({ "chore": "create_network", "name": "blue", "kind": "nat", "what": "10.20.0.0/24", "no_dhcp": true }),
            "networks create --no-dhcp --nat=10.20.0.0/24 blue",
        ),
        (
            json!({ "chore": "create_network", "name": "red", "kind": "isolated", "what": " ", "no_dhcp": false, "on": "h1,h2" }),
            "networks create --isolated --on=h1,h2 red",
        ),
        (
            json!({ "chore": "create_network", "name": "v7", "kind": "vlan", "what": "7", "uplink": "eth1", "no_dhcp": false }),
            "networks create --vlan=7 --uplink=eth1 v7",
        ),
        (
            json!({ "chore": "attach_disk", "job": "web-1", "name": "data", "size": "1GiB" }),
            "attach --disk=data=1GiB web-1",
        ),
        (
            json!({ "chore": "detach_disk", "job": "web-1", "name": "data" }),
            "detach --delete-data --disk=data web-1",
        ),
        (
            json!({ "chore": "grow_disk", "job": "web-1", "name": "root", "size": "2GiB" }),
            "resize --disk=root=2GiB web-1",
        ),
        (
            json!({ "chore": "attach_card", "job": "web-1", "plug": "network=blue", "model": "e1000e", "mac": "" }),
            "attach --nic=network=blue,model=e1000e web-1",
        ),
        (
            json!({ "chore": "rank", "job": "web-1", "priority": "80", "is_preemptible": false }),
            "rank --not-preemptible web-1 80",
        ),
    ];
    for (asked, shown) in lines {
        assert_eq!(read(asked, None).unwrap(), shown);
    }
    for nonsense in [
        json!({ "chore": "create_network", "name": "blue", "kind": "carrier-pigeon", "what": "7", "no_dhcp": false }),
        json!({ "chore": "create_network", "name": "blue", "kind": "nat", "what": "", "no_dhcp": false }),
        json!({ "chore": "attach_card", "job": "web-1", "plug": "", "model": null, "mac": null }),
        json!({ "chore": "attach_disk", "job": "web-1", "name": "data", "size": "large" }),
        json!({ "chore": "remove_pool", "name": "--on=h1", "on": null }),
    ] {
        let said = read(nonsense.clone(), None);
        assert_eq!(said.unwrap_err().code, crate::exit::Code::Usage, "{nonsense}");
    }
}
