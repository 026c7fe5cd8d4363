//! What this interface takes and answers, for machines.
//!
//! The document is made of the operations below and the types they name, and committed; the agent
//! serves the committed text. A test keeps the two equal, and both equal to the router.

use axum::response::Response;
use protocol::api::{
    DomainReply, ImageReply, JobList, MigrateJob, OfferReply, OfferRequest, PutHandoff, PutIntent,
    PutJob, RebootJob, ResizeJob, RevertJob, SHA256_HEADER, StopJob,
};
use protocol::history::HistoryConfig;
use protocol::host::{Host, Inventory};
use protocol::id::{ImageName, JobId, PoolName, SnapshotName};
use protocol::image::{FetchImage, ImageList, ImageStatus};
use protocol::job::{Job, Snapshot};
use protocol::network::{NetworkList, NetworkName, NetworkStatus, PutNetwork};
use protocol::pool::{PoolContent, PoolsConfig, Tag};
use protocol::signed::{Digest, Signed};
use protocol::trust::{Right, Trust};
use protocol::usage::Usage;
use protocol::vm::Rank;
use transport::openapi::{Operation, delete, get, post, put};

use super::AgentHealth;
use super::{console, events, jobs, offers, pools};
use crate::channel::Lane;

/// What everybody is given. It costs no memory until somebody reads it.
const TEXT: &str = include_str!("../../../docs/openapi/agent.json");

const DESCRIPTION: &str = "One agent runs on every hypervisor and is the only truth about what runs there. Every request can be sent again, and a 2xx is durable. What is not of this document's kind (streams, consoles, repeating, rights) is in docs/api.md.";

/// The core may be asked: it can be at its end.
const ASKS: &[&str] = &["stopping"];
/// A change of a job that is there, asked by a person or by a task of a run.
const CHANGES: &[&str] =
    &["stopping", "no-such-job", "wrong-state", "stale-claim", "task-undone", "busy"];
/// A job comes, on its own or as an offer.
const ADMITS: &[&str] = &[
    "stopping",
    "invalid",
    "busy",
    "unsupported",
    "no-capacity",
    "no-hugepages",
    "no-dedicated-cpus",
    "no-image",
    "no-network",
    "mac-taken",
    "disk-too-small",
    "no-pool",
    "pool-unavailable",
    "pool-full",
    "has-snapshots",
    "revision-conflict",
    "wrong-state",
    "name-taken",
    "no-such-domain",
    "host-draining",
    "stale-claim",
    "task-undone",
];
/// A ticket that does not permit it.
const TICKETS: &[&str] = &[
    "ticket-missing",
    "ticket-forged",
    "ticket-for-other-host",
    "ticket-for-other-job",
    "ticket-for-other-spec",
    "ticket-for-other-action",
    "offer-ended",
    "offer-used",
    "offer-unknown",
    "ticket-without-quorum",
    "ticket-without-witnesses",
    "ticket-underbooked",
    "ticket-of-other-trust",
];

pub(super) async fn show() -> Response {
    transport::openapi::reply(TEXT)
}

/// The document, made anew.
#[must_use]
pub fn openapi() -> serde_json::Value {
    transport::openapi::document("Ostler agent", DESCRIPTION, &operations())
}

fn operations() -> Vec<Operation> {
    let mut all = of_host();
    all.extend(of_pools());
    all.extend(of_images());
    all.extend(of_networks());
    all.extend(of_offers());
    all.extend(of_jobs());
    all.extend(of_actions());
    all.extend(of_snapshots());
    all.extend(of_migration());
    all
}

fn of_host() -> Vec<Operation> {
    vec![
        get("/v1/health", "Who it is, and whether it can work").answers::<AgentHealth>(200),
        get("/v1/openapi.json", "This document").answers::<serde_json::Value>(200),
        get("/v1/host", "The host: facts, capacity, and what it has promised")
            .right(Right::Read)
            .answers::<Host>(200),
        get("/v1/inventory", "Host, jobs and observed domains at one cursor")
            .right(Right::Read)
            .answers::<Inventory>(200),
        get("/v1/domains/{domain}", "A domain that is nobody's job, and the job it would be")
            .right(Right::Read)
            .path::<String>("domain")
            .answers::<DomainReply>(200)
            .refuses(&["no-such-domain", "no-hypervisor"]),
        get("/v1/events", "Frames of events over WebSocket, or as server-sent events")
            .right(Right::Read)
            .query::<events::From>()
            .streams(),
        get("/v1/usage", "What the machine's guests use: counters, read at most once a second")
            .right(Right::Read)
            .answers::<Usage>(200)
            .refuses(&["no-hypervisor"]),
        get("/metrics", "The host, its jobs and what guests use, for Prometheus")
            .right(Right::Scrape)
            .answers_text(200),
        get("/v1/config/trust", "The trust document in force, or null")
            .right(Right::Read)
            .answers::<Option<Signed<Trust>>>(200),
        put("/v1/config/trust", "Bring a trust document; it is believed for its signature")
            .body::<Signed<Trust>>()
            .answers_nothing(204)
            .refuses(ASKS)
            .refuses(&["invalid", "forbidden", "ticket-forged"]),
        put("/v1/config/intent", "Drain the host: it takes nothing new, and controllers empty it")
            .right(Right::Run)
            .body::<PutIntent>()
            .answers_nothing(204)
            .refuses(ASKS),
        get("/v1/config/history", "How much is remembered of what has ended")
            .right(Right::Read)
            .answers::<HistoryConfig>(200)
            .refuses(ASKS),
        put("/v1/config/history", "Remember so much of what has ended, and forget the rest")
            .right(Right::Run)
            .body::<HistoryConfig>()
            .answers_nothing(204)
            .refuses(ASKS)
            .refuses(&["invalid", "config-conflict"]),
        delete("/v1/config/intent", "Intend nothing with the host: it takes what fits")
            .right(Right::Run)
            .answers_nothing(204)
            .refuses(ASKS),
    ]
}

fn of_pools() -> Vec<Operation> {
    vec![
        get("/v1/config/pools", "The pools that were declared, with their ids")
            .right(Right::Read)
            .answers::<PoolsConfig>(200),
        put("/v1/config/pools", "Have these pools, and no others")
            .right(Right::Run)
            .body::<PoolsConfig>()
            .answers::<PoolsConfig>(200)
            .refuses(ASKS)
            .refuses(&["invalid", "pool-unavailable", "pool-in-use", "config-conflict"]),
        get("/v1/pools/{pool}/volumes", "What is in a pool, whichever host made it")
            .right(Right::Read)
            .path::<PoolName>("pool")
            .answers::<PoolContent>(200)
            .refuses(&["no-pool", "pool-unavailable"]),
        delete("/v1/pools/{pool}/volumes/{job}", "Put volumes that are nobody's into the trash")
            .right(Right::Run)
            .path::<PoolName>("pool")
            .path::<JobId>("job")
            .query::<pools::By>()
            .answers_nothing(204)
            .refuses(&["no-pool", "pool-unavailable", "wrong-state"]),
        post("/v1/pools/{pool}/deleted/{entry}/restore", "Take volumes out of the trash again")
            .right(Right::Run)
            .path::<PoolName>("pool")
            .path::<String>("entry")
            .answers::<Tag>(200)
            .refuses(&["no-pool", "pool-unavailable", "invalid"]),
    ]
}

fn of_images() -> Vec<Operation> {
    let of_image = |operation: Operation| operation.path::<ImageName>("name");
    vec![
        get("/v1/images", "Images that are here or on their way, and who needs them")
            .right(Right::Read)
            .answers::<ImageList>(200)
            .refuses(&["storage"]),
        of_image(get("/v1/images/{name}", "One image, and how its fetch is going"))
            .right(Right::Read)
            .answers::<ImageStatus>(200)
            .refuses(&["storage"]),
        of_image(put("/v1/images/{name}", "Bring an image; sending it again is harmless"))
            .right(Right::Run)
            .header::<Digest>(SHA256_HEADER)
            .file()
            .answers::<ImageReply>(200)
            .answers::<ImageReply>(201)
            .refuses(&["invalid", "storage"]),
        of_image(delete("/v1/images/{name}", "Delete an image that nobody needs, or its fetch"))
            .right(Right::Run)
            .answers_nothing(204)
            .refuses(&["image-in-use", "invalid", "storage"]),
        of_image(post("/v1/images/{name}/fetch", "Have the host get an image by itself"))
            .right(Right::Run)
            .body::<FetchImage>()
            .answers::<ImageStatus>(200)
            .answers::<ImageStatus>(202)
            .refuses(&["invalid", "busy", "storage"]),
        get("/v1/image-files/{sha256}", "An image's file by its content, from any byte on")
            .right(Right::Read)
            .path::<Digest>("sha256")
            .answers_file(200)
            .answers_file(206)
            .refuses(&["no-such-file", "no-such-range", "busy", "storage"]),
    ]
}

fn of_networks() -> Vec<Operation> {
    vec![
        get("/v1/networks", "The networks that guests can be plugged into, ours and others'")
            .right(Right::Read)
            .answers::<NetworkList>(200)
            .refuses(ASKS),
        get("/v1/networks/{name}", "One network, and the jobs that name it")
            .right(Right::Read)
            .path::<String>("name")
            .answers::<NetworkStatus>(200)
            .refuses(ASKS)
            .refuses(&["no-such-network"]),
        put("/v1/networks/{name}", "Have a network; the host makes it, and again when it is gone")
            .right(Right::Run)
            .path::<NetworkName>("name")
            .body::<PutNetwork>()
            .answers::<NetworkStatus>(200)
            .answers::<NetworkStatus>(201)
            .refuses(ASKS)
            .refuses(&["invalid", "busy", "unsupported", "network-taken", "network-in-use"])
            .refuses(&["network-revision", "subnet-taken", "no-device", "network-clash"]),
        delete("/v1/networks/{name}", "Have a network no more, which nobody needs")
            .right(Right::Run)
            .path::<String>("name")
            .answers_nothing(202)
            .refuses(ASKS)
            .refuses(&["no-such-network", "network-taken", "network-in-use"]),
    ]
}

fn of_offers() -> Vec<Operation> {
    vec![
        get("/v1/offers", "Open offers, and the highest id ever issued")
            .right(Right::Read)
            .answers::<offers::OpenOffers>(200)
            .refuses(ASKS),
        post("/v1/offers", "Reserve room for a job, and get what arbiters sign")
            .right(Right::Run)
            .body::<OfferRequest>()
            .answers::<OfferReply>(201)
            .refuses(ADMITS)
            .refuses(&["no-such-job", "no-room-to-grow", "no-hugepages", "no-dedicated-cpus"]),
        delete("/v1/offers/{epoch}/{num}", "Void an offer, whatever it was")
            .right(Right::Run)
            .path::<u64>("epoch")
            .path::<u64>("num")
            .answers_nothing(204)
            .refuses(ASKS),
    ]
}

fn of_jobs() -> Vec<Operation> {
    vec![
        get("/v1/jobs", "All jobs").right(Right::Read).answers::<JobList>(200),
        get("/v1/jobs/{id}", "One job")
            .right(Right::Read)
            .path::<JobId>("id")
            .answers::<Job>(200)
            .refuses(&["no-such-job"]),
        put("/v1/jobs/{id}", "Take a job, or change it")
            .right(Right::Run)
            .path::<JobId>("id")
            .body::<PutJob>()
            .answers::<Job>(200)
            .answers::<Job>(201)
            .refuses(ADMITS)
            .refuses(TICKETS),
        delete("/v1/jobs/{id}", "Delete an ended job and its volumes")
            .right(Right::Run)
            .path::<JobId>("id")
            .query::<jobs::Undo>()
            .query::<jobs::Also>()
            .answers::<Job>(200)
            .answers::<Job>(202)
            .answers_nothing(204)
            .refuses(CHANGES),
        get("/v1/jobs/{id}/console", "The serial console over WebSocket")
            .right(Right::Run)
            .path::<JobId>("id")
            .query::<console::Ask>()
            .streams()
            .refuses(&["no-such-job", "invalid", "no-hypervisor"]),
        get("/v1/jobs/{id}/vnc", "The first screen over WebSocket: VNC in binary frames")
            .right(Right::Run)
            .path::<JobId>("id")
            .streams()
            .refuses(&["no-such-job", "invalid", "wrong-state", "no-hypervisor"]),
        get("/v1/jobs/{id}/screenshot", "What the first screen shows now")
            .right(Right::Run)
            .path::<JobId>("id")
            .answers_picture(200)
            .refuses(&["no-such-job", "invalid", "wrong-state", "no-hypervisor"]),
        get("/v1/jobs/{id}/log", "The end of a service's log or of a console")
            .right(Right::Read)
            .path::<JobId>("id")
            .query::<jobs::Tail>()
            .answers_text(200)
            .refuses(&["no-such-job", "invalid", "no-log", "no-hypervisor"]),
    ]
}

fn of_actions() -> Vec<Operation> {
    let act = |path, summary| {
        post(path, summary)
            .right(Right::Run)
            .path::<JobId>("id")
            .answers::<Job>(200)
            .answers::<Job>(202)
            .refuses(CHANGES)
            .refuses(&["unsupported", "invalid"])
    };
    vec![
        act("/v1/jobs/{id}/stop", "Stop it: politely, then after its grace by force")
            .body::<StopJob>()
            .refuses(&["protected", "not-preemptible"]),
        act("/v1/jobs/{id}/protect", "Refuse to end it by command"),
        act("/v1/jobs/{id}/unprotect", "Refuse that no more"),
        act("/v1/jobs/{id}/rank", "Change its priority, and whether it makes room for others")
            .body::<Rank>()
            .refuses(&["against-policy"]),
        act("/v1/jobs/{id}/pause", "Let its CPUs stand still"),
        act("/v1/jobs/{id}/resume", "Let its CPUs go on"),
        act("/v1/jobs/{id}/release", "Give an adopted job back, running as it is"),
        act("/v1/jobs/{id}/save", "Put its memory into a file, and stop it")
            .refuses(&["protected"]),
        act("/v1/jobs/{id}/reset", "Press its reset button"),
        act("/v1/jobs/{id}/reboot", "Ask it to reboot, and reset it after its grace")
            .body::<RebootJob>(),
        act("/v1/jobs/{id}/resize", "Give it other CPUs or memory, at once as far as that goes")
            .body::<ResizeJob>()
            .refuses(&["no-room-to-grow", "no-hugepages", "no-dedicated-cpus", "revision-conflict"])
            .refuses(TICKETS),
        act("/v1/jobs/{id}/resize/undo", "Take back the size that a task of a run gave it")
            .query::<jobs::Undo>()
            .refuses(&["no-room-to-grow", "no-hugepages", "no-dedicated-cpus", "ticket-missing"]),
    ]
}

fn of_snapshots() -> Vec<Operation> {
    const SNAPSHOT: &str = "/v1/jobs/{id}/snapshots/{snapshot}";
    let of_job =
        |operation: Operation| operation.path::<JobId>("id").path::<SnapshotName>("snapshot");
    let change = |operation| {
        let operation = of_job(operation).right(Right::Run);
        let operation = operation.answers::<Job>(200).answers::<Job>(202);
        operation.refuses(&[
            "stopping",
            "no-such-job",
            "wrong-state",
            "busy",
            "unsupported",
            "invalid",
        ])
    };
    vec![
        of_job(get(SNAPSHOT, "A snapshot of its disks"))
            .right(Right::Read)
            .answers::<Snapshot>(200)
            .refuses(&["no-such-job", "no-such-snapshot"]),
        change(put(SNAPSHOT, "Take a snapshot of all its disks, of one moment"))
            .refuses(&["no-capacity"]),
        change(delete(SNAPSHOT, "Keep a snapshot no longer")).refuses(&["no-such-snapshot"]),
        change(post(
            "/v1/jobs/{id}/snapshots/{snapshot}/revert",
            "Make its disks what they were, while it is stopped",
        ))
        .body::<RevertJob>()
        .refuses(&["no-such-snapshot", "revision-conflict"]),
    ]
}

fn of_migration() -> Vec<Operation> {
    let of_job = |operation: Operation| operation.path::<JobId>("id");
    let change = |operation| {
        let operation = of_job(operation).answers::<Job>(200).answers::<Job>(202);
        operation.refuses(CHANGES).refuses(&["unsupported", "invalid"])
    };
    vec![
        change(post("/v1/jobs/{id}/migrate", "Send it to another host").right(Right::Run))
            .query::<jobs::Planned>()
            .body::<MigrateJob>()
            .refuses(&["revision-conflict", "has-snapshots"]),
        change(post("/v1/jobs/{id}/migrate/cancel", "Give up sending it").right(Right::Run))
            .query::<jobs::Undo>()
            .answers_nothing(204),
        change(post("/v1/jobs/{id}/handoff", "The source's word that it has let go"))
            .right(Right::Read)
            .body::<PutHandoff>()
            .refuses(&["ticket-forged"]),
        of_job(get("/v1/jobs/{id}/incoming/{lane}", "A stream of a guest that arrives"))
            .right(Right::Read)
            .path::<Lane>("lane")
            .streams()
            .refuses(&["no-such-job", "invalid", "not-listening"]),
    ]
}
