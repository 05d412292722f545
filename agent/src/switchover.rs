//! Stage 2: the guest stops here and is made ready there.
//!
//! The source looks at the holes again, since a guest may balloon, and asks the toolstack to suspend the guest; hints go on
//! meanwhile. Then it takes the last of the dirty log and the machine state, and sends which pages
//! are stale, the pages that must be there before the guest runs, and the state. The target arms what is stale, loads
//! the state and says ready. Only what is needed happens between the suspend and `Ready`: that is the downtime.

use alloc::vec::Vec;

use common::control::{Mode, State};
use common::{BATCH, Gfn, PAGE_SIZE, PageSet};

use crate::dirty_copy;
use crate::error::{LinkError, PeerFault, Refusal, SessionError, Wait};
use crate::full_copy::Copied;
use crate::ledger::Stage;
use crate::limits::{AHEAD, BULK_WAIT, READY_WAIT, SUSPEND_POLL, SUSPEND_WAIT};
use crate::platform::{DirtyLog, LoadMachine, Pager, SaveMachine, SourceMemory, TargetMemory};
use crate::source::{Batch, Departure, Phase, verify};
use crate::target::Arrival;
use crate::tasks::{Instant, ms};
use crate::wire::{Cause, Demanded, Message, Set};

/// Pages that the resuming kernel touches first, at most: some for the guest, and the area of each virtual CPU, which the
/// hypervisor touches as well.
const fn first_touched(vcpus: u32) -> usize {
    32 + 64 * vcpus as usize
}
/// Bytes of stage 1 that may still be on their way when the guest is asked to suspend.
const DRAINED: usize = 64 << 10;

/// The proof that the target could run the guest.
pub(crate) struct Prepared(());

// The source.

/// Suspends the guest and hands the target all that it needs to run it.
pub(crate) async fn leave<S: SourceMemory + DirtyLog + SaveMachine>(
    departure: &mut Departure<S>,
    _copied: Copied,
) -> Result<Prepared, SessionError> {
    let rate = departure.rate();
    drain(departure).await?;
    departure.begin(Stage::Switchover);
    // Not while the guest suspends: on a busy host it would suspend later.
    find_holes(departure).await?;
    let timer = departure.timer().clone();
    let asked = timer.now();
    // What is dirtied from here on is what the guest touches while it suspends, and first when it resumes.
    departure.take_log(S::clean)?;
    departure.check_downtime(rate)?;
    departure.inbox().enter(Phase::Suspending);
    departure.toolstack().state(State::Suspend);
    suspended(departure).await?;
    let suspended = timer.now();
    departure.summary_mut().suspend_ms = ms(suspended - asked);

    let state = capture(departure).await?;
    departure.pages_mut().settle_dirty();
    let captured = timer.now();
    departure.summary_mut().dirty_pages = departure.pages().left().count();
    departure.summary_mut().capture_ms = ms(captured - suspended);

    let urgent = choose_urgent(departure, rate)?;
    departure.tell_dirty().await?;
    verify::begin(departure)?;
    send_urgent(departure, &urgent).await?;
    departure.say_in_bulk(Message::State(&state)).await?;
    verify::tell_rest(departure, &urgent).await?;
    departure.inbox().enter(Phase::Switched);
    departure.say_in_bulk(Message::Switch).await?;
    timer.within(READY_WAIT, ready(departure)).await.ok_or(SessionError::TimedOut(Wait::Ready))??;
    confirmed(departure, asked + SUSPEND_WAIT).await?;
    departure.summary_mut().load_ms = ms(timer.now() - captured);
    Ok(Prepared(()))
}

/// Lets stage 1 arrive before the guest is asked to stop: what is still on its way then would have to be waited for.
async fn drain<S: SourceMemory + DirtyLog>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let timer = departure.timer().clone();
    let deadline = timer.now() + BULK_WAIT;
    while departure.bulk().backlog() > DRAINED {
        if timer.now() >= deadline {
            return Err(LinkError::Lost.into());
        }
        departure.peek().await?;
        let bulk = departure.bulk();
        timer.within(SUSPEND_POLL, timer.wait_for(|| (bulk.backlog() <= DRAINED).then_some(()))).await;
        bulk.check()?;
    }
    Ok(())
}

/// Waits until the guest has suspended; hints go on meanwhile. The toolstack says so a little later.
async fn suspended<S: SourceMemory + DirtyLog>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let deadline = departure.timer().now() + SUSPEND_WAIT;
    while !departure.check_running()?.suspended {
        if departure.toolstack().suspended().is_some() {
            return Err(SessionError::Refused(Refusal::NotSuspended));
        }
        if departure.timer().now() >= deadline {
            return Err(SessionError::TimedOut(Wait::Suspend));
        }
        departure.peek().await?;
        let (timer, toolstack) = (departure.timer(), departure.toolstack());
        timer.within(SUSPEND_POLL, timer.wait_for(|| toolstack.suspended())).await;
    }
    Ok(())
}

/// Waits until the toolstack, too, says that the guest has suspended: as long as it has not, it may still resume it.
async fn confirmed<S>(departure: &Departure<S>, deadline: Instant) -> Result<(), SessionError> {
    let (timer, toolstack) = (departure.timer(), departure.toolstack());
    match timer.within(deadline - timer.now(), timer.wait_for(|| toolstack.suspended())).await {
        Some(true) => Ok(()),
        Some(false) => Err(SessionError::Refused(Refusal::NotSuspended)),
        None => Err(SessionError::TimedOut(Wait::Suspend)),
    }
}

/// Takes the rest of the dirty log and the machine state. If the guest has another number of pages than its holes let expect that
/// were looked at last, or as many but not the same, they are looked at once more.
async fn capture<S: SourceMemory + SaveMachine>(departure: &mut Departure<S>) -> Result<Vec<u8>, SessionError> {
    departure.grow()?;
    let state = departure.machine_state()?;
    if !departure.is_as_found()? {
        find_holes(departure).await?;
    }
    Ok(state)
}

/// Looks at the whole guest again: frames that have become RAM are announced, and so are those that no longer are, so that the
/// target gives them back, too.
async fn find_holes<S: SourceMemory>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    departure.grow()?;
    let mut next = Gfn(0);
    while let Some(chunk) = departure.pages().next_chunk(&mut next) {
        if departure.look_again(chunk)? {
            departure.tell_ram(chunk).await?;
        }
        loop {
            let gone = departure.pages_mut().take_gone(chunk);
            if gone.is_empty() {
                break;
            }
            departure.tell_gone(&gone).await?;
        }
        departure.timer().yield_now().await;
    }
    Ok(())
}

/// Takes from the dirty set what must be at the target before the guest runs, and what is likely to be touched first, as much as
/// the link takes in a moment.
fn choose_urgent<S: SourceMemory + SaveMachine>(
    departure: &mut Departure<S>,
    rate: u64,
) -> Result<PageSet, SessionError> {
    if departure.mode() == Mode::Precopy {
        return Ok(departure.pages_mut().take_all());
    }
    let vcpus = departure.source().info()?.vcpus;
    let touched = departure.source().first_touched(first_touched(vcpus))?;
    let ahead = rate * ms(AHEAD) / 1000 / PAGE_SIZE as u64;
    Ok(departure.pages_mut().take_urgent(touched, ahead as usize))
}

async fn send_urgent<S: SourceMemory>(departure: &mut Departure<S>, urgent: &PageSet) -> Result<(), SessionError> {
    let mut rest = urgent.bound();
    while let Some::<Batch>(mut batch) = urgent.next_batch(&mut rest) {
        if !departure.send(Cause::Urgent, &mut batch).await?.is_empty() {
            return Err(SessionError::Refused(Refusal::Unreadable));
        }
        verify::tell_sent(departure, &batch).await?;
    }
    Ok(())
}

/// Waits for the target, and sends what it finds that it cannot arm.
async fn ready<S: SourceMemory>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let (inbox, timer) = (departure.inbox().clone(), departure.timer().clone());
    loop {
        timer.wait_for(|| (inbox.is_ready() || inbox.has_demands()).then_some(())).await;
        let Some(gfn) = inbox.next_demand() else { return Ok(()) };
        dirty_copy::answer(departure, gfn).await?;
    }
}

// The target.

/// Takes a message of stage 2; whether it was the last.
pub(crate) fn take<T: TargetMemory + Pager>(arrival: &Arrival<T>, message: &Message<'_>) -> Result<bool, SessionError> {
    match message {
        Message::Dirty(stale) => arm_rest(arrival, stale)?,
        Message::Pages(pages) if pages.cause() == Cause::Urgent => arrival.place(pages)?,
        Message::Gone(body) => arrival.give_back(Message::gone(body))?,
        Message::State(state) => arrival.keep_state(state),
        Message::Digests(digests) => arrival.take_digests(digests)?,
        Message::Switch => {
            arrival.check_digests()?;
            return Ok(true);
        }
        _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
    }
    Ok(false)
}

/// Arms what is stale and was not armed by a hint. What cannot be armed must be here before the guest runs.
fn arm_rest<T: TargetMemory + Pager>(arrival: &Arrival<T>, stale: &Set<'_>) -> Result<(), SessionError> {
    arrival.begin(Stage::Switchover);
    if !arrival.can_page() {
        return Err(SessionError::Peer(PeerFault::OutOfTurn));
    }
    let armed = arrival.arm(stale)?;
    arrival.summary_mut().armed_switch += armed;
    arrival.mark_stale(stale);
    Ok(())
}

/// Gets what is stale and cannot be armed.
async fn demand_stubborn<T>(arrival: &Arrival<T>) -> Result<(), SessionError> {
    // None of them comes back that has come: from the first on it is looked for the next.
    let next_stubborn = |from| arrival.sets().next_stubborn(from);
    let mut next = next_stubborn(Gfn(0));
    while next.is_some() {
        let mut batch = heapless::Vec::<_, BATCH>::new();
        while let Some(gfn) = next
            && batch.push(Demanded { gfn, first: false }).is_ok()
        {
            next = next_stubborn(Gfn(gfn.0 + 1));
        }
        arrival.demand(&batch).await?;
    }
    let mut first = Gfn(0);
    let all_here = || match next_stubborn(first) {
        Some(gfn) => {
            first = gfn;
            None
        }
        None => Some(()),
    };
    let here = arrival.timer().within(READY_WAIT, arrival.timer().wait_for(all_here)).await;
    here.ok_or(SessionError::TimedOut(Wait::Ready))
}

/// Gets what cannot be armed, loads the state and says ready.
pub(crate) async fn prepare<T: LoadMachine>(arrival: &Arrival<T>) -> Result<(), SessionError> {
    arrival.begin(Stage::Switchover);
    demand_stubborn(arrival).await?;
    arrival.check_nothing_left_out()?;
    arrival.load_state()?;
    arrival.enter_doubt().await;
    arrival.say(Message::Ready).await
}
