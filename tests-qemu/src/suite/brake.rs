//! A slow link at the right moment: a stage then lasts long enough to be seen, however fast the machine is.

use std::sync::{Mutex, PoisonError};

use crate::network::{self, PLACES};

/// What the link carries while the brake is on, Mbit/s: 125 pages a second. On a slow machine it is fifteen seconds and more before
/// a guest that has been resumed answers.
const MBIT: u32 = 4;

/// A brake on the link between the hosts of one network. Dropping it lets go.
pub struct Brake {
    namespace: String,
    mbit: u32,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    On,
    Released,
}

impl Brake {
    /// A brake that is off, for the network of this name.
    pub fn new(namespace: &str) -> Self {
        Self::to(namespace, MBIT)
    }

    /// One that leaves the link so many Mbit/s.
    pub fn to(namespace: &str, mbit: u32) -> Self {
        Self { namespace: namespace.to_owned(), mbit, state: Mutex::new(State::Untouched) }
    }

    /// Slows the link down, unless that was done before.
    pub fn pull(&self) {
        self.change(State::Untouched, State::On, |namespace| network::shape(namespace, &PLACES, self.mbit));
    }

    /// Lets the link carry again what it can.
    pub fn release(&self) {
        self.change(State::On, State::Released, |namespace| network::unshape(namespace, &PLACES));
    }

    fn change(&self, from: State, to: State, action: impl FnOnce(&str) -> anyhow::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != from {
            return;
        }
        *state = to;
        if let Err(error) = action(&self.namespace) {
            println!("the link keeps its speed: {error:#}");
        }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.release();
    }
}
