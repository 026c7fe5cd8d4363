//! `ostler doctor`: what is wrong with the cluster, in words and with an exit code.
//!
//! The comparing is `bootstrap`'s, and what ails a host it says itself; here is whom to ask and how it
//! looks.

use std::collections::BTreeSet;

use bootstrap::committee::is_member;
use bootstrap::views::{Difference, Kind};
use bootstrap::{ViewsOptions, ViewsReport, compare_views};
use futures_util::future::join_all;
use protocol::hugepages::{HugepageFacts, Hugepages};
use protocol::id::HostId;
use protocol::job::{JobRow, Reason, Role};
use protocol::resources::{Bytes, Resources};
use protocol::trust::{Fence, Slot, Trust};
use protocol::view::HostRow;
use protocol::vm::OnLoss;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::Endpoint;

use crate::cli::{DoctorArgs, DoctorCommand};
use crate::command::arbiters::arbiters_on;
use crate::exit::{Code, Failure};
use crate::govern::in_force;
use crate::picture::{Picture, Row, chain};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: DoctorArgs) -> Result<Code, Failure> {
    let (is_well, findings) = match args.command {
        Some(DoctorCommand::Views { monitor }) => views(session, monitor).await,
        Some(DoctorCommand::Hosts) => hosts(session).await?,
        None => {
            let (hosts_are_well, hosts) = hosts(session).await?;
            let (views_are_clean, views) = views(session, vec![]).await;
            (hosts_are_well && views_are_clean, json!({ "hosts": hosts, "views": views }))
        }
    };
    if session.is_json {
        show::json_pretty(&findings);
    }
    Ok(if is_well { Code::Ok } else { Code::Failed })
}

/// What a host's agent says of its own health, as far as it is asked here.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    ailments: Vec<String>,
    #[serde(default)]
    trust_version: Option<u64>,
}

/// A host that is not well, by its own word or by its silence.
#[derive(Serialize)]
struct Patient {
    host: String,
    ailments: Vec<String>,
}

/// Whether all is well, and the findings as JSON; people are told.
async fn hosts(session: &Session) -> Result<(bool, Value), Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await;
    // It does not answer because somebody wants it so.
    let is_up = |row: &&Row| !picture.asleep.contains_key(&row.host);
    let examined = picture.rows.iter().filter(is_up).map(|row| async {
        let known = picture.view.host(&row.host);
        let host = known.map_or_else(|| row.host.to_string(), |known| known.host.name.clone());
        let mut ailments = examine(session, row, trust.as_ref()).await;
        ailments.extend(known.into_iter().flat_map(|known| fenced(trust.as_ref(), known)));
        ailments
            .extend(known.and_then(|known| overdrawn(known.host.allocation, known.host.capacity)));
        ailments.extend(known.into_iter().flat_map(|known| short_of_pages(&known.host.hugepages)));
        Patient { host, ailments }
    });
    let mut patients = join_all(examined).await;
    let count = patients.len();
    patients.retain(|patient| !patient.ailments.is_empty());
    let council = trust.as_ref().map(|trust| of_council(trust, &picture));
    let council = council.unwrap_or_default();
    let is_well = patients.is_empty() && council.is_empty() && picture.warnings.is_empty();
    if !session.is_json {
        picture.warn();
        for Patient { host, ailments } in &patients {
            ailments.iter().for_each(|ailment| show::line(&format!("{host}: {ailment}")));
        }
        council.iter().for_each(|ailment| show::line(ailment));
        if is_well {
            show::line(&format!("{count} hosts: none has anything to be looked after"));
        }
    }
    let warnings = &picture.warnings;
    let findings = json!({ "is_well": is_well, "hosts": patients, "council": council,
        "warnings": warnings });
    Ok((is_well, findings))
}

/// Fewer arbiters than this are gone with one of their hosts.
const ARBITERS_FEW: usize = 3;

/// What is wrong with how arbiters and witnesses are placed, for the VMs that there are.
fn of_council(trust: &Trust, picture: &Picture) -> Vec<String> {
    let lapses = |job: &JobRow| job.job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop);
    let lapsing = picture.jobs().into_iter().filter(lapses).count();
    let found = arbiters_on(picture, |_| true);
    let at = |members: &[Slot]| -> BTreeSet<HostId> {
        let on = found.iter().filter(|found| members.iter().any(|slot| is_member(found, slot)));
        on.map(|found| found.host.clone()).collect()
    };
    ill_placed(
        lapsing,
        trust.arbiters.len(),
        &at(&trust.arbiters),
        trust.council().witnesses.is_some().then(|| at(&trust.witnesses.members)).as_ref(),
    )
}

/// The same, of so many VMs that may be lost and of the hosts that arbiters and witnesses are on.
fn ill_placed(
    lapsing: usize,
    arbiters: usize,
    arbiters_at: &BTreeSet<HostId>,
    witnesses_at: Option<&BTreeSet<HostId>>,
) -> Vec<String> {
    match witnesses_at {
        None if lapsing > 0 && arbiters < ARBITERS_FEW => vec![format!(
            "{lapsing} VMs with --on-loss stop end when the host of one of {arbiters} arbiters is lost, and \
             there are no witnesses: ostler arbiters add HOST…, ostler witnesses set HOST…"
        )],
        Some(at) if !at.is_empty() && at.is_subset(arbiters_at) => vec![
            "all witnesses share their hosts with arbiters: when those are lost, so are these; put them on \
             others: ostler witnesses set HOST…"
                .to_owned(),
        ],
        None | Some(_) => vec![],
    }
}

async fn examine(session: &Session, row: &Row, trust: Option<&Trust>) -> Vec<String> {
    match session.client.get::<Told>(&row.agent, "/v1/health").await {
        Ok(told) => {
            let behind = trust.and_then(|trust| behind(told.trust_version, trust.version));
            told.ailments.into_iter().chain(behind).collect()
        }
        Err(error) => vec![format!("does not answer: {}", chain(&error))],
    }
}

/// Arbiters bring a host the document in force within seconds; one that does not follow cannot.
fn behind(obeyed: Option<u64>, in_force: u64) -> Option<String> {
    let obeyed = obeyed.filter(|obeyed| *obeyed < in_force)?;
    Some(format!(
        "obeys trust version {obeyed}, and {in_force} is in force: nothing new is granted to it until it follows; \
         `ostler bootstrap` gives it again, and says why it does not"
    ))
}

/// What guests were promised and is not there any more: of a disk that others have filled, most of all.
fn overdrawn(promised: Resources, has: Resources) -> Option<String> {
    let lacking = promised.minus(has);
    let words = |what: &str, promised: u64, has: u64| {
        format!("guests were promised {} of {what}, and it has {}", Bytes(promised), Bytes(has))
    };
    let memory = (lacking.memory_bytes > 0)
        .then(|| words("memory", promised.memory_bytes, has.memory_bytes));
    let disk = (lacking.disk_bytes > 0).then(|| words("disk", promised.disk_bytes, has.disk_bytes));
    let all: Vec<String> = memory.into_iter().chain(disk).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Huge pages that were promised, and that somebody has set free or taken since: guests in them run on, and the next to
/// start may find too few.
fn short_of_pages(pages: &Hugepages) -> Vec<String> {
    let is_short = |facts: &HugepageFacts| facts.promised + facts.others > facts.total;
    let short = pages.iter().filter(|(_, facts)| is_short(facts));
    let words = short.map(|(size, HugepageFacts { total, promised, others })| {
        format!(
            "guests were promised {promised} huge pages of {size}, others have taken {others}, and it has {total}: \
             `sysctl vm.nr_hugepages`, or move guests away"
        )
    });
    words.collect()
}

/// What an operator's word has done to a host, where somebody has to look at it.
fn fenced(trust: Option<&Trust>, row: &HostRow) -> Vec<String> {
    let fence = trust.and_then(|trust| trust.fence_of(&row.host.key));
    let is_away = |fence: &&Fence| row.host.trust_version.unwrap_or(0) < fence.since;
    let away = fence.filter(is_away).map(|fence| {
        let (when, why) = (show::moment(fence.at_ms), &fence.reason);
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let who = match trust.is_some_and(|trust| trust.fencing.place_of(&fence.by).is_some()) {
            true => "a controller switched it off and said",
            false => "an operator said",
        };
        format!("{who} {when} that it is off{why}: it starts nothing that it held")
    });
    let ran = row
        .jobs
        .values()
        .filter(|job| matches!(job.reason, Some(Reason::Fenced { ran: true, .. })));
    let ran = ran.map(|job| {
        format!(
            "{} ran here though it had been said that this host was off: it may have run twice, see \
             to its disks",
            job.id
        )
    });
    away.into_iter().chain(ran).collect()
}

/// As [`hosts`].
async fn views(session: &Session, more: Vec<String>) -> (bool, Value) {
    let mut monitors = session.peers(Role::Monitor);
    monitors.extend(more.into_iter().map(Endpoint::anyone));
    let options =
        ViewsOptions { trust: session.trust.clone(), sources: session.sources.clone(), monitors };
    let mut report = compare_views(&session.client, &options).await;
    let asleep = session.picture().await.map(|picture| picture.asleep).unwrap_or_default();
    let is_of_awake =
        |found: &Difference| found.host.as_ref().is_none_or(|host| !asleep.contains_key(host));
    let count = report.differences.len();
    report.differences.retain(is_of_awake);
    report.passed.retain(is_of_awake);
    report.is_clean |= count > 0 && report.differences.is_empty();
    if !session.is_json {
        tell(&report);
    }
    (report.is_clean, json!(report))
}

fn tell(report: &ViewsReport) {
    let ViewsReport { is_clean, monitors, hosts, differences, passed, .. } = report;
    for difference in differences {
        show::line(&line_of(difference));
    }
    for difference in passed {
        show::line(&format!("(passed) {}", line_of(difference)));
    }
    if *is_clean {
        show::line(&format!("{monitors} monitors and {hosts} hosts: the views are clean"));
    } else {
        let count = differences.len();
        show::line(&format!("{count} differences between {monitors} monitors and {hosts} hosts"));
    }
}

fn line_of(difference: &Difference) -> String {
    let Difference { kind, monitor, explanation, .. } = difference;
    match monitor {
        Some(monitor) => format!("{:<18} monitor {monitor} {explanation}", word_of(*kind)),
        None => format!("{:<18} {explanation}", word_of(*kind)),
    }
}

/// The word of the JSON output.
fn word_of(kind: Kind) -> String {
    let word = serde_json::to_value(kind).ok();
    word.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use protocol::hugepages::PageSize;

    use super::*;

    #[test]
    fn witnesses_are_missed_where_arbiters_are_few_and_of_no_use_on_their_hosts() {
        let at = |names: &[&str]| -> BTreeSet<HostId> {
            names.iter().map(|name| HostId::new(*name).unwrap()).collect()
        };
        let none = |lapsing, arbiters| ill_placed(lapsing, arbiters, &at(&["ha"]), None);
        assert_eq!(none(0, 1), Vec::<String>::new(), "nothing needs them");
        assert!(none(2, 1)[0].starts_with("2 VMs with --on-loss stop end"));
        assert_eq!(none(2, 3), Vec::<String>::new());
        let with = |names: &[&str]| ill_placed(2, 3, &at(&["ha", "hb", "hc"]), Some(&at(names)));
        assert!(with(&["hc"])[0].starts_with("all witnesses share"));
        assert_eq!(with(&["hc", "hd", "he"]), Vec::<String>::new());
    }

    #[test]
    fn a_host_that_does_not_follow_is_ailing() {
        assert!(behind(Some(3001), 319_000).unwrap().contains("version 3001"));
        assert_eq!((behind(Some(4), 4), behind(Some(5), 4), behind(None, 4)), (None, None, None));
    }

    #[test]
    fn a_host_that_has_less_than_it_has_promised_is_ailing() {
        let promised = Resources { vcpus: 9, memory_bytes: 1 << 30, disk_bytes: 128 << 20 };
        assert_eq!(
            overdrawn(promised, Resources { vcpus: 8, ..promised }),
            None,
            "they share CPUs"
        );
        assert_eq!(
            overdrawn(promised, Resources { disk_bytes: 0, ..promised }).unwrap(),
            "guests were promised 128MiB of disk, and it has 0B"
        );
    }

    #[test]
    fn a_host_that_has_fewer_huge_pages_than_it_has_promised_is_ailing() {
        let with = |total| HugepageFacts { total, promised: 96, others: 0 };
        let pages = |total| Hugepages::from([(PageSize::MIB2, with(total))]);
        assert_eq!(short_of_pages(&pages(96)), Vec::<String>::new());
        let words = short_of_pages(&pages(64)).join("; ");
        assert!(words.starts_with("guests were promised 96 huge pages of 2MiB"), "{words}");
    }
}
