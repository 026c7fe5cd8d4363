//! More than one operator: a key is added, governs, and takes the first one out; judged by what each may do.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn key_of(operator: &Operator) -> String {
    let shown = operator.json(&["operators", "key"]);
    shown["own"].as_str().expect("a key").to_owned()
}

fn version(operator: &Operator) -> Value {
    operator.json(&["trust", "show"])["version"].clone()
}

#[track_caller]
fn refused(operator: &Operator, words: &[&str], why: &str) {
    let output = operator.run(words);
    let text = said(&output);
    assert!(output.status.code() == Some(3) && text.contains(why), "{words:?}: {text}");
}

/// A second key is added while a host is away; it governs, starts VMs, and takes the first one out when
/// every host knows it, and not before.
#[test]
fn lab_a_second_operator_takes_over_from_the_first() {
    let Some(lab) = Lab::up("lab_a_second_operator_takes_over", 3) else { return };
    let mut first = Operator::new();
    let url = first.make_cluster(&lab);
    let second = Operator::new();
    let (old, new) = (key_of(&first), key_of(&second));
    assert_ne!(old, new);
    assert_eq!(key_of(&second), new, "it is made once");
    let busy = ["arbiter", "controller", "monitor"].map(|role| first.service(&lab, role).0);
    let away = lab.hosts().into_iter().find(|host| !busy[..2].contains(host)).expect("a host");
    first.must(&["run", "--name", "web-1", "--memory", "64MiB"]);
    let home = first.await_state("web-1", "running");

    let stranger = second.run(&["bootstrap", "--discovery", &url, "-n", "3"]);
    assert!(
        said(&stranger).contains("our key is no operator's") || stranger.status.code() == Some(3)
    );
    lab.must(&["cut", &away]);
    let added = first.run(&["operators", "add", &new]);
    assert!(added.status.success() && said(&added).contains(&away), "{}", said(&added));
    // It fetches the document and where hosts are found.
    lab.must(&["heal", &away]);
    until("the second operator to join", LIMIT, || {
        let again = first.run(&["operators", "add", &new]);
        assert!(again.status.success(), "{}", said(&again));
        let joined = second.run(&["bootstrap", "--discovery", &url, "-n", "3"]);
        is(joined.status.success(), said(&joined))
    });
    assert_eq!(version(&first), version(&second), "it has changed nothing");
    let keys = second.json(&["operators"]);
    assert_eq!(keys["operators"].as_array().map(Vec::len), Some(2), "{keys}");
    second.must(&["quota", "set", "default", "--vcpus", "9"]);
    first.must(&["quota", "set", "default", "--vcpus", "8"]);
    assert_eq!(version(&first), 4, "each goes on from what the other has signed");

    let follows = first.follow(&["events", "--follow"]);
    follows.note_with("following", Duration::from_secs(10));
    second.must(&["run", "--name", "seen-1", "--memory", "64MiB"]);
    follows.line_with("seen-1 running", LIMIT);

    refused(&first, &["operators", "remove", &old], "it is the key of this context");
    lab.must(&["cut", &away]);
    refused(&second, &["operators", "remove", &old], &format!("ostler retire {away} --is-off"));
    lab.must(&["heal", &away]);
    until("the host to be heard again", LIMIT, || {
        let removed = second.run(&["operators", "remove", &old]);
        is(removed.status.success(), said(&removed))
    });
    refused(&second, &["operators", "remove", &new], "it is the only operator's key");
    for words in [&["operators"][..], &["quota", "set", "default", "--vcpus", "7"], &["hosts"]] {
        // Roles read their hosts' document twice a second.
        until("the first operator to be a stranger", LIMIT, || {
            let output = first.run(words);
            let text = said(&output);
            is(output.status.code() == Some(3) && text.contains("use an operator's context"), text)
        });
    }
    assert_eq!(lab.virsh_state(&home, "web-1"), "running", "no guest was touched");

    // Each host remembers it.
    lab.must(&["signal", &away, "agent", "KILL"]);
    lab.start_agent(&away, &url);
    until("its agent to answer", LIMIT, || {
        let set = second.run(&["quota", "set", "default", "--vcpus", "6"]);
        is(set.status.success() && !said(&set).contains("warning"), said(&set))
    });
    second.must(&["run", "--name", "web-2", "--memory", "64MiB", "--on", &away]);
    second.must(&["stop", "web-1", "--force"]);
    let heard = follows.lines();
    assert!(!heard.iter().any(|line| line.contains("web-2")), "its streams were cut: {heard:?}");
}
