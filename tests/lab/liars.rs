//! A cluster that bears an arbiter that lies: what it takes to make one, and what it takes from then on.

use tests::lab::Lab;
use tests::operator::{Operator, said};

#[test]
fn lab_a_cluster_that_bears_a_liar_takes_three_of_four() {
    let Some(lab) = Lab::up("lab_a_cluster_that_bears_a_liar", 4) else { return };
    let mut operator = Operator::new();
    let url = operator.discover(&lab.operator_address());
    for host in lab.hosts() {
        lab.start_agent(&host, &url);
    }
    let bootstrap = |more: &[&str]| {
        operator
            .run(&[&["bootstrap", "--discovery", &url, "-n", "4", "--liars", "1"], more].concat())
    };
    let few = bootstrap(&["--arbiters", "3"]);
    let words = said(&few);
    assert!(!few.status.success(), "{words}");
    assert!(
        words.contains("1 that may lie need 4 arbiters at least, and 3 are asked for"),
        "{words}"
    );
    let made = bootstrap(&["--arbiters", "4"]);
    assert!(made.status.success(), "{}", said(&made));
    operator.import_guest();
    operator.must(&["quota", "set", "default", "--vcpus", "3"]);
    let shown = said(&operator.run(&["quota"]));
    let words = "8/9 of each limit can be used while all 4 arbiters answer, 2/3 of each limit while only 3 do";
    assert!(shown.contains(words), "{shown}");

    let run = |name: &'static str| operator.run(&["run", "--memory", "64MiB", "--name", name]);
    let arbiters = operator.services(&lab, "arbiter");
    assert_eq!(arbiters.len(), 4);
    let (host, pid) = &arbiters[0];
    let signal = |what: &str| assert!(lab.exec(host, &["kill", what, pid]).status.success());
    signal("-STOP");
    let with_three = run("web-1");
    assert!(with_three.status.success(), "three are a quorum: {}", said(&with_three));
    signal("-CONT");
    operator.await_state("web-1", "running");
}
