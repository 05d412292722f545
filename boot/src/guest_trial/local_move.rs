//! `move=DOMID`: a whole migration on one host, from one domain into another, without a network: what the two agents do to
//! their guests, in one place. The tester's script in dom0 makes the domain and answers over xenstore:
//!
//! - `data/probe-target`, written by dom0: `DOMID STORE_PORT CONSOLE_PORT`, a domain made by libxl's restore.
//! - `data/probe-state`, written here: `built STORE_GFN CONSOLE_GFN`, `suspend`, `ready`.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use xen_pv::abi::{DomId, Gfn, PAGE_SIZE, Port};
use xen_pv::event;
use xen_pv::guest::pinned;
use xen_pv::guest::reach::{Content, Page, Reach};
use xen_pv::guest::source::Source;
use xen_pv::guest::target::{Backends, Target};
use xen_pv::time;

use super::{BATCH, Outcome, Stopwatch, step};
use crate::say;
use crate::start::Machine;

/// Moves the guest into the domain that dom0 names.
pub(super) fn run(machine: &mut Machine, reach: &Reach, domain: DomId) -> Outcome {
    let mut source = step("open", Source::open(reach.clone(), domain))?;
    tell(machine, "waiting");
    let (to, backends) = wait_for_target(machine)?;
    let mut target = step("open target", Target::open(reach.clone(), to, backends))?;
    let start = Stopwatch::start();
    let rings = step("build", target.build(&step("frame", source.frame())?))?;
    say!("move: built in {} us, can page: {}", start.us(), target.can_page());
    tell(machine, &format!("built {} {}", rings.store.0, rings.console.0));

    let mut job = Job::new(&mut source)?;
    step("log_on", source.log_on())?;
    job.copy_all(&mut source, &mut target)?;
    job.arm_early(&mut source, &mut target)?;
    tell(machine, "suspend");
    while !step("info", source.info())?.is_suspended() {
        event::wait(&[], Some(time::now_ns() + 5_000_000));
    }
    job.switch(&mut source, &mut target)?;
    tell(machine, "ready");
    step("release", target.release())?;
    let start = Stopwatch::start();
    while !step("has_run", target.has_run())? {
        event::wait(&[], Some(time::now_ns() + 1_000_000));
    }
    say!("move: the guest runs {} ms after it was ready", start.ms());
    job.serve(&mut source, &mut target)?;
    step("finish", target.finish())?;
    say!("move: finished, {} evicted", step("info", target.info())?.paged_pages);
    step("destroy", source.destroy())
}

struct Job {
    ram: Vec<Gfn>,
    /// Pages whose content showed a clock.
    clocks: BTreeSet<Gfn>,
    armed: BTreeSet<Gfn>,
    buffer: Vec<Page>,
}

impl Job {
    fn new(source: &mut Source) -> Outcome<Self> {
        let max_gfn = step("max_gfn", source.max_gfn())?;
        let mut bits = vec![0; max_gfn as usize / 64 + 1];
        step("find_ram", source.find_ram(Gfn(0), max_gfn + 1, &mut bits))?;
        Ok(Self {
            ram: members(&bits),
            clocks: BTreeSet::new(),
            armed: BTreeSet::new(),
            buffer: vec![[0; PAGE_SIZE]; BATCH],
        })
    }

    /// Stage 1: every page, once.
    fn copy_all(&mut self, source: &mut Source, target: &mut Target) -> Outcome {
        let start = Stopwatch::start();
        let ram = core::mem::take(&mut self.ram);
        let mut big = 0;
        let (mut populate_ns, mut read_ns, mut write_ns) = (0, 0, 0);
        for extent in ram.chunk_by(|a, b| a.0 / 512 == b.0 / 512) {
            let watch = Stopwatch::start();
            if extent.len() == 512 && target.populate(extent[0], 9).is_ok() {
                big += 1;
            } else {
                for gfn in extent {
                    step("populate", target.populate(*gfn, 0))?;
                }
            }
            populate_ns += watch.ns();
            for gfns in extent.chunks(BATCH) {
                let watch = Stopwatch::start();
                let read = step("read", source.read(gfns, &mut self.buffer))?;
                read_ns += watch.ns();
                let pages: Vec<(Gfn, Content<'_>)> = self.content(gfns, read);
                let watch = Stopwatch::start();
                let written = step("write", target.write(&pages))?;
                write_ns += watch.ns();
                if written.count_ones() as usize != gfns.len() {
                    return Err(format!("wrote {written:b} of {} from {:x?}", gfns.len(), gfns[0]));
                }
                for (page, gfn) in self.buffer.iter().zip(gfns) {
                    if pinned::holds_clock(page) {
                        self.clocks.insert(*gfn);
                    }
                }
            }
        }
        let each = |ns: u64| ns / ram.len() as u64;
        say!(
            "move: {} pages copied in {} ms, {big} extents of 2 MiB, {} with a clock; ns a page: populate {}, read {}, write {}",
            ram.len(),
            start.ms(),
            self.clocks.len(),
            each(populate_ns),
            each(read_ns),
            each(write_ns)
        );
        self.ram = ram;
        Ok(())
    }

    /// Hints: what is dirty already is made absent while the guest still runs at the source.
    fn arm_early(&mut self, source: &mut Source, target: &mut Target) -> Outcome {
        let words = source_words(source)?;
        let dirty = self.dirty(|bits| source.peek(bits), words)?;
        let start = Stopwatch::start();
        let refused = self.arm(target, &dirty)?;
        say!("move: {} of {} armed early in {} us, {refused} refused", self.armed.len(), dirty.len(), start.us());
        Ok(())
    }

    /// Stage 2: the last dirty pages, the machine state, the commit.
    fn switch(&mut self, source: &mut Source, target: &mut Target) -> Outcome {
        let downtime = Stopwatch::start();
        let words = source_words(source)?;
        let mut state = Vec::new();
        let dirty = self.dirty(|bits| source.machine_state(bits).map(|bytes| state = bytes), words)?;
        let taken = downtime.us();
        let first: BTreeSet<Gfn> = step("first_touched", source.first_touched(512))?.into_iter().collect();
        let walked = downtime.us();
        let (ahead, absent): (Vec<Gfn>, Vec<Gfn>) =
            dirty.iter().copied().partition(|gfn| first.contains(gfn) || self.clocks.contains(gfn));
        let early = self.armed.len();
        for gfns in ahead.chunks(BATCH) {
            let read = step("read", source.read(gfns, &mut self.buffer))?;
            let (armed, plain): (Vec<_>, Vec<_>) =
                self.content(gfns, read).into_iter().partition(|(gfn, _)| self.armed.contains(gfn));
            step("write", target.write(&plain))?;
            step("fill", target.fill(&armed))?;
            for gfn in gfns {
                self.armed.remove(gfn);
            }
        }
        let sent = downtime.us();
        let refused = self.arm(target, &absent)?;
        let armed = downtime.us();
        step("load_state", target.load_state(&state))?;
        step("retain", source.retain())?;
        say!(
            "move: switch: {} dirty, {} sent ahead, {early} were armed, {} are, {refused} refused; us: state {taken}, walk {}, \
             ahead {}, arm {}, load {}",
            dirty.len(),
            ahead.len(),
            self.armed.len(),
            walked - taken,
            sent - walked,
            armed - sent,
            downtime.us() - armed
        );
        Ok(())
    }

    /// Stage 3: faults first, then whatever is left in batches.
    fn serve(&mut self, source: &mut Source, target: &mut Target) -> Outcome {
        let (mut faults, mut foreign, mut pushed, mut known) = (0, 0, 0, 0);
        let start = Stopwatch::start();
        while !self.armed.is_empty() {
            while let Some(fault) = step("next_fault", target.next_fault())? {
                if fault.vcpu_waits {
                    faults += 1
                } else {
                    foreign += 1
                }
                known += u32::from(!self.armed.contains(&fault.gfn));
                self.send(source, target, &[fault.gfn])?;
            }
            // Slowly, so that there are faults to see.
            let some: Vec<Gfn> = self.armed.iter().copied().take(16).collect();
            self.send(source, target, &some)?;
            pushed += some.len();
            let port = target.fault_port().map_or(Vec::new(), |port| vec![port]);
            event::wait(&port, Some(time::now_ns() + 5_000_000));
        }
        say!(
            "move: {faults} faults of vCPUs, {foreign} foreign, {known} for present pages, {pushed} pushed, in {} ms",
            start.ms()
        );
        Ok(())
    }

    fn send(&mut self, source: &mut Source, target: &mut Target, gfns: &[Gfn]) -> Outcome {
        let read = step("read", source.read(gfns, &mut self.buffer))?;
        let filled = step("fill", target.fill(&self.content(gfns, read)))?;
        if filled.count_ones() as usize != gfns.len() {
            return Err(format!("filled {filled:b} of {gfns:x?}"));
        }
        for gfn in gfns {
            self.armed.remove(gfn);
        }
        Ok(())
    }

    fn arm(&mut self, target: &mut Target, gfns: &[Gfn]) -> Outcome<u32> {
        let mut refused = 0;
        let wanted: Vec<Gfn> =
            gfns.iter().copied().filter(|gfn| !self.armed.contains(gfn) && !self.clocks.contains(gfn)).collect();
        for gfns in wanted.chunks(BATCH) {
            let mask = step("arm", target.arm(gfns))?;
            self.armed.extend(gfns.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0).map(|(_, gfn)| *gfn));
            refused += gfns.len() as u32 - mask.count_ones();
        }
        Ok(refused)
    }

    fn content<'a>(&'a self, gfns: &[Gfn], read: u64) -> Vec<(Gfn, Content<'a>)> {
        let mut pages = Vec::with_capacity(gfns.len());
        for (index, (gfn, page)) in gfns.iter().zip(&self.buffer).enumerate() {
            let zero = read >> index & 1 == 0 || page.iter().all(|&byte| byte == 0);
            pages.push((*gfn, if zero { Content::Zero } else { Content::Bytes(page) }));
        }
        pages
    }

    fn dirty(&self, read: impl FnOnce(&mut [u64]) -> xen_pv::guest::Result, words: usize) -> Outcome<Vec<Gfn>> {
        let mut bits = vec![0; words];
        step("dirty log", read(&mut bits))?;
        Ok(members(&bits).into_iter().filter(|gfn| self.ram.binary_search(gfn).is_ok()).collect())
    }
}

fn source_words(source: &Source) -> Outcome<usize> {
    Ok(step("max_gfn", source.max_gfn())? as usize / 64 + 1)
}

fn members(bits: &[u64]) -> Vec<Gfn> {
    let ones = |(at, word): (usize, &u64)| {
        let word = *word;
        (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| Gfn(at as u64 * 64 + bit))
    };
    bits.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(ones).collect()
}

fn tell(machine: &mut Machine, what: &str) {
    if let Some(store) = machine.store.as_mut() {
        store.post_write("data/probe-state", what.as_bytes());
    }
}

fn wait_for_target(machine: &mut Machine) -> Outcome<(DomId, Backends)> {
    let store = machine.store.as_mut().ok_or("no xenstore")?;
    let deadline = time::now_ns() + 60_000_000_000;
    while time::now_ns() < deadline {
        if let Ok(text) = store.read_text("data/probe-target") {
            let mut words = text.split_ascii_whitespace().map(|word| word.parse::<u32>());
            if let (Some(Ok(domain)), Some(Ok(store_port)), Some(Ok(console_port))) =
                (words.next(), words.next(), words.next())
            {
                let backends = Backends {
                    store_port: Port(store_port),
                    store_domain: DomId::DOM0,
                    console_port: Port(console_port),
                    console_domain: DomId::DOM0,
                };
                return Ok((DomId(domain as u16), backends));
            }
        }
        event::wait(&[], Some(time::now_ns() + 50_000_000));
    }
    Err(String::from("dom0 made no domain"))
}
