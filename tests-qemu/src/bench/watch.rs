//! Counters and registers that are sampled while a guest migrates, from a third place on the bridge.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::stream;
use tests_qemu::load;

use crate::monitor::{Monitor, Registers};
use crate::network::{self, GUEST, Place};

/// How often a counter is looked at.
const EVERY: Duration = Duration::from_millis(100);

/// How often a processor is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Something, each time it was looked at: a counter, mostly.
pub type Counts<T = u64> = Vec<(Instant, T)>;

/// Looks at something until it is stopped.
pub struct Watch<T = u64> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Counts<T>>>,
}

impl Watch<Registers> {
    /// Follows what the processor of a host is at.
    pub fn processor(place: &Place) -> Result<Self> {
        let mut monitor = Monitor::connect(place).context("QEMU's monitor does not answer")?;
        Ok(Self::start(move || {
            std::thread::sleep(GLANCE);
            monitor.registers()
        }))
    }
}

impl Watch {
    /// Follows how many pages the guest's workload has written.
    pub fn work() -> Result<Self> {
        let asker = load::Asker::new(GUEST, EVERY)?;
        Ok(Self::start(move || {
            let status = asker.status()?;
            std::thread::sleep(EVERY);
            Ok(status.writes)
        }))
    }

    /// Follows how many bytes the host of `place` has received.
    pub fn wire(place: &'static Place) -> Self {
        Self::start(move || {
            std::thread::sleep(EVERY);
            network::received_by(place).map_err(io::Error::other)
        })
    }

    /// Has the guest send a TCP stream as fast as it can, and follows how much has arrived.
    pub fn stream() -> Result<Self> {
        let address = SocketAddr::from((GUEST, stream::SERVE_PORT));
        let mut stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(10)).context("the guest gives no stream")?;
        stream.write_all(&u64::MAX.to_le_bytes())?;
        stream.set_read_timeout(Some(EVERY))?;
        let (mut block, mut got) = (vec![0; 1 << 20], 0);
        Ok(Self::start(move || {
            let since = Instant::now();
            while since.elapsed() < EVERY {
                match stream.read(&mut block) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => got += read as u64,
                    // Nothing came: that is to be seen as well.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(got)
        }))
    }
}

impl<T: Send + 'static> Watch<T> {
    /// `look` waits by itself; what it cannot see now, because the guest is away, it may see later.
    fn start(mut look: impl FnMut() -> io::Result<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut counts = Vec::new();
            while !told.load(Ordering::Relaxed) {
                match look() {
                    Ok(count) => counts.push((Instant::now(), count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => std::thread::sleep(EVERY),
                }
            }
            counts
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops, and gives what was seen.
    pub fn stop(mut self) -> Counts<T> {
        self.end()
    }
}

impl<T> Watch<T> {
    fn end(&mut self) -> Counts<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.end();
    }
}
