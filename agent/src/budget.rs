//! The agent's memory: a migration that would not fit is refused before it begins.

use alloc::rc::Rc;
use core::cell::Cell;

use crate::session::{Refusal, SessionError};

/// What is not promised to any session yet.
#[derive(Clone)]
pub(crate) struct Budget(Rc<Cell<usize>>);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Promises `bytes` to a session, until what is returned is dropped.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Reservation, SessionError> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.add(bytes)?;
        Ok(reservation)
    }
}

/// Memory that a session may use.
pub(crate) struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Reservation {
    /// Promises `bytes` more.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), SessionError> {
        let Budget(spare) = &self.budget;
        spare.set(spare.get().checked_sub(bytes).ok_or(SessionError::Refused(Refusal::NoMemory))?);
        self.bytes += bytes;
        Ok(())
    }

    /// Promises what `sets` page sets over `frames` frames take.
    pub(crate) fn add_sets(&mut self, frames: u64, sets: usize) -> Result<(), SessionError> {
        let each = usize::try_from(frames.div_ceil(8)).unwrap_or(usize::MAX);
        self.add(each.saturating_mul(sets))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Budget(spare) = &self.budget;
        spare.set(spare.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_refused_to_others_until_it_is_dropped() {
        let budget = Budget::new(1000);
        let mut first = budget.reserve(600).unwrap();
        assert!(budget.reserve(500).is_err());
        assert!(first.add_sets(8000, 1).is_err());
        first.add_sets(800, 2).unwrap();
        drop(first);
        assert!(budget.reserve(1000).is_ok());
        assert!(first_of_all(&budget).add_sets(u64::MAX, 3).is_err());
    }

    fn first_of_all(budget: &Budget) -> Reservation {
        budget.reserve(0).unwrap()
    }
}
