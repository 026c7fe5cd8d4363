//! Foresight: what a controller that keeps these sets would have a plan reach, if nothing else happened. Pure.
//!
//! Decides nothing of its own: the same core judges the same world, twice, with all the time between that anything
//! waits for only to see whether it lasts.

use planner::Report;
use protocol::expectations::KeptStanding;
use protocol::id::SetName;

use super::{Aims, Effect, Input, Look, SetRecord, Upkeep};

/// Longer than anybody rests, settles or lets others go first.
const LATER_MS: u64 = 24 * 60 * 60 * 1000;

/// What would be done next for what is kept, and what would be left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Foresight {
    /// What a plan would be asked to reach.
    pub aims: Aims,
    /// Of each set what is not so and would not be planned for, in words: a VM that was ended by command, one whose
    /// host is not heard, one that waits for another.
    pub held: Vec<(SetName, String)>,
}

impl Foresight {
    /// What these sets would come to in a world that stays as it is.
    #[must_use]
    pub fn of(sets: impl IntoIterator<Item = SetRecord>, look: &Look) -> Self {
        let (mut upkeep, mut effects, mut names) = (Upkeep::default(), Vec::new(), Vec::new());
        for set in sets {
            names.push(set.name.clone());
            upkeep.handle(0, Input::Recovered(set), &mut effects);
        }
        upkeep.handle(0, Input::Looked(Box::new(look.clone())), &mut effects);
        // What is asked for at once is only to be told; nothing is begun for it.
        let (steps, favours, shifts, savings) = (vec![], vec![], vec![], vec![]);
        let (report, open) = (Report::default(), look.open.clone());
        let nothing = Input::Planned { steps, favours, shifts, savings, report, open };
        upkeep.handle(0, nothing, &mut effects);
        effects.clear();
        upkeep.handle(LATER_MS, Input::Looked(Box::new(look.clone())), &mut effects);
        let aims = effects.into_iter().find_map(|effect| match effect {
            Effect::Plan(aims) => Some(*aims),
            Effect::Heed(_) | Effect::Save(_) | Effect::Mend { .. } => None,
        });
        let held = names.iter().flat_map(|name| {
            let held = upkeep.held(name).into_iter();
            held.map(|why| (name.clone(), why))
        });
        Self { aims: aims.unwrap_or_default(), held: held.collect() }
    }
}

impl Upkeep {
    /// What of a set is not so and waits for something else than a plan, in words.
    fn held(&self, name: &SetName) -> Vec<String> {
        let keys = self.judged.keys().filter(|(set, _)| set == name);
        let held = keys.filter(|key| !self.broken.contains(*key)).filter_map(|key| {
            match self.standing(LATER_MS, key) {
                KeptStanding::Unmet { why, .. } | KeptStanding::NotUnderstood { why } => Some(why),
                KeptStanding::Met
                | KeptStanding::Coming { .. }
                | KeptStanding::Mending { .. }
                | KeptStanding::Unknown => None,
            }
        });
        held.collect()
    }
}
