//! Sets of guest frames.

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use crate::guest::{BATCH, Gfn, Span};

/// Frames of a block: those below one word of the second level.
const BLOCK: u64 = 64 * 64;

/// A set of guest frames below a bound, one bit each, and in levels above which words of the level below hold anything.
///
/// So what a step costs follows from what it looks at, not from the size of the guest: finding the next frame, adding or removing
/// one takes a few words a level, whole-set operations skip what is empty. A terabyte has five levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// First the frames; each level has a bit for each word of the one before, and the last has no more than one word.
    levels: Vec<Vec<u64>>,
    frames: u64,
}

impl Default for PageSet {
    fn default() -> Self {
        Self::new(0)
    }
}

/// How many words each level has for so many frames.
fn lengths(frames: u64) -> impl Iterator<Item = usize> {
    let above = |below: &u64| (*below > 1).then(|| below.div_ceil(64));
    iter::successors(Some(frames.div_ceil(64)), above).map(|words| words as usize)
}

impl PageSet {
    /// The empty set over the frames `0 .. frames`.
    pub fn new(frames: u64) -> Self {
        Self { levels: lengths(frames).map(|words| vec![0; words]).collect(), frames }
    }

    /// The set over the frames `0 .. frames` whose bits these words hold, as [`PageSet::words`] gives them; too few or too many
    /// words are made right.
    pub fn from_words(mut words: Vec<u64>, frames: u64) -> Self {
        let mut lengths = lengths(frames);
        words.resize(lengths.next().unwrap_or_default(), 0);
        let above = lengths.map(|words| vec![0; words]);
        let mut set = Self { levels: iter::once(words).chain(above).collect(), frames };
        set.trim();
        set.refresh(set.bound());
        set
    }

    /// Bytes that a set over the frames `0 .. frames` takes: little more than one bit a frame.
    pub fn bytes(frames: u64) -> usize {
        lengths(frames).map(|words| words * size_of::<u64>()).sum()
    }

    /// How many frames the set could hold.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Every frame that the set could hold.
    pub fn bound(&self) -> Span {
        Span { first: Gfn(0), count: self.frames }
    }

    /// Lets the set hold the frames below `frames`, if it could not before. It takes no more memory than a new one would:
    /// budgets count on that.
    pub fn grow(&mut self, frames: u64) {
        if frames <= self.frames {
            return;
        }
        for (place, words) in lengths(frames).enumerate() {
            match self.levels.get_mut(place) {
                Some(level) => {
                    level.reserve_exact(words - level.len());
                    level.resize(words, 0);
                }
                None => {
                    // The level below had one word before.
                    let holds = self.levels[place - 1][0] != 0;
                    self.levels.push(vec![0; words]);
                    self.levels[place][0] = holds.into();
                }
            }
        }
        self.frames = frames;
    }

    /// Whether `gfn` is in the set. Frames beyond the bound never are.
    pub fn contains(&self, gfn: Gfn) -> bool {
        self.words().get((gfn.0 / 64) as usize).is_some_and(|word| word >> (gfn.0 % 64) & 1 == 1)
    }

    /// Adds `gfn`; whether that changed the set. A frame beyond the bound is not added.
    pub fn insert(&mut self, gfn: Gfn) -> bool {
        let new = gfn.0 < self.frames && !self.contains(gfn);
        if new {
            self.mark(0, gfn.0, true);
        }
        new
    }

    /// Takes `gfn` out; whether that changed the set.
    pub fn remove(&mut self, gfn: Gfn) -> bool {
        let was = self.contains(gfn);
        if was {
            self.mark(0, gfn.0, false);
        }
        was
    }

    /// How many frames are in the set.
    pub fn count(&self) -> u64 {
        self.blocks().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no frame is in the set.
    pub fn is_empty(&self) -> bool {
        self.levels.last().is_none_or(|top| top.iter().all(|word| *word == 0))
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        let mut next = Gfn(0);
        while let Some((start, end)) = self.block_from(next) {
            self.levels[0][start..end].fill(0);
            next = self.refresh_block(start);
        }
    }

    /// Becomes the same set as `other`, in the memory that it already has.
    pub fn copy_from(&mut self, other: &Self) {
        self.levels.clone_from(&other.levels);
        self.frames = other.frames;
    }

    /// Adds what is in `other`, within the bound.
    pub fn union_with(&mut self, other: &Self) {
        let mut next = Gfn(0);
        while let Some((start, _)) = other.block_from(next)
            && start < self.words().len()
        {
            next = self.combine(start, other, |mine, theirs| mine | theirs);
        }
        self.trim();
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        let mut next = Gfn(0);
        while let Some((start, _)) = self.block_from(next) {
            next = self.combine(start, other, |mine, theirs| mine & !theirs);
        }
    }

    /// Keeps only what is in `other` as well.
    pub fn intersect_with(&mut self, other: &Self) {
        let mut next = Gfn(0);
        while let Some((start, _)) = self.block_from(next) {
            next = self.combine(start, other, |mine, theirs| mine & theirs);
        }
    }

    /// Whether this is what is in `one` or in `other`.
    pub fn is_union_of(&self, one: &Self, other: &Self) -> bool {
        let sets = [self, one, other].map(Self::words);
        let most = sets.map(<[u64]>::len).into_iter().max().unwrap_or_default();
        (0..most).all(|at| {
            let [all, one, other] = sets.map(|words| words.get(at).copied().unwrap_or_default());
            all == one | other
        })
    }

    /// The first frame at or after `from` that is in the set and not in `other`.
    pub fn next_outside(&self, other: &Self, from: Gfn) -> Option<Gfn> {
        let mut next = from;
        while let Some(gfn) = self.next_from(next) {
            let at = (gfn.0 / 64) as usize;
            let theirs = other.words().get(at).copied().unwrap_or_default();
            let rest = self.words()[at] & !theirs & (!0 << (gfn.0 % 64));
            next = Gfn((at as u64 + 1) * 64);
            if rest != 0 {
                return Some(Gfn(next.0 - 64 + u64::from(rest.trailing_zeros())));
            }
        }
        None
    }

    /// The bits as words: bit `g % 64` of word `g / 64` is frame `g`.
    pub fn words(&self) -> &[u64] {
        &self.levels[0]
    }

    /// Lets `fill` set and clear bits; bits beyond the bound are dropped afterwards.
    pub fn update<T>(&mut self, fill: impl FnOnce(&mut [u64]) -> T) -> T {
        self.update_part(self.bound(), fill)
    }

    /// The same for who changes nothing outside `span`.
    pub fn update_part<T>(&mut self, span: Span, fill: impl FnOnce(&mut [u64]) -> T) -> T {
        let result = fill(&mut self.levels[0]);
        self.trim();
        self.refresh(span);
        result
    }

    /// The first frame of the set at or after `from`.
    pub fn next_from(&self, from: Gfn) -> Option<Gfn> {
        // Up to the first level with a bit to the right in the same word, and down again.
        let (mut level, mut index) = (0, from.0);
        loop {
            let word = self.levels.get(level)?.get((index / 64) as usize)? & (!0 << (index % 64));
            if word != 0 {
                index = index / 64 * 64 + u64::from(word.trailing_zeros());
                break;
            }
            (level, index) = (level + 1, index / 64 + 1);
        }
        for words in self.levels[..level].iter().rev() {
            index = index * 64 + u64::from(words[index as usize].trailing_zeros());
        }
        Some(Gfn(index))
    }

    /// Every frame of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Gfn> + '_ {
        self.range(self.bound())
    }

    /// Every frame of the set in `span`, ascending.
    pub fn range(&self, span: Span) -> impl Iterator<Item = Gfn> + '_ {
        let (mut next, end) = (span.first, span.end());
        iter::from_fn(move || {
            let found = self.next_from(next).filter(|gfn| *gfn < end)?;
            next = Gfn(found.0 + 1);
            Some(found)
        })
    }

    /// The first frames of the set in `rest`, ascending and [`BATCH`] at most, which are taken from it; nothing if there are none.
    pub fn next_batch<B: FromIterator<Gfn>>(&self, rest: &mut Span) -> Option<B> {
        let (mut next, end) = (rest.first, rest.end());
        let batch = self.range(*rest).take(BATCH).inspect(|gfn| next = Gfn(gfn.0 + 1)).collect();
        let any = next != rest.first;
        *rest = Span::between(next, end);
        any.then_some(batch)
    }

    /// The first of the set's chunks of `size` frames that reaches `from` or lies behind it and holds anything.
    pub fn next_chunk(&self, from: Gfn, size: u64) -> Option<Span> {
        let first = Gfn(self.next_from(from)?.0 / size * size);
        Some(Span { first, count: size.min(self.frames - first.0) })
    }

    /// The set in `span` as runs of neighbours, ascending.
    pub fn runs(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        let (mut next, end) = (span.first, span.end().0.min(self.frames));
        iter::from_fn(move || {
            let start = self.next_from(next).filter(|gfn| gfn.0 < end)?;
            let mut stop = start.0 + 1;
            while stop < end && self.contains(Gfn(stop)) {
                let whole = stop.is_multiple_of(64) && self.words()[(stop / 64) as usize] == u64::MAX;
                stop = if whole { (stop + 64).min(end) } else { stop + 1 };
            }
            next = Gfn(stop);
            Some(Span::between(start, next))
        })
    }

    /// Sets or clears a bit of a level, and above it whatever follows from that.
    fn mark(&mut self, level: usize, mut index: u64, mut holds: bool) {
        for words in &mut self.levels[level..] {
            let (word, bit) = (&mut words[(index / 64) as usize], 1 << (index % 64));
            let held = *word != 0;
            *word = if holds { *word | bit } else { *word & !bit };
            holds = *word != 0;
            if held == holds {
                return;
            }
            index /= 64;
        }
    }

    /// The words of the first block at or after `from` that holds anything: where they begin and end.
    fn block_from(&self, from: Gfn) -> Option<(usize, usize)> {
        let start = (self.next_from(from)?.0 / BLOCK * 64) as usize;
        Some((start, (start + 64).min(self.words().len())))
    }

    /// The words of each block that holds anything.
    fn blocks(&self) -> impl Iterator<Item = &[u64]> {
        let mut next = Gfn(0);
        iter::from_fn(move || {
            let (start, end) = self.block_from(next)?;
            next = Gfn(end as u64 * 64);
            Some(&self.words()[start..end])
        })
    }

    /// Combines the block that begins with this word with the same of `other`; where the next begins.
    fn combine(&mut self, start: usize, other: &Self, with: impl Fn(u64, u64) -> u64) -> Gfn {
        let end = (start + 64).min(self.words().len());
        let mine = &mut self.levels[0][start..end];
        let theirs = other.words().get(start..).unwrap_or_default();
        let (shared, rest) = mine.split_at_mut(theirs.len().min(mine.len()));
        shared.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = with(*mine, *theirs));
        rest.iter_mut().for_each(|mine| *mine = with(*mine, 0));
        self.refresh_block(start)
    }

    /// Brings the levels above up to date after words of `span` were changed.
    fn refresh(&mut self, span: Span) {
        let end = span.end().0.min(self.frames);
        let mut next = Gfn(span.first.0 / BLOCK * BLOCK);
        while next.0 < end {
            next = self.refresh_block((next.0 / 64) as usize);
        }
    }

    /// The same for the block that begins with this word; where the next begins.
    fn refresh_block(&mut self, start: usize) -> Gfn {
        let words = &self.levels[0][start..];
        let holds = words.iter().take(64).rev().fold(0, |bits, word| bits << 1 | u64::from(*word != 0));
        if let Some(above) = self.levels.get_mut(1) {
            above[start / 64] = holds;
            self.mark(2, start as u64 / 64, holds != 0);
        }
        Gfn(start as u64 * 64 + BLOCK)
    }

    fn trim(&mut self) {
        let spare = self.frames % 64;
        if spare != 0
            && let Some(last) = self.levels[0].last_mut()
            && *last >> spare != 0
        {
            *last &= (1 << spare) - 1;
            let block = self.levels[0].len().div_ceil(64) - 1;
            self.refresh_block(block * 64);
        }
    }
}

impl Extend<Gfn> for PageSet {
    fn extend<I: IntoIterator<Item = Gfn>>(&mut self, gfns: I) {
        for gfn in gfns {
            self.insert(gfn);
        }
    }
}

#[cfg(test)]
mod tests;
