//! The target's end of one migration.

use alloc::rc::Rc;
use alloc::string::ToString;

use common::control::{SessionToken, Size, State};
use common::{Backends, DomId, Features, Hold, Rings, cost};
use embassy_futures::select::{Either, Either3, select, select3};

use super::dialing;
use super::epilogue;
use super::stay::{self, Contact};
use crate::datagram::End;
use crate::error::{PeerFault, Refusal, SessionError, Wait};
use crate::host::budget::{Reservation, Want};
use crate::host::note::{Note, Role};
use crate::host::peers::Callee;
use crate::host::toolstack::Toolstack;
use crate::host::{Host, cancelled, turn};
use crate::ledger::Stage;
use crate::limits::{LAST_WORD, PEER_WAIT, UNCOMMITTED, WATCH};
use crate::messages::{Inlet, SharedOutlet};
use crate::platform::{Guest as _, LoadMachine, Platform, Target};
use crate::target::sets::Sets;
use crate::target::verifier::Verifier;
use crate::target::{Arrival, BULKS, CONTROLS, Phase, abort};
use crate::wire::{Message, Purpose, Welcome};
use crate::{full_copy, switchover};

/// Serves a request to fill `domain`.
pub(crate) async fn serve<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    domain: DomId,
    callee: Callee,
    session: SessionToken,
    size: Size,
    backends: Backends,
) {
    if let Err(error) = arrive(host, toolstack, domain, callee, session, size, backends).await {
        toolstack.state(error.failed());
    }
}

/// Waits until there is memory for the session; meanwhile the source hears that it has been postponed.
async fn wait_for_turn<P: Platform>(
    host: &Host<P>,
    toolstack: &Toolstack,
    callee: Callee,
    session: SessionToken,
    size: Size,
) -> Result<Reservation, SessionError> {
    let turn = turn(host, toolstack, Want::to_arrive(size, callee.key));
    match select(turn, dialing::postpone(host, callee, session)).await {
        Either::First(memory) => memory,
        Either::Second(never) => match never {},
    }
}

/// An error here means that the guest never ran on this host and never will.
async fn arrive<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    domain: DomId,
    callee: Callee,
    session: SessionToken,
    size: Size,
    backends: Backends,
) -> Result<(), SessionError> {
    let claim = host.domains.claim(domain)?;
    host.platform.borrow().can_retain()?;
    let mut memory = wait_for_turn(host, toolstack, callee, session, size).await?;
    memory.add(cost::ARRIVAL)?;
    // It may have waited for long.
    host.platform.borrow().can_retain()?;
    let target = host.platform.borrow_mut().open_target(domain, backends)?;
    let calling = select(dialing::dial(host, callee, session, Purpose::Begin), cancelled(&host.timer, toolstack)).await;
    let Either::First(called) = calling else { return Err(SessionError::Cancelled) };
    let [control, bulk] = called?;
    control.connection().set_patience(Some(UNCOMMITTED.control));
    bulk.connection().set_patience(Some(UNCOMMITTED.bulk));
    let mut inlet = Inlet::new(control.clone(), &CONTROLS);
    let built = select(build(host, &mut inlet, target, &mut memory), cancelled(&host.timer, toolstack)).await;
    let Built { target, rings, frames, pages, uuid, verifier } = match built {
        Either::First(Ok(built)) => built,
        Either::First(Err(error)) => return Err(abort(&host.timer, &SharedOutlet::new(control), error).await),
        Either::Second(()) => {
            return Err(abort(&host.timer, &SharedOutlet::new(control), SessionError::Cancelled).await);
        }
    };
    toolstack.state(State::Built { store: rings.store, console: rings.console });

    let peer = callee.address;
    let note = Note { role: Role::Ready, domain, session, uuid, memo: 0, frames, peer, key: callee.key };
    let arrival = Arrival::new(host, toolstack, target, &note, Sets::new(frames), pages, memory);
    arrival.compare_by(verifier);
    let unheard = {
        let socket = host.datagram_port.open(session, End::Target, control.datagrams(), callee.address);
        arrival.attach([control.clone(), bulk.clone()]);
        let mut listening = stay::listen(&arrival, [control, bulk.clone()], inlet);
        let mut bulk = Inlet::new(bulk, &BULKS);
        let error = match select3(fill(host, &arrival, &note, &mut bulk), listening.as_mut(), watch(&arrival)).await {
            Either3::First(Ok(())) => None,
            // The bulk connection may have been closed for a reason that is still on its way on the other.
            Either3::First(Err(error @ SessionError::Link(_))) if arrival.phase() == Phase::Filling => {
                let told = host.timer.within(LAST_WORD, listening.as_mut()).await;
                Some(told.and_then(Result::err).filter(|told| matches!(told, SessionError::Told(_))).unwrap_or(error))
            }
            Either3::Second(Ok(())) => Some(SessionError::Peer(PeerFault::OutOfTurn)),
            Either3::First(Err(error)) | Either3::Second(Err(error)) | Either3::Third(error) => Some(error),
        };
        let contact = match error {
            None => Contact::Open { listening, bulk, socket },
            Some(error) if arrival.phase() == Phase::Filling || matches!(error, SessionError::Told(_)) => {
                arrival.close(arrival.abort(error).await.failed());
                return Ok(());
            }
            Some(error) => {
                arrival.lose(&error);
                Contact::Cut
            }
        };
        stay::stay(host, &arrival, contact).await
    };
    // The source hears of the end whatever it takes; the domain is not held for that.
    drop((arrival, claim));
    epilogue::report(host, callee, session, unheard).await;
    Ok(())
}

/// Goes on with a guest that an earlier life of this agent was filling.
pub(super) async fn adopt<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    note: &Note,
) -> Result<(), SessionError> {
    let claim = host.domains.claim(note.domain)?;
    let size = Size { frames: note.frames, digests: 0 };
    let mut memory = turn(host, toolstack, Want::to_arrive(size, note.key).again()).await?;
    memory.add(cost::arrival(&size))?;
    let hold = if note.role == Role::Running { Hold::Released } else { Hold::Held };
    let adopted = host.platform.borrow_mut().adopt_target(note.domain, note.uuid, hold, note.frames);
    let (mut target, absent) = adopted?;
    let pages = target.info()?.pages;
    let arrival = Arrival::new(host, toolstack, target, note, Sets::adopted(absent), pages, memory);
    arrival.adopt(hold);
    let unheard = stay::stay(host, &arrival, Contact::Cut).await;
    drop((arrival, claim));
    epilogue::report(host, note.callee(), note.session, unheard).await;
    Ok(())
}

/// A guest that is built, and how much is to come.
struct Built<T> {
    target: T,
    rings: Rings,
    frames: u64,
    pages: u64,
    uuid: [u8; 16],
    verifier: Option<Verifier>,
}

/// Hears what the guest is and builds it.
async fn build<P: Platform>(
    host: &Host<P>,
    inlet: &mut Inlet,
    mut target: P::Target,
    memory: &mut Reservation,
) -> Result<Built<P::Target>, SessionError> {
    let welcome = host.timer.within(PEER_WAIT, inlet.next()).await.ok_or(SessionError::TimedOut(Wait::Build))??;
    let welcome = match welcome {
        Message::Welcome(welcome) => welcome,
        Message::Abort(reason) => return Err(SessionError::Told(reason.to_string())),
        _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
    };
    if welcome.uuid != target.info()?.uuid {
        return Err(SessionError::Refused(Refusal::OtherGuest));
    }
    let Welcome { frames, pages, uuid, verify, config } = welcome;
    memory.add_sets(frames, cost::ARRIVAL_SETS)?;
    let verifier = if verify { Some(Verifier::new(frames, memory)?) } else { None };
    let rings = target.build(config)?;
    Ok(Built { target, rings, frames, pages, uuid, verifier })
}

/// The way to where the source may commit.
async fn fill<P: Platform>(
    host: &Host<P>,
    arrival: &Arrival<P::Target>,
    note: &Note,
    bulk: &mut Inlet,
) -> Result<(), SessionError> {
    let features = host.platform.borrow().features();
    arrival.say(Message::Built(Features { paging: arrival.can_page(), ..features })).await?;
    arrival.begin(Stage::FullCopy);
    loop {
        let message = bulk.next().await?;
        if !full_copy::take(arrival, &message)? && switchover::take(arrival, &message)? {
            break;
        }
        // Small messages may mean much work, and many of them are here at once.
        arrival.timer().yield_now().await;
    }
    // It may have grown on its way, and no page beyond what the note says is looked at when the guest is adopted.
    let frames = arrival.sets().frames();
    arrival.renew_notes(host, &Note { frames, ..note.clone() });
    switchover::prepare(arrival).await
}

/// Until the source may have committed: notices that the toolstack gives up, or that the domain is gone.
async fn watch<T: Target>(arrival: &Arrival<T>) -> SessionError {
    loop {
        if let Err(error) = arrival.target().info() {
            return error.into();
        }
        let gives_up = || (arrival.toolstack().cancelled() && arrival.phase() == Phase::Filling).then_some(());
        if arrival.timer().within(WATCH, arrival.timer().wait_for(gives_up)).await.is_some() {
            return SessionError::Cancelled;
        }
    }
}
