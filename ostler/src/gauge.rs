//! What guests use, for a plan that is made here: as controllers know it, or as two looks at their hosts' counters tell.
//!
//! Controllers know it only while it is expected that guests use about as much on all hosts, and then of minutes. Two looks
//! are of the moment, and somebody who asks for a plan by them sees what it is made of.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::job::Role;
use protocol::used::Used;
use protocol::view::Freshness;
use scheduler::Gauge;
use transport::Clock;

use crate::command::look;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How long a controller may take to say what it knows.
const ASK_MAX: Duration = Duration::from_secs(3);

/// How far two looks are apart: shorter, and a guest that does something once a few seconds is either busy or idle.
const LOOKS_APART: Duration = Duration::from_secs(10);

impl Session {
    /// What the controller knows of what guests use that knows most; nothing, if nobody was to find out.
    pub(crate) async fn used(&self) -> Used {
        let client = self.client.with_deadline(ASK_MAX);
        let asked = self.peers(Role::Controller).into_iter().map(|controller| {
            let client = client.clone();
            async move { client.get::<Used>(&controller, "/v1/used").await.ok() }
        });
        let told = join_all(asked).await.into_iter().flatten();
        told.max_by_key(|used| (used.hosts.len(), used.vms.len())).unwrap_or_default()
    }

    /// The same, and where that is not known of every host that is heard, what two looks tell.
    pub(crate) async fn used_now(&self, picture: &Picture) -> Used {
        let known = self.used().await;
        let is_known = |row: &crate::picture::Row| {
            row.freshness != Freshness::Fresh || known.hosts.contains_key(&row.host)
        };
        if picture.rows.iter().all(is_known) {
            return known;
        }
        let seconds = LOOKS_APART.as_secs();
        show::note(&format!("no controller has measured what guests use; looking for {seconds} s"));
        let (mut gauge, clock) = (Gauge::default(), Clock::real());
        for warns in [true, false] {
            for (host, (_, usage)) in look(self, picture, warns).await {
                if let Some(row) = picture.view.host(&host) {
                    gauge.take(clock.now().mono_ms, row, &usage);
                }
            }
            if warns {
                tokio::time::sleep(LOOKS_APART).await;
            }
        }
        gauge.used(clock.now().mono_ms)
    }
}
