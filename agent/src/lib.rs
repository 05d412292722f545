//! The migration itself.
//!
//! An [`Agent`] is one thread without interrupts: the image calls [`Agent::poll`] for ever and sleeps in between for
//! as long as the returned [`Wake`] says.
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bitmap;
pub mod config;
pub mod control;
pub mod platform;
pub mod wire;

pub use config::{Address, Config};

use platform::{Platform, Store};
use smoltcp::phy::Device;

/// When [`Agent::poll`] wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// At once: there is more to do.
    Now,
    /// At this time of [`Platform::now_ns`], or earlier if an event comes.
    At(u64),
    /// When an event comes: a packet, a fault, a change in the store.
    OnEvent,
}

/// The agent of one host.
pub struct Agent<P: Platform, D: Device, S: Store> {
    platform: P,
    device: D,
    store: S,
    config: Config,
}

impl<P, D, S> Agent<P, D, S>
where
    P: Platform + 'static,
    P::Source: 'static,
    P::Target: 'static,
    D: Device,
    S: Store,
{
    /// An agent that serves nothing yet.
    pub fn new(platform: P, device: D, store: S, config: Config) -> Self {
        Self { platform, device, store, config }
    }

    /// Does all that can be done without waiting.
    pub fn poll(&mut self) -> Wake {
        let _ = (&self.platform, &self.device, &self.store, &self.config);
        Wake::OnEvent
    }
}
