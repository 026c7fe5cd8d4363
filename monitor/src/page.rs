//! `GET /v1/view`: the part of the view that somebody asks for, as fresh as they need it.
//!
//! Decides which rows and jobs a query names, in pages of hosts, and when a host itself is asked:
//! for rows older than `max_age`, and always with `confirm=host`. What a host answers enters the
//! view of everybody. What can't be had is told with its reason, never left out in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use protocol::api::HostFreshness;
use protocol::event::Frame;
use protocol::host::Inventory;
use protocol::id::{HostId, JobId};
use protocol::job::Job;
use protocol::signed::PublicKey;
use protocol::view::Freshness;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use transport::ProblemReply;

use crate::check::check;
use crate::core::{HostStatus, Input, Source};
use crate::packed::{PackedJob, PackedRow, PackedView};
use crate::serve::Shared;
use crate::writer::Order;

/// Hosts that are asked for one request; more than a person or a plan looks at closely, and few
/// enough that readers cannot make a monitor disturb the whole cluster.
const ASKED_MAX: usize = 64;

/// Hosts asked at the same time for one request.
const ASKED_AT_ONCE: usize = 16;

/// How long a host may take to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// What somebody wants to see.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// A host's id, the beginning of it, or its name.
    host: Option<String>,
    /// A job's id.
    job: Option<JobId>,
    /// States of jobs, with commas between them.
    state: Option<String>,
    /// `KEY=VALUE` labels that jobs must have, with commas between them.
    label: Option<String>,
    /// Hosts on one page.
    limit: Option<usize>,
    /// The last host of the page before.
    after: Option<HostId>,
    /// Rows older than this, in milliseconds, are read from their host.
    max_age: Option<u64>,
    /// `host`: every row is read from its host, whatever its age.
    confirm: Option<Confirm>,
}

/// Who confirms a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Confirm {
    /// Its host.
    Host,
}

/// The answer; reads as a `ViewReply`.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    monitor: PublicKey,
    is_complete: bool,
    freshness: Vec<HostFreshness>,
    view: BTreeMap<HostId, PackedRow>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<HostId>,
}

/// Which jobs a query names.
#[derive(Debug, Default, PartialEq, Eq)]
struct JobFilter {
    job: Option<JobId>,
    states: Vec<String>,
    labels: Vec<(String, String)>,
}

/// Reads the view as asked.
pub(crate) async fn read(shared: &Shared, query: PageQuery) -> Result<Page, ProblemReply> {
    let filter = JobFilter::of(&query)?;
    // What the status says of a row is never newer than the row.
    let shown = shared.view().await;
    let (mut view, status) = (shown.view.clone(), &shown.status);
    let now_ms = shared.clock.now().mono_ms;
    let named = named(&view, &status.hosts, query.host.as_deref())?;
    let after = query.after.as_ref();
    let mut chosen = named
        .filter(|host| after.is_none_or(|after| host.host > *after))
        .filter(|host| filter.is_empty() || filter.any(view.host(&host.host)))
        .map(|host| told(host, now_ms));
    let limit = query.limit.unwrap_or(usize::MAX).max(1);
    let mut freshness: Vec<HostFreshness> = chosen.by_ref().take(limit).collect();
    let next = chosen.next().and(freshness.last()).map(|last| last.host.clone());
    drop(chosen);
    let asked = ask(shared, &query, &mut freshness).await?;
    for inventory in asked {
        view.merge_inventory(inventory);
    }
    // Asked again: a host may have told that the job is no more what the query wants.
    freshness.retain(|row| filter.is_empty() || filter.any(view.host(&row.host)));
    let rows = freshness.iter().filter_map(|row| view.host(&row.host));
    let view = rows.map(|row| (row.host.id.clone(), filter.of_row(row))).collect();
    let (monitor, is_complete) = (shared.identity.public(), status.is_complete);
    Ok(Page { monitor, is_complete, freshness, view, next })
}

/// The hosts that a query means.
fn named<'a>(
    view: &PackedView,
    hosts: &'a [HostStatus],
    text: Option<&str>,
) -> Result<impl Iterator<Item = &'a HostStatus> + use<'a>, ProblemReply> {
    let only = match text {
        None => None,
        Some(text) => match view.find_host(text) {
            Ok(row) => Some(row.host.id.clone()),
            Err(found) if found.is_empty() => {
                // Named by discovery or trust, but not heard yet.
                let unheard = hosts.iter().find(|host| host.host.as_str() == text);
                let none = || {
                    let detail = format!("no host is called {text:?}");
                    ProblemReply::new(404, "no-such-host", detail)
                };
                Some(unheard.map(|host| host.host.clone()).ok_or_else(none)?)
            }
            Err(found) => {
                let ids: Vec<&str> = found.iter().map(|row| row.host.id.as_str()).collect();
                let detail = format!("{text:?} may be any of {}: give an id", ids.join(", "));
                return Err(ProblemReply::new(404, "no-such-host", detail));
            }
        },
    };
    Ok(hosts.iter().filter(move |host| only.as_ref().is_none_or(|only| *only == host.host)))
}

fn told(host: &HostStatus, now_ms: u64) -> HostFreshness {
    HostFreshness {
        host: host.host.clone(),
        freshness: host.freshness,
        age_ms: now_ms.saturating_sub(host.heard_ms),
        path: host.path.to_string(),
        trouble: host.trouble.clone(),
    }
}

/// Asks hosts for what the query wants fresher than it is, and notes in each row how that went.
async fn ask(
    shared: &Shared,
    query: &PageQuery,
    rows: &mut [HostFreshness],
) -> Result<Vec<Inventory>, ProblemReply> {
    let age_ms_max = match (query.confirm, query.max_age) {
        (Some(Confirm::Host), _) => None,
        (None, Some(age_ms_max)) => Some(age_ms_max),
        (None, None) => return Ok(Vec::new()),
    };
    let is_only_one = rows.len() == 1;
    let is_old = |row: &&mut HostFreshness| age_ms_max.is_none_or(|max| row.age_ms > max);
    let mut old: Vec<&mut HostFreshness> = rows.iter_mut().filter(is_old).collect();
    if age_ms_max.is_none() && old.len() > ASKED_MAX {
        let (many, max) = (old.len(), ASKED_MAX);
        let detail = format!("{many} hosts would be asked; name fewer than {max}, or use limit=");
        return Err(ProblemReply::new(400, "too-many-hosts", detail));
    }
    let unasked = old.len().saturating_sub(ASKED_MAX);
    let (asked, not_asked) = match old.split_at_mut_checked(ASKED_MAX) {
        Some(both) => both,
        None => (&mut old[..], &mut [][..]),
    };
    for row in not_asked {
        row.trouble = Some(format!("not asked: {unasked} rows too many are this old"));
    }
    let hosts: Vec<HostId> = asked.iter().map(|row| row.host.clone()).collect();
    let answers = stream::iter(hosts.into_iter().map(|host| ask_one(shared, host)));
    let answers: Vec<_> = answers.buffered(ASKED_AT_ONCE).collect().await;
    let mut found = Vec::new();
    for (row, answer) in asked.iter_mut().zip(answers) {
        match answer {
            Ok((url, inventory)) => {
                (row.freshness, row.age_ms, row.path) = (Freshness::Fresh, 0, url);
                found.push(inventory);
            }
            Err(why) => row.trouble = Some(format!("asked just now: {why}")),
        }
    }
    if age_ms_max.is_none() && is_only_one && found.is_empty() {
        let why = rows[0].trouble.clone().unwrap_or_default();
        let detail = format!("host {} can't confirm: {why}", rows[0].host.short());
        return Err(ProblemReply::new(504, "not-confirmed", detail));
    }
    Ok(found)
}

/// What a host says now, and by which way; the view gets it too.
async fn ask_one(shared: &Shared, host: HostId) -> Result<(String, Inventory), String> {
    let source = Source::Host(host.clone());
    let endpoints = shared.connections.get(&source).map(|c| c.endpoints.borrow().clone());
    let client = shared.client.with_deadline(ASK_DEADLINE);
    let mut why = "no address of it is known here".to_owned();
    for to in endpoints.unwrap_or_default() {
        match client.get::<Inventory>(&to, "/v1/inventory").await {
            Ok(inventory) => {
                check(&source, &Frame::Inventory(Box::new(inventory.clone())))?;
                let reading =
                    Input::Read { url: to.url.clone(), inventory: Box::new(inventory.clone()) };
                // The answer is good even if this monitor is just ending.
                let _ = shared.orders.send(Order::Input(reading)).await;
                return Ok((to.url, inventory));
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

impl JobFilter {
    fn of(query: &PageQuery) -> Result<Self, ProblemReply> {
        let words = |text: &Option<String>| -> Vec<String> {
            let text = text.as_deref().unwrap_or_default();
            text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let labels = words(&query.label).into_iter().map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => {
                let detail = format!("label {word:?} is not KEY=VALUE");
                Err(ProblemReply::new(400, "bad-query", detail))
            }
        });
        let labels = labels.collect::<Result<_, _>>()?;
        Ok(Self { job: query.job.clone(), states: words(&query.state), labels })
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn takes(&self, job: &PackedJob) -> bool {
        let state = job.state().as_str();
        self.job.as_ref().is_none_or(|id| id == job.id())
            && (self.states.is_empty() || self.states.iter().any(|s| s == state))
            && (self.labels.is_empty() || self.is_labelled(&job.job()))
    }

    fn is_labelled(&self, job: &Job) -> bool {
        let labels = &job.spec.labels;
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    fn any(&self, row: Option<&PackedRow>) -> bool {
        let Some(row) = row else { return false };
        match &self.job {
            Some(id) => row.jobs.get(id).is_some_and(|job| self.takes(job)),
            None => row.jobs.values().any(|job| self.takes(job)),
        }
    }

    fn of_row(&self, row: &PackedRow) -> PackedRow {
        let mut row = row.clone();
        if !self.is_empty() {
            row.jobs = row.jobs.values().filter(|job| self.takes(job)).cloned().collect();
            row.observed.clear();
        }
        row
    }
}
