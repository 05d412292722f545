//! A client of xenstored, over its socket or, where xenstored is a domain of its own, over the kernel's device.
//!
//! One request at a time; watch events that arrive in between are kept until they are asked for.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::DomId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use xen_abi::xenstore::{Decoder, Kind, Message, Part, encode};

/// Where xenstored listens, first match wins.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The kernel's way to a xenstored elsewhere.
const DEVICE: &str = "/dev/xen/xenbus";

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum XenstoreError {
    /// xenstored cannot be reached.
    #[error("cannot reach xenstored: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("lost xenstored: {0}")]
    Connection(io::Error),
    /// xenstored said no; `error` is its word for it, like `EACCES`.
    #[error("xenstored refused to {operation} {path}: {error}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of which node.
        path: String,
        /// xenstored's answer.
        error: String,
    },
    /// xenstored sent something that is not its protocol.
    #[error("xenstored sent {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, XenstoreError>;

/// A connection to xenstored.
pub struct Xenstore {
    connection: File,
    last_request: u32,
    changes: VecDeque<String>,
}

impl Xenstore {
    /// Connects to this host's xenstored.
    pub fn connect() -> Result<Self> {
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for path in SOCKETS {
            match UnixStream::connect(path) {
                Ok(socket) => return Ok(Self::over(OwnedFd::from(socket))),
                Err(failed) => error = failed,
            }
        }
        match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(device) => Ok(Self::over(OwnedFd::from(device))),
            Err(_) => Err(XenstoreError::Connect(error)),
        }
    }

    /// Speaks to a xenstored at the other end of `connection`.
    pub fn over(connection: OwnedFd) -> Self {
        Self { connection: File::from(connection), last_request: 0, changes: VecDeque::new() }
    }

    /// The node's value, or `None` if there is no such node.
    pub fn read(&mut self, path: &str) -> Result<Option<String>> {
        match self.request("read", Kind::Read, path, &[Part::Text(path)]) {
            Ok(answer) => Ok(Some(String::from_utf8_lossy(&answer.payload).into_owned())),
            Err(error) => absent(error).map(|()| None),
        }
    }

    /// The names of the node's children; none if there is no such node.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        match self.request("list", Kind::Directory, path, &[Part::Text(path)]) {
            Ok(answer) => answer.names().map_err(|_| XenstoreError::Malformed("names that are no text")),
            Err(error) => absent(error).map(|()| Vec::new()),
        }
    }

    /// Sets the node's value, creating it and what is above it.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.request("write", Kind::Write, path, &[Part::Text(path), Part::Value(value.as_bytes())]).map(drop)
    }

    /// Removes the node and everything below it.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.request("remove", Kind::Rm, path, &[Part::Text(path)]).map(drop).or_else(absent)
    }

    /// From now on every change at or below `path` becomes an answer of [`Xenstore::take_change`]; one comes at once.
    pub fn watch(&mut self, path: &str) -> Result<()> {
        self.request("watch", Kind::Watch, path, &[Part::Text(path), Part::Text(path)]).map(drop)
    }

    /// Tells xenstored that a domain which had suspended runs on here, so that it announces its next suspend.
    pub fn resume(&mut self, domain: DomId) -> Result<()> {
        let domain = domain.to_string();
        self.request("resume domain", Kind::Resume, &domain, &[Part::Text(&domain)]).map(drop)
    }

    /// A watched path that changed, if one has been received.
    pub fn take_change(&mut self) -> Option<String> {
        self.changes.pop_front()
    }

    /// Waits until something watched has changed, and forgets what; at most `at_most`. Whether something has.
    pub fn wait_for_change(&mut self, at_most: Option<Duration>) -> Result<bool> {
        if self.changes.is_empty() {
            let timeout = at_most
                .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) });
            match poll(&mut [PollFd::new(&self.connection, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => self.receive_change()?,
                Err(Errno::INTR) => return Ok(true),
                Err(error) => return Err(XenstoreError::Connection(error.into())),
            }
        }
        self.changes.clear();
        Ok(true)
    }

    /// Whether [`Xenstore::take_change`] has something.
    pub fn has_change(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Receives one message outside a request: a watch event. Waits for it.
    pub fn receive_change(&mut self) -> Result<()> {
        let message = self.receive()?;
        self.keep_change(&message)
    }

    fn request(&mut self, operation: &'static str, kind: Kind, path: &str, parts: &[Part<'_>]) -> Result<Message> {
        self.last_request = self.last_request.wrapping_add(1);
        let mut request = Vec::new();
        if encode(kind, self.last_request, parts, &mut request).is_err() {
            return Err(XenstoreError::Refused { operation, path: path.into(), error: "E2BIG".into() });
        }
        self.connection.write_all(&request).map_err(XenstoreError::Connection)?;
        loop {
            let message = self.receive()?;
            if message.kind == Kind::WatchEvent {
                self.keep_change(&message)?;
            } else if message.request != self.last_request {
                return Err(XenstoreError::Malformed("an answer to no request"));
            } else if message.kind == Kind::Error {
                return Err(XenstoreError::Refused {
                    operation,
                    path: path.into(),
                    error: message.error_name().into(),
                });
            } else {
                return Ok(message);
            }
        }
    }

    fn keep_change(&mut self, message: &Message) -> Result<()> {
        if message.kind != Kind::WatchEvent {
            return Err(XenstoreError::Malformed("an answer to no request"));
        }
        let (path, _token) = message.watch_event().map_err(|_| XenstoreError::Malformed("an event without a path"))?;
        self.changes.push_back(path.into());
        Ok(())
    }

    fn receive(&mut self) -> Result<Message> {
        let mut decoder = Decoder::default();
        loop {
            let mut bytes = vec![0; decoder.wanted()];
            self.connection.read_exact(&mut bytes).map_err(XenstoreError::Connection)?;
            match decoder.push(&bytes) {
                Ok(None) => {}
                Ok(Some(message)) => return Ok(message),
                Err(_) => return Err(XenstoreError::Malformed("what is not its protocol")),
            }
        }
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Turns "no such node" into success. xenstored's protocol has words for errors, and no numbers.
fn absent(error: XenstoreError) -> Result<()> {
    match error {
        XenstoreError::Refused { error, .. } if error == "ENOENT" => Ok(()),
        other => Err(other),
    }
}
