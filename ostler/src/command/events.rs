//! `ostler events`: what the hosts remember of late, or what happens from now on.
//!
//! A follower of a monitor and one of several agents get the same frames, so there is one loop.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::event::{Event, Fact, Frame};
use protocol::id::{HostId, JobId};
use protocol::job::Role;
use tokio::sync::mpsc;
use transport::{Client, Endpoint, connect_stream};

use crate::cli::EventsArgs;
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// Frames that wait to be printed; a terminal that is slower holds the streams back.
const FRAMES_MAX: usize = 256;

/// How long a host may take to tell what it remembers.
const HISTORY_MS_MAX: u64 = 5_000;

/// How long to wait before a lost stream is opened again.
const RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn run(session: &Session, args: EventsArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let names = names(&picture);
    if !args.follow {
        for event in history(session, &picture).await {
            tell(session, &names, &event);
        }
        return Ok(Code::Ok);
    }
    let monitors = if session.is_direct { vec![] } else { session.peers(Role::Monitor) };
    let sources = match monitors.is_empty() {
        true => picture.rows.iter().map(|row| vec![row.agent.clone()]).collect(),
        false => vec![monitors],
    };
    let (tell_frame, mut frames) = mpsc::channel(FRAMES_MAX);
    for source in sources {
        tokio::spawn(follow(session.client.clone(), source, tell_frame.clone()));
    }
    drop(tell_frame);
    loop {
        tokio::select! {
            event = frames.recv() => match event {
                Some(event) => tell(session, &names, &event),
                None => return Ok(Code::Ok),
            },
            _ = tokio::signal::ctrl_c() => return Ok(Code::Ok),
        }
    }
}

/// Follows whoever of these answers, and the next one when that ends. What is history at the first
/// connection is not told; what happened between two connections cannot be told apart from it.
async fn follow(client: Client, sources: Vec<Endpoint>, tell: mpsc::Sender<Event>) {
    loop {
        for source in &sources {
            let Ok(mut stream) = connect_stream(&client, source, "/v1/events").await else {
                continue;
            };
            let mut is_current = false;
            while let Some(frame) = stream.next::<Frame>().await {
                match frame {
                    Ok(Frame::Current) => {
                        is_current = true;
                        show::note(&format!("following {source}"));
                    }
                    Ok(Frame::Event(event)) if is_current => {
                        if tell.send(event).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => show::note(&format!("warning: {source}: {error}")),
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What each host still remembers of its present life, by time.
pub(crate) async fn history(session: &Session, picture: &Picture) -> Vec<Event> {
    let mut asked = tokio::task::JoinSet::new();
    for row in &picture.rows {
        let Some(known) = picture.view.host(&row.host) else { continue };
        let (client, agent, epoch) =
            (session.client.clone(), row.agent.clone(), known.cursor.epoch);
        asked.spawn(async move {
            let path = format!("/v1/events?epoch={epoch}&seq=0");
            let told = tokio::time::timeout(
                Duration::from_millis(HISTORY_MS_MAX),
                remembered(&client, &agent, &path),
            );
            told.await.unwrap_or_default()
        });
    }
    let mut events: Vec<Event> = asked.join_all().await.into_iter().flatten().collect();
    events.sort_by(|a, b| (a.at_ms, &a.host, a.cursor).cmp(&(b.at_ms, &b.host, b.cursor)));
    events
}

async fn remembered(client: &Client, agent: &Endpoint, path: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut stream = match connect_stream(client, agent, path).await {
        Ok(stream) => stream,
        Err(error) => {
            show::note(&format!("warning: {}", crate::picture::chain(&error)));
            return events;
        }
    };
    while let Some(Ok(frame)) = stream.next::<Frame>().await {
        match frame {
            Frame::Event(event) => events.push(event),
            Frame::Current => break,
            Frame::Inventory(_) | Frame::Freshness { .. } => {}
        }
    }
    events
}

fn names(picture: &Picture) -> BTreeMap<HostId, String> {
    picture.view.hosts().map(|(id, row)| (id.clone(), row.host.name.clone())).collect()
}

fn tell(session: &Session, names: &BTreeMap<HostId, String>, event: &Event) {
    if session.is_json {
        show::json(event);
        return;
    }
    let host = names.get(&event.host).map_or(event.host.short(), String::as_str);
    let at = show::moment(event.at_ms);
    show::line(&format!("{at}  {host:<12} {:<8} {}", event.cursor.to_string(), words(&event.fact)));
}

/// The job that something happened to.
pub(crate) fn job_of(fact: &Fact) -> Option<&JobId> {
    match fact {
        Fact::JobChanged { job } => Some(&job.id),
        Fact::JobDeleted { job } => Some(job),
        Fact::HostChanged { .. } | Fact::DomainObserved { .. } | Fact::DomainGone { .. } => None,
    }
}

/// What happened, as a person reads it.
pub(crate) fn words(fact: &Fact) -> String {
    match fact {
        Fact::JobChanged { job } => {
            let why = job.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
            format!("{} {}{why}", job.id, job.state)
        }
        Fact::JobDeleted { job } => format!("{job} deleted"),
        Fact::HostChanged { host } => format!("host: promised {}", host.allocation),
        Fact::DomainObserved { domain } => format!("sees domain {} of somebody else", domain.name),
        Fact::DomainGone { uuid } => format!("domain {uuid} of somebody else is gone"),
    }
}
