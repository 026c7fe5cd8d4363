//! Asks all sources for ever and publishes what is known now.
//!
//! Decides that a source which fails keeps its last findings: a discovery server that is down
//! takes no host away. Sources are asked side by side, each at its own pace, with back-off.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::mdns::Browser;
use super::{ASK_MAX, ClusterUrl, Found, Listed, Pace, Source, Twins, Unproven, file, merge};
use crate::backoff::{Backoff, random_unit};
use crate::call_error::with_causes;
use crate::client::Client;

/// News that wait to be merged; each source has one at a time.
const NEWS_MAX: usize = 16;

/// Looks for hosts until it is dropped.
#[derive(Debug)]
pub struct Finder {
    findings: watch::Receiver<Findings>,
    _stop: DropGuard,
}

/// What is known now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// All hosts, those of earlier sources first.
    pub hosts: Vec<Found>,
    /// How each source is doing, in the order given.
    pub sources: Vec<SourceState>,
}

impl Findings {
    /// Entries that nobody of ours contacts, whichever source told them.
    pub fn unproven(&self) -> impl Iterator<Item = &Unproven> {
        self.sources.iter().flat_map(|source| &source.told.unproven)
    }

    /// Machines that have one key between them, as far as discovery servers have noticed.
    pub fn twins(&self) -> impl Iterator<Item = &Twins> {
        self.sources.iter().flat_map(|source| &source.told.twins)
    }
}

/// How a source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// The source.
    pub source: Source,
    /// What it told last; kept when it fails later.
    pub told: Listed,
    /// True once it has answered or failed.
    pub is_asked: bool,
    /// Why it does not answer now.
    pub error: Option<String>,
}

impl Finder {
    /// Starts asking. A source that does not answer stops nothing.
    #[must_use]
    pub fn start(sources: Vec<Source>, client: &Client, pace: Pace) -> Self {
        let stop = CancellationToken::new();
        let client = client.with_deadline(ASK_MAX);
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let with_secret = |source: &Source| match source {
            Source::Url(url) => url.join_key().map(|_| url.clone()),
            _ => None,
        };
        let clusters: Vec<ClusterUrl> = sources.iter().filter_map(with_secret).collect();
        for (at, source) in sources.iter().cloned().enumerate() {
            let (client, clusters, tell) = (client.clone(), clusters.clone(), tell.clone());
            let asker = Asker { at, source, client, clusters, pace, tell };
            let stop = stop.clone();
            tokio::spawn(async move {
                stop.run_until_cancelled(asker.run()).await;
            });
        }
        let states = sources.into_iter().map(|source| SourceState {
            source,
            told: Listed::default(),
            is_asked: false,
            error: None,
        });
        let start = Findings { hosts: Vec::new(), sources: states.collect() };
        let (publish, findings) = watch::channel(start);
        tokio::spawn(collect(news, publish));
        Self { findings, _stop: stop.drop_guard() }
    }

    /// What is known now, and later.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Findings> {
        self.findings.clone()
    }
}

type News = (usize, Result<Listed, String>);

async fn collect(mut news: mpsc::Receiver<News>, publish: watch::Sender<Findings>) {
    while let Some((at, answer)) = news.recv().await {
        publish.send_if_modified(|findings| {
            let state = &mut findings.sources[at];
            let mut is_news = !std::mem::replace(&mut state.is_asked, true);
            match answer {
                Ok(told) => {
                    is_news |= state.error.take().is_some();
                    if told != state.told {
                        state.told = told;
                        is_news = true;
                        let told = findings.sources.iter().map(|state| &state.told);
                        findings.hosts = merge(told.flat_map(|told| &told.hosts));
                    }
                }
                Err(error) => {
                    is_news |= state.error.as_ref() != Some(&error);
                    state.error = Some(error);
                }
            }
            is_news
        });
    }
}

/// Asks one source.
struct Asker {
    at: usize,
    source: Source,
    client: Client,
    /// All clusters with a join secret, for what has none of its own.
    clusters: Vec<ClusterUrl>,
    pace: Pace,
    tell: mpsc::Sender<News>,
}

impl Asker {
    async fn run(self) {
        match &self.source {
            Source::Address(url) => {
                let _ = self.tell(Ok(named(vec![Found::at_address(url.clone(), None)]))).await;
            }
            Source::Mdns => self.browse().await,
            Source::Url(_) | Source::File(_) => self.poll().await,
        }
    }

    async fn poll(&self) {
        let mut backoff = Backoff::new(self.pace.retry_min, self.pace.retry_max);
        let mut known = String::new();
        loop {
            let answer = self.ask(&mut known).await;
            let wait = match &answer {
                Ok(_) => {
                    backoff.reset();
                    jittered(self.pace.poll)
                }
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(source = %self.source, "look for hosts: {error}");
                    }
                    backoff.next(random_unit())
                }
            };
            if let Some(news) = answer.transpose()
                && self.tell(news).await.is_err()
            {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// `None` when it says what it said the last time.
    async fn ask(&self, known: &mut String) -> Result<Option<Listed>, String> {
        match &self.source {
            Source::Url(url) => url.find(&self.client).await.map(Some).map_err(|e| with_causes(&e)),
            Source::File(path) => read(path, known).await.map(|found| found.map(named)),
            Source::Address(_) | Source::Mdns => unreachable!("these are not asked twice"),
        }
    }

    async fn browse(&self) {
        let mut backoff = Backoff::new(self.pace.retry_min, self.pace.retry_max);
        // Silence is an answer: nobody has announced itself so far.
        let _ = self.tell(Ok(Listed::default())).await;
        loop {
            let error = match Browser::start(self.clusters.clone()) {
                Err(error) => error,
                Ok(mut browser) => loop {
                    match browser.next().await {
                        Ok(found) => {
                            backoff.reset();
                            if self.tell(Ok(found)).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                },
            };
            if self.tell(Err(error)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.next(random_unit())).await;
        }
    }

    async fn tell(&self, answer: Result<Listed, String>) -> Result<(), ()> {
        self.tell.send((self.at, answer)).await.map_err(|_| ())
    }
}

/// Hosts that a person has named need no proof of belonging.
fn named(hosts: Vec<Found>) -> Listed {
    Listed { hosts, ..Listed::default() }
}

/// The hosts in a file, unless its text is the `known` one: to read 10 000 lines again and again
/// holds up others.
async fn read(path: &Path, known: &mut String) -> Result<Option<Vec<Found>>, String> {
    let read = tokio::fs::read_to_string(path).await.map_err(|e| e.to_string());
    let parsed = read.and_then(|text| {
        if text == *known && !text.is_empty() {
            return Ok(None);
        }
        let found = file::parse(&text)?;
        *known = text;
        Ok(Some(found))
    });
    if parsed.is_err() {
        // What comes after an error is told whatever it is, so that the error is over.
        known.clear();
    }
    parsed
}

/// Half to one and a half times the period, so that hosts started together don't ask together.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.5 + random_unit())
}
