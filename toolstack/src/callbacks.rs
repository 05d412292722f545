//! The messages that a save helper sends to libxl, and libxl's answers.
//!
//! A message is a 16-bit length, then a 16-bit number and the arguments, all in machine order without padding; a string
//! is a 32-bit length and its bytes with a terminating zero. Those that are answered are answered with one 32-bit
//! integer. (Xen's `libxl_save_msgs_gen.pl` numbers them by their order in its table, from 1. Left out are those for
//! checkpoints and for device models, neither of which a guest of ours has.)

use std::fs::File;
use std::io::{self, Read, Write};

use common::Rings;

/// How loud a line in libxl's log is; `xl` shows [`Level::Info`] and above unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What happens.
    Info = 5,
    /// Something an operator should know.
    Notice = 6,
    /// The operation fails, and why.
    Error = 8,
}

/// One message to libxl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A line for the log.
    Log {
        /// How loud it is.
        level: Level,
        /// The line, without a newline.
        text: &'a str,
    },
    /// How far a stage has come.
    Progress {
        /// The stage.
        doing: &'a str,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Suspend the guest. Answered: non-zero when it has suspended.
    Suspend,
    /// Everything that is fixed when a guest is created has arrived; nothing is missing. Answered: zero.
    StaticDataDone,
    /// Where the rings of xenstore and the console are.
    RestoreResults(Rings),
    /// The last message. Answered.
    Complete {
        /// Why the operation failed, as an error number; zero if it did not.
        errno: i32,
    },
}

/// What every message of ours is from.
const CONTEXT: &str = "tsmc";

/// libxl prints no error number with a line that carries this one.
const NO_ERRNO: u32 = u32::MAX;

impl Message<'_> {
    /// The message's number on the wire.
    pub const fn number(&self) -> u16 {
        match self {
            Self::Log { .. } => 1,
            Self::Progress { .. } => 2,
            Self::Suspend => 3,
            Self::StaticDataDone => 8,
            Self::RestoreResults(_) => 9,
            Self::Complete { .. } => 10,
        }
    }

    /// The message as it goes to libxl.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::from(self.number().to_ne_bytes());
        match self {
            Self::Log { level, text } => {
                put_u32(&mut body, *level as u32);
                put_u32(&mut body, NO_ERRNO);
                put_string(&mut body, CONTEXT);
                put_string(&mut body, text);
            }
            Self::Progress { doing, done, total } => {
                put_string(&mut body, CONTEXT);
                put_string(&mut body, doing);
                put_u64(&mut body, *done);
                put_u64(&mut body, *total);
            }
            Self::Suspend => {}
            Self::StaticDataDone => put_u32(&mut body, 0),
            Self::RestoreResults(rings) => {
                put_u64(&mut body, rings.store.0);
                put_u64(&mut body, rings.console.0);
            }
            Self::Complete { errno } => {
                let result: i32 = if *errno == 0 { 0 } else { -1 };
                put_u32(&mut body, result.cast_unsigned());
                put_u32(&mut body, errno.cast_unsigned());
            }
        }
        // Every string is cut to MAX_TEXT, so the length always fits.
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut message = Vec::from(length.to_ne_bytes());
        message.append(&mut body);
        message
    }
}

/// Longest string in a message.
const MAX_TEXT: usize = 4000;

fn put_u32(body: &mut Vec<u8>, value: u32) {
    body.extend_from_slice(&value.to_ne_bytes());
}

fn put_u64(body: &mut Vec<u8>, value: u64) {
    body.extend_from_slice(&value.to_ne_bytes());
}

fn put_string(body: &mut Vec<u8>, text: &str) {
    // A zero inside would end libxl's string early, a line break its line; an escape would reach the operator's terminal.
    let bytes = text.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }).take(MAX_TEXT);
    let bytes: Vec<u8> = bytes.collect();
    put_u32(body, bytes.len() as u32 + 1);
    body.extend_from_slice(&bytes);
    body.push(0);
}

/// libxl at the other end of two pipes.
pub struct Libxl {
    to: File,
    from: File,
    allowed: u32,
}

impl Libxl {
    /// Talks to libxl over `to` and `from`, usually the standard output and input. `allowed` is libxl's mask of the
    /// callbacks that it answers.
    pub const fn new(to: File, from: File, allowed: u32) -> Self {
        Self { to, from, allowed }
    }

    /// Where libxl's answers arrive; it hangs up when libxl is gone.
    pub const fn answers(&self) -> &File {
        &self.from
    }

    /// Whether libxl answers this callback.
    pub const fn allows(&self, message: &Message<'_>) -> bool {
        self.allowed & (1 << message.number()) != 0
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Message<'_>) -> io::Result<()> {
        self.to.write_all(&message.encode())
    }

    /// Waits for libxl's answer to the last message.
    pub fn answer(&mut self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.from.read_exact(&mut answer)?;
        Ok(i32::from_ne_bytes(answer))
    }

    /// Sends a message and waits for libxl's answer.
    pub fn ask(&mut self, message: &Message<'_>) -> io::Result<i32> {
        self.send(message)?;
        self.answer()
    }

    /// Writes a line to libxl's log. A libxl that is gone cannot be told so: errors are dropped.
    pub fn log(&mut self, level: Level, text: &str) {
        let _ = self.send(&Message::Log { level, text });
    }

    /// Sends the last message and waits until libxl has taken it.
    pub fn complete(&mut self, errno: i32) -> io::Result<()> {
        self.ask(&Message::Complete { errno }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use common::Gfn;

    use super::*;

    #[test]
    fn a_log_line_is_what_libxl_expects() {
        let message = Message::Log { level: Level::Error, text: "no agent" }.encode();
        let expected: &[u8] = b"\x20\0\x01\0\x08\0\0\0\xff\xff\xff\xff\x05\0\0\0tsmc\0\x09\0\0\0no agent\0";
        assert_eq!(message, expected);
    }

    #[test]
    fn callbacks_carry_their_arguments() {
        assert_eq!(Message::Suspend.encode(), b"\x02\0\x03\0");
        assert_eq!(
            Message::RestoreResults(Rings { store: Gfn(0xfeffc), console: Gfn(0xfefff) }).encode(),
            b"\x12\0\x09\0\xfc\xef\x0f\0\0\0\0\0\xff\xef\x0f\0\0\0\0\0"
        );
        assert_eq!(Message::Complete { errno: 0 }.encode(), b"\x0a\0\x0a\0\0\0\0\0\0\0\0\0");
        assert_eq!(Message::Complete { errno: 125 }.encode(), b"\x0a\0\x0a\0\xff\xff\xff\xff\x7d\0\0\0");
        assert_eq!(Message::StaticDataDone.encode(), b"\x06\0\x08\0\0\0\0\0");
    }

    #[test]
    fn a_long_line_is_cut_and_stays_one_line() {
        let text = "\x1bx\n".repeat(40_000);
        let message = Message::Log { level: Level::Info, text: &text }.encode();
        assert_eq!(usize::from(u16::from_ne_bytes([message[0], message[1]])), message.len() - 2);
        assert!(!message[20..].iter().any(|byte| [b'\n', 0x1b].contains(byte)));
    }
}
