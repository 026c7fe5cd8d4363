//! What it costs an arbiter to cover hosts whose VMs may be lost: one signed statement of each every
//! 1.5 s, and one signed term for it.

use arbiter::core::{Effect, Input};
use protocol::id::{Epoch, HostId, TenantId};
use protocol::signed::Signed;
use protocol::tenure::{Item, Standing, Statement};
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::raw::{Raw, best, calls};
use crate::round2;
use crate::world::{Cluster, WATERMARK, arbiter_key, debits, id, job, size};

/// Statements of one round.
const TIMES: usize = 2_000;
/// How often a host's keeper states what it holds, in seconds.
const RENEW_S: f64 = 1.5;
/// Arbiters on the core.
const ARBITERS: f64 = 3.0;

pub(crate) fn renew(cluster: &Cluster) -> Value {
    let mut core = cluster.arbiter(OnLoss::Stop);
    let said: Vec<Signed<Statement>> = (0..calls(TIMES)).map(|i| statement(cluster, i)).collect();
    let bytes = said[0].to_string().len();
    let (raw, secret) = (Raw::new(bytes * 3 / 4), arbiter_key(0));
    let mut out = Vec::new();
    let mut covered = 0;
    let [ours, floor] = best(
        TIMES,
        [
            &mut |i| {
                let statement = said[i].clone();
                core.handle(20_000, Input::Stated { request: 0, statement }, &mut out);
                let Some(Effect::Term { term: Ok(term), .. }) = out.pop() else {
                    panic!("not answered");
                };
                covered += term.covered.len();
                std::hint::black_box(Signed::seal(&term, &secret).to_string());
            },
            &mut |_| {
                raw.verify();
                raw.sign();
            },
        ],
    );
    assert_eq!(covered, calls(TIMES) * cluster.jobs, "everything is covered");
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let hosts = cluster.hosts.len() as f64;
    json!({
        "name": "renewals", "value": round2(hosts / RENEW_S * ARBITERS * ours / 1e6),
        "unit": "cores for all hosts' renewals at three arbiters",
        "us_per_statement": round2(ours), "baseline": "Ed25519 verify and sign, same library",
        "baseline_us": round2(floor), "ratio": round2(floor / ours),
        "floor_cores": round2(hosts / RENEW_S * ARBITERS * floor / 1e6), "target": 1.0,
        "hosts": cluster.hosts.len(), "holds_per_host": cluster.jobs,
        "statement_bytes": bytes, "n": calls(TIMES),
    })
}

fn statement(cluster: &Cluster, i: usize) -> Signed<Statement> {
    let n = i % cluster.hosts.len();
    let item = |of: usize| Item {
        id: id(of as u64 + 1),
        job: job(n, of),
        resources: size(),
        tenant: TenantId::default_tenant(),
        debits: Some(debits()),
        on_loss: OnLoss::Stop,
        delegated: None,
        standing: Standing::Hold,
    };
    let statement = Statement {
        host: HostId::of(&cluster.hosts[n].public()),
        epoch: Epoch(1),
        seq: i as u64,
        watermark: id(WATERMARK),
        items: (0..cluster.jobs).map(item).collect(),
        trust_version: 1,
    };
    Signed::seal(&statement, &cluster.hosts[n])
}
