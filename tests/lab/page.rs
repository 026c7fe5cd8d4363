//! The page in a real browser, over real hosts: what it shows is what `virsh` says, and what is clicked
//! happens there. Pictures of it are left in `target/page`, for people to look at.

mod copies;

mod crowd;

mod hands;

mod storage;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tests::browser::Browser;
use tests::lab::{Lab, repository};
use tests::operator::{Following, Operator};
use tests::wait::{is, until};

use crowd::Crowd;

const LIMIT: Duration = Duration::from_secs(60);

/// A name that is markup with a script in it, if somebody takes it for that.
const HOSTILE: &str = "<img src=x onerror=window.pwned=1>";

/// A firmware-only guest of somebody else's, under that name.
const HOSTILE_XML: &str = "<domain type='qemu'>
  <name>&lt;img src=x onerror=window.pwned=1&gt;</name>
  <memory unit='MiB'>48</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><serial type='pty'><target port='0'/></serial></devices></domain>";

/// Serves the page and opens it.
fn open(operator: &Operator, browser: &mut Browser, words: &[&str]) -> Following {
    let ui = [&["ui", "--listen", "127.0.0.1:0"], words].concat();
    let page = operator.follow(&ui);
    let url = page.line_with("http://127.0.0.1:", LIMIT);
    browser.open(url.trim());
    page
}

/// The row of a VM, as JavaScript; cells by their number.
fn row(name: &str) -> String {
    let find = "[...document.querySelectorAll('main tbody tr')].find((tr) => tr.cells[0].innerText";
    format!("{find} === {})", json!(name))
}

fn shows(browser: &mut Browser, name: &str, state: &str, host: &str) {
    let row = row(name);
    let is_so = format!(
        "{row}?.querySelector('.state').innerText === {} && {row}.cells[2].innerText === {}",
        json!(state),
        json!(host)
    );
    browser.until(&format!("{name} {state} on {host}"), LIMIT, &is_so);
}

fn picture(browser: &mut Browser, name: &str) {
    let file: PathBuf = repository().join("target/page").join(name);
    browser.picture(&file);
}

fn await_virsh(lab: &Lab, host: &str, name: &str, state: &str) {
    until(&format!("{name} to be {state} on {host}"), LIMIT, || {
        let is_now = lab.virsh_state(host, name);
        is(is_now == state, is_now)
    });
}

/// What the guest's counter has come to, by the console on the page.
fn counted(browser: &mut Browser) -> u64 {
    let last = "[...document.querySelector('.screen').innerText.matchAll(/count=(\\d+)/g)].at(-1)";
    browser.until("the guest to count", LIMIT, last);
    let number = browser.eval(&format!("Number({last}[1])"));
    number.as_u64().expect("a number")
}

#[test]
fn lab_the_page_shows_what_virsh_says_and_does_what_is_clicked() {
    let test = "lab_the_page_shows_what_virsh_says_and_does_what_is_clicked";
    let Some(mut browser) = Browser::start(test) else { return };
    let Some(lab) = Lab::up(test, 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["quota", "set", "default", "--vcpus", "8", "--memory", "1GiB"]);
    let script = format!(
        "cat >/run/hostile.xml <<'END'\n{HOSTILE_XML}\nEND\nvirsh define /run/hostile.xml && virsh start '{HOSTILE}'"
    );
    let made = lab.exec("h2", &["sh", "-c", &script]);
    assert!(made.status.success(), "{made:?}");
    let _page = open(&operator, &mut browser, &[]);

    // A VM by the form.
    browser.click("button", "New VM");
    browser.eval("document.querySelector('[name=name]').focus()");
    browser.write("web-1");
    browser.eval("document.querySelector('[name=max_vcpus]').value = '2'");
    let choose = "document.querySelector('[name=on]')";
    browser.eval(&format!(
        "{choose}.value = [...{choose}.options].find((one) => one.text === 'h1').value"
    ));
    picture(&mut browser, "form-light.png");
    browser.click("dialog button", "Run it");
    shows(&mut browser, "web-1", "running", "h1");
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    operator.must(&["run", "--name", "web-2", "--memory", "64MiB", "--on", "h2", "--vnc"]);
    shows(&mut browser, "web-2", "running", "h2");
    picture(&mut browser, "vms-light.png");

    // Its screen, as QEMU draws it; one without a screen has no such button.
    browser.click("main a", "web-2");
    browser.click(".pane button", "Screen");
    let is_drawn = "(document.querySelector('.pane img.shot')?.naturalWidth ?? 0) >= 640";
    browser.until("the guest's screen", LIMIT, is_drawn);
    picture(&mut browser, "screen-light.png");
    browser.click(".pane button", "Hide the screen");
    browser.until("no screen", LIMIT, "document.querySelector('.pane img.shot') === null");
    browser.click("main a", "web-1");
    let has_button =
        "[...document.querySelectorAll('.pane button')].some((one) => one.innerText === 'Screen')";
    browser.until(
        "the other VM",
        LIMIT,
        "document.querySelector('.pane h2')?.innerText === 'web-1'",
    );
    assert_eq!(browser.eval(has_button), json!(false));

    // Names from hosts are text.
    browser.click("nav a", "Others1");
    browser.until("the other's domain", LIMIT, &row(HOSTILE));
    let is_markup = "document.querySelector('main img') !== null || window.pwned !== undefined";
    assert_eq!(browser.eval(is_markup), json!(false));
    picture(&mut browser, "others-light.png");

    // Adopted by a click, in place, and released again.
    let pid = || lab.exec("h2", &["sh", "-c", "cat /run/libvirt/qemu/*img*.pid"]).stdout;
    let first = pid();
    browser.click("main button", "Adopt…");
    browser.eval("document.querySelector('dialog [name=name]').focus()");
    browser.write("other");
    browser.click("dialog button", "Adopt");
    browser.until("nobody else's domain", LIMIT, &format!("!{}", row(HOSTILE)));
    browser.eval("location.hash = '#vms/other'");
    shows(&mut browser, "other", "running", "h2");
    browser.click(".pane button", "Release…");
    browser.click("dialog button", "Release");
    browser.until("no such VM", LIMIT, &format!("!{}", row("other")));
    browser.eval("location.hash = '#others'");
    browser.until("the other's domain again", LIMIT, &row(HOSTILE));
    assert_eq!((pid(), first.is_empty()), (first, false), "the same process goes on");

    // Its console: read and write.
    browser.eval("location.hash = '#vms'");
    browser.click("main a", "web-1");
    browser.click(".pane button", "Console");
    let before = counted(&mut browser);
    browser.write("tea");
    browser.click(".pane button", "Enter");
    let heard = "document.querySelector('.screen').innerText.includes('got tea')";
    browser.until("the guest to have got it", LIMIT, heard);
    browser.theme("dark");
    picture(&mut browser, "console-dark.png");

    // It grows while it counts.
    browser.click(".pane button", "Resize…");
    browser.eval("document.querySelector('dialog [name=vcpus]').value = '2'");
    browser.click("dialog button", "Resize");
    browser.until("two CPUs", LIMIT, &format!("{}.cells[3].innerText === '2'", row("web-1")));
    until("virsh to count two CPUs", LIMIT, || {
        let count = lab.exec("h1", &["virsh", "vcpucount", "web-1", "--live", "--current"]);
        let count = String::from_utf8_lossy(&count.stdout).trim().to_owned();
        is(count == "2", count)
    });

    // A slow move is called off: by its run, and where it is.
    operator.await_no_run();
    let slow = ["migrate", "web-1", "h2", "--bandwidth", "1MiB"];
    let moving = operator.begin(&slow);
    let is_moving = format!("{}.cells[2].innerText.includes('→')", row("web-1"));
    browser.until("web-1 to be on its way", LIMIT, &is_moving);
    browser.eval("location.hash = '#runs'");
    // Until it is told of this one, the page may take the one before for open.
    let first = "document.querySelector('main tbody tr')?.innerText.includes('migrate web-1')";
    browser.until("its run", LIMIT, first);
    browser.click("main button", "Cancel");
    let is_back = "document.querySelector('main tbody .state').innerText === 'rolled back'";
    browser.until("the run to have turned back", LIMIT, is_back);
    assert!(!moving.wait_with_output().expect("it ends").status.success(), "it was cancelled");
    browser.eval("location.hash = '#vms/web-1'");
    let moving = operator.begin(&slow);
    browser.click(".pane button", "Cancel the migration…");
    browser.click("dialog button", "Cancel the migration");
    assert!(!moving.wait_with_output().expect("it ends").status.success(), "and so was this");
    shows(&mut browser, "web-1", "running", "h1");

    // It moves and runs on, and its console goes with it.
    browser.click(".pane button", "Console");
    operator.await_no_run();
    browser.click(".pane button", "Migrate…");
    browser.click("dialog button", "Migrate");
    shows(&mut browser, "web-1", "running", "h2");
    await_virsh(&lab, "h2", "web-1", "running");
    let said = "document.querySelector('.console .hint').innerText === 'web-1 on h2'";
    browser.until("the console to have followed", LIMIT, said);
    let after = counted(&mut browser);
    assert!(after >= before, "the counter went from {before} to {after}: it was restarted");
    for (view, text) in [("runs", "migrate web-1 to h2"), ("quota", "of 8"), ("hosts", "of")] {
        browser.eval(&format!("location.hash = '#{view}'"));
        let shown = format!("document.querySelector('main').innerText.includes({})", json!(text));
        browser.until(&format!("{view} to show {text:?}"), LIMIT, &shown);
        picture(&mut browser, &format!("{view}-dark.png"));
    }

    // Stopped by a click: virsh agrees.
    browser.eval("location.hash = '#vms/web-1'");
    operator.await_no_run();
    browser.click(".pane button", "Force stop…");
    browser.click("dialog button", "Force stop");
    shows(&mut browser, "web-1", "stopped", "h2");
    await_virsh(&lab, "h2", "web-1", "shut off");
    operator.await_no_run();
    browser.click(".pane button", "Delete…");
    browser.eval("document.querySelector('dialog input').focus()");
    browser.write("web-1");
    browser.click("dialog button", "Delete");
    browser.until("web-1 to be gone", LIMIT, &format!("!{}", row("web-1")));
    until("virsh to know it no more", LIMIT, || {
        let left = lab.virsh_domains("h2");
        is(!left.contains(&"web-1".to_owned()), left)
    });

    // A host is emptied, which takes nothing here, and used again.
    browser.eval("location.hash = '#hosts'");
    browser.click("main [aria-label='Drain h1']", "Drain…");
    browser.click("dialog button", "Drain");
    browser.click("main [aria-label='Undrain h1']", "Undrain");
    browser.click("dialog button", "Undrain");
    let in_use = "document.querySelector('main [aria-label=\"Drain h1\"]') !== null";
    browser.until("h1 to be in use", LIMIT, in_use);

    // A host without power: its VM is lost, not stopped, and the page goes on by whoever answers.
    lab.must(&["kill", "h2"]);
    browser.eval("location.hash = '#vms'");
    shows(&mut browser, "web-2", "lost", "h2");
    let words = format!("{}.cells[1].innerText.includes('was running, ')", row("web-2"));
    browser.until("what was heard last", LIMIT, &words);
    picture(&mut browser, "lost-dark.png");
    browser.size(400, 800);
    picture(&mut browser, "narrow-dark.png");
    browser.theme("light");
    browser.eval("location.hash = '#hosts'");
    picture(&mut browser, "narrow-light.png");
    let too_wide = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(browser.eval(too_wide), json!(false), "nothing is cut off at 400 pixels");
    // Whoever looks at a job that goes just then may ask for it once more, and a list may need the host that is off.
    let is_of_the_gone = |said: &String| {
        said.contains("404") && said.contains("/jobs/")
            || said.contains("504") && said.contains("/lists/")
    };
    let mut complaints = browser.complaints();
    complaints.retain(|said| !is_of_the_gone(said));
    assert_eq!(complaints, Vec::<String>::new());
}

/// What is measured while much happens: the longest time without a drawn frame, and how often rows were
/// made anew.
const WATCH: &str = "(() => {
  const body = document.querySelector('main tbody');
  window.watched = { worst: 0, frames: 0, made: 0, changed: 0 };
  new MutationObserver((all) => watched.made += all.length).observe(body, { childList: true });
  const texts = new MutationObserver((all) => watched.changed += all.length);
  texts.observe(body, { childList: true, characterData: true, subtree: true });
  let last = performance.now();
  const frame = (now) => {
    watched.worst = Math.max(watched.worst, now - last);
    watched.frames += 1;
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})()";

#[test]
fn lab_page_of_a_thousand_vms_is_patched_and_stays_fluid() {
    let Some(mut browser) = Browser::start("lab_page_of_a_thousand_vms_is_patched_and_stays_fluid")
    else {
        return;
    };
    let crowd = Crowd::of(10, 100);
    let operator = Operator::new();
    let hosts = crowd.addresses().join(",");
    let page = open(&operator, &mut browser, &["--hosts", &hosts]);
    let rows = "document.querySelectorAll('main tbody tr:not([hidden])').length";
    let took = browser.until("every row", LIMIT, &format!("{rows} === 1000"));

    browser.eval(WATCH);
    crowd.change(2_000, Duration::from_secs(5));
    // The last change of all is seen, and it is right.
    let (name, state) = crowd.last();
    let is_seen = format!("{}.querySelector('.state').innerText === {}", row(&name), json!(state));
    let late = browser.until("the last change", LIMIT, &is_seen);
    let watched = browser.eval("watched");
    eprintln!(
        "1000 rows after {took:?}; 2000 changes in 5 s: {watched}, the last seen after {late:?}"
    );
    assert_eq!(watched["made"], 0, "rows were made anew: {watched}");
    assert!(watched["changed"].as_u64() >= Some(500), "nothing was seen to change: {watched}");
    // A person feels a tenth of a second; but other tests may keep this machine busy.
    assert!(watched["worst"].as_f64() < Some(3_000.0), "it stood still: {watched}");

    browser.eval("document.querySelector('[type=search]').focus()");
    browser.write("vm-7-3");
    browser.until("the filter", LIMIT, &format!("{rows} === 11"));
    picture(&mut browser, "crowd-light.png");

    // When the page's own server goes, that is said, and nothing is called stopped.
    drop(page);
    let cut = "document.querySelector('#banner').innerText.includes('The feed is cut')";
    browser.until("the banner", LIMIT, cut);
    browser.until("old rows", LIMIT, "document.querySelector('main').innerText.includes('as of')");
    let stopped = "document.querySelector('main tbody').innerText.includes('stopped')";
    assert_eq!(browser.eval(stopped), json!(false));
    picture(&mut browser, "cut-light.png");
}
