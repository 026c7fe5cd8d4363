//! What an arbiter takes and answers, for machines: made of the operations below and the types they name, and
//! committed; the arbiter serves the committed text.

use axum::response::Response;
use protocol::api::{HandoverReply, Health, TenantBook, TenantRoom};
use protocol::id::{JobId, TenantId};
use protocol::signed::Signed;
use protocol::tenure::{Statement, Term};
use protocol::ticket::{Answer, Offer};
use protocol::trust::Right;
use transport::openapi::{Operation, get, post};

use crate::serve::{BooksReply, Freshness, LeaseRow, Wish};

/// What everybody is given.
const TEXT: &str = include_str!("../../docs/openapi/arbiter.json");

const DESCRIPTION: &str = "An arbiter signs permissions: a host starts or resizes nothing without the grants of a quorum of them. A witness answers the same, of VMs with on_loss = stop alone, and keeps no books. What is signed travels as a JSON string; docs/ticket-format.md says what is in it, and docs/api.md what each denial means.";

pub(crate) async fn show() -> Response {
    transport::openapi::reply(TEXT)
}

/// The document, made anew.
#[must_use]
pub fn openapi() -> serde_json::Value {
    transport::openapi::document("Ostler arbiter", DESCRIPTION, &operations())
}

fn operations() -> Vec<Operation> {
    vec![
        get("/v1/health", "Who it is, and what it waits for until it grants")
            .answers::<Health>(200),
        get("/v1/openapi.json", "This document").answers::<serde_json::Value>(200),
        get("/v1/books", "What it has promised to whom, and what is left of each quota")
            .right(Right::Read)
            .answers::<BooksReply>(200),
        get(
            "/v1/handover",
            "Its word that a change of arbiters may be completed, or what it waits for",
        )
        .right(Right::Read)
        .answers::<HandoverReply>(200),
        post("/v1/grants", "A signed yes or no to a host's offer")
            .right(Right::Run)
            .query::<Wish>()
            .body::<Signed<Offer>>()
            .answers::<Answer>(200)
            .refuses(&["no-arbiter"]),
        get("/v1/tenants/{tenant}", "Its part of a tenant's limit, and what it has booked of it")
            .right(Right::Read)
            .path::<TenantId>("tenant")
            .answers::<TenantBook>(200)
            .refuses(&["no-arbiter"]),
        get("/v1/tenants/{tenant}/jobs/{job}", "What a job could have of its tenant's limit")
            .right(Right::Read)
            .path::<TenantId>("tenant")
            .path::<JobId>("job")
            .query::<Freshness>()
            .answers::<TenantRoom>(200)
            .refuses(&["no-arbiter"]),
        post("/v1/statements", "For how long a host may go on with what it says that it holds")
            .body::<Signed<Statement>>()
            .answers::<Signed<Term>>(200)
            .refuses(&["no-arbiter"]),
        get("/v1/leases/{job}", "Whom it lets run a job that is killed when it is not covered")
            .right(Right::Read)
            .path::<JobId>("job")
            .answers::<Option<LeaseRow>>(200),
        get("/metrics", "Grants, denials, books and quotas, for Prometheus")
            .right(Right::Scrape)
            .answers_text(200),
    ]
}
