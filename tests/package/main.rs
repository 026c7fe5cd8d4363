//! The Debian package: what is in it, whose it is, and that what its parts name is there.
//!
//! Packs the program that the other tests' build has put in place. What systemd and apt make of the
//! package on a whole machine is not seen here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use bootstrap::Layout;
use tests::lab::{ostler, say_skipped};
use tests::package::{Package, must, values};

/// One test, because making a package takes longer than all that is asked of it.
#[test]
fn the_package_is_whole_and_careful() {
    let Some(package) = Package::make("package") else { return };
    let rules: [fn(&Package); 10] = [
        everything_that_its_units_name_is_in_it,
        what_its_documents_link_to_is_in_it,
        systemd_understands_every_line_of_its_units,
        nothing_that_an_agent_leaves_behind_ends_with_it,
        files_belong_to_root_and_only_the_settings_are_secret,
        settings_of_the_operator_survive_an_upgrade_and_are_those_that_the_agent_reads,
        it_says_what_it_is_and_what_it_needs,
        a_new_host_is_told_what_to_do_and_an_upgraded_one_is_not,
        a_purge_keeps_ledgers_keys_and_disks_and_says_so,
        a_removal_names_every_service_that_runs_on,
    ];
    rules.iter().for_each(|rule| rule(&package));
}

/// Every file, by its path on a host, with its permissions; control files left out.
fn files(package: &Package) -> Vec<(String, u32)> {
    let mut files = Vec::new();
    collect(&package.root(), &package.root(), &mut files);
    files.retain(|(path, _)| !path.starts_with("/DEBIAN/"));
    files
}

fn units(package: &Package) -> Vec<(String, String)> {
    let units = files(package).into_iter().map(|(path, _)| path);
    let units = units.filter(|path| path.ends_with(".service"));
    units.map(|path| (path.clone(), package.text(&path[1..]))).collect()
}

fn has(package: &Package, path: &str) -> bool {
    package.root().join(path.trim_start_matches('/')).exists()
}

fn has_manual(package: &Package) -> bool {
    has(package, "/usr/share/man/man1/ostler.1.gz")
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).expect("the package is unpacked") {
        let path = entry.expect("the package is unpacked").path();
        let found = fs::symlink_metadata(&path).expect("the package is unpacked");
        if found.is_dir() {
            collect(root, &path, files);
        } else {
            let inside = path.strip_prefix(root).expect("a file of it");
            files.push((format!("/{}", inside.display()), found.permissions().mode() & 0o7777));
        }
    }
}

/// Files of the package that a unit needs, or points a person to.
fn named_paths(unit: &str) -> BTreeSet<String> {
    let commands = values(unit, "ExecStart").filter_map(|line| line.split(' ').next());
    let settings = values(unit, "EnvironmentFile");
    let documents = values(unit, "Documentation").flat_map(str::split_whitespace);
    let documents = documents.filter_map(|document| document.strip_prefix("file://"));
    commands.chain(settings).chain(documents).map(str::to_owned).collect()
}

fn named_manuals(unit: &str) -> BTreeSet<String> {
    let documents = values(unit, "Documentation").flat_map(str::split_whitespace);
    let pages = documents.filter_map(|document| document.strip_prefix("man:"));
    pages.map(|page| page.trim_end_matches("(1)").to_owned()).collect()
}

fn everything_that_its_units_name_is_in_it(package: &Package) {
    let units = units(package);
    assert_eq!(units.len(), 2, "the agent's and the discovery server's");
    for (path, unit) in units {
        let named = named_paths(&unit);
        assert!(named.contains("/usr/bin/ostler"), "{path} starts {named:?}");
        let missing: Vec<_> = named.iter().filter(|named| !has(package, named)).collect();
        assert!(missing.is_empty(), "{path} names {missing:?}");
        if has_manual(package) {
            let pages = named_manuals(&unit);
            let is_missing =
                |page: &&String| !has(package, &format!("/usr/share/man/man1/{page}.1.gz"));
            let missing: Vec<_> = pages.iter().filter(is_missing).collect();
            assert!(missing.is_empty(), "{path} points to manual pages {missing:?}");
        }
    }
}

/// Targets of `[text](target)` that are files, without what is beyond `#`.
fn links(document: &str) -> impl Iterator<Item = &str> {
    let targets = document.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.map(|target| target.split('#').next().unwrap_or(target));
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

fn what_its_documents_link_to_is_in_it(package: &Package) {
    let folder = package.root().join("usr/share/doc/ostler");
    let documents = files(package).into_iter().map(|(path, _)| path);
    let documents: Vec<String> = documents.filter(|path| path.ends_with(".md")).collect();
    assert!(documents.len() > 50, "decisions are among them: {documents:?}");
    for path in documents {
        let page = package.root().join(&path[1..]);
        let text = package.text(&path[1..]);
        let missing: Vec<&str> =
            links(&text).filter(|target| !page.with_file_name(target).exists()).collect();
        assert!(missing.is_empty(), "{path} links to {missing:?}");
    }
    for file in ["docs/recovery.md", "docs/schema/policy.json", "docs/schema/examples/policy.json"]
    {
        assert!(folder.join(file).exists(), "README or an error names {file}");
    }
}

fn systemd_understands_every_line_of_its_units(package: &Package) {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return say_skipped("package", "systemd-analyze is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = package.root().join("usr/bin/ostler").display().to_string();
    for (path, unit) in units(package) {
        // Nothing is installed here: the program is where it was unpacked.
        let copy = folder.path().join(Path::new(&path).file_name().unwrap());
        fs::write(&copy, unit.replace("/usr/bin/ostler", &program)).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let verdict = verify.args(["verify", "--man=no"]).arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&verdict.stderr).into_owned();
        let name = copy.file_name().unwrap().to_string_lossy().into_owned();
        let ours: Vec<_> = said.lines().filter(|line| line.contains(&name)).collect();
        assert!(verdict.status.success() && ours.is_empty(), "{path}: {said}");
    }
}

fn nothing_that_an_agent_leaves_behind_ends_with_it(package: &Package) {
    let unit = package.text("usr/lib/systemd/system/ostler-agent.service");
    for (key, value, why) in [
        ("KillMode", "process", "guests and services in its control group stay"),
        ("OOMPolicy", "continue", "one that ran out of memory does not take the others along"),
        ("Type", "notify", "an upgrade waits until the new agent works"),
        ("Restart", "on-failure", "a crash is not the end"),
    ] {
        assert_eq!(values(&unit, key).collect::<Vec<_>>(), [value], "{key}: {why}");
    }
    // Otherwise it would see guests shut down at every shutdown of the host, and take that for their
    // own wish.
    let after = values(&unit, "After").flat_map(str::split_whitespace);
    assert!({ after }.any(|unit| unit == "libvirt-guests.service"), "it ends before guests do");
    // Services that outlive the agent would be left without their files.
    for key in ["PrivateTmp", "RuntimeDirectory", "DynamicUser"] {
        assert_eq!(values(&unit, key).count(), 0, "{key} ends with the agent");
    }
}

fn files_belong_to_root_and_only_the_settings_are_secret(package: &Package) {
    for (path, mode) in files(package) {
        let expected = match path.as_str() {
            "/usr/bin/ostler" => 0o755,
            "/etc/ostler/agent.env" => 0o600,
            _ => 0o644,
        };
        assert_eq!(mode, expected, "{path} has mode {mode:o}");
    }
    let listed = must(Command::new("dpkg-deb").arg("-c").arg(package.file()));
    let strange: Vec<_> = listed.lines().filter(|line| !line.contains(" root/root ")).collect();
    assert!(strange.is_empty(), "{strange:?}");
    for script in ["postinst", "prerm", "postrm"] {
        let found = fs::metadata(package.root().join("DEBIAN").join(script)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o755, "{script}");
    }
}

fn settings_of_the_operator_survive_an_upgrade_and_are_those_that_the_agent_reads(
    package: &Package,
) {
    let settings = files(package).into_iter().map(|(path, _)| path);
    let settings: BTreeSet<String> = settings.filter(|path| path.starts_with("/etc/")).collect();
    let kept = package.text("DEBIAN/conffiles");
    assert_eq!(kept.lines().map(str::to_owned).collect::<BTreeSet<_>>(), settings);

    let text = package.text("etc/ostler/agent.env");
    let examples = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let names: BTreeSet<&str> =
        examples.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
    let unit = package.text("usr/lib/systemd/system/ostler-agent.service");
    let help = must(Command::new(package.root().join("usr/bin/ostler")).args(["agent", "--help"]));
    assert!(unit.contains("$OSTLER_AGENT_OPTIONS"));
    let read = ["OSTLER_DISCOVERY", "OSTLER_WATCHDOG", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    assert!(read.iter().all(|name| help.contains(&format!("[env: {name}"))), "{help}");
    let known = read.into_iter().chain(["OSTLER_AGENT_OPTIONS", "OSTLER_LOG"]).collect();
    assert_eq!(names, known);
    let options = text.lines().find_map(|line| line.strip_prefix("#OSTLER_AGENT_OPTIONS="));
    let options: Vec<&str> = options.unwrap_or_default().split(' ').collect();
    must(Command::new(ostler()).arg("agent").args(options).arg("--help"));
}

fn it_says_what_it_is_and_what_it_needs(package: &Package) {
    assert_eq!(package.field("Package"), "ostler");
    let version = package.field("Version");
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
    let depends = package.field("Depends");
    let names = depends.split(", ").filter_map(|one| one.split(' ').next());
    let names: BTreeSet<&str> = names.collect();
    for needed in ["libc6", "libvirt0", "libvirt-daemon-system", "qemu-system-x86", "qemu-utils"] {
        assert!(names.contains(needed), "{needed} is not in {depends:?}");
    }
    let program = package.root().join("usr/bin/ostler");
    let said = must(Command::new(&program).arg("--version"));
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/ostler"),
        ("zsh", "usr/share/zsh/vendor-completions/_ostler"),
        ("fish", "usr/share/fish/vendor_completions.d/ostler.fish"),
    ] {
        assert!(package.text(path).contains("bootstrap"), "{shell} completes nothing of ours");
    }
    for file in
        ["copyright", "changelog.gz", "crates.gz", "README.md", "LICENSE", "docs/alerts.yml"]
    {
        assert!(has(package, &format!("/usr/share/doc/ostler/{file}")), "{file}");
    }
}

/// Runs a maintainer script with a `/run`, `/var/lib` and `/etc` of its own, and there these files; what it says, and which of them are left.
fn run_script(
    package: &Package,
    script: &str,
    word: &str,
    files: &[&str],
) -> (String, Vec<String>) {
    let script = package.root().join("DEBIAN").join(script);
    let inside = format!(
        "set -e
        for folder in /run /var/lib /etc; do mount -t tmpfs none $folder; done
        for file in {files}; do mkdir -p $(dirname $file); echo precious >$file; done
        '{script}' {word}
        for file in {files}; do [ ! -e $file ] || echo left $file; done",
        files = files.join(" "),
        script = script.display()
    );
    let said = must(Command::new("unshare").args(["--mount", "sh", "-c", &inside]));
    let (left, said): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with("left "));
    (said.join("\n"), left.iter().map(|line| line["left ".len()..].to_owned()).collect())
}

fn can_unshare(test: &str) -> bool {
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "mount", "-t", "tmpfs", "none", "/run"]);
    let is_fine = mount.output().is_ok_and(|output| output.status.success());
    if !is_fine {
        say_skipped(test, "this machine lets nobody have mounts of their own");
    }
    is_fine
}

fn a_new_host_is_told_what_to_do_and_an_upgraded_one_is_not(package: &Package) {
    if !can_unshare("a_new_host_is_told_what_to_do") {
        return;
    }
    let (said, _) = run_script(package, "postinst", "configure ''", &[]);
    for step in ["/etc/ostler/agent.env", "systemctl enable --now ostler-agent", "ostler bootstrap"]
    {
        assert!(said.contains(step), "{step:?} is not in {said:?}");
    }
    let (said, _) = run_script(package, "postinst", "configure 0.1.0", &[]);
    assert_eq!(said, "");
}

/// A process that is called as an agent calls a service, until its input ends.
struct Service(std::process::Child);

impl Service {
    fn start(folder: &Path, role: &str) -> Self {
        // A shell runs the file of that name, and has all the words of a service.
        fs::write(folder.join(role), "read line\n").expect("it can be written");
        let mut command = Command::new("sh");
        command.arg0("/usr/bin/ostler").current_dir(folder).stdin(Stdio::piped());
        command.args([role, "--data-dir", &format!("/var/lib/ostler/services/ostler-{role}-7")]);
        command.args(["--listen", "0.0.0.0:7477"]);
        Self(command.spawn().expect("there is a shell"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What a script looks for processes by.
fn pattern(script: &str) -> Option<&str> {
    script.lines().find_map(|line| line.trim().strip_prefix("pgrep -a -f '")?.split('\'').next())
}

fn a_removal_names_every_service_that_runs_on(package: &Package) {
    let [before, after] =
        ["prerm", "postinst"].map(|script| package.text(&format!("DEBIAN/{script}")));
    assert!(pattern(&before).is_some());
    assert_eq!(pattern(&before), pattern(&after), "both name the same services");
    if !can_unshare("a_removal_names_every_service") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout { witnesses: 1, ..Layout::of_hosts(3) };
    let roles: Vec<String> =
        layout.roles_by(None).iter().map(|(role, _)| role.to_string()).collect();
    assert!(roles.len() == 4, "{roles:?}");
    let services: Vec<Service> =
        roles.iter().map(|role| Service::start(folder.path(), role)).collect();
    // Without systemd it says nothing at all.
    let (said, _) = run_script(package, "prerm", "remove", &["/run/systemd/system/here"]);
    for (role, service) in roles.iter().zip(&services) {
        let line = format!("ostler-{role}-7 (pid {})", service.0.id());
        assert!(said.contains(&line), "{line:?} is not in {said:?}");
    }
}

fn a_purge_keeps_ledgers_keys_and_disks_and_says_so(package: &Package) {
    if !can_unshare("a_purge_keeps_ledgers_keys_and_disks") {
        return;
    }
    let data = ["/var/lib/ostler/ledger.redb", "/var/lib/ostler/agent.key"];
    let enabled = "/etc/systemd/system/multi-user.target.wants/ostler-agent.service";
    let files = [data[0], data[1], enabled];
    let (said, left) = run_script(package, "postrm", "remove", &files);
    assert_eq!((said.as_str(), left.len()), ("", 3), "a removal keeps everything");
    let (said, left) = run_script(package, "postrm", "purge", &files);
    assert_eq!(left, data);
    assert!(said.contains("/var/lib/ostler is kept"), "{said}");
}
