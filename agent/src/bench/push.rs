//! What a push costs at the source of a guest of any size.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use common::control::{Mode, Parameters, SessionToken, Size};
use common::{
    Backends, Content, DomId, Fault, Features, Gfn, Hold, PAGE_SIZE, Page, PageMask, PageSet, Rings, Span, cost,
};

use super::{End, Ends, connect, work};
use crate::command_line::AgentOptions;
use crate::datagram::DatagramPort;
use crate::dirty_copy::{self, PUSH};
use crate::error::PlatformError;
use crate::host::Host;
use crate::host::budget::Budget;
use crate::host::claim::Domains;
use crate::host::peers::Peers;
use crate::host::pending::Called;
use crate::host::toolstack::Toolstack;
use crate::messages::Inlet;
use crate::platform::{
    DirtyLog, Guest, GuestInfo, LoadMachine, Pager, Platform, Result, SaveMachine, SourceHold, SourceMemory,
    TargetHold, TargetMemory,
};
use crate::secure::{Link, Security};
use crate::source::{Departure, Terms};
use crate::tasks::{Instant, Timer};
use crate::wire::{ConnectionRole, Hello, Kind, Message, Purpose};

/// Pages that stand for all of a guest's: more than the processor's caches hold.
const PAGES: usize = 16 << 10;

/// Pushes that were made, and for how long the source was at work.
pub struct Pushes {
    /// How many, of up to 16 pages.
    pub count: u64,
    /// Processor time, without the peer's.
    pub worked: Duration,
}

/// A guest that has left, and the connection to where its pages go.
pub struct Leaver {
    ends: [End; 2],
    clock: fn() -> u64,
    departure: Departure<Still>,
    inlet: Inlet,
    dirty: Vec<Gfn>,
}

impl Leaver {
    /// A guest of so many frames, `dirty` of them spread over it.
    pub fn new(frames: u64, dirty: u64, clock: fn() -> u64) -> Self {
        let Ends { mut ends, .. } = Ends::new(false, clock);
        let [control, _] = connect(&mut ends).map(Link::plain);
        let [bulk, there] = connect(&mut ends).map(Link::plain);
        let host = host(&ends[0], clock);
        let hello = Hello {
            role: ConnectionRole::Control,
            purpose: Purpose::Begin,
            session: SessionToken([0; 16]),
            binding: [0; 32],
            window: u32::MAX,
        };
        let called = Called { hello, peer: None, control, bulk };
        let info = GuestInfo { pages: frames, ..GuestInfo::default() };
        let memory = host.budget.reserve(cost::departure(&Size { frames, digests: 0 })).expect("there is no limit");
        let toolstack = Rc::new(Toolstack::new("push".parse().expect("it is a name"), host.timer.clone()));
        // In a pre-copy a page may be sent as often as this is asked to, and each send is counted.
        let source = Still((0..PAGES).map(|page| [page as u8 | 1; PAGE_SIZE]).collect());
        let parameters = Parameters { mode: Mode::Precopy, ..Parameters::default() };
        let terms = Terms { parameters, frames, memory, seat: host.peers.seat_again(None) };
        let mut departure = Departure::new(&host, &toolstack, source, &info, &called, terms);
        departure.pages_mut().forget();
        let dirty = (0..dirty).map(|at| Gfn(at * frames / dirty)).collect();
        Self { ends, clock, departure, inlet: Inlet::new(there, &[Kind::Pages]), dirty }
    }

    /// Pushes all that is dirty.
    pub fn push(&mut self) -> Pushes {
        let Self { ends, clock, departure, inlet, dirty } = self;
        departure.pages_mut().put_back(dirty.iter().copied());
        let pushing = async {
            let (mut next, mut pushes) = (Gfn(0), 0);
            while !departure.pages().left().is_empty() {
                next = dirty_copy::push(departure, next, PUSH).await.expect("it is sent");
                pushes += 1;
            }
            pushes
        };
        let arriving = async {
            let mut left = dirty.len();
            while left > 0 {
                let Ok(Message::Pages(pages)) = inlet.next().await else { panic!("nothing else was sent") };
                left -= pages.gfns().count();
            }
        };
        let (count, (), [worked, _]) = work(ends, *clock, Box::pin(pushing), Box::pin(arriving));
        Pushes { count, worked: Duration::from_nanos(worked) }
    }
}

/// An agent's parts, without anybody who asks it for anything.
fn host(end: &End, clock: fn() -> u64) -> Host<Here> {
    let options = AgentOptions::parse("ip=10.0.0.1/24 port=7").expect("a command line");
    let timer = Timer::new(move || Instant::from_ns(clock()));
    Host {
        platform: Rc::new(RefCell::new(Here(clock))),
        net: end.net.clone(),
        pending: Rc::default(),
        datagram_port: Rc::new(DatagramPort::new(end.net.clone(), timer.clone(), 7)),
        config: Rc::new(options.config([2, 0, 0, 0, 0, 1], 0, Security::Plain)),
        budget: Budget::new(usize::MAX, 0, timer.clone()),
        timer,
        domains: Domains::default(),
        peers: Peers::default(),
        epilogues: RefCell::default(),
    }
}

/// The machine under it: it tells the time, and no guest comes or goes.
struct Here(fn() -> u64);

impl Platform for Here {
    type Source = Still;
    type Target = Nobody;

    fn now(&self) -> Instant {
        Instant::from_ns(self.0())
    }
    fn random(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
    fn features(&self) -> Features {
        Features::default()
    }
    fn open_source(&mut self, _: DomId) -> Result<Still> {
        Err(PlatformError::Gone)
    }
    fn open_target(&mut self, _: DomId, _: Backends) -> Result<Nobody> {
        Err(PlatformError::Gone)
    }
    fn adopt_source(&mut self, _: DomId, _: [u8; 16], _: u64) -> Result<Still> {
        Err(PlatformError::Gone)
    }
    fn adopt_target(&mut self, _: DomId, _: [u8; 16], _: Hold, _: u64) -> Result<(Nobody, PageSet)> {
        Err(PlatformError::Gone)
    }
    fn can_retain(&self) -> Result<()> {
        Ok(())
    }
    fn has_run(&self, _: DomId) -> Result<bool> {
        Err(PlatformError::Gone)
    }
    fn discard(&mut self, _: DomId) -> Result<()> {
        Err(PlatformError::Gone)
    }
}

/// A guest that stands still: it can be read, and nothing else is asked.
struct Still(Vec<Page>);

impl Guest for Still {
    fn info(&mut self) -> Result<GuestInfo> {
        unasked()
    }
}

impl SourceMemory for Still {
    fn frames(&mut self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn is_private(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn find_ram(&mut self, _: Span, _: &mut [u64]) -> Result<()> {
        unasked()
    }

    fn are_ram(&mut self, _: &[Gfn]) -> Result<bool> {
        unasked()
    }

    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        for (gfn, page) in gfns.iter().zip(into) {
            *page = self.0[gfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % self.0.len()];
        }
        Ok(PageMask::first(gfns.len()))
    }

    fn is_pinned(&self, _: &Page) -> bool {
        false
    }
}

impl DirtyLog for Still {
    fn log_on(&mut self) -> Result<()> {
        unasked()
    }

    fn protected(&mut self, _: &[Gfn]) -> Result<PageMask> {
        unasked()
    }

    fn peek(&mut self, _: &mut [u64]) -> Result<()> {
        unasked()
    }

    fn clean(&mut self, _: &mut [u64]) -> Result<()> {
        unasked()
    }
}

impl SaveMachine for Still {
    fn config(&mut self) -> Result<Vec<u8>> {
        unasked()
    }

    fn machine_state(&mut self, _: &mut [u64]) -> Result<Vec<u8>> {
        unasked()
    }

    fn first_touched(&mut self, _: usize) -> Result<Vec<Gfn>> {
        unasked()
    }
}

impl SourceHold for Still {
    fn memo(&self) -> u64 {
        0
    }
    fn is_retained(&self) -> bool {
        true
    }

    fn retain(&mut self) -> Result<()> {
        unasked()
    }

    fn give_back(&mut self) -> Result<()> {
        unasked()
    }

    fn free(&mut self, _: &[Gfn]) -> Result<()> {
        unasked()
    }

    fn destroy(&mut self) -> Result<()> {
        unasked()
    }
}

fn unasked<T>() -> Result<T> {
    Err(PlatformError::Unsupported { operation: "what no push asks for" })
}

/// No guest arrives here.
enum Nobody {}

impl Guest for Nobody {
    fn info(&mut self) -> Result<GuestInfo> {
        match *self {}
    }
}

impl TargetMemory for Nobody {
    fn populate(&mut self, _: Span) -> Result<()> {
        match *self {}
    }

    fn free(&mut self, _: &[Gfn]) -> Result<()> {
        match *self {}
    }

    fn write(&mut self, _: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        match *self {}
    }

    fn read(&mut self, _: &[Gfn], _: &mut [Page]) -> Result<PageMask> {
        match *self {}
    }
}

impl Pager for Nobody {
    fn can_page(&self) -> bool {
        match *self {}
    }

    fn arm(&mut self, _: &[Gfn]) -> Result<PageMask> {
        match *self {}
    }

    fn next_fault(&mut self) -> Result<Option<Fault>> {
        match *self {}
    }

    fn fill(&mut self, _: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        match *self {}
    }

    fn finish(&mut self) -> Result<()> {
        match *self {}
    }
}

impl LoadMachine for Nobody {
    fn build(&mut self, _: &[u8]) -> Result<Rings> {
        match *self {}
    }

    fn load_state(&mut self, _: &[u8]) -> Result<()> {
        match *self {}
    }
}

impl TargetHold for Nobody {
    fn let_run(&mut self) -> Result<()> {
        match *self {}
    }

    fn has_run(&mut self) -> Result<bool> {
        match *self {}
    }
}
