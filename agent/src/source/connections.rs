//! The connections that a guest leaves over, one pair after the other.

use core::time::Duration;

use crate::host::pending::Called;
use crate::limits::Patience;
use crate::messages::Outlet;
use crate::wire::Cause;

/// Both connections to the target.
pub(crate) struct Connections {
    pub(crate) control: Outlet,
    pub(crate) bulk: Outlet,
    /// Bytes handed to earlier ones.
    earlier: u64,
}

impl Connections {
    /// Those of a target that has called, for how long it may say nothing, or take nothing.
    pub(crate) fn new(called: &Called, patience: Patience) -> Self {
        let outlets =
            Self { control: Outlet::new(called.control.clone()), bulk: Outlet::new(called.bulk.clone()), earlier: 0 };
        outlets.set_patience(patience);
        outlets
    }

    /// Those that come after these.
    pub(crate) fn again(&self, called: &Called, patience: Patience) -> Self {
        Self { earlier: self.bytes(), ..Self::new(called, patience) }
    }

    /// How long the target may say nothing, or take nothing.
    pub(crate) fn set_patience(&self, patience: Patience) {
        self.control.connection().set_patience(Some(patience.control));
        self.bulk.connection().set_patience(Some(patience.bulk));
    }

    /// Where pages go that are sent for `cause`.
    pub(crate) fn of(&mut self, cause: Cause) -> &mut Outlet {
        match cause {
            Cause::Demand | Cause::Prepull => &mut self.control,
            Cause::Copy | Cause::Urgent | Cause::Push => &mut self.bulk,
        }
    }

    /// Bytes handed to these and all earlier ones so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.earlier + self.control.connection().sent() + self.bulk.connection().sent()
    }

    /// What sealing took since this was asked last.
    pub(crate) fn take_sealing(&self) -> Duration {
        self.control.take_sealing() + self.bulk.take_sealing()
    }

    /// They are of no more use.
    pub(crate) fn abort(&self) {
        [&self.control, &self.bulk].into_iter().for_each(|outlet| outlet.connection().abort());
    }
}
