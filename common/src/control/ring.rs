//! Where a broker meets the agent.

use core::fmt;
use core::str::FromStr;

use crate::line::ParseError;

/// A ring of the agent's: `reference:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The grant of its first page.
    pub reference: u32,
    /// The event channel that waits for the broker.
    pub port: u32,
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.reference, self.port)
    }
}

impl FromStr for Ring {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = |text: &str| text.parse().map_err(|_| ParseError::Bad("ring"));
        let (reference, port) = text.split_once(':').ok_or(ParseError::Bad("ring"))?;
        Ok(Self { reference: number(reference)?, port: number(port)? })
    }
}
