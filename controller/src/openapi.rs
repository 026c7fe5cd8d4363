//! What a controller takes and answers, for machines: made of the operations below and the types they name, and
//! committed; the controller serves the committed text.

use axum::response::Response;
use protocol::api::{Health, NewRun, RunList, RunStatus};
use protocol::expectations::{PutExpectations, SetList, SetStatus};
use protocol::fencing::FencingList;
use protocol::id::{HostId, RunId, SetName};
use protocol::power::{HostPower, PowerChange, PowerList, SleepList};
use protocol::trust::Right;
use protocol::used::Used;
use transport::openapi::{Operation, delete, get, post, put};

use crate::api::{ListQuery, WaitQuery};
use crate::expectations::{DeleteQuery, SetsQuery};

/// What everybody is given.
const TEXT: &str = include_str!("../../docs/openapi/controller.json");

const DESCRIPTION: &str = "A controller takes what people want, plans on the view of the cluster, and carries it out as durable runs that survive it; any number of them stand side by side. A run's id is chosen by who asks, so every request can be sent again. What each state and kind means is in docs/api.md and docs/planner.md.";

/// The database did not answer, or a record in it is none.
const STORED: &[&str] = &["storage-broken", "run-damaged"];
/// A device that switches a host, and the file that names it.
const POWER: &[&str] = &["no-power-device", "power-file", "power-device"];

pub(crate) async fn show() -> Response {
    transport::openapi::reply(TEXT)
}

/// The document, made anew.
#[must_use]
pub fn openapi() -> serde_json::Value {
    transport::openapi::document("Ostler controller", DESCRIPTION, &operations())
}

fn operations() -> Vec<Operation> {
    let mut all = vec![
        get("/v1/health", "Who it is, and whether it has a current view").answers::<Health>(200),
        get("/v1/openapi.json", "This document").answers::<serde_json::Value>(200),
        get("/metrics", "Runs, plans, refusals and expectations, for Prometheus")
            .right(Right::Scrape)
            .answers_text(200),
    ];
    all.extend(of_runs());
    all.extend(of_expectations());
    all.extend(of_power());
    all
}

fn of_runs() -> Vec<Operation> {
    vec![
        get("/v1/runs", "The newest runs")
            .right(Right::Read)
            .query::<ListQuery>()
            .answers::<RunList>(200)
            .refuses(STORED),
        post("/v1/runs", "Have something run, stopped, moved, resized or deleted")
            .right(Right::Run)
            .body::<NewRun>()
            .answers::<RunStatus>(202)
            .refuses(&["invalid", "busy", "run-id-in-use", "run-in-progress", "expected-otherwise"])
            .refuses(STORED),
        get("/v1/runs/{id}", "A run, or how it has changed")
            .right(Right::Read)
            .path::<RunId>("id")
            .query::<WaitQuery>()
            .answers::<RunStatus>(200)
            .refuses(&["no-such-run"])
            .refuses(STORED),
        post("/v1/runs/{id}/cancel", "Have a run turn back")
            .right(Right::Run)
            .path::<RunId>("id")
            .answers::<RunStatus>(202)
            .refuses(&["no-such-run", "run-past-return"])
            .refuses(STORED),
    ]
}

fn of_expectations() -> Vec<Operation> {
    vec![
        get("/v1/expectations", "Every set that is kept, and how each expectation stands")
            .right(Right::Read)
            .query::<SetsQuery>()
            .answers::<SetList>(200),
        get("/v1/expectations/{name}", "A set, or how it has changed")
            .right(Right::Read)
            .path::<SetName>("name")
            .query::<WaitQuery>()
            .answers::<SetStatus>(200)
            .refuses(&["no-such-expectations"]),
        put("/v1/expectations/{name}", "Have this be true from now on")
            .right(Right::Run)
            .path::<SetName>("name")
            .body::<PutExpectations>()
            .answers::<SetStatus>(200)
            .answers::<SetStatus>(201)
            .refuses(&["invalid", "expectations-clash", "expectations-changed"])
            .refuses(&["too-many-expectations", "storage-broken"]),
        delete("/v1/expectations/{name}", "Have it kept no longer")
            .right(Right::Run)
            .path::<SetName>("name")
            .query::<DeleteQuery>()
            .answers_nothing(204)
            .refuses(&["no-such-expectations", "expectations-changed", "storage-broken"]),
        get("/v1/used", "What guests use, as far as it was to find out")
            .right(Right::Read)
            .answers::<Used>(200),
    ]
}

fn of_power() -> Vec<Operation> {
    vec![
        get("/v1/power", "The hosts that it can switch, and what their devices say")
            .right(Right::Run)
            .answers::<PowerList>(200)
            .refuses(POWER),
        get("/v1/power/{host}", "What a host's devices say")
            .right(Right::Run)
            .path::<HostId>("host")
            .answers::<HostPower>(200)
            .refuses(&["no-such-host"])
            .refuses(POWER),
        post("/v1/power/{host}", "Have a host on, off, off and on, or asleep")
            .right(Right::Run)
            .path::<HostId>("host")
            .body::<PowerChange>()
            .answers::<HostPower>(200)
            .refuses(&["no-such-host", "host-alive", "cannot-sleep", "not-drained"])
            .refuses(&["storage-broken"])
            .refuses(POWER),
        get(
            "/v1/fencing",
            "The hosts that nobody hears, and whether it is about to switch them off",
        )
        .right(Right::Read)
        .answers::<FencingList>(200),
        get("/v1/asleep", "Which hosts are asleep, and which were")
            .right(Right::Read)
            .answers::<SleepList>(200),
    ]
}
