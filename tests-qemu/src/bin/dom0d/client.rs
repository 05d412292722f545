//! `dom0d --connect` and `--ssh`: a command elsewhere, with this process's standard input, output and error.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::stdio;
use tests_qemu::exec::frame::{self, Header, Kind, ReceiveError};
use tests_qemu::exec::{Dom0, Error, Request, parse_status};

/// Runs `request` at `address`; returns its exit status.
pub fn run(address: SocketAddr, request: &Request) -> Result<i32, Error> {
    let mut stream = Dom0::at(address).start(request)?.into_stream();
    // What the remote reader's end is told through.
    let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
    {
        let (stream, stop) = (stream.try_clone()?, stop.try_clone()?);
        thread::spawn(move || send_input(stream, &stop));
    }
    loop {
        let header = Header::read(&mut stream)?.ok_or(Error::Protocol("no exit status"))?;
        match header.kind {
            Kind::Stdout => output(&mut stream, stdio::stdout(), header.len)?,
            Kind::Stderr => output(&mut stream, stdio::stderr(), header.len)?,
            Kind::StdinClosed => {
                rustix::io::write(&stop, &1u64.to_ne_bytes()).map_err(io::Error::from)?;
            }
            Kind::Exit => return parse_status(&frame::read_payload(&mut stream, header)?),
            Kind::Refused => {
                let reason = frame::read_payload(&mut stream, header)?;
                return Err(Error::Refused(String::from_utf8_lossy(&reason).into_owned()));
            }
            _ => return Err(Error::Protocol("not an event of a command")),
        }
    }
}

/// A local reader that has gone ends the whole: our end of the connection closes, and the command is hung up on.
fn output(stream: &mut TcpStream, to: BorrowedFd, len: usize) -> Result<(), Error> {
    frame::receive_into(stream, to, len).map_err(|error| match error {
        ReceiveError::PipeClosed => io::Error::from(io::ErrorKind::BrokenPipe).into(),
        ReceiveError::Connection(error) => error.into(),
    })
}

/// Carries standard input until it ends or `stop` says that nobody reads it; then closes it, so that its writer knows.
fn send_input(mut stream: TcpStream, stop: &OwnedFd) {
    let input = stdio::stdin();
    let _ = rustix::pipe::fcntl_setpipe_size(input, frame::MAX_PAYLOAD);
    loop {
        let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) if !fds[1].revents().is_empty() => break,
            Ok(_) => {}
        }
        match frame::send_from(input.as_fd(), &mut stream, Kind::Data) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    if let Ok(nothing) = std::fs::File::open("/dev/null") {
        let _ = stdio::dup2_stdin(nothing);
    }
}
