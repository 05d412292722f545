//! TCP throughput, measured by programs that write 1 MiB at a time, with a checksum over every byte.
//!
//! Two services, on two ports of every `dom0d` ([`SINK_PORT`], [`SERVE_PORT`]) and `guest-load`:
//!
//! ```text
//! sink:   client sends any stream and shuts down its sending side;
//!         server answers with a trailer (16 bytes) and closes.
//! serve:  client sends a byte count N (u64, little-endian);
//!         server answers with the first N bytes of the pattern, then a trailer, and closes.
//!
//! trailer:  count: u64 little-endian, the stream's bytes;  checksum: u64 little-endian, of those bytes
//! checksum: the stream as little-endian u64 words w, the last one padded with zero bytes; a = b = 0;
//!           for each word: a += w, b += a (both wrapping);  the checksum is a ^ b.rotate_left(32)
//! pattern:  word number i (from 0) of the stream is (i + 1) * 0x9E3779B97F4A7C15 (wrapping), little-endian
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Where `dom0d` takes streams.
pub const SINK_PORT: u16 = 7001;
/// Where `dom0d` gives streams.
pub const SERVE_PORT: u16 = 7002;

/// How much is read or written by one call.
const BLOCK: usize = 1 << 20;

/// The checksum of a stream that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Checksum {
    a: u64,
    b: u64,
    count: u64,
    /// The bytes of a word that is not complete yet.
    partial: u64,
}

impl Checksum {
    /// Adds the stream's next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !self.count.is_multiple_of(8) {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.partial |= u64::from(*first) << (8 * (self.count % 8));
            self.count += 1;
            bytes = rest;
            if self.count.is_multiple_of(8) {
                self.word(self.partial);
                self.partial = 0;
            }
        }
        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        self.count += (words.len() * 8) as u64;
        for byte in tail {
            self.partial |= u64::from(*byte) << (8 * (self.count % 8));
            self.count += 1;
        }
    }

    /// What is known of the stream so far.
    pub fn trailer(&self) -> Trailer {
        let mut whole = self.clone();
        if !self.count.is_multiple_of(8) {
            whole.word(self.partial);
        }
        Trailer { count: self.count, checksum: whole.a ^ whole.b.rotate_left(32) }
    }

    fn word(&mut self, word: u64) {
        self.a = self.a.wrapping_add(word);
        self.b = self.b.wrapping_add(self.a);
    }
}

/// What ends an exchange: how much was carried, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes in the stream.
    pub count: u64,
    /// Their checksum.
    pub checksum: u64,
}

impl Trailer {
    /// As it travels.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    fn read(from: &mut impl Read) -> io::Result<Trailer> {
        let (mut count, mut checksum) = ([0; 8], [0; 8]);
        from.read_exact(&mut count)?;
        from.read_exact(&mut checksum)?;
        Ok(Trailer { count: u64::from_le_bytes(count), checksum: u64::from_le_bytes(checksum) })
    }
}

/// The pattern's bytes, from its beginning on.
#[derive(Default)]
pub struct Pattern {
    words: u64,
}

impl Pattern {
    /// Fills `block`, whose length is a multiple of 8, with the pattern's next bytes.
    pub fn fill(&mut self, block: &mut [u8]) {
        for word in block.as_chunks_mut::<8>().0 {
            self.words += 1;
            *word = self.words.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        }
    }
}

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
    same(sent, Trailer::read(&mut stream)?)?;
    Ok(Throughput { bytes: sent.count, time: begin.elapsed() })
}

/// Fetches `bytes` bytes of the pattern from the server at `address`, and checks them.
pub fn fetch_from(address: SocketAddr, bytes: u64) -> io::Result<Throughput> {
    let mut stream = TcpStream::connect(address)?;
    let begin = Instant::now();
    stream.write_all(&bytes.to_le_bytes())?;
    let mut sum = Checksum::default();
    let mut block = vec![0; BLOCK];
    while sum.count < bytes {
        let part = (bytes - sum.count).min(BLOCK as u64) as usize;
        match stream.read(&mut block[..part])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => sum.add(&block[..got]),
        }
    }
    same(sum.trailer(), Trailer::read(&mut stream)?)?;
    Ok(Throughput { bytes, time: begin.elapsed() })
}

/// Sends blocks of the pattern until `left`, told what has been sent, says that nothing is.
fn send_pattern(to: &mut TcpStream, left: impl Fn(u64) -> u64) -> io::Result<Trailer> {
    let mut pattern = Pattern::default();
    let mut sum = Checksum::default();
    let mut block = vec![0; BLOCK];
    loop {
        let part = left(sum.count).min(BLOCK as u64) as usize;
        if part == 0 {
            return Ok(sum.trailer());
        }
        pattern.fill(&mut block);
        sum.add(&block[..part]);
        to.write_all(&block[..part])?;
    }
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

    fn sum_of(pieces: &[&[u8]]) -> Trailer {
        let mut sum = Checksum::default();
        pieces.iter().for_each(|piece| sum.add(piece));
        sum.trailer()
    }

    #[test]
    fn the_checksum_does_not_depend_on_how_the_stream_arrives() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = sum_of(&[&bytes]);
        for cut in 0..100 {
            assert_eq!(sum_of(&[&bytes[..cut], &bytes[cut..]]), whole);
            assert_eq!(sum_of(&[&bytes[..cut / 2], &bytes[cut / 2..cut], &bytes[cut..]]), whole);
        }
    }

    #[test]
    fn the_checksum_sees_swapped_words() {
        let (a, b) = ([1; 8], [2; 8]);
        assert_ne!(sum_of(&[&a, &b]), sum_of(&[&b, &a]));
    }

    #[test]
    fn the_written_down_example_holds() {
        // 1, 2 as words, then one byte 3: a = 6, b = 1 + 3 + 6.
        let mut bytes = Vec::new();
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.push(3);
        assert_eq!(sum_of(&[&bytes]), Trailer { count: 17, checksum: 6 ^ (10 << 32) });
    }

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
