//! The target's end from `Ready` on: the guest is here to stay, over as many connections as it takes.
//!
//! What happens to the guest and what happens to the connections are two things. The guest waits for the commit, is
//! released, meets faults, is whole at last, or is destroyed; meanwhile the agents talk, lose each other, and meet again.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::future::Future;
use core::ops::ControlFlow;
use core::pin::{Pin, pin};

use common::control::State;
use common::{Gfn, PageSet, Span};
use embassy_futures::select::{Either, Either3, select, select3};

use super::dialing;
use super::epilogue::LastWord;
use crate::datagram::{self, DatagramSocket};
use crate::error::{PeerFault, PlatformError, Refusal, SessionError, Wait};
use crate::host::Host;
use crate::host::toolstack::retry;
use crate::ledger::Stage;
use crate::limits::{COMMITTED, CONTROL_LOST, RECALL_AFTER, WATCH, WATCH_START, XEN_RETRY};
use crate::messages::{Inlet, Outlet};
use crate::platform::{Platform, Target};
use crate::secure::Link;
use crate::target::{Arrival, BULKS, CONTROLS, Phase};
use crate::wire::{CHUNK, Cause, Kind, Message, Purpose};
use crate::{dirty_copy, tail};

/// What the source says on the control connection, until there is an error, or its last word.
pub(super) type Listening<'a> = Pin<Box<dyn Future<Output = Result<(), SessionError>> + 'a>>;

/// The connections.
pub(super) enum Contact<'a> {
    Open {
        listening: Listening<'a>,
        bulk: Inlet,
        socket: DatagramSocket,
    },
    Cut,
    /// The source has said that it has nothing more of the guest: nobody calls it again.
    Over,
}

/// How it ends.
enum Outcome {
    /// Nothing is missing, and the guest has been seen to run.
    Whole,
    /// The domain is gone.
    Destroyed(Ran),
    /// The source has not committed and never will; this is why.
    Told(String),
}

/// Whether a guest that is gone had run.
enum Ran {
    Yes,
    Never,
    Perhaps,
}

/// Keeps the guest until it is whole or gone, and lets the source know. Gives what the source could not be told.
pub(super) async fn stay<'a, P: Platform>(
    host: &Host<P>,
    arrival: &'a Arrival<P::Target>,
    mut contact: Contact<'a>,
) -> Option<LastWord> {
    let end = {
        let mut life = pin!(live(arrival));
        loop {
            let error = match &mut contact {
                Contact::Open { listening, bulk, socket } => {
                    let others = select(dirty_copy::take_pushed(arrival, bulk), dirty_copy::ask(arrival, socket));
                    match select3(life.as_mut(), listening.as_mut(), others).await {
                        Either3::First(end) => break end,
                        Either3::Second(Ok(())) => SessionError::Peer(PeerFault::OutOfTurn),
                        Either3::Second(Err(error)) => error,
                        Either3::Third(Either::First(error) | Either::Second(error)) => error,
                    }
                }
                Contact::Cut => match select(life.as_mut(), call_again(host, arrival)).await {
                    Either::First(end) => break end,
                    Either::Second(Ok(open)) => {
                        contact = open;
                        continue;
                    }
                    Either::Second(Err(error)) => error,
                },
                Contact::Over => break life.await,
            };
            contact = match error {
                SessionError::Told(reason) if arrival.phase() == Phase::InDoubt => break Outcome::Told(reason),
                SessionError::Told(_) => Contact::Over,
                _ => Contact::Cut,
            };
            arrival.lose(&error);
        }
    };
    let (word, state) = match end {
        Outcome::Whole | Outcome::Destroyed(Ran::Yes) => (Some(LastWord::Complete), State::Complete),
        Outcome::Destroyed(Ran::Never) => (Some(LastWord::Revoked), SessionError::Refused(Refusal::Gone).failed()),
        Outcome::Destroyed(Ran::Perhaps) => (None, SessionError::Refused(Refusal::Unknown).failed()),
        Outcome::Told(reason) => (None, SessionError::Told(reason).failed()),
    };
    arrival.end();
    let heard = match (word, contact) {
        (None, _) | (_, Contact::Over) => true,
        (Some(_), Contact::Cut) => false,
        (Some(word), Contact::Open { listening, .. }) => {
            let told = async {
                arrival.say(word.message()).await?;
                listening.await
            };
            host.timer.within(CONTROL_LOST, told).await == Some(Ok(()))
        }
    };
    arrival.close(state);
    if heard { None } else { word }
}

/// What becomes of the guest.
async fn live<T: Target>(arrival: &Arrival<T>) -> Outcome {
    match select(run(arrival), watch(arrival)).await {
        Either::First(()) => Outcome::Whole,
        Either::Second(ran) => Outcome::Destroyed(ran),
    }
}

/// From the commit until nothing is missing.
async fn run<T: Target>(arrival: &Arrival<T>) {
    let timer = arrival.timer();
    if matches!(arrival.phase(), Phase::InDoubt | Phase::Committed) {
        timer.wait_for(|| (arrival.phase() == Phase::Committed).then_some(())).await;
        insist(arrival, T::let_run).await;
        arrival.release();
    }
    arrival.begin(Stage::DirtyCopy);
    // Until the guest has been seen to run, the toolstack may still fail, and what the source has is kept.
    let whole = timer.wait_for(|| (arrival.sets().missing() == 0 && arrival.has_run()).then_some(()));
    match select(whole, dirty_copy::watch_faults(arrival)).await {
        Either::First(()) => insist(arrival, T::finish).await,
        Either::Second(never) => match never {},
    }
}

/// Asks the hypervisor for something after the commit, when nobody is helped by giving up, until it is done.
async fn insist<T: Target>(arrival: &Arrival<T>, work: fn(&mut T) -> crate::platform::Result<()>) {
    let once = || match work(&mut arrival.target()) {
        Ok(()) => ControlFlow::Break(()),
        Err(error) => ControlFlow::Continue(error),
    };
    retry(arrival.timer(), &arrival.toolstack().id, XEN_RETRY, once).await;
}

/// Notices that the guest begins to run. Ends when the domain is gone.
async fn watch<T: Target>(arrival: &Arrival<T>) -> Ran {
    loop {
        let info = arrival.target().info();
        // Whatever a note says, and whoever held the domain by a pause count.
        let ran = arrival.target().has_run();
        if info == Err(PlatformError::Gone) {
            return match ran {
                Ok(false) => Ran::Never,
                Ok(true) => Ran::Yes,
                Err(_) if arrival.has_run() => Ran::Yes,
                Err(_) => Ran::Perhaps,
            };
        }
        if ran == Ok(true) {
            arrival.see_run();
        }
        arrival.timer().sleep(if arrival.has_run() { WATCH } else { WATCH_START }).await;
    }
}

/// Hears what the source says on the control connection, and minds what is said to it.
pub(super) fn listen<T: Target>(arrival: &Arrival<T>, links: [Link; 2], inlet: Inlet) -> Listening<'_> {
    Box::pin(tail::minding(links, arrival.timer().clone(), hear(arrival, inlet)))
}

/// Takes in what the source says on the control connection.
async fn hear<T: Target>(arrival: &Arrival<T>, mut inlet: Inlet) -> Result<(), SessionError> {
    loop {
        let message = inlet.next().await?;
        match (arrival.phase(), message) {
            (Phase::Over, Message::Complete | Message::Abort(_)) => return Ok(()),
            // It was on its way.
            (Phase::Over, Message::Pages(_) | Message::Digests(_) | Message::Commit) => {}
            (_, Message::Pages(pages)) if pages.cause() != Cause::Push => {
                arrival.place_for_good(&pages).await?;
                arrival.faults().tcp_came();
                arrival.report(3);
            }
            (_, Message::Digests(digests)) => arrival.take_digests(&digests)?,
            (Phase::InDoubt, Message::Commit) => arrival.hear_commit(),
            (_, Message::Abort(reason)) => return Err(SessionError::Told(reason.to_string())),
            _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
        }
        arrival.timer().nudge();
    }
}

/// Calls the source again, and says what is missing.
async fn call_again<'a, P: Platform>(
    host: &Host<P>,
    arrival: &'a Arrival<P::Target>,
) -> Result<Contact<'a>, SessionError> {
    let timed_out = || SessionError::TimedOut(Wait::Call);
    host.timer.sleep(RECALL_AFTER).await;
    let called = dialing::both(host, arrival.callee(), arrival.session(), Purpose::Recover);
    let [control, bulk] = host.timer.within(CONTROL_LOST, called).await.ok_or_else(timed_out)??;
    control.connection().set_patience(Some(COMMITTED.control));
    bulk.connection().set_patience(Some(COMMITTED.bulk));
    let mut inlet = Inlet::new(control.clone(), &CONTROLS);
    host.timer.within(CONTROL_LOST, hear_again(arrival, &mut inlet)).await.ok_or_else(timed_out)??;
    let links = [control.clone(), bulk.clone()];
    links.iter().for_each(|link| link.connection().linger());
    let said = say_missing(arrival, Outlet::new(control.clone()));
    tail::minding(links, arrival.timer().clone(), said).await?;
    arrival.attach([control.clone(), bulk.clone()]);
    arrival.faults().forget_demands();
    let socket = host.datagram_port.open(
        arrival.session(),
        datagram::End::Target,
        control.datagrams(),
        arrival.callee().address,
    );
    let listening = listen(arrival, [control, bulk.clone()], inlet);
    Ok(Contact::Open { listening, bulk: Inlet::new(bulk, &BULKS), socket })
}

/// The source answers a call like this only once it has committed, or to say that it never will.
async fn hear_again<T: Target>(arrival: &Arrival<T>, inlet: &mut Inlet) -> Result<(), SessionError> {
    match inlet.next().await? {
        Message::Welcome(welcome) if welcome.uuid != arrival.uuid() => {
            return Err(SessionError::Refused(Refusal::OtherGuest));
        }
        Message::Welcome(_) => {}
        Message::Abort(reason) => return Err(SessionError::Told(reason.to_string())),
        _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
    }
    match inlet.next().await? {
        Message::Commit => {}
        _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
    }
    arrival.hear_commit();
    Ok(())
}

async fn say_missing<T: Target>(arrival: &Arrival<T>, mut control: Outlet) -> Result<(), SessionError> {
    // What the guest gives back meanwhile is sent for nothing, and left alone when it comes.
    let mut next = Gfn(0);
    loop {
        let sending = {
            let sets = arrival.sets();
            let absent = sets.absent();
            let Some(chunk) = absent.next_chunk(next, CHUNK) else { break };
            next = chunk.end();
            control.send_set(Kind::Missing, absent, chunk)
        };
        sending.await?;
    }
    control.send_set(Kind::Missing, &PageSet::default(), Span { first: Gfn(0), count: 1 }).await
}
