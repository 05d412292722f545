//! Looking at the head of a stream without taking a byte from it: the stock helper may have to read it all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::stream::HEAD;

/// How long to wait for the rest when only a part of the head has arrived.
const PAUSE: Duration = Duration::from_millis(2);

/// What a peek at a stream shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Its first bytes.
    Head([u8; HEAD]),
    /// It ended before it began: the sender gave up.
    Ended,
    /// It is shorter than any head, or cannot be looked at.
    Strange,
}

/// Looks at the head of a stream; waits until it is there.
pub fn peek(stream: &impl AsFd) -> io::Result<Peek> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode);
    match kind {
        FileType::Fifo => {
            let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            until_whole(stream, |head| look_into_pipe(stream, &from, &to, head))
        }
        FileType::Socket => until_whole(stream, |head| Ok(rustix::net::recv(stream, head, RecvFlags::PEEK)?.1)),
        FileType::RegularFile => {
            let mut head = [0; HEAD];
            let read = rustix::io::pread(stream, &mut head, rustix::fs::tell(stream)?)?;
            Ok(if read == HEAD { Peek::Head(head) } else { Peek::Strange })
        }
        _ => Ok(Peek::Strange),
    }
}

/// Calls `look` until it sees the whole head. A sender writes the head in several pieces.
fn until_whole(stream: &impl AsFd, mut look: impl FnMut(&mut [u8; HEAD]) -> io::Result<usize>) -> io::Result<Peek> {
    let mut head = [0; HEAD];
    let mut seen = 0;
    loop {
        let mut fds = [PollFd::new(stream, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let hung_up = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        let before = std::mem::replace(&mut seen, look(&mut head)?);
        if seen >= HEAD {
            return Ok(Peek::Head(head));
        }
        if seen == 0 {
            return Ok(Peek::Ended);
        }
        if hung_up && seen == before {
            return Ok(Peek::Strange);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Copies what the pipe `stream` holds into a pipe of our own, and reads it from there.
fn look_into_pipe(stream: &impl AsFd, from: &OwnedFd, to: &OwnedFd, head: &mut [u8; HEAD]) -> io::Result<usize> {
    let copied = rustix::pipe::tee(stream, to, HEAD, SpliceFlags::empty())?;
    // Bytes that are in a pipe come out of it in one read.
    Ok(rustix::io::read(from, &mut head[..copied])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pipe_still_holds_everything_afterwards() {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        let (mut from, mut to) = (File::from(from), File::from(to));
        let bytes: Vec<u8> = (0..200).collect();
        let writer = std::thread::spawn(move || {
            for piece in bytes.chunks(19) {
                to.write_all(piece).expect("written");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(peek(&from).expect("a peek"), Peek::Head(std::array::from_fn(|at| at as u8)));
        assert_eq!(peek(&from).expect("a peek"), Peek::Head(std::array::from_fn(|at| at as u8)));
        writer.join().expect("joined");
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("read");
        assert_eq!(all, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn a_socket_still_holds_everything_afterwards() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&[7; HEAD + 1]).expect("written");
        assert_eq!(peek(&ours).expect("a peek"), Peek::Head([7; HEAD]));
        drop(theirs);
        let mut all = Vec::new();
        ours.read_to_end(&mut all).expect("read");
        assert_eq!(all.len(), HEAD + 1);
    }

    #[test]
    fn a_short_stream_is_nobody_s() {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        File::from(to).write_all(&[1; 20]).expect("written");
        assert_eq!(peek(&from).expect("a peek"), Peek::Strange);
        let (empty, to) = rustix::pipe::pipe().expect("a pipe");
        drop(to);
        assert_eq!(peek(&empty).expect("a peek"), Peek::Ended);
    }
}
