//! Notes: the record of a session that dom0 keeps, from which an agent that was restarted takes it up again.
//!
//! An agent that dies takes its sessions with it, but not the guests: the hypervisor keeps one that is retained, and one
//! whose pages are still missing. A note says which session each belongs to. dom0 keeps it, and hands it to the agent's
//! next life. It is sealed with a key that follows from the agent's own: nobody else can make one, or change it, and what
//! it says is held against the guest before anything is done.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use common::control::SessionToken;
use common::{DomId, PublicKey, hex};

use super::Host;
use super::peers::Callee;
use crate::error::{Refusal, SessionError, WireError};
use crate::platform::Platform;
use crate::secure::Security;
use crate::secure::record::{Cipher, TAG};
use crate::wire::cursor::Cursor;

/// What the sealed part starts with.
const VERSION: u8 = 1;
/// Random bytes in front, which make the key of each note another one.
const SALT: usize = 16;
/// Bytes of the sealed part.
const BODY: usize = 100;
const LEN: usize = SALT + BODY + TAG;

/// The end of a session that the note is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The source's; whether it had committed the hypervisor knows, or the memo says.
    Source = 0,
    /// The target's, when it had said that it is ready, and nothing had been heard since.
    Ready = 1,
    /// The target's, once the guest was released.
    Running = 2,
}

/// One end of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) role: Role,
    pub(crate) domain: DomId,
    pub(crate) session: SessionToken,
    pub(crate) uuid: [u8; 16],
    /// What the platform wants to be told of a guest that leaves; 0 of one that arrives.
    pub(crate) memo: u64,
    /// Frames of the guest.
    pub(crate) frames: u64,
    /// The other agent's address, at the target; the source is called.
    pub(crate) peer: SocketAddrV4,
    /// The other agent's key; nothing if connections are plain.
    pub(crate) key: Option<PublicKey>,
}

impl Note {
    /// The note as text that only this agent, and its later lives, can make and read.
    pub(crate) fn seal<P: Platform>(&self, host: &Host<P>) -> String {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.resize(SALT, 0);
        host.platform.borrow_mut().random(&mut bytes);
        self.emit(&mut bytes);
        let (salt, body) = bytes.split_at_mut(SALT);
        let tag = Cipher::new(&host.config.security.note_key(salt)).seal(0, salt, body);
        bytes.extend_from_slice(&tag);
        format!("{}", hex::Shown(&bytes))
    }

    /// The source's agent, at the target.
    pub(crate) fn callee(&self) -> Callee {
        Callee { address: self.peer, key: self.key }
    }

    /// Reads what [`Note::seal`] gave.
    pub(crate) fn open(security: &Security, text: &str) -> Result<Self, SessionError> {
        const BAD: SessionError = SessionError::Refused(Refusal::Note);
        let mut bytes: [u8; LEN] = hex::parse(text).ok_or(BAD)?;
        let (front, tag) = bytes.split_last_chunk_mut::<TAG>().ok_or(BAD)?;
        let (salt, body) = front.split_at_mut(SALT);
        Cipher::new(&security.note_key(salt)).open(0, salt, body, tag).map_err(|_| BAD)?;
        Self::parse(body).map_err(|_| BAD)
    }

    pub(crate) fn emit(&self, into: &mut Vec<u8>) {
        let address = self.peer.ip().octets();
        into.extend_from_slice(&[VERSION, self.role as u8]);
        into.extend_from_slice(&self.domain.0.to_le_bytes());
        into.extend_from_slice(&self.session.0);
        into.extend_from_slice(&self.uuid);
        into.extend_from_slice(&self.memo.to_le_bytes());
        into.extend_from_slice(&self.frames.to_le_bytes());
        into.extend_from_slice(&address);
        into.extend_from_slice(&self.peer.port().to_le_bytes());
        into.extend_from_slice(&u16::from(self.key.is_some()).to_le_bytes());
        into.extend_from_slice(&self.key.map_or([0; 32], |key| key.0));
        into.extend_from_slice(&[0; 8]);
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        const BAD: WireError = WireError::Value("note");
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != VERSION {
            return Err(BAD);
        }
        let role = match cursor.u8()? {
            0 => Role::Source,
            1 => Role::Ready,
            2 => Role::Running,
            _ => return Err(BAD),
        };
        let domain = DomId(cursor.u16()?);
        let (session, uuid) = (SessionToken(cursor.array()?), cursor.array()?);
        let (memo, frames) = (cursor.u64()?, cursor.u64()?);
        let peer = SocketAddrV4::new(Ipv4Addr::from(cursor.array::<4>()?), cursor.u16()?);
        let (sealed, key) = (cursor.u16()?, PublicKey(cursor.array()?));
        cursor.array::<8>()?;
        cursor.end()?;
        let key = (sealed != 0).then_some(key);
        Ok(Self { role, domain, session, uuid, memo, frames, peer, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_and_has_the_length_that_it_says() {
        let peer = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 11), 7077);
        for (role, key) in [(Role::Source, None), (Role::Ready, Some(PublicKey([7; 32]))), (Role::Running, None)] {
            let (session, uuid) = (SessionToken([3; 16]), [9; 16]);
            let note = Note { role, domain: DomId(12), session, uuid, memo: 1 << 60, frames: 77, peer, key };
            let mut body = Vec::new();
            note.emit(&mut body);
            assert_eq!(body.len(), BODY);
            assert_eq!(Note::parse(&body), Ok(note));
            body[1] = 3;
            assert!(Note::parse(&body).is_err());
        }
    }
}
