//! `ostler arbiters`: how they are, and changing them while everything runs on.
//!
//! Decides what is shown and whom a person means; a change itself is `change`'s, one without those
//! that are lost `recover`'s, one of the witnesses beside them `witnesses`'.

mod change;
mod recover;
pub(crate) mod witnesses;

use std::collections::BTreeMap;
use std::time::Duration;

use bootstrap::committee::{Found, former, found, is_member};
use futures_util::future::join_all;
use protocol::api::{HandoverReply, Health};
use protocol::trust::{Council, Seat, Slot, Trust};
use protocol::view::Freshness;
use protocol::vm::OnLoss;
use serde::Serialize;
use serde_json::json;
use transport::Endpoint;
use transport::client::Patience;

use crate::cli::{ArbitersArgs, ArbitersCommand};
use crate::exit::{Code, Failure};
use crate::govern::in_force;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// Who is well answers in milliseconds; a person waits for the others.
pub(crate) const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(1), call: Duration::from_secs(3) };

/// See the module.
pub(crate) async fn run(session: &Session, args: ArbitersArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(ArbitersCommand::Cancel) => change::cancel(session).await,
        Some(ArbitersCommand::Recover { off, with, how }) => {
            recover::run(session, &off, &with, &how).await
        }
        Some(command) => change::run(session, command).await,
    }
}

/// An arbiter as `arbiters --json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    slot: u32,
    seat: Seat,
    /// The host's name, if its host has been heard to run it.
    host: Option<String>,
    url: String,
    key: protocol::signed::PublicKey,
    /// In the committee in force.
    is_present: bool,
    /// In the committee that is to follow.
    is_next: bool,
    /// Why it does not answer.
    trouble: Option<String>,
    is_ready: bool,
    trust_version: Option<u64>,
    waiting_for: Vec<String>,
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await.ok_or_else(|| {
        Failure::usage("arbiters are in the cluster's trust document, and none is here")
            .next("ostler bootstrap, or another --context")
    })?;
    let there = everywhere(&picture);
    let (rows, witnesses): (Vec<Row>, Vec<Row>) = rows(session, &trust, &picture, &there)
        .await
        .into_iter()
        .partition(|row| row.seat == Seat::Arbiter);
    let next = trust.succession.next.as_ref();
    let waiting = match next {
        Some(_) => waiting(session, &trust, &picture).await,
        None => vec![],
    };
    let left: Vec<&Found> = former(&trust, &there).collect();
    let notes = notes(&trust, &rows, &witnesses, &waiting, &left);
    if session.is_json {
        let change = next.map(|next| {
            json!({ "since": next.since, "k": next.k, "waiting_for": waiting,
                "arbiters": next.arbiters.iter().map(|a| a.slot).collect::<Vec<_>>() })
        });
        let left: Vec<u32> = left.iter().map(|found| found.index).collect();
        show::json_pretty(&json!({ "arbiters": rows, "k": trust.k, "change": change,
            "witnesses": witnesses, "witnesses_k": trust.witnesses.k,
            "trust_version": trust.version, "left_behind": left, "notes": notes,
            "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    show::table(["SLOT", "HOST", "STATE", "TRUST", "WHERE"], rows.iter().map(cells).collect());
    notes.iter().for_each(|note| show::note(note));
    Ok(Code::Ok)
}

/// What that means: whether anything can be started, and what is under way or left behind.
fn notes(
    trust: &Trust,
    rows: &[Row],
    witnesses: &[Row],
    waiting: &[String],
    left: &[&Found],
) -> Vec<String> {
    let count =
        |rows: &[Row]| rows.iter().filter(|row| row.is_present && row.trouble.is_none()).count();
    let (answer, n, k) = (count(rows), trust.arbiters.len(), trust.k as usize);
    let mut notes = vec![match answer.checked_sub(k) {
        Some(more) => {
            format!("a ticket needs {k} of {n}; {answer} answer, so {more} more may be lost")
        }
        None => format!(
            "a ticket needs {k} of {n} and {answer} answer: nothing starts until others are back. If \
             they are lost for good: ostler arbiters recover --dry-run"
        ),
    }];
    if let Some(committee) = trust.council().witnesses {
        let (answer, n, k) = (count(witnesses), committee.n(), committee.k);
        notes.push(format!(
            "{answer} of {n} witnesses answer, and a VM with --on-loss stop needs {k}: ostler witnesses"
        ));
    }
    if let Some(next) = &trust.succession.next {
        let list = slots_of(&next.arbiters);
        let list = match next.witnesses.is_none() {
            true => list,
            false => format!("{list} with witnesses {}", slots_of(&next.witnesses.members)),
        };
        let since = next.since;
        notes.push(format!("a change is under way since trust version {since}, to {list}"));
        notes.extend(waiting.iter().map(|what| format!("  waits for {what}")));
        notes.push("next: ostler arbiters resume".to_owned());
    } else if let [found, ..] = left {
        let (seat, slot) = (found.seat, found.index);
        notes
            .push(format!("{seat} {slot} is none any more and runs still: ostler arbiters resume"));
    }
    notes
}

fn slots_of(members: &[Slot]) -> String {
    members.iter().map(|member| member.slot.to_string()).collect::<Vec<_>>().join(", ")
}

fn cells(row: &Row) -> [String; 5] {
    let state = match (&row.trouble, row.is_ready) {
        (Some(why), _) => format!("silent: {why}"),
        (None, true) => "ready".to_owned(),
        (None, false) => format!("waits for {}", row.waiting_for.join(", ")),
    };
    let role = match (row.is_present, row.is_next) {
        (false, _) => " (is to come)",
        (true, _) => "",
    };
    let version = row.trust_version.map_or("-".to_owned(), |version| version.to_string());
    let host = row.host.clone().unwrap_or_else(|| "-".to_owned());
    [format!("{}{role}", row.slot), host, state, version, row.url.clone()]
}

async fn rows(session: &Session, trust: &Trust, picture: &Picture, there: &[Found]) -> Vec<Row> {
    let client = &session.client.with_patience(PATIENCE);
    let asked = trust.seats().into_iter().map(|(seat, slot)| async move {
        let health = client.get::<Health>(&endpoint(&slot), "/v1/health").await;
        (seat, slot, health)
    });
    let council = trust.council();
    let next = trust.next_council();
    let has = |council: &Council<'_>, slot: u32| {
        council.to_take(OnLoss::Stop).any(|committee| committee.has(slot))
    };
    // Of one that is silent it matters most which host is to be seen to.
    let once = arbiters_on(picture, |_| true);
    let rows = join_all(asked).await.into_iter().map(|(seat, member, health)| {
        let slot = member.slot;
        let host = there.iter().chain(&once).find(|found| is_member(found, &member));
        let host = host.and_then(|found| picture.view.host(&found.host));
        let (health, trouble) = match health {
            Ok(health) => (Some(health), None),
            Err(error) => (None, Some(chain(&error))),
        };
        let waiting = health.as_ref().map(|health| health.waiting_for.clone());
        let in_names = |what: String| with_names(picture, &what);
        Row {
            slot,
            seat,
            host: host.map(|row| row.host.name.clone()),
            url: member.url.clone(),
            key: member.key,
            is_present: has(&council, slot),
            is_next: next.is_none_or(|next| has(&next, slot)),
            trouble,
            is_ready: health.as_ref().is_some_and(|health| health.is_ready),
            trust_version: health.and_then(|health| health.trust_version),
            waiting_for: waiting.unwrap_or_default().into_iter().map(in_names).collect(),
        }
    });
    rows.collect()
}

/// What the arbiters that are to take over wait for, each thing once.
async fn waiting(session: &Session, trust: &Trust, picture: &Picture) -> Vec<String> {
    let next = trust.succession.next.iter().flat_map(|next| next.arbiters.clone());
    let mut reasons: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let client = &session.client.with_patience(PATIENCE);
    let asked = next.map(|slot| async move {
        (client.get::<HandoverReply>(&endpoint(&slot), "/v1/handover").await, slot.slot)
    });
    let witnesses = trust.succession.next.iter().flat_map(|next| next.witnesses.members.clone());
    let health = witnesses.map(|slot| async move {
        (client.get::<Health>(&endpoint(&slot), "/v1/health").await, slot.slot)
    });
    let health = join_all(health).await;
    let mut of_witnesses = Vec::new();
    for (answer, slot) in health {
        let waits = match answer {
            Ok(health) => health.waiting_for,
            Err(error) => vec![format!("an answer: {}", chain(&error))],
        };
        of_witnesses.extend(waits.into_iter().map(|what| format!("{what} (says witness {slot})")));
    }
    for (answer, slot) in join_all(asked).await {
        let waits = match answer {
            Ok(reply) => reply.waiting_for,
            Err(error) => vec![format!("an answer: {}", chain(&error))],
        };
        for what in waits {
            reasons.entry(with_names(picture, &what)).or_default().push(slot);
        }
    }
    let words = reasons.into_iter().map(|(what, slots)| {
        let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
        format!("{what} (says arbiter {})", slots.join(", "))
    });
    words.chain(of_witnesses).collect()
}

/// A sentence of an arbiter as a person would say it.
fn with_names(picture: &Picture, text: &str) -> String {
    let hosts = picture.view.hosts();
    hosts.fold(text.to_owned(), |text, (id, row)| text.replace(id.as_str(), &row.host.name))
}

fn endpoint(slot: &Slot) -> Endpoint {
    Endpoint::of_key(slot.url.clone(), slot.key)
}

/// The arbiters and witnesses that hosts say they have, of those that are heard.
fn everywhere(picture: &Picture) -> Vec<Found> {
    arbiters_on(picture, |freshness| freshness == Freshness::Fresh)
}

/// The arbiters and witnesses of the hosts that are so fresh, as they said last.
pub(crate) fn arbiters_on(
    picture: &Picture,
    is_fresh_enough: impl Fn(Freshness) -> bool,
) -> Vec<Found> {
    let heard = picture.rows.iter().filter(|row| is_fresh_enough(row.freshness));
    let rows = heard.filter_map(|row| picture.view.host(&row.host));
    rows.flat_map(|row| found(&row.host.id, row.jobs.values().map(AsRef::as_ref))).collect()
}
