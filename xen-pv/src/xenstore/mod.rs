//! xenstore's client: requests that wait for their answer, writes and reads that do not, watches.
//!
//! Paths are relative to the domain's own directory unless they begin with `/`. Each answer carries the number of its
//! request, so that answers nobody waits for fall out by themselves.

use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::time::Duration;

use common::time::Instant;
use xen_abi::Port;
use xen_abi::start_info::StartInfo;
use xen_abi::xenstore::{Decoder, Kind, Malformed, Message, Part, encode};

use crate::event::{self, Channel};
use crate::{memory, time};

#[cfg(fuzzing)]
pub mod fuzzing;
mod inbox;
mod outbox;
mod ring;

use inbox::Inbox;
use outbox::{Outbox, Update};
use ring::Ring;

/// How long an answer may take. The daemon may be busy for seconds, not for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a request has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node does not exist.
    #[error("no such node in xenstore")]
    NotFound,
    /// We may not.
    #[error("xenstore forbids it")]
    Forbidden,
    /// The daemon refused for another reason.
    #[error("xenstore refused")]
    Refused,
    /// The request is too long.
    #[error("the xenstore request is too long")]
    TooLong,
    /// No answer came in time.
    #[error("xenstore does not answer")]
    TimedOut,
    /// The daemon broke the protocol; nothing will work any more.
    #[error("xenstore broke its protocol")]
    Broken,
}

/// A change that a watch reports: the path, and the token the watch was set with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed, or something below it.
    pub path: String,
    /// Which watch.
    pub token: String,
}

/// The client.
#[derive(Debug)]
pub struct Xenstore {
    ring: Ring,
    channel: Channel,
    decoder: Decoder,
    /// Requests that are on their way into the ring, as bytes.
    backlog: Vec<u8>,
    outbox: Outbox,
    inbox: Inbox,
    last_request: u32,
    broken: bool,
}

impl Xenstore {
    /// The client on the ring that the domain builder set up; none for the first control domain.
    pub fn new(info: &StartInfo) -> Option<Self> {
        let page: NonNull<u8> = memory::address_of(info.store_mfn)?;
        // SAFETY: the builder's page, which is part of our memory; `new` is called once, at start.
        let ring = unsafe { Ring::new(page) };
        Some(Self::over(ring, Channel::from_builder(info.store_evtchn)))
    }

    fn over(ring: Ring, channel: Channel) -> Self {
        let (decoder, backlog, outbox, inbox) = Default::default();
        Self { ring, channel, decoder, backlog, outbox, inbox, last_request: 0, broken: false }
    }

    /// The port that says that something arrived.
    pub fn port(&self) -> Port {
        self.channel.port()
    }

    /// The value of a node.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        Ok(self.ask(Kind::Read, &[Part::Text(path)])?.payload)
    }

    /// The value of a node, as text.
    pub fn read_text(&mut self, path: &str) -> Result<String, Error> {
        String::from_utf8(self.read(path)?).map_err(|_| Error::Broken)
    }

    /// Begins to read a node; [`Xenstore::take_value`] has the value when it has come. Never waits. One node at a time.
    pub fn begin_read(&mut self, path: &str) -> Result<(), Error> {
        let request = self.enqueue_last(Kind::Read, &[Part::Text(path)])?;
        self.inbox.value.expect(request);
        self.pump()
    }

    /// The value of the node that was begun to be read, if it has come.
    pub fn take_value(&mut self) -> Option<Result<Vec<u8>, Error>> {
        let answer = self.inbox.value.take()?;
        Some(checked(Kind::Read, answer).map(|answer| answer.payload))
    }

    /// The names below a node.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, Error> {
        self.ask(Kind::Directory, &[Part::Text(path)])?.names().map_err(|_| Error::Broken)
    }

    /// Sets a value and waits until it is set.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.ask(Kind::Write, &[Part::Text(path), Part::Value(value)]).map(drop)
    }

    /// Sets a value; never waits, and nobody learns whether it worked. While the daemon takes nothing, a later value of the
    /// same node replaces it.
    pub fn post_write(&mut self, path: &str, value: &[u8]) {
        self.update(path, Update::Write(value.to_vec()));
    }

    /// Makes an empty node.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        self.ask(Kind::Mkdir, &[Part::Text(path)]).map(drop)
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.ask(Kind::Rm, &[Part::Text(path)]).map(drop)
    }

    /// [`Xenstore::remove`] without waiting.
    pub fn post_remove(&mut self, path: &str) {
        self.update(path, Update::Remove);
    }

    /// Reports changes at and below a path from now on, and one at once.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), Error> {
        self.inbox.watch(token);
        self.ask(Kind::Watch, &[Part::Text(path), Part::Text(token)]).map(drop)
    }

    /// Moves what can be moved. Never waits.
    pub fn poll(&mut self) {
        self.channel.take_pending();
        let _ = self.pump();
    }

    /// The next change that satisfies `wanted`, if there is one. Never waits.
    pub fn next_change(&mut self, wanted: impl Fn(&Change) -> bool) -> Option<Change> {
        self.poll();
        self.inbox.take_change(wanted)
    }

    /// Whether changes or a value have arrived that nobody has taken: the port does not tell of them again, so that who
    /// sleeps on it asks here first.
    pub fn has_news(&self) -> bool {
        self.inbox.has_news()
    }

    /// Sleeps until something arrives or system time reaches `deadline`.
    pub fn wait(&mut self, deadline: Instant) {
        event::wait(&[self.port()], Some(deadline));
    }

    fn update(&mut self, path: &str, update: Update) {
        self.outbox.put(path, update);
        let _ = self.pump();
    }

    /// Makes the next update a request; whether there was one.
    fn enqueue_update(&mut self) -> bool {
        let Some((path, update)) = self.outbox.take() else { return false };
        // One that is too long is lost: nobody learns of it.
        let _ = match &update {
            Update::Write(value) => self.enqueue(Kind::Write, &[Part::Text(&path), Part::Value(value)]),
            Update::Remove => self.enqueue(Kind::Rm, &[Part::Text(&path)]),
        };
        true
    }

    fn ask(&mut self, kind: Kind, parts: &[Part<'_>]) -> Result<Message, Error> {
        let request = self.enqueue_last(kind, parts)?;
        self.inbox.answer.expect(request);
        let answer = self.wait_for_answer();
        self.inbox.answer.forget();
        checked(kind, answer?)
    }

    fn wait_for_answer(&mut self) -> Result<Message, Error> {
        self.pump()?;
        let deadline = time::now() + PATIENCE;
        loop {
            if let Some(answer) = self.inbox.answer.take() {
                return Ok(answer);
            }
            self.sleep(deadline)?;
        }
    }

    /// Behind all that was said before.
    fn enqueue_last(&mut self, kind: Kind, parts: &[Part<'_>]) -> Result<u32, Error> {
        while self.enqueue_update() {}
        self.enqueue(kind, parts)
    }

    fn enqueue(&mut self, kind: Kind, parts: &[Part<'_>]) -> Result<u32, Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        // 0 is what watch events carry.
        self.last_request = self.last_request.checked_add(1).unwrap_or(1);
        encode(kind, self.last_request, parts, &mut self.backlog).map_err(|_| Error::TooLong)?;
        Ok(self.last_request)
    }

    fn sleep(&mut self, deadline: Instant) -> Result<(), Error> {
        if time::now() >= deadline {
            return Err(Error::TimedOut);
        }
        event::wait(&[self.port()], Some(deadline));
        self.channel.take_pending();
        self.pump()
    }

    /// Moves bytes in both directions as far as the rings allow.
    fn pump(&mut self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        self.exchange().map_err(|_| {
            self.broken = true;
            Error::Broken
        })
    }

    fn exchange(&mut self) -> Result<(), Malformed> {
        let broken = |_| Malformed::BadString;
        let mut moved = false;
        while !self.backlog.is_empty() || self.enqueue_update() {
            let count = self.ring.put(&self.backlog).map_err(broken)?;
            self.backlog.drain(..count);
            moved |= count > 0;
            if !self.backlog.is_empty() {
                break;
            }
        }
        let mut buffer = [0; 1024];
        loop {
            let wanted = self.decoder.wanted().min(buffer.len());
            let count = self.ring.take(&mut buffer[..wanted]).map_err(broken)?;
            if count == 0 {
                break;
            }
            moved = true;
            if let Some(message) = self.decoder.push(&buffer[..count])? {
                self.inbox.put(message)?;
            }
        }
        if moved {
            self.channel.notify();
        }
        Ok(())
    }
}

/// An answer is of the request's kind, or an error.
fn checked(kind: Kind, answer: Message) -> Result<Message, Error> {
    if answer.kind == kind {
        return Ok(answer);
    }
    Err(match (answer.kind, answer.error_name()) {
        (Kind::Error, "ENOENT") => Error::NotFound,
        (Kind::Error, "EACCES" | "EPERM") => Error::Forbidden,
        (Kind::Error, _) => Error::Refused,
        _ => Error::Broken,
    })
}
