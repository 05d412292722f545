//! The connections that a guest comes over, one pair after the other.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::iter::Sum;
use core::time::Duration;

use crate::limits::Patience;
use crate::messages::SharedOutlet;
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
    pub(super) fn set_patience(&self, patience: Patience) {
        if let Some(Open { links, .. }) = &*self.open.borrow() {
            let each = [patience.control, patience.bulk];
            links.iter().zip(each).for_each(|(link, patience)| link.connection().set_patience(Some(patience)));
        }
    }

    /// Bytes received on these and all earlier ones so far.
    pub(super) fn bytes(&self) -> u64 {
        self.earlier.get() + self.sum(|link| link.connection().received())
    }

    /// What opening took since this was asked last.
    pub(super) fn take_opening(&self) -> Duration {
        self.sum(|link| link.take_spent().open)
    }

    fn sum<T: Sum>(&self, of: impl Fn(&Link) -> T) -> T {
        self.open.borrow().iter().flat_map(|open| &open.links).map(of).sum()
    }
}
