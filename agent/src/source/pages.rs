//! The pages of a guest that leaves: which are RAM, which are dirty, what has been sent and what is left.

use common::{BATCH, Gfn, PageSet, Span};

use super::Batch;
use crate::error::{PeerFault, PlatformError, SessionError};
use crate::ledger::Sends;
use crate::platform::{self, DirtyLog, SourceMemory};
use crate::wire::CHUNK;

/// What is known of every page, a set for each thing.
pub(crate) struct Pages {
    frames: u64,
    /// What the target was told is RAM.
    ram: PageSet,
    /// What is known to be dirty: written since it was sent, or before its turn came.
    log: PageSet,
    /// What was dirtied after the suspend was asked for: what the resuming guest touches first. In stage 3, what is left of it.
    recent: PageSet,
    /// In stage 1 what the target was told is stale, or a round of a pre-copy; in stage 3, the dirty pages that have not
    /// been sent.
    left: PageSet,
    /// What was looked for last: it lives for a moment.
    found: PageSet,
    sends: Sends,
    /// Pages that looked, when they were read, like ones that must never be armed. The guest decides what they look like.
    pinned: PageSet,
}

impl Pages {
    pub(crate) fn new(frames: u64) -> Self {
        let set = || PageSet::new(frames);
        let (ram, log, recent, left, found, pinned) = (set(), set(), set(), set(), set(), set());
        Self { frames, ram, log, recent, left, found, sends: Sends::new(frames), pinned }
    }

    /// Frames that the guest may have.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// What the target was told is RAM.
    pub(crate) fn ram(&self) -> &PageSet {
        &self.ram
    }

    /// In stage 3, the dirty pages that have not been sent; before, what the target knows to be stale, or a round of a pre-copy.
    pub(crate) fn left(&self) -> &PageSet {
        &self.left
    }

    /// The chunk that begins with `next`, as far as the guest reaches by now; the one behind it is the next.
    pub(crate) fn next_chunk(&self, next: &mut Gfn) -> Option<Span> {
        let rest = Span::between(*next, Gfn(self.frames));
        let chunk = Span { count: rest.count.min(CHUNK), ..rest };
        *next = chunk.end();
        (chunk.count > 0).then_some(chunk)
    }

    /// Lets every set reach the frames below `frames`.
    pub(crate) fn grow(&mut self, frames: u64) {
        self.frames = frames;
        self.sends.grow(frames);
        let Self { ram, log, recent, left, found, pinned, .. } = self;
        [ram, log, recent, left, found, pinned].into_iter().for_each(|set| set.grow(frames));
    }

    /// What the target was told is forgotten. Whatever it misses was RAM at the switch.
    pub(crate) fn forget(&mut self) {
        self.ram.update(|words| words.fill(u64::MAX));
        self.log = PageSet::default();
    }

    /// Adds to what is known to be dirty what the log says.
    pub(crate) fn take_log(&mut self, read: impl FnOnce(&mut [u64]) -> platform::Result<()>) -> platform::Result<()> {
        self.found.update(read)?;
        self.log.union_with(&self.found);
        Ok(())
    }

    /// Finds out which frames of `span` are RAM by now.
    pub(crate) fn look<S: SourceMemory>(&mut self, source: &mut S, span: Span) -> platform::Result<()> {
        find_ram(source, &mut self.found, span)
    }

    /// The next of those that were looked for last.
    pub(crate) fn next_found(&self, rest: &mut Span) -> Option<Batch> {
        self.found.next_batch(rest)
    }

    // Stage 1.

    /// Finds out which frames of a chunk are RAM; whether any is.
    pub(crate) fn find_ram<S: SourceMemory>(&mut self, source: &mut S, chunk: Span) -> platform::Result<bool> {
        find_ram(source, &mut self.ram, chunk)?;
        Ok(self.ram.range(chunk).next().is_some())
    }

    /// Takes all RAM of a chunk for dirty.
    pub(crate) fn defer_all(&mut self, chunk: Span) {
        self.log.extend(self.ram.range(chunk));
    }

    /// Takes pages for dirty.
    pub(crate) fn defer(&mut self, gfns: &Batch) {
        self.log.extend(gfns.iter().copied());
    }

    /// Whether a page is known to be dirty.
    pub(crate) fn is_dirty(&self, gfn: Gfn) -> bool {
        self.log.contains(gfn)
    }

    /// Of what is known to be dirty, what the target does not know, and will be told.
    pub(crate) fn find_fresh(&mut self) -> &PageSet {
        let (told, fresh) = (&mut self.left, &mut self.found);
        fresh.copy_from(&self.log);
        fresh.intersect_with(&self.ram);
        fresh.subtract(told);
        fresh.subtract(&self.pinned);
        told.union_with(fresh);
        fresh
    }

    /// How many pages are known to be dirty.
    pub(crate) fn count_dirty(&mut self) -> u64 {
        self.log.intersect_with(&self.ram);
        self.log.count()
    }

    /// Lets what is dirty be a round of a pre-copy, unless that is fewer pages than `few`; whether it is.
    pub(crate) fn begin_round(&mut self, few: u64) -> bool {
        if self.count_dirty() < few {
            return false;
        }
        self.left.copy_from(&self.log);
        self.log.clear();
        true
    }

    // The switch.

    /// Looks at a chunk again; whether frames have become RAM.
    pub(crate) fn look_again<S: SourceMemory>(&mut self, source: &mut S, chunk: Span) -> platform::Result<bool> {
        self.look(source, chunk)?;
        let mut fresh = false;
        for gfn in self.found.range(chunk) {
            if self.ram.insert(gfn) {
                // The log need not know of its first write.
                self.log.insert(gfn);
                fresh = true;
            }
        }
        Ok(fresh)
    }

    /// Takes out frames of a chunk that are RAM no more, as that look has found.
    pub(crate) fn take_gone(&mut self, chunk: Span) -> Batch {
        let gone: Batch = self.ram.range(chunk).filter(|gfn| !self.found.contains(*gfn)).take(BATCH).collect();
        gone.iter().for_each(|gfn| _ = self.ram.remove(*gfn));
        gone
    }

    /// Lets `read` say what was dirtied last.
    pub(crate) fn take_recent<T>(&mut self, read: impl FnOnce(&mut [u64]) -> T) -> T {
        self.recent.update(read)
    }

    /// Whether the guest has given nothing back. What it gives back it writes to first, as Linux does: only dirty pages can be
    /// gone, and looking at them takes much less than looking at the whole guest.
    pub(crate) fn are_kept<S: SourceMemory>(&mut self, source: &mut S) -> platform::Result<bool> {
        let dirty = &mut self.found;
        dirty.copy_from(&self.log);
        dirty.union_with(&self.recent);
        dirty.intersect_with(&self.ram);
        let mut rest = dirty.bound();
        while let Some::<Batch>(batch) = dirty.next_batch(&mut rest) {
            if !source.are_ram(&batch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is left becomes the dirty set: what the log says, and what was never sent, as far as it is RAM.
    pub(crate) fn settle_dirty(&mut self) {
        let unsent = &mut self.found;
        unsent.copy_from(&self.ram);
        self.sends.take_sent_from(unsent);
        self.left.copy_from(&self.log);
        self.left.union_with(&self.recent);
        self.left.union_with(unsent);
        self.left.intersect_with(&self.ram);
        self.recent.intersect_with(&self.left);
    }

    /// Takes from the dirty set what must be at the target before the guest runs: pinned pages, those that are touched first,
    /// and so many of the recent ones. What the log said is settled: there is its place.
    pub(crate) fn take_urgent(&mut self, touched: impl IntoIterator<Item = Gfn>, ahead: usize) -> PageSet {
        let mut urgent = core::mem::take(&mut self.log);
        urgent.clear();
        urgent.extend(self.pinned.iter().chain(touched).filter(|gfn| self.left.contains(*gfn)));
        urgent.extend(self.recent.iter().take(ahead));
        self.left.subtract(&urgent);
        self.recent.subtract(&urgent);
        urgent
    }

    /// The same in a pre-copy: all of it.
    pub(crate) fn take_all(&mut self) -> PageSet {
        let mut none = core::mem::take(&mut self.log);
        none.clear();
        core::mem::replace(&mut self.left, none)
    }

    /// Looks for all RAM that is not urgent.
    pub(crate) fn find_others(&mut self, urgent: &PageSet) {
        self.found.copy_from(&self.ram);
        self.found.subtract(urgent);
    }

    /// Looks for what was written to since the dirty log was taken, and will not be sent any more.
    pub(crate) fn find_written<S: DirtyLog>(&mut self, source: &mut S, urgent: &PageSet) -> platform::Result<()> {
        self.found.update(|words| source.peek(words))?;
        self.found.intersect_with(&self.ram);
        self.found.subtract(&self.left);
        self.found.subtract(urgent);
        Ok(())
    }

    // Stage 3.

    /// Takes a page out of what is left; whether it was in it.
    pub(crate) fn take(&mut self, gfn: Gfn) -> bool {
        self.recent.remove(gfn);
        self.left.remove(gfn)
    }

    /// The same with those of `span`.
    pub(crate) fn take_within(&mut self, mut span: Span) -> Batch {
        let batch: Batch = self.left.next_batch(&mut span).unwrap_or_default();
        batch.iter().for_each(|gfn| _ = self.take(*gfn));
        batch
    }

    /// The same with the next `count`: what was dirtied last first, then on from `from`. Gives where to go on, too.
    pub(crate) fn take_next(&mut self, from: Gfn, count: usize) -> (Batch, Gfn) {
        let set = if self.recent.is_empty() { &self.left } else { &self.recent };
        let start = if set.next_from(from).is_some() { from } else { Gfn(0) };
        let batch: Batch = set.range(Span::between(start, Gfn(self.frames))).take(count).collect();
        batch.iter().for_each(|gfn| _ = self.take(*gfn));
        let next = batch.last().map_or(start, |gfn| Gfn(gfn.0 + 1));
        (batch, next)
    }

    /// Pages that were taken are left after all.
    pub(crate) fn put_back(&mut self, gfns: impl IntoIterator<Item = Gfn>) {
        self.left.extend(gfns);
    }

    /// Whether a page is gone for good: the guest gave it back in its last moment here. It stands still now, so what is no RAM
    /// never will be, and the target waits for some content.
    pub(crate) fn is_hole<S: SourceMemory>(&mut self, source: &mut S, gfn: Gfn) -> bool {
        self.look(source, Span { first: gfn, count: 1 }).is_ok() && !self.found.contains(gfn)
    }

    /// What the target misses: that, and only that, is left to send. What had been sent already was lost on its way; its send
    /// does not count. Gives how many pages that are.
    pub(crate) fn take_stock(&mut self, missing: &PageSet) -> Result<u64, SessionError> {
        let lost = &mut self.found;
        lost.copy_from(missing);
        lost.subtract(&self.ram);
        if !lost.is_empty() {
            return Err(SessionError::Peer(PeerFault::NoSuchPage));
        }
        lost.copy_from(missing);
        lost.subtract(&self.left);
        lost.iter().for_each(|gfn| self.sends.take_back(gfn));
        self.left.copy_from(missing);
        self.recent.intersect_with(missing);
        Ok(lost.count())
    }

    // Whatever is read and sent.

    /// A page must never be armed.
    pub(crate) fn pin(&mut self, gfn: Gfn) {
        self.pinned.insert(gfn);
    }

    /// Counts one send of each page; the most that one of them makes.
    pub(crate) fn count_sends(&mut self, gfns: &[Gfn]) -> u64 {
        gfns.iter().map(|gfn| self.sends.count(*gfn)).max().unwrap_or_default()
    }

    /// The most that any page was sent.
    pub(crate) fn most_sends(&self) -> u64 {
        self.sends.most()
    }
}

fn find_ram<S: SourceMemory>(source: &mut S, ram: &mut PageSet, span: Span) -> Result<(), PlatformError> {
    ram.update_part(span, |words| source.find_ram(span, words))
}
