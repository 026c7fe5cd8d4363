//! What the page has `ostler` do that takes its time, clicked over real hosts: snapshots and going back, a clone,
//! images, backups and a VM made of one. What is refused is refused in the words of the command line.

use std::fs::DirEntry;
use std::path::Path;

use serde_json::{Value, json};
use tests::browser::Browser;
use tests::lab::Lab;
use tests::operator::{Operator, guest_image};
use tests::wait::{is, until};
use tests::web;

use super::hands::{
    await_closed, choose, click, click_labelled, fill, go_to, leave, refusal, refusal_of, say_yes,
    says, succeeded, type_again,
};
use super::{LIMIT, open, picture, row, shows, storage};

/// A digest that no file has.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn await_names(operator: &Operator, list: &str, name: &str, is_there: bool) {
    until(&format!("{list} with {name}: {is_there}"), LIMIT, || {
        let rows = operator.json(&[list])[list].as_array().cloned().unwrap_or_default();
        let names: Vec<Value> = rows.into_iter().map(|row| row["name"].clone()).collect();
        is(names.iter().any(|known| known == name) == is_there, names)
    });
}

#[test]
fn lab_the_page_copies_vms_and_says_no_as_the_commands_do() {
    let test = "lab_the_page_copies_vms_and_says_no_as_the_commands_do";
    let Some(mut browser) = Browser::start(test) else { return };
    let Some(lab) = Lab::up(test, 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let vm = ["run", "guest", "--name", "web-1", "--memory", "128MiB", "--on", "h1"];
    operator.must(&[&vm[..], &["--disk", "root=64MiB"]].concat());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backups = folder.path().to_str().expect("UTF-8");
    let _page = open(&operator, &mut browser, &["--backups", backups]);
    shows(&mut browser, "web-1", "running", "h1");

    snapshot_and_clone(&mut browser, &operator);
    go_back(&mut browser, &operator);
    images(&mut browser, &operator);
    bring_images(&mut browser, &operator, &lab.operator_address());
    back_up_and_restore(&mut browser, folder.path());
    storage::networks(&mut browser, &operator);
    storage::pools(&mut browser, &operator, &lab);
    storage::disks_and_cards(&mut browser, &operator, &lab);
    who_may_what(&mut browser, &operator);

    browser.size(400, 800);
    let views =
        ["storage", "networks", "images", "backups", "commands", "people", "quota", "hosts"];
    for view in views.into_iter().chain(["vms/web-1"]) {
        go_to(&mut browser, view);
        browser.until(view, LIMIT, "document.querySelector('#main > *') !== null");
        picture(&mut browser, &format!("narrow-{}.png", view.replace('/', "-")));
        let too_wide = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.eval(too_wide), json!(false), "{view} is cut off at 400 pixels");
    }
    // What was refused on purpose is the only thing that a browser finds wrong.
    let mut complaints = browser.complaints();
    let is_no = |said: &String| ["400", "409", "500"].iter().any(|code| said.contains(code));
    complaints.retain(|said| !(is_no(said) && said.contains("/chores")));
    assert_eq!(complaints, Vec::<String>::new());
}

fn snapshot_and_clone(browser: &mut Browser, operator: &Operator) {
    click(browser, "main a", "web-1");
    click(browser, ".pane button", "Take one…");
    fill(browser, "snapshot", "before");
    click(browser, "dialog button", "Take it");
    let kept = "document.querySelector('.pane')?.innerText.includes('before')";
    browser.until("the snapshot in the pane", LIMIT, kept);
    await_names(operator, "snapshots", "before", true);

    // A name that is taken is refused where it was typed, as the command refuses it.
    click(browser, ".pane button", "Clone…");
    fill(browser, "name", "web-1");
    click(browser, "dialog button", "Clone it");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["clone", "web-1", "web-1"]));
    picture(browser, "refused-light.png");
    fill(browser, "name", "web-2");
    choose(browser, "on", "h2");
    say_yes(browser, "Clone it");
    shows(browser, "web-2", "running", "h2");
    picture(browser, "copies-light.png");

    click(browser, ".pane button", "Make an image…");
    fill(browser, "name", "golden");
    browser.eval("document.querySelector('dialog [name=snapshot]').value = 'before'");
    say_yes(browser, "Make it");
    await_names(operator, "images", "golden", true);
}

/// What its disks were comes back once it is off; and then it starts again.
fn go_back(browser: &mut Browser, operator: &Operator) {
    let ask = |browser: &mut Browser| {
        go_to(browser, "vms/web-1");
        click_labelled(browser, "Go back to before", "Go back…");
        type_again(browser, "before");
        click(browser, "dialog button", "Go back");
    };
    ask(browser);
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["snapshots", "revert", "web-1", "before"]));
    leave(browser);
    operator.await_no_run();
    // Once it has booted, it goes on where it was and hears its power button.
    operator.follow(&["console", "web-1", "--no-input"]).line_with("count=", LIMIT);
    click(browser, ".pane button", "Save");
    shows(browser, "web-1", "stopped", "h1");
    operator.await_no_run();
    click(browser, ".pane button", "Start");
    shows(browser, "web-1", "running", "h1");
    operator.await_no_run();
    click(browser, ".pane button", "Stop");
    shows(browser, "web-1", "stopped", "h1");
    operator.await_no_run();
    ask(browser);
    succeeded(browser, "ostler snapshots revert web-1 before");
    go_to(browser, "vms/web-1");
    click(browser, ".pane button", "Start");
    shows(browser, "web-1", "running", "h1");
    operator.await_no_run();

    click_labelled(browser, "Delete snapshot before", "Delete…");
    say_yes(browser, "Delete");
    await_names(operator, "snapshots", "before", false);
    let kept = "document.querySelector('.pane')?.innerText.includes('before')";
    browser.until("no snapshot in the pane", LIMIT, &format!("!({kept})"));
    succeeded(browser, "ostler snapshots rm web-1 before");

    // Protected, its host ends it for nobody.
    go_to(browser, "vms/web-1");
    click(browser, ".pane button", "Protect");
    let tagged = "!document.querySelector('.pane .tag').hidden";
    browser.until("a tag that says so", LIMIT, tagged);
    assert!(!operator.run(&["stop", "web-1", "--force"]).status.success(), "it is protected");
    click(browser, ".pane button", "Unprotect…");
    click(browser, "dialog button", "Unprotect");
    browser.until("no tag any more", LIMIT, &format!("!({tagged})"));

    // What else is asked of it with a click.
    click(browser, ".pane button", "Rank…");
    fill(browser, "priority", "80");
    say_yes(browser, "Rank it");
    let ranked = "document.querySelector('.pane .facts').innerText.includes('priority 80')";
    browser.until("its priority", LIMIT, ranked);
    click(browser, ".pane button", "Pause");
    shows(browser, "web-1", "paused", "h1");
    click(browser, ".pane button", "Resume");
    shows(browser, "web-1", "running", "h1");
    click(browser, ".pane button", "Reset…");
    say_yes(browser, "Reset");
    click(browser, ".pane button", "Explain");
    browser.until("why it is so", LIMIT, "document.querySelector('.pane .lines li')");
    click(browser, ".pane button", "Read it");
    let says = "document.querySelector('.pane [aria-label=\"Log of web-1\"]').innerText.includes('count=')";
    browser.until("what it has said", LIMIT, says);
}

fn images(browser: &mut Browser, operator: &Operator) {
    go_to(browser, "images");
    let shown = "document.querySelector('main tbody')?.innerText";
    browser.until("who needs what was cloned", LIMIT, &format!("{shown}?.includes('web-2')"));
    picture(browser, "images-light.png");
    browser.theme("dark");
    picture(browser, "images-dark.png");
    let delete = |browser: &mut Browser, name: &str| {
        let find = format!("document.querySelector('main [aria-label=\"Delete {name}\"]')");
        browser.until(&format!("a button for {name}"), LIMIT, &find);
        browser.eval(&format!("{find}.click()"));
        browser.eval("document.querySelector('dialog input').focus()");
        browser.write(name);
        click(browser, "dialog button", "Delete");
    };
    delete(browser, "guest");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["images", "rm", "guest"]));
    assert!(said.contains("web-1"), "{said}");
    leave(browser);
    click_labelled(browser, "Copy golden to other hosts", "Copy…");
    choose(browser, "on", "h2");
    say_yes(browser, "Copy it");
    succeeded(browser, "ostler images copy --on=h2 golden");
    go_to(browser, "images");
    let on_both = format!("{shown}?.match(/golden[^]*?h1, h2/)");
    browser.until("golden on both hosts", LIMIT, &on_both);
    delete(browser, "golden");
    await_closed(browser);
    await_names(operator, "images", "golden", false);
    browser.until("golden to be gone", LIMIT, &format!("!{shown}?.includes('golden')"));
}

/// From the web; one that does not come is given up, and called off where it was to come.
fn bring_images(browser: &mut Browser, operator: &Operator, address: &str) {
    let bring = |browser: &mut Browser, url: &str, name: &str, sha256: &str| {
        go_to(browser, "images");
        click(browser, "main button", "Bring one…");
        for (field, text) in [("url", url), ("name", name), ("sha256", sha256), ("on", "h1")] {
            fill(browser, field, text);
        }
        click(browser, "dialog button", "Bring it");
    };
    let known = operator.json(&["images"])["images"].as_array().cloned().unwrap_or_default();
    let guest = known.into_iter().find(|image| image["name"] == "guest").expect("it was imported");
    let digest = guest["sha256"].as_str().expect("it has a digest").to_owned();
    let web = web::serve(address, &guest_image());
    bring(browser, &web, "brought", "");
    let said = refusal(browser);
    let words = ["images", "import", "--name", "brought", "--on", "h1", &web];
    assert_eq!(said, refusal_of(operator, &words));
    leave(browser);
    bring(browser, &web, "brought", &digest);
    await_closed(browser);
    await_names(operator, "images", "brought", true);

    bring(browser, &web::stall(address, 1 << 20), "never", NO_DIGEST);
    await_closed(browser);
    go_to(browser, "commands");
    click(browser, "main tbody button", "End it");
    let ended = "document.querySelector('main tbody .state').innerText === 'interrupted'";
    browser.until("the command to end", LIMIT, ended);
    go_to(browser, "images");
    says(browser, "never on h1: ", true);
    click_labelled(browser, "Call off never", "Call off…");
    say_yes(browser, "Call it off");
    says(browser, "never on h1: ", false);
    click(browser, "main button", "Prune…");
    click(browser, "dialog button", "Prune");
    succeeded(browser, "ostler images prune");
}

fn back_up_and_restore(browser: &mut Browser, folder: &Path) {
    go_to(browser, "vms/web-1");
    click(browser, ".pane button", "Back up…");
    fill(browser, "keep", "3");
    click(browser, "dialog button", "Back it up");
    succeeded(browser, "ostler backup take");
    assert!(folder.join("web-1").is_dir(), "a folder for its backups");
    go_to(browser, "backups");
    browser.until("the backup", LIMIT, "document.querySelector('main tbody tr') !== null");
    picture(browser, "backups-dark.png");
    click(browser, "main button", "Check");
    succeeded(browser, "ostler backup check");
    go_to(browser, "backups");
    click(browser, "main button", "Restore…");
    fill(browser, "name", "web-3");
    click(browser, "dialog button", "Restore it");
    succeeded(browser, "ostler backup restore");
    picture(browser, "commands-dark.png");

    // A second one takes the first one's place, and goes by hand.
    let is_backup = |entry: &DirEntry| entry.path().is_dir();
    let all = || folder.join("web-1").read_dir().expect("its folder").flatten();
    let count = || all().filter(is_backup).count();
    go_to(browser, "backups");
    click(browser, "main button", "Back up all…");
    fill(browser, "keep", "1");
    click(browser, "dialog button", "Back them up");
    succeeded(browser, "ostler backup take --all");
    assert_eq!(count(), 1, "the older one is gone");
    go_to(browser, "backups");
    fill_filter(browser, "web-1");
    says(browser, "1 of 3 backups", true);
    click(browser, "main button", "Delete…");
    say_yes(browser, "Delete it");
    succeeded(browser, "ostler backup rm");
    assert_eq!(count(), 0, "and so is this one");
    go_to(browser, "vms");
    let runs = format!("{}?.querySelector('.state').innerText === 'running'", row("web-3"));
    browser.until("web-3 to run", LIMIT, &runs);
    click(browser, "main a", "web-3");
    click(browser, ".pane button", "Reboot");
    browser.until(
        "its host to be asked",
        LIMIT,
        "document.querySelector('#notes').innerText.includes('to reboot web-3')",
    );
}

/// Leaves only rows with this in the list.
fn fill_filter(browser: &mut Browser, text: &str) {
    browser.eval("document.querySelector('main [type=search]').focus()");
    browser.write(text);
}

fn who_may_what(browser: &mut Browser, operator: &Operator) {
    let context = operator.context().with_file_name("ann");
    let context = context.to_str().expect("UTF-8");
    let key = operator.must(&["--context", context, "users", "key"]);
    operator.must(&["users", "add", key.trim(), "--name", "ann", "--tenant", "blue"]);
    for (view, text) in [("people", "ann"), ("quota", "No policy"), ("hosts", "arbiter 0")] {
        go_to(browser, view);
        let shown = format!("document.querySelector('main').innerText.includes({})", json!(text));
        browser.until(&format!("{view} to show {text:?}"), LIMIT, &shown);
        picture(browser, &format!("{view}-all-dark.png"));
    }
    let used = "[...document.querySelectorAll('[aria-label=\"CPUs in use\"]')].filter((one) => one.ariaValueText)";
    browser.until("what guests use of both hosts", LIMIT, &format!("{used}.length === 2"));
    picture(browser, "hosts-all-dark.png");
    browser.theme("light");
}
