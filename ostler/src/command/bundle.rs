//! `ostler bundle`: what the parts of a cluster say of themselves, in a folder to look at later or to
//! give to somebody.
//!
//! Decides what is asked of whom, and that who does not answer is written down and keeps nobody
//! waiting. Answers go through [`redact`], so that nothing secret is in it.

mod redact;

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream};
use protocol::job::Role;
use protocol::trust::{Seat, Trust};
use serde::Serialize;
use serde_json::Value;
use transport::{Clock, Endpoint};

use self::redact::redacted;
use crate::cli::BundleArgs;
use crate::exit::{Code, Failure};
use crate::picture::chain;
use crate::session::Session;
use crate::show;

/// Longest answer that is kept: a view of ten thousand jobs takes about 20 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many questions are open at a time.
const ASKED_AT_ONCE: usize = 16;

/// What is no JSON, and at no version.
const METRICS: &str = "metrics";

const AGENT: &[&str] = &[
    METRICS,
    "health",
    "host",
    "jobs",
    "offers",
    "usage",
    "images",
    "networks",
    "config/pools",
    "config/history",
    "config/trust",
];
const MONITOR: &[&str] = &[METRICS, "health", "view"];
const ARBITER: &[&str] = &[METRICS, "health", "books"];
const CONTROLLER: &[&str] = &[METRICS, "health", "runs?max=500", "expectations?deleted=true"];

/// A question, and where its answer goes.
struct Question {
    to: Endpoint,
    path: String,
    file: PathBuf,
}

/// What became of a question.
#[derive(Serialize)]
struct Answered {
    url: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `about.json`.
#[derive(Serialize)]
struct About {
    version: &'static str,
    at_ms: u64,
    at: String,
    warnings: Vec<String>,
    answers: Vec<Answered>,
}

pub(crate) async fn run(session: &Session, args: BundleArgs) -> Result<Code, Failure> {
    let at_ms = Clock::real().now().wall_ms;
    let folder = args.folder.unwrap_or_else(|| format!("ostler-bundle-{}", at_ms / 1000).into());
    let cannot = |error: io::Error| {
        let folder = folder.display();
        Failure::new(Code::Usage, format!("cannot write to {folder}: {error}"))
            .next("name a folder that is not there yet")
    };
    private().create(&folder).map_err(cannot)?;
    // Whoever is asked is whoever is known: a cluster without monitors is looked at through its agents.
    let (questions, warnings) = match session.picture().await {
        Ok(picture) => {
            let agents = picture.rows.iter().map(|row| {
                let name = picture.view.host(&row.host).map(|known| known.host.name.as_str());
                let id = row.host.short();
                let name = name.map_or_else(|| id.to_owned(), |name| format!("{name}-{id}"));
                (Path::new("agents").join(file_name(&name)), row.agent.clone())
            });
            (questions(session, agents), picture.warnings)
        }
        Err(failure) => (questions(session, std::iter::empty()), vec![failure.to_string()]),
    };
    let warnings = warnings.iter().map(|warning| redact::address(warning)).collect();
    let answers = questions.into_iter().map(|question| answer(session, &folder, question));
    let mut answers: Vec<Answered> =
        stream::iter(answers).buffer_unordered(ASKED_AT_ONCE).collect().await;
    answers.sort_by(|a, b| (&a.url, &a.path).cmp(&(&b.url, &b.path)));
    if let Some(trust) = &session.trust {
        write_json(&folder.join("trust.json"), trust).map_err(cannot)?;
    }
    let silent = answers.iter().filter(|answer| answer.error.is_some()).count();
    let (count, version, at) = (answers.len(), env!("CARGO_PKG_VERSION"), show::moment(at_ms));
    let about = About { version, at_ms, at, warnings, answers };
    write_json(&folder.join("about.json"), &about).map_err(cannot)?;
    if session.is_json {
        show::json_pretty(&about);
    } else {
        show::line(&format!("{}: {} of {count} answers", folder.display(), count - silent));
        if silent > 0 {
            show::note("about.json says who did not answer, and why");
        }
        show::note("cloud-init and all but the server of an address are left out");
    }
    Ok(Code::Ok)
}

fn questions(
    session: &Session,
    agents: impl Iterator<Item = (PathBuf, Endpoint)>,
) -> Vec<Question> {
    let mut all = Vec::new();
    let mut ask = |folder: &Path, to: &Endpoint, paths: &[&str]| {
        let questions = paths.iter().map(|path| {
            if *path == METRICS {
                return ("/metrics".to_owned(), folder.join("metrics.txt"));
            }
            let name = path.split('?').next().unwrap_or(path).replace('/', "-");
            (format!("/v1/{path}"), folder.join(format!("{name}.json")))
        });
        all.extend(questions.map(|(path, file)| Question { to: to.clone(), path, file }));
    };
    for (folder, agent) in agents {
        ask(&folder, &agent, AGENT);
    }
    for (seat, slot) in session.trust.iter().flat_map(Trust::seats) {
        let to = Endpoint::of_key(slot.url.clone(), slot.key);
        let folder = match seat {
            Seat::Arbiter => "arbiters",
            Seat::Witness => "witnesses",
        };
        ask(&Path::new(folder).join(slot.slot.to_string()), &to, ARBITER);
    }
    let roles =
        [(Role::Monitor, "monitors", MONITOR), (Role::Controller, "controllers", CONTROLLER)];
    for (role, name, paths) in roles {
        for (n, peer) in session.peers(role).iter().enumerate() {
            ask(&Path::new(name).join(n.to_string()), peer, paths);
        }
    }
    all
}

async fn answer(session: &Session, folder: &Path, question: Question) -> Answered {
    let Question { to, path, file } = question;
    let asked = session.client.get_bytes(&to, &path, ANSWER_BYTES_MAX).await;
    let written = match asked {
        Ok(bytes) => {
            let whole = folder.join(&file);
            let kept = match serde_json::from_slice::<Value>(&bytes) {
                Ok(json) => write_json(&whole, &redacted(json)),
                // Metrics are numbers and names.
                Err(_) => write(&whole, &bytes),
            };
            kept.map_err(|error| format!("write it: {error}"))
        }
        Err(error) => Err(chain(&error)),
    };
    let (file, error) = match written {
        Ok(()) => (Some(file), None),
        Err(error) => (None, Some(redact::address(&error))),
    };
    Answered { url: redact::address(&to.url), path, file, error }
}

/// Folders that are the owner's alone: what runs where is nobody else's business.
fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

fn write_json<T: Serialize>(file: &Path, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write(file, &text)
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        private().recursive(true).create(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(file)?.write_all(bytes)
}

/// A host's name as a file's: hosts choose their names.
fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_leads_nowhere_else() {
        assert_eq!(file_name("../../etc/h1.example"), "______etc_h1_example");
    }
}
