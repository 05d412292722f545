//! TCP throughput, measured by programs that write 1 MiB at a time: every `dom0d` and `guest-load` serves the streams of
//! [`common::stream`], on its two ports.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::stream::{Checksum, Pattern, Trailer};

/// How much is read or written by one call.
const BLOCK: usize = 1 << 20;

/// A finished measurement.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Bytes carried.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
}

impl Throughput {
    /// Millions of bytes per second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "bytes={} seconds={:.3} mb_per_s={:.1}", self.bytes, self.time.as_secs_f64(), self.mb_per_s())
    }
}

/// Takes streams from every connection to `listener`, for ever; `log` hears of each.
pub fn sink(listener: TcpListener, log: fn(&str)) -> io::Result<()> {
    each_connection(listener, move |mut stream| {
        let begin = Instant::now();
        let mut sum = Checksum::default();
        let mut block = vec![0; BLOCK];
        loop {
            match stream.read(&mut block)? {
                0 => break,
                got => sum.add(&block[..got]),
            }
        }
        let trailer = sum.trailer();
        let measured = Throughput { bytes: trailer.count, time: begin.elapsed() };
        log(&format!("sink: {measured} checksum={:016x}", trailer.checksum));
        stream.write_all(&trailer.to_bytes())
    })
}

/// Gives a stream to every connection to `listener`, for ever; `log` hears of each.
pub fn serve(listener: TcpListener, log: fn(&str)) -> io::Result<()> {
    each_connection(listener, move |mut stream| {
        let mut wanted = [0; 8];
        stream.read_exact(&mut wanted)?;
        let begin = Instant::now();
        let trailer = send_pattern(&mut stream, |sent| u64::from_le_bytes(wanted) - sent)?;
        stream.write_all(&trailer.to_bytes())?;
        log(&format!("serve: {}", Throughput { bytes: trailer.count, time: begin.elapsed() }));
        Ok(())
    })
}

/// Sends the pattern to the sink at `address` for that long, and checks what the sink says of it.
pub fn send_to(address: SocketAddr, time: Duration) -> io::Result<Throughput> {
    let mut stream = TcpStream::connect(address)?;
    let begin = Instant::now();
    let sent = send_pattern(&mut stream, |_| if begin.elapsed() < time { u64::MAX } else { 0 })?;
    stream.shutdown(Shutdown::Write)?;
    same(sent, read_trailer(&mut stream)?)?;
    Ok(Throughput { bytes: sent.count, time: begin.elapsed() })
}

/// Fetches `bytes` bytes of the pattern from the server at `address`, and checks them.
pub fn fetch_from(address: SocketAddr, bytes: u64) -> io::Result<Throughput> {
    let mut stream = TcpStream::connect(address)?;
    let begin = Instant::now();
    stream.write_all(&bytes.to_le_bytes())?;
    let mut sum = Checksum::default();
    let mut block = vec![0; BLOCK];
    while sum.count() < bytes {
        let part = (bytes - sum.count()).min(BLOCK as u64) as usize;
        match stream.read(&mut block[..part])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => sum.add(&block[..got]),
        }
    }
    same(sum.trailer(), read_trailer(&mut stream)?)?;
    Ok(Throughput { bytes, time: begin.elapsed() })
}

/// Sends blocks of the pattern until `left`, told what has been sent, says that nothing is.
fn send_pattern(to: &mut TcpStream, left: impl Fn(u64) -> u64) -> io::Result<Trailer> {
    let mut pattern = Pattern::default();
    let mut sum = Checksum::default();
    let mut block = vec![0; BLOCK];
    loop {
        let part = left(sum.count()).min(BLOCK as u64) as usize;
        if part == 0 {
            return Ok(sum.trailer());
        }
        pattern.fill(&mut block);
        sum.add(&block[..part]);
        to.write_all(&block[..part])?;
    }
}

fn read_trailer(from: &mut impl Read) -> io::Result<Trailer> {
    let mut bytes = [0; Trailer::LEN];
    from.read_exact(&mut bytes)?;
    Ok(Trailer::from_bytes(bytes))
}

fn same(ours: Trailer, theirs: Trailer) -> io::Result<()> {
    if ours == theirs {
        Ok(())
    } else {
        Err(io::Error::other(format!("not what was sent: {ours:?} here, {theirs:?} there")))
    }
}

fn each_connection(
    listener: TcpListener,
    service: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept()?;
        thread::Builder::new().spawn(move || {
            if let Err(error) = service(stream) {
                eprintln!("meter: {peer}: {error}");
            }
        })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_arrive_whole_in_both_directions() {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (to, from) = (listen(), listen());
        let (to_address, from_address) = (to.local_addr().unwrap(), from.local_addr().unwrap());
        thread::spawn(move || sink(to, |_| {}));
        thread::spawn(move || serve(from, |_| {}));
        assert!(send_to(to_address, Duration::from_millis(20)).unwrap().bytes > 0);
        assert_eq!(fetch_from(from_address, 3_000_001).unwrap().bytes, 3_000_001);
    }
}
