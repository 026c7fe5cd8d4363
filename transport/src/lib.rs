//! The only crate that knows sockets: HTTP server and client, WebSocket, TLS, discovery, retry, clock.
//!
//! It decides how bytes travel and who is at the other end (a key, never an address). What a peer
//! may do, what is asked and what to do about an answer are left to the crates above.

pub mod clock;

pub mod identity;

pub mod tls;

pub mod certificate;

pub mod problem;

pub mod openapi;

pub mod metrics;

pub mod traces;

pub mod server;

pub mod client;

pub mod download;

pub mod endpoint;

pub mod call_error;

pub mod stream;

pub mod lines;

pub mod pipe;

pub mod backoff;

pub mod shutdown;

pub mod notify;

pub mod discovery;

pub mod durable;

pub mod trust_file;

mod body;

mod io;

mod pool;

mod tcp;

mod address;
pub use address::own_address;

pub use backoff::Backoff;
pub use call_error::{CallError, with_causes};
pub use client::{Client, Reply};
pub use clock::{Clock, Now};
pub use endpoint::Endpoint;
pub use http::{Method, StatusCode};
pub use identity::Identity;
pub use problem::{Json, ProblemReply};
pub use server::{Listen, Peer, Server, Via};
pub use stream::{FrameSender, Frames, connect_stream};
pub use tokio_util::sync::CancellationToken;
