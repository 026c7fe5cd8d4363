//! An image is brought to one host, and a VM of it starts on any; it goes when nobody needs it.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::{Operator, guest_image};
use tests::wait::{is, until};
use tests::web;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn lab_an_image_on_one_host_starts_vms_on_any_and_goes_when_nobody_needs_it() {
    let test = "lab_an_image_on_one_host_starts_vms_on_any";
    let Some(lab) = Lab::up(test, 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.make_bare_cluster(&lab);
    let image = guest_image();
    let image = image.to_str().expect("a path in UTF-8");
    operator.must(&["images", "import", image, "--name", "guest", "--on", "h1"]);
    await_hosts_with(&operator, "guest", &["h1"]);

    // Where the image is comes first; where it is not comes when it must.
    let run = ["run", "--image", "guest", "--memory", "128MiB", "--name"];
    operator.must(&[&run[..], &["web-1"]].concat());
    assert_eq!(operator.await_state("web-1", "running"), "h1");
    let said = operator.must(&[&run[..], &["web-2", "--on", "h2"]].concat());
    assert!(said.contains("fetch image guest from"), "{said}");
    assert_eq!(operator.await_state("web-2", "running"), "h2");
    println!("web-2 runs on a host that had no image after {:?}", begin.elapsed());
    operator.must(&["drain", "h1", "--timeout", "2m"]);
    let host = operator.await_state("web-1", "running");
    assert_ne!(host, "h1", "a VM moves without its image");
    println!("h1 is drained after {:?}", begin.elapsed());
    for (name, host) in [("web-1", host.as_str()), ("web-2", "h2")] {
        assert_eq!(lab.virsh_state(host, name), "running");
        let console = operator.follow(&["console", name, "--no-input"]);
        console.line_with(" count=", LIMIT);
    }
    same_files(&lab, "h1", "h2");

    // web-2's disk is made from the image of h2; web-1's came whole, and is made from none.
    operator.await_no_run();
    let shown = operator.json(&["images"]);
    let users = shown["images"][0]["users"].as_array().cloned().unwrap_or_default();
    let users: Vec<_> = users.iter().map(|user| (&user["job"], &user["host"])).collect();
    assert!(users == [(&"web-2".into(), &"h2".into())], "{shown}");
    let refused = operator.run(&["images", "rm", "guest"]);
    assert_eq!(refused.status.code(), Some(3), "{}", said_by(&refused));
    assert!(said_by(&refused).contains("needed on this host by web-2"), "{}", said_by(&refused));
    assert!(images_of(&lab, "h1").contains(&"guest.img".to_owned()), "nothing was deleted");
    operator.must(&["images", "rm", "guest", "--on", "h1"]);
    await_hosts_with(&operator, "guest", &["h2"]);

    // What has its disks starts again, image or not.
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["start", "web-1"]);
    let host = operator.await_state("web-1", "running");
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    operator.must(&["undrain", "h1"]);

    kill_an_agent_that_fetches(&lab, &operator, &url);
    println!("a fetch has survived kill -9 after {:?}", begin.elapsed());

    for name in ["web-1", "web-2"] {
        operator.must(&["rm", name, "--force"]);
    }
    operator.must(&["images", "rm", "guest"]);
    await_hosts_with(&operator, "guest", &[]);
    for host in lab.hosts() {
        assert_eq!(images_of(&lab, &host), Vec::<String>::new(), "on {host}");
    }
    let missing = operator.run(&[&run[..], &["web-3"]].concat());
    assert_eq!(missing.status.code(), Some(5), "{}", said_by(&missing));
    println!("the story took {:?}", begin.elapsed());
}

/// h3 copies slowly; its agent is killed in the middle, and goes on where it was.
fn kill_an_agent_that_fetches(lab: &Lab, operator: &Operator, url: &str) {
    let copy = operator.begin(&["images", "copy", "guest", "--on", "h3", "--limit", "1MiB"]);
    until("some of it to have come", LIMIT, || {
        let got = got_bytes(operator);
        is(got > 3 << 20, got)
    });
    lab.must(&["signal", "h3", "agent", "KILL"]);
    let left = images_of(lab, "h3");
    assert!(left.len() == 1 && left[0].ends_with(".part"), "{left:?}");
    let part = lab.data("h3").join("images").join(&left[0]);
    let length = || std::fs::metadata(&part).map_or(0, |found| found.len());
    let had = length();
    assert!(had > 2 << 20, "{had} bytes were left");
    lab.start_agent("h3", url);
    until("it to go on", LIMIT, || {
        let got = got_bytes(operator);
        assert!(got == 0 || got >= had, "it began anew: {got} of {had} bytes");
        is(got > had, got)
    });
    let ended = copy.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", said_by(&ended));
    await_hosts_with(operator, "guest", &["h2", "h3"]);
    assert_eq!(images_of(lab, "h3"), ["guest.img", "guest.json"]);
    same_files(lab, "h2", "h3");
}

fn got_bytes(operator: &Operator) -> u64 {
    let shown = operator.json(&["images"]);
    shown["coming"][0]["state"]["got_bytes"].as_u64().unwrap_or(0)
}

#[test]
fn lab_an_image_comes_from_the_web_once_and_only_if_it_is_the_right_one() {
    let test = "lab_an_image_comes_from_the_web_once_and_only_if_it_is_the_right_one";
    let Some(lab) = Lab::up(test, 2) else { return };
    let mut operator = Operator::new();
    operator.make_bare_cluster(&lab);
    let web = web::serve(&lab.operator_address(), &guest_image());
    let import = ["images", "import", &web, "--name", "guest"];
    let plain = operator.run(&import);
    assert_eq!(plain.status.code(), Some(2), "{}", said_by(&plain));
    let wrong = "0".repeat(64);
    let refused = operator.run(&[&import[..], &["--sha256", &wrong]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", said_by(&refused));
    assert!(said_by(&refused).contains("was not kept"), "{}", said_by(&refused));
    for host in lab.hosts() {
        assert_eq!(images_of(&lab, &host), Vec::<String>::new(), "on {host}");
    }
    let right = std::process::Command::new("sha256sum").arg(guest_image()).output();
    let right = String::from_utf8_lossy(&right.expect("sha256sum can be run").stdout).into_owned();
    let right = right.split_whitespace().next().expect("a digest").to_owned();
    operator.must(&[&import[..], &["--sha256", &right]].concat());
    await_hosts_with(&operator, "guest", &["h1", "h2"]);
    same_files(&lab, "h1", "h2");
    operator.must(&["run", "--image", "guest", "--name", "web-1", "--memory", "128MiB"]);
    let host = operator.await_state("web-1", "running");
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    operator.follow(&["console", "web-1", "--no-input"]).line_with(" count=", LIMIT);
}

fn await_hosts_with(operator: &Operator, image: &str, hosts: &[&str]) {
    until(&format!("{hosts:?} to have {image}"), Duration::from_secs(10), || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let has = |row: &&Value| row["host"]["images"].get(image).is_some();
        let mut have: Vec<_> =
            rows.iter().filter(has).filter_map(|row| row["host"]["name"].as_str()).collect();
        have.sort_unstable();
        is(have == hosts, format!("{have:?}"))
    });
}

/// Files in a host's folder of images.
fn images_of(lab: &Lab, host: &str) -> Vec<String> {
    let entries = std::fs::read_dir(lab.data(host).join("images")).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn same_files(lab: &Lab, one: &str, other: &str) {
    let read = |host| {
        std::fs::read(lab.data(host).join("images/guest.img")).expect("the image can be read")
    };
    assert!(read(one) == read(other), "{one} and {other} have different files");
}

fn said_by(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}
