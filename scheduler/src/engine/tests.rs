//! A scheduler whose store takes its time, with no cluster at all.

use protocol::api::RunState;
use protocol::id::{Revision, SetName};
use tokio::sync::Notify;
use transport::Identity;

use super::*;
use crate::conductor::{Claimed, InMemory, Sets, Storing};
use crate::upkeep::SetRecord;

/// Keeps what it is given; that it has a run or a set it says only once it is let.
#[derive(Clone, Default)]
struct Slow {
    kept: InMemory,
    is_stored: Arc<Notify>,
    may: Arc<Notify>,
}

impl Conductor for Slow {
    fn accept(&self, record: RunRecord) -> Storing<'_, Acceptance> {
        Box::pin(async move {
            let accepted = self.kept.accept(record).await;
            self.is_stored.notify_one();
            self.may.notified().await;
            accepted
        })
    }

    fn save(&self, record: RunRecord) -> Storing<'_, ()> {
        self.kept.save(record)
    }

    fn load(&self, run: RunId) -> Storing<'_, Option<RunRecord>> {
        self.kept.load(run)
    }

    fn claim_unfinished(&self) -> Storing<'_, Claimed> {
        self.kept.claim_unfinished()
    }

    fn list(&self, max: usize) -> Storing<'_, Vec<RunRecord>> {
        self.kept.list(max)
    }

    fn save_set(&self, record: SetRecord) -> Storing<'_, ()> {
        Box::pin(async move {
            let saved = self.kept.save_set(record).await;
            self.is_stored.notify_one();
            self.may.notified().await;
            saved
        })
    }

    fn forget_set(&self, name: SetName) -> Storing<'_, ()> {
        self.kept.forget_set(name)
    }

    fn sets(&self) -> Storing<'_, Sets> {
        self.kept.sets()
    }
}

fn scheduler(conductor: impl Conductor) -> Scheduler {
    let options = Options {
        client: Client::new(Arc::new(Identity::ephemeral())),
        clock: Clock::real(),
        conductor: Arc::new(conductor),
        picture: watch::channel(Arc::new(Picture::default())).1,
        trust: watch::channel(None).1,
        seed: 1,
    };
    Scheduler::new(options, CancellationToken::new())
}

fn asked() -> NewRun {
    let want = Want::Delete { job: "web".parse().unwrap() };
    NewRun::new(RunId(Uuid::from_u128(7)), want)
}

/// Asks, and goes away before the answer.
async fn ask_and_leave(scheduler: &Scheduler, store: &Slow) {
    tokio::select! {
        _ = scheduler.submit(asked()) => panic!("answered without leave"),
        () = store.is_stored.notified() => {}
    }
}

#[tokio::test]
async fn a_run_is_driven_though_whoever_asked_for_it_has_gone() {
    let store = Slow::default();
    let scheduler = scheduler(store.clone());
    ask_and_leave(&scheduler, &store).await;
    store.may.notify_one();
    store.may.notify_one();
    let mut run = scheduler.submit(asked()).await.unwrap();
    while run.status().reason.is_none() {
        run.changed(WAIT_MS_MAX).await;
    }
    let reason = run.status().reason.clone().unwrap();
    assert!(reason.contains("no current view"), "{reason}");
    scheduler.cancel(asked().id).await.unwrap();
    assert_eq!(run.ended().await.state, RunState::RolledBack);
}

#[tokio::test]
async fn a_set_is_obeyed_though_whoever_asked_for_it_has_gone() {
    let store = Slow::default();
    let scheduler = scheduler(store.clone());
    let name: SetName = "spare".parse().unwrap();
    let spare = vec![serde_json::json!({ "expect": "lose_any_host" })];
    tokio::select! {
        _ = scheduler.keep(name.clone(), Revision(1), spare) => panic!("answered without leave"),
        () = store.is_stored.notified() => {}
    }
    assert!(scheduler.kept(&name).is_none());
    store.may.notify_one();
    let obeyed = async {
        while scheduler.kept(&name).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), obeyed).await.is_ok());
}

#[tokio::test]
async fn a_run_that_is_being_accepted_can_be_cancelled() {
    let store = Slow::default();
    let scheduler = scheduler(store.clone());
    ask_and_leave(&scheduler, &store).await;
    let (cancelled, ()) = tokio::join!(scheduler.cancel(asked().id), async {
        tokio::task::yield_now().await;
        store.may.notify_one();
    });
    assert_eq!(cancelled.unwrap().ended().await.state, RunState::RolledBack);
}

#[tokio::test]
async fn of_a_run_that_nobody_drives_there_is_no_news_until_the_time_is_over() {
    let store = InMemory::default();
    store.accept(RunRecord::new(asked(), 0)).await.unwrap();
    let scheduler = scheduler(store);
    let mut run = scheduler.find(asked().id).await.unwrap().unwrap();
    let began = tokio::time::Instant::now();
    let wait_ms = 50;
    assert_eq!(run.changed(wait_ms).await.state, RunState::Accepted);
    assert!(began.elapsed() >= Duration::from_millis(wait_ms));
    scheduler.shutdown().cancel();
    let ended = timeout(Duration::from_secs(20), run.changed(WAIT_MS_MAX)).await;
    assert!(ended.is_ok(), "an engine that stops holds nobody up");
}
