//! Asks all monitors and then all hosts themselves, for [`crate::views`] to compare.
//!
//! Decides whom to ask where: a host at every address that anybody knows of it, pinned to its id, so
//! that a copy of its disk is met as well. Nobody who is unproven is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use protocol::api::ViewReply;
use protocol::host::Inventory;
use protocol::id::HostId;
use protocol::trust::Trust;
use serde::Serialize;
use transport::client::Patience;
use transport::discovery::{Finder, Findings, Pace, Source};
use transport::{Client, Endpoint, with_causes};

use super::{ASKED_AT_ONCE, agent};
use crate::views::{Difference, HostSight, Look, Machine, MonitorSight, differences, lasting};

/// How long sources may take to say who is there.
const SOURCES_MS_MAX: u64 = 2_000;

/// How long one host or monitor may take for one answer.
const ASK_MS_MAX: u64 = 3_000;

/// How long a difference may be there before it counts; monitors are told of changes in
/// milliseconds, and probe silent hosts every two seconds.
const SECOND_LOOK_MS: u64 = 2_500;

/// Most addresses of one host that are tried.
const URLS_MAX: usize = 8;

/// Whom to compare.
#[derive(Debug, Clone)]
pub struct ViewsOptions {
    /// Who is believed; without it everybody who is found counts.
    pub trust: Option<Trust>,
    /// Where hosts are found.
    pub sources: Vec<Source>,
    /// The monitors.
    pub monitors: Vec<Endpoint>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewsReport {
    /// True when nothing lasts that differs, but for notes.
    pub is_clean: bool,
    /// How many monitors were asked.
    pub monitors: usize,
    /// How many hosts anybody knows of.
    pub hosts: usize,
    /// Names of the hosts by id, for people.
    pub names: BTreeMap<HostId, String>,
    /// What differs, at the first look and still at the second.
    pub differences: Vec<Difference>,
    /// What differed at the first look only: it was news on its way.
    pub passed: Vec<Difference>,
}

/// Compares all views with what the hosts say. Looks a second time when something differs.
pub async fn compare_views(client: &Client, options: &ViewsOptions) -> ViewsReport {
    let limit = Duration::from_millis(ASK_MS_MAX);
    let client = client.with_patience(Patience { connect: limit, call: limit });
    let finder = Finder::start(options.sources.clone(), &client, Pace::default());
    let mut watch = finder.watch();
    let all_asked = watch.wait_for(|f| f.sources.iter().all(|source| source.is_asked));
    let _ = tokio::time::timeout(Duration::from_millis(SOURCES_MS_MAX), all_asked).await;
    if options.sources.contains(&Source::Mdns) {
        // Multicast answers trickle in; there is no last one to wait for.
        tokio::time::sleep(Duration::from_millis(SOURCES_MS_MAX)).await;
    }
    let mut look = look(&client, options, &watch.borrow_and_update().clone()).await;
    let first = differences(&look);
    let mut lasts = Vec::new();
    if !first.is_empty() {
        tokio::time::sleep(Duration::from_millis(SECOND_LOOK_MS)).await;
        look = self::look(&client, options, &watch.borrow_and_update().clone()).await;
        lasts = lasting(&first, differences(&look));
    }
    let is_left = |then: &Difference| {
        !lasts.iter().any(|now| {
            (now.kind, &now.monitor, &now.host, &now.job)
                == (then.kind, &then.monitor, &then.host, &then.job)
        })
    };
    ViewsReport {
        is_clean: lasts.iter().all(|difference| difference.kind.is_note()),
        monitors: look.monitors.len(),
        hosts: look.hosts.len(),
        names: look.hosts.iter().map(|sight| (sight.host.clone(), sight.name.clone())).collect(),
        passed: first.into_iter().filter(is_left).collect(),
        differences: lasts,
    }
}

async fn look(client: &Client, options: &ViewsOptions, findings: &Findings) -> Look {
    let asked = stream::iter(options.monitors.clone()).map(|monitor| async move {
        let view = client.get::<ViewReply>(&monitor, "/v1/view").await;
        MonitorSight { name: monitor.url, view: view.map_err(|error| with_causes(&error)) }
    });
    let monitors: Vec<MonitorSight> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut known = Known::default();
    known.take_trust(options.trust.as_ref());
    for monitor in &monitors {
        if let Ok(reply) = &monitor.view {
            known.take_view(reply);
        }
    }
    known.take_findings(client, findings).await;
    let trust = options.trust.as_ref();
    let asked = stream::iter(known.hosts).map(|(host, of_host)| async move {
        let is_member = trust.is_none_or(|trust| trust.host_key(&host).is_some());
        ask(client, host, of_host, is_member).await
    });
    let hosts = asked.buffered(ASKED_AT_ONCE).collect().await;
    let silent = findings.sources.iter().filter_map(|state| {
        Some(format!("{} does not answer: {}", state.source, state.error.as_ref()?))
    });
    let unproven = findings.unproven().map(|entry| {
        format!("{} ({}) is unproven and was not asked: {}", entry.name, entry.url, entry.why)
    });
    Look { monitors, hosts, silent: silent.collect(), unproven: unproven.collect() }
}

/// Hosts that anybody knows of.
#[derive(Default)]
struct Known {
    hosts: BTreeMap<HostId, OfHost>,
}

#[derive(Default)]
struct OfHost {
    name: Option<String>,
    urls: Vec<String>,
}

impl Known {
    fn take_trust(&mut self, trust: Option<&Trust>) {
        for key in trust.into_iter().flat_map(|trust| &trust.roster) {
            self.hosts.entry(HostId::of(key)).or_default();
        }
    }

    fn take_view(&mut self, reply: &ViewReply) {
        for freshness in &reply.freshness {
            self.hosts.entry(freshness.host.clone()).or_default();
        }
        for (id, row) in reply.view.hosts() {
            self.add(id, &row.host.name, &row.host.urls);
        }
    }

    /// Bare addresses are asked who they are.
    async fn take_findings(&mut self, client: &Client, findings: &Findings) {
        let (named, bare): (Vec<_>, Vec<_>) =
            findings.hosts.iter().partition(|found| found.host.is_some());
        for found in named {
            let Some(host) = &found.host else { continue };
            let urls: Vec<String> =
                std::iter::once(&found.url).chain(&found.other_urls).cloned().collect();
            self.add(host, &found.name, &urls);
        }
        let asked = bare.into_iter().map(|found| async move {
            let answer = agent::probe(client, &found.endpoint(), None).await.ok()?;
            Some((answer.host.id, answer.host.name, found.url.clone()))
        });
        for (host, name, url) in join_all(asked).await.into_iter().flatten() {
            self.add(&host, &name, &[url]);
        }
    }

    fn add(&mut self, host: &HostId, name: &str, urls: &[String]) {
        let known = self.hosts.entry(host.clone()).or_default();
        known.name.get_or_insert_with(|| name.to_owned());
        for url in urls {
            if !known.urls.contains(url) && known.urls.len() < URLS_MAX {
                known.urls.push(url.clone());
            }
        }
    }
}

async fn ask(client: &Client, host: HostId, known: OfHost, is_member: bool) -> HostSight {
    let asked = known.urls.iter().map(|url| {
        let to = Endpoint::of_host(url, host.clone());
        async move {
            let life = agent::life(client, &to).await;
            let inventory = client.get::<Inventory>(&to, "/v1/inventory").await;
            let why = |error| with_causes(&error);
            Ok::<_, String>(Machine {
                url: to.url,
                life: life.map_err(why)?,
                inventory: inventory.map_err(why)?,
            })
        }
    });
    let mut machines = Vec::new();
    let mut reasons = BTreeSet::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(machine) => machines.push(machine),
            Err(why) => drop(reasons.insert(why)),
        }
    }
    let why = match reasons.len() {
        0 => "nobody knows an address of it".to_owned(),
        _ => reasons.into_iter().collect::<Vec<_>>().join("; "),
    };
    let said = machines.first().map(|machine: &Machine| machine.inventory.host.name.clone());
    let name = said.or(known.name).unwrap_or_else(|| format!("host {}", host.short()));
    HostSight { host, name, is_member, machines, why }
}
