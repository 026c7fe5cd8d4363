//! `ostler rebalance`: VMs move from fuller hosts to emptier ones, once and because somebody asks for it.
//!
//! The plan is told first. Then one VM moves at a time, each by a run of its own, and what is next is planned anew when
//! it has arrived: what has changed meanwhile counts. Ctrl-C ends it after the move that goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use planner::case::{Record, Wanted, case};
use planner::rules::Balanced;
use planner::{Clause, Level, Limits, Rule, Shift, Violation};
use protocol::api::Want;

use super::expect::rules_for_moves;
use super::plan;
use crate::cli::RebalanceArgs;
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: RebalanceArgs) -> Result<Code, Failure> {
    if session.is_without_controller() && !args.dry_run {
        let what = "moving VMs takes hosts and tickets, so it needs a controller";
        return Err(Failure::usage(what).next("ostler bootstrap, then without --hosts"));
    }
    let rule = Balanced::new(args.within, BTreeMap::new(), 0)
        .and_then(|rule| rule.measured(args.measure.into(), Some(0)))
        .map_err(Failure::usage)?;
    let _ = session.learn_names().await;
    let picture = session.picture().await?;
    picture.warn();
    let record = planned(session, &picture, &rule, (args.moves, false)).await;
    if args.dry_run || !session.is_json {
        plan::tell(session.is_json, &record);
    }
    let is_hopeless = record.outcome.plan.shifts.is_empty() && left(&record).is_some();
    match (is_hopeless, args.dry_run) {
        (true, _) => Ok(Code::Failed),
        (false, true) => Ok(Code::Ok),
        (false, false) => carry_out(session, &rule, args.moves, record).await,
    }
}

/// Moves one VM after the other, until hosts are near enough, no move helps or so many have moved.
async fn carry_out(
    session: &Session,
    rule: &Balanced,
    moves: u32,
    mut record: Record,
) -> Result<Code, Failure> {
    let mut moved = 0;
    while moved < moves {
        let Some(shift) = record.outcome.plan.shifts.first().cloned() else { break };
        let code = begin(session, shift).await?;
        if code != Code::Ok {
            return Ok(code);
        }
        moved += 1;
        let picture = session.picture().await?;
        record = planned(session, &picture, rule, (1, true)).await;
    }
    if session.is_json {
        return Ok(Code::Ok);
    }
    match left(&record) {
        Some(left) => show::note(&session.with_names(&left.to_string())),
        None if moved > 0 => {
            show::note(&format!("hosts are balanced; VMs that have moved: {moved}"));
        }
        None => {}
    }
    Ok(Code::Ok)
}

async fn begin(session: &Session, shift: Shift) -> Result<Code, Failure> {
    let reason = shift.reason();
    show::note(&session.with_names(&format!("{shift}, {reason}")));
    session.want_because(Want::migrate(shift.job, shift.to), reason).await
}

/// What would be moved, and what is left then.
async fn planned(
    session: &Session,
    picture: &Picture,
    rule: &Balanced,
    (moves, was_begun): (u32, bool),
) -> Record {
    let heard = plan::heard_of(picture);
    let (mut input, _) = case(picture.view.clone(), heard, Wanted::default());
    plan::lay_asleep(&mut input, &picture.asleep);
    input.policy = session.policy();
    if !rule.measure().is_promised() {
        input.used = Arc::new(session.used_now(picture).await);
    }
    // What else is kept binds these moves, and is not mended by them.
    let kept = rules_for_moves(session).await.into_iter();
    let is_other = |clause: &Clause| match &clause.rule {
        Rule::Balanced(other) => other.measure() != rule.measure(),
        _ => true,
    };
    input.heeded = kept.filter(is_other).collect();
    input.clauses = vec![Clause { level: Level::Should, rule: Rule::Balanced(rule.clone()) }];
    input.limits = Limits { shifts_max: moves, shifts_begun: was_begun, ..Limits::default() };
    Record::make(input, vec![])
}

fn is_balanced(rule: &Rule) -> bool {
    matches!(rule, Rule::Balanced(_))
}

/// What is still too much.
fn left(record: &Record) -> Option<&Violation> {
    record.outcome.report.violations.iter().find(|violation| is_balanced(&violation.rule))
}
