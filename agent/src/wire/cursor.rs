//! Bytes taken from the front, each taking checked.

pub(crate) use common::cursor::Cursor;
use common::cursor::WrongLength;

use crate::error::WireError;

impl From<WrongLength> for WireError {
    fn from(wrong: WrongLength) -> Self {
        match wrong {
            WrongLength::Truncated => Self::Truncated,
            WrongLength::Trailing => Self::Trailing,
        }
    }
}
