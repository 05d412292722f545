//! `probe=DOMID` on the command line: everything the agent does to a guest, tried on one that runs, with measurements.
//!
//! The guest must not notice. Its memory is read, logged, made absent page by page, overwritten with garbage while absent, and
//! filled again when it asks. With `suspend` it is asked to suspend, its state is taken, and it goes on as if the suspend had
//! been cancelled. (Making a *running* guest's pages absent needs more permissions than a migration: FLASK permissive.)

mod local_move;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use xen_pv::abi::{DomId, Errno, Gfn, PAGE_SIZE};
use xen_pv::event;
use xen_pv::guest::pager::Pager;
use xen_pv::guest::reach::{Content, Page, Reach};
use xen_pv::guest::source::Source;
use xen_pv::guest::{self, pinned};
use xen_pv::time;

use crate::say;
use crate::start::Machine;

type Outcome<T = ()> = Result<T, String>;

/// Pages made absent at once: what the domain can hold copies of.
const ABSENT: usize = 1500;
const BATCH: usize = 64;

/// Runs a trial if the command line asks for one.
pub fn run(machine: &mut Machine) -> Option<Outcome> {
    let command_line = machine.command_line;
    let word = |name: &str| command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
    let (probe, moved) = (word("probe="), word("move="));
    let domain = DomId(probe.or(moved)?.parse().ok()?);
    Some(match (windows(machine), probe) {
        (Ok(reach), Some(_)) => trial(machine, &reach, domain, word("suspend").is_some()),
        (Ok(reach), None) => local_move::run(machine, &reach, domain),
        (Err(errno), _) => Err(format!("windows: {errno}")),
    })
}

fn windows(machine: &mut Machine) -> Result<Reach, Errno> {
    Ok(Reach::new(machine.memory.window()?, vec![machine.memory.window()?]))
}

fn trial(machine: &mut Machine, reach: &Reach, domain: DomId, suspend: bool) -> Outcome {
    let mut source = step("open", Source::open(reach.clone(), domain))?;
    let ram = look(&mut source)?;
    read_all(&mut source, &ram)?;
    log(&mut source, &ram)?;
    if suspend {
        stop_and_go(machine, &mut source, &ram)?;
        source = step("open", Source::open(reach.clone(), domain))?;
        look(&mut source)?;
    }
    drop(source);
    page(reach, domain, &ram)
}

fn look(source: &mut Source) -> Outcome<Vec<Gfn>> {
    let info = step("info", source.info())?;
    let max_gfn = step("max_gfn", source.max_gfn())?;
    let frame = step("frame", source.frame())?;
    say!(
        "probe: {} of {} pages, max gfn {max_gfn:#x}, {} vCPUs, frame {} bytes",
        info.tot_pages,
        info.max_pages,
        info.vcpus(),
        frame.len()
    );
    step("decode", guest::frame::Frame::decode(&frame))?;
    let mut bits = vec![0; max_gfn as usize / 64 + 1];
    let start = Stopwatch::start();
    step("find_ram", source.find_ram(Gfn(0), max_gfn + 1, &mut bits))?;
    let took = start.ms();
    let ram: Vec<Gfn> = (0..=max_gfn).filter(|gfn| bits[*gfn as usize / 64] >> (gfn % 64) & 1 != 0).map(Gfn).collect();
    say!("probe: {} pages of RAM found in {took} ms", ram.len());
    Ok(ram)
}

fn read_all(source: &mut Source, ram: &[Gfn]) -> Outcome {
    let mut pages: Vec<Page> = vec![[0; PAGE_SIZE]; BATCH];
    let (mut read, mut zero, mut pinned_pages) = (0u32, 0u32, Vec::new());
    let start = Stopwatch::start();
    for gfns in ram.chunks(BATCH) {
        read += step("read", source.read(gfns, &mut pages))?.count_ones();
    }
    say!("probe: {read} of {} pages read in {} ms, {} ns a page", ram.len(), start.ms(), start.ns_each(read));
    let mut ns = 0;
    for gfns in ram.chunks(BATCH) {
        step("read", source.read(gfns, &mut pages))?;
        let start = Stopwatch::start();
        for (page, gfn) in pages.iter().zip(gfns) {
            if pinned::holds_clock(page) {
                pinned_pages.push(gfn.0);
            }
        }
        ns += start.ns();
        zero += pages[..gfns.len()].iter().filter(|page| page.iter().all(|&byte| byte == 0)).count() as u32;
    }
    let count = pinned_pages.len();
    pinned_pages.truncate(12);
    say!(
        "probe: {zero} zero, {count} with a clock ({pinned_pages:x?}), {} ns a page to look",
        ns / u64::from(read.max(1))
    );
    Ok(())
}

fn log(source: &mut Source, ram: &[Gfn]) -> Outcome {
    let words = step("max_gfn", source.max_gfn())? as usize / 64 + 1;
    let count = |bits: &[u64]| bits.iter().map(|word| word.count_ones()).sum::<u32>();
    let mut dirty = vec![0; words];
    step("log_on", source.log_on())?;
    event::wait(&[], Some(time::now_ns() + 1_000_000_000));
    let start = Stopwatch::start();
    step("peek", source.peek(&mut dirty))?;
    let (peeked, peek_us) = (count(&dirty), start.us());
    let start = Stopwatch::start();
    dirty.fill(0);
    step("clean", source.clean(&mut dirty))?;
    let (cleaned, clean_us) = (count(&dirty), start.us());
    dirty.fill(0);
    step("peek", source.peek(&mut dirty))?;
    say!(
        "probe: dirty in 1 s: peek {peeked} in {peek_us} us, clean {cleaned} in {clean_us} us, peek again {}",
        count(&dirty)
    );
    let outside = (0..words as u64 * 64)
        .filter(|gfn| dirty[*gfn as usize / 64] >> (gfn % 64) & 1 != 0 && ram.binary_search(&Gfn(*gfn)).is_err())
        .count();
    say!("probe: {outside} dirty pages outside RAM");
    step("log_off", source.log_off())
}

/// Waits for the guest to suspend, takes its state, and lets it go on.
fn stop_and_go(machine: &mut Machine, source: &mut Source, ram: &[Gfn]) -> Outcome {
    let mut dirty = vec![0; step("max_gfn", source.max_gfn())? as usize / 64 + 1];
    step("log_on", source.log_on())?;
    if let Some(store) = machine.store.as_mut() {
        store.post_write("data/probe", b"suspend");
    }
    say!("probe: waiting for the guest to suspend");
    let deadline = time::now_ns() + 60_000_000_000;
    while !step("info", source.info())?.is_suspended() {
        if time::now_ns() > deadline {
            return Err(String::from("the guest did not suspend"));
        }
        event::wait(&[], Some(time::now_ns() + 20_000_000));
    }
    let start = Stopwatch::start();
    let state = step("machine_state", source.machine_state(&mut dirty))?;
    let took = start.us();
    let start = Stopwatch::start();
    let first = step("first_touched", source.first_touched(512))?;
    let in_ram = first.iter().filter(|gfn| ram.binary_search(gfn).is_ok()).count();
    let count: u32 = dirty.iter().map(|word| word.count_ones()).sum();
    say!(
        "probe: suspended: state {} bytes and {count} dirty pages in {took} us; {} pages touched first ({in_ram} in RAM) in {} us",
        state.len(),
        first.len(),
        start.us()
    );
    step("retain", source.retain())?;
    say!("probe: the guest has the label of one that has left");
    step("release", source.release())
}

/// Makes pages absent, spoils them, serves the guest's faults, and makes everything present again.
fn page(reach: &Reach, domain: DomId, ram: &[Gfn]) -> Outcome {
    const RING: Gfn = Gfn(0xfeff8);
    let _ = guest::memory::free(domain, RING);
    let Some(mut pager) = step("pager", Pager::enable(reach.clone(), domain, RING))? else {
        return Err(String::from("no paging for this guest"));
    };
    step("populate", guest::memory::populate(domain, RING, 0))?;
    let mut saved: BTreeMap<Gfn, Box<Page>> = BTreeMap::new();
    let garbage: Box<Page> = Box::new([0xa5; PAGE_SIZE]);
    let low: Vec<Gfn> = ram.iter().copied().filter(|gfn| gfn.0 < 0xf0000).collect();
    // Pages all over the guest, eight in a row: some are hot.
    let stride = (low.len() / (ABSENT / 8)).max(8);
    let chosen: Vec<Gfn> = low.chunks(stride).flat_map(|chunk| chunk.iter().take(8)).copied().take(ABSENT).collect();
    let (mut armed, mut ns, mut refused) = (0u32, 0, 0);
    for gfns in chosen.chunks(8) {
        let start = Stopwatch::start();
        let mask = step("arm", pager.arm(gfns))?;
        ns += start.ns();
        armed += mask.count_ones();
        refused += gfns.len() as u32 - mask.count_ones();
        let gfns: Vec<Gfn> = gfns.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0).map(|(_, gfn)| *gfn).collect();
        let mut pages: Vec<Page> = vec![[0; PAGE_SIZE]; gfns.len()];
        step("read absent", reach.read(domain, &gfns, &mut pages))?;
        step("spoil", reach.write(domain, &gfns, &vec![Content::Bytes(&garbage); gfns.len()]))?;
        for (gfn, page) in gfns.iter().zip(pages) {
            saved.insert(*gfn, Box::new(page));
        }
        serve(&mut pager, &mut saved, time::now_ns())?;
    }
    say!("probe: {armed} pages armed, {refused} refused, {} ns each", ns / u64::from(armed.max(1)));
    let (faults, foreign, fill) = serve(&mut pager, &mut saved, time::now_ns() + 5_000_000_000)?;
    say!("probe: {faults} faults of vCPUs, {foreign} foreign in 5 s, {fill} us to fill one; {} left", saved.len());
    let rest: Vec<(Gfn, Box<Page>)> = core::mem::take(&mut saved).into_iter().collect();
    let start = Stopwatch::start();
    for some in rest.chunks(BATCH) {
        let pages: Vec<(Gfn, Content<'_>)> = some.iter().map(|(gfn, page)| (*gfn, Content::Bytes(page))).collect();
        let mask = step("push", pager.fill(&pages))?;
        if mask.count_ones() as usize != some.len() {
            return Err(format!("pushed {mask:b} of {}", some.len()));
        }
    }
    say!("probe: {} pages pushed, {} ns each; {} absent", rest.len(), start.ns_each(rest.len() as u32), pager.absent());
    step("finish", pager.finish())
}

/// Serves faults until a time; says how many there were, how many of others, and microseconds for each.
fn serve(pager: &mut Pager, saved: &mut BTreeMap<Gfn, Box<Page>>, until: u64) -> Outcome<(u32, u32, u64)> {
    let (mut faults, mut foreign, mut us) = (0, 0, 0);
    loop {
        while let Some(fault) = step("next_fault", pager.next_fault())? {
            let start = Stopwatch::start();
            match saved.remove(&fault.gfn) {
                Some(page) => drop(step("fill", pager.fill(&[(fault.gfn, Content::Bytes(&page))]))?),
                None => say!("probe: a fault on {:x?} that is not absent", fault),
            }
            us += start.us();
            if fault.vcpu_waits { faults += 1 } else { foreign += 1 }
        }
        if time::now_ns() >= until {
            return Ok((faults, foreign, us / u64::from((faults + foreign).max(1))));
        }
        event::wait(&[pager.port()], Some(until));
    }
}

fn step<T>(what: &str, result: guest::Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

struct Stopwatch(u64);

impl Stopwatch {
    fn start() -> Self {
        Self(time::now_ns())
    }

    fn ns(&self) -> u64 {
        time::now_ns() - self.0
    }

    fn ns_each(&self, count: u32) -> u64 {
        self.ns() / u64::from(count.max(1))
    }

    fn us(&self) -> u64 {
        self.ns() / 1000
    }

    fn ms(&self) -> u64 {
        self.us() / 1000
    }
}
