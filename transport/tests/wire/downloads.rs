//! Files from the web: whose certificates are believed, which redirections are followed, and what is
//! gone on from.

use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use transport::download::{Download, DownloadError, Had, Web, WebUrl};

use super::{LIMIT, anywhere};

/// An authority, and a server whose certificate is signed by it.
fn authority() -> (CertificateDer<'static>, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap().der().clone();
    let key = PrivatePkcs8KeyDer::from(leaf_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key.into())
        .unwrap();
    (root, TlsAcceptor::from(Arc::new(config)))
}

/// Answers each connection with what `answer` makes of the request's head; its address.
async fn serve(
    tls: Option<TlsAcceptor>,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, answer) = (tls.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                match tls {
                    None => reply(stream, &*answer).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => reply(stream, &*answer).await,
                        Err(_) => Ok(()),
                    },
                }
            });
        }
    });
    address
}

async fn reply(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(dyn Fn(&str) -> String + Send + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    stream.write_all(answer(&head).as_bytes()).await?;
    stream.shutdown().await
}

async fn all(mut download: Download) -> Result<Vec<u8>, DownloadError> {
    let mut got = Vec::new();
    while let Some(bytes) = download.next().await? {
        got.extend_from_slice(&bytes);
    }
    Ok(got)
}

async fn get(web: &Web, url: &str, had: &Had) -> Result<Vec<u8>, DownloadError> {
    all(web.download(&WebUrl::parse(url).unwrap(), had, LIMIT).await?).await
}

fn whole(_: &str) -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: \"v2\"\r\n\r\nhello".to_owned()
}

#[tokio::test]
async fn a_server_is_believed_by_an_authority_that_the_machine_believes_and_by_no_other() {
    let (root, tls) = authority();
    let address = serve(Some(tls), whole).await;
    let url = format!("https://{address}/x");
    let web = Web::believing(vec![root]);
    assert_eq!(get(&web, &url, &Had::default()).await.unwrap(), b"hello");
    let (other, _) = authority();
    for web in [Web::believing(vec![other]), Web::believing(vec![])] {
        let error = get(&web, &url, &Had::default()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_redirection_is_followed_but_never_out_of_tls_without_a_digest() {
    let plain = serve(None, whole).await;
    let (root, tls) = authority();
    let redirect =
        move |_: &str| format!("HTTP/1.1 302 Found\r\nlocation: http://{plain}/y\r\n\r\n");
    let address = serve(Some(tls), redirect).await;
    let url = format!("https://{address}/x");
    let web = Web::believing(vec![root]);
    let error = get(&web, &url, &Had::default()).await.unwrap_err();
    assert!(matches!(&error, DownloadError::Refused(why) if why.contains("sha256")), "{error}");
    let checked = Had { is_checked: true, ..Had::default() };
    assert_eq!(get(&web, &url, &checked).await.unwrap(), b"hello");

    let round = serve(None, |_| "HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n".to_owned()).await;
    let error = get(&web, &format!("http://{round}/x"), &checked).await.unwrap_err();
    assert!(matches!(error, DownloadError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_part_is_gone_on_from_if_the_file_is_the_same_and_else_it_begins_anew() {
    let address = serve(None, |head| {
        let is_same = head.contains("range: bytes=3-") && head.contains("if-range: \"v2\"");
        if is_same {
            let range = "content-length: 2\r\ncontent-range: bytes 3-4/5";
            format!("HTTP/1.1 206 Partial Content\r\n{range}\r\n\r\nlo")
        } else {
            whole(head)
        }
    })
    .await;
    let web = Web::believing(vec![]);
    let url = WebUrl::parse(&format!("http://{address}/x")).unwrap();
    let begun = async |version: &str| {
        let had = Had { bytes: 3, version: Some(version.to_owned()), is_checked: false };
        let download = web.download(&url, &had, LIMIT).await.unwrap();
        let from_byte = download.from_byte;
        (from_byte, Bytes::from(all(download).await.unwrap()))
    };
    assert_eq!(begun("\"v2\"").await, (3, Bytes::from_static(b"lo")));
    assert_eq!(begun("\"v1\"").await, (0, Bytes::from_static(b"hello")));
}

#[tokio::test]
async fn an_end_that_is_missing_is_noticed() {
    let short = |_: &str| "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello".to_owned();
    let address = serve(None, short).await;
    let web = Web::believing(vec![]);
    let error = get(&web, &format!("http://{address}/x"), &Had::default()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Broken(_)), "{error}");
}
