//! From nothing to gone, and the next start.

use std::path::Path;

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

    kept_expectations_can_be_put_again(data);

    let second = dev(data, &["--json"]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    let found: serde_json::Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(found["cluster"], last["cluster"]);
}

/// What was kept is as it was, after it was lost and put again from the file that was made of it.
fn kept_expectations_can_be_put_again(data: &Path) {
    let shown = |words: &[&str]| -> serde_json::Value {
        let output = ostler(data, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let file = data.join("kept.json").display().to_string();
    let wanted = serde_json::json!({ "expectations": [
        { "expect": "not_same_host", "jobs": ["a", "b"], "level": "should" },
        { "expect": "runs_on", "job": "hello", "on": "h2", "level": "wish" },
        { "expect": "lose_any_host", "level": "wish" },
    ] });
    std::fs::write(&file, wanted.to_string()).unwrap();
    assert!(ostler(data, &["expect", &file]).status.success());
    let kept = shown(&["expectations", "kept", "--file"]);
    assert_eq!(kept["expectations"].as_array().map(Vec::len), Some(3), "{kept}");
    assert!(ostler(data, &["unexpect", "kept"]).status.success());
    assert!(!ostler(data, &["expectations", "kept", "--file"]).status.success());
    std::fs::write(&file, kept.to_string()).unwrap();
    assert!(ostler(data, &["expect", &file]).status.success());
    assert_eq!(shown(&["expectations", "kept", "--file"]), kept);
    assert!(ostler(data, &["unexpect", "kept"]).status.success());
    for wrong in [&["expectations", "--file"][..], &["expectations", "kept", "--file", "--json"]] {
        assert_eq!(ostler(data, wrong).status.code(), Some(2), "{wrong:?}");
    }
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
