//! Adoption of a guest: its agent dies while the guest misses pages, and another takes it over. The word on the command line says
//! which part this domain plays.
//!
//! - `arm=DOMAIN`, the first agent: finds that no page is absent of a guest that writes to its memory, makes most pages absent,
//!   spoils them and waits for its end.
//! - `adopt=DOMAIN`, the second: finds exactly those pages, and gives each one its content back when somebody touches it or its
//!   turn comes.
//! - `hold=DOMAIN` tells whether a guest ran that is destroyed while it is held.
//! - `leave=DOMAIN` frees pages of a guest as if it had left, and looks at what they hold then.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use boot::say;
use boot::start::Machine;
use common::time::Instant;
use common::{BATCH, Content, DomId, Gfn, Hold, Page, PageMask, PageSet};
use xen_abi::Errno;
use xen_abi::domctl::DOMINF_DYING;
use xen_pv::guest::reach::Reach;
use xen_pv::guest::source::Source;
use xen_pv::guest::target::Target;
use xen_pv::guest::{Error, domctl, label, machine, memory, walk};
use xen_pv::window::{Access, Window};
use xen_pv::{event, time};

use crate::{Outcome, check};

/// Every fourth batch of pages stays present.
const LEFT_ALONE: u64 = 4;
/// Where a Linux guest's kernel begins: at 16 MiB.
const KERNEL: u64 = 0x1000;
/// Most pages that virtual CPUs need first.
const NEEDED: usize = 1024;
/// Between two batches that nobody asked for: time for faults.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a guest may take to be destroyed, and then to go away.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays a part with addresses for pages of a guest, and a window beside.
pub fn play(machine: &mut Machine, part: impl FnOnce(&Reach, &mut Window) -> Outcome) -> Outcome {
    let mut windows = || Ok::<_, Errno>([machine.memory.window()?, machine.memory.window()?, machine.memory.window()?]);
    let [batch, ring, mut spare] = windows().map_err(|errno| errno.to_string())?;
    part(&Reach::new(batch, vec![ring]), &mut spare)
}

/// The first agent.
pub fn arm(reach: &Reach, domain: DomId) -> Outcome {
    let (mut target, absent) = open(reach, domain)?;
    let found = absent.count();
    check(found == 0, || format!("of a guest that misses nothing {found} pages were found absent"))?;
    // A migration never makes these absent either: Xen writes to some while it switches virtual CPUs, and with nobody to serve
    // the ring that ends the host (`xen/common/wait.c`).
    let context = machine::context(domain).map_err(text)?;
    let read = |gfn, page: &mut Page| reach.read(domain, &[gfn], core::slice::from_mut(page)) == Ok(PageMask::first(1));
    let needed = walk::first_touched(&context, NEEDED, read);
    let mut armed = 0;
    for batch in (0..absent.frames().div_ceil(BATCH as u64)).filter(|batch| batch % LEFT_ALONE != 0) {
        let all = (0..BATCH as u64).map(|at| Gfn(batch * BATCH as u64 + at));
        let gfns: Vec<Gfn> = all.filter(|gfn| !needed.contains(gfn)).collect();
        let mask = target.arm(&gfns).map_err(text)?;
        for gfn in mask.pick(gfns) {
            let page = spoilt(reach, domain, gfn)?;
            let written = reach.write(domain, &[(gfn, Content::Bytes(&page))]).map_err(text)?;
            check(!written.is_empty(), || "an absent page cannot be written".to_string())?;
            armed += 1;
        }
    }
    say!("ADOPTION armed {armed}");
    loop {
        // Without a deadline Xen would come back at once.
        event::wait(&[], Some(time::now() + PATIENCE));
    }
}

/// The second agent.
pub fn adopt(reach: &Reach, domain: DomId) -> Outcome {
    let begun = time::now();
    let (mut target, absent) = open(reach, domain)?;
    say!("ADOPTION found {} in {} ms", absent.count(), (time::now() - begun).as_millis());
    let port: Vec<_> = target.fault_port().into_iter().collect();
    let mut faults = 0;
    for (count, gfn) in absent.iter().enumerate() {
        let deadline = time::now() + if count % BATCH == 0 { PAUSE } else { Duration::ZERO };
        while let Some(gfn) = next_fault(&mut target, &port, deadline)? {
            faults += 1;
            fill(&mut target, reach, domain, gfn)?;
        }
        // A fault may have had it before: then this changes nothing.
        fill(&mut target, reach, domain, gfn)?;
    }
    target.finish().map_err(text)?;
    say!("ADOPTION served {faults} faults");
    Ok(())
}

/// Tells whether a guest ran.
pub fn hold(reach: &Reach, domain: DomId) -> Outcome {
    let (target, _) = open(reach, domain)?;
    say!("ADOPTION holds");
    wait_until(|| domctl::info(domain).is_ok_and(|info| info.flags & DOMINF_DYING != 0))?;
    let ran = target.has_run().map_err(text)?;
    drop(target);
    // The next domain is ourselves, of whom we may not ask.
    wait_until(|| matches!(domctl::info(domain), Err(Error::Xen { errno: Errno::ESRCH, .. })))?;
    say!("ADOPTION it is gone and {}", if ran { "ran" } else { "never ran" });
    Ok(())
}

/// Frees pages of a guest.
pub fn leave(reach: &Reach, window: &mut Window, domain: DomId) -> Outcome {
    let uuid = domctl::live_info(domain).map_err(text)?.handle;
    let memo = Source::open(reach.clone(), domain).map_err(text)?.memo();
    label::find(label::AWAY).and_then(|away| label::relabel(domain, away)).map_err(text)?;
    let mut source = Source::adopt(reach.clone(), domain, uuid, memo).map_err(text)?;
    let frames: Vec<u64> = (KERNEL..KERNEL + BATCH as u64).collect();
    let gfns: Vec<Gfn> = frames.iter().copied().map(Gfn).collect();
    // Who has mapped a page sees what becomes of it after it was freed.
    let mapping = window.map(domain, &frames, Access::Read);
    let zero = || {
        let mut page = [0; 4096];
        let is_zero = |index: &usize| {
            mapping.read(*index, &mut page);
            page == [0; 4096]
        };
        (0..BATCH).filter(is_zero).count()
    };
    let before = zero();
    check(before < BATCH / 2, || format!("{before} pages of its kernel are zero"))?;
    source.free(&gfns).map_err(text)?;
    let after = zero();
    check(after == BATCH, || format!("only {after} of {BATCH} freed pages are cleared"))?;
    drop(mapping);
    say!("ADOPTION cleared what it freed");
    // The toolstack, which cannot destroy it, pauses it and takes its devices down.
    wait_until(|| domctl::info(domain).is_ok_and(|info| info.is_paused()))?;
    source.destroy().map_err(text)
}

/// Opens a guest whose agent, if it had one, is gone.
fn open(reach: &Reach, domain: DomId) -> Result<(Target, PageSet), String> {
    let uuid = domctl::live_info(domain).map_err(text)?.handle;
    let frames = memory::max_gfn(domain).map_err(text)? + 1;
    Target::adopt(reach.clone(), domain, uuid, Hold::Released, frames).map_err(text)
}

/// The page that somebody waits for, now or before `deadline`.
fn next_fault(target: &mut Target, port: &[xen_abi::Port], deadline: Instant) -> Result<Option<Gfn>, String> {
    loop {
        match target.next_fault().map_err(text)? {
            Some(fault) if !fault.dropped => return Ok(Some(fault.gfn)),
            Some(_) => {}
            None if time::now() >= deadline => return Ok(None),
            None => event::wait(port, Some(deadline)),
        }
    }
}

fn fill(target: &mut Target, reach: &Reach, domain: DomId, gfn: Gfn) -> Outcome {
    let page = spoilt(reach, domain, gfn)?;
    let filled = target.fill(&[(gfn, Content::Bytes(&page))]).map_err(text)?;
    check(!filled.is_empty(), || "an absent page cannot be filled".to_string())
}

/// The page with every bit turned; twice, and it is as it was.
fn spoilt(reach: &Reach, domain: DomId, gfn: Gfn) -> Result<Page, String> {
    let mut page = [[0; 4096]];
    let read = reach.read(domain, &[gfn], &mut page).map_err(text)?;
    check(!read.is_empty(), || "an absent page cannot be read".to_string())?;
    Ok(page[0].map(|byte| !byte))
}

fn wait_until(holds: impl Fn() -> bool) -> Outcome {
    let deadline = time::now() + PATIENCE;
    while !holds() {
        check(time::now() < deadline, || "the guest is neither destroyed nor gone".to_string())?;
        event::wait(&[], Some(time::now() + Duration::from_millis(50)));
    }
    Ok(())
}

fn text(error: Error) -> String {
    error.to_string()
}
