//! Bringing an image's file from a host to this machine, by its content.
//!
//! It goes on where it was cut, and what has come is believed only when its digest is right. The image is
//! where it was all the time, so a digest that is wrong is a fault on the way or of a disk.

use std::path::Path;
use std::time::Duration;

use protocol::host::ImageFacts;
use protocol::resources::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use transport::backoff::{Backoff, random_unit};
use transport::download::{DownloadError, Had};
use transport::{Client, Endpoint};

use crate::command::import::hex;
use crate::exit::{Code, Failure};
use crate::show;

/// How long a host may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Times in a row that nothing came before it is given up: with the pauses between them a minute or two, in
/// which an agent is restarted.
const IDLE_MAX: u32 = 10;
/// First and longest pause before it is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Pause before a host is asked again that is busy with others.
const BUSY_PAUSE: Duration = Duration::from_secs(3);
/// How often it is told how far it is.
const TOLD_INTERVAL: Duration = Duration::from_secs(5);

/// Brings it into a new file, which only its owner may read.
pub(super) async fn bring(
    client: &Client,
    agent: &Endpoint,
    facts: &ImageFacts,
    to: &Path,
    what: &str,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Code::Failed, format!("write {}", to.display())).because(error)
    };
    let mut file = OpenOptions::new();
    file.create_new(true).write(true).mode(0o600);
    let mut file = file.open(to).await.map_err(failed)?;
    let (mut sha256, mut bytes) = (Sha256::new(), 0_u64);
    let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
    let mut told = Instant::now();
    let path = format!("/v1/image-files/{}", facts.sha256);
    while bytes < facts.file_bytes {
        let before = bytes;
        let had = Had { bytes, version: None, is_checked: true };
        let pulled: Result<(), DownloadError> = async {
            let mut download = client.download(agent, &path, &had, SILENCE).await?;
            if download.from_byte != bytes || download.total_bytes != facts.file_bytes {
                let said = format!("{agent} gives another file of this digest");
                return Err(DownloadError::Refused(said));
            }
            while let Some(chunk) = download.next().await? {
                sha256.update(&chunk);
                let written = file.write_all(&chunk).await;
                written.map_err(|error| DownloadError::Refused(error.to_string()))?;
                bytes += chunk.len() as u64;
                if told.elapsed() > TOLD_INTERVAL {
                    told = Instant::now();
                    show::note(&format!("{what}: {} of {}", Bytes(bytes), Bytes(facts.file_bytes)));
                }
            }
            Ok(())
        }
        .await;
        if bytes > before {
            pauses.reset();
        }
        let Err(why) = pulled else { continue };
        // Who is busy with others is not gone, and has time for us when they are done.
        let pause = match why {
            DownloadError::Busy(_) => BUSY_PAUSE,
            DownloadError::Broken(_) | DownloadError::Refused(_) => pauses.next(random_unit()),
        };
        let is_over = matches!(why, DownloadError::Refused(_)) || pauses.failures() > IDLE_MAX;
        if is_over {
            let code = match why {
                DownloadError::Refused(_) => Code::Failed,
                DownloadError::Broken(_) | DownloadError::Busy(_) => Code::Unreachable,
            };
            return Err(Failure::new(code, format!("bring {what} here")).because(why));
        }
        tokio::time::sleep(pause).await;
    }
    file.flush().await.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    let found = hex(sha256);
    if found == facts.sha256.to_string() {
        return Ok(());
    }
    let said = format!("{what} has come with sha256 {found}, and is {}", facts.sha256);
    Err(Failure::new(Code::Failed, said).next("do it again; look after that host's disk"))
}
