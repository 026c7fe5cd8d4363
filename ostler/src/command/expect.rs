//! `ostler expect`, `unexpect`, `expectations`: what is to stay true of the cluster, and how it stands.
//!
//! A set is told to every controller that answers, so that none has to wait for another; which of two
//! that differ counts is the same at each of them. Host names in a file become ids here: they are for
//! people, and may change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use planner::case::{Understood, Wanted, understand};
use planner::rules::NoMigration;
use planner::{Clause, Expectation, Level, Rule};
use protocol::expectations::{
    ExpectationStatus, KeptStanding, PutExpectations, SetList, SetStatus,
};
use protocol::id::{JobId, Revision, SetName};
use protocol::job::Role;
use scheduler::SetRecord;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use transport::{CallError, Clock, Endpoint, Method};

use crate::cli::Ms;
use crate::command::plan::read_wanted;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// How long one question after a set waits for news at the controller.
const WAIT_MS: u64 = 5_000;

/// How long to wait before a set that no controller told of is asked after again.
const RETRY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct ExpectArgs {
    /// What is expected, as docs/schema/expectations.json describes it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The set's name; what is kept under it is replaced [default: the file's name without its ending]
    #[arg(long)]
    name: Option<SetName>,
    /// Wait until all that must be is so
    #[arg(long, value_name = "TIME")]
    wait: Option<Ms>,
}

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct UnexpectArgs {
    /// The set
    name: SetName,
}

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct ExpectationsArgs {
    /// This set alone, and all that is known of it
    name: Option<SetName>,
    /// Print the set as the file that `ostler expect FILE` takes: to keep it, and to put it again
    #[arg(long, requires = "name", conflicts_with = "json")]
    file: bool,
}

/// Keeps a set from now on.
pub(crate) async fn expect(session: &Session, args: ExpectArgs) -> Result<Code, Failure> {
    let wanted = read_wanted(Some(&args.file))?;
    check(&wanted)?;
    let name = match args.name {
        Some(name) => name,
        None => name_of(&args.file)?,
    };
    let strange = strange(&wanted.expectations);
    let expectations = with_host_ids(session, wanted.expectations).await?;
    let known = known(session).await?.remove(&name);
    let is_so = |known: &SetStatus| !known.is_deleted && values(known) == expectations;
    let revision = match &known {
        Some(known) if is_so(known) => known.revision,
        Some(known) => Revision(known.revision.0 + 1),
        None => Revision(1),
    };
    let put = PutExpectations { revision, expectations };
    let path = format!("/v1/expectations/{name}");
    let status: SetStatus = tell_all(session, Method::PUT, &path, &put).await?;
    if !strange.is_empty() {
        let kinds = strange.join(", ");
        show::note(&format!("warning: not understood here, so nothing is done for it: {kinds}"));
    }
    if let Some(wait) = args.wait {
        return await_met(session, &name, revision, wait.0).await;
    }
    match session.is_json {
        true => show::json(&status),
        false => {
            let count = status.expectations.len();
            show::line(&format!(
                "{name} (revision {}): {count} expectations are kept from now on; how they stand: \
                 `ostler expectations`",
                revision.0
            ));
        }
    }
    Ok(Code::Ok)
}

/// Keeps a set no longer.
pub(crate) async fn unexpect(session: &Session, args: UnexpectArgs) -> Result<Code, Failure> {
    let name = args.name;
    let known = known(session).await?.remove(&name).filter(|known| !known.is_deleted);
    let Some(known) = known else {
        let failure = Failure::new(Code::NotFound, format!("there are no expectations {name}"));
        return Err(failure.next("ostler expectations"));
    };
    let path = format!("/v1/expectations/{name}?revision={}", known.revision.0 + 1);
    let _: Option<IgnoredAny> = tell_all(session, Method::DELETE, &path, &()).await?;
    match session.is_json {
        true => show::json(&json!({ "deleted": name })),
        false => show::line(&format!("{name} is kept no longer; what runs stays where it is")),
    }
    Ok(Code::Ok)
}

/// Tells how what is kept stands.
pub(crate) async fn list(session: &Session, args: ExpectationsArgs) -> Result<Code, Failure> {
    let _ = session.learn_names().await;
    let (sets, waiting_for) = merged(ask_all(session, false).await?);
    if let Some(waiting_for) = &waiting_for {
        note_as_last_seen(waiting_for);
    }
    let sets: Vec<SetStatus> = match &args.name {
        None => sets.into_values().collect(),
        Some(name) => sets.into_values().filter(|set| set.name == *name).collect(),
    };
    if let (Some(name), true) = (&args.name, sets.is_empty()) {
        let failure = Failure::new(Code::NotFound, format!("there are no expectations {name}"));
        return Err(failure.next("ostler expectations"));
    }
    if args.file {
        show::json_pretty(&file_of(&sets));
    } else if session.is_json {
        show::json_pretty(&SetList { waiting_for, sets });
    } else {
        tell(session, &sets);
    }
    Ok(Code::Ok)
}

/// Says that a VM which was just ended stays so, though it is expected to run.
pub(crate) async fn note_if_expected(session: &Session, job: &JobId, what_then: &str) {
    let Ok(lists) = ask_all(session, false).await else { return };
    let (sets, _) = merged(lists);
    let expects = |set: &&SetStatus| {
        set.expectations.iter().any(|one| {
            let value = &one.expectation;
            let is_member = one.members.iter().any(|member| member.job == *job);
            is_member || value["expect"] == "runs" && value["job"] == job.as_str()
        })
    };
    if let Some(set) = sets.values().find(expects) {
        let name = &set.name;
        show::note(&format!("note: expectations {name} say that {job} runs; {what_then}"));
    }
}

/// The sets that are kept, as far as a controller answers.
pub(crate) async fn kept(session: &Session) -> Vec<SetRecord> {
    if session.is_without_controller() {
        return Vec::new();
    }
    let lists = ask_all(session, false).await.unwrap_or_default();
    merged(lists).0.into_values().map(SetRecord::from).collect()
}

/// The rules that are kept, as far as a controller answers: what is planned here heeds them too.
pub(crate) async fn rules(session: &Session) -> Vec<Clause> {
    rules_of(&kept(session).await).collect()
}

/// The rules in sets.
pub(crate) fn rules_of(sets: &[SetRecord]) -> impl Iterator<Item = Clause> {
    understood_of(sets).filter_map(|understood| match understood {
        Understood::Rule(clause) => Some(clause),
        Understood::Group(level, group) => group.clause(level),
        Understood::Goal(..) | Understood::Order(_) => None,
    })
}

/// The rules that are kept, and that nobody is moved who is expected where it is.
pub(crate) async fn rules_for_moves(session: &Session) -> Vec<Clause> {
    let sets = kept(session).await;
    let read = understood_of(&sets).filter_map(|understood| match understood {
        Understood::Rule(clause) => Some(clause),
        Understood::Group(level, group) => group.clause(level),
        Understood::Goal(
            _,
            Expectation::RunsOn { job, .. } | Expectation::Runs { job, on: Some(_), .. },
        ) => Some(Clause { level: Level::Must, rule: Rule::NoMigration(NoMigration { job }) }),
        Understood::Goal(..) | Understood::Order(_) => None,
    });
    read.collect()
}

fn understood_of(sets: &[SetRecord]) -> impl Iterator<Item = Understood> {
    let values = sets.iter().filter_map(|set| set.expectations.as_ref()).flatten();
    values.filter_map(|value| understand(0, value.clone()).ok())
}

fn check(wanted: &Wanted) -> Result<(), Failure> {
    let bare: Wanted = serde_json::from_value(json!({})).expect("nothing need be given");
    let expectations = wanted.expectations.clone();
    if expectations.is_empty() {
        let what = "the file expects nothing, and what is kept under its name would be lost";
        return Err(Failure::new(Code::Refused, what)
            .next("ostler unexpect NAME, if that is meant; see docs/schema/expectations.json"));
    }
    if *wanted == (Wanted { expectations, ..bare }) {
        return Ok(());
    }
    let what = "only `expectations` are kept; this file says more, which is for one plan alone";
    Err(Failure::new(Code::Refused, what)
        .next("leave out intents, placement, policy, used, reservations, seed and limits; a host is emptied by `ostler drain`, and `ostler policy set` is for everybody"))
}

/// Kinds that nobody knows here. A newer controller may, so they are kept.
fn strange(expectations: &[Value]) -> Vec<String> {
    let each = expectations.iter().cloned().enumerate();
    let unknown = each.filter_map(|(index, value)| understand(index, value).err());
    unknown.filter(|no| !no.is_malformed).map(|no| format!("{:?}", no.kind)).collect()
}

fn name_of(file: &std::path::Path) -> Result<SetName, Failure> {
    let stem = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = stem.trim_end_matches(".json").trim_end_matches(".expectations");
    stem.parse().map_err(|error| {
        Failure::usage(format!("{stem:?} names no set")).because(error).next("name it with --name")
    })
}

async fn with_host_ids(session: &Session, list: Vec<Value>) -> Result<Vec<Value>, Failure> {
    if list.iter().all(|value| value["on"].is_null()) {
        return Ok(list);
    }
    let picture = session.picture().await?;
    let with_id = |mut value: Value| {
        if let Some(text) = value["on"].as_str() {
            let row = picture.view.find_host(text).map_err(|found| {
                let what = format!("{text:?} names {} hosts", found.len());
                Failure::new(Code::NotFound, what).next("ostler hosts")
            })?;
            value["on"] = json!(row.host.id);
        }
        Ok(value)
    };
    list.into_iter().map(with_id).collect()
}

/// What [`expect`] takes: hosts by id, which it understands as well as names.
fn file_of(sets: &[SetStatus]) -> Value {
    let expectations: Vec<Value> = sets.iter().flat_map(values).collect();
    json!({ "expectations": expectations })
}

fn values(set: &SetStatus) -> Vec<Value> {
    set.expectations.iter().map(|one| one.expectation.clone()).collect()
}

fn controllers(session: &Session) -> Result<Vec<Endpoint>, Failure> {
    let all = session.peers(Role::Controller);
    if session.is_direct || all.is_empty() {
        let what = "expectations are kept by controllers, and none is known here";
        return Err(Failure::usage(what)
            .next("use the context of a cluster that was bootstrapped, without --hosts"));
    }
    Ok(all)
}

fn no_answer(last: Option<CallError>) -> Failure {
    let failure = Failure::new(Code::Unreachable, "no controller answers")
        .next("ostler bootstrap (it is safe to repeat)");
    match last {
        Some(error) => failure.because(error),
        None => failure,
    }
}

/// What each controller that answers keeps.
async fn ask_all(session: &Session, with_deleted: bool) -> Result<Vec<SetList>, Failure> {
    let path = format!("/v1/expectations?deleted={with_deleted}");
    let (mut lists, mut last) = (Vec::new(), None);
    let controllers = controllers(session)?;
    let asked = controllers.iter().map(|one| session.client.get::<SetList>(one, &path));
    for answer in join_all(asked).await {
        match answer {
            Ok(list) => lists.push(list),
            Err(error) => last = Some(error),
        }
    }
    if lists.is_empty() { Err(no_answer(last)) } else { Ok(lists) }
}

/// The latest of each set that anybody has, those that were deleted included.
async fn known(session: &Session) -> Result<BTreeMap<SetName, SetStatus>, Failure> {
    Ok(merged(ask_all(session, true).await?).0)
}

/// What controllers say together: of each set the latest, and of each expectation the one who is at it.
fn merged(mut lists: Vec<SetList>) -> (BTreeMap<SetName, SetStatus>, Option<String>) {
    let waiting_for = lists.iter().map(|list| list.waiting_for.clone()).min().flatten();
    // Who sees nothing now tells what is old, next to one who does.
    if waiting_for.is_none() {
        let blind = lists.iter_mut().filter(|list| list.waiting_for.is_some());
        for one in blind.flat_map(|list| &mut list.sets).flat_map(|set| &mut set.expectations) {
            one.standing = KeptStanding::Unknown;
        }
    }
    let mut sets: BTreeMap<SetName, SetStatus> = BTreeMap::new();
    for set in lists.into_iter().flat_map(|list| list.sets) {
        match sets.get_mut(&set.name) {
            Some(known) if known.revision > set.revision => {}
            Some(known) if known.revision == set.revision => {
                let both = known.expectations.iter_mut().zip(set.expectations);
                for (one, other) in both {
                    if tells(&other.standing) > tells(&one.standing) {
                        *one = other;
                    }
                }
            }
            _ => drop(sets.insert(set.name.clone(), set)),
        }
    }
    (sets, waiting_for)
}

/// How much a controller's word tells.
fn tells(standing: &KeptStanding) -> u8 {
    match standing {
        KeptStanding::Unknown => 0,
        KeptStanding::NotUnderstood { .. } => 1,
        KeptStanding::Met | KeptStanding::Coming { .. } => 2,
        KeptStanding::Unmet { report: None, .. } => 3,
        KeptStanding::Unmet { report: Some(_), .. } => 4,
        KeptStanding::Mending { .. } => 5,
    }
}

/// Tells every controller; one that stores it is enough, and the others ask it.
async fn tell_all<B, T>(
    session: &Session,
    method: Method,
    path: &str,
    body: &B,
) -> Result<T, Failure>
where
    B: serde::Serialize + Sync,
    T: serde::de::DeserializeOwned,
{
    let (mut told, mut last) = (None, None);
    let controllers = controllers(session)?;
    let asked =
        controllers.iter().map(|one| session.client.send::<_, T>(method.clone(), one, path, body));
    for answer in join_all(asked).await {
        match answer {
            Ok(reply) => told = told.or(Some(reply.body)),
            Err(error) if error.is_retriable() => last = Some(error),
            // One that has not heard of a set yet need not be told that it is gone.
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => {
                last = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    told.ok_or_else(|| no_answer(last))
}

async fn await_met(
    session: &Session,
    name: &SetName,
    revision: Revision,
    wait_ms: u64,
) -> Result<Code, Failure> {
    let _ = session.learn_names().await;
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + wait_ms;
    loop {
        let (mut sets, waiting_for) = merged(ask_all(session, false).await?);
        let set = sets.remove(name).filter(|set| set.revision >= revision);
        let is_late = clock.now().mono_ms >= deadline_ms;
        match set {
            None if is_late => {
                let what = format!("nobody keeps {name} any more as it was put here");
                return Err(Failure::new(Code::NotFound, what).next("ostler expectations"));
            }
            Some(set) if is_late || is_all_met(&set, waiting_for.as_deref()) => {
                match session.is_json {
                    true => show::json(&set),
                    false => tell(session, std::slice::from_ref(&set)),
                }
                if is_all_met(&set, waiting_for.as_deref()) {
                    return Ok(Code::Ok);
                }
                if let Some(waiting_for) = waiting_for {
                    note_as_last_seen(&waiting_for);
                }
                return Ok(Code::Unreachable);
            }
            Some(_) | None => {}
        }
        let left_ms = deadline_ms.saturating_sub(clock.now().mono_ms);
        let path = format!("/v1/expectations/{name}?wait_ms={}", left_ms.min(WAIT_MS));
        let mut has_waited = false;
        for controller in session.controllers().await {
            if session.client.get::<SetStatus>(&controller, &path).await.is_ok() {
                has_waited = true;
                break;
            }
        }
        if !has_waited {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Whether all that must be is so. Nobody knows while no controller sees the cluster.
fn is_all_met(set: &SetStatus, waiting_for: Option<&str>) -> bool {
    let is_met = |one: &ExpectationStatus| {
        level_of(&one.expectation) != Level::Must || one.standing == KeptStanding::Met
    };
    waiting_for.is_none() && set.expectations.iter().all(is_met)
}

fn note_as_last_seen(waiting_for: &str) {
    show::note(&format!("as it was last seen; the controllers wait for {waiting_for}"));
}

fn tell(session: &Session, sets: &[SetStatus]) {
    let rows = sets.iter().flat_map(|set| {
        set.expectations.iter().map(move |one| {
            [
                set.name.to_string(),
                level_of(&one.expectation).as_str().to_owned(),
                session.with_names(&words_of(&one.expectation)),
                one.standing.as_str().to_owned(),
                session.with_names(&told(one)),
            ]
        })
    });
    show::table(["SET", "LEVEL", "EXPECTED", "STANDS", ""], rows.collect());
}

/// Why it stands so; of a group also how many run, and what has its name beyond its count.
fn told(one: &ExpectationStatus) -> String {
    let mut words = Vec::new();
    let run = one.members.iter().filter(|member| member.standing == KeptStanding::Met).count();
    // What lacks of a group is told with it.
    let is_told = matches!(one.standing, KeptStanding::Met | KeptStanding::Unmet { .. });
    if !one.members.is_empty() && !is_told {
        words.push(format!("{run} of {} run", one.members.len()));
    }
    words.extend(Some(why(&one.standing)).filter(|why| !why.is_empty()));
    words.extend(one.note.clone());
    let surplus: Vec<&str> = one.surplus.iter().map(JobId::as_str).collect();
    if let Some(first) = surplus.first() {
        let (all, is) = (surplus.join(", "), if surplus.len() == 1 { "is" } else { "are" });
        words.push(format!(
            "{all} {is} beyond the count, and nobody ends that: `ostler stop {first}` and `ostler rm {first}` do"
        ));
    }
    words.join("; ")
}

fn why(standing: &KeptStanding) -> String {
    match standing {
        KeptStanding::Met | KeptStanding::Unknown => String::new(),
        KeptStanding::Coming { host } => format!("{} is at it", host.short()),
        KeptStanding::Mending { run, why: None } => format!("by run {run}"),
        KeptStanding::Mending { run, why: Some(why) } => format!("run {run} {why}"),
        KeptStanding::Unmet { why, .. } | KeptStanding::NotUnderstood { why } => why.clone(),
    }
}

fn level_of(value: &Value) -> Level {
    let is_wish = value["expect"] == "balanced" || value["expect"] == "power_saving";
    let unsaid = if is_wish { Level::Wish } else { Level::default() };
    serde_json::from_value(value["level"].clone()).unwrap_or(unsaid)
}

/// An expectation in words.
fn words_of(value: &Value) -> String {
    let job = value["job"].as_str().unwrap_or_default();
    if value["expect"] == "runs" {
        return match value["on"].as_str().and_then(|on| on.parse::<protocol::id::HostId>().ok()) {
            Some(on) => format!("{job} runs on {}", on.short()),
            None => format!("{job} runs"),
        };
    }
    match understand(0, value.clone()) {
        Ok(Understood::Rule(clause)) => clause.rule.to_string(),
        Ok(Understood::Group(_, group)) => group.to_string(),
        Ok(Understood::Order(order)) => order.order.to_string(),
        Ok(Understood::Goal(_, Expectation::RunsOn { job, on })) => {
            format!("{job}, while it runs, is on {}", on.short())
        }
        Ok(Understood::Goal(_, Expectation::HasSize { job, .. })) => format!("{job} has its size"),
        Ok(Understood::Goal(..)) | Err(_) => value["expect"].as_str().unwrap_or("?").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use protocol::expectations::MemberStatus;

    use super::*;

    #[test]
    fn a_set_is_named_like_its_file() {
        let name = |path: &str| name_of(std::path::Path::new(path)).map(|name| name.to_string());
        assert_eq!(name("/a/web.json").unwrap(), "web");
        assert_eq!(name("web.expectations.json").unwrap(), "web");
        assert!(name("Web.json").is_err());
    }

    #[test]
    fn a_file_that_expects_nothing_replaces_nothing() {
        let read = |value: Value| serde_json::from_value::<Wanted>(value).unwrap();
        for empty in [json!([]), json!({}), json!({ "expectations": [] })] {
            check(&read(empty)).unwrap_err();
        }
        check(&read(json!({ "expectations": [{ "expect": "lose_any_host" }] }))).unwrap();
    }

    #[test]
    fn what_is_kept_can_be_put_again_as_it_was() {
        let kept: Vec<Value> = vec![
            json!({ "expect": "runs", "job": "a", "on": "h1", "level": "should" }),
            json!({ "expect": "of a later version", "x": { "y": [1, null] } }),
        ];
        let one = |expectation: &Value| ExpectationStatus {
            expectation: expectation.clone(),
            ..set(1, KeptStanding::Unknown).expectations.remove(0)
        };
        let kept_set = SetStatus {
            expectations: kept.iter().map(one).collect(),
            ..set(7, KeptStanding::Unknown)
        };
        let file = serde_json::to_string_pretty(&file_of(&[kept_set])).unwrap();
        let wanted: Wanted = serde_json::from_str(&file).unwrap();
        check(&wanted).unwrap();
        assert_eq!(wanted.expectations, kept);
    }

    #[test]
    fn kinds_that_nobody_knows_are_named() {
        let known = json!({ "expect": "lose_any_host", "level": "should" });
        assert_eq!(strange(&[known, json!({ "expect": "nonsense" })]), ["\"nonsense\""]);
    }

    fn set(revision: u64, standing: KeptStanding) -> SetStatus {
        SetStatus {
            name: "web".parse().unwrap(),
            revision: Revision(revision),
            is_deleted: false,
            put_ms: 0,
            begun: std::collections::BTreeSet::new(),
            stopped: BTreeMap::new(),
            expectations: vec![ExpectationStatus {
                expectation: json!({}),
                standing,
                note: None,
                members: vec![],
                surplus: vec![],
            }],
        }
    }

    #[test]
    fn what_no_controller_sees_is_not_met() {
        let met = set(1, KeptStanding::Met);
        assert!(is_all_met(&met, None));
        assert!(!is_all_met(&met, Some("a current view")), "it was, when it was last seen");
        assert!(!is_all_met(&set(1, KeptStanding::Unknown), None));
    }

    #[test]
    fn of_several_controllers_the_one_who_is_at_it_is_told() {
        let list = |revision, standing, waiting_for: Option<&str>| SetList {
            waiting_for: waiting_for.map(str::to_owned),
            sets: vec![set(revision, standing)],
        };
        let unmet = || KeptStanding::Unmet { why: "no".to_owned(), report: None };
        let mending =
            || KeptStanding::Mending { run: protocol::id::RunId(uuid::Uuid::nil()), why: None };
        let told = |lists| {
            let (sets, waiting_for) = merged(lists);
            let set = sets.into_values().next().unwrap();
            (set.expectations[0].standing.clone(), waiting_for)
        };
        let both = vec![list(1, unmet(), None), list(1, mending(), None)];
        assert_eq!(told(both), (mending(), None));
        let later = vec![list(2, KeptStanding::Met, None), list(1, unmet(), None)];
        assert_eq!(told(later), (KeptStanding::Met, None));
        let blind = vec![list(1, unmet(), Some("a view")), list(1, KeptStanding::Met, None)];
        assert_eq!(told(blind), (KeptStanding::Met, None));
        let all_blind = vec![list(1, unmet(), Some("a view"))];
        assert_eq!(told(all_blind), (unmet(), Some("a view".to_owned())));
    }

    #[test]
    fn what_is_for_one_plan_alone_is_refused() {
        let wanted = |value: Value| serde_json::from_value::<Wanted>(value).unwrap();
        assert!(check(&wanted(json!({ "expectations": [{ "expect": "lose_any_host" }] }))).is_ok());
        assert!(check(&wanted(json!({ "intents": { "h1": "drain" } }))).is_err());
        assert!(check(&wanted(json!({ "placement": "pack" }))).is_err());
    }

    #[test]
    fn expectations_are_told_in_words() {
        let rule = json!({ "expect": "host_label", "job": "a", "key": "disk", "value": "ssd" });
        assert_eq!(words_of(&rule), "a on a host with disk=ssd");
        assert_eq!(words_of(&json!({ "expect": "runs", "job": "a" })), "a runs");
        assert_eq!(words_of(&json!({ "expect": "shines" })), "shines");
        let spec = json!({ "vm": { "vcpus": 1, "memory_bytes": 1 << 30 } });
        let group = json!({ "expect": "group", "name": "web", "count": 3, "spec": spec });
        assert_eq!(words_of(&group), "web-1 to web-3 run");
        let order = json!({ "expect": "starts_after", "jobs": ["a"], "after": ["b", "c"] });
        assert_eq!(words_of(&order), "a starts after b, c");
    }

    #[test]
    fn a_group_is_told_with_how_many_run_and_who_is_left_over() {
        let member = |job: &str, standing| MemberStatus { job: job.parse().unwrap(), standing };
        let coming = || KeptStanding::Coming { host: "h1".parse().unwrap() };
        let one = |standing, second, surplus: &[&str]| ExpectationStatus {
            expectation: json!({ "expect": "group" }),
            standing,
            note: None,
            members: vec![member("web-1", KeptStanding::Met), member("web-2", second)],
            surplus: surplus.iter().map(|job| job.parse().unwrap()).collect(),
        };
        assert_eq!(told(&one(KeptStanding::Met, KeptStanding::Met, &[])), "");
        assert_eq!(told(&one(coming(), coming(), &[])), "1 of 2 run; h1 is at it");
        let unmet = || KeptStanding::Unmet { why: "1 of 2 run; no".to_owned(), report: None };
        assert_eq!(told(&one(unmet(), unmet(), &[])), "1 of 2 run; no");
        let words = told(&one(KeptStanding::Met, KeptStanding::Met, &["web-3", "web-4"]));
        assert!(
            words.starts_with("web-3, web-4 are beyond the count, and nobody ends that"),
            "{words}"
        );
    }
}
