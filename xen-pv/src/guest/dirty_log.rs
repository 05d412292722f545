//! The dirty log: which pages a guest wrote since the log was last cleaned.

use common::DomId;
use xen_abi::Errno;
use xen_abi::domctl::{
    SHADOW_LOGDIRTY_FINAL, SHADOW_OP_CLEAN, SHADOW_OP_ENABLE_LOGDIRTY, SHADOW_OP_OFF, SHADOW_OP_PEEK, ShadowOp,
};

use super::domctl::{self, command};
use super::error::{Error, Operation, Result};

/// A guest's dirty log, on until it is dropped.
pub struct DirtyLog {
    domain: DomId,
    on: bool,
}

/// How the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Leave it as it is.
    Peek,
    /// Clear it: pages become read-only again and every next write is logged.
    Clean,
    /// Clear it for the last time, with the guest stopped: what the hypervisor has mapped for writing counts as written.
    Final,
}

impl DirtyLog {
    /// Starts to log. From here on every write of the guest is recorded.
    pub fn start(domain: DomId) -> Result<Self> {
        shadow_op(domain, SHADOW_OP_ENABLE_LOGDIRTY, 0, &mut []).map_err(|errno| Operation::DirtyLog.error(errno))?;
        Ok(Self { domain, on: true })
    }

    /// A log that an agent before us may have turned on.
    pub fn adopt(domain: DomId) -> Self {
        Self { domain, on: true }
    }

    /// Copies the log into `dirty` and says how many pages it counted. A reading that clears must cover the whole guest
    /// (`max_gfn + 1` bits): the log is cleared in leaves of 32768 pages, whether or not they were copied out.
    pub fn read(&self, how: Read, dirty: &mut [u64]) -> Result<u64> {
        let (op, mode) = match how {
            Read::Peek => (SHADOW_OP_PEEK, 0),
            Read::Clean => (SHADOW_OP_CLEAN, 0),
            Read::Final => (SHADOW_OP_CLEAN, SHADOW_LOGDIRTY_FINAL),
        };
        let counted = shadow_op(self.domain, op, mode, dirty).map_err(|errno| Operation::DirtyLog.error(errno))?;
        // For a dying domain Xen says yes and does nothing.
        domctl::live_info(self.domain)?;
        Ok(counted)
    }

    /// Stops to log.
    pub fn stop(mut self) -> Result {
        self.on = false;
        stop(self.domain)
    }

    /// Leaves the log as it is.
    pub fn leave(mut self) {
        self.on = false;
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        if self.on {
            // A domain that is gone logs nothing; nobody could do anything about another error.
            let _ = stop(self.domain);
        }
    }
}

fn stop(domain: DomId) -> Result {
    shadow_op(domain, SHADOW_OP_OFF, 0, &mut []).map(drop).map_err(|errno| Operation::DirtyLogOff.error(errno))
}

fn shadow_op(domain: DomId, op: u32, mode: u32, bitmap: &mut [u64]) -> core::result::Result<u64, Errno> {
    let body = ShadowOp {
        op,
        mode,
        mb: 0,
        _pad: 0,
        dirty_bitmap: bitmap.as_mut_ptr(),
        pages: bitmap.len() as u64 * 64,
        fault_count: 0,
        dirty_count: 0,
    };
    // SAFETY: Xen writes at most `pages` bits to the bitmap, which we own.
    unsafe { command::SHADOW_OP.call(domain, body) }.map(|answer| answer.dirty_count.into())
}

impl Error {
    /// The log itself ran out of memory: every page may be dirty.
    pub fn is_log_overflow(&self) -> bool {
        matches!(self, Self::Xen { operation: Operation::DirtyLog, errno: Errno::ENOMEM })
    }
}
