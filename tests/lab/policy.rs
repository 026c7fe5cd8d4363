//! What a tenant's VMs may be like, and on which hosts: asked by real hosts of what starts and moves, and of nothing
//! that runs; judged by `virsh`.

use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::api::OfferRequest;
use protocol::id::{JobId, Revision, TenantId};
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use protocol::vm::VmSpec;
use serde_json::{Value, json};
use tests::lab::Lab;
use tests::operator::{Operator, guest_image};
use tests::wait::{is, until};

use crate::tickets::Caller;

const LIMIT: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The command is refused for a reason that has all these words.
#[track_caller]
fn refused(operator: &Operator, words: &[&str], why: &[&str]) {
    let output = operator.run(words);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{words:?}: {text}");
    for part in why {
        assert!(text.contains(part), "{words:?}: {part} is not in: {text}");
    }
}

/// Starts a host's agent anew, with this label and no other, and waits until everybody knows.
fn label(lab: &Lab, operator: &Operator, url: &str, host: &str, label: Option<&str>) {
    lab.must(&["stop", host, "agent"]);
    let words: Vec<&str> = label.iter().flat_map(|label| ["--label", *label]).collect();
    lab.start_agent_with(host, url, &words);
    let pair = label.and_then(|label| label.split_once('='));
    let wanted = pair.map_or(json!({}), |(key, value)| json!({ key: value }));
    until(&format!("{host} to say {wanted}"), LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["host"]["name"] == host).cloned().unwrap_or_default();
        // Beside what the machine says of itself.
        let is_so = row["host"]["labels"]["owner"] == wanted["owner"];
        is(is_so && row["freshness"] == "fresh", row)
    });
}

fn file(folder: &tempfile::TempDir, name: &str, policy: &Value) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, policy.to_string()).expect("it can be written");
    path.display().to_string()
}

/// What `policy check` says could not be started again: the VM, and the rules.
fn denied(operator: &Operator, words: &[&str]) -> Vec<(String, Vec<String>)> {
    let output = operator.run(&[&["policy", "check", "--json"], words].concat());
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = told["denied"].as_array().expect("a list").clone();
    let code = i32::from(!list.is_empty());
    assert_eq!(output.status.code(), Some(code), "{told}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let rules = |one: &Value| {
        let breaches = one["breaches"].as_array().expect("a list");
        breaches.iter().map(|breach| text(&breach["rule"])).collect()
    };
    list.iter().map(|one| (text(&one["job"]), rules(one))).collect()
}

#[test]
fn lab_a_tenant_has_what_its_policy_allows_where_it_allows_it() {
    let Some(lab) = Lab::up("lab_a_tenant_has_what_its_policy_allows", 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let image = guest_image().display().to_string();
    operator.must(&["images", "import", &image, "--name", "other"]);
    label(&lab, &operator, &url, "h2", Some("owner=acme"));
    let acme = |name: &'static str, image: &'static str, memory: &'static str| {
        let words = ["run", "--tenant", "acme", "--image", image, "--memory", memory];
        [&words[..], &["--name", name]].concat()
    };
    let is_running = |name: &str, host: &str| lab.virsh_state(host, name) == "running";
    // One from before there are rules, on a host that will not be its tenant's.
    operator.must(&[&acme("old-1", "other", "128MiB")[..], &["--on", "h1"]].concat());

    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = |memory_mib: u64| {
        json!({ "tenants": { "acme": {
            "images": ["gue*"],
            "vm_max": { "vcpus": 1, "memory_bytes": memory_mib << 20 },
            "host_labels": { "owner": "acme" },
        } } })
    };
    let wrong = file(&folder, "wrong.json", &json!({ "default": { "vm_max": {} } }));
    refused(&operator, &["policy", "set", &wrong], &["vm_max names no limit"]);
    let policy = file(&folder, "policy.json", &rules(256));
    let old = |rules: &[&str]| {
        let rules = rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>();
        vec![("old-1".to_owned(), rules)]
    };
    assert_eq!(denied(&operator, &[&policy]), old(&["images", "host_labels"]));
    assert_eq!(denied(&operator, &[]), [], "it was only a question");
    let set = operator.run(&["policy", "set", &policy]);
    let text = said(&set);
    assert!(set.status.success() && text.contains("1 VM that are there"), "{text}");
    let shown = operator.json(&["policy"]);
    assert_eq!(shown["policy"]["tenants"], rules(256)["tenants"], "{shown}");
    assert_eq!(denied(&operator, &[]), old(&["images", "host_labels"]));
    assert!(is_running("old-1", "h1"), "what runs is untouched");

    // Others are asked nothing, and fill the tenant's host, so that its own VM would go elsewhere.
    for name in ["blue-1", "blue-2"] {
        let blue = ["run", "--tenant", "blue", "--image", "other", "--memory", "128MiB"];
        operator.must(&[&blue[..], &["--on", "h2", "--name", name]].concat());
    }
    let images = ["policy of tenant acme: images: disk", "is made from other; allowed: gue*"];
    refused(&operator, &acme("new-1", "other", "64MiB"), &images);
    let size = ["policy of tenant acme: vm_max:", "512MiB of memory, at most 256MiB"];
    refused(&operator, &acme("new-1", "guest", "512MiB"), &size);
    let on = [&acme("new-1", "guest", "64MiB")[..], &["--on", "h1"]].concat();
    refused(&operator, &on, &["host_labels: the host must have owner=acme"]);
    operator.must(&acme("acme-1", "guest", "128MiB"));
    assert_eq!(operator.await_state("acme-1", "running"), "h2");
    assert!(is_running("acme-1", "h2") && !is_running("acme-1", "h1"));
    for host in ["h1", "h2"] {
        assert!(!lab.virsh_domains(host).contains(&"new-1".to_owned()), "on {host}");
    }

    // It is the host that says no, whatever a controller thinks.
    let caller = Caller::new(&operator);
    let vm = VmSpec { vcpus: 2, memory_bytes: 64 << 20, ..VmSpec::default() };
    let spec = JobSpec { tenant: TenantId::new("acme").expect("a name"), ..JobSpec::vm(vm) };
    let ask = OfferRequest {
        job: JobId::new("new-1").expect("a name"),
        revision: Revision(1),
        spec,
        action: Action::Start,
        finds_disks: false,
    };
    let no = caller.ask(&caller.host(&lab, "h2"), &ask).expect_err("two CPUs are too many");
    let Some(Refusal::AgainstPolicy { breach, is_default: false, .. }) = no.refusal() else {
        panic!("{no}");
    };
    assert_eq!(breach.rule(), "vm_max");

    // A move asks for the host's labels.
    let to_h1 = ["migrate", "acme-1", "h1"];
    refused(&operator, &to_h1, &["host_labels: the host must have owner=acme"]);
    assert!(is_running("acme-1", "h2"));
    label(&lab, &operator, &url, "h2", None);
    assert!(is_running("acme-1", "h2"), "the host has lost its label, and keeps what runs");
    let drained = operator.run(&["drain", "h2", "--timeout", "1m"]);
    let text = said(&drained);
    assert_eq!(drained.status.code(), Some(1), "{text}");
    assert!(text.contains("acme-1 cannot leave") && text.contains("host_labels"), "{text}");
    assert!(is_running("acme-1", "h2"));
    // Those of others have left.
    until("the others to have left", LIMIT, || {
        let left = lab.virsh_domains("h2");
        is(left == ["acme-1"], left)
    });
    operator.must(&["undrain", "h2"]);

    // A rule that came later denies it, and keeps it from nothing but a start.
    let policy = file(&folder, "small.json", &rules(64));
    operator.must(&["policy", "set", &policy]);
    label(&lab, &operator, &url, "h1", Some("owner=acme"));
    operator.must(&to_h1);
    assert_eq!(operator.await_state("acme-1", "running"), "h1");
    assert!(is_running("acme-1", "h1"));
    let denied_now = denied(&operator, &[]);
    assert_eq!(denied_now[0], ("acme-1".to_owned(), vec!["vm_max".to_owned()]), "{denied_now:?}");
    refused(&operator, &["resize", "acme-1", "--memory", "192MiB"], &["vm_max"]);
    operator.must(&["stop", "acme-1", "--force"]);
    refused(&operator, &["start", "acme-1"], &["vm_max", "128MiB of memory, at most 64MiB"]);
    let why = operator.must(&["why", "acme-1"]);
    assert!(why.contains("policy of tenant acme: vm_max"), "{why}");
    operator.must(&["policy", "clear"]);
    operator.must(&["start", "acme-1"]);
    assert!(is_running("acme-1", "h1"));
    assert!(is_running("old-1", "h1"), "all the while");
}

/// The day of the week that is so many days from now, by UTC.
fn day_in(days: u64) -> &'static str {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    // The first of January 1970 was a Thursday.
    let days_since_monday = now.as_secs() / 86_400 + 3 + days;
    let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    names[usize::try_from(days_since_monday % 7).expect("a small number")]
}

#[test]
fn lab_vms_start_when_and_as_often_as_their_policy_says() {
    let Some(lab) = Lab::up("lab_vms_start_when_their_policy_says", 1) else { return };
    let mut operator = Operator::new();
    operator.make_bare_cluster(&lab);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let set = |rules: &Value| {
        let policy = file(&folder, "policy.json", &json!({ "tenants": { "acme": rules } }));
        operator.must(&["policy", "set", &policy]);
    };
    let hours = |day: &str| json!({ "start_windows": { "open": [{ "days": [day], "from": "00:00", "to": "24:00" }] } });
    let vm = |name: &'static str, tenant: &'static str| {
        let words = ["run", "--memory", "64MiB", "--max-memory", "128MiB"];
        [&words[..], &["--tenant", tenant, "--name", name]].concat()
    };
    let is_running = |name: &str| lab.virsh_state("h1", name) == "running";

    let empty = json!({ "default": { "start_rate": { "starts": 0, "within_s": 60 } } });
    let wrong = file(&folder, "wrong.json", &empty);
    refused(&operator, &["policy", "set", &wrong], &["start_rate.starts = 0: use 1 to 10000"]);

    // Shut today, tomorrow and the day after.
    set(&hours(day_in(3)));
    let shut = ["policy of tenant acme: start_windows:", "the next window opens", day_in(3)];
    refused(&operator, &vm("acme-1", "acme"), &shut);
    assert!(!lab.virsh_domains("h1").contains(&"acme-1".to_owned()));
    operator.must(&vm("blue-1", "blue"));
    assert!(is_running("blue-1"), "it has no hours");

    // Open today, tomorrow if it is late, and yesterday if it is early.
    let days = json!([day_in(0), day_in(1)]);
    let open =
        json!({ "start_windows": { "open": [{ "days": days, "from": "00:00", "to": "24:00" }] } });
    set(&open);
    operator.must(&vm("acme-1", "acme"));
    assert!(is_running("acme-1"));
    let policy = file(&folder, "shut.json", &json!({ "tenants": { "acme": hours(day_in(3)) } }));
    let names = |list: Vec<(String, Vec<String>)>| {
        list.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names(denied(&operator, &[&policy])), ["acme-1"]);
    let told = operator.run(&["policy", "check", "--json", &policy]);
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let opens_ms = told["denied"][0]["breaches"][0]["opens_ms"].as_i64().expect("a time");
    let opens = format!("@{}", opens_ms / 1_000);
    let opens = Command::new("date").args(["-u", "-d", &opens, "+%FT%TZ"]).output().expect("date");
    let opens = said(&opens).trim().to_owned();
    assert_eq!(denied(&operator, &[&policy, "--at", &opens]), []);

    // What runs goes on when a window shuts; it grows no more, and it is started no more.
    set(&hours(day_in(3)));
    assert!(is_running("acme-1"));
    operator.must(&["pause", "acme-1"]);
    operator.must(&["resume", "acme-1"]);
    refused(&operator, &["resize", "acme-1", "--memory", "128MiB"], &["start_windows"]);
    operator.must(&["stop", "acme-1", "--force"]);
    refused(&operator, &["start", "acme-1"], &["start_windows"]);

    set(&json!({ "start_rate": { "starts": 2, "within_s": 600 } }));
    operator.must(&["start", "acme-1"]);
    operator.must(&vm("acme-2", "acme"));
    let often = ["policy of tenant acme: start_rate: 2 starts in 10 min", "; the next in "];
    refused(&operator, &vm("acme-3", "acme"), &often);
    operator.must(&["stop", "acme-2", "--force"]);
    refused(&operator, &["start", "acme-2"], &often);
    operator.must(&["policy", "clear"]);
    operator.must(&["start", "acme-2"]);
    operator.must(&vm("acme-3", "acme"));
    assert!(["acme-1", "acme-2", "acme-3", "blue-1"].into_iter().all(is_running));
}
