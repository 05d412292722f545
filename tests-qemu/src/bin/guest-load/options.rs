//! The options of the workload.

use std::thread;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use tests_qemu::load;

use crate::memory::Memory;

/// Pages in a megabyte.
const PAGES_PER_MB: usize = 256;

/// The workload of the test guest.
#[derive(Parser, Clone, Debug)]
pub struct Options {
    /// Memory that is written to and checked, in MiB.
    #[arg(long, default_value_t = 64, value_parser = at_least_1::<usize>())]
    pub dirty_mb: usize,
    /// Memory that is written once and checked, in MiB.
    #[arg(long, default_value_t = 0)]
    pub idle_mb: usize,
    /// Pages written a second, over all threads.
    #[arg(long, default_value_t = 1000)]
    pub dirty_rate: u64,
    /// Percent of the dirty memory that gets nine tenths of the writes; 100: all pages alike.
    #[arg(long = "hot", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub hot_percent: u64,
    /// Time in which every page is checked once, in seconds.
    #[arg(long, default_value_t = 5, value_parser = at_least_1::<u64>())]
    pub sweep_s: u64,
    /// Threads at work. The default is one for each CPU.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from), value_parser = at_least_1::<usize>())]
    pub threads: usize,
    /// Time between two turns of a thread, in milliseconds.
    #[arg(long, default_value_t = 10, value_parser = at_least_1::<u64>())]
    pub tick_ms: u64,
    /// Pages that are granted to dom0, by and by, and then withdrawn, over and over.
    #[arg(long, default_value_t = 0)]
    pub grants: u32,
    /// They stay granted, as many of them as the guest's table has room for.
    #[arg(long)]
    pub keep_grants: bool,
    /// What content and order are derived from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where questions are answered, over UDP and TCP.
    #[arg(long, default_value_t = load::PORT)]
    pub port: u16,
}

fn at_least_1<T: TryFrom<u64>>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1..)
}

impl Options {
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

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("guest-load").chain(line.split_whitespace()))
    }

    #[test]
    fn options_are_taken_in_every_spelling() {
        let options = parse("--dirty-mb=3 --dirty-rate 77 --seed=9 --threads=2").unwrap();
        assert_eq!((options.dirty_mb, options.dirty_rate, options.seed, options.threads), (3, 77, 9, 2));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--dirty-mb", "--dirty-mb=x", "--dirty-mb=0", "--colour=red"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_shares_add_up() {
        let options = parse("--dirty-mb=1 --idle-mb=1 --threads=3").unwrap();
        let pages: usize = (0..3).map(|number| options.share(number).len()).sum();
        assert_eq!(pages, 512);
    }
}
