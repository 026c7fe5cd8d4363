//! What the page has `ostler` do that takes its time, clicked over real hosts: snapshots, a clone, an image, a
//! backup and a VM made of it. What is refused is refused in the words of the command line.

use std::path::Path;

use serde_json::{Value, json};
use tests::browser::Browser;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

use super::{LIMIT, open, picture, row, shows};

/// Writes into a field of the dialog, over what is there.
fn fill(browser: &mut Browser, name: &str, text: &str) {
    let find = format!("document.querySelector('dialog [name={name}]')");
    browser.until(&format!("a field for {name}"), LIMIT, &find);
    browser.eval(&format!("{find}.value = ''; {find}.focus()"));
    browser.write(text);
}

/// What the dialog says no with.
fn refusal(browser: &mut Browser) -> String {
    let find = "document.querySelector('dialog .no')?.innerText";
    browser.until("a no in the dialog", LIMIT, find);
    browser.eval(find).as_str().expect("words").to_owned()
}

/// What the command line says no with.
fn refusal_of(operator: &Operator, words: &[&str]) -> String {
    let output = operator.run(&[words, &["--json"]].concat());
    let printed: Value = serde_json::from_slice(&output.stdout).expect("a failure is JSON");
    printed["error"]["what"].as_str().expect("it says what").to_owned()
}

fn leave(browser: &mut Browser) {
    browser.click("dialog button", "Leave it");
}

fn go_to(browser: &mut Browser, view: &str) {
    browser.eval(&format!("location.hash = '#{view}'"));
}

/// Waits until the newest command of the page has ended well.
fn succeeded(browser: &mut Browser, line: &str) {
    go_to(browser, "commands");
    let find = "document.querySelector('main tbody tr')";
    let is_so = format!(
        "{find}?.innerText.includes({}) && {find}.querySelector('.state').innerText === 'succeeded'",
        json!(line)
    );
    browser.until(&format!("{line} to succeed"), LIMIT, &is_so);
}

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
    let vm = ["run", "guest", "--name", "web-1", "--memory", "64MiB", "--on", "h1"];
    operator.must(&[&vm[..], &["--disk", "root=64MiB"]].concat());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backups = folder.path().to_str().expect("UTF-8");
    let _page = open(&operator, &mut browser, &["--backups", backups]);
    shows(&mut browser, "web-1", "running", "h1");

    snapshot_and_clone(&mut browser, &operator);
    images(&mut browser, &operator);
    back_up_and_restore(&mut browser, folder.path());
    who_may_what(&mut browser, &operator);

    browser.size(400, 800);
    for view in ["images", "backups", "commands", "people", "quota", "hosts", "vms/web-1"] {
        go_to(&mut browser, view);
        browser.until(view, LIMIT, "document.querySelector('#main > *') !== null");
        picture(&mut browser, &format!("narrow-{}.png", view.replace('/', "-")));
        let too_wide = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.eval(too_wide), json!(false), "{view} is cut off at 400 pixels");
    }
    // What was refused on purpose is the only thing that a browser finds wrong.
    let mut complaints = browser.complaints();
    complaints.retain(|said| !(said.contains("409") && said.contains("/chores")));
    assert_eq!(complaints, Vec::<String>::new());
}

fn snapshot_and_clone(browser: &mut Browser, operator: &Operator) {
    browser.click("main a", "web-1");
    browser.click(".pane button", "Take one…");
    fill(browser, "snapshot", "before");
    browser.click("dialog button", "Take it");
    let kept = "document.querySelector('.pane')?.innerText.includes('before')";
    browser.until("the snapshot in the pane", LIMIT, kept);
    await_names(operator, "snapshots", "before", true);

    // A name that is taken is refused where it was typed, as the command refuses it.
    browser.click(".pane button", "Clone…");
    fill(browser, "name", "web-1");
    browser.click("dialog button", "Clone it");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["clone", "web-1", "web-1"]));
    picture(browser, "refused-light.png");
    fill(browser, "name", "web-2");
    let choose = "document.querySelector('dialog [name=on]')";
    browser.eval(&format!(
        "{choose}.value = [...{choose}.options].find((one) => one.text === 'h2').value"
    ));
    browser.click("dialog button", "Clone it");
    browser.until("the dialog to close", LIMIT, "document.querySelector('dialog') === null");
    shows(browser, "web-2", "running", "h2");
    picture(browser, "copies-light.png");

    browser.click(".pane button", "Make an image…");
    fill(browser, "name", "golden");
    browser.eval("document.querySelector('dialog [name=snapshot]').value = 'before'");
    browser.click("dialog button", "Make it");
    await_names(operator, "images", "golden", true);
    browser.eval("document.querySelector('.pane [aria-label=\"Delete snapshot before\"]').click()");
    browser.click("dialog button", "Delete");
    await_names(operator, "snapshots", "before", false);
    browser.until("no snapshot in the pane", LIMIT, &format!("!({kept})"));
    succeeded(browser, "ostler snapshots rm web-1 before");

    // Protected, its host ends it for nobody.
    go_to(browser, "vms/web-1");
    browser.click(".pane button", "Protect");
    let tagged = "!document.querySelector('.pane .tag').hidden";
    browser.until("a tag that says so", LIMIT, tagged);
    assert!(!operator.run(&["stop", "web-1", "--force"]).status.success(), "it is protected");
    browser.click(".pane button", "Unprotect…");
    browser.click("dialog button", "Unprotect");
    browser.until("no tag any more", LIMIT, &format!("!({tagged})"));
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
        browser.click("dialog button", "Delete");
    };
    delete(browser, "guest");
    let said = refusal(browser);
    assert_eq!(said, refusal_of(operator, &["images", "rm", "guest"]));
    assert!(said.contains("web-1"), "{said}");
    leave(browser);
    delete(browser, "golden");
    await_names(operator, "images", "golden", false);
    browser.until("golden to be gone", LIMIT, &format!("!{shown}?.includes('golden')"));
}

fn back_up_and_restore(browser: &mut Browser, folder: &Path) {
    go_to(browser, "vms/web-1");
    browser.click(".pane button", "Back up…");
    fill(browser, "keep", "3");
    browser.click("dialog button", "Back it up");
    succeeded(browser, "ostler backup take");
    assert!(folder.join("web-1").is_dir(), "a folder for its backups");
    go_to(browser, "backups");
    browser.until("the backup", LIMIT, "document.querySelector('main tbody tr') !== null");
    picture(browser, "backups-dark.png");
    browser.click("main button", "Check");
    succeeded(browser, "ostler backup check");
    go_to(browser, "backups");
    browser.click("main button", "Restore…");
    fill(browser, "name", "web-3");
    browser.click("dialog button", "Restore it");
    succeeded(browser, "ostler backup restore");
    picture(browser, "commands-dark.png");
    go_to(browser, "vms");
    let runs = format!("{}?.querySelector('.state').innerText === 'running'", row("web-3"));
    browser.until("web-3 to run", LIMIT, &runs);
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
    browser.theme("light");
}
