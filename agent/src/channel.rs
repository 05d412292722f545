//! Messages over a connection.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::bitmap::PageSet;
use crate::net::Connection;
use crate::platform::{Gfn, Page, PageMask};
use crate::session::SessionError;
use crate::wire::{Cause, Header, Kind, Message, Pages, Set};

/// The receiving half of a channel.
pub(crate) struct Inlet {
    connection: Rc<Connection>,
    body: Vec<u8>,
}

impl Inlet {
    pub(crate) fn new(connection: Rc<Connection>) -> Self {
        Self { connection, body: Vec::new() }
    }

    /// The next message. Its header has been checked before its body was read.
    pub(crate) async fn next(&mut self) -> Result<Message<'_>, SessionError> {
        let mut header = [0; Header::LEN];
        self.connection.read_exact(&mut header).await?;
        let header = Header::parse(&header)?;
        self.body.resize(header.length, 0);
        self.connection.read_exact(&mut self.body).await?;
        Ok(Message::parse(header.kind, &self.body)?)
    }
}

/// The sending half of a channel. Only one task sends on a channel at a time.
pub(crate) struct Outlet {
    connection: Rc<Connection>,
    scratch: Vec<u8>,
}

impl Outlet {
    pub(crate) fn new(connection: Rc<Connection>) -> Self {
        Self { connection, scratch: Vec::new() }
    }

    /// The connection under it.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sends a message that carries neither sets nor pages.
    pub(crate) async fn send(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        self.begin();
        let kind = message.emit(&mut self.scratch);
        let length = self.scratch.len() - Header::LEN;
        self.finish(kind, length).await
    }

    /// Sends the part of `set` in `first .. first + count`.
    pub(crate) async fn send_set(
        &mut self,
        kind: Kind,
        set: &PageSet,
        first: Gfn,
        count: u64,
    ) -> Result<(), SessionError> {
        self.begin();
        Set::emit(set, first, count, &mut self.scratch);
        let length = self.scratch.len() - Header::LEN;
        self.finish(kind, length).await
    }

    /// Sends the pages `gfns`, whose bytes are in `pages`; those in the mask `zero` send none.
    pub(crate) async fn send_pages(
        &mut self,
        cause: Cause,
        gfns: &[Gfn],
        pages: &[Page],
        zero: PageMask,
    ) -> Result<(), SessionError> {
        let batch = Pages { cause, gfns, zero };
        self.begin();
        batch.emit(&mut self.scratch);
        self.finish(Kind::Pages, batch.body_len()).await?;
        let mut index = 0;
        while index < gfns.len() {
            let is_zero = |at: usize| zero >> at & 1 == 1;
            let run = (index..gfns.len()).take_while(|at| !is_zero(*at)).count();
            if run > 0 {
                self.connection.write_all(pages[index..index + run].as_flattened()).await?;
            }
            index += run.max(1);
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.scratch.clear();
        self.scratch.resize(Header::LEN, 0);
    }

    async fn finish(&mut self, kind: Kind, length: usize) -> Result<(), SessionError> {
        self.scratch[..Header::LEN].copy_from_slice(&Header { kind, length }.emit());
        Ok(self.connection.write_all(&self.scratch).await?)
    }
}
