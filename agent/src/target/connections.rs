//! The connections that a guest comes over, one pair after the other.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use crate::channel::SharedOutlet;
use crate::secure::Link;

/// Both connections to the source, as long as they last.
#[derive(Default)]
pub(crate) struct Connections {
    open: RefCell<Option<Open>>,
    /// Bytes received on earlier ones.
    earlier: Cell<u64>,
}

struct Open {
    control: Rc<SharedOutlet>,
    links: [Link; 2],
}

impl Connections {
    /// Goes on over these links, control and bulk.
    pub(super) fn open(&self, links: [Link; 2]) {
        let control = Rc::new(SharedOutlet::new(links[0].clone()));
        *self.open.borrow_mut() = Some(Open { control, links });
    }

    /// They are of no more use.
    pub(super) fn close(&self) {
        self.earlier.set(self.bytes());
        if let Some(Open { links, .. }) = self.open.take() {
            links.iter().for_each(|link| link.connection().abort());
        }
    }

    /// Where to send on the control connection.
    pub(super) fn control(&self) -> Option<Rc<SharedOutlet>> {
        self.open.borrow().as_ref().map(|open| open.control.clone())
    }

    /// How long the source may say nothing, or take nothing.
    pub(super) fn set_patience(&self, control: u64, bulk: u64) {
        if let Some(Open { links, .. }) = &*self.open.borrow() {
            links.iter().zip([control, bulk]).for_each(|(link, ns)| link.connection().set_patience(Some(ns)));
        }
    }

    /// Bytes received on these and all earlier ones so far.
    pub(super) fn bytes(&self) -> u64 {
        self.earlier.get() + self.sum(|link| link.connection().received())
    }

    /// Nanoseconds that opening took since this was asked last.
    pub(super) fn take_opening(&self) -> u64 {
        self.sum(|link| link.take_spent()[1])
    }

    fn sum(&self, of: impl Fn(&Link) -> u64) -> u64 {
        self.open.borrow().iter().flat_map(|open| &open.links).map(of).sum()
    }
}
