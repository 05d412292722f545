//! The image that tries every part of the other against the real Xen and the real dom0, with a verdict.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use core::net::Ipv4Addr;
use core::time::Duration;

use agent::command_line::{SelfTestOptions, Task};
use boot::say;
use boot::start::{Machine, XenRelease};
use common::{DomId, PageMask};
use xen_pv::event::{self, Channel};
use xen_pv::grant::Grant;
use xen_pv::sched::{self, Reason};
use xen_pv::time;
use xen_pv::window::Access;

mod adoption;
mod cipher;
mod meter;
mod network;

type Outcome = Result<(), String>;

boot::entry_point!(main);

/// Does what the command line says, and says how that ended.
fn main(mut machine: Machine) -> ! {
    say!("version {} on Xen {XenRelease}", env!("CARGO_PKG_VERSION"));
    match perform(&mut machine) {
        Ok(()) => say!("SELFTEST PASS"),
        Err(failure) => say!("SELFTEST FAIL {failure}"),
    }
    sched::shutdown(Reason::Poweroff)
}

fn perform(machine: &mut Machine) -> Outcome {
    let options = SelfTestOptions::parse(&machine.command_line).map_err(|error| error.to_string())?;
    match options.task {
        Task::Everything { peer } => everything(machine, &options, peer),
        Task::Meter => meter::serve(machine, &options).map(|never| match never {}),
        Task::Panic => panic!("asked for on the command line"),
        Task::Arm(domain) => adoption::play(machine, |reach, _| adoption::arm(reach, domain)),
        Task::Adopt(domain) => adoption::play(machine, |reach, _| adoption::adopt(reach, domain)),
        Task::Hold(domain) => adoption::play(machine, |reach, _| adoption::hold(reach, domain)),
        Task::Leave(domain) => adoption::play(machine, |reach, window| adoption::leave(reach, window, domain)),
    }
}

/// All tests; the first failure ends it.
fn everything(machine: &mut Machine, options: &SelfTestOptions, peer: Ipv4Addr) -> Outcome {
    clock()?;
    events()?;
    window(machine)?;
    grants(machine)?;
    store(machine)?;
    cipher::run()?;
    network::run(machine, options, peer)
}

/// How long the clock's test sleeps.
const NAP: Duration = Duration::from_millis(50);

fn clock() -> Outcome {
    let before = time::now();
    while time::now() < before + NAP {
        event::wait(&[], Some(before + NAP));
    }
    let slept = time::now() - before;
    say!("clock: slept {} us of 50000, it is {} s after 1970", slept.as_micros(), time::since_1970().as_secs());
    check((NAP..Duration::from_secs(1)).contains(&slept), || format!("clock: slept {slept:?} instead of 50 ms"))?;
    let before = time::now();
    for _ in 0..1000 {
        time::now();
    }
    say!("clock: reading it takes {} ns", (time::now() - before).as_nanos() / 1000);
    Ok(())
}

fn events() -> Outcome {
    let offered = Channel::unbound(DomId::DOM0).map_err(|errno| format!("events: unbound: {errno}"))?;
    let channel = Channel::to_self().map_err(|errno| format!("events: bind: {errno}"))?;
    check(offered.port() != channel.port(), || String::from("events: one port twice"))?;
    channel.take_pending();
    let before = time::now();
    channel.notify();
    event::wait(&[channel.port()], Some(before + Duration::from_secs(1)));
    check(channel.take_pending(), || String::from("events: a notification did not arrive"))?;
    check(!channel.take_pending(), || String::from("events: one notification arrived twice"))?;
    say!("events: sent and received in {} us", (time::now() - before).as_micros());
    Ok(())
}

fn window(machine: &mut Machine) -> Outcome {
    let pages = machine.pool.take(2).map_err(|errno| format!("window: {errno}"))?;
    let mut window = machine.memory.window().map_err(|errno| format!("window: {errno}"))?;
    let frames = [pages.mfn(1).0, u64::MAX >> 24, pages.mfn(0).0];
    let mut written = [0; 4096];
    written[4095] = 7;
    let mut read = [1; 4096];
    let mut mapping = window.map(DomId::SELF, &frames, Access::Write);
    check(mapping.mask() == PageMask(0b101), || format!("window: mapped {:b} instead of 101", mapping.mask().0))?;
    mapping.write(2, &written);
    mapping.read(2, &mut read);
    check(read == written, || String::from("window: a page read differs from the page written"))?;
    drop(mapping);
    let before = time::now();
    for _ in 0..100 {
        window.map(DomId::SELF, &[pages.mfn(0).0; 64], Access::Read);
    }
    say!("window: mapping and unmapping takes {} ns a page, 64 at a time", (time::now() - before).as_nanos() / 6400);
    Ok(())
}

fn grants(machine: &mut Machine) -> Outcome {
    let page = machine.pool.take(1).map_err(|errno| format!("grants: {errno}"))?;
    let first = Grant::new(DomId::DOM0, page.mfn(0), Access::Read).map_err(|errno| format!("grants: {errno}"))?;
    let reference = first.reference();
    drop(first);
    let again = Grant::new(DomId::DOM0, page.mfn(0), Access::Read).map_err(|errno| format!("grants: {errno}"))?;
    check(again.reference() == reference, || String::from("grants: an ended grant is not used again"))?;
    say!("grants: reference {} granted, ended and granted again", reference.0);
    Ok(())
}

fn store(machine: &mut Machine) -> Outcome {
    let Some(store) = machine.store.as_mut() else { return Err(String::from("xenstore: no ring")) };
    let fail = |what| move |error| format!("xenstore: {what}: {error}");
    let before = time::now();
    let domid = store.read_text("domid").map_err(fail("reading domid"))?;
    let took = (time::now() - before).as_micros();
    store.watch("data/selftest", "selftest").map_err(fail("watch"))?;
    let first = wait_for_change(store);
    check(first.is_some(), || String::from("xenstore: a new watch did not fire"))?;
    // More than the ring holds; xenstored takes values of up to 2048 bytes.
    let long = "x".repeat(1900);
    store.post_write("data/selftest/long", long.as_bytes());
    let change = wait_for_change(store);
    check(change.is_some(), || String::from("xenstore: a watch did not fire"))?;
    let read = store.read("data/selftest/long").map_err(fail("read"))?;
    check(read == long.as_bytes(), || String::from("xenstore: a value read differs from the value written"))?;
    store.write("data/selftest/a", b"1").map_err(fail("write"))?;
    let names = store.directory("data/selftest").map_err(fail("directory"))?;
    check(names.len() == 2, || format!("xenstore: {} names instead of 2", names.len()))?;
    store.remove("data/selftest").map_err(fail("remove"))?;
    check(store.read("data/selftest/a").is_err(), || String::from("xenstore: a removed node is still there"))?;
    store.write("data/selftest-done", b"1").map_err(fail("write"))?;
    say!("xenstore: this is domain {domid}; an answer takes {took} us");
    Ok(())
}

fn wait_for_change(store: &mut xen_pv::xenstore::Xenstore) -> Option<String> {
    let deadline = time::now() + Duration::from_secs(5);
    loop {
        if let Some(change) = store.next_change(|change| change.token == "selftest") {
            return Some(change.path);
        }
        if time::now() >= deadline {
            return None;
        }
        store.wait(deadline);
    }
}

fn check(holds: bool, failure: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(failure()) }
}
