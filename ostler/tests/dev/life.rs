//! From nothing to gone, and the next start.

use crate::cluster::{Dev, dev, ostler};

#[test]
fn a_cluster_comes_up_runs_vms_and_is_found_running_by_a_second_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Dev::up(data);
    let last = up.said.last().unwrap();
    assert!(last.get("apis").is_some(), "{:#?}", up.said);
    assert_eq!(last["jobs"][0]["job"]["id"], "hello", "{last:#}");
    assert!(up.ends().iter().all(|(_, state)| *state == "done"), "{:?}", up.ends());

    let ran = ostler(data, &["run", "--name", "second", "--memory", "64MiB"]);
    assert!(ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("second running on h"), "{ran:?}");
    let again = ostler(data, &["run", "--name", "third", "--memory", "900GiB"]);
    assert_eq!(again.status.code(), Some(3), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("900GiB"), "{again:?}");
    assert_eq!(ostler(data, &["rm", "second"]).status.code(), Some(3), "it runs");
    assert!(ostler(data, &["stop", "second", "--force"]).status.success());
    assert!(ostler(data, &["rm", "second"]).status.success());
    assert_eq!(ostler(data, &["rm", "second"]).status.code(), Some(5));

    let second = dev(data, &["--json"]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    let found: serde_json::Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(found["cluster"], last["cluster"]);
}

#[test]
fn the_next_start_finds_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut first = Dev::up(data);
    let cluster = first.said.last().unwrap()["cluster"].clone();
    // Nothing can be said beforehand to a process that is killed.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = Dev::up(data);
    assert_eq!(second.said.last().unwrap()["cluster"], cluster, "{:#?}", second.said);
    assert!(second.ends().iter().all(|(_, state)| *state == "already"), "{:?}", second.ends());
}
