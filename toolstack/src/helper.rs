//! One call of the save helper: given to the agents or to Xen's own helper, carried out, and its outcome told to libxl.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use common::control::{Mode, Parameters};
use common::{DomId, Gfn, Rings};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::arguments::{Arguments, RestoreArguments, SaveArguments};
use crate::callbacks::{Level, Libxl, Message};
use crate::events::{Signals, Waiter};
use crate::follow;
use crate::kept::End;
use crate::peek::Peek;
use crate::refusal::Refusal;
use crate::restore::{restore, take_invitation};
use crate::save::{Order, Save};
use crate::stream::{self, Owner};
use crate::xenstore::Xenstore;
use crate::{peek, stock};

/// Chooses how pages move: `tsmc` (the default), `precopy` or `postcopy`. Read from the environment of whoever starts the migration.
pub const MODE: &str = "TSMC_MODE";

/// Makes the agents compare all memory at the switch if it is `1`. Read where [`MODE`] is.
pub const VERIFY: &str = "TSMC_VERIFY";

/// Lets a guest that would have to stand still for longer than so many milliseconds stay. Read where [`MODE`] is.
pub const MAX_DOWNTIME: &str = "TSMC_MAX_DOWNTIME";

/// Serves one call of libxl. Returns when libxl knows the outcome; does not return if it is the stock helper's job.
///
/// An error here is one that libxl could not be told about.
pub fn serve(call: Arguments, words: &[String]) -> io::Result<()> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let callbacks = match &call {
        Arguments::Save(save) => save.callbacks,
        Arguments::Restore(restore) => restore.callbacks,
    };
    let mut libxl = Libxl::new(output, input, callbacks);
    let outcome = match &call {
        Arguments::Save(arguments) => save_domain(&mut libxl, arguments),
        Arguments::Restore(arguments) => restore_domain(&mut libxl, arguments),
    };
    let refusal = match outcome {
        Ok(Whose::Ours) => return libxl.complete(0),
        // Only a failure returns.
        Ok(Whose::Stock) => Refusal::System(stock::become_helper(words)),
        Err(refusal) => refusal,
    };
    let (domain, way) = match &call {
        Arguments::Save(arguments) => (arguments.domain, "leave"),
        Arguments::Restore(arguments) => (arguments.domain, "arrive on"),
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    libxl.log(Level::Error, &format!("domain {domain} cannot {way} host '{}': {refusal}", host.trim()));
    if matches!(call, Arguments::Restore(_)) {
        // libxl complains about a helper that names no rings, whatever else happened.
        libxl.send(&Message::RestoreResults(Rings { store: Gfn(0), console: Gfn(0) }))?;
    }
    libxl.complete(Errno::CANCELED.raw_os_error())
}

/// Who is to serve a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Stock,
}

fn save_domain(libxl: &mut Libxl, arguments: &SaveArguments) -> Result<Whose, Refusal> {
    if !arguments.live || !arguments.plain {
        return Ok(Whose::Stock);
    }
    let mut store = Xenstore::connect()?;
    if whose_guest(&mut store, arguments.domain)? == Whose::Stock {
        return Ok(Whose::Stock);
    }
    let parameters = Parameters {
        mode: chosen_mode()?,
        verify: is_to_be_verified(std::env::var(VERIFY).ok())?,
        max_downtime: most_downtime(std::env::var(MAX_DOWNTIME).ok())?,
    };
    let order = Order { domain: arguments.domain, parameters };
    let mut waiter = Waiter::new(Signals::take()?, inherited(arguments.stream)?);
    follow::start(End::out(arguments.domain))?;
    Save::start(libxl, &mut store, &mut waiter, order)?.run()?;
    Ok(Whose::Ours)
}

fn restore_domain(libxl: &mut Libxl, arguments: &RestoreArguments) -> Result<Whose, Refusal> {
    let stream = inherited(arguments.stream)?;
    let owner = match peek::peek(&stream)? {
        Peek::Head(head) if arguments.plain => stream::owner(&head)?,
        Peek::Ended => return Err(Refusal::PeerGone),
        Peek::Head(_) | Peek::Strange => Owner::Others,
    };
    let Owner::Us { body, rest } = owner else { return Ok(Whose::Stock) };
    let mut stream = File::from(stream);
    let invitation = take_invitation(&mut stream, body, rest)?;
    let mut store = Xenstore::connect()?;
    let mut waiter = Waiter::new(Signals::take()?, OwnedFd::from(stream));
    follow::start(End::arriving(arguments.domain))?;
    restore(libxl, &mut store, &mut waiter, arguments, &invitation)?;
    Ok(Whose::Ours)
}

/// The agents serve PVH guests: others need what only the stock helper knows (device models, PV page tables).
fn whose_guest(store: &mut Xenstore, domain: DomId) -> Result<Whose, Refusal> {
    let kind = store.read(&format!("/libxl/{domain}/type"))?;
    Ok(if kind.as_deref() == Some("pvh") { Whose::Ours } else { Whose::Stock })
}

fn chosen_mode() -> Result<Mode, Refusal> {
    match std::env::var(MODE) {
        Ok(mode) => mode.parse().map_err(|_| Refusal::Mode(mode)),
        Err(_) => Ok(Mode::default()),
    }
}

fn is_to_be_verified(wish: Option<String>) -> Result<bool, Refusal> {
    match wish.as_deref() {
        None | Some("" | "0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(Refusal::Verify(other.into())),
    }
}

fn most_downtime(wish: Option<String>) -> Result<Option<Duration>, Refusal> {
    match wish {
        None => Ok(None),
        Some(wish) if wish.is_empty() => Ok(None),
        Some(wish) => match wish.parse() {
            Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
            Err(_) => Err(Refusal::MaxDowntime(wish)),
        },
    }
}

/// A descriptor that libxl left open for us, under a number of our own. Going through the kernel instead of claiming
/// the number needs no promise that nobody else uses it.
fn inherited(descriptor: i32) -> io::Result<OwnedFd> {
    let ourselves = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(ourselves, descriptor, PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn only_pvh_guests_are_ours() {
        let (fake, mut store) = FakeStore::start();
        fake.set("/libxl/5/type", "pvh");
        fake.set("/libxl/6/type", "pv");
        assert_eq!(whose_guest(&mut store, DomId(5)).expect("an answer"), Whose::Ours);
        assert_eq!(whose_guest(&mut store, DomId(6)).expect("an answer"), Whose::Stock);
        assert_eq!(whose_guest(&mut store, DomId(7)).expect("an answer"), Whose::Stock);
    }

    #[test]
    fn verifying_is_asked_for_in_one_way() {
        let verify = |wish: &str| is_to_be_verified(Some(wish.into()));
        assert!(verify("1").expect("an answer"));
        assert!(
            ![verify(""), verify("0"), is_to_be_verified(None)].map(|wish| wish.expect("an answer")).contains(&true)
        );
        assert_eq!(verify("yes").expect_err("a refusal").to_string(), "TSMC_VERIFY is 'yes': choose 0 or 1");
    }

    #[test]
    fn a_downtime_is_a_number_of_milliseconds() {
        let most = |wish: &str| most_downtime(Some(wish.into()));
        assert_eq!(most("300").expect("an answer"), Some(Duration::from_millis(300)));
        assert!([most(""), most_downtime(None)].into_iter().all(|most| most.expect("an answer").is_none()));
        assert_eq!(
            most("1 s").expect_err("a refusal").to_string(),
            "TSMC_MAX_DOWNTIME is '1 s': give a number of milliseconds"
        );
    }

    #[test]
    fn an_inherited_descriptor_is_the_same_file() {
        use std::io::{Read, Write};
        use std::os::fd::AsRawFd;
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        let ours = inherited(to.as_raw_fd()).expect("a descriptor");
        File::from(ours).write_all(b"x").expect("written");
        drop(to);
        let mut all = String::new();
        File::from(from).read_to_string(&mut all).expect("read");
        assert_eq!(all, "x");
        assert!(inherited(9999).is_err());
    }
}
