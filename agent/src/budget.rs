//! The agent's memory: a migration that would not fit is refused before it begins.

use alloc::rc::Rc;
use core::cell::Cell;

use crate::bitmap::PageSet;
use crate::session::{Refusal, SessionError};

/// The agent's memory for sessions, and what is not promised to any of them yet.
#[derive(Clone)]
pub(crate) struct Budget {
    total: usize,
    spare: Rc<Cell<usize>>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { total: bytes, spare: Rc::new(Cell::new(bytes)) }
    }

    /// All that there is: a session that takes more never fits.
    #[cfg_attr(not(test), expect(dead_code, reason = "sessions do not wait for their turn yet"))]
    pub(crate) fn total(&self) -> usize {
        self.total
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
        let spare = &self.budget.spare;
        spare.set(spare.get().checked_sub(bytes).ok_or(SessionError::Refused(Refusal::NoMemory))?);
        self.bytes += bytes;
        Ok(())
    }

    /// Promises what `sets` page sets over `frames` frames take.
    pub(crate) fn add_sets(&mut self, frames: u64, sets: usize) -> Result<(), SessionError> {
        self.add(self::sets(frames, sets))
    }

    /// Promises what `sets` page sets take more once they grow, and, until what is returned is dropped, what growing takes: a
    /// set is in two places for a moment, and its old one is too small for the next.
    pub(crate) fn grow_sets(&mut self, from: u64, to: u64, sets: usize) -> Result<Self, SessionError> {
        let moving = self.budget.reserve(self::sets(to, 2))?;
        self.add(self::sets(to, sets).saturating_sub(self::sets(from, sets)))?;
        Ok(moving)
    }
}

/// Bytes that `sets` page sets over `frames` frames take.
pub(crate) fn sets(frames: u64, sets: usize) -> usize {
    PageSet::bytes(frames).saturating_mul(sets)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let spare = &self.budget.spare;
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
        assert_eq!(budget.total(), 1000);
        assert!(budget.reserve(1000).is_ok());
        assert!(first_of_all(&budget).add_sets(u64::MAX, 3).is_err());
    }

    #[test]
    fn what_grows_needs_room_to_move() {
        let one = PageSet::bytes(64_000);
        let budget = Budget::new(7 * one);
        let mut memory = budget.reserve(0).unwrap();
        memory.add_sets(64_000, 5).unwrap();
        assert!(memory.grow_sets(64_000, 64_064, 5).is_err());
        let mut memory = Budget::new(8 * one).reserve(0).unwrap();
        memory.add_sets(64_000, 5).unwrap();
        drop(memory.grow_sets(64_000, 64_064, 5).unwrap());
        assert_eq!(memory.bytes, sets(64_064, 5));
    }

    fn first_of_all(budget: &Budget) -> Reservation {
        budget.reserve(0).unwrap()
    }
}
