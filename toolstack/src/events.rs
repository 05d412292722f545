//! Waiting for several sources at once: libxl, the agent (through xenstore), the migration stream, signals.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::callbacks::Libxl;
use crate::xenstore::Xenstore;

/// Something happened. Several things at once are reported one by one, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// libxl is gone; there is no one left to tell the outcome.
    ParentGone,
    /// libxl wants us to stop.
    Terminated,
    /// libxl answers a callback.
    Answer,
    /// xenstored has something to say.
    Store,
    /// The other end of the stream is gone.
    StreamGone,
    /// Nothing, for a while.
    Quiet,
}

/// Signals, as something to wait for.
pub struct Signals(UnixStream);

impl Signals {
    /// From now on libxl's request to stop is an event, and a terminal's signals, which reach the whole process group
    /// when `xl` is interrupted, are ignored: libxl decides.
    pub fn take() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, theirs)?;
        for signal in [SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, std::sync::Arc::default())?;
        }
        Ok(Self(ours))
    }

    /// For tests: whoever holds the other end signals by writing to it.
    #[cfg(test)]
    pub fn from_socket(socket: UnixStream) -> Self {
        socket.set_nonblocking(true).expect("a socket");
        Self(socket)
    }
}

/// What to wait for.
pub struct Waiter {
    signals: Signals,
    stream: OwnedFd,
    // What has hung up stays so; it is reported once.
    stream_gone: bool,
    parent_gone: bool,
}

impl Waiter {
    /// Watches `stream` for the other end's death.
    pub const fn new(signals: Signals, stream: OwnedFd) -> Self {
        Self { signals, stream, stream_gone: false, parent_gone: false }
    }

    /// The stream.
    pub const fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    /// Waits for the next event, at most `at_most`.
    pub fn wait(&mut self, libxl: &Libxl, store: &Xenstore, at_most: Duration) -> io::Result<Event> {
        let hung_up = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        let signals = self.signals.0.as_fd();
        let libxl = if self.parent_gone { signals } else { libxl.answers().as_fd() };
        let stream = if self.stream_gone { signals } else { self.stream.as_fd() };
        let mut fds = [
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(libxl, PollFlags::IN),
            PollFd::new(store, PollFlags::IN),
            PollFd::from_borrowed_fd(stream, PollFlags::RDHUP),
        ];
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => return Ok(Event::Quiet),
            other => other?,
        };
        let [signal, answer, store, stream] = fds.map(|fd| fd.revents());
        if signal.contains(PollFlags::IN) {
            let _ = self.signals.0.read(&mut [0; 16]);
            return Ok(Event::Terminated);
        }
        if answer.contains(PollFlags::IN) {
            return Ok(Event::Answer);
        }
        if !self.parent_gone && answer.intersects(hung_up) {
            self.parent_gone = true;
            return Ok(Event::ParentGone);
        }
        if !store.is_empty() {
            return Ok(Event::Store);
        }
        if !self.stream_gone && stream.intersects(hung_up) {
            self.stream_gone = true;
            return Ok(Event::StreamGone);
        }
        Ok(Event::Quiet)
    }
}
