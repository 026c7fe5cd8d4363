//! The page's server: its address, its paths, and what they share.
//!
//! Decides what a browser is told about every answer: to run no script but the page's own, to show it
//! in no other page, to keep nothing, and to say to nobody where it was.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::watch;
use transport::server::Limits;
use transport::stream::Upgrade;
use transport::{CancellationToken, Clock, Listen, ProblemReply, Server, problem};
use uuid::Uuid;

use super::files::{self, File};
use super::follower::follow;
use super::gate::{Gate, Verdict};
use super::program::Program;
use super::replica::Replica;
use super::runs::{self, Runs};
use super::workers::{self, Workers};
use super::{UiArgs, ask, cluster, console, feed, lists, look};
use crate::cli::Global;
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;

/// Connections of browsers: a few pages, each with its streams.
const CONNECTIONS_MAX: usize = 128;

/// What all requests share.
pub(crate) struct Shared {
    pub(super) clock: Clock,
    pub(super) sessions: watch::Receiver<Arc<Session>>,
    pub(super) replicas: watch::Receiver<Arc<Replica>>,
    pub(super) runs: watch::Sender<Arc<Runs>>,
    pub(super) program: Arc<Program>,
    pub(super) workers: Arc<Workers>,
    /// The folder for backups, if the page was given one.
    pub(super) backups: Option<String>,
}

impl Shared {
    /// The session, and what is known now: what the page shows, or asked anew while that is cut.
    pub(super) async fn now(&self) -> Result<(Arc<Session>, Picture), Failure> {
        let session = self.sessions.borrow().clone();
        let replica = self.replicas.borrow().clone();
        let known = replica.picture(self.clock.now().mono_ms);
        let picture = match replica.is_current() && !known.rows.is_empty() {
            true => known,
            false => session.picture().await?,
        };
        Ok((session, picture))
    }
}

/// A refusal of the gate.
pub(crate) struct Refused(pub(crate) ProblemReply);

/// The page, before it is served.
pub(crate) struct Page {
    server: Server,
    addr: SocketAddr,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Page {
    /// Takes the address, and begins to follow the cluster.
    pub(crate) async fn bind(
        global: Global,
        session: Session,
        args: UiArgs,
        stop: CancellationToken,
    ) -> Result<Self, Failure> {
        let UiArgs { listen, backups } = args;
        let identity = Arc::clone(session.client.identity());
        let bound = Server::bind(Listen::Plain(listen), identity).await.map_err(|error| {
            Failure::new(Code::Failed, "serve the page")
                .because(error)
                .next("choose another port with --listen 127.0.0.1:PORT, or 0 for any")
        })?;
        let limits = Limits { connections_max: CONNECTIONS_MAX, ..Limits::default() };
        let server = bound.with_limits(limits);
        let addr = server.local_addr().unwrap_or(listen);
        let clock = Clock::real();
        let program = Arc::new(Program::of(&global));
        let workers = Workers::new(Arc::clone(&program), clock.clone());
        let sessions = cluster::follow(global, session);
        let replicas = follow(sessions.clone(), clock.clone(), stop.clone());
        let runs = watch::Sender::new(Arc::new(Runs::default()));
        tokio::spawn({
            let asking = runs::follow(sessions.clone(), clock.clone(), runs.clone());
            let stop = stop.clone();
            async move { stop.run_until_cancelled(asking).await }
        });
        // A random uuid is 122 bits of the system's randomness.
        let secrets = [(); 3].map(|()| Uuid::new_v4());
        let gate = Arc::new(Gate::new(authorities(addr), addr.port(), secrets));
        let shared =
            Arc::new(Shared { clock, sessions, replicas, runs, program, workers, backups });
        Ok(Self { server, addr, gate, shared, stop })
    }

    /// The address with the token, for the person.
    pub(crate) fn url(&self) -> String {
        self.gate.url()
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until it is told to stop, and then sees the chores to their end.
    pub(crate) async fn serve(self) {
        let Self { server, gate, shared, stop, .. } = self;
        let workers = Arc::clone(&shared.workers);
        server.serve(router(gate, shared), stop).await;
        workers.leave().await;
    }
}

/// What a browser may have in its address line: the address itself, or this machine's own name for it.
fn authorities(addr: SocketAddr) -> Vec<String> {
    let names = [addr.to_string(), format!("localhost:{}", addr.port())];
    // Browsers leave the usual port away.
    let bare =
        names.clone().into_iter().filter_map(|name| Some(name.strip_suffix(":80")?.to_owned()));
    let bare: Vec<String> = bare.collect();
    names.into_iter().chain(bare).collect()
}

fn router(gate: Arc<Gate>, shared: Arc<Shared>) -> Router {
    let room = Router::new()
        .route("/", get(page))
        .route("/{file}", get(part))
        .route("/feed", get(open_feed))
        .route("/ask", post(ask::ask))
        .route("/chores", post(workers::begin))
        .route("/chores/{chore}", delete(workers::end))
        .route("/lists/{list}", get(lists::list))
        .route("/jobs/{job}", get(look::job))
        .route("/jobs/{job}/why", get(look::why))
        .route("/jobs/{job}/events", get(look::events))
        .route("/jobs/{job}/console", get(console::open))
        .route("/jobs/{job}/screenshot", get(look::screenshot))
        .route("/jobs/{job}/log", get(look::log))
        .route("/hosts/{host}/drain", get(look::rehearse_drain))
        .with_state(shared);
    // `nest` would take the slash from the page's own address.
    let all = Router::new().nest_service(&gate.room(), problem::finish(room));
    all.layer(middleware::from_fn_with_state(gate, guard))
}

/// Lets nobody past who may not, and tells browsers what they may do with an answer.
async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let verdict = gate.judge(&head);
    let host = head.headers.get(header::HOST).cloned();
    let mut response = match verdict {
        Verdict::Enter => {
            let to = format!("{}/", gate.room());
            let headers = [(header::LOCATION, to)];
            let mut response = (StatusCode::SEE_OTHER, headers).into_response();
            response.headers_mut().insert(header::SET_COOKIE, gate.set_cookie());
            response
        }
        Verdict::Pass => next.run(Request::from_parts(head, body)).await,
        Verdict::Refuse(why) => why.refused().0.into_response(),
    };
    restrain(response.headers_mut(), host.as_ref());
    response
}

/// What every answer says to a browser.
fn restrain(headers: &mut HeaderMap, host: Option<&HeaderValue>) {
    // Streams are of the page's own address too, which not every browser takes `'self'` for.
    let stream = host.and_then(|host| host.to_str().ok()).map_or(String::new(), |host| {
        let is_plain = host.chars().all(|c| c.is_ascii_alphanumeric() || ".:[]-".contains(c));
        if is_plain { format!(" ws://{host}") } else { String::new() }
    });
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{stream}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let policy = HeaderValue::from_str(&policy).expect("plain words are a valid header");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    for (name, value) in RESTRAINTS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

const RESTRAINTS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

async fn page() -> Response {
    answer(&files::PAGE)
}

async fn part(Path(name): Path<String>) -> Result<Response, ProblemReply> {
    let no = || ProblemReply::new(404, "no-such-path", format!("the page has no {name}"));
    files::part(&name).map(answer).ok_or_else(no)
}

fn answer(file: &File) -> Response {
    ([(header::CONTENT_TYPE, file.kind)], file.text).into_response()
}

async fn open_feed(State(shared): State<Arc<Shared>>, upgrade: Upgrade) -> Response {
    upgrade.frames(move |frames| feed::run(shared, frames))
}
