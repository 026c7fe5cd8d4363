//! A tenant's VMs are started by a budget while no arbiter answers: how many, judged by `virsh`, and what is
//! left of it when the agent was killed in between.

use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A VM of the tenant that is firmware only.
fn vm<'a>(name: &'a str, vcpus: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words =
        ["run", "--name", name, "--tenant", "team-a", "--vcpus", vcpus, "--memory", "64MiB"];
    [&words[..], more].concat()
}

/// The command is refused; what it says.
#[track_caller]
fn refused(operator: &Operator, words: &[&str]) -> String {
    let output = operator.run(words);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{words:?}: {said}");
    said
}

fn guest_pid(lab: &Lab, name: &str) -> String {
    let found = lab.exec("h1", &["pgrep", "-f", &format!("guest={name}")]).stdout;
    String::from_utf8_lossy(&found).trim().to_owned()
}

fn budget(operator: &Operator) -> Value {
    operator.json(&["budget", "list"])["budgets"][0].clone()
}

/// CPUs of the tenant that count against its quota, and those of them that are delegated.
fn counted(operator: &Operator) -> (Value, Value) {
    let quota = operator.json(&["quota"]);
    let rows = quota["quota"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["tenant"] == "team-a").unwrap_or_default();
    (row["used"]["vcpus"].clone(), row["delegated"]["vcpus"].clone())
}

#[test]
fn lab_a_tenants_vms_start_by_its_budget_while_no_arbiter_answers() {
    let Some(lab) = Lab::up("lab_a_tenants_vms_start_by_its_budget", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["quota", "set", "team-a", "--vcpus", "4"]);
    operator.must(&["budget", "set", "team-a", "--on", "h1", "--vcpus", "2", "--memory", "256MiB"]);
    let shown =
        || is(counted(&operator) == (2.into(), 2.into()), format!("{:?}", counted(&operator)));
    until("the budget to count", LIMIT, shown);
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new(), "nothing runs for that");

    let (host, arbiter) = operator.service(&lab, "arbiter");
    assert!(lab.exec(&host, &["kill", "-STOP", &arbiter]).status.success());
    let (web, db) = ("team-a.h1.web", "team-a.h1.db");
    operator.must(&vm(web, "1", &["--budget"]));
    assert_eq!(lab.virsh_state("h1", web), "running");
    let said = refused(&operator, &vm(db, "2", &["--budget"]));
    assert!(said.contains("2 vcpus, 256MiB") && said.contains("at most"), "{said}");
    let said = refused(&operator, &vm("db", "1", &["--budget"]));
    assert!(said.contains("call it team-a.h1.db"), "{said}");
    assert_eq!(lab.virsh_domains("h1"), [web]);

    let guest = guest_pid(&lab, web);
    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.start_agent("h1", &url);
    lab.await_agent("h1");
    until("the agent to be seen", LIMIT, || {
        let row = budget(&operator);
        is(row["used"]["vcpus"] == 1 && row["users"][0] == web, row)
    });
    assert_eq!(guest_pid(&lab, web), guest, "it has run on");
    let said = refused(&operator, &vm(db, "2", &["--budget"]));
    assert!(said.contains("at most"), "what was started before counts: {said}");
    operator.must(&vm(db, "1", &["--budget"]));
    let said = refused(&operator, &["budget", "rm", "team-a.h1"]);
    assert!(said.contains(db) && said.contains(web), "{said}");

    // An agent that begins anew has a service replaced that answers nothing; else it goes on.
    let _ = lab.exec(&host, &["kill", "-CONT", &arbiter]);
    // Each CPU counts once.
    until("an arbiter to count", LIMIT, || {
        let shown = operator.run(&["quota", "--json"]);
        is(shown.status.success(), String::from_utf8_lossy(&shown.stderr).into_owned())?;
        is(counted(&operator) == (2.into(), 2.into()), format!("{:?}", counted(&operator)))
    });
    operator.must(&vm("other", "2", &[]));
    let said = refused(&operator, &vm("more", "1", &[]));
    assert!(said.contains("limit of 4 vcpus"), "{said}");
    operator.must(&["stop", web, "--force"]);
    let said = refused(&operator, &vm("more", "1", &[]));
    assert!(
        said.contains("limit of 4 vcpus"),
        "what ends frees the budget, and not the quota: {said}"
    );
    operator.must(&["stop", db, "--force"]);
    operator.must(&["budget", "rm", "team-a.h1"]);
    operator.must(&vm("more", "1", &[]));
    assert_eq!(counted(&operator), (3.into(), 0.into()));
}
