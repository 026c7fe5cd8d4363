//! A protected VM on real hosts: no command ends it, whichever host or controller is asked, and everything else goes
//! on; judged by `virsh`.

use std::process::Output;
use std::time::Duration;

use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Every command that would end it is refused with the way out, and its guest is the one that it was.
#[track_caller]
fn nothing_ends_it(lab: &Lab, operator: &Operator, host: &str) {
    let pid = guest(lab, host);
    // By a controller, and by the host itself.
    let agent = format!("https://{}:7460", lab.address(host));
    for asked in [&[][..], &["--hosts", &agent]] {
        for end in [
            &["stop", "keep"][..],
            &["stop", "keep", "--force"],
            &["save", "keep"],
            &["rm", "keep", "--force"],
        ] {
            let output = operator.run(&[asked, end].concat());
            let text = said(&output);
            assert!(!output.status.success(), "{end:?} {asked:?}: {text}");
            assert!(text.contains("protect"), "{end:?} {asked:?}: {text}");
        }
    }
    assert_eq!(lab.virsh_state(host, "keep"), "running");
    assert_eq!(guest(lab, host), pid, "it is the same guest");
}

/// The process of its guest.
fn guest(lab: &Lab, host: &str) -> String {
    let output = lab.exec(host, &["pgrep", "-f", "guest=keep,"]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn lab_a_protected_vm_is_ended_by_no_command_and_moves_and_lives_on() {
    let Some(lab) = Lab::up("lab_a_protected_vm", 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["run", "--memory", "64MiB", "--on", "h1", "--name", "keep", "--protected"]);
    assert_eq!(lab.virsh_state("h1", "keep"), "running");
    nothing_ends_it(&lab, &operator, "h1");

    // It is paused, moves, and leaves a host that is drained, and is protected wherever it is.
    operator.must(&["pause", "keep"]);
    assert_eq!(lab.virsh_state("h1", "keep"), "paused");
    operator.must(&["resume", "keep"]);
    operator.must(&["migrate", "keep", "h2"]);
    assert_eq!(operator.await_state("keep", "running"), "h2");
    nothing_ends_it(&lab, &operator, "h2");
    operator.must(&["drain", "h2"]);
    until("it to have left the host that is drained", LIMIT, || {
        let rows = operator.ps("keep");
        is(rows == [("running".to_owned(), "h1".to_owned())], rows)
    });
    operator.must(&["undrain", "h2"]);
    operator.await_no_run();

    // Its host's agent is killed: the next one knows.
    let pid = guest(&lab, "h1");
    lab.must(&["signal", "h1", "agent"]);
    lab.start_agent("h1", &url);
    lab.await_agent("h1");
    operator.await_state("keep", "running");
    assert_eq!(guest(&lab, "h1"), pid, "its guest has not noticed");
    nothing_ends_it(&lab, &operator, "h1");

    // Until somebody says otherwise.
    operator.must(&["unprotect", "keep"]);
    assert_eq!(guest(&lab, "h1"), pid, "that costs it nothing");
    operator.must(&["stop", "keep", "--force"]);
    assert_eq!(lab.virsh_state("h1", "keep"), "shut off");
    operator.must(&["protect", "keep"]);
    let refused = operator.run(&["rm", "keep"]);
    assert!(!refused.status.success() && said(&refused).contains("protect"), "{}", said(&refused));
    operator.must(&["start", "keep"]);
    nothing_ends_it(&lab, &operator, "h1");
    operator.must(&["unprotect", "keep"]);
    operator.must(&["stop", "keep", "--force"]);
    operator.must(&["rm", "keep"]);
    assert!(!lab.virsh_domains("h1").contains(&"keep".to_owned()));
}
