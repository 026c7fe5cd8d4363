//! The steps `wait-hosts` and `check-hosts`: asks everybody who was found, side by side, until enough
//! are ready; then looks at them together.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::host::Host;
use transport::discovery::{Finder, Findings, Found, Pace};
use transport::{Client, Endpoint};

use super::{ASKED_AT_ONCE, POLL, Ready, Work, agent, done_or_already, failure, trust};
use crate::error::{BootstrapError, Kind};
use crate::event::{Step, StepEvent, StepState};
use crate::verdict::{Answer, Level, Unready, check_hosts, check_sources, worst};

/// How often a discovery server is asked while a person waits for hosts to appear.
const FIND_EVERY: Duration = Duration::from_secs(1);

/// How long the first look waits for every source to have answered once, so that it sees them all.
const SOURCES_MS_MAX: u64 = 2_000;

/// What one look at everybody found.
struct Look {
    ready: Vec<Ready>,
    unready: Vec<(Found, Unready)>,
    /// Why sources do not answer.
    silent: Vec<String>,
    /// Who is written down and does not prove to be one of us; not contacted.
    unproven: Vec<String>,
}

impl<P: FnMut(StepEvent) + Send> Work<P> {
    /// The step `wait-hosts`.
    pub(crate) async fn wait_hosts(&mut self) -> Result<Vec<Ready>, BootstrapError> {
        let wanted = self.options.hosts_min;
        let sources: Vec<_> = self.options.sources.iter().map(ToString::to_string).collect();
        let detail = format!("{wanted} hosts from {}", sources.join(", "));
        self.say(Step::WaitHosts, StepState::Start, &detail);
        let deadline = tokio::time::Instant::now() + self.options.deadline;
        let pace = Pace { poll: FIND_EVERY, retry_max: FIND_EVERY, ..Pace::default() };
        let finder = Finder::start(self.options.sources.clone(), &self.client, pace);
        let mut findings = finder.watch();
        let all_asked = findings.wait_for(|f| f.sources.iter().all(|source| source.is_asked));
        let _ = tokio::time::timeout(Duration::from_millis(SOURCES_MS_MAX), all_asked).await;
        let mut said = 0;
        loop {
            let now = findings.borrow_and_update().clone();
            let look = look_at(&self.client, now).await;
            let foreign = look.foreign();
            if !foreign.is_empty() {
                return Err(BootstrapError {
                    step: Step::WaitHosts,
                    ..trust::foreign_hosts(foreign)
                });
            }
            if look.ready.len() >= wanted {
                return Ok(self.enough(look));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(self.too_few(&look));
            }
            if look.ready.len() != said {
                said = look.ready.len();
                let detail = format!("{said} of {wanted} hosts are ready");
                self.say(Step::WaitHosts, StepState::Start, &detail);
            }
            let _ = tokio::time::timeout(POLL, findings.changed()).await;
        }
    }

    fn enough(&mut self, look: Look) -> Vec<Ready> {
        let Look { mut ready, unready, unproven, .. } = look;
        ready.sort_by(|a, b| a.host.id.cmp(&b.host.id));
        let names: Vec<&str> = ready.iter().map(|ready| ready.host.name.as_str()).collect();
        let mut detail = format!("{} hosts are ready: {}", ready.len(), names.join(", "));
        let mut not = reasons(&unready);
        not.extend(unproven);
        if !not.is_empty() {
            detail += &format!("; not: {}", not.join("; "));
        }
        let is_new = ready.iter().any(|ready| ready.host.trust_version.is_none());
        self.say(Step::WaitHosts, done_or_already(is_new), &detail);
        ready
    }

    fn too_few(&self, look: &Look) -> BootstrapError {
        let (ready, wanted) = (look.ready.len(), self.options.hosts_min);
        let seconds = self.options.deadline.as_secs();
        let found = ready + look.unready.len();
        let what =
            format!("{ready} of {wanted} hosts were ready within {seconds} s; {found} were found");
        let mut all = reasons(&look.unready);
        all.extend(look.silent.iter().chain(&look.unproven).cloned());
        let next = match (ready, found < wanted) {
            (0, false) => "see the reasons above, then run bootstrap again".to_owned(),
            (0, true) => "start `ostler agent` on the hosts with the same --discovery".to_owned(),
            (n, true) => format!("start more agents with the same --discovery, or use -n {n}"),
            (n, false) => format!("mend the hosts above, or go on without them: -n {n}"),
        };
        BootstrapError { reasons: all, ..failure(Step::WaitHosts, Kind::TimedOut, what, next) }
    }

    /// The step `check-hosts`; the warnings come back for the summary.
    pub(crate) fn check_hosts(&mut self, ready: &[Ready]) -> Result<Vec<String>, BootstrapError> {
        self.say(Step::CheckHosts, StepState::Start, "can these be one cluster?");
        let hosts: Vec<&Host> = ready.iter().map(|ready| &ready.host).collect();
        let mut findings = check_hosts(env!("CARGO_PKG_VERSION"), &hosts);
        let open = self.options.sources.iter().filter(|source| source.is_open_to_all());
        findings.push(check_sources(&open.map(ToString::to_string).collect::<Vec<_>>()));
        let of_level = |level: Level| findings.iter().filter(move |finding| finding.level == level);
        if worst(&findings) == Level::Fail {
            let what = "these hosts cannot be one cluster";
            let next = of_level(Level::Fail).find_map(|finding| finding.next.clone());
            let next = next.unwrap_or_else(|| "mend that and run bootstrap again".to_owned());
            let reasons = of_level(Level::Fail).map(|finding| finding.detail.clone()).collect();
            let error = failure(Step::CheckHosts, Kind::Failed, what, next);
            return Err(BootstrapError { reasons, ..error });
        }
        let warnings: Vec<String> = of_level(Level::Warn).map(ToString::to_string).collect();
        let fine: Vec<&str> = of_level(Level::Ok).map(|f| f.detail.as_str()).collect();
        for warning in &warnings {
            self.say(Step::CheckHosts, StepState::Start, &format!("warning: {warning}"));
        }
        let is_new = hosts.iter().any(|host| host.trust_version.is_none());
        self.say(Step::CheckHosts, done_or_already(is_new), &fine.join("; "));
        Ok(warnings)
    }
}

impl Look {
    fn foreign(&self) -> Vec<String> {
        let is_foreign = |unready: &Unready| matches!(unready, Unready::OtherCluster { .. });
        let foreign: Vec<_> =
            self.unready.iter().filter(|(_, unready)| is_foreign(unready)).cloned().collect();
        reasons(&foreign)
    }
}

fn reasons(unready: &[(Found, Unready)]) -> Vec<String> {
    let reason = |(found, unready): &(Found, Unready)| match found.url.ends_with(&found.name) {
        true => format!("{}: {unready}", found.url),
        false => format!("{} ({}): {unready}", found.name, found.url),
    };
    unready.iter().map(reason).collect()
}

async fn look_at(client: &Client, findings: Findings) -> Look {
    let unproven = findings.unproven().map(|entry| {
        format!("{} ({}) is unproven and was not contacted: {}", entry.name, entry.url, entry.why)
    });
    let unproven = unproven.collect();
    let asked = stream::iter(findings.hosts)
        .map(|found| async move { (probe_everywhere(client, &found).await, found) });
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let silent = findings
        .sources
        .iter()
        .filter_map(|state| Some(format!("{}: {}", state.source, state.error.as_ref()?)));
    let mut look = Look { ready: vec![], unready: vec![], silent: silent.collect(), unproven };
    for (answer, found) in answers {
        match answer {
            Err(unready) => look.unready.push((found, unready)),
            Ok(machines) => {
                for ready in machines {
                    if !look.ready.iter().any(|other| is_same(other, &ready)) {
                        look.ready.push(ready);
                    }
                }
            }
        }
    }
    look
}

/// One host under two addresses is one process with one key; a copied disk is two.
fn is_same(one: &Ready, other: &Ready) -> bool {
    let is_one_life = match (&one.life, &other.life) {
        (Some(one), Some(other)) => one == other,
        _ => one.host.name == other.host.name && one.host.urls == other.host.urls,
    };
    one.host.id == other.host.id && is_one_life
}

/// Asks at all of a host's addresses at once; the last reason is told when none answers. More than
/// one answer is one host with several addresses, or several machines with one key.
async fn probe_everywhere(client: &Client, found: &Found) -> Result<Vec<Ready>, Unready> {
    let probes = found
        .endpoints()
        .map(|endpoint| async move { agent::probe(client, &endpoint, found.key.as_ref()).await });
    let mut machines = Vec::new();
    let mut last = Unready::Unreachable { why: "it has no address".into() };
    for answer in futures_util::future::join_all(probes).await {
        match answer {
            Ok(Answer { url, host, life, .. }) => {
                // From here on this very key is meant, whoever answers at the address later.
                let endpoint = Endpoint::of_key(url, host.key);
                machines.push(Ready { endpoint, host, life });
            }
            Err(unready) => last = unready,
        }
    }
    if machines.is_empty() { Err(last) } else { Ok(machines) }
}
