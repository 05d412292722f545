//! Tail loss probes: small messages that make TCP notice when the last data it sent was lost.
//!
//! TCP notices a lost packet at once by what arrives behind it. Behind the last one nothing does: then only smoltcp's
//! timer helps, after a second at the earliest, and in the switch a whole guest waits for it. So an end that is not
//! acknowledged in time is followed by a few small messages that say nothing. If it was lost, the acknowledgements of
//! these make TCP send it again; if it was not, they cost next to nothing. In the middle of a message nothing can follow: there TCP
//! is made to send the first packet again that is not acknowledged.

use core::convert::Infallible;
use core::time::Duration;

use embassy_futures::select::{Either3, select3};

use crate::limits::{FIRST_RTT, LONGEST_ACK, RTT_SLACK, TOO_LARGE_EVERY};
use crate::messages::SharedOutlet;
use crate::secure::Link;
use crate::tasks::Timer;
use crate::wire::Message;

/// Three acknowledgements that repeat the last one are a proof to TCP that something was lost. The first after it may not
/// count, because it tells of new room as well.
const NUDGES: usize = 4;
/// How often to nudge before it is left to TCP's timer, ever more seldom.
const ROUNDS: u32 = 6;
/// So many of the largest packets, acknowledged at once, are a proof that these arrive: small ones hardly come to so much.
const PROOF: u64 = 4;

/// Does `work`, and minds meanwhile the end of what is sent on both links of a session.
pub(crate) async fn minding<T>(links: [Link; 2], timer: Timer, work: impl Future<Output = T>) -> T {
    let [one, other] = links;
    match select3(work, mind(&one, &timer), mind(&other, &timer)).await {
        Either3::First(done) => done,
        Either3::Second(never) | Either3::Third(never) => match never {},
    }
}

/// Never ends.
async fn mind(link: &Link, timer: &Timer) -> Infallible {
    let connection = link.connection();
    let outlet = SharedOutlet::new(link.clone());
    let mut usual: Option<Duration> = None;
    // The largest packets that have arrived. Where they are too slow later, the link or the peer is, not their size.
    let mut proven = 0;
    loop {
        timer.wait_for(|| (connection.backlog() > 0).then_some(())).await;
        let (end, since) = (connection.sent(), timer.now());
        let (mut seen, mut round, mut nudged) = (connection.delivered(), 0, false);
        let mut stuck = None;
        while connection.backlog() > 0 && connection.delivered() < end {
            let pause = if round < ROUNDS {
                (usual.unwrap_or(FIRST_RTT) * 2 + RTT_SLACK) * (1 << round)
            } else {
                TOO_LARGE_EVERY
            };
            let progress = timer.wait_for(|| (connection.delivered() > seen).then_some(()));
            if timer.within(pause, progress).await.is_some() {
                let acknowledged = connection.delivered() - seen;
                (seen, round, stuck) = (seen + acknowledged, 0, None);
                connection.passed(acknowledged);
                if acknowledged >= PROOF * connection.largest() {
                    proven = connection.largest();
                }
                // TCP sends one packet again for each proof. If that was not all, the next is lost as well.
                nudged &= acknowledged <= connection.largest();
                if !nudged {
                    continue;
                }
            } else if connection.largest() > proven {
                // A peer that has a guest to build may answer nothing for a while, too.
                match stuck {
                    None => stuck = Some((connection.mark(), timer.now())),
                    Some((mark, since)) if timer.now() >= since + TOO_LARGE_EVERY && connection.doubt(mark) => {
                        (stuck, round) = (Some((connection.mark(), timer.now())), 0);
                    }
                    Some(_) => {}
                }
            }
            if round == ROUNDS {
                continue;
            }
            if !link.is_between_messages() {
                connection.prompt();
            }
            for _ in 0..NUDGES {
                // Each is to be a packet of its own.
                if link.is_between_messages() && outlet.send(Message::Nudge).await.is_err() {
                    return core::future::pending().await;
                }
                timer.yield_now().await;
            }
            (round, nudged) = (round + 1, true);
        }
        if round == 0 {
            let took = (timer.now() - since).min(LONGEST_ACK);
            usual = Some(usual.map_or(took, |usual| (usual + took) / 2));
        }
    }
}
