//! What the workload is asked to do.

use std::time::Duration;

use tests_qemu::load;

use crate::memory::Memory;

/// Pages in a megabyte.
const PAGES_PER_MB: usize = 256;

pub const USAGE: &str = "\
usage: guest-load [--]NAME=VALUE...     (also --NAME VALUE)
  dirty-mb=64       memory that is written to and checked, in MiB
  idle-mb=0         memory that is written once and checked, in MiB
  dirty-rate=1000   pages written a second, over all threads
  hot=100           percent of the dirty memory that gets nine tenths of the writes; 100: all pages alike
  sweep-s=5         time in which every page is checked once, in seconds
  threads=CPUS      threads at work
  tick-ms=10        time between two turns of a thread, in milliseconds
  seed=1            what content and order are derived from
  port=7100         where questions are answered, over UDP and TCP
";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub dirty_mb: usize,
    pub idle_mb: usize,
    pub rate: u64,
    pub hot_percent: u64,
    pub sweep_s: u64,
    pub threads: usize,
    pub tick: Duration,
    pub seed: u64,
    pub port: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dirty_mb: 64,
            idle_mb: 0,
            rate: 1000,
            hot_percent: 100,
            sweep_s: 5,
            threads: std::thread::available_parallelism().map_or(1, |count| count.get()),
            tick: Duration::from_millis(10),
            seed: 1,
            port: load::PORT,
        }
    }
}

impl Options {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::default();
        while let Some(word) = words.next() {
            let bare = word.trim_start_matches("--");
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (bare, words.next().ok_or_else(|| format!("{word} has no value"))?),
            };
            options.set(name, &value).map_err(|reason| format!("{name}: {value}: {reason}"))?;
        }
        if options.dirty_mb == 0 || options.sweep_s == 0 || options.threads == 0 || options.hot_percent == 0 {
            return Err("dirty-mb, sweep-s, threads and hot are at least 1".to_owned());
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn number<T: std::str::FromStr>(value: &str) -> Result<T, String>
        where
            T::Err: ToString,
        {
            value.parse().map_err(|error: T::Err| error.to_string())
        }
        match name {
            "dirty-mb" => self.dirty_mb = number(value)?,
            "idle-mb" => self.idle_mb = number(value)?,
            "dirty-rate" => self.rate = number(value)?,
            "hot" => self.hot_percent = number::<u64>(value)?.min(100),
            "sweep-s" => self.sweep_s = number(value)?,
            "threads" => self.threads = number(value)?,
            "tick-ms" => self.tick = Duration::from_millis(number::<u64>(value)?.max(1)),
            "seed" => self.seed = number(value)?,
            "port" => self.port = number(value)?,
            _ => return Err("no such option".to_owned()),
        }
        Ok(())
    }

    pub fn dirty_pages(&self) -> usize {
        self.dirty_mb * PAGES_PER_MB
    }

    pub fn idle_pages(&self) -> usize {
        self.idle_mb * PAGES_PER_MB
    }

    /// The filled memory of thread `number`: an even share of the dirty and of the idle pages.
    pub fn share(&self, number: usize) -> Memory {
        let part = |all: usize| (number + 1) * all / self.threads - number * all / self.threads;
        Memory::filled(self.seed ^ (number as u64) << 48, part(self.dirty_pages()), part(self.idle_pages()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_taken_in_every_spelling() {
        let options = parse("dirty-mb=3 --dirty-rate 77 --seed=9 threads=2").unwrap();
        assert_eq!((options.dirty_mb, options.rate, options.seed, options.threads), (3, 77, 9, 2));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["dirty-mb", "dirty-mb=x", "dirty-mb=0", "colour=red"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_shares_add_up() {
        let options = parse("dirty-mb=1 idle-mb=1 threads=3").unwrap();
        let pages: usize = (0..3).map(|number| options.share(number).len()).sum();
        assert_eq!(pages, 512);
    }
}
