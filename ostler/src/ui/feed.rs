//! One page's stream: everything once, then what is new, and how old all of it is.
//!
//! ```text
//!   cluster, source, what is known ─▶ (somebody is followed, and has told all) ─▶ complete
//!                                  ─▶ news as they come, a beat every second
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use transport::Frames;
use transport::stream::StreamError;

use super::news::{Beat, News, Told};
use super::serve::Shared;
use crate::command::{QuotaRow, quota_rows, quota_usable};
use crate::session::Session;

/// How often a page hears that all is well: it calls the feed cut after some of these.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Least time between two pieces of news: faster than this nobody reads.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);

/// Rows in one message. A page draws after each, so that the first are seen early.
const ROWS_MAX: usize = 500;

/// Tells one page until it goes.
pub(crate) async fn run(shared: Arc<Shared>, mut frames: Frames) {
    let sender = frames.sender();
    let mut feed = Feed { shared: &shared, told: Told::default(), quota: None, is_complete: false };
    tokio::select! {
        // Pages have nothing to say here; reading is how their goodbye is noticed.
        () = async { while let Some(Ok(_)) = frames.next_frame().await {} } => {}
        _ = feed.tell(&sender) => {}
    }
}

struct Feed<'a> {
    shared: &'a Shared,
    told: Told,
    quota: Option<(Vec<QuotaRow>, Option<String>)>,
    is_complete: bool,
}

impl Feed<'_> {
    async fn tell(&mut self, to: &transport::FrameSender) -> Result<(), StreamError> {
        let mut replicas = self.shared.replicas.clone();
        let mut runs = self.shared.runs.subscribe();
        let mut sessions = self.shared.sessions.clone();
        let mut chores = self.shared.workers.chores();
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut news = vec![self.cluster(&sessions.borrow_and_update())];
        news.extend(self.told.news_of(&replicas.borrow_and_update().clone()));
        news.extend(self.told.news_of_chores(&chores.borrow_and_update().clone()));
        news.extend(self.quota_news());
        news.push(self.beat());
        news.extend(self.complete_news());
        say(to, news).await?;
        loop {
            let news = tokio::select! {
                _ = beats.tick() => {
                    let mut news = self.quota_news();
                    news.push(self.beat());
                    news
                }
                Ok(()) = replicas.changed() => {
                    let replica = replicas.borrow_and_update().clone();
                    let mut news = self.told.news_of(&replica);
                    let runs = self.shared.runs.borrow().clone();
                    let beat = Beat::of(self.shared.clock.now().mono_ms, &replica, &runs);
                    if self.told.is_freshness_news(&beat) {
                        news.push(News::Beat(beat));
                    }
                    news.extend(self.complete_news());
                    news
                }
                Ok(()) = runs.changed() => {
                    let runs = runs.borrow_and_update().clone();
                    self.told.news_of_runs(&runs)
                }
                Ok(()) = chores.changed() => {
                    let chores = chores.borrow_and_update().clone();
                    self.told.news_of_chores(&chores)
                }
                Ok(()) = sessions.changed() => vec![self.cluster(&sessions.borrow_and_update())],
                else => return Ok(()),
            };
            if !news.is_empty() {
                say(to, news).await?;
                tokio::time::sleep(NEWS_INTERVAL).await;
            }
        }
    }

    fn cluster(&self, session: &Session) -> News {
        News::Cluster {
            name: session.trust.as_ref().map(|trust| trust.cluster.to_string()),
            is_without_controller: session.is_without_controller(),
            backups: self.shared.backups.clone(),
        }
    }

    fn beat(&mut self) -> News {
        let (replica, runs) =
            (self.shared.replicas.borrow().clone(), self.shared.runs.borrow().clone());
        let beat = Beat::of(self.shared.clock.now().mono_ms, &replica, &runs);
        self.told.is_freshness_news(&beat);
        News::Beat(beat)
    }

    /// Said once, and not before somebody is followed: a page takes what was not told until then for
    /// gone.
    fn complete_news(&mut self) -> Option<News> {
        let is_first = !self.is_complete && self.shared.replicas.borrow().is_current();
        self.is_complete |= is_first;
        is_first.then_some(News::Complete)
    }

    fn quota_news(&mut self) -> Vec<News> {
        let session = self.shared.sessions.borrow().clone();
        let Some(trust) = &session.trust else { return vec![] };
        let rows = quota_rows(trust, &self.shared.replicas.borrow().view.clone());
        let told = (rows, quota_usable(trust));
        if self.quota.as_ref() == Some(&told) {
            return vec![];
        }
        self.quota = Some(told.clone());
        let (rows, usable) = told;
        vec![News::Quota { rows, usable }]
    }
}

async fn say(to: &transport::FrameSender, news: Vec<News>) -> Result<(), StreamError> {
    for rows in news.chunks(ROWS_MAX) {
        to.send(&rows).await?;
    }
    Ok(())
}
