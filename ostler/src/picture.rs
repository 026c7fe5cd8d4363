//! What is known of the cluster, each host with its age: from a monitor, else from the agents.
//!
//! Decides whom to ask in which order, and that a part of the picture is better than none: who does
//! not answer becomes a warning.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, stream};
use protocol::api::{HostRowReply, ViewReply};
use protocol::host::{Host, Inventory};
use protocol::id::{Epoch, HostId, JobId, Revision};
use protocol::job::{Job, JobRow, JobState, Reason, Role};
use protocol::power::{Sleep, SleepList, SleepStage};
use protocol::refusal::Refusal;
use protocol::trust::Trust;
use protocol::view::{Freshness, HostRow, View};
use protocol::vm::OnLoss;
use transport::{CallError, Client, Endpoint};

use crate::exit::{Code, Failure, code_of};
use crate::session::Session;

/// How long after the one before the next monitor is asked as well. One that is well answers within
/// this.
const TURN: Duration = Duration::from_millis(300);

/// How long controllers may take to say who is asleep: without them, a sleeping host is one that is not heard.
const ASLEEP_MAX: Duration = Duration::from_secs(2);

/// What is said of a monitor that has just begun.
const INCOMPLETE: &str = "the monitor has not heard of every host yet";

/// How many agents are asked at a time.
const ASKED_AT_ONCE: usize = 64;

/// What is known now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Picture {
    pub(crate) view: View,
    pub(crate) rows: Vec<Row>,
    /// Who did not answer, and what is not complete.
    pub(crate) warnings: Vec<String>,
    /// Hosts that are switched off on purpose, as controllers remember.
    pub(crate) asleep: BTreeMap<HostId, Sleep>,
}

/// How one host is known.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) host: HostId,
    pub(crate) freshness: Freshness,
    pub(crate) age_ms: u64,
    /// How to reach its agent for certain.
    pub(crate) agent: Endpoint,
}

impl Session {
    /// Asks the monitors, then the agents.
    pub(crate) async fn picture(&self) -> Result<Picture, Failure> {
        if let Some(local) = self.local() {
            return of_agents(&self.client, vec![local], Vec::new()).await;
        }
        let mut warnings = Vec::new();
        if !self.is_direct
            && let Some(mut reply) = self.first_view(&mut warnings).await
        {
            // A monitor may obey an older document for a moment.
            let retired = self.trust.as_ref().map(Trust::retired_hosts);
            for host in retired.iter().flatten() {
                reply.view.forget(host);
            }
            let mut picture = of_view(reply, warnings);
            self.add_asleep(&mut picture).await;
            return Ok(picture);
        }
        let (found, silent) = self.find().await;
        warnings.extend(silent);
        let is_ours = |id: &HostId| match &self.trust {
            Some(trust) if !self.is_direct => trust.host_key(id).is_some(),
            _ => true,
        };
        let ours = found.iter().filter(|found| found.host.as_ref().is_none_or(is_ours));
        of_agents(&self.client, ours.map(|found| found.endpoint()).collect(), warnings).await
    }
}

impl Session {
    /// Hosts that some controller could put to sleep once they are empty.
    pub(crate) async fn may_sleep(&self) -> BTreeSet<HostId> {
        let told = self.sleep_lists().await.into_iter().flatten();
        told.flat_map(|list| list.may_sleep).collect()
    }

    /// Hosts that are asleep as controllers remember it, and in which life of its agent each was put to sleep.
    pub(crate) async fn asleep(&self) -> BTreeMap<HostId, Epoch> {
        let mut known = self.sleeps().await;
        known.retain(|_, sleep| sleep.stage == SleepStage::Asleep);
        known.into_iter().map(|(host, sleep)| (host, sleep.epoch)).collect()
    }

    /// The latest that any controller remembers of each host.
    async fn sleeps(&self) -> BTreeMap<HostId, Sleep> {
        let mut known: BTreeMap<HostId, Sleep> = BTreeMap::new();
        let told = self.sleep_lists().await.into_iter().flatten();
        for sleep in told.flat_map(|list| list.hosts) {
            if known.get(&sleep.host).is_none_or(|before| sleep.is_after(before)) {
                known.insert(sleep.host.clone(), sleep);
            }
        }
        known
    }

    /// What each controller tells of hosts' sleep. Who does not answer is told by whoever needs one.
    async fn sleep_lists(&self) -> Vec<Option<SleepList>> {
        let client = self.client.with_deadline(ASLEEP_MAX);
        let asked = self.peers(Role::Controller).into_iter().map(|controller| {
            let client = client.clone();
            async move { client.get::<SleepList>(&controller, "/v1/asleep").await.ok() }
        });
        join_all(asked).await
    }

    /// Notes who is asleep, and adds those of whom no monitor has heard. Nobody is asked while every host is heard.
    async fn add_asleep(&self, picture: &mut Picture) {
        let roster: Vec<HostId> =
            self.trust.iter().flat_map(|trust| &trust.roster).map(HostId::of).collect();
        let is_missing = |host: &HostId| picture.view.host(host).is_none();
        let is_away = |row: &Row| row.freshness != Freshness::Fresh;
        if !picture.rows.iter().any(is_away) && !roster.iter().any(is_missing) {
            return;
        }
        let mut known = self.sleeps().await;
        known.retain(|host, sleep| {
            let seen = picture.view.host(host).map(|row| row.cursor.epoch);
            let is_ours = roster.is_empty() || roster.contains(host);
            let is_asleep = sleep.stage == SleepStage::Asleep;
            is_ours && is_asleep && seen.is_none_or(|epoch| epoch <= sleep.epoch)
        });
        for (host, sleep) in &known {
            let Some(said) = sleep.inventory.as_ref() else { continue };
            if picture.view.host(host).is_none() {
                picture.view.merge_inventory(Inventory::clone(said));
                let agent = endpoint_of(&said.host);
                let (host, freshness, age_ms) = (host.clone(), Freshness::Lost, 0);
                picture.rows.push(Row { host, freshness, age_ms, agent });
            }
        }
        if roster.iter().all(|host| picture.view.host(host).is_some()) {
            picture.warnings.retain(|warning| warning != INCOMPLETE);
        }
        picture.asleep = known;
    }

    /// The first good answer of a monitor. Each is asked a moment after the one before, so that one
    /// which is gone costs a person that moment and not the time-out of its connection.
    async fn first_view(&self, warnings: &mut Vec<String>) -> Option<ViewReply> {
        let monitors = self.peers(Role::Monitor).into_iter().zip(0_u32..);
        let asked = monitors.map(|(monitor, turn)| async move {
            tokio::time::sleep(TURN * turn).await;
            (self.client.get::<ViewReply>(&monitor, "/v1/view").await, monitor)
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some((answer, monitor)) = answers.next().await {
            match answer {
                Ok(reply) => return Some(reply),
                Err(error) => warnings.push(format!("monitor {monitor}: {}", chain(&error))),
            }
        }
        None
    }
}

/// How long a change that a host has taken may take to show at every monitor.
const SHOWN_MS_MAX: u64 = 2_000;

/// How soon a monitor is asked for it again, and how soon at last: an answer is a whole view.
const SHOWN_INTERVAL: Duration = Duration::from_millis(50);
const SHOWN_INTERVAL_MAX: Duration = Duration::from_millis(400);

impl Session {
    /// Waits until each monitor that answers shows a host so: the next command may ask any of them, and
    /// must find what this one has done. What does not show in time is told, and harms nothing: hosts
    /// decide, and not what is known of them.
    pub(crate) async fn await_shown(&self, host: &HostId, is_so: impl Fn(&Host) -> bool) {
        if self.is_direct {
            return;
        }
        let shown = self.peers(Role::Monitor).into_iter().map(|monitor| {
            let is_so = &is_so;
            async move {
                let mut wait = SHOWN_INTERVAL;
                while let Ok(reply) = self.client.get::<ViewReply>(&monitor, "/v1/view").await {
                    if reply.view.host(host).is_none_or(|row| is_so(&row.host)) {
                        break;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(SHOWN_INTERVAL_MAX);
                }
            }
        });
        let limit = Duration::from_millis(SHOWN_MS_MAX);
        if tokio::time::timeout(limit, join_all(shown)).await.is_err() {
            let what = "the host has taken it; not every monitor has shown it yet";
            crate::show::note(&format!("warning: {what}"));
        }
    }
}

fn of_view(reply: ViewReply, mut warnings: Vec<String>) -> Picture {
    let ViewReply { is_complete, freshness, view, .. } = reply;
    if !is_complete {
        warnings.push(INCOMPLETE.to_owned());
    }
    let mut rows = Vec::new();
    for (id, row) in view.hosts() {
        let known = freshness.iter().find(|f| f.host == *id);
        let (freshness, age_ms) =
            known.map_or((Freshness::Stale, 0), |known| (known.freshness, known.age_ms));
        let agent = endpoint_of(&row.host);
        rows.push(Row { host: id.clone(), freshness, age_ms, agent });
    }
    Picture { view, rows, warnings, asleep: BTreeMap::new() }
}

async fn of_agents(
    client: &Client,
    agents: Vec<Endpoint>,
    mut warnings: Vec<String>,
) -> Result<Picture, Failure> {
    let asked = stream::iter(agents).map(|agent| async move {
        (client.get::<Inventory>(&agent, "/v1/inventory").await, agent)
    });
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut picture = Picture::default();
    let mut code = Code::Unreachable;
    for (answer, agent) in answers {
        match answer {
            Ok(inventory) => {
                let (id, key) = (inventory.host.id.clone(), inventory.host.key);
                let is_local = agent.url.starts_with("unix:");
                let agent = if is_local { agent } else { Endpoint::of_key(agent.url.clone(), key) };
                picture.view.merge_inventory(inventory);
                picture.rows.retain(|row| row.host != id);
                let freshness = Freshness::Fresh;
                picture.rows.push(Row { host: id, freshness, age_ms: 0, agent });
            }
            Err(error) => {
                code = code_of(&error);
                warnings.push(format!("agent {agent}: {}", chain(&error)));
            }
        }
    }
    if picture.rows.is_empty() {
        let what = match warnings.as_slice() {
            [] => "nobody to ask".to_owned(),
            some => format!("nobody answers:\n  - {}", some.join("\n  - ")),
        };
        return Err(Failure::new(code, what).next(match code {
            Code::Refused => {
                "use an operator's context; from there `ostler operators add` lets in the key of this one"
            }
            _ => {
                "see that agents run (`systemctl status ostler-agent` there), or name others with \
                 --hosts"
            }
        }));
    }
    Ok(Picture { warnings, ..picture })
}

impl Picture {
    /// Every job with where it was read.
    pub(crate) fn jobs(&self) -> Vec<JobRow> {
        let mut jobs = Vec::new();
        for row in &self.rows {
            let Some(known) = self.view.host(&row.host) else { continue };
            jobs.extend(known.jobs.values().map(|job| JobRow {
                host: row.host.clone(),
                host_name: known.host.name.clone(),
                cursor: known.cursor,
                age_ms: row.age_ms,
                job: job.as_ref().clone(),
            }));
        }
        jobs.sort_by(|a, b| (&a.job.id, &a.host).cmp(&(&b.job.id, &b.host)));
        jobs
    }

    /// The same without rows of VMs that have failed over: what their lost host said last.
    pub(crate) fn jobs_now(&self) -> Vec<JobRow> {
        let mut jobs = self.jobs();
        let mut newest: BTreeMap<JobId, Revision> = BTreeMap::new();
        for JobRow { job, .. } in jobs.iter().filter(|row| lapses(&row.job)) {
            let revision = newest.entry(job.id.clone()).or_default();
            *revision = (*revision).max(job.revision);
        }
        jobs.retain(|row| !lapses(&row.job) || newest.get(&row.job.id) == Some(&row.job.revision));
        jobs
    }

    /// The hosts as `hosts --json` shows them.
    pub(crate) fn hosts(&self) -> Vec<HostRowReply> {
        let rows = self.rows.iter().filter_map(|row| {
            let known = self.view.host(&row.host)?;
            let alive = || known.jobs.values().filter(|job| !job.state.is_ended());
            let vms = alive().filter(|job| job.spec.as_vm().is_some()).count();
            Some(HostRowReply {
                host: known.host.as_ref().clone(),
                freshness: row.freshness,
                age_ms: row.age_ms,
                jobs_alive: u32::try_from(alive().count()).unwrap_or(u32::MAX),
                vms_alive: u32::try_from(vms).unwrap_or(u32::MAX),
            })
        });
        let mut hosts: Vec<_> = rows.collect();
        hosts.sort_by(|a, b| (&a.host.name, &a.host.id).cmp(&(&b.host.name, &b.host.id)));
        hosts
    }

    /// The row of a job that matters: where it is alive, before where it once was.
    pub(crate) fn job(&self, id: &JobId) -> Result<JobRow, Failure> {
        let mut rows: Vec<_> =
            self.jobs_now().into_iter().filter(|row| row.job.id == *id).collect();
        rows.sort_by_key(|row| {
            (rank(row.job.state), has_left(&row.job), Reverse(row.job.since_ms))
        });
        rows.into_iter().next().ok_or_else(|| {
            Failure::new(Code::NotFound, format!("no VM or service {id} on the hosts that answer"))
                .next("ostler ps --all")
        })
    }

    /// The host that a person means.
    pub(crate) fn host(&self, text: &str) -> Result<&HostRow, Failure> {
        self.view.find_host(text).map_err(|candidates| match candidates.as_slice() {
            [] => Failure::new(Code::NotFound, format!("no host {text:?}")).next("ostler hosts"),
            several => {
                let ids: Vec<_> = several.iter().map(|row| row.host.id.as_str()).collect();
                let what = format!("{text:?} may be any of {}", ids.join(", "));
                Failure::usage(what).next("write more of its id")
            }
        })
    }

    /// How to reach a host's agent.
    pub(crate) fn agent(&self, host: &HostId) -> Endpoint {
        let row = self.rows.iter().find(|row| row.host == *host);
        row.map(|row| row.agent.clone()).expect("a row was read from every host in the picture")
    }

    /// Warnings go to the person, not into data.
    pub(crate) fn warn(&self) {
        for warning in &self.warnings {
            crate::show::note(&format!("warning: {warning}"));
        }
    }
}

/// Where the guest is comes before where it comes from or goes to, and that before where it was.
fn rank(state: JobState) -> u8 {
    match state {
        JobState::Running | JobState::Paused | JobState::MigratingOut => 0,
        JobState::Stopping | JobState::Starting | JobState::Accepted => 1,
        JobState::MigratingIn => 2,
        JobState::Crashed => 3,
        JobState::Failed => 4,
        JobState::Stopped => 5,
    }
}

/// True for what is left where a job once was.
pub(crate) fn has_left(job: &Job) -> bool {
    matches!(job.reason, Some(Reason::Migrated { .. }))
}

/// How an agent is reached, by what it says of itself.
pub(crate) fn endpoint_of(host: &Host) -> Endpoint {
    Endpoint::of_key(host.urls.first().cloned().unwrap_or_default(), host.key)
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &CallError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether a VM that was at a host a moment ago may be elsewhere by now, or there again: the picture may be
/// older than this answer.
pub(crate) fn may_be_elsewhere(error: &CallError) -> bool {
    error.is_retriable() || matches!(error.refusal(), Some(Refusal::NoSuchJob { .. }))
}

/// Whether it fails over by itself; a row of its arrival elsewhere does not count yet.
fn lapses(job: &Job) -> bool {
    let is_arriving = job.state == JobState::MigratingIn;
    !is_arriving && job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop)
}
