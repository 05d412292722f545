//! Queries to `guest-load`, the workload inside the test guest, and their answers.
//!
//! It answers on port 7100: over UDP any datagram is answered with one [`Status`] as a line of JSON; over TCP each line is
//! a command, answered by a line of JSON: `status`, `reset` (forget the gaps seen so far; answers the status) and `check`
//! (read every page now; answers a [`Check`]).

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The port `guest-load` answers on.
pub const PORT: u16 = 7100;

/// The workload's counters, since its start unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Time by the guest's own clock.
    pub t_ms: u64,
    /// Memory that it writes to and checks, in pages of 4 KiB.
    pub dirty_pages: u64,
    /// Memory that it wrote once and checks, in pages.
    pub idle_pages: u64,
    /// Page writes a second that it was asked for.
    pub rate: u64,
    /// Threads at work.
    pub threads: u64,
    /// Pages written.
    pub writes: u64,
    /// Pages written in the last second.
    pub writes_per_s: u64,
    /// Pages checked, all 4096 bytes.
    pub verified: u64,
    /// Times that every page has been checked.
    pub sweeps: u64,
    /// Pages that did not hold what was last written to them.
    pub errors: u64,
    /// Longest time, by the guest's monotonic clock, that a thread meant to sleep 10 ms was away. Since the last `reset`.
    pub longest_gap_ms: u64,
    /// The same by the clock that also counts suspended time.
    pub longest_boot_gap_ms: u64,
    /// How often a thread was away for more than 50 ms. Since the last `reset`.
    pub gaps_over_50ms: u64,
}

/// The result of reading every page once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Pages read.
    pub pages: u64,
    /// Pages found wrong, by this check or at any time before it.
    pub errors: u64,
    /// How long the check took by the guest's clock.
    pub ms: u64,
}

/// Asks a guest's workload by datagrams: no connection has to be made first, and what is lost is only asked for again.
pub struct Asker {
    socket: UdpSocket,
}

impl Asker {
    /// Asks from the calling thread's network namespace; every answer is waited for at most `timeout`.
    pub fn new(guest: Ipv4Addr, timeout: Duration) -> io::Result<Asker> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddrV4::new(guest, PORT))?;
        socket.set_read_timeout(Some(timeout))?;
        Ok(Asker { socket })
    }

    /// The counters: as they are, or as they were when a late answer was sent.
    pub fn status(&self) -> io::Result<Status> {
        let mut answer = [0; 2048];
        self.socket.send(b"status")?;
        let length = self.socket.recv(&mut answer)?;
        Ok(serde_json::from_slice(&answer[..length])?)
    }
}

/// A conversation with a guest's workload.
pub struct Load {
    stream: BufReader<TcpStream>,
}

impl Load {
    /// Connects from the calling thread's network namespace.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Load> {
        Load::over(TcpStream::connect_timeout(&address, timeout)?, timeout)
    }

    /// Talks over an existing connection; every answer is waited for at most `timeout`.
    pub fn over(stream: TcpStream, timeout: Duration) -> io::Result<Load> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Load { stream: BufReader::new(stream) })
    }

    /// The counters as they are.
    pub fn status(&mut self) -> io::Result<Status> {
        self.ask("status")
    }

    /// Forgets the gaps seen so far.
    pub fn reset(&mut self) -> io::Result<Status> {
        self.ask("reset")
    }

    /// Has every page read now.
    pub fn check(&mut self) -> io::Result<Check> {
        self.ask("check")
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, command: &str) -> io::Result<T> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
