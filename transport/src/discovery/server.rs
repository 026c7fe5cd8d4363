//! A discovery server: Flynn's three endpoints, with expiry, proofs and a file that survives.
//!
//! ```text
//! POST   /clusters                     201, Location: /clusters/TOKEN
//! POST   /clusters/TOKEN/instances     201 new, 409 there already (refreshed); the entry either way
//! GET    /clusters/TOKEN/instances     200 {"data": […]}
//! DELETE /clusters/TOKEN/instances/ID  204; a proven entry needs its host's word in `ostler-proof`
//! ```
//!
//! What the entries mean is decided in `book`; here they are persisted before they are confirmed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, StatusCode};
use protocol::refusal::{Problem, Refusal};
use protocol::signed::Signed;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::book::{Book, BookLimits, Registered};
use super::record::{Departure, Instance};
use crate::clock::Clock;
use crate::durable;
use crate::problem::{Json, ProblemReply, finish};

/// Carries a host's word that it leaves.
pub(super) const PROOF: HeaderName = HeaderName::from_static("ostler-proof");

/// Largest registration: names, keys and a proof fit many times over.
const BODY_BYTES_MAX: usize = 32 << 10;

/// What a discovery server knows, in memory and in one file.
#[derive(Debug)]
pub struct DiscoveryStore {
    file: Option<PathBuf>,
    clock: Clock,
    limits: BookLimits,
    kept: Mutex<Kept>,
    /// The last change that is on disk. Held while the file is written, so that changes which
    /// arrive meanwhile share the next write.
    written: Mutex<u64>,
}

/// The book, and how often it was changed.
#[derive(Debug, Default)]
struct Kept {
    book: Book,
    changes: u64,
}

/// How Flynn wraps everything.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wrapped<T> {
    pub(super) data: T,
}

impl DiscoveryStore {
    /// The store kept in `file`, empty when there is none yet.
    pub fn open(file: impl Into<PathBuf>, clock: Clock) -> io::Result<Arc<Self>> {
        let file = file.into();
        let mut book = match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json).map_err(|e| {
                let why = format!("{} is no discovery store: {e}", file.display());
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(e) => return Err(e),
        };
        book.start(clock.now().mono_ms);
        Ok(Self::new(Some(file), clock, book, BookLimits::default()))
    }

    /// A store that ends with the process.
    #[must_use]
    pub fn in_memory(clock: Clock, limits: BookLimits) -> Arc<Self> {
        Self::new(None, clock, Book::default(), limits)
    }

    fn new(file: Option<PathBuf>, clock: Clock, book: Book, limits: BookLimits) -> Arc<Self> {
        let kept = Mutex::new(Kept { book, changes: 0 });
        Arc::new(Self { file, clock, limits, kept, written: Mutex::new(0) })
    }

    async fn create(&self) -> Result<String, Box<Problem>> {
        let token = Uuid::new_v4().to_string();
        let now_ms = self.clock.now().mono_ms;
        self.change(|book| book.create(now_ms, &self.limits, &token)).await?;
        Ok(token)
    }

    async fn register(&self, token: &str, given: Instance) -> Result<Registered, Box<Problem>> {
        let now = self.clock.now();
        let wall_ms = i64::try_from(now.wall_ms).unwrap_or_default();
        let created_at = jiff::Timestamp::from_millisecond(wall_ms).unwrap_or_default().to_string();
        let given = Instance { id: Uuid::new_v4().to_string(), created_at, ..given };
        let (registered, change) = {
            let mut kept = self.kept.lock().await;
            let registered = kept.book.register(now.mono_ms, &self.limits, token, given)?;
            // A refresh, by far the most common request, is no change.
            kept.changes += u64::from(!matches!(registered, Registered::AlreadySo(_)));
            (registered, kept.changes)
        };
        self.persist(change).await?;
        Ok(registered)
    }

    async fn list(&self, token: &str) -> Result<Vec<Instance>, Box<Problem>> {
        let now_ms = self.clock.now().mono_ms;
        self.kept.lock().await.book.list(now_ms, &self.limits, token)
    }

    async fn withdraw(
        &self,
        token: &str,
        id: &str,
        proof: Option<&Signed<Departure>>,
    ) -> Result<(), Box<Problem>> {
        let now_ms = self.clock.now().mono_ms;
        self.change(|book| book.withdraw(now_ms, &self.limits, token, id, proof)).await
    }

    async fn change<T>(
        &self,
        change: impl FnOnce(&mut Book) -> Result<T, Box<Problem>>,
    ) -> Result<T, Box<Problem>> {
        let (answer, change) = {
            let mut kept = self.kept.lock().await;
            let answer = change(&mut kept.book)?;
            kept.changes += 1;
            (answer, kept.changes)
        };
        self.persist(change).await?;
        Ok(answer)
    }

    /// Returns once this change, and all before it, are on disk.
    async fn persist(&self, change: u64) -> Result<(), Box<Problem>> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let mut written = self.written.lock().await;
        if *written >= change {
            return Ok(());
        }
        let (json, changes) = {
            let kept = self.kept.lock().await;
            (serde_json::to_vec(&kept.book).expect("the book is always valid JSON"), kept.changes)
        };
        let done = tokio::task::spawn_blocking(move || durable::replace(&file, &json)).await;
        match done.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                *written = changes;
                Ok(())
            }
            Err(error) => {
                tracing::error!("write discovery store: {error}");
                let detail = "the server cannot write its store, and would forget this when it \
                              restarts; ask again";
                Err(Box::new(Problem::new(503, "store-read-only", detail)))
            }
        }
    }
}

/// The endpoints over a store; complete, to be served on plain HTTP.
pub fn discovery_router(store: Arc<DiscoveryStore>) -> Router {
    let routes = Router::new()
        .route("/clusters", post(create_cluster))
        .route("/clusters/{token}/instances", post(register).get(list))
        .route("/clusters/{token}/instances/{id}", delete(withdraw))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(store);
    finish(routes)
}

type Shared = State<Arc<DiscoveryStore>>;

async fn create_cluster(State(store): Shared) -> Result<Response, ProblemReply> {
    let token = store.create().await?;
    Ok((StatusCode::CREATED, [(LOCATION, format!("/clusters/{token}"))]).into_response())
}

async fn register(
    State(store): Shared,
    Path(token): Path<String>,
    Json(given): Json<Wrapped<Instance>>,
) -> Result<Response, ProblemReply> {
    let (status, instance) = match store.register(&token, given.data).await? {
        Registered::Created(instance) => (StatusCode::CREATED, instance),
        Registered::Changed(instance) | Registered::AlreadySo(instance) => {
            (StatusCode::CONFLICT, instance)
        }
    };
    let location = format!("/clusters/{token}/instances/{}", instance.id);
    Ok((status, [(LOCATION, location)], Json(Wrapped { data: instance })).into_response())
}

async fn list(
    State(store): Shared,
    Path(token): Path<String>,
) -> Result<Json<Wrapped<Vec<Instance>>>, ProblemReply> {
    Ok(Json(Wrapped { data: store.list(&token).await? }))
}

async fn withdraw(
    State(store): Shared,
    Path((token, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, ProblemReply> {
    let proof = headers.get(PROOF).map(|value| value.to_str().unwrap_or_default().parse());
    let proof = proof.transpose().map_err(|e: protocol::signed::SignedError| Refusal::Invalid {
        message: format!("header {PROOF}: {e}"),
    })?;
    store.withdraw(&token, &id, proof.as_ref()).await?;
    Ok(StatusCode::NO_CONTENT)
}
