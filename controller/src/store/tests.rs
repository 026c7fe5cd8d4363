//! What must hold of the file, whoever damaged it.

use protocol::api::{NewRun, RunState, Want};
use protocol::id::JobId;
use uuid::Uuid;

use super::*;

fn run(n: u128, job: &str) -> RunRecord {
    let want = Want::stop(JobId::new(job).unwrap(), 0);
    RunRecord::new(NewRun::new(RunId(Uuid::from_u128(n)), want), u64::try_from(n).unwrap())
}

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    (folder, path)
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    assert_eq!(store.accept(run(1, "a")).await.unwrap(), Acceptance::Accepted);
    drop(store);
    let store = SqliteConductor::open(&path).unwrap();
    let known = Acceptance::AlreadySo(Box::new(run(1, "a")));
    assert_eq!(store.accept(run(1, "a")).await.unwrap(), known);
    assert_eq!(store.accept(run(1, "b")).await.unwrap(), Acceptance::OtherWant);
    let busy = Acceptance::JobBusy { run: RunId(Uuid::from_u128(1)) };
    assert_eq!(store.accept(run(2, "a")).await.unwrap(), busy);
}

#[tokio::test]
async fn of_many_that_ask_at_once_for_one_job_one_is_accepted() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    let asked: Vec<_> = (1..=64_u128)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.accept(run(n, "a")).await.unwrap() })
        })
        .collect();
    let mut accepted = 0;
    for answer in asked {
        accepted += usize::from(answer.await.unwrap() == Acceptance::Accepted);
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn an_engine_whose_run_was_claimed_saves_nothing() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    store.accept(run(1, "a")).await.unwrap();
    let claimed = store.claim_unfinished().await.unwrap();
    assert_eq!(claimed.runs[0].claim, 2);
    let late = store.save(run(1, "a")).await;
    assert!(matches!(late, Err(StoreError::ClaimLost { seen: 2, .. })), "{late:?}");
    store.save(claimed.runs[0].clone()).await.unwrap();
}

#[tokio::test]
async fn a_job_is_free_again_when_its_run_has_ended() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    store.accept(run(1, "a")).await.unwrap();
    let mut ended = run(1, "a");
    ended.state = RunState::Succeeded;
    store.save(ended.clone()).await.unwrap();
    assert_eq!(store.accept(run(2, "a")).await.unwrap(), Acceptance::Accepted);
    assert_eq!(store.list(10).await.unwrap(), vec![run(2, "a"), ended]);
    assert_eq!(store.claim_unfinished().await.unwrap().runs.len(), 1, "ended runs stay ended");
}

#[tokio::test]
async fn one_damaged_run_is_set_aside_and_the_others_go_on() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    for n in 1..=50 {
        store.accept(run(n, &format!("job{n}"))).await.unwrap();
    }
    let direct = Connection::open(&path).unwrap();
    let cut = "UPDATE runs SET record = substr(record, 1, 40) WHERE job = 'job7'";
    direct.execute(cut, []).unwrap();
    let newer = "UPDATE runs SET record = '{\"version\": 99}' WHERE job = 'job8'";
    direct.execute(newer, []).unwrap();
    let claimed = store.claim_unfinished().await.unwrap();
    assert_eq!((claimed.runs.len(), claimed.damaged.len()), (48, 2));
    let damaged = store.load(RunId(Uuid::from_u128(7))).await;
    assert!(matches!(damaged, Err(StoreError::Damaged { .. })));
    assert_eq!(store.accept(run(70, "job7")).await.unwrap(), Acceptance::Accepted);
    let newer = Acceptance::JobBusy { run: RunId(Uuid::from_u128(8)) };
    assert_eq!(store.accept(run(80, "job8")).await.unwrap(), newer, "another program's to end");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_kept_and_a_new_one_begun() {
    let (folder, path) = file();
    std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
    let store = SqliteConductor::open(&path).unwrap();
    assert_eq!(store.accept(run(1, "a")).await.unwrap(), Acceptance::Accepted);
    assert!(folder.path().join("runs.db.damaged-1").exists());
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_left_alone() {
    let (_folder, path) = file();
    drop(SqliteConductor::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = SqliteConductor::open(&path).unwrap_err();
    assert!(error.to_string().contains("has form 9"), "{error}");
}

#[tokio::test]
async fn ended_runs_are_kept_up_to_a_bound() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    store.accept(run(1, "a")).await.unwrap();
    let direct = Connection::open(&path).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= 10100)
                INSERT INTO runs SELECT 'old' || i, 'old', 1, 1, 0, '{}', NULL FROM n";
    direct.execute(many, []).unwrap();
    let mut ended = run(1, "a");
    ended.state = RunState::Stuck;
    store.save(ended).await.unwrap();
    let count: i64 = direct.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    assert_eq!(count, HISTORY_MAX);
    assert!(store.load(RunId(Uuid::from_u128(1))).await.unwrap().is_some(), "the newest stays");
}

#[tokio::test]
async fn runs_that_have_not_ended_are_listed_first() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    for n in 1..=4 {
        store.accept(run(n, &format!("job-{n}"))).await.unwrap();
    }
    for n in [2, 3, 4] {
        let ended = RunRecord { state: RunState::Succeeded, ..run(n, &format!("job-{n}")) };
        store.save(ended).await.unwrap();
    }
    let listed = store.list(3).await.unwrap();
    let ids: Vec<u128> = listed.iter().map(|record| record.id.0.as_u128()).collect();
    assert_eq!(ids, [1, 4, 3]);
    assert_eq!(store.list(1).await.unwrap().len(), 1);
}

fn set(name: &str, revision: u64) -> SetRecord {
    let expectations = Some(vec![serde_json::json!({ "expect": "lose_any_host" })]);
    SetRecord::new(SetName::new(name).unwrap(), protocol::id::Revision(revision), expectations, 7)
}

#[tokio::test]
async fn what_is_expected_is_there_after_a_restart_and_what_cannot_be_read_hides_no_other() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    for record in [set("a", 1), set("b", 1), set("c", 1), set("a", 2)] {
        store.save_set(record).await.unwrap();
    }
    store.forget_set(SetName::new("c").unwrap()).await.unwrap();
    drop(store);
    let direct = Connection::open(&path).unwrap();
    let odd = "INSERT INTO expectations VALUES ('n', '{\"version\": 99}'), ('o', '{')";
    direct.execute(odd, []).unwrap();
    let store = SqliteConductor::open(&path).unwrap();
    let found = store.sets().await.unwrap();
    assert_eq!(found.sets, [set("a", 2), set("b", 1)]);
    let damaged: Vec<&str> = found.damaged.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(damaged, ["expectations n", "expectations o"]);
    assert!(found.damaged[0].1.contains("use a newer one"));
}

#[tokio::test]
async fn a_file_of_before_there_were_expectations_is_taken_as_it_is() {
    let (_folder, path) = file();
    let store = SqliteConductor::open(&path).unwrap();
    store.accept(run(1, "a")).await.unwrap();
    drop(store);
    Connection::open(&path).unwrap().execute_batch("DROP TABLE expectations").unwrap();
    let store = SqliteConductor::open(&path).unwrap();
    assert_eq!(store.sets().await.unwrap(), Sets::default());
    store.save_set(set("a", 1)).await.unwrap();
    assert_eq!(store.list(10).await.unwrap(), vec![run(1, "a")]);
}
