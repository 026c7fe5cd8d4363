//! Two schedulers that keep the same, with no cluster at all.

use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, Epoch};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use serde_json::json;
use transport::{CancellationToken, Client, Clock, Identity};

use super::*;
use crate::{InMemory, Options, Picture};

fn scheduler(conductor: &InMemory) -> Scheduler {
    let options = Options {
        client: Client::new(Arc::new(Identity::ephemeral())),
        clock: Clock::real(),
        conductor: Arc::new(conductor.clone()),
        picture: watch::channel(Arc::new(Picture::default())).1,
        trust: watch::channel(None).1,
        seed: 1,
    };
    Scheduler::new(options, CancellationToken::new())
}

fn name(n: usize) -> SetName {
    SetName::new(format!("set-{n}")).unwrap()
}

fn spare() -> Vec<Value> {
    vec![json!({ "expect": "lose_any_host" })]
}

#[tokio::test]
async fn what_one_keeps_the_other_keeps_and_what_one_deletes_nobody_brings_back() {
    let (one, other) = (scheduler(&InMemory::default()), scheduler(&InMemory::default()));
    one.keep(name(1), Revision(1), spare()).await.unwrap();
    let told = one.expectations(true).sets;
    assert_eq!(other.keep_as_well(told.clone()).await.unwrap(), 1);
    assert_eq!(other.keep_as_well(told.clone()).await.unwrap(), 0, "it is so already");
    assert_eq!(other.expectations(false), one.expectations(false));
    other.keep_no_longer(name(1), None).await.unwrap();
    assert_eq!(other.keep_as_well(told).await.unwrap(), 0, "old news");
    assert_eq!(other.expectations(false).sets, vec![]);
    assert_eq!(one.keep_as_well(other.expectations(true).sets).await.unwrap(), 1);
    assert!(one.kept(&name(1)).is_none());
}

#[tokio::test]
async fn whom_somebody_has_stopped_stays_stopped_when_the_set_is_changed() {
    let (store, id): (_, JobId) = (InMemory::default(), "web".parse().unwrap());
    let one = scheduler(&store);
    let runs = json!({ "expect": "runs", "job": id });
    let stopped = |scheduler: &Scheduler| scheduler.expectations(false).sets[0].stopped.clone();
    one.keep(name(1), Revision(1), vec![runs.clone()]).await.unwrap();
    let stop = Input::Stopped { job: id.clone(), revision: Revision(3) };
    one.keeping().upkeep().handle(0, stop, &mut Vec::new());
    let known = stopped(&one);
    assert_eq!(known.get(&id), Some(&Revision(3)));
    let more = vec![runs, spare().remove(0)];
    one.keep(name(1), Revision(2), more).await.unwrap();
    assert_eq!(stopped(&one), known);
    let after = scheduler(&store);
    after.recover().await.unwrap();
    assert_eq!(stopped(&after), known, "also in the next life");
    one.keep(name(1), Revision(3), spare()).await.unwrap();
    assert!(stopped(&one).is_empty(), "nobody expects it to run any more");
}

#[tokio::test]
async fn what_is_kept_is_there_in_the_next_life() {
    let store = InMemory::default();
    let before = scheduler(&store);
    before.keep(name(1), Revision(1), spare()).await.unwrap();
    before.keep(name(2), Revision(1), spare()).await.unwrap();
    before.keep_no_longer(name(2), Some(Revision(7))).await.unwrap();
    let after = scheduler(&store);
    after.recover().await.unwrap();
    assert_eq!(after.expectations(true), before.expectations(true));
    let late = after.keep(name(2), Revision(7), spare()).await;
    let Err(KeepError::RevisionConflict { current, .. }) = late else { panic!() };
    assert_eq!(current, Revision(7));
}

#[tokio::test]
async fn sets_and_what_is_remembered_of_deleted_ones_are_bounded() {
    let scheduler = scheduler(&InMemory::default());
    for n in 0..SETS_MAX {
        scheduler.keep(name(n), Revision(1), spare()).await.unwrap();
    }
    let more = scheduler.keep(name(SETS_MAX), Revision(1), spare()).await;
    assert!(matches!(more, Err(KeepError::TooMany)));
    scheduler.keep(name(0), Revision(2), vec![]).await.unwrap();
    for n in 0..SETS_MAX {
        scheduler.keep_no_longer(name(n), None).await.unwrap();
    }
    scheduler.keep(name(SETS_MAX), Revision(1), spare()).await.unwrap();
    scheduler.keep_no_longer(name(SETS_MAX), None).await.unwrap();
    assert_eq!(scheduler.expectations(true).sets.len(), DELETED_MAX);
}

#[tokio::test]
async fn a_host_that_may_sleep_from_now_on_is_news_on_a_quiet_cluster() {
    let hosts = [1, 2, 3].map(|n| {
        let host = Host::of_key(SecretKey::from_seed([n; 32]).public());
        let capacity = Resources { vcpus: 4, memory_bytes: 8 << 30, disk_bytes: 0 };
        Host { capacity, ..host }
    });
    let mut view = View::default();
    for host in hosts.clone() {
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
    }
    let picture = Picture { view, is_current: true, ..Picture::default() };
    let (_picture, picture) = watch::channel(Arc::new(picture));
    let clock = Clock::manual(transport::Now::default());
    let stop = CancellationToken::new();
    let one = Scheduler::new(
        Options {
            client: Client::new(Arc::new(Identity::ephemeral())),
            clock: clock.clone(),
            conductor: Arc::new(InMemory::default()),
            picture,
            trust: watch::channel(None).1,
            seed: 1,
        },
        stop.clone(),
    );
    let story = async {
        let saving = vec![json!({ "expect": "power_saving", "after_s": 3_600 })];
        let mut kept = one.keep(name(1), Revision(1), saving).await.unwrap();
        let standing = |kept: &Kept| kept.status().unwrap().expectations.remove(0).standing;
        while standing(&kept) != KeptStanding::Met {
            kept.changed().await;
        }
        // Nothing of the beginning is still to be looked at.
        tokio::time::sleep(3 * LOOK_INTERVAL.0).await;
        one.note_may_sleep(BTreeSet::from([hosts[0].id.clone()]));
        while standing(&kept) == KeptStanding::Met {
            kept.changed().await;
        }
        stop.cancel();
    };
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance_ms(1_000);
        }
    };
    let told = async { tokio::join!(one.tend_hosts(), story) };
    tokio::select! {
        told = tokio::time::timeout(Duration::from_secs(20), told) => {
            told.expect("it is told of, though nothing else happens");
        }
        () = passing => {}
    }
}
