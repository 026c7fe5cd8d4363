//! Requests: who is asking, what an error says, and whether a call may have had an effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use http::{HeaderName, HeaderValue};
use protocol::refusal::Refusal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use transport::call_error::NotSent;
use transport::client::Patience;
use transport::problem::finish;
use transport::server::Limits;
use transport::{
    CallError, CancellationToken, Client, Endpoint, Identity, Json, Listen, Method, Peer,
    ProblemReply, Server, Via, tls,
};

use crate::{Running, anywhere, client, free_addr, within};

fn who() -> Router {
    let whoami = |peer: Peer| async move { Json(json!({ "who": peer.to_string() })) };
    let echo = |Json(value): Json<Value>| async move { Json(value) };
    let size = |body: Bytes| async move { Json(body.len()) };
    let refuse = || async {
        let refusal = Refusal::Busy { what: "starts".into(), limit: 4, retry_after_ms: 1500 };
        Err::<(), _>(ProblemReply::from(refusal))
    };
    finish(
        Router::new()
            .route("/who", get(whoami))
            .route("/echo", post(echo))
            .route("/size", put(size).layer(DefaultBodyLimit::max(8 << 20)))
            .route("/busy", get(refuse))
            .route("/panic", get(async || -> () { panic!("on purpose") })),
    )
}

#[tokio::test]
async fn a_handler_knows_the_key_of_its_peer() {
    let server = Running::tls(who()).await;
    let client = client();
    let answer: Value = client.get(&server.https(), "/who").await.unwrap();
    assert_eq!(answer["who"], format!("key {}", client.identity().public()));
}

#[tokio::test]
async fn a_client_learns_the_key_of_its_server() {
    let server = Running::tls(who()).await;
    let to = Endpoint::anyone(server.https().url);
    let reply = client().send::<_, Value>(Method::POST, &to, "/echo", &json!([1])).await.unwrap();
    assert_eq!(reply.peer, Some(server.identity.public()));
    assert_eq!((reply.status, reply.body), (200, json!([1])));
}

#[tokio::test]
async fn somebody_else_at_the_address_is_told_nothing() {
    let server = Running::tls(who()).await;
    let other = Identity::ephemeral();
    let url = server.https().url;
    for to in [
        Endpoint::of_key(&url, other.public()),
        Endpoint::of_host(&url, other.host_id()),
        Endpoint { host: Some(other.host_id()), ..server.https() },
    ] {
        let error = client().get::<Value>(&to, "/who").await.unwrap_err();
        let CallError::NotSent { source: NotSent::WrongKey { expected, found }, .. } = &error
        else {
            panic!("{error:?}")
        };
        assert!(
            expected.contains(&other.public().to_string())
                || expected.contains(other.host_id().as_str())
        );
        assert!(found.contains(server.identity.host_id().as_str()), "{found}");
        assert!(!error.is_retriable() && !error.may_have_had_effect());
    }
    let right = Endpoint::of_host(&url, server.identity.host_id());
    client().get::<Value>(&right, "/who").await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_key_is_refused() {
    let server = Running::tls(who()).await;
    let with_key = tls::client_config(&Identity::ephemeral());
    let verifier = Arc::clone(with_key.crypto_provider());
    let no_key = rustls::ClientConfig::builder_with_provider(verifier)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let connector = TlsConnector::from(Arc::new(no_key));
    let mut stream = connector.connect(tls::server_name(), stream).await.unwrap();
    // In TLS 1.3 the client believes to be connected before the server has looked at its key.
    let _ = stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    let read = within(stream.read_to_end(&mut answer)).await;
    assert!(read.is_err(), "got {}", String::from_utf8_lossy(&answer));
    assert!(answer.is_empty());
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    // A server that shows another's certificate but signs with its own key.
    let (victim, thief) = (Identity::ephemeral(), Identity::ephemeral());
    let shown = tls::server_config(&victim);
    let signs = tls::server_config(&thief);
    let resolver = Arc::new(Mixed { shown, signs });
    let provider = Arc::clone(resolver.signs.crypto_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = acceptor.accept(stream).await;
    });
    let to = Endpoint::of_key(url, victim.public());
    let error = client().get::<Value>(&to, "/who").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { source: NotSent::Tls(_), .. }), "{error:?}");
}

#[derive(Debug)]
struct Mixed {
    shown: rustls::ServerConfig,
    signs: rustls::ServerConfig,
}

impl rustls::server::ResolvesServerCert for Mixed {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let der = rcgen_of(&self.shown);
        let key = rcgen_of(&self.signs);
        Some(Arc::new(rustls::sign::CertifiedKey::new(der.cert.clone(), Arc::clone(&key.key))))
    }
}

/// The certificate and key inside a server's configuration.
fn rcgen_of(config: &rustls::ServerConfig) -> Arc<rustls::sign::CertifiedKey> {
    use rustls::server::Acceptor;
    // The resolver wants a hello; a real one is the simplest to come by.
    let client = tls::client_config(&Identity::ephemeral());
    let mut connection =
        rustls::ClientConnection::new(Arc::new(client), tls::server_name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    config.cert_resolver.resolve(accepted.client_hello()).unwrap()
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_to_use_https() {
    let server = Running::tls(who()).await;
    let error = client().get::<Value>(&Endpoint::anyone(server.http()), "/who").await.unwrap_err();
    let problem = error.problem().expect("a problem document");
    assert_eq!((problem.status, problem.name()), (400, "use-https"));
}

#[tokio::test]
async fn the_local_socket_is_private_and_replaces_a_stale_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Running::start(Listen::Unix(path.clone()), who()).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let to = Endpoint::anyone(format!("unix:{}", path.display()));
    let answer: Value = client().get(&to, "/who").await.unwrap();
    assert_eq!(answer["who"], "local socket");
    let pinned = Endpoint { key: Some(server.identity.public()), ..to };
    let error = client().get::<Value>(&pinned, "/who").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { source: NotSent::WrongKey { .. }, .. }));

    let second = Server::bind(Listen::Unix(path.clone()), Arc::clone(&server.identity)).await;
    assert!(second.is_err(), "took the socket of a living server");
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "keep").unwrap();
    let over = Server::bind(Listen::Unix(file.clone()), Arc::clone(&server.identity)).await;
    assert!(over.is_err() && std::fs::read_to_string(&file).unwrap() == "keep");
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let server = Running::tls(who()).await;
    let (client, to) = (client(), server.https());
    let send = async |method: Method, path: &str| {
        let error = client.send::<_, Value>(method, &to, path, &()).await.unwrap_err();
        let problem = error.problem().unwrap_or_else(|| panic!("{error:?}")).clone();
        (problem.status, problem.name().to_owned())
    };
    assert_eq!(send(Method::GET, "/nowhere").await, (404, "no-such-path".into()));
    assert_eq!(send(Method::DELETE, "/who").await, (405, "no-such-method".into()));
    assert_eq!(send(Method::POST, "/echo").await, (415, "not-json".into()));
    assert_eq!(send(Method::GET, "/panic").await, (500, "internal".into()));
    assert_eq!(send(Method::GET, "/busy").await, (429, "busy".into()));
    let large = "x".repeat(1 << 20);
    let error = client.send::<_, Value>(Method::POST, &to, "/echo", &large).await.unwrap_err();
    assert_eq!(error.problem().map(|p| p.name()), Some("body-too-large"), "{error}");
}

#[tokio::test]
async fn bad_json_gets_a_problem_a_request_id_and_a_place() {
    let server = Running::start(Listen::Plain(anywhere()), who()).await;
    let answer = raw(&server, "POST /echo HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ncontent-type: application/json\r\ncontent-length: 3\r\nconnection: close\r\n\r\n{a}").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("x-request-id: mine"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("line 1 column 2"), "{answer}");
    let answer = raw(&server, "GET /busy HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("retry-after: 2"), "{answer}");
}

async fn raw(server: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_body_that_stops_coming_is_refused_and_one_that_comes_slowly_is_not() {
    let identity = Arc::new(Identity::ephemeral());
    let limits = Limits { body_stall: Duration::from_millis(200), ..Limits::default() };
    let server = Server::bind(Listen::Plain(anywhere()), identity).await.unwrap();
    let (addr, stop) = (server.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(server.with_limits(limits).serve(who(), stop.clone()));
    let put = |bytes: usize| {
        format!(
            "PUT /size HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
        )
    };

    let mut stalled = TcpStream::connect(addr).await.unwrap();
    stalled.write_all(put(100_000).as_bytes()).await.unwrap();
    stalled.write_all(b"x").await.unwrap();
    let mut answer = String::new();
    within(stalled.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("too slowly"), "{answer}");

    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(put(8 * 20_000).as_bytes()).await.unwrap();
    for _ in 0..8 {
        slow.write_all(&[0; 20_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut answer = String::new();
    within(slow.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("160000"), "{answer}");
    stop.cancel();
}

#[tokio::test]
async fn a_refusal_keeps_its_numbers_on_the_way() {
    let server = Running::tls(who()).await;
    let error = client().get::<Value>(&server.https(), "/busy").await.unwrap_err();
    let expected = Refusal::Busy { what: "starts".into(), limit: 4, retry_after_ms: 1500 };
    assert_eq!(error.refusal(), Some(&expected));
    assert!(error.is_retriable() && !error.may_have_had_effect());
}

#[tokio::test]
async fn nobody_listening_means_not_sent() {
    let to = Endpoint::anyone(format!("https://{}", free_addr()));
    let error = client().get::<Value>(&to, "/who").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { source: NotSent::Connect(_), .. }), "{error:?}");
    assert!(error.is_retriable() && !error.may_have_had_effect());
    assert_eq!(error.to_string(), format!("GET {}/who: not sent", to.url));
}

#[tokio::test]
async fn a_peer_that_never_greets_means_not_sent() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let to = Endpoint::anyone(format!("https://{}", listener.local_addr().unwrap()));
    let patience = Patience { connect: Duration::from_millis(100), ..Patience::default() };
    let error = client().with_patience(patience).get::<Value>(&to, "/").await.unwrap_err();
    assert!(
        matches!(error, CallError::NotSent { source: NotSent::TimedOut(100), .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_address_that_makes_no_sense_means_not_sent() {
    for url in ["", "10.0.0.1:1", "ftp://10.0.0.1:1", "https://10.0.0.1:1/path", "https://a:99999"]
    {
        let error = client().get::<Value>(&Endpoint::anyone(url), "/").await.unwrap_err();
        let is_unusable = matches!(error, CallError::NotSent { source: NotSent::Unusable(_), .. });
        assert!(is_unusable && !error.is_retriable(), "{url:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_ambiguous() {
    let identity = Identity::ephemeral();
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity)));
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let to =
        Endpoint::of_key(format!("https://{}", listener.local_addr().unwrap()), identity.public());
    let answers = ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":", "HTTP/1.1 2"];
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    for answer in answers {
        let sent = client().send::<_, Value>(Method::POST, &to, "/x", &json!({})).await;
        let error = sent.unwrap_err();
        assert!(matches!(error, CallError::Ambiguous { .. }), "after {answer:?}: {error:?}");
        assert!(error.is_retriable() && error.may_have_had_effect());
    }
}

#[tokio::test]
async fn a_late_answer_is_ambiguous() {
    let slow = Router::new().route("/slow", get(async || std::future::pending::<()>().await));
    let server = Running::tls(slow).await;
    let client = client().with_deadline(Duration::from_millis(300));
    let error = within(client.get::<Value>(&server.https(), "/slow")).await.unwrap_err();
    assert!(matches!(error, CallError::Ambiguous { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_of_another_kind_is_a_bad_answer() {
    let server = Running::tls(Router::new().route("/text", get(async || "hello"))).await;
    let error = client().get::<Value>(&server.https(), "/text").await.unwrap_err();
    assert!(matches!(error, CallError::BadAnswer { status: 200, .. }), "{error:?}");
    let bytes = client().get_bytes(&server.https(), "/text", 100).await.unwrap();
    assert_eq!(bytes, "hello");
    let error = client().get_bytes(&server.https(), "/text", 4).await.unwrap_err();
    assert!(matches!(error, CallError::BadAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn connections_are_used_again_and_a_restart_in_between_is_not_noticed() {
    let identity = Arc::new(Identity::ephemeral());
    let client = client();
    let addr = free_addr();
    let to = Endpoint::of_key(format!("https://{addr}"), identity.public());
    for _ in 0..3 {
        let server = Server::bind(Listen::Tls(addr), Arc::clone(&identity)).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(who(), stop.clone()));
        for _ in 0..5 {
            client.get::<Value>(&to, "/who").await.unwrap();
        }
        stop.cancel();
        within(serving).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_answer_reads_as_nothing() {
    let router =
        Router::new().route("/gone", axum::routing::delete(async || http::StatusCode::NO_CONTENT));
    let server = Running::tls(router).await;
    let reply =
        client().send::<_, ()>(Method::DELETE, &server.https(), "/gone", &()).await.unwrap();
    assert_eq!(reply.status, 204);
}

#[tokio::test]
async fn a_file_is_streamed_and_a_missing_one_is_not_sent() {
    let server = Running::tls(who()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![7; 5_000_000]).unwrap();
    let headers = [(HeaderName::from_static("x-image"), HeaderValue::from_static("i"))];
    let reply = client().put_file::<u64>(&server.https(), "/size", &path, &headers).await.unwrap();
    assert_eq!(reply.body, 5_000_000);
    let missing = folder.path().join("missing");
    let error =
        client().put_file::<u64>(&server.https(), "/size", &missing, &[]).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { source: NotSent::File { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_refusal_before_the_end_of_an_upload_arrives() {
    let refuse = async || {
        let image = "i".parse().unwrap();
        ProblemReply::from(Refusal::NoImage { image })
    };
    let server = Running::tls(Router::new().route("/image", put(refuse))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![7; 50_000_000]).unwrap();
    let error = client().put_file::<u64>(&server.https(), "/image", &path, &[]).await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::NoImage { .. })), "{error:?}");
}

#[tokio::test]
async fn a_stopping_server_finishes_what_it_has_begun() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, g) = (Arc::clone(&begun), Arc::clone(&go));
    let handler = async move || {
        b.notify_one();
        g.notified().await;
        Json("done")
    };
    let server = Running::tls(Router::new().route("/slow", get(handler))).await;
    let to = server.https();
    let asking = tokio::spawn(async move { client().get::<String>(&to, "/slow").await });
    within(begun.notified()).await;
    let to = server.https();
    let stopping = tokio::spawn(server.stopped());
    // Refused from now on: the listening socket goes first.
    within(async {
        while client().get::<String>(&to, "/slow").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    go.notify_one();
    assert_eq!(within(asking).await.unwrap().unwrap(), "done");
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn requests_that_never_end_do_not_keep_a_server_from_stopping() {
    let slow = Router::new().route("/slow", get(async || std::future::pending::<()>().await));
    let identity = Arc::new(Identity::ephemeral());
    let server = Server::bind(Listen::Tls(anywhere()), Arc::clone(&identity)).await.unwrap();
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let to = Endpoint::anyone(format!("https://{}", server.local_addr().unwrap()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.with_limits(limits).serve(slow, stop.clone()));
    let asking = tokio::spawn(async move { client().get::<Value>(&to, "/slow").await });
    tokio::task::yield_now().await;
    stop.cancel();
    within(serving).await.unwrap();
    assert!(within(asking).await.unwrap().is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_later_ones_served() {
    let identity = Arc::new(Identity::ephemeral());
    let server = Server::bind(Listen::Plain(anywhere()), identity).await.unwrap();
    let addr = server.local_addr().unwrap();
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let stop = CancellationToken::new();
    tokio::spawn(server.with_limits(limits).serve(who(), stop.clone()));
    let to = Endpoint::anyone(format!("http://{addr}"));
    let only = client();
    only.get::<Value>(&to, "/who").await.unwrap();
    assert!(client().get::<Value>(&to, "/who").await.is_err(), "a second place was given");
    drop(only);
    within(async { while client().get::<Value>(&to, "/who").await.is_err() {} }).await;
    stop.cancel();
}

#[tokio::test]
async fn a_slow_handshake_delays_nobody() {
    let server = Running::tls(who()).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        idle.push(stream);
    }
    let client = client().with_deadline(Duration::from_secs(3));
    client.get::<Value>(&server.https(), "/who").await.unwrap();
}

#[tokio::test]
async fn many_calls_at_once_share_a_few_connections() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let router = Router::new().route(
        "/count",
        get(async move |peer: Peer| {
            assert_eq!(peer.via, Via::Tls);
            Json(counter.fetch_add(1, Ordering::Relaxed))
        }),
    );
    let server = Running::tls(router).await;
    let client: Client = client();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (client, to) = (client.clone(), server.https());
            tokio::spawn(async move { client.get::<u32>(&to, "/count").await.unwrap() })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 50);
}
