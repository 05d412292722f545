//! A client of xenstored, over its socket or, where xenstored is a domain of its own, over the kernel's device.
//!
//! One request at a time; watch events that arrive in between are kept until they are asked for.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Where xenstored listens, first match wins.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The kernel's way to a xenstored elsewhere.
const DEVICE: &str = "/dev/xen/xenbus";
/// Longest payload of a message.
const MAX_PAYLOAD: usize = 4096;

/// Message types of the wire protocol (Xen's `io/xs_wire.h`).
mod kind {
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const WATCH: u32 = 4;
    pub const WRITE: u32 = 11;
    pub const REMOVE: u32 = 13;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const RESUME: u32 = 18;
}

/// What went wrong with a request.
#[derive(Debug)]
pub enum XenstoreError {
    /// xenstored cannot be reached.
    Connect(io::Error),
    /// The connection broke.
    Connection(io::Error),
    /// xenstored said no; `error` is its word for it, like `EACCES`.
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of which node.
        path: String,
        /// xenstored's answer.
        error: String,
    },
    /// xenstored sent something that is not its protocol.
    Malformed(&'static str),
}

impl fmt::Display for XenstoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot reach xenstored: {error}"),
            Self::Connection(error) => write!(f, "lost xenstored: {error}"),
            Self::Refused { operation, path, error } => write!(f, "xenstored refused to {operation} {path}: {error}"),
            Self::Malformed(what) => write!(f, "xenstored sent {what}"),
        }
    }
}

impl std::error::Error for XenstoreError {}

type Result<T> = std::result::Result<T, XenstoreError>;

/// A connection to xenstored.
pub struct Xenstore {
    connection: File,
    last_request: u32,
    changes: VecDeque<String>,
}

/// A message of the wire protocol.
struct Message {
    kind: u32,
    request: u32,
    payload: Vec<u8>,
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
        match self.request("read", kind::READ, path, &[path.as_bytes(), b"\0"]) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(error) => absent(error).map(|()| None),
        }
    }

    /// The names of the node's children; none if there is no such node.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        match self.request("list", kind::DIRECTORY, path, &[path.as_bytes(), b"\0"]) {
            Ok(names) => Ok(strings(&names).collect()),
            Err(error) => absent(error).map(|()| Vec::new()),
        }
    }

    /// Sets the node's value, creating it and what is above it.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.request("write", kind::WRITE, path, &[path.as_bytes(), b"\0", value.as_bytes()]).map(drop)
    }

    /// Removes the node and everything below it.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.request("remove", kind::REMOVE, path, &[path.as_bytes(), b"\0"]).map(drop).or_else(absent)
    }

    /// From now on every change at or below `path` becomes an answer of [`Xenstore::take_change`]; one comes at once.
    pub fn watch(&mut self, path: &str) -> Result<()> {
        self.request("watch", kind::WATCH, path, &[path.as_bytes(), b"\0", path.as_bytes(), b"\0"]).map(drop)
    }

    /// Tells xenstored that a domain which had suspended runs on here, so that it announces its next suspend.
    pub fn resume(&mut self, domain: u16) -> Result<()> {
        let domain = domain.to_string();
        self.request("resume domain", kind::RESUME, &domain, &[domain.as_bytes(), b"\0"]).map(drop)
    }

    /// A watched path that changed, if one has been received.
    pub fn take_change(&mut self) -> Option<String> {
        self.changes.pop_front()
    }

    /// Whether [`Xenstore::take_change`] has something.
    pub fn has_change(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Receives one message outside a request: a watch event. Waits for it.
    pub fn receive_change(&mut self) -> Result<()> {
        let message = self.receive()?;
        self.keep_change(message)
    }

    fn request(&mut self, operation: &'static str, kind: u32, path: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.last_request = self.last_request.wrapping_add(1);
        self.send(kind, self.last_request, &parts.concat())?;
        loop {
            let message = self.receive()?;
            if message.kind == kind::WATCH_EVENT {
                self.keep_change(message)?;
            } else if message.request != self.last_request {
                return Err(XenstoreError::Malformed("an answer to no request"));
            } else if message.kind == kind::ERROR {
                let error = strings(&message.payload).next().unwrap_or_default();
                return Err(XenstoreError::Refused { operation, path: path.into(), error });
            } else {
                return Ok(message.payload);
            }
        }
    }

    fn keep_change(&mut self, message: Message) -> Result<()> {
        if message.kind != kind::WATCH_EVENT {
            return Err(XenstoreError::Malformed("an answer to no request"));
        }
        let path = strings(&message.payload).next().ok_or(XenstoreError::Malformed("an event without a path"))?;
        self.changes.push_back(path);
        Ok(())
    }

    fn send(&mut self, kind: u32, request: u32, payload: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(16 + payload.len());
        for word in [kind, request, 0, payload.len() as u32] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(payload);
        self.connection.write_all(&message).map_err(XenstoreError::Connection)
    }

    fn receive(&mut self) -> Result<Message> {
        let mut header = [0; 16];
        self.connection.read_exact(&mut header).map_err(XenstoreError::Connection)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(12) as usize;
        if length > MAX_PAYLOAD {
            return Err(XenstoreError::Malformed("a message that is too long"));
        }
        let mut payload = vec![0; length];
        self.connection.read_exact(&mut payload).map_err(XenstoreError::Connection)?;
        Ok(Message { kind: word(0), request: word(4), payload })
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Turns "no such node" into success.
fn absent(error: XenstoreError) -> Result<()> {
    match error {
        XenstoreError::Refused { error, .. } if error == "ENOENT" => Ok(()),
        other => Err(other),
    }
}

/// The zero-terminated strings of a payload.
fn strings(payload: &[u8]) -> impl Iterator<Item = String> {
    let parts = payload.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned())
}
