//! `ostler vnc` and `ostler screenshot`: a VM's screen, for a viewer on this machine or as a file.
//!
//! ```text
//! viewer ── port or socket of this machine ──▶ ostler vnc ── TLS ──▶ agent of its host ──▶ QEMU
//! ```
//!
//! Decides that nothing but this machine is listened to, that one viewer is served at a time, and that
//! each finds the VM where it is then: a viewer that comes again after a move finds it again.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use protocol::id::JobId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use transport::stream::Frame;
use transport::{Frames, connect_stream};

use crate::cli::{ScreenshotArgs, VncArgs};
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// Bytes read of a viewer at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// Largest picture that is kept: far more than a screen of 8K needs as PNG.
const PICTURE_BYTES_MAX: usize = 256 << 20;

/// Where a viewer comes in.
enum Door {
    Port(TcpListener),
    Socket(UnixListener, PathBuf),
}

/// What a viewer speaks through.
trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

pub(crate) async fn vnc(session: &Session, args: VncArgs) -> Result<Code, Failure> {
    // What cannot be seen is said before anybody waits for a viewer.
    drop(open(session, &args.name).await?);
    let (door, address) = Door::open(args.socket, args.port).await.map_err(|error| {
        Failure::new(Code::Usage, format!("listen for a viewer: {error}"))
            .next("choose another --port or --socket")
    })?;
    show::line(&address);
    show::note(&format!("the screen of {} for a VNC viewer; Ctrl-C ends it", args.name));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Code::Ok),
            line = door.next() => match line {
                Ok(line) => attend(session, &args.name, line).await,
                Err(error) => {
                    return Err(Failure::new(Code::Failed, format!("listen for a viewer: {error}")));
                }
            }
        }
        if args.once {
            return Ok(Code::Ok);
        }
    }
}

pub(crate) async fn screenshot(session: &Session, args: ScreenshotArgs) -> Result<Code, Failure> {
    let png = picture_of(session, &session.picture().await?, &args.name).await?;
    let file = args.output.unwrap_or_else(|| PathBuf::from(format!("{}.png", args.name)));
    let written = if file == Path::new("-") {
        std::io::stdout().lock().write_all(&png)
    } else {
        std::fs::write(&file, &png)
    };
    let shown = file.display();
    written.map_err(|error| Failure::new(Code::Failed, format!("write {shown}: {error}")))?;
    if file != Path::new("-") {
        show::line(&format!("{shown}: {} bytes", png.len()));
    }
    Ok(Code::Ok)
}

/// What its screen shows now, as PNG.
pub(crate) async fn picture_of(
    session: &Session,
    picture: &Picture,
    id: &JobId,
) -> Result<Vec<u8>, Failure> {
    let agent = picture.agent(&picture.job(id)?.host);
    let path = format!("/v1/jobs/{id}/screenshot");
    Ok(session.client.get_bytes(&agent, &path, PICTURE_BYTES_MAX).await?.to_vec())
}

/// The VM's screen, where it is now.
async fn open(session: &Session, id: &JobId) -> Result<Frames, Failure> {
    let picture = session.picture().await?;
    let agent = picture.agent(&picture.job(id)?.host);
    Ok(connect_stream(&session.client, &agent, &format!("/v1/jobs/{id}/vnc")).await?)
}

/// Serves one viewer until it goes, or the screen does.
async fn attend(session: &Session, id: &JobId, line: Box<dyn Line>) {
    match open(session, id).await {
        Ok(screen) => tokio::select! {
            () = pass_on(line, screen) => show::note("the viewer has gone, or the screen"),
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(failure) => show::note(&format!("no screen for the viewer: {failure}")),
    }
}

async fn pass_on(line: Box<dyn Line>, mut screen: Frames) {
    let (mut from_viewer, mut to_viewer) = tokio::io::split(line);
    let sender = screen.sender();
    let typing = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from_viewer.read(&mut chunk).await {
            if sender.send_bytes(chunk[..length].to_vec()).await.is_err() {
                return;
            }
        }
    };
    let showing = async {
        loop {
            match screen.next_frame().await {
                Some(Ok(Frame::Bytes(bytes))) => {
                    if to_viewer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Frame::Text(_))) => {}
                Some(Err(error)) => return show::note(&error.to_string()),
                None => return,
            }
        }
    };
    tokio::select! {
        () = typing => {}
        () = showing => {}
    }
}

impl Door {
    /// Opens it; also its address as viewers take it.
    async fn open(socket: Option<PathBuf>, port: u16) -> std::io::Result<(Self, String)> {
        let Some(path) = socket else {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            // Two colons: a port, not the number of a display.
            let address = format!("127.0.0.1::{}", port.local_addr()?.port());
            return Ok((Door::Port(port), address));
        };
        let listener = UnixListener::bind(&path)?;
        let address = path.display().to_string();
        let door = Door::Socket(listener, path);
        if let Door::Socket(_, path) = &door {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok((door, address))
    }

    async fn next(&self) -> std::io::Result<Box<dyn Line>> {
        Ok(match self {
            Door::Port(listener) => Box::new(listener.accept().await?.0),
            Door::Socket(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Door::Socket(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
