//! `dom0d --connect` and `--ssh`: a command elsewhere, with this process's standard input, output and error.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::stdio;
use tests_qemu::exec::frame::{self, Header, Kind, ReceiveError};
use tests_qemu::exec::{Dom0, Error, Request, parse_status};

/// A message between the two `xl` of a migration, in front of which the connection is to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    message: &'static [u8],
    /// Whether the receiving `xl` says it, on its standard output.
    from_receiver: bool,
}

impl Break {
    /// The break in front of the message of this name. The texts are in Xen's `tools/xl/xl_migrate.c`.
    pub fn before(name: &str) -> Option<Self> {
        let (message, from_receiver): (&[u8], bool) = match name {
            "ready" => (b"domain received, ready to unpause", true),
            "go" => (b"domain is yours, you are cleared to unpause", false),
            "report" => (b"my copy unpause results are as follows", true),
            _ => return None,
        };
        Some(Self { message, from_receiver })
    }

    /// Whether the message is in `bytes`: `xl` writes each in one piece.
    fn is_in(self, bytes: &[u8]) -> bool {
        bytes.windows(self.message.len()).any(|window| window == self.message)
    }
}

/// Runs `request` at `address`; returns its exit status. `until` is where the connection breaks.
pub fn run(address: SocketAddr, request: &Request, until: Option<Break>) -> Result<i32, Error> {
    let mut stream = Dom0::at(address).start(request)?.into_stream();
    // What the remote reader's end is told through.
    let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
    {
        let (stream, stop) = (stream.try_clone()?, stop.try_clone()?);
        let until = until.filter(|until| !until.from_receiver);
        thread::spawn(move || send_input(stream, &stop, until));
    }
    loop {
        let header = Header::read(&mut stream)?.ok_or(Error::Protocol("no exit status"))?;
        match header.kind {
            Kind::Stdout => match until.filter(|until| until.from_receiver) {
                None => output(&mut stream, stdio::stdout(), header.len)?,
                Some(until) => {
                    let bytes = frame::read_payload(&mut stream, header)?;
                    if until.is_in(&bytes) {
                        return Err(broken());
                    }
                    io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush())?;
                }
            },
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
fn send_input(mut stream: TcpStream, stop: &OwnedFd, until: Option<Break>) {
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
        if let Some(until) = until {
            match send_unless(&mut stream, until) {
                Ok(true) => continue,
                Ok(false) => break,
                Err(error) => {
                    eprintln!("dom0d: {error}");
                    // Both ends of the connection close, and both `xl` see it.
                    std::process::exit(255);
                }
            }
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

/// Carries what standard input holds now; `false` at its end, an error where the connection is to break.
fn send_unless(stream: &mut TcpStream, until: Break) -> Result<bool, Error> {
    let mut bytes = vec![0; 64 << 10];
    let count = rustix::io::read(stdio::stdin(), &mut bytes).map_err(io::Error::from)?;
    if until.is_in(&bytes[..count]) {
        return Err(broken());
    }
    frame::write(stream, Kind::Data, &bytes[..count])?;
    Ok(count > 0)
}

fn broken() -> Error {
    Error::Connection(io::Error::other("it breaks here, as it was asked to"))
}
