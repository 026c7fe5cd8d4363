//! Two schedulers that keep the same, with no cluster at all.

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
