//! A guest, its memory on both hosts, and the truth that it must see.

use std::cell::RefCell;
use std::rc::Rc;

use common::{Gfn, PAGE_SIZE, Page, PageSet};

use super::random::Random;

/// The guest, shared by both hosts' machines, the toolstack and the test.
pub type Shared = Rc<RefCell<Guest>>;

/// What a page holds; 0 is a page of zeros.
pub type Value = u64;

/// A page with a value at both ends.
pub fn page_of(value: Value) -> Page {
    let mut page = [0; PAGE_SIZE];
    if value != 0 {
        page[..8].copy_from_slice(&value.to_le_bytes());
        page[PAGE_SIZE - 8..].copy_from_slice(&(!value).to_le_bytes());
    }
    page
}

/// What a page holds, which must be whole.
pub fn value_of(page: &Page) -> Value {
    let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes"));
    let value = word(0);
    assert_eq!(word(PAGE_SIZE - 8), if value == 0 { 0 } else { !value }, "a torn page");
    value
}

/// Values above this mark pages that must never be armed.
pub const PINNED: Value = 1 << 63;

/// How many virtual CPUs that wait stand still; the others try again and again.
const KEEP_A_SLOT: usize = 4;

/// Where the guest stands at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    Running,
    Suspended,
    /// It crashed or shut down by itself: its toolstack will see to it.
    Stopped,
    /// Its toolstack destroyed it.
    Gone,
    /// After the commit.
    Retained,
    Destroyed,
}

/// A frame at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub value: Value,
    pub armed: bool,
}

pub struct Guest {
    random: Random,
    pub uuid: [u8; 16],
    /// What the guest believes; `None` is a hole.
    pub truth: Vec<Option<Value>>,
    // At the source.
    pub here: Here,
    pub logging: bool,
    pub log: PageSet,
    /// Pages that have come since the log was last cleaned: what is written to them is not logged.
    pub fresh: PageSet,
    pub paused_here: bool,
    /// How often somebody began to look for its holes.
    pub scans: u32,
    /// In which of these looks a page comes behind the first part, and another one goes ahead of it.
    pub moves_in_scan: Option<u32>,
    /// By an operator.
    pub paused_by_dom0: bool,
    /// Pages that the source has freed.
    pub freed: usize,
    // At the target.
    pub uuid_there: [u8; 16],
    pub there: Vec<Option<Frame>>,
    pub created: bool,
    /// The agent's pause count.
    pub held_there: bool,
    /// The agent gave it back after the commit.
    pub released: bool,
    /// The toolstack's own pause count is given back.
    pub started: bool,
    /// By an operator, or by what sees to a copy that was abandoned.
    pub paused_there: bool,
    pub ran_there: bool,
    pub can_page: bool,
    /// The policy keeps dom0 from reading it.
    pub is_private: bool,
    pub state_loaded: bool,
    pub faults: Vec<Gfn>,
    /// Pages given back while they were absent.
    pub dropped: Vec<Gfn>,
    /// How many the target was told of in all.
    pub gave_back: u64,
    /// A page that it gave back at the source after everybody had looked.
    pub gave_back_last: Option<usize>,
    /// The balloon moves at the source, and at the target.
    pub balloons_here: bool,
    pub balloons_there: bool,
    /// What each virtual CPU waits for, and since when.
    pub vcpus: Vec<Option<(Gfn, u64)>>,
    /// How long each wait took.
    pub waits: Vec<u64>,
    pub finished: bool,
    /// Frames the guest writes to while it runs: the first so many frames.
    pub working_set: u64,
    pub writes: u64,
    pub touches: u64,
    pub met_faults: u64,
    /// Faults on pages that were named before.
    pub met_again: u64,
}

impl Guest {
    /// `frames` guest frames, some of them holes, some zero.
    pub fn new(frames: u64, vcpus: usize, working_set: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hole = random.below(frames / 2);
        let truth: Vec<_> = (0..frames)
            .map(|gfn| match random.below(10) {
                _ if (hole..hole + frames / 10).contains(&gfn) => None,
                0..3 => Some(0),
                _ => Some(random.next() >> 1),
            })
            .collect();
        let uuid = (u128::from(seed) << 64 | u128::from(random.next())).to_le_bytes();
        let mut guest = Self {
            random,
            uuid,
            uuid_there: uuid,
            truth,
            here: Here::Running,
            logging: false,
            freed: 0,
            log: PageSet::new(frames),
            fresh: PageSet::new(frames),
            paused_here: false,
            scans: 0,
            moves_in_scan: None,
            paused_by_dom0: false,
            there: vec![None; frames as usize],
            created: true,
            held_there: false,
            released: false,
            started: false,
            paused_there: false,
            ran_there: false,
            can_page: true,
            is_private: false,
            state_loaded: false,
            faults: Vec::new(),
            dropped: Vec::new(),
            gave_back: 0,
            gave_back_last: None,
            balloons_here: true,
            balloons_there: true,
            vcpus: vec![None; vcpus],
            waits: Vec::new(),
            finished: false,
            working_set: working_set.clamp(1, frames),
            writes: 0,
            touches: 0,
            met_faults: 0,
            met_again: 0,
        };
        // One page for each virtual CPU that must be there when the guest resumes.
        for _ in 0..vcpus {
            let gfn = guest.random.below(guest.working_set) as usize;
            guest.truth[gfn] = guest.truth[gfn].map(|value| value | PINNED | 1);
        }
        guest
    }

    pub fn frames(&self) -> u64 {
        self.truth.len() as u64
    }

    pub fn runs_here(&self) -> bool {
        self.here == Here::Running && !self.paused_here && !self.paused_by_dom0
    }

    pub fn runs_there(&self) -> bool {
        self.released && self.started && self.created && !self.paused_there
    }

    /// One step of the guest's program, at `now`: it touches a page, wherever it runs.
    pub fn step(&mut self, now: u64) {
        if self.runs_here() {
            self.write_here();
        } else if self.runs_there() {
            for vcpu in 0..self.vcpus.len() {
                self.touch_there(vcpu, now);
            }
        }
    }

    fn pick(&mut self) -> Gfn {
        // Mostly the working set, now and then anywhere.
        let bound = if self.random.below(8) == 0 { self.frames() } else { self.working_set };
        Gfn(self.random.below(bound))
    }

    fn any_value(&mut self, old: Value) -> Value {
        match self.random.below(16) {
            0 if old & PINNED == 0 => 0,
            _ => (self.random.next() >> 1) | (old & PINNED),
        }
    }

    fn write_here(&mut self) {
        // Now and then the guest gives a page back or takes one: it balloons.
        let gfn = self.pick();
        let at = gfn.0 as usize;
        let new = match self.truth[at] {
            Some(old) if old & PINNED == 0 && self.balloons_here && self.random.below(400) == 0 => None,
            None if self.balloons_here && self.random.below(8) == 0 => Some(self.any_value(0)),
            None => return,
            Some(old) => Some(self.any_value(old)),
        };
        self.put_here(gfn, new);
    }

    /// The guest writes a page at the source, takes it or gives it back. The hypervisor marks only writes to pages it had
    /// protected, and those that have just come are not; one that goes is written to first, since Linux scrubs it.
    fn put_here(&mut self, gfn: Gfn, new: Option<Value>) {
        let came = self.truth[gfn.0 as usize].is_none();
        self.truth[gfn.0 as usize] = new;
        self.writes += 1;
        if came {
            self.fresh.insert(gfn);
        } else if self.logging && !self.fresh.contains(gfn) {
            self.log.insert(gfn);
        }
        if new.is_none() {
            self.fresh.remove(gfn);
        }
    }

    /// The guest gives back its first pages, and takes as many elsewhere, the last that it can.
    pub fn swap_pages(&mut self, count: usize) {
        let (mut given, mut taken) = (Vec::new(), Vec::new());
        for (gfn, value) in (0..).map(Gfn).zip(&self.truth) {
            match value {
                None => taken.push(gfn),
                Some(value) if value & PINNED == 0 => given.push(gfn),
                Some(_) => {}
            }
        }
        assert!(given.len() >= count && taken.len() >= count);
        taken.reverse();
        for index in 0..count {
            self.put_here(given[index], None);
            let value = self.any_value(0);
            self.put_here(taken[index], Some(value));
        }
    }

    /// The guest gives back a page from `from` on, and takes one below it.
    pub fn move_page_down(&mut self, from: usize) {
        let is_given = |at: &usize| self.truth[*at].is_some_and(|value| value & PINNED == 0);
        let given = (from..self.truth.len()).find(is_given).expect("a page to give back");
        let taken = (0..from).find(|at| self.truth[*at].is_none()).expect("a hole to fill");
        self.put_here(Gfn(given as u64), None);
        let value = self.any_value(0) | 1;
        self.put_here(Gfn(taken as u64), Some(value));
    }

    /// What the hypervisor does when the log is turned on or cleaned.
    pub fn protect(&mut self) {
        self.log.clear();
        self.fresh.clear();
    }

    fn touch_there(&mut self, vcpu: usize, now: u64) {
        if let Some((gfn, since)) = self.vcpus[vcpu] {
            let frame = self.there[gfn.0 as usize].expect("a frame does not vanish while somebody waits for it");
            if frame.armed {
                if self.is_answered_early(since) && self.random.below(32) == 0 {
                    self.faults.push(gfn);
                    self.met_again += 1;
                }
                return;
            }
            self.vcpus[vcpu] = None;
            self.waits.push(now - since);
        }
        let gfn = self.pick();
        let at = gfn.0 as usize;
        if self.balloons_there && self.balloon_there(gfn) {
            return;
        }
        let Some(truth) = self.truth[at] else { return };
        self.touches += 1;
        let frame = self.there[at].unwrap_or_else(|| panic!("{gfn:?} has no frame at the target"));
        if frame.armed {
            assert!(truth & PINNED == 0, "{gfn:?} is one that the hypervisor needs at once, and it is absent");
            self.vcpus[vcpu] = Some((gfn, now));
            self.faults.push(gfn);
            self.met_faults += 1;
            return;
        }
        assert_eq!(frame.value, truth, "{gfn:?} is wrong at the target");
        let value = self.any_value(truth);
        self.truth[at] = Some(value);
        self.there[at] = Some(Frame { value, armed: false });
    }

    /// Whether so many wait that have come since that this one has lost its slot of the hypervisor's ring. It tries again, and
    /// its page may be named again.
    fn is_answered_early(&self, since: u64) -> bool {
        self.vcpus.iter().flatten().filter(|(_, other)| *other > since).count() >= KEEP_A_SLOT
    }

    /// Now and then the guest gives a page back, absent or not, or takes one, where nobody armed anything; whether it did.
    fn balloon_there(&mut self, gfn: Gfn) -> bool {
        let at = gfn.0 as usize;
        let waited_for = self.vcpus.iter().flatten().any(|(waits, _)| *waits == gfn);
        match self.truth[at] {
            Some(value) if value & PINNED == 0 && !waited_for && self.random.below(200) == 0 => {
                if self.there[at].take().is_some_and(|frame| frame.armed) {
                    self.dropped.push(gfn);
                    self.gave_back += 1;
                }
                self.truth[at] = None;
                true
            }
            None if self.random.below(8) == 0 => {
                let value = self.any_value(0);
                self.truth[at] = Some(value);
                self.there[at] = Some(Frame { value, armed: false });
                true
            }
            _ => false,
        }
    }

    /// The guest as it must look once all is complete.
    pub fn check_complete(&self) {
        for (gfn, truth) in self.truth.iter().enumerate() {
            // What the guest gave back, on whichever host, is given back.
            let last = self.gave_back_last == Some(gfn) && truth.is_none();
            let expected = truth.or(last.then_some(0)).map(|value| Frame { value, armed: false });
            assert_eq!(self.there[gfn], expected, "frame {gfn}");
        }
        assert!(self.there.iter().flatten().all(|frame| !frame.armed), "pages stay absent for ever");
        assert!(self.finished && self.here == Here::Destroyed);
    }

    /// Never two running copies.
    pub fn check_one_copy(&mut self) {
        self.ran_there |= self.runs_there();
        assert!(!(self.runs_here() && self.runs_there()), "the guest runs twice");
        let may_run_here = matches!(self.here, Here::Running | Here::Suspended | Here::Stopped);
        assert!(!(self.runs_there() && may_run_here));
    }
}
