//! The ways of a migration, as they are called on command lines and in reports.

use std::fmt;

use clap::ValueEnum;

/// Who moves the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The agents, in three stages: full copy, switch, dirty copy with demand paging.
    Tsmc,
    /// The agents, iterating until little is left, then stop and copy.
    Precopy,
    /// The agents, without a full copy: everything after the switch.
    Postcopy,
    /// Xen's own helper, on a guest with an ordinary label: the baseline.
    Xl,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tsmc => "tsmc",
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Xl => "xl",
        })
    }
}
