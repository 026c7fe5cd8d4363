//! What a person does on the page with more than one click: dialogs that are filled, confirmed, or say no, and commands
//! that are waited for.

use serde_json::{Value, json};
use tests::browser::Browser;
use tests::operator::Operator;

use super::LIMIT;

/// Writes into a field of the dialog, over what is there.
pub(super) fn fill(browser: &mut Browser, name: &str, text: &str) {
    let find = format!("document.querySelector('dialog [name={name}]')");
    browser.until(&format!("a field for {name}"), LIMIT, &find);
    browser.eval(&format!("{find}.value = ''; {find}.focus()"));
    browser.write(text);
}

/// Chooses in a field of the dialog, by what it shows.
pub(super) fn choose(browser: &mut Browser, name: &str, text: &str) {
    let find = format!("document.querySelector('dialog [name={name}]')");
    let option = format!("[...{find}.options].find((one) => one.text.startsWith({}))", json!(text));
    browser.until(&format!("{name} to offer {text}"), LIMIT, &format!("{find} && {option}"));
    browser
        .eval(&format!("{find}.value = {option}.value; {find}.dispatchEvent(new Event('change'))"));
}

/// Types what must be typed to go on.
pub(super) fn type_again(browser: &mut Browser, text: &str) {
    browser.until("what is to be typed", LIMIT, "document.querySelector('dialog #typed')");
    browser.eval("document.querySelector('dialog #typed').focus()");
    browser.write(text);
}

/// Clicks what has this text, once nothing that the page has told lies over it.
pub(super) fn click(browser: &mut Browser, selector: &str, text: &str) {
    let told = "document.querySelectorAll('.note .acts button:last-child')";
    browser.eval(&format!("for (const one of {told}) one.click()"));
    browser.click(selector, text);
}

/// Clicks the button that is told to those who hear the page as this.
pub(super) fn click_labelled(browser: &mut Browser, label: &str, text: &str) {
    click(browser, &format!("[aria-label={}]", json!(label)), text);
}

/// Says yes in the dialog, and waits until it has been heard.
pub(super) fn say_yes(browser: &mut Browser, yes: &str) {
    browser.click("dialog button", yes);
    await_closed(browser);
}

/// Waits until what the dialog asked for has been heard.
pub(super) fn await_closed(browser: &mut Browser) {
    browser.until("the dialog to close", LIMIT, "document.querySelector('dialog') === null");
}

/// What the dialog says no with.
pub(super) fn refusal(browser: &mut Browser) -> String {
    let find = "document.querySelector('dialog .no')?.innerText";
    browser.until("a no in the dialog", LIMIT, find);
    browser.eval(find).as_str().expect("words").to_owned()
}

/// What the command line says no with.
pub(super) fn refusal_of(operator: &Operator, words: &[&str]) -> String {
    let output = operator.run(&[words, &["--json"]].concat());
    let printed: Value = serde_json::from_slice(&output.stdout).expect("a failure is JSON");
    let part = |name: &str| printed["error"][name].as_str().unwrap_or_default().to_owned();
    match (part("what"), part("why")) {
        (what, why) if why.is_empty() => what,
        (what, why) => format!("{what}: {why}"),
    }
}

pub(super) fn leave(browser: &mut Browser) {
    browser.click("dialog button", "Leave it");
}

pub(super) fn go_to(browser: &mut Browser, view: &str) {
    browser.eval(&format!("location.hash = '#{view}'"));
}

/// Waits until the newest command of the page has ended well.
pub(super) fn succeeded(browser: &mut Browser, line: &str) {
    go_to(browser, "commands");
    let find = "document.querySelector('main tbody tr')";
    let is_so = format!(
        "{find}?.innerText.includes({}) && {find}.querySelector('.state').innerText === 'succeeded'",
        json!(line)
    );
    browser.until(&format!("{line} to succeed"), LIMIT, &is_so);
    await_closed(browser);
}

/// Waits until the page's list says this, or no more.
pub(super) fn says(browser: &mut Browser, text: &str, is_so: bool) {
    let said = format!("document.querySelector('main').innerText.includes({})", json!(text));
    browser.until(
        &format!("the page to say {text:?}: {is_so}"),
        LIMIT,
        &format!("{said} === {is_so}"),
    );
}
