//! Frames of the dom0 protocol: `kind: u8`, `length: u32` little-endian, `length` bytes of payload.
//!
//! A pipe's content never passes through a buffer of ours where the kernel can do without: [`send_from`] and
//! [`receive_into`] splice it, so that a migration stream costs dom0 one copy at either end and no more.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::pipe::SpliceFlags;

/// No frame carries more than this many bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client: run a command; JSON of [`super::Request`].
    Run = 1,
    /// Bytes of standard input or of a file; an empty one ends them. In either direction.
    Data = 2,
    /// Client: write a file; JSON of [`super::PutFile`], then `Data`. Answered by `Exit` 0 or `Refused`.
    Put = 3,
    /// Client: read a file; the payload is its path. Answered by `Data` or `Refused`.
    Get = 4,
    /// Server: bytes of standard output; an empty one ends them.
    Stdout = 0x11,
    /// Server: bytes of standard error; an empty one ends them.
    Stderr = 0x12,
    /// Server: the command ended; i32, its exit status, or 128 + the signal that killed it.
    Exit = 0x13,
    /// Server: the request could not be served; the payload is the reason.
    Refused = 0x14,
    /// Server: nobody reads the command's standard input any more.
    StdinClosed = 0x15,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Run, Data, Put, Get, Stdout, Stderr, Exit, Refused, StdinClosed].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The five bytes in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// How long it is, at most [`MAX_PAYLOAD`].
    pub len: usize,
}

impl Header {
    const LEN: usize = 5;

    /// The next header, or `None` when the peer ended the stream between two frames.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Header>> {
        let mut bytes = [0; Header::LEN];
        let first = loop {
            match from.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        from.read_exact(&mut bytes[first..])?;
        let [kind, length @ ..] = bytes;
        let kind = Kind::parse(kind).ok_or_else(|| invalid("unknown frame kind"))?;
        let len = u32::from_le_bytes(length) as usize;
        if len > MAX_PAYLOAD { Err(invalid("frame too long")) } else { Ok(Some(Header { kind, len })) }
    }

    fn to_bytes(self) -> [u8; Header::LEN] {
        let [a, b, c, d] = (self.len as u32).to_le_bytes();
        [self.kind as u8, a, b, c, d]
    }
}

/// The payload that follows `header`.
pub fn read_payload(from: &mut impl Read, header: Header) -> io::Result<Vec<u8>> {
    let mut payload = vec![0; header.len];
    from.read_exact(&mut payload)?;
    Ok(payload)
}

/// Writes one whole frame.
pub fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        return Err(invalid("payload too long for a frame"));
    }
    let mut frame = Vec::with_capacity(Header::LEN + payload.len());
    frame.extend_from_slice(&Header { kind, len: payload.len() }.to_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

/// Sends one frame of what `source` (a pipe, file or terminal, readable now) holds; returns its length, 0 at the end of it.
pub fn send_from(source: BorrowedFd, to: &mut TcpStream, kind: Kind) -> io::Result<usize> {
    let waiting = rustix::io::ioctl_fionread(source).unwrap_or(0).min(MAX_PAYLOAD as u64) as usize;
    if waiting == 0 {
        // The end, or something that cannot tell how much it holds.
        let mut buffer = vec![0; 64 << 10];
        let got = retry(|| rustix::io::read(source, &mut buffer))?;
        write(to, kind, &buffer[..got])?;
        return Ok(got);
    }
    send_all_more(to, &Header { kind, len: waiting }.to_bytes())?;
    let sent = splice_exactly(source, to.as_fd(), waiting);
    if sent < waiting {
        let mut rest = vec![0; waiting - sent];
        let mut filled = 0;
        while filled < rest.len() {
            match retry(|| rustix::io::read(source, &mut rest[filled..]))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => filled += got,
            }
        }
        to.write_all(&rest)?;
    }
    Ok(waiting)
}

/// Why a payload did not reach its pipe.
#[derive(Debug)]
pub enum ReceiveError {
    /// Nobody reads the pipe. The payload has been taken from the connection and thrown away.
    PipeClosed,
    /// The connection failed.
    Connection(io::Error),
}

/// Moves the payload of `len` bytes from the connection into `pipe`.
pub fn receive_into(from: &mut TcpStream, pipe: BorrowedFd, len: usize) -> Result<(), ReceiveError> {
    let mut left = len - splice_exactly(from.as_fd(), pipe, len);
    let mut closed = false;
    let mut buffer = vec![0; left.min(256 << 10)];
    while left > 0 {
        let part = left.min(buffer.len());
        let got = match from.read(&mut buffer[..part]) {
            Ok(0) => return Err(ReceiveError::Connection(io::ErrorKind::UnexpectedEof.into())),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ReceiveError::Connection(error)),
        };
        left -= got;
        closed = closed || write_fd(pipe, &buffer[..got]).is_err();
    }
    if closed { Err(ReceiveError::PipeClosed) } else { Ok(()) }
}

/// Splices until `len` bytes have moved or the kernel refuses; returns how many moved. The caller copies the rest and so
/// meets the reason.
fn splice_exactly(from: BorrowedFd, to: BorrowedFd, len: usize) -> usize {
    let mut moved = 0;
    while moved < len {
        match retry(|| rustix::pipe::splice(from, None, to, None, len - moved, SpliceFlags::MOVE)) {
            Ok(0) | Err(_) => break,
            Ok(part) => moved += part,
        }
    }
    moved
}

/// Sends bytes that more will follow at once, so that they share a segment.
fn send_all_more(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = retry(|| rustix::net::send(to, bytes, SendFlags::MORE | SendFlags::NOSIGNAL))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn write_fd(to: BorrowedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = retry(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Stdout, b"hello").unwrap();
        let mut from = &bytes[..];
        let header = Header::read(&mut from).unwrap().unwrap();
        assert_eq!(header, Header { kind: Kind::Stdout, len: 5 });
        assert_eq!(read_payload(&mut from, header).unwrap(), b"hello");
        assert!(Header::read(&mut from).unwrap().is_none());
    }

    #[test]
    fn unknown_kinds_long_frames_and_cut_headers_are_refused() {
        assert!(Header::read(&mut &[0x77, 0, 0, 0, 0][..]).is_err());
        assert!(Header::read(&mut &[2, 1, 0, 16, 0][..]).is_err());
        assert!(Header::read(&mut &[2, 1, 0][..]).is_err());
    }
}
