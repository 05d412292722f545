//! Several migrations at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests_qemu::exec::{Output, Running};

use super::super::fixture::Fixture;
use super::attempt::LIMIT;
use super::scene::{Domain, domains};
use crate::mode::Mode;
use crate::network::{GUESTS, Place, SECOND_GUEST};
use crate::scenario::guest::{self, Guest, Label, Workload};
use crate::scenario::testbed::{A, B, SHELL};
use crate::scenario::{migration, sessions};
use crate::trouble::Trouble;

/// What the link carries when a stage is to last.
const SLOW_KBIT: u32 = 24_000;

pub fn cross_in_opposite_directions(fixture: &mut Fixture) -> Result<()> {
    let pair = Pair::start(fixture, B)?;
    let running = (pair.migrate(0, (A, B))?, pair.migrate(1, (B, A))?);
    pair.assert_arrived(running.0, 0)?;
    pair.assert_arrived(running.1, 1)?;
    pair.assert_are([B, A])?;
    pair.end()
}

pub fn cross_in_the_same_direction(fixture: &mut Fixture) -> Result<()> {
    let pair = Pair::start(fixture, A)?;
    let running = (pair.migrate(0, (A, B))?, pair.migrate(1, (A, B))?);
    pair.assert_arrived(running.0, 0)?;
    pair.assert_arrived(running.1, 1)?;
    pair.assert_are([B, B])?;
    // And back, both at once.
    let running = (pair.migrate(0, (B, A))?, pair.migrate(1, (B, A))?);
    pair.assert_arrived(running.0, 0)?;
    pair.assert_arrived(running.1, 1)?;
    pair.assert_are([A, A])?;
    pair.end()
}

/// The helper of the second is killed in stage 1; the first does not notice.
pub fn fail_alone(fixture: &mut Fixture) -> Result<()> {
    let pair = Pair::start(fixture, A)?;
    let dom0 = pair.fixture.testbed()?.dom0(A);
    let slow = Trouble::slow(&pair.fixture.testbed()?.run.namespace, A, B, SLOW_KBIT)?;
    let running = (pair.migrate(0, (A, B))?, pair.migrate(1, (A, B))?);
    let number = domains(&dom0)?.iter().find(|domain| domain.name == pair.guests[1].name).context("no guest")?.number;
    let begun = Instant::now();
    loop {
        let sessions = sessions::now(&dom0)?;
        let second = sessions.iter().find(|(name, _)| name.starts_with(&format!("out-{number}-")));
        if second.is_some_and(|(_, session)| session.progress.is_some_and(|progress| progress.stage == 1)) {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "the second migration does not begin: {second:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Its words after the option are two descriptors and the domain.
    let kill = format!(
        "ps -o pid,args | while read -r pid program option in out domain rest; do \
         [ \"$option $domain\" = '--save-domain {number}' ] && kill -KILL $pid; done"
    );
    dom0.sh(&kill)?;
    let failed = finish(running.1)?;
    ensure!(failed.status != 0, "the second xl migrate exits with 0");
    drop(slow);
    pair.assert_arrived(running.0, 0)?;
    pair.assert_are([B, A])?;
    pair.end()
}

/// More than the agents' memory is enough for: the last ones wait their turn, and say so.
pub fn four_leave_at_once(fixture: &mut Fixture) -> Result<()> {
    let mut first = Guest::demo(fixture.artifacts(), Label::Private);
    // Four of them would leave dom0 a fifth of the host's one processor.
    (first.memory_mib, first.load) = (128, Workload { tick_ms: 1000, ..Workload::new(8, 100) });
    let names = [guest::NAME, "second", "third", "fourth"];
    let guests: Vec<Guest> =
        names.iter().zip(GUESTS).map(|(name, address)| Guest { name, address, ..first.clone() }).collect();
    fixture.agents()?;
    fixture.start_guest(A, &first)?;
    let dom0 = fixture.testbed()?.dom0(A);
    for guest in &guests[1..] {
        guest.create(&dom0)?;
        guest::wait_ready_at(guest.address)?;
    }
    let start = |guest: &Guest| -> Result<Running> {
        let mut request = migration::request(guest.name, B, SHELL, Mode::TSMC);
        migration::verify(&mut request);
        Ok(dom0.start(&request)?)
    };
    let running = guests.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut waited = 0;
    for (guest, running) in guests.iter().zip(running) {
        let output = finish(running)?;
        ensure!(output.status == 0, "xl migrate of {} exits with {}", guest.name, output.status);
        waited +=
            usize::from(String::from_utf8_lossy(&output.stderr).contains("waiting for memory of this host's agent"));
    }
    ensure!(waited > 0, "all four fitted at once: nobody had to wait");
    println!("{waited} of them waited");
    for guest in &guests {
        let check = guest::load_at(guest.address)?.check()?;
        ensure!(check.errors == 0, "{} of {} pages of {} are wrong", check.errors, check.pages, guest.name);
    }
    let there = domains(&fixture.testbed()?.dom0(B))?;
    ensure!(there.len() == 4 && there.iter().all(Domain::is_runnable), "on B are {there:?}");
    for guest in &guests {
        fixture.testbed()?.dom0(B).run(&["xl", "destroy", guest.name])?;
    }
    Ok(())
}

/// Two guests, the first on A.
struct Pair<'a> {
    fixture: &'a mut Fixture,
    guests: [Guest; 2],
}

impl<'a> Pair<'a> {
    fn start(fixture: &'a mut Fixture, second_on: &Place) -> Result<Self> {
        let mut first = Guest::demo(fixture.artifacts(), Label::Private);
        first.memory_mib = 160;
        let mut second = first.clone();
        (second.name, second.address) = ("second", SECOND_GUEST);
        fixture.agents()?;
        fixture.start_guest(A, &first)?;
        second.create(&fixture.testbed()?.dom0(second_on))?;
        guest::wait_ready_at(second.address)?;
        Ok(Self { fixture, guests: [first, second] })
    }

    fn migrate(&self, which: usize, (from, to): (&Place, &Place)) -> Result<Running> {
        let mut request = migration::request(self.guests[which].name, to, SHELL, Mode::TSMC);
        migration::verify(&mut request);
        Ok(self.fixture.testbed()?.dom0(from).start(&request)?)
    }

    fn assert_arrived(&self, running: Running, which: usize) -> Result<()> {
        let output = finish(running)?;
        ensure!(output.status == 0, "xl migrate of {} exits with {}", self.guests[which].name, output.status);
        Ok(())
    }

    /// Fails unless each guest runs on its place, whole, and nothing else is on either host.
    fn assert_are(&self, places: [&Place; 2]) -> Result<()> {
        let begun = Instant::now();
        for place in [A, B] {
            let dom0 = self.fixture.testbed()?.dom0(place);
            let guests = self.guests.iter().zip(places).filter(|(_, its)| *its == place);
            let mut expected: Vec<&str> = guests.map(|(guest, _)| guest.name).collect();
            expected.sort_unstable();
            loop {
                let there = domains(&dom0)?;
                let mut names: Vec<&str> = there.iter().map(|domain| domain.name.as_str()).collect();
                names.sort_unstable();
                if names == expected && there.iter().all(Domain::is_runnable) {
                    break;
                }
                ensure!(begun.elapsed() < LIMIT, "on {} are {there:?}, not {expected:?}", place.letter);
            }
        }
        for guest in &self.guests {
            let check = guest::load_at(guest.address)?.check()?;
            ensure!(check.errors == 0, "{} of {} pages of {} are wrong", check.errors, check.pages, guest.name);
            println!("{} runs; {} pages checked", guest.name, check.pages);
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        for place in [A, B] {
            // It is on one of them only.
            let _ = self.fixture.testbed()?.dom0(place).run(&["xl", "destroy", self.guests[1].name])?;
        }
        Ok(())
    }
}

fn finish(running: Running) -> Result<Output> {
    let output = running.finish(Some(2 * LIMIT)).context("xl migrate")?;
    println!("{}xl migrate exits with {}", String::from_utf8_lossy(&output.stderr), output.status);
    Ok(output)
}
