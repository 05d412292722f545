//! The counters that an agent leaves in xenstore at the end of a migration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Named numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, u64>);

impl Figures {
    /// Reads `name=number` pairs between spaces; whatever is not one is left out.
    pub fn parse(line: &str) -> Figures {
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
    }

    /// A figure, when it was given and is not 0, which an end also writes for what it cannot know.
    pub fn known(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied().filter(|value| *value > 0)
    }
}

impl<S: Into<String>> FromIterator<(S, u64)> for Figures {
    fn from_iter<I: IntoIterator<Item = (S, u64)>>(pairs: I) -> Figures {
        Figures(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_the_rest_is_left() {
        let figures = Figures::parse("pages=12 mode=tsmc faults=0 bare =3 bytes=99");
        assert_eq!(figures.known("pages"), Some(12));
        assert_eq!(figures.known("bytes"), Some(99));
        assert_eq!(figures.known("faults"), None);
        assert_eq!(figures.known("mode"), None);
        assert_eq!(figures, [("pages", 12), ("faults", 0), ("bytes", 99), ("", 3)].into_iter().collect());
    }
}
