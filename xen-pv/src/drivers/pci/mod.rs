//! The PCI frontend: one device that dom0's pciback lends to this domain.
//!
//! [`Pcifront`] speaks with the backend through xenstore and follows it through every state, away and back; with
//! [`Config`] it reads and writes configuration space through the page that both share. The device's registers are mapped
//! straight from its BARs ([`Registers`]), and its interrupt is bound as an event channel.

use core::time::Duration;

use xen_abi::{Errno, pciif};

use super::xenbus::{self, Backend, state};
use crate::event::{self, Channel};
use crate::grant::Grant;
use crate::memory::Pages;
use crate::time;
use crate::window::Access;
use crate::xenstore::Xenstore;

pub mod config;
#[cfg(fuzzing)]
pub mod fuzzing;
mod operation;
mod registers;

pub use config::Config;
use operation::{Address, Operation, OperationPage};
pub use operation::{Failure, Width};
pub use registers::{Registers, map};

/// Pages that the frontend needs.
pub const PAGES: usize = 1;

const TOKEN: &str = "pcifront";
const DIRECTORY: &str = "device/pci/0";

/// How long the backend may take for an operation; Linux's frontend gives it 2 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the device cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none, or its backend does not follow.
    #[error(transparent)]
    Xenbus(#[from] xenbus::Error),
    /// Xen did not do it.
    #[error(transparent)]
    Xen(#[from] Errno),
    /// The backend did not do it.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The state that we wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Closed,
    Initialised,
    Connected,
    Reconfiguring,
}

/// What a state of the backend's asks for. Whatever it is but [`Step::Stay`], the device is not to be used before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The backend goes away.
    Close,
    /// Devices come or go.
    Reconfigure,
    /// The backend waits for a page and a port.
    Open,
    /// The device is there.
    Arrive,
}

/// What follows from the two ends' states, as in Linux's frontend (`pcifront_backend_changed`).
fn step(own: Own, backend: u32) -> Step {
    match (own, backend) {
        (Own::Closed, state::CLOSING | state::CLOSED | state::UNKNOWN) => Step::Stay,
        (_, state::CLOSING | state::CLOSED | state::UNKNOWN) => Step::Close,
        (Own::Connected, state::RECONFIGURING) => Step::Reconfigure,
        (Own::Reconfiguring, state::RECONFIGURED) | (Own::Initialised, state::CONNECTED) => Step::Arrive,
        // It was made anew, and does not know us.
        (Own::Closed | Own::Connected | Own::Reconfiguring, state::INIT_WAIT | state::INITIALISED) => Step::Open,
        _ => Step::Stay,
    }
}

/// What the backend was given.
#[derive(Debug)]
struct Link {
    operations: OperationPage,
    channel: Channel,
    _grant: Grant,
    /// It once did not answer: an operation may be under way for ever.
    silent: bool,
}

/// Whether the toolstack gave this domain a device.
pub fn exists(store: &mut Xenstore) -> Result<bool, Error> {
    Ok(xenbus::exists(store, DIRECTORY)?)
}

/// The frontend of the domain's first PCI bus.
#[derive(Debug)]
pub struct Pcifront {
    backend: Backend,
    page: Pages,
    own: Own,
    link: Option<Link>,
    address: Option<Address>,
}

impl Pcifront {
    /// Connects to the backend; waits for it.
    pub fn connect(store: &mut Xenstore, page: Pages) -> Result<Self, Error> {
        assert!(page.count() >= PAGES);
        let backend = Backend::find(store, DIRECTORY, TOKEN)?;
        let mut front = Self { backend, page, own: Own::Closed, link: None, address: None };
        front.backend.wait_for(store, &[state::INIT_WAIT, state::INITIALISED])?;
        front.take(store, Step::Open)?;
        front.backend.wait_for(store, &[state::CONNECTED])?;
        front.take(store, Step::Arrive)?;
        Ok(front)
    }

    /// What the backend's state asks for since the last call. Does not wait, except for xenstore when something changed.
    pub fn poll(&mut self, store: &mut Xenstore) -> Result<Step, Error> {
        if !self.backend.has_changed(store) {
            return Ok(Step::Stay);
        }
        Ok(step(self.own, self.backend.state(store)?))
    }

    /// Does it, after the device is let go.
    pub fn take(&mut self, store: &mut Xenstore, step: Step) -> Result<(), Error> {
        match step {
            Step::Stay => Ok(()),
            Step::Close => self.say(store, Own::Closed, state::CLOSED),
            Step::Reconfigure => self.say(store, Own::Reconfiguring, state::RECONFIGURING),
            Step::Open => self.open(store),
            Step::Arrive => {
                self.address = Address::parse(&self.backend.text(store, "vdev-0")?);
                self.say(store, Own::Connected, state::CONNECTED)
            }
        }
    }

    /// Binds the device's interrupt, its first of MSI-X. To be done after the device may be reached in memory: the backend
    /// refuses before.
    pub fn interrupt(&mut self) -> Result<Channel, Error> {
        let pirq = self.operate(Operation::EnableMsix)?;
        Ok(Channel::interrupt(pirq)?)
    }

    /// Gives the interrupt up, after its channel was closed.
    pub fn release_interrupt(&mut self) -> Result<(), Failure> {
        self.operate(Operation::DisableMsix).map(drop)
    }

    fn open(&mut self, store: &mut Xenstore) -> Result<(), Error> {
        let domain = self.backend.domain();
        // The old port and grant go first: the backend that had them is gone.
        self.link = None;
        // SAFETY: the page is this frontend's for ever, and the link that had it is dropped.
        let operations = unsafe { OperationPage::new(self.page.start()) };
        let channel = Channel::unbound(domain)?;
        let grant = Grant::new(domain, self.page.mfn(0), Access::Write)?;
        for (name, value) in
            [("pci-op-ref", grant.reference().0), ("event-channel", channel.port().0), ("magic", pciif::MAGIC)]
        {
            self.backend.write(store, name, value)?;
        }
        self.link = Some(Link { operations, channel, _grant: grant, silent: false });
        self.say(store, Own::Initialised, state::INITIALISED)
    }

    fn say(&mut self, store: &mut Xenstore, own: Own, state: u32) -> Result<(), Error> {
        self.own = own;
        Ok(self.backend.write_state(store, state)?)
    }

    /// Has the backend do something; waits for it.
    fn operate(&mut self, operation: Operation) -> Result<u32, Failure> {
        let (Some(link), Some(address)) = (&mut self.link, self.address) else { return Err(Failure::NoDevice) };
        if link.silent {
            return Err(Failure::Silent);
        }
        link.operations.begin(address, operation);
        link.channel.notify();
        let deadline = time::now() + PATIENCE;
        while !link.operations.is_done() {
            if time::now() >= deadline {
                link.silent = true;
                return Err(Failure::Silent);
            }
            event::wait(&[link.channel.port()], Some(deadline));
            link.channel.take_pending();
        }
        link.operations.answer(operation)
    }
}

impl Config for Pcifront {
    fn read(&mut self, offset: u16, width: Width) -> Result<u32, Failure> {
        self.operate(Operation::Read(offset, width))
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<(), Failure> {
        self.operate(Operation::Write(offset, width, value)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a backend that goes through some states leads a frontend that does what it is asked.
    fn followed(mut own: Own, states: &[u32]) -> (Own, alloc::vec::Vec<Step>) {
        let mut steps = alloc::vec::Vec::new();
        for &state in states {
            let step = step(own, state);
            own = match step {
                Step::Stay => continue,
                Step::Close => Own::Closed,
                Step::Reconfigure => Own::Reconfiguring,
                Step::Open => Own::Initialised,
                Step::Arrive => Own::Connected,
            };
            steps.push(step);
        }
        (own, steps)
    }

    #[test]
    fn a_device_that_is_detached_and_attached_arrives_again() {
        let (own, steps) = followed(Own::Connected, &[7, 8, 4, 7, 8, 4]);
        assert_eq!(own, Own::Connected);
        assert_eq!(steps, [Step::Reconfigure, Step::Arrive, Step::Reconfigure, Step::Arrive]);
    }

    #[test]
    fn a_backend_that_goes_is_let_go_and_one_that_comes_is_followed() {
        let (own, steps) = followed(Own::Connected, &[5, 6, 0, 1, 2, 3, 4]);
        assert_eq!((own, &steps[..]), (Own::Connected, &[Step::Close, Step::Open, Step::Arrive][..]));
        let (own, steps) = followed(Own::Reconfiguring, &[0]);
        assert_eq!((own, &steps[..]), (Own::Closed, &[Step::Close][..]));
        let (own, steps) = followed(Own::Initialised, &[5]);
        assert_eq!((own, &steps[..]), (Own::Closed, &[Step::Close][..]));
    }

    #[test]
    fn a_backend_that_was_made_anew_unseen_gets_a_new_page() {
        let (own, steps) = followed(Own::Connected, &[3, 4]);
        assert_eq!((own, &steps[..]), (Own::Connected, &[Step::Open, Step::Arrive][..]));
    }

    #[test]
    fn states_that_nobody_knows_change_nothing() {
        for own in [Own::Closed, Own::Initialised, Own::Connected, Own::Reconfiguring] {
            assert_eq!(step(own, 99), Step::Stay);
        }
    }
}
