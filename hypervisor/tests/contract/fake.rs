//! The contract on the fake, and calls that do not come back.

use std::sync::Arc;
use std::time::Duration;

use hypervisor::fake::{Fake, FakeOptions, Fault, Method};
use hypervisor::{ErrorKind, HUNG_CALLS_MAX, Hypervisor, call};

use crate::for_each_case;
use crate::subject::{Disks, Subject, eventually, kind};

fn with_subject(f: impl FnOnce(&Subject)) {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(FakeOptions { writes_console_logs: true, ..FakeOptions::default() });
    f(&Subject {
        hv: Arc::new(fake),
        dir: dir.path().to_owned(),
        has_consoles: true,
        has_polite_guests: true,
        disks: Disks::Pretended,
    });
}

macro_rules! run {
    ($case:ident) => {
        #[test]
        fn $case() {
            with_subject(crate::cases::$case);
        }
    };
}

for_each_case!(run);

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_counted() {
    let fake = Fake::default();
    let hv: Arc<dyn Hypervisor> = Arc::new(fake.clone());
    fake.inject(Fault::Hang(Method::List));
    let answer = call(&hv, "list domains", SOON, |hv| hv.list()).await;
    assert_eq!(kind(answer), Some(ErrorKind::TimedOut));
    assert_eq!(hv.hung_calls().count(), 1);
    // Others are served meanwhile.
    assert!(call(&hv, "list domains", SOON * 100, |hv| hv.list()).await.is_ok());
    fake.release();
    eventually("the thread's return", || (hv.hung_calls().count() == 0).then_some(()));
}

#[tokio::test]
async fn a_hypervisor_that_never_answers_is_asked_no_more() {
    let fake = Fake::default();
    let hv: Arc<dyn Hypervisor> = Arc::new(fake.clone());
    for _ in 0..HUNG_CALLS_MAX {
        fake.inject(Fault::Hang(Method::List));
        let answer = call(&hv, "list domains", Duration::from_millis(1), |hv| hv.list()).await;
        assert_eq!(kind(answer), Some(ErrorKind::TimedOut));
    }
    let answer = call(&hv, "list domains", SOON, |hv| hv.list()).await;
    assert_eq!(kind(answer), Some(ErrorKind::Disconnected));
    eventually("the threads' return", || {
        fake.release();
        (hv.hung_calls().count() == 0).then_some(())
    });
    assert!(call(&hv, "list domains", SOON * 100, |hv| hv.list()).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_hung_call_behind() {
    let fake = Fake::default();
    let hv: Arc<dyn Hypervisor> = Arc::new(fake.clone());
    fake.inject(Fault::Hang(Method::List));
    let waiting = call(&hv, "list domains", SOON * 1000, |hv| hv.list());
    assert!(tokio::time::timeout(SOON, waiting).await.is_err());
    assert_eq!(hv.hung_calls().count(), 1);
    fake.release();
    eventually("the thread's return", || (hv.hung_calls().count() == 0).then_some(()));
}

#[tokio::test]
async fn a_call_that_panics_is_an_error() {
    let hv: Arc<dyn Hypervisor> = Arc::new(Fake::default());
    let answer = call::<()>(&hv, "panic", SOON * 100, |_| panic!("as the test wants it")).await;
    assert_eq!(kind(answer), Some(ErrorKind::TimedOut));
    assert_eq!(hv.hung_calls().count(), 0);
}
