//! Lists that no stream carries and a page reads when it shows them: what `ostler` prints of each with `--json`.

use std::sync::Arc;

use axum::extract::{Path, State};
use futures_util::future::try_join_all;
use protocol::image::FetchState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use transport::Json;

use super::ask::No;
use super::chore::given;
use super::serve::Shared;

/// Which list.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum List {
    /// Images, where they are, and who needs them.
    Images,
    /// What is in the folder for backups.
    Backups,
    /// Keys of operators, users and readers.
    People,
    /// What tenants' VMs may be like.
    Policy,
    /// Arbiters, and witnesses beside them.
    Arbiters,
    /// Whether hosts have power.
    Power,
    /// Disks of VMs, and what was deleted from pools.
    Volumes,
    /// What guests use now.
    Top,
}

/// What a page is given.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// What the commands print, as one object.
    list: Map<String, Value>,
    /// What they had to say besides.
    notes: Vec<String>,
}

/// `GET /lists/{list}`.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Path(list): Path<List>,
) -> Result<Json<Answer>, No> {
    let commands: &[&[&str]] = match list {
        List::Images => &[&["images"]],
        List::Backups => &[&["backup", "ls", "--", given(shared.backups.as_deref())?]],
        List::People => &[&["operators"], &["users"], &["readers"]],
        List::Policy => &[&["policy"]],
        List::Arbiters => &[&["arbiters"]],
        List::Power => &[&["power"]],
        List::Volumes => &[&["volumes"]],
        List::Top => &[&["top"]],
    };
    let reading = commands.iter().map(|words| shared.program.read(words));
    let mut answer = Answer { list: Map::new(), notes: vec![] };
    for printed in try_join_all(reading).await? {
        if let Value::Object(object) = printed.json {
            answer.list.extend(object);
        }
        answer.notes.extend(printed.notes);
    }
    let coming = answer.list.get_mut("coming").and_then(Value::as_array_mut);
    coming.into_iter().flatten().for_each(say_how_it_comes);
    Ok(Json(answer))
}

/// An image on its way, in the words of the commands.
fn say_how_it_comes(coming: &mut Value) {
    let words = FetchState::deserialize(&coming["state"]).map(|state| state.to_string());
    coming["words"] = json!(words.unwrap_or_else(|_| "in a way that a newer agent knows".into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_on_its_way_has_words() {
        let mut coming = json!({ "name": "a", "host": "h1", "state": { "fetch": "waiting" } });
        say_how_it_comes(&mut coming);
        assert_eq!(coming["words"], FetchState::Waiting.to_string());
        let mut coming = json!({ "name": "a", "host": "h1", "state": { "fetch": "dreaming" } });
        say_how_it_comes(&mut coming);
        assert!(coming["words"].as_str().unwrap().contains("newer"), "{coming}");
    }
}
