//! P8: hosts, by the very core of their agents, are asked a million times over by messages that are late, come twice and
//! in another order than they were sent. No host may ever have promised more than it has, and no ticket may work twice.

use std::collections::BTreeMap;

use host_agent::core::{
    Agent, Birth, CpuLayout, Effect, Input, LedgerState, Reply, ReplyId, Request, WorkOutcome,
};
use protocol::api::{OfferRequest, PutJob, StopJob};
use protocol::host::Host;
use protocol::id::{ClusterId, Epoch, JobId, OfferId, Revision};
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Action, Grant, Offer, Ticket};
use protocol::trust::{Slot, Trust};
use protocol::vm::OnLoss;
use serde_json::{Value, json};
use transport::Now;

use crate::world::{self, Lots, cpu_ns, round};

const HOSTS: usize = 40;
/// VMs that somebody may want at the same time: more than there is room for.
const JOBS: usize = 1_200;
/// How long a message may be under way: longer than an offer lives, so that some come too late.
const LATE_MS: usize = 9_000;
const ATTEMPTS: u64 = 1_000_000;

fn key(n: usize) -> SecretKey {
    let mut seed = [5; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

const OPERATOR: usize = 1_000_001;
const ARBITER: usize = 1_000_002;

/// A request under way to a host.
#[derive(Debug, Clone)]
enum Message {
    Offer { job: JobId, spec: JobSpec },
    Put { job: JobId, spec: JobSpec, ticket: Ticket },
    Stop { job: JobId },
    Delete { job: JobId },
}

struct Hosts {
    agents: Vec<Agent>,
    /// By the time of arrival; the second number tells messages of one moment apart.
    under_way: BTreeMap<(u64, u64), (usize, Message)>,
    sent: u64,
    now: Now,
    arbiter: SecretKey,
    /// The start that each ticket has led to, if it has.
    used: BTreeMap<(usize, OfferId), JobId>,
    /// What has started and nobody has wanted gone since.
    started: Vec<(usize, JobId)>,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    attempts: u64,
    offered: u64,
    started: u64,
    refused: u64,
    over: u64,
    twice: u64,
}

pub(crate) fn run() -> Vec<Value> {
    let begin = cpu_ns();
    let mut lots = Lots(0x8888_5678_9abc_def1);
    let mut hosts = Hosts::new();
    while hosts.figures.attempts < ATTEMPTS {
        hosts.want(&mut lots);
        hosts.deliver(&mut lots);
    }
    let Figures { attempts, offered, started, refused, over, twice } = hosts.figures;
    let line = |name: &str, value: u64, unit: &str| {
        json!({ "name": name, "value": value, "unit": unit, "baseline": 0, "ratio": value, "n": attempts,
            "hosts": HOSTS, "offered": offered, "started": started, "refused": refused,
            "us_per_request": round((cpu_ns() - begin) as f64 / 1e3 / attempts as f64), "target": 0 })
    };
    vec![
        line("P8_over_capacity", over, "times that a host had promised more than it has"),
        line("P8_tickets_twice", twice, "tickets that led to two starts"),
    ]
}

impl Hosts {
    fn new() -> Self {
        let trust = Trust {
            version: 1,
            operators: vec![key(OPERATOR).public()],
            arbiters: vec![Slot { slot: 0, key: key(ARBITER).public(), url: String::new() }],
            roster: (0..HOSTS).map(|n| key(n).public()).collect(),
            ..Trust::of_nobody(ClusterId::new("c1").expect("a name"))
        };
        let trust = Signed::seal(&trust, &key(OPERATOR));
        let mut hosts = Self {
            agents: Vec::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            now: Now { mono_ms: 1_000_000, wall_ms: 5 },
            arbiter: key(ARBITER),
            used: BTreeMap::new(),
            started: Vec::new(),
            figures: Figures::default(),
        };
        for n in 0..HOSTS {
            let key = key(n);
            let public = key.public();
            let id = protocol::id::HostId::of(&public);
            let capacity = Resources { vcpus: 40, memory_bytes: 90 << 30, disk_bytes: 0 };
            let host = Host { id, key: public, capacity, trust_version: None, ..world::host(n) };
            let ledger = LedgerState { epoch: Epoch(1), ..LedgerState::default() };
            hosts.agents.push(Agent::new(Birth {
                key,
                host,
                layout: CpuLayout::default(),
                ledger,
            }));
            hosts.tell(n, Input::Domains(vec![]));
            assert_eq!(hosts.ask(n, Request::Trust(trust.clone())), Some(Ok(Reply::Done)));
        }
        hosts
    }

    /// Somebody wants a VM started, ended or gone, on a host drawn by lot.
    fn want(&mut self, lots: &mut Lots) {
        let (mut host, mut job) =
            (lots.next(HOSTS), JobId::new(format!("vm-{}", lots.next(JOBS))).expect("a name"));
        let what = lots.next(10);
        // What is to end has started, as a rule: hosts fill up and have room again.
        if what >= 6 && !self.started.is_empty() && lots.next(4) > 0 {
            (host, job) = self.started.swap_remove(lots.next(self.started.len()));
        }
        let message = match what {
            0..6 => Message::Offer { job, spec: world::spec(lots.size(), OnLoss::Keep) },
            6..8 => Message::Stop { job },
            _ => Message::Delete { job },
        };
        self.send(lots, host, &message);
    }

    /// Sends a message once, and often again, with a delay of its own for each.
    fn send(&mut self, lots: &mut Lots, host: usize, message: &Message) {
        let copies = 1 + usize::from(lots.next(3) == 0) + usize::from(lots.next(12) == 0);
        for _ in 0..copies {
            let late_ms = if lots.next(3) > 0 { lots.next(100) } else { lots.next(LATE_MS) };
            self.sent += 1;
            let at = (self.now.mono_ms + late_ms as u64, self.sent);
            self.under_way.insert(at, (host, message.clone()));
        }
    }

    /// What arrives in the next ten milliseconds.
    fn deliver(&mut self, lots: &mut Lots) {
        self.now.mono_ms += 10;
        while let Some(entry) =
            self.under_way.first_entry().filter(|e| e.key().0 <= self.now.mono_ms)
        {
            let (host, message) = entry.remove();
            self.figures.attempts += 1;
            self.arrive(lots, host, message);
            let inventory = self.agents[host].inventory();
            let is_over = !inventory.host.allocation.fits_in(inventory.host.capacity);
            self.figures.over += u64::from(is_over);
        }
    }

    fn arrive(&mut self, lots: &mut Lots, host: usize, message: Message) {
        let request = match &message {
            Message::Offer { job, spec } => Request::Offer(OfferRequest {
                job: job.clone(),
                revision: Revision(1),
                spec: spec.clone(),
                action: Action::Start,
                finds_disks: false,
            }),
            Message::Put { job, spec, ticket } => {
                let (spec, ticket) = (spec.clone(), Some(ticket.clone()));
                let put = PutJob { ticket, ..PutJob::of(Revision(1), spec) };
                Request::Put { job: job.clone(), put }
            }
            Message::Stop { job } => Request::Stop { job: job.clone(), stop: StopJob::within(0) },
            Message::Delete { job } => {
                Request::Delete { job: job.clone(), run: None, shared: false }
            }
        };
        match (self.ask(host, request), message) {
            (Some(Ok(Reply::Offered(offered))), Message::Offer { job, spec }) => {
                self.figures.offered += 1;
                let ticket = self.granted(offered.offer);
                self.send(lots, host, &Message::Put { job, spec, ticket });
            }
            (Some(Ok(Reply::Accepted(_))), Message::Put { job, ticket, .. }) => {
                self.figures.started += 1;
                let offer = ticket.offer.open().expect("our own").id;
                self.started.push((host, job.clone()));
                self.figures.twice += u64::from(self.used.insert((host, offer), job).is_some());
            }
            (Some(Err(_)), _) => self.figures.refused += 1,
            _ => {}
        }
    }

    fn granted(&self, offer: Signed<Offer>) -> Ticket {
        let debit = offer.open().expect("signed by the host").resources.into();
        let grant = Grant { slot: 0, offer: offer.digest(), debit };
        Ticket { grants: vec![Signed::seal(&grant, &self.arbiter)], offer }
    }

    fn ask(&mut self, host: usize, request: Request) -> Option<Result<Reply, Refusal>> {
        self.tell(host, Input::Request { reply: ReplyId(0), request: Box::new(request) })
    }

    /// Tells an agent something, has every work that comes of it done at once, and gives its answer.
    fn tell(&mut self, host: usize, input: Input) -> Option<Result<Reply, Refusal>> {
        let (mut inputs, mut answer) = (vec![input], None);
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.agents[host].handle(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Reply(_, said) => answer = Some(said),
                    Effect::Work { job, id, .. } => {
                        inputs.push(Input::Done { job, work: id, outcome: WorkOutcome::Done });
                    }
                    _ => {}
                }
            }
        }
        answer
    }
}
