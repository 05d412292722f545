//! The messages between two agents, and their bodies as bytes.

use alloc::vec::Vec;

use common::control::SessionToken;
use common::{BATCH, Features, Gfn};

use super::cursor::Cursor;
use super::{Arriving, Digests, Kind, Set};
use crate::error::WireError;

/// Bits of [`Kind::Built`].
const PAGING: u32 = 1;
const LABELS: u32 = 2;

/// What a connection is for. A session has one of each, both opened by the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRole {
    /// Handshake, commit, demands and their answers.
    Control = 0,
    /// Everything that comes in bulk.
    Bulk = 1,
}

impl ConnectionRole {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Control, Self::Bulk].into_iter().find(|role| *role as u8 == number)
    }
}

/// Why the target calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The session begins.
    Begin = 0,
    /// The agents have lost each other after the commit and go on.
    Recover = 1,
    /// It will begin later, when it is its turn at the target. Nothing else is said on this connection.
    Postpone = 2,
}

/// The first message on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub role: ConnectionRole,
    /// Why the target calls.
    pub purpose: Purpose,
    /// Which session.
    pub session: SessionToken,
    /// In bulk, what the handshake of the control connection came to; zeros on the control connection.
    pub binding: [u8; 32],
    /// Bytes that the source may have on their way on this connection.
    pub window: u32,
}

impl Hello {
    fn parse(cursor: &mut Cursor<'_>) -> Result<Self, WireError> {
        let role = ConnectionRole::from_number(cursor.u8()?).ok_or(WireError::Value("connection role"))?;
        let purpose = match cursor.u8()? {
            0 => Purpose::Begin,
            1 => Purpose::Recover,
            2 => Purpose::Postpone,
            _ => return Err(WireError::Value("purpose")),
        };
        if cursor.u16()? != 0 {
            return Err(WireError::Reserved);
        }
        let (session, binding) = (SessionToken(cursor.array()?), cursor.array()?);
        Ok(Self { role, purpose, session, binding, window: cursor.u32()? })
    }
}

/// The answer to [`Hello`] on the control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// Pages of RAM.
    pub pages: u64,
    /// One more than the highest guest frame number.
    pub frames: u64,
    /// The guest's UUID, which must be that of the domain at the target.
    pub uuid: [u8; 16],
    /// Every page is told as a digest at the switch, and compared.
    pub verify: bool,
    /// What [`SaveMachine::config`](crate::platform::SaveMachine::config) gave.
    pub config: &'a [u8],
}

/// A message, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// See [`Kind::Hello`].
    Hello(Hello),
    /// See [`Kind::Welcome`].
    Welcome(Welcome<'a>),
    /// See [`Kind::Built`]; what the target can do for this guest.
    Built(Features),
    /// See [`Kind::Ram`].
    Ram(Set<'a>),
    /// See [`Kind::Pages`].
    Pages(Arriving<'a>),
    /// See [`Kind::Hints`].
    Hints(Set<'a>),
    /// See [`Kind::Dirty`].
    Dirty(Set<'a>),
    /// See [`Kind::State`].
    State(&'a [u8]),
    /// See [`Kind::Switch`].
    Switch,
    /// See [`Kind::Ready`].
    Ready,
    /// See [`Kind::Commit`].
    Commit,
    /// See [`Kind::Demand`] and [`Demanded`]: 8 bytes each, at least one.
    Demand(&'a [u8]),
    /// See [`Kind::Complete`].
    Complete,
    /// See [`Kind::Abort`].
    Abort(&'a str),
    /// See [`Kind::Missing`].
    Missing(Set<'a>),
    /// See [`Kind::Revoked`].
    Revoked,
    /// See [`Kind::Digests`].
    Digests(Digests<'a>),
    /// See [`Kind::Nudge`].
    Nudge,
    /// See [`Kind::Gone`]: frame numbers, 8 bytes each, at least one.
    Gone(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Checks a body that a peer sent.
    pub fn parse(kind: Kind, body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let message = match kind {
            Kind::Hello => Self::Hello(Hello::parse(&mut cursor)?),
            Kind::Welcome => {
                return Ok(Self::Welcome(Welcome {
                    pages: cursor.u64()?,
                    frames: cursor.u64()?,
                    uuid: cursor.array()?,
                    verify: flag(cursor.u8()?.into(), "flag")?,
                    config: cursor.rest(),
                }));
            }
            Kind::Built => match cursor.u32()? {
                bits if bits & !(PAGING | LABELS) == 0 => {
                    Self::Built(Features { paging: bits & PAGING != 0, labels: bits & LABELS != 0 })
                }
                _ => return Err(WireError::Value("features")),
            },
            Kind::Ram => return Set::parse(body).map(Self::Ram),
            Kind::Hints => return Set::parse(body).map(Self::Hints),
            Kind::Dirty => return Set::parse(body).map(Self::Dirty),
            Kind::Missing => return Set::parse(body).map(Self::Missing),
            Kind::Pages => return Arriving::parse(body).map(Self::Pages),
            Kind::Digests => return Digests::parse(body).map(Self::Digests),
            Kind::State => return Ok(Self::State(body)),
            Kind::Switch => Self::Switch,
            Kind::Ready => Self::Ready,
            Kind::Commit => Self::Commit,
            Kind::Complete => Self::Complete,
            Kind::Revoked => Self::Revoked,
            Kind::Nudge => Self::Nudge,
            Kind::Demand => return list(body).map(Self::Demand),
            Kind::Gone => return list(body).map(Self::Gone),
            Kind::Abort => {
                let reason = core::str::from_utf8(body).map_err(|_| WireError::Value("reason"))?;
                let plain = !reason.chars().any(char::is_control);
                return if plain { Ok(Self::Abort(reason)) } else { Err(WireError::Value("reason")) };
            }
        };
        cursor.end()?;
        Ok(message)
    }

    /// The kind and the body, appended to `into`. Bodies that carry sets, pages and digests are made by [`Set::emit`],
    /// [`Pages::emit`](super::Pages::emit) and [`Digests::emit`] instead and are empty here.
    pub fn emit(&self, into: &mut Vec<u8>) -> Kind {
        match self {
            Self::Hello(hello) => {
                into.extend_from_slice(&[hello.role as u8, hello.purpose as u8, 0, 0]);
                into.extend_from_slice(&hello.session.0);
                into.extend_from_slice(&hello.binding);
                into.extend_from_slice(&hello.window.to_le_bytes());
                Kind::Hello
            }
            Self::Welcome(welcome) => {
                into.extend_from_slice(&welcome.pages.to_le_bytes());
                into.extend_from_slice(&welcome.frames.to_le_bytes());
                into.extend_from_slice(&welcome.uuid);
                into.push(u8::from(welcome.verify));
                into.extend_from_slice(welcome.config);
                Kind::Welcome
            }
            Self::Built(Features { paging, labels }) => {
                let bits = [(*paging, PAGING), (*labels, LABELS)].map(|(is_there, bit)| if is_there { bit } else { 0 });
                into.extend_from_slice(&bits.iter().sum::<u32>().to_le_bytes());
                Kind::Built
            }
            Self::State(state) => {
                into.extend_from_slice(state);
                Kind::State
            }
            Self::Demand(gfns) => {
                into.extend_from_slice(gfns);
                Kind::Demand
            }
            Self::Gone(gfns) => {
                into.extend_from_slice(gfns);
                Kind::Gone
            }
            Self::Abort(reason) => {
                into.extend_from_slice(clip(reason, Kind::Abort.limit()).as_bytes());
                Kind::Abort
            }
            Self::Ram(_) => Kind::Ram,
            Self::Pages(_) => Kind::Pages,
            Self::Hints(_) => Kind::Hints,
            Self::Dirty(_) => Kind::Dirty,
            Self::Digests(_) => Kind::Digests,
            Self::Switch => Kind::Switch,
            Self::Ready => Kind::Ready,
            Self::Commit => Kind::Commit,
            Self::Complete => Kind::Complete,
            Self::Missing(_) => Kind::Missing,
            Self::Revoked => Kind::Revoked,
            Self::Nudge => Kind::Nudge,
        }
    }

    /// The frames that a [`Message::Gone`]'s body names.
    pub fn gone(body: &[u8]) -> impl Iterator<Item = Gfn> + '_ {
        body.as_chunks::<8>().0.iter().map(|bytes| Gfn(u64::from_le_bytes(*bytes)))
    }

    /// What a [`Message::Demand`]'s body asks for.
    pub fn demanded(body: &[u8]) -> impl Iterator<Item = Demanded> + '_ {
        body.as_chunks::<8>().0.iter().map(|bytes| Demanded::parse(*bytes))
    }
}

/// One page of a [`Message::Demand`]: its frame number, and in the highest bit whether it goes before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demanded {
    /// The page.
    pub gfn: Gfn,
    /// A backend waits for it, which gives up in the end, and not a virtual CPU, which does not.
    pub first: bool,
}

impl Demanded {
    const FIRST: u64 = 1 << 63;

    fn parse(bytes: [u8; 8]) -> Self {
        let number = u64::from_le_bytes(bytes);
        Self { gfn: Gfn(number & !Self::FIRST), first: number & Self::FIRST != 0 }
    }

    /// As bytes.
    pub fn emit(&self) -> [u8; 8] {
        (self.gfn.0 | if self.first { Self::FIRST } else { 0 }).to_le_bytes()
    }
}

fn flag(number: u32, what: &'static str) -> Result<bool, WireError> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Value(what)),
    }
}

/// A body of 1 to [`BATCH`] frame numbers.
fn list(body: &[u8]) -> Result<&[u8], WireError> {
    let whole = !body.is_empty() && body.len().is_multiple_of(8) && body.len() <= 8 * BATCH;
    if whole { Ok(body) } else { Err(WireError::Value("list of frames")) }
}

fn clip(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
