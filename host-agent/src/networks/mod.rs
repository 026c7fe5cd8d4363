//! Keeping the networks that the ledger asks for: their devices, and libvirt's networks upon these.
//!
//! ```text
//!   ledger ── what is wanted ──▶ pass: devices, libvirt ── what is there, what is wrong ──▶ core
//!                                 ▲ every half minute; after a change of either; when libvirt is back
//! ```
//!
//! A pass makes what is missing, and nothing else: it takes away only what is going, which somebody has
//! asked for by name. Where libvirt only pretends, no device of the machine is touched.

pub(crate) mod links;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::{ErrorKind, Hypervisor, NetworkConfig, WatchEvent, call};
use protocol::network::{NetworkName, NetworkSpec};
use protocol::vm::{Plug, VmSpec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::core::{Input, NetworkRecord, SeenNetworks};
use crate::shell::Post;
use links::{floods, links, run};

/// How often everything is looked at even so: devices tell nobody when they go.
const PASS_INTERVAL: Duration = Duration::from_secs(30);
/// How soon it is tried again when something was wrong.
const MEND_INTERVAL: Duration = Duration::from_secs(5);
/// News of networks that comes together is looked into together.
const GATHER: Duration = Duration::from_millis(100);
/// A call about a network: libvirt starts a DHCP server and writes rules.
const NETWORK_DEADLINE: Duration = Duration::from_secs(35);
/// How long a start waits for its networks to be made.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Requests that wait for a look.
const LOOKS_MAX: usize = 64;

/// What is wanted.
pub(crate) type Wanted = BTreeMap<NetworkName, NetworkRecord>;

/// How each wanted network stood after the last pass: with what is wrong with it, if something is.
type Standing = BTreeMap<NetworkName, Option<String>>;

/// To the task that keeps networks.
#[derive(Clone)]
pub(crate) struct Networks {
    wanted: watch::Sender<Wanted>,
    standing: watch::Receiver<Standing>,
    looks: mpsc::Sender<oneshot::Sender<()>>,
}

struct Keeper {
    hv: Arc<dyn Hypervisor>,
    posts: mpsc::Sender<Post>,
    wanted: watch::Receiver<Wanted>,
    standing: watch::Sender<Standing>,
    looks: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Networks {
    /// Keeps these networks from now on, until the agent ends.
    pub(crate) fn keep(
        hv: Arc<dyn Hypervisor>,
        wanted: Wanted,
        posts: mpsc::Sender<Post>,
    ) -> (Self, impl Future<Output = ()>) {
        let (wanted, of_wanted) = watch::channel(wanted);
        let (standing, of_standing) = watch::channel(Standing::new());
        let (looks, of_looks) = mpsc::channel(LOOKS_MAX);
        let keeper = Keeper { hv, posts, wanted: of_wanted, standing, looks: of_looks };
        (Self { wanted, standing: of_standing, looks }, keeper.run())
    }

    /// Wants these from now on.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// Has everything looked at now, so that the core decides on what is there.
    pub(crate) async fn look(&self) {
        let (sender, looked) = oneshot::channel();
        if self.looks.send(sender).await.is_ok() {
            let _ = timeout(NETWORK_DEADLINE, looked).await;
        }
    }

    /// Waits until the networks of a VM are made, as far as they are ours to make. After a reboot of the
    /// host they may not be yet.
    pub(crate) async fn await_ready(&self, vm: &VmSpec) -> Result<(), String> {
        let named = vm.nics.iter().filter_map(|nic| match &nic.plug {
            Plug::Libvirt { name } => NetworkName::new(name.as_str()).ok(),
            Plug::User | Plug::Bridge { .. } => None,
        });
        let ours: Vec<NetworkName> =
            named.filter(|name| self.wanted.borrow().contains_key(name)).collect();
        if ours.is_empty() {
            return Ok(());
        }
        let is_good = |name: &NetworkName, standing: &Standing| standing.get(name) == Some(&None);
        let mut standing = self.standing.clone();
        let ready = standing.wait_for(|now| ours.iter().all(|name| is_good(name, now)));
        if matches!(timeout(READY_DEADLINE, ready).await, Ok(Ok(_))) {
            return Ok(());
        }
        let now = self.standing.borrow();
        let bad = ours.iter().find(|name| !is_good(name, &now));
        let why = bad.and_then(|name| now.get(name)?.clone());
        let why = why.unwrap_or_else(|| "it is still being made".to_owned());
        Err(bad.map_or(why.clone(), |name| format!("network {name} is not up: {why}")))
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut events = self.hv.watch();
        let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let (seen, is_complete) = self.pass(&wanted).await;
            let is_well = is_complete && seen.troubles.is_empty();
            let told = wanted.iter().filter(|(_, record)| !record.is_going);
            let standing: Standing =
                told.map(|(name, _)| (name.clone(), seen.troubles.get(name).cloned())).collect();
            // What could not be asked has not gone: then the last look still counts.
            if is_complete
                && self.posts.send(Post::Input(Input::Networks(Box::new(seen)))).await.is_err()
            {
                return;
            }
            self.standing.send_replace(standing);
            for looked in waiting.drain(..) {
                let _ = looked.send(());
            }
            let pause = sleep(if is_well { PASS_INTERVAL } else { MEND_INTERVAL });
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    Some(look) = self.looks.recv() => {
                        waiting.push(look);
                        break;
                    }
                    event = events.recv() => match event {
                        Some(WatchEvent::NetworksChanged | WatchEvent::Reconnected | WatchEvent::Overflowed) => {
                            sleep(GATHER).await;
                            break;
                        }
                        Some(_) => {}
                        None => return,
                    },
                }
            }
            while let Ok(look) = self.looks.try_recv() {
                waiting.push(look);
            }
        }
    }

    /// Makes what is missing, takes away what is going, and looks. False when the look was not complete.
    async fn pass(&self, wanted: &Wanted) -> (SeenNetworks, bool) {
        let mut seen = SeenNetworks::default();
        for (name, record) in wanted {
            let done = match record.is_going {
                true => self.remove(name).await,
                false => self.make(name, &record.spec).await,
            };
            match done {
                Ok(()) if record.is_going => seen.gone.push(name.clone()),
                Ok(()) => {}
                Err(why) => {
                    if self.standing.borrow().get(name) != Some(&Some(why.clone())) {
                        tracing::warn!(network = %name, "{why}; tried again and again");
                    }
                    seen.troubles.insert(name.clone(), why);
                }
            }
        }
        let list = call(&self.hv, "list networks", NETWORK_DEADLINE, |hv| hv.networks());
        match list.await {
            Ok(networks) => seen.networks = networks,
            Err(error) if error.kind == ErrorKind::Unsupported => {
                seen.unsupported = Some(error.message.clone());
                return (seen, true);
            }
            Err(error) => {
                tracing::warn!("{error}; tried again");
                return (seen, false);
            }
        }
        if !self.is_real() {
            return (seen, true);
        }
        match links().await {
            Ok(links) => seen.links = links,
            Err(why) => {
                tracing::warn!("{why}; tried again");
                return (seen, false);
            }
        }
        (seen, true)
    }

    /// False where libvirt only pretends, and no device of the machine is its own.
    fn is_real(&self) -> bool {
        self.hv.facts().driver == "QEMU"
    }

    async fn make(&self, name: &NetworkName, spec: &NetworkSpec) -> Result<(), String> {
        if self.is_real() {
            let tunnel = plan::tunnel_of(name);
            let links = links().await?;
            let has_tunnel = links.iter().any(|link| link.name == tunnel);
            let there = if has_tunnel { floods(&tunnel).await? } else { vec![] };
            self.run_all(plan::make(name, spec, &links, &there)?).await?;
        }
        let config = NetworkConfig { name: name.clone(), form: plan::form_of(name, spec) };
        let made =
            call(&self.hv, "make network", NETWORK_DEADLINE, move |hv| hv.make_network(&config));
        made.await.map_err(|error| error.to_string())
    }

    async fn remove(&self, name: &NetworkName) -> Result<(), String> {
        let spec = NetworkSpec::Bridge { bridge: plan::bridge_of(name) };
        let config = NetworkConfig { name: name.clone(), form: plan::form_of(name, &spec) };
        let uuid = config.uuid();
        let removed =
            call(&self.hv, "remove network", NETWORK_DEADLINE, move |hv| hv.remove_network(uuid));
        removed.await.map_err(|error| error.to_string())?;
        if self.is_real() {
            self.run_all(plan::remove(name, &links().await?)).await?;
        }
        Ok(())
    }

    async fn run_all(&self, lines: Vec<plan::Line>) -> Result<(), String> {
        for line in lines {
            tracing::info!("{}", line.join(" "));
            let words: Vec<&str> = line.iter().skip(1).map(String::as_str).collect();
            run(&line[0], &words).await?;
        }
        Ok(())
    }
}
