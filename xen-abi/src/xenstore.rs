//! xenstore's messages as bytes (`io/xs_wire.h`): the same over a domain's ring and over the daemon's Unix socket.
//!
//! A message is a 16-byte header and up to 4096 bytes; strings in it end with a zero, only values do not.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest payload.
pub const PAYLOAD_MAX: usize = 4096;
/// Bytes of a header.
pub const HEADER: usize = 16;

/// What a message asks or says: those of `enum xsd_sockmsg_type` that we ask or hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Names below a node.
    Directory = 1,
    /// A node's value.
    Read = 2,
    /// Be told of changes at and below a path.
    Watch = 4,
    /// Set a value, make the node and those above it.
    Write = 11,
    /// Make a node.
    Mkdir = 12,
    /// Remove a node and all below.
    Rm = 13,
    /// A watch fired.
    WatchEvent = 15,
    /// A request failed.
    Error = 16,
    /// A suspended domain goes on here (control domain only).
    Resume = 18,
}

impl Kind {
    /// The kind with this number, if it is one of those.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Directory,
            2 => Self::Read,
            4 => Self::Watch,
            11 => Self::Write,
            12 => Self::Mkdir,
            13 => Self::Rm,
            15 => Self::WatchEvent,
            16 => Self::Error,
            18 => Self::Resume,
            _ => return None,
        })
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The header announces more than [`PAYLOAD_MAX`].
    TooLong(u32),
    /// The header's kind is none we know.
    UnknownKind(u32),
    /// A string has no end, is no UTF-8, or one is missing.
    BadString,
}

/// A message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Number of the request it belongs to; 0 for watch events.
    pub request: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

impl Message {
    /// Path and token of a watch event.
    pub fn watch_event(&self) -> Result<(&str, &str), Malformed> {
        let mut parts = strings(&self.payload)?;
        match (parts.next(), parts.next()) {
            (Some(path), Some(token)) => Ok((path, token)),
            _ => Err(Malformed::BadString),
        }
    }

    /// The names in the answer to [`Kind::Directory`].
    pub fn names(&self) -> Result<Vec<String>, Malformed> {
        if self.payload.is_empty() {
            return Ok(Vec::new());
        }
        Ok(strings(&self.payload)?.map(String::from).collect())
    }

    /// What failed, in [`Kind::Error`]: a name such as `ENOENT`.
    pub fn error_name(&self) -> &str {
        core::str::from_utf8(self.payload.strip_suffix(b"\0").unwrap_or(&self.payload)).unwrap_or("EIO")
    }
}

/// The strings in bytes that end with a zero.
fn strings(bytes: &[u8]) -> Result<impl Iterator<Item = &str>, Malformed> {
    let text = core::str::from_utf8(bytes.strip_suffix(b"\0").ok_or(Malformed::BadString)?);
    Ok(text.map_err(|_| Malformed::BadString)?.split('\0'))
}

/// A part of a request's payload.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A string; its end is added.
    Text(&'a str),
    /// A value, as it is.
    Value(&'a [u8]),
}

/// Appends a request to `out`; refuses one that is too long and leaves `out` as it was.
pub fn encode(kind: Kind, request: u32, parts: &[Part<'_>], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let length: usize = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.len() + 1,
            Part::Value(value) => value.len(),
        })
        .sum();
    if length > PAYLOAD_MAX {
        return Err(Malformed::TooLong(length.try_into().unwrap_or(u32::MAX)));
    }
    // Each request stands for itself: it belongs to transaction 0, which is none.
    for word in [kind as u32, request, 0, length as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for part in parts {
        match part {
            Part::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                out.push(0);
            }
            Part::Value(value) => out.extend_from_slice(value),
        }
    }
    Ok(())
}

/// Takes a stream of bytes apart into messages.
///
/// After an error the stream has lost its meaning: whoever reads it gives up.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Bytes that the message being read still lacks: never read more than that and no message is split wrongly.
    pub fn wanted(&self) -> usize {
        match self.length() {
            Some(length) => (HEADER + length).saturating_sub(self.bytes.len()),
            None => HEADER - self.bytes.len(),
        }
    }

    /// Takes bytes that arrived, at most [`Decoder::wanted`]; gives the message that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Message>, Malformed> {
        debug_assert!(bytes.len() <= self.wanted());
        self.bytes.extend_from_slice(bytes);
        let Some(length) = self.length() else { return Ok(None) };
        if length > PAYLOAD_MAX {
            return Err(Malformed::TooLong(length as u32));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let number = self.word(0);
        let message = Message {
            kind: Kind::from_number(number).ok_or(Malformed::UnknownKind(number))?,
            request: self.word(1),
            payload: self.bytes[HEADER..].to_vec(),
        };
        self.bytes.clear();
        Ok(Some(message))
    }

    /// Length of the payload, once the header is there.
    fn length(&self) -> Option<usize> {
        (self.bytes.len() >= HEADER).then(|| self.word(3) as usize)
    }

    fn word(&self, index: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[index * 4..index * 4 + 4]);
        u32::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn feed(decoder: &mut Decoder, mut bytes: &[u8], step: usize) -> Result<Vec<Message>, Malformed> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let take = step.min(decoder.wanted()).min(bytes.len());
            messages.extend(decoder.push(&bytes[..take])?);
            bytes = &bytes[take..];
        }
        Ok(messages)
    }

    #[test]
    fn messages_survive_any_split() {
        let mut bytes = Vec::new();
        encode(Kind::Write, 7, &[Part::Text("data/x"), Part::Value(b"v=1")], &mut bytes).unwrap();
        encode(Kind::Read, 8, &[Part::Text("data/y")], &mut bytes).unwrap();
        encode(Kind::Directory, 9, &[], &mut bytes).unwrap();
        for step in [1, 3, 16, 1000] {
            let messages = feed(&mut Decoder::default(), &bytes, step).unwrap();
            assert_eq!(messages.len(), 3);
            assert_eq!(messages[0].payload, b"data/x\0v=1");
            assert_eq!((messages[1].kind, messages[1].request), (Kind::Read, 8));
            assert!(messages[2].payload.is_empty());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_memory_is_touched() {
        let mut header = Vec::new();
        for word in [2u32, 1, 0, 4097] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Decoder::default().push(&header), Err(Malformed::TooLong(4097)));
        let value = vec![0; PAYLOAD_MAX];
        let mut out = vec![1];
        assert!(encode(Kind::Write, 1, &[Part::Text("a"), Part::Value(&value)], &mut out).is_err());
        assert_eq!(out, [1]);
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut bytes = Vec::new();
        for word in [99u32, 1, 0, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Decoder::default().push(&bytes), Err(Malformed::UnknownKind(99)));
    }

    #[test]
    fn watch_events_and_names_are_checked() {
        let message = |payload: &[u8]| Message { kind: Kind::WatchEvent, request: 0, payload: payload.to_vec() };
        assert_eq!(message(b"a/b\0t\0").watch_event(), Ok(("a/b", "t")));
        assert_eq!(message(b"a/b\0t").watch_event(), Err(Malformed::BadString));
        assert_eq!(message(b"a/b\0").watch_event(), Err(Malformed::BadString));
        assert_eq!(message(b"").names(), Ok(vec![]));
        assert_eq!(message(b"one\0two\0").names().unwrap(), ["one", "two"]);
        assert_eq!(message(b"\xff\0").names(), Err(Malformed::BadString));
        assert_eq!(message(b"ENOENT\0").error_name(), "ENOENT");
    }
}
