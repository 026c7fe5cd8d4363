//! What is not believed of a host that is said to sleep, and who is woken or put to sleep again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use protocol::host::{HostIntent, Inventory};
use protocol::id::{Cursor, Epoch};
use protocol::view::View;
use scheduler::{HeardAt, NotSwitched, Waker as _};
use transport::clock::Now;
use transport::{CancellationToken, Identity, Json, Listen, Server};

use super::*;

/// A host whose agent answers, and a controller that can switch it by a program with a file for a machine.
struct Bench {
    folder: tempfile::TempDir,
    asleep: Asleep,
    clock: Clock,
    host: Host,
    picture: watch::Sender<Arc<Picture>>,
    _trust: watch::Sender<Option<Arc<Trust>>>,
}

const EPOCH: Epoch = Epoch(3);

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = host(&folder).await;
        let file = power_file(folder.path(), &host);
        let clock = Clock::manual(Now { mono_ms: 0, wall_ms: 0 });
        let (picture, seen) = watch::channel(Arc::default());
        let (_trust, trust) = watch::channel(None);
        let store = Arc::new(SqliteConductor::open(&folder.path().join("runs.db")).unwrap());
        let client = Client::new(Arc::new(Identity::ephemeral()));
        let power = Power::new(file);
        let opened = Asleep::open(power, store, &client, clock.clone(), seen, trust).await;
        let asleep = opened.unwrap();
        Self { folder, asleep, clock, host, picture, _trust }
    }

    fn inventory(&self, epoch: Epoch) -> Inventory {
        let host = Host { intent: Some(HostIntent::Drain), ..self.host.clone() };
        Inventory { cursor: Cursor { epoch, seq: 1 }, host, jobs: vec![], observed: vec![] }
    }

    fn sleep(&self, stage: SleepStage) -> Sleep {
        Sleep {
            host: self.host.id.clone(),
            epoch: EPOCH,
            stage,
            since_ms: 0,
            undrain: true,
            inventory: Some(Arc::new(self.inventory(EPOCH))),
        }
    }

    /// It is heard in this life.
    fn hear(&self, epoch: Epoch) {
        let mut view = View::default();
        view.merge_inventory(self.inventory(epoch));
        let at = HeardAt { freshness: Freshness::Fresh, heard_ms: 0 };
        let heard = [(self.host.id.clone(), at)].into_iter().collect();
        let picture = Picture { view, heard, is_current: true, ..Picture::default() };
        self.picture.send_replace(Arc::new(picture));
    }

    fn stage(&self) -> Option<SleepStage> {
        self.asleep.known().get(&self.host.id).map(|sleep| sleep.stage)
    }

    fn switch(&self, is_on: bool) {
        std::fs::write(self.folder.path().join("power"), if is_on { "1" } else { "0" }).unwrap();
    }

    fn has_power(&self) -> bool {
        std::fs::read_to_string(self.folder.path().join("power")).unwrap().trim() == "1"
    }
}

/// An agent that answers until the test ends.
async fn host(folder: &tempfile::TempDir) -> Host {
    let identity = Arc::new(Identity::load_or_create(&folder.path().join("key")).unwrap());
    let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
    let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
    let url = format!("https://{}", server.local_addr().unwrap());
    let health = Router::new().route("/v1/health", get(async || Json(serde_json::json!({}))));
    tokio::spawn(server.serve(health, CancellationToken::new()));
    Host { name: "h2".to_owned(), urls: vec![url], ..Host::of_key(identity.public()) }
}

fn power_file(folder: &Path, host: &Host) -> std::path::PathBuf {
    let (agent, power) = (folder.join("fence_test"), folder.join("power"));
    let power = power.display();
    let script = format!(
        "#!/bin/sh\nwhile read -r line; do case $line in action=*) do=${{line#*=}} ;; esac; done\n\
         case $do in on) echo 1 >{power} ;; off) echo 0 >{power} ;; \
         status) [ \"$(cat {power})\" = 1 ] || exit 2 ;; esac\n"
    );
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.join("power.json");
    let text = serde_json::json!({ "hosts": { host.id.as_str(): [{ "agent": agent }] } });
    std::fs::write(&file, text.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

#[tokio::test]
async fn who_is_heard_and_answers_in_the_very_life_that_it_sleeps_in_is_awake() {
    let bench = Bench::new().await;
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    bench.hear(EPOCH);
    bench.clock.advance_ms(SILENT_MS);
    bench.asleep.look().await.unwrap();
    assert_eq!(bench.stage(), Some(SleepStage::Asleep), "nobody may have noticed yet");
    bench.clock.advance_ms(1);
    bench.asleep.look().await.unwrap();
    assert_eq!(bench.stage(), Some(SleepStage::Awake), "its devices switch another machine");
    assert!(bench.asleep.sleepers().is_empty());
    // Nor is it learnt again from one that remembers it.
    let told = bench.sleep(SleepStage::Asleep);
    bench.asleep.learn(vec![told]).await.unwrap();
    assert_eq!(bench.stage(), Some(SleepStage::Awake));
}

#[tokio::test]
async fn who_is_heard_in_that_life_and_does_not_answer_sleeps_on() {
    let mut bench = Bench::new().await;
    bench.host.urls = vec!["https://127.0.0.1:1".to_owned()];
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    bench.hear(EPOCH);
    bench.clock.advance_ms(10 * SILENT_MS);
    bench.asleep.look().await.unwrap();
    assert_eq!(bench.stage(), Some(SleepStage::Asleep), "what shows it may be old");
}

#[tokio::test]
async fn no_run_wakes_a_host_that_has_had_power_for_ten_minutes_and_is_not_heard() {
    let bench = Bench::new().await;
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    bench.switch(false);
    let id = bench.host.id.clone();
    let may_wake = || bench.asleep.sleepers()[&id].may_wake;
    assert!(may_wake());
    bench.asleep.wake(&id).await.unwrap();
    assert!(bench.has_power() && may_wake(), "it boots");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(601)).unwrap();
    bench.asleep.woken().insert(id.clone(), long_ago);
    assert!(!may_wake(), "it does not come up");
    bench.asleep.has_learnt();
    bench.hear(Epoch(EPOCH.0 + 1));
    // Its drain cannot be taken back here, so it sleeps on until that is so; what counts is that it is asked again.
    bench.asleep.look().await.unwrap();
    assert_eq!(bench.stage(), Some(SleepStage::Asleep));
}

#[tokio::test]
async fn a_run_that_goes_on_after_hours_wakes_only_who_sleeps_still_and_was_not_held() {
    let bench = Bench::new().await;
    bench.switch(false);
    let id = bench.host.id.clone();
    let is_no = |woken: Result<(), NotSwitched>| matches!(woken, Err(NotSwitched::No(_)));
    assert!(is_no(bench.asleep.wake(&id).await), "nobody knows that it slept");
    bench.asleep.keep(bench.sleep(SleepStage::Awake)).await.unwrap();
    assert!(is_no(bench.asleep.wake(&id).await), "it is awake long since");
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    bench.asleep.hold(&id).await.unwrap();
    assert!(is_no(bench.asleep.wake(&id).await), "somebody turned it off for good");
    assert!(!bench.has_power());
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    bench.asleep.wake(&id).await.unwrap();
    assert!(bench.has_power());
}

#[tokio::test]
async fn a_run_that_puts_to_sleep_what_sleeps_is_done_and_waits_for_what_an_earlier_life_began() {
    let bench = Bench::new().await;
    bench.switch(false);
    let id = bench.host.id.clone();
    bench.asleep.keep(bench.sleep(SleepStage::Asleep)).await.unwrap();
    assert_eq!(bench.asleep.sleep(&id).await, Ok(()));
    bench.asleep.keep(bench.sleep(SleepStage::Falling)).await.unwrap();
    assert!(matches!(bench.asleep.sleep(&id).await, Err(NotSwitched::Unclear(_))));
    // Nor is that taken back before it is known.
    assert!(matches!(bench.asleep.wake(&id).await, Err(NotSwitched::Unclear(_))));
    bench.asleep.keep(bench.sleep(SleepStage::Awake)).await.unwrap();
    // It is not heard, for a moment or for long.
    assert!(matches!(bench.asleep.sleep(&id).await, Err(NotSwitched::Unclear(_))));
}

#[tokio::test]
async fn who_may_sleep_is_heard_has_a_device_and_nothing_that_stays() {
    let bench = Bench::new().await;
    assert!(bench.asleep.may_sleep().is_empty(), "it is not heard");
    bench.hear(EPOCH);
    assert_eq!(bench.asleep.may_sleep(), [bench.host.id.clone()].into());
    std::fs::remove_file(bench.folder.path().join("power.json")).unwrap();
    assert!(bench.asleep.may_sleep().is_empty(), "nothing switches it");
}
