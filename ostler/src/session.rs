//! Whom a command talks to, and as whom: the context's cluster, or the agents named by `--hosts`.
//!
//! ```text
//! --hosts given ──────────────▶ straight to these agents
//! context with trust document ▶ its monitors and controllers; its agents when no monitor answers
//! neither, and a local agent ─▶ the agent's socket on this machine
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bootstrap::Context;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use planner::Terms;
use protocol::api::Health;
use protocol::id::{HostId, TenantId};
use protocol::job::Role;
use protocol::trust::{Policy, Trust};
use protocol::view::HostRow;
use transport::discovery::{Finder, Found, Pace, Source};
use transport::{Client, Endpoint, Identity};

use crate::cli::Global;
use crate::exit::{Code, Failure};
use crate::picture::Picture;

/// How long sources may take to say who is there.
const FIND_MS_MAX: u64 = 2_000;

/// How long after the one before the next controller is asked whether it is there.
const TURN: Duration = Duration::from_millis(300);

/// Where a local agent listens for root.
const LOCAL_SOCKET: &str = "/var/lib/ostler/agent.sock";

/// Where `ostler dev` has its context when root runs it.
const DEV_CONTEXT: &str = "/var/lib/ostler-dev/context";

/// One command's connection to a cluster.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) trust: Option<Trust>,
    /// Where agents are found when no monitor is asked.
    pub(crate) sources: Vec<Source>,
    /// True when the person named agents: nobody else is asked.
    pub(crate) is_direct: bool,
    pub(crate) is_json: bool,
    /// Ids of hosts, and the names people know.
    names: OnceLock<Vec<(HostId, String)>>,
}

impl Session {
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        let context = context_of(global);
        let trust = context.trust()?.map(|(_, trust)| trust);
        let kept = context.sources()?;
        let is_direct = !global.hosts.is_empty();
        let sources = match is_direct {
            true => global.hosts.clone(),
            false => kept.iter().filter_map(|source| source.parse().ok()).collect(),
        };
        let operator = context.operator_if_any()?.unwrap_or_else(Identity::ephemeral);
        let client = Client::new(Arc::new(operator)).with_deadline(Duration::from_secs(10));
        let session = Self {
            client,
            context,
            trust,
            sources,
            is_direct,
            is_json: global.json,
            names: OnceLock::new(),
        };
        session.check_target()?;
        Ok(session)
    }

    /// Whose VMs the key of this context runs, if it is a user's; else those of nobody in particular.
    pub(crate) fn tenant(&self) -> TenantId {
        let own = self.client.identity().public();
        let user = self.trust.as_ref().and_then(|trust| trust.user(&own));
        user.map_or_else(TenantId::default_tenant, |user| user.tenant.clone())
    }

    fn check_target(&self) -> Result<(), Failure> {
        if self.is_direct || self.trust.is_some() || self.local().is_some() {
            return Ok(());
        }
        let what = format!("no cluster is known in {}", self.context.folder().display());
        let dev = Path::new(DEV_CONTEXT);
        Err(Failure::new(Code::Usage, what).next(match dev.join("trust.json").exists() {
            true => format!("for the cluster of `ostler dev`: export OSTLER_CONTEXT={DEV_CONTEXT}"),
            false => "ostler bootstrap --discovery URL, name agents with --hosts, or a context \
                      with --context DIR"
                .to_owned(),
        }))
    }

    /// The socket of the agent on this machine, when nothing else is known and we may use it.
    pub(crate) fn local(&self) -> Option<Endpoint> {
        let is_alone = !self.is_direct && self.trust.is_none();
        let is_there = is_alone && Path::new(LOCAL_SOCKET).exists();
        is_there.then(|| Endpoint::anyone(format!("unix:{LOCAL_SOCKET}")))
    }

    /// Asks once what the hosts are called, and returns what it saw. Without an answer, ids are shown.
    pub(crate) async fn learn_names(&self) -> Option<Picture> {
        if self.names.get().is_some() {
            return None;
        }
        let picture = self.picture().await.ok()?;
        let name = |(id, row): (&HostId, &HostRow)| (id.clone(), row.host.name.clone());
        let _ = self.names.set(picture.view.hosts().map(name).collect());
        Some(picture)
    }

    /// A controller's sentence as a person would say it: with names in place of ids.
    pub(crate) fn with_names(&self, text: &str) -> String {
        with_names(self.names.get().map_or(&[][..], Vec::as_slice), text)
    }

    /// What hosts let in, by the trust document. Agents that a person named have their own.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        let trust = self.trust.as_ref().filter(|_| !self.is_direct);
        trust.map(|trust| Arc::clone(&trust.policy)).unwrap_or_default()
    }

    /// How soon what a lost host ran may run elsewhere, by the same.
    pub(crate) fn terms(&self) -> Option<Terms> {
        self.trust.as_ref().filter(|_| !self.is_direct).map(Terms::of)
    }

    /// The hosts of the cluster, by the trust document.
    pub(crate) fn members(&self) -> BTreeSet<HostId> {
        self.trust.iter().flat_map(|trust| trust.roster_by_host().into_keys()).collect()
    }

    /// Where the processes of a role answer, by the trust document.
    pub(crate) fn peers(&self, role: Role) -> Vec<Endpoint> {
        let peers = self.trust.iter().flat_map(|trust| &trust.peers);
        peers
            .filter(|peer| peer.role == role)
            .map(|peer| Endpoint::of_key(peer.url.clone(), peer.key))
            .collect()
    }

    /// The controllers, the one that answers first before the others: one whose host is gone costs a command a
    /// moment, and not the time-out of its connection.
    pub(crate) async fn controllers(&self) -> Vec<Endpoint> {
        let mut all = self.peers(Role::Controller);
        if all.len() < 2 {
            return all;
        }
        let asked = all.iter().zip(0_u32..).map(|(controller, turn)| async move {
            tokio::time::sleep(TURN * turn).await;
            let health = self.client.get::<Health>(controller, "/v1/health").await;
            health.ok().map(|_| turn as usize)
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = answers.next().await {
            if let Some(first) = answer {
                drop(answers);
                let first = all.remove(first);
                all.insert(0, first);
                return all;
            }
        }
        drop(answers);
        all
    }

    /// True when changes go to agents themselves, for want of a controller or by the person's word.
    pub(crate) fn is_without_controller(&self) -> bool {
        self.is_direct || self.trust.is_none()
    }

    /// Everybody the sources know; with why a source does not answer.
    pub(crate) async fn find(&self) -> (Vec<Found>, Vec<String>) {
        if self.sources.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let finder = Finder::start(self.sources.clone(), &self.client, Pace::default());
        let mut findings = finder.watch();
        let all_asked = findings.wait_for(|f| f.sources.iter().all(|source| source.is_asked));
        let _ = tokio::time::timeout(Duration::from_millis(FIND_MS_MAX), all_asked).await;
        if self.sources.contains(&Source::Mdns) {
            // Multicast answers trickle in; there is no last one to wait for.
            tokio::time::sleep(Duration::from_millis(FIND_MS_MAX)).await;
        }
        let now = findings.borrow_and_update().clone();
        let silent = now.sources.iter().filter_map(|state| {
            Some(format!("{} does not answer: {}", state.source, state.error.as_ref()?))
        });
        (now.hosts.clone(), silent.collect())
    }
}

/// Whole ids go before their beginnings, or what follows these would be left.
fn with_names(names: &[(HostId, String)], text: &str) -> String {
    names.iter().fold(text.to_owned(), |text, (id, name)| {
        let short = id.short();
        let text = text.replace(id.as_str(), name);
        text.replace(&format!("{name} ({short})"), name).replace(short, name)
    })
}

/// The context folder: as given, else by the usual rules.
pub(crate) fn context_of(global: &Global) -> Context {
    Context::at(global.context.clone().unwrap_or_else(|| config_home().join("ostler")))
}

fn config_home() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .unwrap_or_else(|| PathBuf::from("/root/.config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_by_name_whether_their_ids_were_whole_or_not() {
        let id = HostId::new("hujo3hhj6vhljepfcnovk3wss").unwrap();
        let names = [(id, "h1".to_owned())];
        let text = "offer 1.7 of host hujo3hhj6vhljepfcnovk3wss, h1 (hujo3hhj6), move to hujo3hhj6";
        assert_eq!(with_names(&names, text), "offer 1.7 of host h1, h1, move to h1");
    }
}
