//! Whose VM it is decides what a tenant's user may do: judged by what each part answers, controllers and hosts
//! alike, and by what runs.

use std::process::Output;
use std::time::Duration;

use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The status that a request with somebody's own key is answered with.
fn call(who: &Operator, address: &str, path: &str, body: &serde_json::Value) -> u16 {
    let (key, address, path, body) =
        (who.context().join("operator.key"), address.to_owned(), path.to_owned(), body.clone());
    let asked = async move {
        let identity = transport::Identity::load_or_create(&key).expect("the context has a key");
        let client = transport::Client::new(std::sync::Arc::new(identity));
        let to = transport::Endpoint::anyone(format!("https://{address}"));
        let method = transport::Method::POST;
        let sent = client.send::<_, serde_json::Value>(method, &to, &path, &body).await;
        match sent {
            Ok(reply) => reply.status,
            Err(error) => error.problem().map_or(0, |problem| problem.status),
        }
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(asked)
}

/// A person has the VMs of a tenant, its quota included, and of no other, whomever they ask; until they are
/// taken out, and then what they have open ends.
#[test]
fn lab_a_user_has_the_vms_of_a_tenant_and_no_others_whomever_it_asks() {
    let Some(lab) = Lab::up("lab_a_user_has_the_vms_of_a_tenant", 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["quota", "set", "a", "--vms", "2"]);
    operator.must(&["run", "guest", "--name", "theirs", "--memory", "64MiB", "--tenant", "b"]);
    let home = operator.await_state("theirs", "running");

    let ann = Operator::new();
    let key = ann.json(&["users", "key"])["own"].as_str().expect("a key").to_owned();
    operator.must(&["users", "add", &key, "--name", "ann", "--tenant", "a"]);
    let fetched = said(&ann.run(&["trust", "fetch", &url]));
    assert!(fetched.contains("is known there as user"), "{fetched}");
    let refused = |words: &[&str]| {
        let output = ann.run(words);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {}", said(&output));
        said(&output)
    };

    // Its own, of its own tenant without a word.
    ann.must(&["run", "guest", "--name", "mine", "--memory", "128MiB"]);
    let mine = ann.await_state("mine", "running");
    assert_eq!(ann.row_on("mine", &mine)["job"]["spec"]["tenant"], "a");
    let console = ann.follow(&["console", "mine", "--no-input"]);
    console.line_with("count=", LIMIT);
    ann.must(&["snapshots", "take", "mine", "before"]);
    ann.must(&["snapshots", "rm", "mine", "before"]);
    ann.must(&["pause", "mine"]);
    ann.must(&["resume", "mine"]);
    ann.must(&["run", "--name", "more", "--memory", "64MiB"]);
    let over = refused(&["run", "--name", "third", "--memory", "64MiB"]);
    assert!(over.contains("quota") || over.contains("limit"), "{over}");
    ann.must(&["stop", "more", "--force"]);
    ann.must(&["rm", "more"]);

    // Nobody else's, by a controller or straight from its host.
    ann.must(&["ps"]);
    for words in [
        &["stop", "theirs", "--force"][..],
        &["rm", "theirs", "--force"],
        &["migrate", "theirs", if home == "h1" { "h2" } else { "h1" }],
        &["resize", "theirs", "--memory", "128MiB"],
        &["run", "--name", "theirs", "--memory", "64MiB"],
        &["run", "--name", "other", "--memory", "64MiB", "--tenant", "b"],
        &["run", "--name", "large", "--memory", "64MiB", "--make-room"],
        &["pause", "theirs"],
        &["console", "theirs", "--no-input"],
        &["snapshots", "take", "theirs", "before"],
        &["protect", "theirs"],
        &["images", "rm", "guest"],
        &["drain", "h1"],
        &["quota", "set", "a", "--vms", "9"],
    ] {
        let text = refused(words);
        assert!(!text.is_empty(), "{words:?}");
    }
    // What is done in a run's name is done for all of its jobs: not by a user, whose VM ever it is.
    let runs = ann.json(&["runs"])["runs"].clone();
    let run = runs[0]["id"].as_str().expect("a run").to_owned();
    let body = serde_json::json!({ "grace_ms": 0, "run": { "run": run, "task": 0, "claim": 9 } });
    let forged = call(&ann, &format!("{}:7460", lab.address(&mine)), "/v1/jobs/mine/stop", &body);
    assert_eq!(forged, 403);
    assert_eq!(lab.virsh_state(&mine, "mine"), "running");
    for words in [
        &["run", "--name", "ostler-monitor-9", "--memory", "64MiB"][..],
        &["run", "--name", "bridged", "--memory", "64MiB", "--nic", "bridge=br0"],
    ] {
        let output = ann.run(words);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{words:?}: {}", said(&output));
    }
    let host = format!("{}:7460", lab.address(&home));
    let straight = refused(&["stop", "theirs", "--force", "--hosts", &host]);
    assert!(straight.contains("user ann of tenant a"), "{straight}");
    assert_eq!(lab.virsh_state(&home, "theirs"), "running");
    let runs = ann.run(&["runs"]);
    assert!(runs.status.success());

    // A name is a tenant's as long as the VM is there, also while it does not run.
    operator.must(&["stop", "theirs", "--force"]);
    let text = refused(&["run", "--name", "theirs", "--memory", "64MiB"]);
    assert!(text.contains("tenant b"), "{text}");

    operator.must(&["users", "remove", "ann"]);
    until("what it has open to end", LIMIT, || {
        let output = ann.run(&["console", "mine", "--no-input"]);
        is(!output.status.success(), said(&output))
    });
    assert_eq!(lab.virsh_state(&mine, "mine"), "running");
}
