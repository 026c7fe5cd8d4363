//! What a monitor takes and answers, for machines: made of the operations below and the types they name, and
//! committed; the monitor serves the committed text.

use axum::response::Response;
use protocol::api::{Health, ViewReply};
use protocol::trust::Right;
use transport::openapi::{Operation, get};

use crate::feed::FeedQuery;
use crate::page::PageQuery;

/// What everybody is given.
const TEXT: &str = include_str!("../../docs/openapi/monitor.json");

const DESCRIPTION: &str = "A monitor follows the agents of a cluster and serves the merged view, with the age of every row. It decides nothing; any number of them stand side by side. What is not of this document's kind (streams, freshness, rights) is in docs/api.md.";

pub(crate) async fn show() -> Response {
    transport::openapi::reply(TEXT)
}

/// The document, made anew.
#[must_use]
pub fn openapi() -> serde_json::Value {
    transport::openapi::document("Ostler monitor", DESCRIPTION, &operations())
}

fn operations() -> Vec<Operation> {
    vec![
        get("/v1/health", "Who it is, and whether it has heard every host that was named")
            .answers::<Health>(200),
        get("/v1/openapi.json", "This document").answers::<serde_json::Value>(200),
        get(
            "/v1/view",
            "Every host's row, how old it is, and what is wrong with it; or some of them",
        )
        .right(Right::Read)
        .query::<PageQuery>()
        .answers::<ViewReply>(200)
        .refuses(&["bad-query", "too-many-hosts", "no-such-host", "not-confirmed"]),
        get("/v1/events", "An inventory of each host, then what changes, over WebSocket")
            .right(Right::Read)
            .query::<FeedQuery>()
            .streams(),
        get("/metrics", "Hosts, jobs, and what was merged, for Prometheus")
            .right(Right::Scrape)
            .answers_text(200),
    ]
}
