//! The CD from which cloud-init reads (NoCloud): `user-data`, `meta-data`, `network-config`.
//!
//! Written anew at every start, because its data is in the job's spec; a guest only reads it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use protocol::id::JobId;
use protocol::vm::CloudInit;
use tokio::process::Command;

use crate::storage::{StorageError, io_error};

/// How long `genisoimage` may take. It writes less than a MiB.
const GENISOIMAGE_DEADLINE: Duration = Duration::from_secs(30);

/// Makes the CD, in place of an earlier one.
pub(crate) async fn make(job: &JobId, data: &CloudInit, path: &Path) -> Result<(), StorageError> {
    let folder = path.with_extension("files");
    fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
    for (name, text) in files(job, data) {
        let file = folder.join(name);
        fs::write(&file, text).map_err(io_error("write", &file))?;
    }
    let new = path.with_extension("new");
    let made = run_genisoimage(&folder, &new).await;
    fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
    made.map_err(|message| StorageError::Seed { path: path.to_owned(), message })?;
    fs::rename(&new, path).map_err(io_error("rename", &new))
}

fn files(job: &JobId, data: &CloudInit) -> Vec<(&'static str, String)> {
    let usual = || format!("instance-id: {}\nlocal-hostname: {job}\n", job.domain_uuid());
    let meta_data = data.meta_data.clone().unwrap_or_else(usual);
    let mut files = vec![("user-data", data.user_data.clone()), ("meta-data", meta_data)];
    files.extend(data.network_config.clone().map(|text| ("network-config", text)));
    files
}

async fn run_genisoimage(folder: &Path, iso: &Path) -> Result<(), String> {
    let mut command = Command::new("genisoimage");
    command
        .args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"])
        .arg(iso)
        .arg(folder);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(GENISOIMAGE_DEADLINE, command.output()).await;
    let output = ended
        .map_err(|_| format!("no end after {GENISOIMAGE_DEADLINE:?}"))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cd_has_the_label_and_files_that_cloud_init_looks_for() {
        let folder = tempfile::tempdir().unwrap();
        let iso = folder.path().join("seed.iso");
        let data = CloudInit {
            user_data: "#cloud-config\nhostname: other\n".into(),
            meta_data: None,
            network_config: Some("version: 2\n".into()),
        };
        let job = JobId::new("web-1").unwrap();
        match make(&job, &data, &iso).await {
            Err(StorageError::Seed { message, .. }) if message.contains("No such file") => {
                return eprintln!("skipped: genisoimage is not installed");
            }
            made => made.unwrap(),
        }
        make(&job, &data, &iso).await.unwrap();
        let bytes = fs::read(&iso).unwrap();
        // ISO 9660: the primary volume descriptor is sector 16, its label at byte 40.
        assert_eq!(&bytes[16 * 2048 + 1..16 * 2048 + 6], b"CD001");
        assert!(bytes[16 * 2048 + 40..].starts_with(b"cidata "));
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        for text in ["user-data", "meta-data", "network-config", "hostname: other"] {
            assert!(has(text.as_bytes()), "{text} is missing");
        }
        assert!(has(b"local-hostname: web-1"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
