//! Images, clones and backups of VMs that write all the while, judged by what the guests have written: their
//! journals are read out of the files that were made.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::journal::Journal;
use tests::wait::{is, until};

use super::snapshots::Story;

const LIMIT: Duration = Duration::from_secs(90);

/// Blocks in a journal that somebody has made a file of.
fn blocks(file: &Path) -> usize {
    Journal::of(file).writers().iter().map(|writer| writer.blocks).sum()
}

/// What the host's folder of images has, hidden files included.
fn image_files(story: &Story, host: &str) -> Vec<String> {
    let entries = std::fs::read_dir(story.lab.data(host).join("images")).expect("it is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Names of images that were made for a VM, wherever they are.
fn made_for(story: &Story, vm: &str) -> Vec<String> {
    let images = story.operator.json(&["images"])["images"].clone();
    let names = images.as_array().expect("a list").iter();
    let names = names.map(|image| image["name"].as_str().expect("a name").to_owned());
    names.filter(|name| name.starts_with(&format!("for-{vm}-"))).collect()
}

/// Nothing but the image that the guests began with.
fn assert_no_image_is_left(story: &Story) {
    until("everything that was made for it to be gone", LIMIT, || {
        let left = image_files(story, "h1");
        is(left == ["guest.img", "guest.json"], left)
    });
    story.assert_tags(&[]);
}

/// Where the guest says on its console that its journal is.
fn journal_at(story: &Story, vm: &str) -> usize {
    let console = story.operator.follow(&["console", vm, "--no-input"]);
    let said = console.line_with("journal at ", LIMIT);
    said.rsplit(' ').next().and_then(|n| n.trim().parse().ok()).expect("a number")
}

#[test]
fn lab_a_vm_is_cloned_while_it_writes() {
    let Some(story) = Story::up("lab_a_vm_is_cloned_while_it_writes", 2) else { return };
    let operator = &story.operator;
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    let least = story.blocks();
    operator.must(&["clone", "web-1", "web-2", "--on", "h2"]);
    let most = story.blocks() + 1;
    assert_eq!(story.lab.virsh_state("h1", "web-1"), "running");
    assert_eq!(story.lab.virsh_state("h2", "web-2"), "running");
    story.assert_tags(&[]);

    // The image is of one moment in between, and the clone goes on from there as a guest of its own.
    let images = made_for(&story, "web-2");
    let journal = images.iter().find(|name| name.contains("journal")).expect("one of its journal");
    let image = blocks(&story.lab.data("h1").join(format!("images/{journal}.img")));
    println!("cloned with {least} to {most} blocks written: the image has {image}");
    assert!((least..=most).contains(&image), "{image} of {least} to {most}");
    let at = journal_at(&story, "web-2");
    assert!((image..=image + 1).contains(&at), "the clone finds {at}, the image has {image}");
    story.await_blocks_after(most);
    console.line_with("count=", LIMIT);

    let said = story.refused(&["clone", "web-1", "web-2"]);
    assert!(said.contains("already"), "{said}");
    // What its disks are made from stays as long as it does.
    let said = story.refused(&["images", "rm", journal]);
    assert!(said.contains("web-2"), "{said}");
    operator.must(&["stop", "web-2", "--force"]);
    operator.must(&["rm", "web-2"]);
    // What somebody may be at work on is not pruned.
    operator.must(&["images", "prune"]);
    assert_eq!(made_for(&story, "web-2"), images);
    for image in &images {
        operator.must(&["images", "rm", image]);
    }
    assert_no_image_is_left(&story);
    // A clone that can't be is none, and leaves nothing.
    let large = operator.run(&["clone", "web-1", "web-3", "--on", "h9"]);
    assert_eq!(large.status.code(), Some(5));
    operator.must(&["drain", "h2"]);
    let refused = operator.run(&["clone", "web-1", "web-3", "--on", "h2"]);
    assert!(!refused.status.success());
    assert_no_image_is_left(&story);
}

/// A backup's folder, as the command says it.
fn backups(story: &Story, folder: &str) -> Vec<(PathBuf, u64)> {
    let listed = story.operator.json(&["backup", "ls", folder])["backups"].clone();
    let listed = listed.as_array().expect("a list");
    let of = |row: &Value| {
        let path = row["path"].as_str().expect("a path").into();
        (path, row["taken_ms"].as_u64().expect("a moment"))
    };
    listed.iter().map(of).collect()
}

#[test]
fn lab_a_backup_brings_a_vm_back() {
    let Some(story) = Story::up("lab_a_backup_brings_a_vm_back", 2) else { return };
    let operator = &story.operator;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().to_str().expect("UTF-8");

    let least = story.blocks();
    let said = operator.must(&["backup", "take", "web-1", "--to", folder]);
    assert!(said.contains("web-1 as it was at"), "{said}");
    let most = story.blocks() + 1;
    assert_no_image_is_left(&story);
    let first = backups(&story, folder);
    let kept = blocks(&first[0].0.join("journal.qcow2"));
    println!("backed up with {least} to {most} blocks written: the file has {kept}");
    assert!((least..=most).contains(&kept), "{kept} of {least} to {most}");

    // The next one, of all VMs, takes its place.
    story.await_blocks_after(most);
    operator.must(&["backup", "take", "--all", "--to", folder, "--keep", "1"]);
    let second = backups(&story, folder);
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(second[0].1 > first[0].1);
    let kept = blocks(&second[0].0.join("journal.qcow2"));
    assert!(kept > most);
    operator.must(&["backup", "check", folder]);
    let said = story.refused(&["backup", "restore", folder]);
    assert!(said.contains("ostler rm web-1"), "{said}");

    // All that was there of it is gone, and it comes back as it was then.
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["rm", "web-1"]);
    operator.must(&["backup", "restore", &format!("{folder}/web-1")]);
    let at = journal_at(&story, "web-1");
    println!("backed up at {kept}, brought back at {at}");
    assert!((kept..=kept + 1).contains(&at), "the guest finds {at}, the backup has {kept}");
    // And once more beside itself.
    let path = second[0].0.to_str().expect("UTF-8");
    operator.must(&["backup", "restore", path, "--name", "web-2", "--on", "h2"]);
    assert_eq!(story.lab.virsh_state("h2", "web-2"), "running");
    assert_eq!(journal_at(&story, "web-2"), at);

    // A file that is not what was written is found, and no VM is made of it.
    operator.must(&["backup", "take", "web-1", "--to", folder]);
    let third = backups(&story, folder);
    let path = third[1].0.to_str().expect("UTF-8");
    // What has not changed is there once.
    let inode = |backup: &(PathBuf, u64)| {
        let file = std::fs::metadata(backup.0.join("root.qcow2")).expect("the file is there");
        file.ino()
    };
    assert_eq!(inode(&third[0]), inode(&third[1]));
    let file = third[1].0.join("journal.qcow2");
    let mut bytes = std::fs::read(&file).expect("the file is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    let checked = operator.run(&["backup", "check", path]);
    assert_eq!(checked.status.code(), Some(1));
    let restored = operator.run(&["backup", "restore", path, "--name", "web-3", "--on", "h2"]);
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(!restored.status.success() && said.contains("sha256"), "{said}");
    assert_eq!(operator.ps("web-3"), []);
}

#[test]
fn lab_an_image_of_a_disk_is_whole_or_not_there_whoever_dies() {
    let Some(story) = Story::up("lab_an_image_of_a_disk_is_whole", 1) else { return };
    let (operator, lab) = (&story.operator, &story.lab);
    let slow = ["--limit", "2MiB"];
    let is_being_made = |image: &str| {
        until(&format!("image {image} to be on its way"), LIMIT, || {
            let coming = operator.json(&["images"])["coming"].clone();
            let mine = coming.as_array().into_iter().flatten().find(|one| one["name"] == image);
            let state = mine.map_or(Value::Null, |one| one["state"]["fetch"].clone());
            is(state == "fetching", coming)
        });
    };

    // The agent dies, and the guest is stopped and started meanwhile: whoever waits asks again.
    let mut taking = operator.begin(&[&["images", "take", "web-1", "golden"][..], &slow].concat());
    is_being_made("golden");
    story.kill_agent();
    story.start_agent();
    is_being_made("golden");
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["start", "web-1"]);
    assert!(taking.wait().expect("it can be waited for").success());
    let check = lab.exec("h1", &["qemu-img", "check", "/var/lib/ostler/images/golden.img"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    story.assert_tags(&[]);
    operator.must(&["run", "golden", "--name", "web-2", "--memory", "128MiB"]);
    let console = operator.follow(&["console", "web-2", "--no-input"]);
    console.line_with("count=", LIMIT);
    operator.must(&["stop", "web-2", "--force"]);
    operator.must(&["rm", "web-2"]);
    operator.must(&["images", "rm", "golden"]);
    assert_no_image_is_left(&story);

    // A person has had enough, or what runs it by a timer: nothing of it is left.
    for (signal, image) in [("-INT", "never"), ("-TERM", "neither")] {
        let mut taking = operator.begin(&[&["images", "take", "web-1", image][..], &slow].concat());
        is_being_made(image);
        let said = story.refused(&["snapshots", "rm", "web-1", &snapshot(&story)]);
        assert!(said.contains("image"), "{said}");
        let mut kill = Command::new("kill");
        kill.args([signal, &taking.id().to_string()]).status().expect("kill can be run");
        assert_eq!(taking.wait().expect("it can be waited for").code(), Some(130));
        assert_no_image_is_left(&story);
    }
}

/// The one snapshot that the VM has.
fn snapshot(story: &Story) -> String {
    let listed = story.operator.json(&["snapshots", "ls", "web-1"])["snapshots"].clone();
    listed[0]["name"].as_str().expect("there is one").to_owned()
}
