//! The workload inside the test guest: it owns memory, rewrites pages of it at a given rate, knows what every page must
//! hold, and keeps reading them all to see that they do. A migration that loses, mixes up or ages a page is found out.
//!
//! It also notices when it was not running, takes and gives TCP streams ([`tests_qemu::meter`]), and answers questions
//! ([`tests_qemu::load`]). Nothing here but `grants` knows that it is in a virtual machine.

mod grants;
mod memory;
mod options;
mod server;
mod shared;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser as _;
use memory::Memory;
use options::Options;
use shared::Shared;

fn main() -> ExitCode {
    let options = Options::parse();
    let shared = Arc::new(Shared::new(&options));
    let filling = Instant::now();
    let memories: Vec<Memory> = (0..options.threads).map(|number| options.share(number)).collect();
    println!(
        "load: dirty_mb={} idle_mb={} rate={} threads={} seed={} filled in {} ms",
        options.dirty_mb,
        options.idle_mb,
        options.dirty_rate,
        options.threads,
        options.seed,
        filling.elapsed().as_millis()
    );
    for (number, memory) in memories.into_iter().enumerate() {
        let (shared, options) = (shared.clone(), options.clone());
        thread::spawn(move || worker::run(number, memory, &options, &shared));
    }
    if options.grants > 0 {
        let options = options.clone();
        thread::spawn(move || {
            let Err(error) = grants::run(&options);
            eprintln!("load: cannot grant pages: {error}");
        });
    }
    if let Err(error) = server::start(options.port, &shared) {
        eprintln!("load: cannot answer on port {}: {error}", options.port);
        return ExitCode::FAILURE;
    }
    report(&shared)
}

/// Prints a line of counters every second, for ever.
fn report(shared: &Shared) -> ! {
    let mut before = (Instant::now(), 0);
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = Instant::now();
        let writes = shared.writes();
        let rate = (writes - before.1) as f64 / now.duration_since(before.0).as_secs_f64();
        before = (now, writes);
        shared.set_writes_per_s(rate as u64);
        let status = shared.status();
        println!(
            "load: t={:.1} writes={} per_s={} verified={} sweeps={} longest_gap_ms={} errors={}",
            status.t_ms as f64 / 1e3,
            status.writes,
            status.writes_per_s,
            status.verified,
            status.sweeps,
            status.longest_gap_ms,
            status.errors
        );
    }
}
