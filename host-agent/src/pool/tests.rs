//! Two hosts, one directory: whose turn it is, and what nobody may touch.

use protocol::id::{Cursor, Epoch, Revision};
use protocol::job::{Snapshot, SnapshotStage};
use protocol::signed::SecretKey;
use protocol::vm::{DiskSpec, VmSpec};

use super::*;
use crate::core::Stay;

/// A shared pool, with `a` and `b` as two hosts that have it.
struct Bench {
    folder: tempfile::TempDir,
    pool: Pool,
}

fn host(n: u8) -> HostId {
    HostId::of(&SecretKey::from_seed([n; 32]).public())
}

fn job() -> JobId {
    "web-1".parse().unwrap()
}

fn spec(folder: &Path, create: bool) -> PoolSpec {
    let path = folder.to_str().unwrap().to_owned();
    PoolSpec { path, shared: true, id: None, create, ..PoolSpec::default() }
}

fn turn(n: u8, seq: u64, revision: u64, coming: Coming) -> Turn {
    let made = coming == Coming::Makes;
    let taken = Cursor { epoch: Epoch(1), seq };
    let pool = Some("nfs".parse().unwrap());
    let disk = DiskSpec { name: "root".into(), size_bytes: 1 << 20, pool, ..DiskSpec::default() };
    Turn {
        host: host(n),
        stay: Stay { taken, made, coming },
        revision: Revision(revision),
        vm: VmSpec { disks: vec![disk], ..VmSpec::default() },
        deletes_shared: true,
        snapshots: vec![],
    }
}

fn finds(from: u8) -> Coming {
    Coming::Finds { from: Some(host(from)) }
}

impl Bench {
    fn new() -> Self {
        // O_DIRECT is tried, which a file system in memory may not have.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        Self::at(folder)
    }

    fn at(folder: tempfile::TempDir) -> Self {
        let name: PoolName = "nfs".parse().unwrap();
        let spec = spec(folder.path(), true);
        let (id, is_new) = Pool::find(&name, &spec).unwrap();
        assert!(is_new);
        let pool = Pool::of(&name, &PoolSpec { id: Some(id), ..spec }).unwrap();
        Self { folder, pool }
    }

    fn take(&self, turn: &Turn) -> Result<bool, String> {
        self.pool.take(&job(), turn, &BTreeMap::from([("root".to_owned(), 1 << 20)]))
    }

    /// The first turn, with a volume made in it.
    fn made(&self, turn: &Turn) {
        assert_eq!(self.take(turn), Ok(true), "it may be made");
        fs::write(self.file(), b"precious").unwrap();
        self.pool.set_made(&job(), turn).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.pool.volume(&job(), "root", "qcow2")
    }

    fn is_precious(&self) -> bool {
        fs::read(self.file()).is_ok_and(|text| text == b"precious")
    }
}

#[test]
fn a_directory_without_the_mark_is_no_pool_and_nothing_is_written_there() {
    let bench = Bench::new();
    let (name, path) = ("nfs".parse().unwrap(), bench.folder.path());
    let empty = tempfile::tempdir().unwrap();
    let refused = Pool::find(&name, &spec(empty.path(), false)).unwrap_err();
    assert!(refused.contains("is it mounted?"), "{refused}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    // Found again it is the same one, whoever asks and even if told to make one.
    for create in [false, true] {
        assert_eq!(Pool::find(&name, &spec(path, create)), Ok((bench.pool.id(), false)));
    }
    let other = PoolSpec { id: Some(Uuid::from_u128(7)), ..spec(path, false) };
    assert!(Pool::find(&name, &other).unwrap_err().contains("is pool"));
    // Another directory comes to its path: nothing is taken for it.
    let hidden = path.with_extension("hidden");
    fs::rename(path, &hidden).unwrap();
    fs::create_dir(path).unwrap();
    assert!(bench.pool.check().unwrap_err().contains("not mounted"));
    assert!(bench.take(&turn(1, 1, 1, Coming::Makes)).is_err());
    assert!(bench.pool.discard(&job(), &turn(1, 1, 1, Coming::Makes)).is_err());
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    fs::remove_dir(path).unwrap();
    fs::rename(&hidden, path).unwrap();
    assert_eq!(bench.pool.check(), Ok(()));
}

#[test]
fn what_was_made_once_is_found_by_its_next_host_and_never_made_anew() {
    let bench = Bench::new();
    let first = turn(1, 1, 1, Coming::Makes);
    bench.made(&first);
    assert_eq!(bench.take(&first), Ok(false), "a start that is repeated finds what is there");
    assert_eq!(bench.take(&turn(2, 1, 2, finds(1))), Ok(false));
    let again = Turn { revision: Revision(3), ..turn(2, 1, 2, finds(1)) };
    assert_eq!(bench.take(&again), Ok(false), "a later change of the same stay");
    assert!(bench.is_precious());
}

#[test]
fn a_host_that_comes_back_touches_nothing_of_what_another_has_used_since() {
    let bench = Bench::new();
    let old = turn(1, 1, 1, Coming::Makes);
    bench.made(&old);
    assert_eq!(bench.take(&turn(2, 1, 2, finds(1))), Ok(false));
    for coming in [Coming::Makes, Coming::Again, Coming::Finds { from: None }] {
        let late = Turn { stay: Stay { coming, ..old.stay.clone() }, ..old.clone() };
        let refused = bench.take(&late).unwrap_err();
        assert!(refused.contains(host(2).short()), "{refused}");
    }
    bench.pool.discard(&job(), &old).unwrap();
    assert!(bench.is_precious(), "a delete that comes late leaves it alone");
    // Nor does another row of the same host take it for its own.
    assert!(bench.take(&turn(2, 9, 1, Coming::Makes)).unwrap_err().contains("another web-1"));
    bench.pool.discard(&job(), &turn(2, 9, 1, Coming::Makes)).unwrap();
    assert!(bench.is_precious());
}

#[test]
fn a_failover_takes_from_whoever_ran_it_and_an_old_copy_is_noticed() {
    let bench = Bench::new();
    bench.made(&turn(1, 1, 1, Coming::Makes));
    let refused = bench.take(&turn(3, 1, 5, finds(2))).unwrap_err();
    assert!(refused.contains("a copy of the pool"), "{refused}");
    // Whoever was about to take it over counts: it may have died before it had.
    bench.pool.announce(&job(), &turn(2, 1, 2, finds(1))).unwrap();
    assert_eq!(bench.take(&turn(3, 1, 3, finds(2))), Ok(false));
    // An arrival that was given up takes nothing from the source.
    bench.pool.announce(&job(), &turn(2, 2, 4, finds(3))).unwrap();
    assert_eq!(bench.take(&turn(3, 1, 3, finds(2))), Ok(false));
}

#[test]
fn what_is_missing_is_not_made_anew() {
    let bench = Bench::new();
    let refused = bench.take(&turn(1, 1, 2, finds(2))).unwrap_err();
    assert!(refused.contains("are not in pool nfs"), "{refused}");
    assert!(bench.take(&turn(1, 1, 2, Coming::Again)).is_err());
    assert!(!bench.file().parent().unwrap().exists());
}

#[test]
fn deleted_volumes_are_in_the_trash_and_can_be_had_back() {
    let bench = Bench::new();
    let only = turn(1, 1, 1, Coming::Makes);
    bench.made(&only);
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 1 << 20);
    bench.pool.discard(&job(), &Turn { deletes_shared: false, ..only.clone() }).unwrap();
    assert!(bench.is_precious(), "nobody asked for its end");
    bench.pool.discard(&job(), &only).unwrap();
    bench.pool.discard(&job(), &only).unwrap();
    assert!(!bench.file().exists());
    bench.pool.sweep().unwrap();
    let content = bench.pool.content().unwrap();
    let [gone] = &content.deleted[..] else { panic!("{content:?}") };
    assert_eq!((&gone.tag.job, content.volumes.len()), (&job(), 0));
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 0);
    for bad in ["../volumes", "..", "absent", ""] {
        assert_eq!(bench.pool.restore(bad), Ok(None), "{bad:?}");
    }
    assert_eq!(bench.pool.restore(&gone.entry).unwrap().map(|tag| tag.job), Some(job()));
    assert!(bench.is_precious());
    assert!(bench.pool.discard_of(&job(), &host(2)).is_err(), "it was used since somebody looked");
    bench.pool.discard_of(&job(), &host(1)).unwrap();
    assert!(!bench.file().exists());
}

#[test]
fn two_hosts_cannot_promise_the_same_room() {
    let bench = Bench::new();
    let free = bench.pool.free_bytes().unwrap();
    let all = BTreeMap::from([("root".to_owned(), free / 3 * 2)]);
    let of = |n: u8, name: &str| {
        let job: JobId = name.parse().unwrap();
        bench.pool.take(&job, &turn(n, 1, 1, Coming::Makes), &all)
    };
    assert_eq!(of(1, "one"), Ok(true));
    assert!(of(2, "two").unwrap_err().contains("to promise"));
}

#[test]
fn what_others_have_written_there_is_read_with_care() {
    let bench = Bench::new();
    bench.made(&turn(1, 1, 1, Coming::Makes));
    let tag = bench.file().with_file_name("tag.json");
    for junk in [&b"{"[..], b"", &[0; 100_000]] {
        fs::write(&tag, junk).unwrap();
        assert!(bench.take(&turn(1, 1, 1, Coming::Makes)).is_err());
        assert!(bench.take(&turn(2, 1, 2, finds(1))).is_err());
        bench.pool.discard(&job(), &turn(1, 1, 1, Coming::Makes)).unwrap_err();
        assert!(bench.is_precious());
        assert_eq!(bench.pool.content().unwrap().volumes, []);
    }
}

fn sized(bytes: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("root".to_owned(), bytes)])
}

#[test]
fn volumes_grow_in_their_turn_and_only_there_and_only_into_what_is_left() {
    let bench = Bench::new();
    let first = turn(1, 1, 1, Coming::Makes);
    assert_eq!(bench.pool.promise(&job(), &first, &sized(2 << 20)), Ok(Promise::Given));
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 0, "there is nothing of it yet");
    bench.made(&first);
    assert_eq!(bench.pool.promise(&job(), &first, &sized(2 << 20)), Ok(Promise::Given));
    assert_eq!(bench.pool.promise(&job(), &first, &sized(1 << 20)), Ok(Promise::Given));
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 2 << 20, "none becomes smaller");
    let much = bench.pool.promise(&job(), &first, &sized(1 << 60)).unwrap();
    let Promise::Refused(why) = much else { panic!("an EiB was promised") };
    assert!(why.contains("to promise") && why.contains("web-1 needs"), "{why}");
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 2 << 20);

    // Its next host knows an older size; what was promised stays so. The first has nothing to say any more.
    let next = turn(2, 1, 2, finds(1));
    assert_eq!(bench.take(&next), Ok(false));
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 2 << 20);
    let late = bench.pool.promise(&job(), &first, &sized(4 << 20)).unwrap();
    let Promise::Refused(why) = late else { panic!("it is another's") };
    assert!(why.contains("used since"), "{why}");
    let raw = |bytes| (volume(&bench), bytes);
    assert!(bench.pool.grow(&job(), &first, &[raw(4 << 20)]).unwrap_err().contains("used since"));
    assert!(bench.is_precious());
    // What a ledger has promised is promised, whoever died before it was written here.
    let larger = bench.pool.take(&job(), &next, &sized(3 << 20));
    assert_eq!((larger, bench.pool.measure().unwrap().promised_bytes), (Ok(false), 3 << 20));
    bench.pool.grow(&job(), &next, &[raw(3 << 20)]).unwrap();
    bench.pool.grow(&job(), &next, &[raw(1 << 20)]).unwrap();
    assert_eq!(fs::metadata(bench.file()).unwrap().len(), 3 << 20);
}

fn volume(bench: &Bench) -> hypervisor::Volume {
    let format = hypervisor::VolumeFormat::Raw;
    hypervisor::Volume { name: "root".into(), path: bench.file(), format, is_shared: true }
}

#[test]
fn what_another_pool_refuses_is_promised_nowhere() {
    let bench = Bench::new();
    let first = turn(1, 1, 1, Coming::Makes);
    bench.made(&first);
    fs::OpenOptions::new().write(true).open(bench.file()).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(bench.pool.promise(&job(), &first, &sized(2 << 20)), Ok(Promise::Given));
    bench.pool.take_back(&job(), &turn(2, 1, 2, finds(1)), &[volume(&bench)]).unwrap();
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 2 << 20, "that is not its to say");
    bench.pool.take_back(&job(), &first, &[volume(&bench)]).unwrap();
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 1 << 20);
}

#[test]
fn whoever_makes_a_volume_larger_holds_the_lock_until_it_has_ended() {
    let bench = Bench::new();
    bench.made(&turn(1, 1, 1, Coming::Makes));
    let lock = bench.pool.lock("web-1").unwrap();
    let held = lock.file.try_clone().unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").stdin(held).spawn().unwrap();
    // The agent dies; the one that it has started does not.
    drop(lock);
    assert!(bench.pool.lock("web-1").is_err_and(|why| why.contains("does not let go")));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(bench.pool.lock("web-1").unwrap());
}

/// A volume of 1 MiB that qemu knows, in the first turn.
fn with_disk(bench: &Bench, first: &Turn) -> Vec<(hypervisor::Volume, u64)> {
    assert_eq!(bench.take(first), Ok(true));
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", bench.file().to_str().unwrap(), "1M"]);
    bench.pool.set_made(&job(), first).unwrap();
    let volume = hypervisor::Volume { format: hypervisor::VolumeFormat::Qcow2, ..volume(bench) };
    vec![(volume, 1 << 20)]
}

fn qemu(program: &str, words: &[&str]) -> String {
    let output = std::process::Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn write(bench: &Bench, pattern: u8) {
    let words = format!("write -q -P {pattern} 0 64k");
    qemu("qemu-io", &["-f", "qcow2", "-c", &words, bench.file().to_str().unwrap()]);
}

fn holds(bench: &Bench, pattern: u8) -> bool {
    let words = format!("read -P {pattern} 0 64k");
    !qemu("qemu-io", &["-f", "qcow2", "-c", &words, bench.file().to_str().unwrap()])
        .contains("failed")
}

fn snapshot(name: &str, stage: SnapshotStage) -> Snapshot {
    let name = name.parse().unwrap();
    let (size_bytes, promised_bytes) = (1 << 19, 1 << 19);
    Snapshot { name, stage, why: None, taken_ms: None, size_bytes, promised_bytes }
}

fn listed(bench: &Bench, turn: &Turn) -> Vec<(String, SnapshotStage)> {
    let listed = bench.pool.snapshots(&job(), turn).unwrap().expect("they are its");
    listed.into_iter().map(|one| (one.name.to_string(), one.stage)).collect()
}

#[test]
fn what_volumes_were_goes_with_them_and_is_its_turns_to_change() {
    let bench = Bench::new();
    let (first, next) = (turn(1, 1, 1, Coming::Makes), turn(2, 1, 2, finds(1)));
    let sized = with_disk(&bench, &first);
    let name = "a".parse().unwrap();
    let noted = |turn, stage| bench.pool.note(&job(), turn, &[snapshot("a", stage)]).unwrap();
    let act = |turn, deed| bench.pool.with_snapshot(&job(), turn, &sized, &name, deed);
    write(&bench, 1);
    assert_eq!(noted(&first, SnapshotStage::Taking), Noted::Done);
    assert_eq!(bench.pool.measure().unwrap().promised_bytes, 3 << 19, "what it can keep counts");
    assert_eq!(act(&first, Deed::Take), Ok(Ok(())));
    assert_eq!(act(&first, Deed::Take), Ok(Ok(())), "the second time it is there");
    assert_eq!(noted(&first, SnapshotStage::Ready), Noted::Done);
    write(&bench, 2);
    let much = Snapshot { promised_bytes: 1 << 60, ..snapshot("b", SnapshotStage::Taking) };
    assert!(matches!(bench.pool.note(&job(), &first, &[much]), Ok(Noted::Full(_))));

    assert_eq!(bench.take(&next), Ok(false));
    assert_eq!(listed(&bench, &next), [("a".to_owned(), SnapshotStage::Ready)]);
    assert_eq!(bench.pool.snapshots(&job(), &first), Ok(None));
    assert!(matches!(noted(&first, SnapshotStage::Reverting), Noted::NotOurs(_)));
    assert!(act(&first, Deed::Revert).unwrap_err().contains("used since"));
    assert!(holds(&bench, 2), "one that is late has changed nothing");
    assert_eq!(act(&next, Deed::Revert), Ok(Ok(())));
    assert!(holds(&bench, 1));
    assert_eq!(act(&next, Deed::Delete), Ok(Ok(())));
    assert!(act(&next, Deed::Revert).unwrap().is_err(), "there is none");
}

#[test]
fn whoever_takes_volumes_ends_what_was_begun_with_them() {
    use SnapshotStage::{Deleting, Ready, Reverting, Taking};
    let bench = Bench::new();
    let (first, next) = (turn(1, 1, 1, Coming::Makes), turn(2, 1, 2, finds(1)));
    let sized = with_disk(&bench, &first);
    write(&bench, 1);
    for name in ["back", "whole", "gone", "left-out"] {
        let name = name.parse().unwrap();
        bench.pool.with_snapshot(&job(), &first, &sized, &name, Deed::Take).unwrap().unwrap();
    }
    write(&bench, 2);
    // All at once, as no host would leave it.
    let stages = [("back", Reverting), ("whole", Taking), ("none", Taking), ("gone", Deleting)];
    let list: Vec<Snapshot> = stages.map(|(name, stage)| snapshot(name, stage)).into();
    assert_eq!(bench.pool.note(&job(), &first, &list), Ok(Noted::Done));
    assert_eq!(bench.take(&next), Ok(false));
    for _ in 0..2 {
        bench.pool.settle(&job(), &next, &sized).unwrap();
        let all = [("back", Ready), ("whole", Ready), ("left-out", Ready)];
        assert_eq!(listed(&bench, &next), all.map(|(name, stage)| (name.to_owned(), stage)));
        assert!(holds(&bench, 1));
    }
    let said = qemu("qemu-img", &["snapshot", "-l", bench.file().to_str().unwrap()]);
    assert!(!said.contains("ostler-gone"), "{said}");
    // A host that is late ends nothing.
    bench.pool.settle(&job(), &first, &sized).unwrap();
    assert_eq!(listed(&bench, &next).len(), 3);
}
