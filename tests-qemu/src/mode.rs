//! The modes of a migration, as command lines and reports name them.

use std::fmt;
use std::str::FromStr;

use common::{ParseError, control};

/// Who moves the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The agents.
    Agents(control::Mode),
    /// Xen's own helper, on a guest with an ordinary label: the baseline.
    Xl,
}

impl Mode {
    pub const TSMC: Self = Self::Agents(control::Mode::Tsmc);
    pub const PRECOPY: Self = Self::Agents(control::Mode::Precopy);
    pub const POSTCOPY: Self = Self::Agents(control::Mode::Postcopy);
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agents(mode) => mode.fmt(f),
            Self::Xl => f.write_str("xl"),
        }
    }
}

impl FromStr for Mode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "xl" { Ok(Self::Xl) } else { text.parse().map(Self::Agents) }
    }
}
