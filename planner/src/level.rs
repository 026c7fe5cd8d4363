//! How much an expectation matters: what must be, what should be, what would be nice; and the
//! score by which whole plans are compared.

use serde::{Deserialize, Serialize};

/// How much an expectation matters. A lower level is never bought with a higher one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Useless unless met: nothing is started against it.
    #[default]
    Must,
    /// The contract says so: broken only for a `must`.
    Should,
    /// Nice to have: broken for anything better.
    Wish,
}

impl Level {
    /// The word on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Must => "must",
            Level::Should => "should",
            Level::Wish => "wish",
        }
    }
}

/// Violations by level, most important first. Also used for differences, which may be negative.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Score {
    /// Of level must.
    pub must: i64,
    /// Of level should.
    pub should: i64,
    /// Of level wish.
    pub wish: i64,
}

impl Score {
    /// So many at one level.
    #[must_use]
    pub fn at(level: Level, count: i64) -> Self {
        let mut score = Self::default();
        match level {
            Level::Must => score.must = count,
            Level::Should => score.should = count,
            Level::Wish => score.wish = count,
        }
        score
    }

    /// Whether it has violations that matter as much as this, or more.
    pub(crate) fn adds_at(self, level: Level) -> bool {
        match level {
            Level::Must => self.must > 0,
            Level::Should => self.must > 0 || self.should > 0,
            Level::Wish => self.must > 0 || self.should > 0 || self.wish > 0,
        }
    }

    /// Both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            must: self.must + other.must,
            should: self.should + other.should,
            wish: self.wish + other.wish,
        }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            must: self.must - other.must,
            should: self.should - other.should,
            wish: self.wish - other.wish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_must_outweighs_any_number_of_shoulds() {
        assert!(Score::at(Level::Should, 99) < Score::at(Level::Must, 1));
        let bought = Score::at(Level::Must, -1).plus(Score::at(Level::Should, 99));
        assert!(bought < Score::default(), "a must is worth every should");
        let sold = Score::at(Level::Wish, -9).plus(Score::at(Level::Should, 1));
        assert!(sold > Score::default(), "no number of wishes is worth a should");
    }
}
