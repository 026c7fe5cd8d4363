//! Pools, networks, disks and cards, clicked over real hosts: made, used by VMs, refused to go while they are needed, and
//! gone. What is refused is refused in the words of the command line.

use serde_json::json;
use tests::browser::Browser;
use tests::lab::{Lab, SHARED_AT};
use tests::operator::Operator;

use super::hands::{
    await_closed, choose, click, click_labelled, fill, go_to, leave, refusal, refusal_of, say_yes,
    says, succeeded, type_again,
};
use super::{LIMIT, picture, shows};

/// Waits until the pane says this, or no more.
fn pane_says(browser: &mut Browser, text: &str, is_so: bool) {
    let said = format!("document.querySelector('.pane').innerText.includes({})", json!(text));
    browser.until(
        &format!("the pane to say {text:?}: {is_so}"),
        LIMIT,
        &format!("{said} === {is_so}"),
    );
}

/// One is made on both hosts.
pub(super) fn networks(browser: &mut Browser, operator: &Operator) {
    go_to(browser, "networks");
    click(browser, "main button", "Make one…");
    fill(browser, "name", "blue");
    choose(browser, "kind", "isolated");
    fill(browser, "what", "8.8.8.0/24");
    click(browser, "dialog button", "Make it");
    let said = refusal(browser);
    let words = ["networks", "create", "blue", "--isolated=8.8.8.0/24"];
    assert_eq!(said, refusal_of(operator, &words));
    fill(browser, "what", "10.20.0.0/24");
    picture(browser, "network-form-dark.png");
    say_yes(browser, "Make it");
    says(browser, "isolated 10.20.0.0/24", true);
    says(browser, "h1, h2", true);
}

/// One that hosts share is made of a directory, and a VM in it is plugged into the network; its volumes outlive it in
/// the trash.
pub(super) fn pools(browser: &mut Browser, operator: &Operator, lab: &Lab) {
    for host in lab.hosts() {
        lab.mount_shared(&host);
    }
    go_to(browser, "storage");
    click(browser, "main button", "Add a pool…");
    fill(browser, "name", "nfs");
    fill(browser, "path", SHARED_AT);
    choose(browser, "shared", "shared");
    click(browser, "dialog button", "Add it");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["pools", "add", "nfs", SHARED_AT, "--shared"]));
    choose(browser, "create", "make");
    say_yes(browser, "Add it");
    says(browser, SHARED_AT, true);

    go_to(browser, "vms");
    click(browser, "button", "New VM");
    for (name, text) in [("name", "db-1"), ("memory", "64MiB"), ("disk", "16MiB")] {
        fill(browser, name, text);
    }
    for (name, text) in [("image", "none"), ("on", "h1"), ("pool", "nfs"), ("nic", "network blue")]
    {
        choose(browser, name, text);
    }
    say_yes(browser, "Run it");
    shows(browser, "db-1", "running", "h1");
    go_to(browser, "storage");
    says(browser, "db-1", true);
    picture(browser, "storage-dark.png");
    let remove = |browser: &mut Browser| {
        click_labelled(browser, "Remove nfs of h1, h2", "Remove…");
        click(browser, "dialog button", "Remove");
    };
    remove(browser);
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["pools", "rm", "nfs"]));
    leave(browser);
    go_to(browser, "networks");
    says(browser, "db-1", true);
    picture(browser, "networks-dark.png");
    click_labelled(browser, "Remove blue, isolated 10.20.0.0/24", "Remove…");
    click(browser, "dialog button", "Remove");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["networks", "rm", "blue"]));
    leave(browser);

    operator.await_no_run();
    operator.must(&["rm", "db-1", "--force"]);
    go_to(browser, "storage");
    says(browser, "deleted: ", true);
    click(browser, "main button", "Take back");
    says(browser, "nobody's", true);
    click_labelled(browser, "Delete the volumes of db-1 in nfs", "Delete…");
    say_yes(browser, "Delete");
    says(browser, "deleted: ", true);
    remove(browser);
    await_closed(browser);
    says(browser, SHARED_AT, false);
}

/// They come and go while the guest runs, which its machine shows.
pub(super) fn disks_and_cards(browser: &mut Browser, operator: &Operator, lab: &Lab) {
    let count = |list: &str, what: &str| {
        let said = lab.exec("h1", &["virsh", list, "web-1"]).stdout;
        String::from_utf8_lossy(&said).lines().filter(|line| line.contains(what)).count()
    };
    let machine = || (count("domblklist", ".qcow2"), count("domiflist", "52:54:"));
    // A guest lets go of what it knows.
    let console = ["console", "web-1", "--no-input", "--tail", "0"];
    operator.follow(&console).line_with("count=", LIMIT);
    go_to(browser, "vms/web-1");
    click(browser, ".pane button", "Attach a disk…");
    fill(browser, "name", "root");
    fill(browser, "size", "8MiB");
    click(browser, "dialog button", "Attach it");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["attach", "web-1", "--disk", "root=8MiB"]));
    fill(browser, "name", "data");
    say_yes(browser, "Attach it");
    pane_says(browser, "data", true);
    operator.await_no_run();
    click(browser, ".pane button", "Attach a card…");
    choose(browser, "plug", "network blue");
    say_yes(browser, "Attach it");
    pane_says(browser, "network blue", true);
    operator.await_no_run();
    assert_eq!(machine(), (2, 1), "a second disk and a card");

    click_labelled(browser, "Larger: disk data", "Larger…");
    fill(browser, "size", "16MiB");
    say_yes(browser, "Make it larger");
    pane_says(browser, "16 MiB", true);
    operator.await_no_run();
    picture(browser, "disks-dark.png");
    click_labelled(browser, "Detach disk data", "Detach…");
    type_again(browser, "data");
    say_yes(browser, "Detach and delete");
    succeeded(browser, "ostler detach --delete-data --disk=data web-1");
    go_to(browser, "vms/web-1");
    pane_says(browser, "16 MiB", false);
    let card = "document.querySelector('.pane [aria-label^=\"Detach card\"]').ariaLabel";
    let card = browser.eval(card).as_str().expect("it has a label").to_owned();
    click_labelled(browser, &card, "Detach…");
    say_yes(browser, "Detach");
    succeeded(browser, "ostler detach --nic=");
    assert_eq!(machine(), (1, 0), "its guest has let go of both");

    go_to(browser, "networks");
    click_labelled(browser, "Remove blue, isolated 10.20.0.0/24", "Remove…");
    say_yes(browser, "Remove");
    says(browser, "isolated 10.20.0.0/24", false);
}
