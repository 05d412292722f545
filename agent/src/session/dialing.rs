//! The target's agent calls the source's.

use core::convert::Infallible;

use common::control::SessionToken;

use crate::error::{LinkError, Refusal, SessionError};
use crate::host::Host;
use crate::host::peers::Callee;
use crate::limits::{PEER_WAIT, POSTPONE_EVERY, REDIAL_AFTER};
use crate::messages::SharedOutlet;
use crate::net::{Buffers, Connection, SPARE};
use crate::platform::Platform;
use crate::secure::handshake::{self, Entropy};
use crate::secure::{Link, Preamble, Security, SessionName};
use crate::target::{BULK_BUFFERS, CONTROL_BUFFERS};
use crate::wire::{ConnectionRole, Hello, Message, Purpose};

/// A call that only says that another will come.
const SHORT: Buffers = Buffers { receive: 1 << 10, send: 1 << 10 };
/// How often to call when calls are turned away: the other agent drops callers that it has no room for.
const TURNS: usize = 5;

/// Opens both connections of a session, control and bulk, and says who calls. Tries again for a while.
pub(crate) async fn dial<P: Platform>(
    host: &Host<P>,
    callee: Callee,
    session: SessionToken,
    purpose: Purpose,
) -> Result<[Link; 2], SessionError> {
    let deadline = host.timer.now() + PEER_WAIT;
    let mut turns = TURNS;
    loop {
        let left = deadline - host.timer.now();
        let no_answer = Err(LinkError::NoAnswer(callee.address).into());
        let error = match host.timer.within(left, both(host, callee, session, purpose)).await.unwrap_or(no_answer) {
            Ok(links) => {
                links.iter().for_each(|link| link.connection().linger());
                return Ok(links);
            }
            Err(error) => error,
        };
        turns -= usize::from(error == SessionError::Link(LinkError::TurnedAway));
        let again =
            matches!(error, SessionError::Link(link) if !matches!(link, LinkError::Unproven | LinkError::Version(_)));
        if !again || turns == 0 || deadline <= host.timer.now() + REDIAL_AFTER {
            return Err(error);
        }
        host.timer.sleep(REDIAL_AFTER).await;
    }
}

/// The same, tried once. Until the source has answered, nothing of what it says counts as heard.
pub(super) async fn both<P: Platform>(
    host: &Host<P>,
    callee: Callee,
    session: SessionToken,
    purpose: Purpose,
) -> Result<[Link; 2], SessionError> {
    let control = one(host, callee, ConnectionRole::Control, session, CONTROL_BUFFERS).await?;
    introduce(&control, ConnectionRole::Control, session, purpose, [0; 32]).await?;
    let window = host.net.borrow().window(control.connection().round_trip());
    let buffers = Buffers { receive: window + SPARE, ..BULK_BUFFERS };
    let bulk = one(host, callee, ConnectionRole::Bulk, session, buffers).await?;
    introduce(&bulk, ConnectionRole::Bulk, session, purpose, control.binding()).await?;
    Ok([control, bulk])
}

/// Lets the source know now and then that its call will come, but not yet. Never ends.
pub(super) async fn postpone<P: Platform>(host: &Host<P>, callee: Callee, session: SessionToken) -> Infallible {
    loop {
        host.timer.sleep(POSTPONE_EVERY).await;
        let said = async {
            let link = one(host, callee, ConnectionRole::Control, session, SHORT).await?;
            introduce(&link, ConnectionRole::Control, session, Purpose::Postpone, [0; 32]).await?;
            link.connection().linger();
            Ok::<_, SessionError>(())
        };
        // One that does not come through is said again. Why it did not is found when the turn has come.
        let _ = host.timer.within(POSTPONE_EVERY, said).await;
    }
}

/// Opens one connection, and is sure of who is at its other end.
async fn one<P: Platform>(
    host: &Host<P>,
    callee: Callee,
    role: ConnectionRole,
    session: SessionToken,
    buffers: Buffers,
) -> Result<Link, SessionError> {
    let security = &host.config.security;
    if let (Security::Sealed(identity), Some(key)) = (security, callee.key)
        && !identity.trusts(&key)
    {
        return Err(SessionError::Refused(Refusal::UnknownPeer));
    }
    let connection = Connection::connect(&host.net, &host.timer, callee.address, buffers).await?;
    let preamble = Preamble { protection: security.protection(), role, session: SessionName::of(session) };
    connection.write_all(&preamble.emit()).await?;
    // Said even if the other agent cannot take it: so it knows why nobody comes.
    let refuse = |connection: Connection, refusal| {
        connection.linger();
        Err(SessionError::Refused(refusal))
    };
    match (security, callee.key) {
        (Security::Plain, None) => Ok(Link::plain(connection)),
        (Security::Plain, Some(_)) => refuse(connection, Refusal::PeerIsSealed),
        (Security::Sealed(_), None) => refuse(connection, Refusal::PeerIsPlain),
        (Security::Sealed(identity), Some(key)) => {
            let mut entropy = Entropy::default();
            host.platform.borrow_mut().random(&mut *entropy);
            handshake::call(connection, identity, key, preamble, entropy).await
        }
    }
}

async fn introduce(
    link: &Link,
    role: ConnectionRole,
    session: SessionToken,
    purpose: Purpose,
    binding: [u8; 32],
) -> Result<(), SessionError> {
    let window = link.connection().window() as u32;
    let hello = Hello { role, purpose, session, binding, window };
    SharedOutlet::new(link.clone()).send(Message::Hello(hello)).await?;
    // The other agent listens to a caller for a while only: whom it has not heard by then must call again.
    Ok(link.connection().arrived().await?)
}
