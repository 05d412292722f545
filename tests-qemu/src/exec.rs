//! Running commands in a dom0 of the testbed, and moving files there and back.
//!
//! dom0 has no ssh. `dom0d` listens there on TCP port 7000; this is its client, for the runner and for `dom0d --ssh`.
//! One connection serves one request ([`frame::Kind`] lists the frames). While a command runs, the client's `Data` frames
//! are its standard input; when the client's end of the connection closes, the command loses its pipes and is killed.
//!
//! ```text
//! client                                   dom0d
//!   Run {argv, env, on_hangup}  ------->   starts it
//!   Data ... Data, Data(empty)  ------->   standard input, and its end
//!                               <-------   Stdout ..., Stderr ..., each ended by an empty one
//!                               <-------   StdinClosed, if nobody reads it any more
//!                               <-------   Exit(status); connection closes
//! ```

pub mod frame;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use frame::{Header, Kind};

/// The port `dom0d` listens on.
pub const PORT: u16 = 7000;

/// What becomes of a command whose client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnHangup {
    /// Its process group gets SIGTERM at once, SIGKILL two seconds later.
    Kill,
    /// Only its pipes are closed, as sshd does, so that `xl migrate-receive` can clean up; SIGKILL a minute later.
    Close,
}

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The program and its arguments; no shell looks at them.
    pub argv: Vec<String>,
    /// Variables added to `dom0d`'s own environment.
    pub env: Vec<(String, String)>,
    /// What becomes of it when the connection closes.
    pub on_hangup: OnHangup,
}

impl Request {
    /// A command with `dom0d`'s environment, killed when its client goes.
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Request {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        Request { argv, env: Vec::new(), on_hangup: OnHangup::Kill }
    }
}

/// A file to write; its content follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// Where; missing folders are made.
    pub path: String,
    /// Permission bits, such as 0o755.
    pub mode: u32,
}

/// How a finished command went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status, or 128 + the signal that ended it.
    pub status: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output as text, without the white space around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Why a request to a dom0 failed.
#[derive(Debug)]
pub enum Error {
    /// dom0 could not be reached, or the connection broke.
    Connection(io::Error),
    /// dom0 would not do it: no such program, no such file, ...
    Refused(String),
    /// The peer spoke out of turn.
    Protocol(&'static str),
    /// It took too long; a running command has been hung up on.
    Timeout,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Connection(error) => write!(f, "connection to dom0: {error}"),
            Error::Refused(reason) => write!(f, "dom0 refused: {reason}"),
            Error::Protocol(what) => write!(f, "dom0d spoke out of turn: {what}"),
            Error::Timeout => f.write_str("dom0 took too long"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout,
            _ => Error::Connection(error),
        }
    }
}

type Connector = dyn Fn() -> io::Result<TcpStream> + Send + Sync;

/// A dom0 and how to reach it.
#[derive(Clone)]
pub struct Dom0 {
    connector: Arc<Connector>,
}

impl Dom0 {
    /// The dom0 at `address`, connected to from the calling thread's network namespace.
    pub fn at(address: SocketAddr) -> Dom0 {
        Dom0::via(move || TcpStream::connect_timeout(&address, Duration::from_secs(3)))
    }

    /// A dom0 that `connect` reaches, for callers that live in another network namespace than the testbed's.
    pub fn via(connect: impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static) -> Dom0 {
        Dom0 { connector: Arc::new(connect) }
    }

    /// Waits until `dom0d` answers.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.run_within(&["true"], Duration::from_secs(3)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Runs a command to its end, without standard input.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output, Error> {
        self.start(&Request::new(argv))?.finish(None)
    }

    /// As [`Dom0::run`]; the command is killed when it has not ended in time.
    pub fn run_within<S: AsRef<str>>(&self, argv: &[S], timeout: Duration) -> Result<Output, Error> {
        self.start(&Request::new(argv))?.finish(Some(timeout))
    }

    /// Runs a line of shell to its end.
    pub fn sh(&self, line: &str) -> Result<Output, Error> {
        self.run(&["sh", "-c", line])
    }

    /// Starts a command.
    pub fn start(&self, request: &Request) -> Result<Running, Error> {
        let mut stream = self.connect()?;
        let json = serde_json::to_vec(request).map_err(io::Error::from)?;
        frame::write(&mut stream, Kind::Run, &json)?;
        Ok(Running { stream })
    }

    /// Writes a file in dom0.
    pub fn put(&self, content: &[u8], path: &str, mode: u32) -> Result<(), Error> {
        let mut stream = self.connect()?;
        let json = serde_json::to_vec(&PutFile { path: path.to_owned(), mode }).map_err(io::Error::from)?;
        frame::write(&mut stream, Kind::Put, &json)?;
        for part in content.chunks(frame::MAX_PAYLOAD) {
            frame::write(&mut stream, Kind::Data, part)?;
        }
        frame::write(&mut stream, Kind::Data, &[])?;
        match next_frame(&mut stream)? {
            (Kind::Exit, _) => Ok(()),
            _ => Err(Error::Protocol("a put ends with its result")),
        }
    }

    /// Writes a copy of a local file, with its permissions, in dom0.
    pub fn put_file(&self, local: &Path, path: &str) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(local)?.permissions().mode() & 0o7777;
        self.put(&std::fs::read(local)?, path, mode)
    }

    /// Reads a file of dom0.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut stream = self.connect()?;
        frame::write(&mut stream, Kind::Get, path.as_bytes())?;
        let mut content = Vec::new();
        loop {
            match next_frame(&mut stream)? {
                (Kind::Data, part) if part.is_empty() => return Ok(content),
                (Kind::Data, part) => content.extend_from_slice(&part),
                _ => return Err(Error::Protocol("a get is answered with data")),
            }
        }
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let stream = (self.connector)()?;
        keep_alive(&stream)?;
        Ok(stream)
    }
}

/// How long a frame may take that has begun to come: dom0 may have no processor time meanwhile.
const FRAME_LIMIT: Duration = Duration::from_secs(60);

/// Something that happened to a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote to its standard output.
    Stdout(Vec<u8>),
    /// It wrote to its standard error.
    Stderr(Vec<u8>),
    /// It closed its standard input, or ended.
    StdinClosed,
    /// It ended. Nothing follows.
    Exit(i32),
}

/// A running command; dropping it hangs up on the command.
pub struct Running {
    stream: TcpStream,
}

impl Running {
    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.chunks(frame::MAX_PAYLOAD) {
            frame::write(&mut self.stream, Kind::Data, part)?;
        }
        Ok(())
    }

    /// Ends its standard input.
    pub fn end_stdin(&mut self) -> Result<(), Error> {
        Ok(frame::write(&mut self.stream, Kind::Data, &[])?)
    }

    /// Waits for the next thing it does, for at most `timeout`. What has begun to come is waited for to its end: half a frame
    /// would be lost.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Event, Error> {
        loop {
            self.stream.set_read_timeout(timeout.map(|limit| limit.max(Duration::from_millis(1))))?;
            self.stream.peek(&mut [0])?;
            self.stream.set_read_timeout(Some(FRAME_LIMIT))?;
            return Ok(match next_frame(&mut self.stream)? {
                (Kind::Stdout | Kind::Stderr, bytes) if bytes.is_empty() => continue,
                (Kind::Stdout, bytes) => Event::Stdout(bytes),
                (Kind::Stderr, bytes) => Event::Stderr(bytes),
                (Kind::StdinClosed, _) => Event::StdinClosed,
                (Kind::Exit, status) => Event::Exit(parse_status(&status)?),
                _ => return Err(Error::Protocol("not an event of a command")),
            });
        }
    }

    /// Ends its standard input and waits for its end, for at most `timeout`.
    pub fn finish(self, timeout: Option<Duration>) -> Result<Output, Error> {
        self.finish_with(timeout, |_| {})
    }

    /// As [`Running::finish`]; `watch` sees every event as it comes.
    pub fn finish_with(mut self, timeout: Option<Duration>, mut watch: impl FnMut(&Event)) -> Result<Output, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut output = Output { status: 0, stdout: Vec::new(), stderr: Vec::new() };
        // The command may already be gone; its exit status says all there is to say.
        let _ = self.end_stdin();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Timeout);
            }
            let event = self.next_event(left)?;
            watch(&event);
            match event {
                Event::Stdout(bytes) => output.stdout.extend(bytes),
                Event::Stderr(bytes) => output.stderr.extend(bytes),
                Event::StdinClosed => {}
                Event::Exit(status) => return Ok(Output { status, ..output }),
            }
        }
    }

    /// The connection itself, for `dom0d --ssh`, which splices through it.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// The exit status in the payload of an `Exit` frame.
pub fn parse_status(payload: &[u8]) -> Result<i32, Error> {
    payload.try_into().map(i32::from_le_bytes).map_err(|_| Error::Protocol("exit status is not four bytes"))
}

/// Makes a connection notice that the machine at its other end has gone: within 15 s when idle, within a minute while it
/// sends. (Not sooner: the limit also hits a peer that is alive but reads nothing for that long.)
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(stream, 5)?;
    sockopt::set_tcp_user_timeout(stream, 60_000)?;
    Ok(())
}

fn next_frame(stream: &mut TcpStream) -> Result<(Kind, Vec<u8>), Error> {
    let header = Header::read(stream)?
        .ok_or_else(|| Error::Connection(io::Error::new(io::ErrorKind::UnexpectedEof, "dom0 closed it")))?;
    let payload = frame::read_payload(stream, header)?;
    match header.kind {
        Kind::Refused => Err(Error::Refused(String::from_utf8_lossy(&payload).into_owned())),
        kind => Ok((kind, payload)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_frame_that_comes_in_pieces_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut dom0, _) = listener.accept().expect("a connection");
        let mut running = Running { stream };
        let soon = Some(Duration::from_millis(20));
        assert!(matches!(running.next_event(soon), Err(Error::Timeout)), "nothing has come");
        let mut whole = Vec::new();
        frame::write(&mut whole, Kind::Stdout, b"copying").expect("a frame");
        let sending = std::thread::spawn(move || {
            for piece in whole.chunks(4) {
                dom0.write_all(piece).expect("sent");
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        while running.stream.peek(&mut [0]).is_err() {}
        assert_eq!(running.next_event(soon).expect("a frame"), Event::Stdout(b"copying".into()));
        sending.join().expect("sent");
    }
}
