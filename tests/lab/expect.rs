//! What is expected stays true by itself: VMs follow labels, keep apart, and run; and what cannot be is
//! told, with the reason, and moves nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::counter::count;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// How long nothing must happen where nothing should: several looks, plans and turns.
const STILL: Duration = Duration::from_secs(12);

/// Files with what is expected.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str, expectations: &Value) -> String {
        let path: PathBuf = self.0.path().join(format!("{name}.json"));
        let text = json!({ "expectations": expectations }).to_string();
        std::fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    }
}

fn is_running(lab: &Lab, name: &str, host: &str) -> bool {
    lab.virsh_state(host, name) == "running"
}

/// Starts a host's agent anew, with these labels and no others.
fn label(lab: &Lab, url: &str, host: &str, labels: &[&str]) {
    lab.must(&["stop", host, "agent"]);
    let words: Vec<&str> = labels.iter().flat_map(|label| ["--label", *label]).collect();
    lab.start_agent_with(host, url, &words);
}

fn await_labels(operator: &Operator, host: &str, wanted: &Value) {
    until(&format!("{host} to say {wanted}"), LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["host"]["name"] == host).cloned().unwrap_or_default();
        // Beside what the machine says of itself.
        let is_so = row["host"]["labels"]["disk"] == wanted["disk"];
        is(is_so && row["freshness"] == "fresh", row)
    });
}

/// How the first expectation of a set stands.
fn standing(operator: &Operator, set: &str) -> Value {
    operator.json(&["expectations", set])["sets"][0]["expectations"][0].clone()
}

fn await_standing(operator: &Operator, set: &str, wanted: &str) -> Value {
    let (found, _) = until(&format!("{set} to be {wanted}"), LIMIT, || {
        let found = standing(operator, set);
        if found["standing"] == wanted { Ok(found) } else { Err(found) }
    });
    found
}

fn run_on(operator: &Operator, name: &str, host: &str) {
    operator.must(&["run", "--memory", "64MiB", "--on", host, "--name", name]);
    assert_eq!(operator.await_state(name, "running"), host);
}

fn runs(operator: &Operator) -> Vec<Value> {
    operator.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default()
}

#[test]
fn lab_a_vm_follows_the_label_it_is_expected_on_and_what_cannot_be_is_told() {
    let Some(lab) = Lab::up("lab_a_vm_follows_the_label", 3) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    let url = operator.make_cluster(&lab);
    for host in ["h1", "h2"] {
        label(&lab, &url, host, &["disk=ssd"]);
        await_labels(&operator, host, &json!({ "disk": "ssd" }));
    }
    operator
        .must(&["run", "--image", "guest", "--memory", "128MiB", "--on", "h1", "--name", "web-1"]);
    let counted = count(&operator, "web-1");
    let rule = json!([{ "expect": "host_label", "job": "web-1", "key": "disk", "value": "ssd" }]);
    let file = files.file("ssd", &rule);
    operator.must(&["expect", &file, "--wait", "30s"]);
    assert_eq!(standing(&operator, "ssd")["standing"], "met");

    // The label goes, and so does the VM, alive.
    label(&lab, &url, "h1", &[]);
    let (_, took) = until("web-1 to run on h2", LIMIT, || {
        is(is_running(&lab, "web-1", "h2"), lab.virsh_state("h2", "web-1"))
    });
    println!("web-1 has followed its label {took:?} after it was taken away");
    await_standing(&operator, "ssd", "met");
    // Then h1 has nothing of it any more, and no console of it to show.
    operator.await_no_run();
    let now = count(&operator, "web-1");
    assert!(now > counted, "the counter went from {counted} to {now}: restarted");

    // An operator who would have it elsewhere is told who would move it back.
    let refused = operator.run(&["migrate", "web-1", "h3"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("does not say its disk"), "{said}");

    // Nobody has it any more: it is told why, and nothing moves.
    label(&lab, &url, "h2", &["disk=tape"]);
    await_labels(&operator, "h2", &json!({ "disk": "tape" }));
    let unmet = until("it to be unmet, with the planner's report", LIMIT, || {
        let found = standing(&operator, "ssd");
        if found["report"].is_object() { Ok(found) } else { Err(found) }
    })
    .0;
    assert_eq!(unmet["standing"], "unmet");
    let why = unmet["why"].as_str().unwrap_or_default();
    assert!(why.contains("disk=tape") && why.contains("h3"), "{why}");
    let before = runs(&operator).len();
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert!(is_running(&lab, "web-1", "h2"));
        is(looked.elapsed() > STILL, looked.elapsed())
    });
    assert_eq!(runs(&operator).len(), before, "nothing flaps");

    // The agent with the label is back, and it is mended without a word.
    label(&lab, &url, "h3", &["disk=ssd"]);
    until("web-1 to run on h3", LIMIT, || {
        is(is_running(&lab, "web-1", "h3"), lab.virsh_state("h3", "web-1"))
    });
    operator.must(&["unexpect", "ssd"]);
    operator.await_no_run();
    operator.must(&["migrate", "web-1", "h1"]);
    assert!(is_running(&lab, "web-1", "h1"));
}

#[test]
fn lab_vms_that_must_be_apart_are_parted_and_a_new_one_keeps_apart() {
    let Some(lab) = Lab::up("lab_vms_that_must_be_apart", 3) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    operator.make_bare_cluster(&lab);
    run_on(&operator, "web-1", "h1");
    run_on(&operator, "web-2", "h1");
    let jobs = ["web-1", "web-2", "web-3", "web-4"];
    let file = files.file("apart", &json!([{ "expect": "not_same_host", "jobs": jobs }]));
    operator.must(&["expect", &file, "--wait", "60s"]);
    let where_is = |name: &str| {
        let all: Vec<String> =
            lab.hosts().into_iter().filter(|host| is_running(&lab, name, host)).collect();
        assert_eq!(all.len(), 1, "{name} runs on {all:?}");
        all[0].clone()
    };
    let (one, two) = (where_is("web-1"), where_is("web-2"));
    assert_ne!(one, two);

    operator.must(&["run", "--name", "web-3", "--memory", "64MiB"]);
    let three = where_is("web-3");
    assert!(three != one && three != two, "web-3 is on {three}");
    let crowd = operator.run(&["migrate", "web-3", &one]);
    let said = String::from_utf8_lossy(&crowd.stderr).into_owned();
    assert!(!crowd.status.success() && said.contains("two on one host"), "{said}");
    let fourth = operator.run(&["run", "--name", "web-4", "--memory", "64MiB"]);
    let said = String::from_utf8_lossy(&fourth.stderr).into_owned();
    assert_eq!(fourth.status.code(), Some(3), "{said}");
    assert!(said.contains("two on one host"), "{said}");
    assert_eq!(operator.ps("web-4"), vec![]);
    // Whoever would empty a host is told beforehand what stays there, and why.
    let drain = operator.run(&["drain", &one, "--dry-run"]);
    let said = String::from_utf8_lossy(&drain.stdout).into_owned();
    assert_eq!(drain.status.code(), Some(1), "{said}");
    assert!(said.contains("web-1: cannot leave") && said.contains("two on one host"), "{said}");
    assert_eq!(standing(&operator, "apart")["standing"], "met");
}

#[test]
fn lab_a_vm_is_kept_running_and_who_ends_it_by_command_is_obeyed() {
    let Some(lab) = Lab::up("lab_a_vm_is_kept_running", 2) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    let url = operator.make_bare_cluster(&lab);
    let spec = json!({ "vm": { "vcpus": 1, "memory_bytes": 64 << 20 } });
    let wanted = json!([
        { "expect": "runs", "job": "web-1", "spec": spec },
        { "expect": "lose_any_host" },
    ]);
    let file = files.file("web", &wanted);
    operator.must(&["expect", &file, "--wait", "60s"]);
    let host = operator.await_state("web-1", "running");
    assert!(is_running(&lab, "web-1", &host));

    // Somebody behind our back: it runs again. By command: it stays as it is, and that is said.
    let destroyed = lab.exec(&host, &["virsh", "destroy", "web-1"]);
    assert!(destroyed.status.success(), "{destroyed:?}");
    let (_, took) = until("web-1 to run again", LIMIT, || {
        is(is_running(&lab, "web-1", &host), lab.virsh_state(&host, "web-1"))
    });
    println!("web-1 runs again {took:?} after it was destroyed");
    until("its run to be over", LIMIT, || {
        let open: Vec<Value> =
            runs(&operator).into_iter().filter(|run| run["state"] == "running").collect();
        is(open.is_empty(), open)
    });
    let stopped = operator.run(&["stop", "web-1", "--force"]);
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(stopped.status.success() && said.contains("it stays stopped"), "{said}");
    let unmet = await_standing(&operator, "web", "unmet");
    assert!(unmet["why"].as_str().is_some_and(|why| why.contains("ostler start web-1")), "{unmet}");
    let plan = operator.run(&["plan"]);
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert_eq!(plan.status.code(), Some(0), "{said}");
    assert!(said.contains("nothing to do\nwaits (web): web-1 was ended by command"), "{said}");

    // A controller that is killed comes back with what it keeps, and still knows who ended it.
    let (at, pid) = operator.service(&lab, "controller");
    let killed = lab.exec(&at, &["kill", "-9", &pid]);
    assert!(killed.status.success(), "{killed:?}");
    let again = until("the controller to answer again", LIMIT, || {
        let found = operator.run(&["expectations", "web", "--json"]);
        let list: Value = serde_json::from_slice(&found.stdout).unwrap_or_default();
        let first = list["sets"][0]["expectations"][0].clone();
        if first["standing"] == "unmet" { Ok(first) } else { Err(first) }
    })
    .0;
    assert!(again["why"].as_str().is_some_and(|why| why.contains("by command")), "{again}");
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert!(!is_running(&lab, "web-1", &host));
        is(looked.elapsed() > STILL, looked.elapsed())
    });
    operator.must(&["start", "web-1"]);
    await_standing(&operator, "web", "met");

    // Too little is left for what a lost host would leave: told, with the names.
    lab.must(&["stop", &host, "agent"]);
    lab.start_agent_with(&host, &url, &["--memory", "256MiB"]);
    let other = lab.hosts().into_iter().find(|other| *other != host).expect("two hosts");
    operator.must(&["run", "--name", "large", "--memory", "300MiB", "--on", &other]);
    let (why, _) = until("the spare room to be missed", LIMIT, || {
        let sets = operator.json(&["expectations", "web"]);
        let spare = sets["sets"][0]["expectations"][1].clone();
        if spare["standing"] == "unmet" { Ok(spare["why"].to_string()) } else { Err(spare) }
    });
    assert!(why.contains("would strand 1 VMs: large"), "{why}");

    // What is deleted is gone.
    operator.must(&["rm", "web-1", "--force"]);
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert_eq!(operator.ps("web-1"), vec![]);
        is(looked.elapsed() > STILL, looked.elapsed())
    });
    assert!(standing(&operator, "web")["why"].as_str().is_some_and(|why| why.contains("is gone")));
}

#[test]
fn lab_two_controllers_keep_the_same_and_do_not_fight() {
    let Some(lab) = Lab::up("lab_two_controllers_keep_the_same", 3) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    let url = operator.make_cluster_with(&lab, &["--controllers", "2"]);
    label(&lab, &url, "h1", &["disk=ssd"]);
    label(&lab, &url, "h2", &["disk=ssd"]);
    for n in 1..=3 {
        run_on(&operator, &format!("web-{n}"), "h1");
    }
    let rule = |n: usize| json!({ "expect": "host_label", "job": format!("web-{n}"), "key": "disk", "value": "ssd" });
    for n in 1..=3 {
        let file = files.file(&format!("web-{n}"), &json!([rule(n)]));
        operator.must(&["expect", &file, "--wait", "30s"]);
    }
    label(&lab, &url, "h1", &[]);
    until("all three to run on h2", LIMIT, || {
        let states = [1, 2, 3].map(|n| lab.virsh_state("h2", &format!("web-{n}")));
        is(states.iter().all(|state| state == "running"), states)
    });
    for n in 1..=3 {
        await_standing(&operator, &format!("web-{n}"), "met");
    }
    // Each was moved once. Both may begin the same move: hosts decide then, and one of the runs moves nothing.
    operator.await_no_run();
    let moves = || -> Vec<Value> {
        runs(&operator).into_iter().filter(|run| run["want"]["want"] == "migrate").collect()
    };
    let has_moved = |run: &&Value| {
        run["tasks"].as_array().into_iter().flatten().any(|task| {
            let title = task["title"].as_str().unwrap_or_default();
            task["state"] == "succeeded" && title.starts_with("hand ")
        })
    };
    let done = moves();
    assert_eq!(done.iter().filter(has_moved).count(), 3, "{done:#?}");
    assert!(done.iter().all(|run| run["state"] != "stuck"), "{done:#?}");

    // One of them is gone for good; what it would have mended the other one does.
    let (at, pid) = operator.service(&lab, "controller");
    let stopped = lab.exec(&at, &["kill", "-STOP", &pid]);
    assert!(stopped.status.success(), "{stopped:?}");
    label(&lab, &url, "h3", &["disk=ssd"]);
    label(&lab, &url, "h2", &[]);
    let (_, took) = until("all three to run on h3", LIMIT, || {
        let states = [1, 2, 3].map(|n| lab.virsh_state("h3", &format!("web-{n}")));
        is(states.iter().all(|state| state == "running"), states)
    });
    println!("one controller of two has moved three VMs within {took:?}");
    let _ = lab.exec(&at, &["kill", "-CONT", &pid]);
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        for n in 1..=3 {
            assert!(is_running(&lab, &format!("web-{n}"), "h3"));
        }
        is(looked.elapsed() > STILL, looked.elapsed())
    });
}

#[test]
fn lab_others_move_so_that_a_large_vm_fits_when_asked_and_when_it_must_run() {
    let Some(lab) = Lab::up("lab_others_move_so_that_a_large_vm_fits", 2) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    let url = operator.make_bare_cluster(&lab);
    for host in ["h1", "h2"] {
        lab.must(&["stop", host, "agent"]);
        lab.start_agent_with(host, &url, &["--memory", "512MiB"]);
    }
    until("both hosts to say what they have", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let is_so = |row: &Value| {
            row["host"]["capacity"]["memory_bytes"] == 512 << 20 && row["freshness"] == "fresh"
        };
        is(rows.len() == 2 && rows.iter().all(is_so), shown)
    });
    run_on(&operator, "small-1", "h1");
    operator.must(&["run", "--memory", "128MiB", "--on", "h2", "--name", "small-2"]);
    let told = operator.must(&["hosts"]);
    assert!(!told.contains("would strand"), "{told}");
    assert!(told.contains("too few arbiters would be left"), "there is only one: {told}");

    // Not asked for, nobody is moved, and it is said who would have to be.
    let large = ["run", "--name", "large-1", "--memory", "480MiB"];
    let refused = operator.run(&large);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("move small-1 from h1 to h2: that makes room"), "{said}");
    assert!(said.contains("--make-room"), "{said}");
    assert!(is_running(&lab, "small-1", "h1"));

    let asked = Instant::now();
    let told = operator.must(&[&large[..], &["--make-room"]].concat());
    println!("large-1 runs {:?} after it was asked for, with a move before", asked.elapsed());
    assert!(told.contains("move small-1 from h1 to h2 so that large-1 fits: done"), "{told}");
    assert!(is_running(&lab, "small-1", "h2") && is_running(&lab, "large-1", "h1"));
    let told = operator.must(&["hosts"]);
    assert!(told.contains("can lose any one host: no, "), "{told}");
    assert!(told.contains("h1 would strand 1 VMs: large-1 (needs 480MiB of memory"), "{told}");

    // Who has moved for one that cannot start goes back.
    operator.must(&["rm", "large-1", "--force"]);
    run_on(&operator, "small-3", "h1");
    let bad = ["run", "--name", "bad-1", "--memory", "480MiB", "--cpu", "nonesuch", "--make-room"];
    let refused = operator.run(&bad);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    assert!(told.contains("move small-3 from h1 to h2 so that bad-1 fits: undone"), "{told}");
    assert!(is_running(&lab, "small-3", "h1") && !is_running(&lab, "small-3", "h2"));

    // What must run has others moved without being asked each time.
    let spec = json!({ "vm": { "vcpus": 1, "memory_bytes": 480 << 20 } });
    let expected = json!([
        { "expect": "runs", "job": "large-2", "spec": spec },
        { "level": "should", "expect": "lose_any_host" },
    ]);
    operator.must(&["expect", &files.file("large", &expected), "--wait", "60s"]);
    // Whoever was moved a moment ago is left alone, so it may be either host that is cleared.
    let at = operator.await_state("large-2", "running");
    let other = if at == "h1" { "h2" } else { "h1" };
    assert!(is_running(&lab, "large-2", &at));
    assert!((1..=3).all(|n| is_running(&lab, &format!("small-{n}"), other)));
    let because = |run: &Value| run["because"].as_str().unwrap_or_default().to_owned();
    let whys: Vec<String> = runs(&operator).iter().map(because).collect();
    let moved = whys.iter().filter(|why| why.contains("large-2 fits on")).count();
    assert!((1..=2).contains(&moved), "{whys:?}");
    until("the spare room to be missed", LIMIT, || {
        let sets = operator.json(&["expectations", "large"]);
        let why = sets["sets"][0]["expectations"][1]["why"].as_str().unwrap_or_default().to_owned();
        is(why.contains("would strand 1 VMs: large-2 (needs 480MiB of memory"), sets)
    });
}

/// Runs that start this VM and are not of before.
fn starts_of(operator: &Operator, name: &str, known: &[Value]) -> Vec<Value> {
    let is_it = |run: &Value| run["want"]["want"] == "run" && run["want"]["job"] == name;
    let is_new = |run: &Value| known.iter().all(|before| before["id"] != run["id"]);
    runs(operator).into_iter().filter(|run| is_it(run) && is_new(run)).collect()
}

/// When libvirt's QEMU of a VM began, in clock ticks since this machine did.
fn began(lab: &Lab, host: &str, name: &str) -> u64 {
    let pid = format!("$(cat /run/libvirt/qemu/{name}.pid)");
    // After the name, which may have blanks in it, the 20th field.
    let script = format!("sed 's/.*) //' /proc/{pid}/stat | cut -d' ' -f20");
    let found = lab.exec(host, &["sh", "-c", &script]);
    let text = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    text.parse().unwrap_or_else(|_| panic!("{name} on {host} has no QEMU: {found:?}"))
}

#[test]
fn lab_a_group_is_kept_apart_and_starts_after_what_it_needs() {
    let Some(lab) = Lab::up("lab_a_group_is_kept_apart", 3) else { return };
    let (mut operator, files) = (Operator::new(), Files::new());
    operator.make_cluster_with(&lab, &["--controllers", "2"]);
    let spec = json!({ "vm": { "vcpus": 1, "memory_bytes": 64 << 20 } });
    let wanted = |count: u32| {
        json!([
            { "expect": "group", "name": "web", "count": count, "spec": spec, "spread": {} },
            { "expect": "runs", "job": "db-1", "spec": spec },
            { "expect": "starts_after", "jobs": ["web-1", "web-2", "web-3"], "after": ["db-1"] },
        ])
    };
    let asked = Instant::now();
    operator.must(&["expect", &files.file("shop", &wanted(3)), "--wait", "60s"]);
    println!("four VMs, three of which wait for the other, run after {:?}", asked.elapsed());
    let webs = ["web-1", "web-2", "web-3"];
    let where_is = |name: &str| {
        let all: Vec<String> =
            lab.hosts().into_iter().filter(|host| is_running(&lab, name, host)).collect();
        assert_eq!(all.len(), 1, "{name} runs on {all:?}");
        all[0].clone()
    };
    let homes_apart = || {
        let homes = webs.map(where_is);
        let apart: std::collections::BTreeSet<&String> = homes.iter().collect();
        assert_eq!(apart.len(), 3, "{homes:?}");
        homes
    };
    let homes = homes_apart();
    let order_is_kept = |known: &[Value]| {
        let db = starts_of(&operator, "db-1", known);
        let db_ms =
            db.iter().filter_map(|run| run["accepted_ms"].as_u64()).min().expect("it was started");
        let db_began = began(&lab, &where_is("db-1"), "db-1");
        for web in webs {
            for run in starts_of(&operator, web, known) {
                assert!(
                    run["accepted_ms"].as_u64() > Some(db_ms),
                    "{web} was begun first: {run:#}"
                );
            }
            assert!(began(&lab, &where_is(web), web) > db_began, "{web} ran first");
        }
    };
    order_is_kept(&[]);
    let group = standing(&operator, "shop");
    assert_eq!(
        (&group["standing"], group["members"].as_array().map(Vec::len)),
        (&json!("met"), Some(3))
    );

    // One of them behind our back: it runs again, where it was.
    let destroy = |name: &str, host: &str| {
        let destroyed = lab.exec(host, &["virsh", "destroy", name]);
        assert!(destroyed.status.success(), "{destroyed:?}");
    };
    destroy("web-2", &homes[1]);
    let (_, took) = until("web-2 to run again", LIMIT, || {
        is(is_running(&lab, "web-2", &homes[1]), lab.virsh_state(&homes[1], "web-2"))
    });
    println!("web-2 runs again {took:?} after it was destroyed");
    await_standing(&operator, "shop", "met");

    // All of them at once, and a controller with them: the order is the same again.
    let known = runs(&operator);
    let (at, pid) = operator.service(&lab, "controller");
    let db_home = where_is("db-1");
    destroy("db-1", &db_home);
    for (web, home) in webs.iter().zip(&homes) {
        destroy(web, home);
    }
    let killed = lab.exec(&at, &["kill", "-9", &pid]);
    assert!(killed.status.success(), "{killed:?}");
    let (_, took) = until("all of them to run again", LIMIT, || {
        let runs_once = |name: &&str| {
            lab.hosts().iter().filter(|host| is_running(&lab, name, host)).count() == 1
        };
        let left: Vec<&str> = webs.into_iter().chain(["db-1"]).filter(|n| !runs_once(n)).collect();
        is(left.is_empty(), left)
    });
    println!("all four run again {took:?} after they were destroyed with a controller");
    await_standing(&operator, "shop", "met");
    order_is_kept(&known);
    let homes = homes_apart();

    // What it needs is stopped by command: it goes on, but once it has ended it waits, and says for whom.
    operator.must(&["stop", "db-1", "--force"]);
    assert!(webs.iter().zip(&homes).all(|(web, home)| is_running(&lab, web, home)));
    destroy("web-3", &homes[2]);
    let (why, _) = until("web-3 to wait for db-1", LIMIT, || {
        let why = standing(&operator, "shop")["why"].as_str().unwrap_or_default().to_owned();
        if why.contains("web-3 waits for db-1, which is stopped on") { Ok(why) } else { Err(why) }
    });
    assert!(why.starts_with("2 of 3 run; "), "{why}");
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert!(!is_running(&lab, "web-3", &homes[2]));
        assert!(is_running(&lab, "web-1", &homes[0]) && is_running(&lab, "web-2", &homes[1]));
        is(looked.elapsed() > STILL, looked.elapsed())
    });
    operator.must(&["start", "db-1"]);
    until("web-3 to run again", LIMIT, || {
        is(is_running(&lab, "web-3", &homes[2]), lab.virsh_state(&homes[2], "web-3"))
    });

    // A smaller group ends nobody, and is told with who is left over.
    operator.must(&["expect", &files.file("shop", &wanted(2)), "--wait", "60s"]);
    let table = operator.must(&["expectations", "shop"]);
    assert!(table.contains("web-1 to web-2 run, at most 1 in one host"), "{table}");
    assert!(table.contains("web-3 is beyond the count, and nobody ends that"), "{table}");
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert!(is_running(&lab, "web-3", &homes[2]));
        is(looked.elapsed() > STILL, looked.elapsed())
    });

    // Who would wait for itself is refused, by whatever way.
    let back = json!([{ "expect": "starts_after", "jobs": ["db-1"], "after": ["web-1"] }]);
    let refused = operator.run(&["expect", &files.file("back", &back)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("starts after"), "{said}");
    assert!(said.contains("none of them would ever start"), "{said}");
}
