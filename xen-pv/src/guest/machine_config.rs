//! What one agent tells the other about a guest's machine, as bytes: the configuration (before memory) and the state (after).
//!
//! Little-endian, every count checked against a limit before anything is allocated. The reader believes nothing: parameters
//! that are not on the list are refused, and frame numbers that lie outside the guest.

use alloc::vec::Vec;

use common::XenVersion;
use common::cursor::{Cursor, WrongLength};
use xen_abi::domctl::{CpuidLeaf, MsrEntry, TscInfo};

use super::cpu_policy::Policy;
use super::error::{Error, Result};
use super::kind::Kind;
use super::label::{Label, MAX_LABEL};
use super::machine::MAX_CONTEXT;

const CONFIG_MAGIC: u32 = u32::from_le_bytes(*b"tmF4");
const STATE_MAGIC: u32 = u32::from_le_bytes(*b"tmS2");
const MAX_LEAVES: usize = 1024;
const MAX_MSRS: usize = 256;
/// Frame numbers of 46-bit physical addresses, the most Xen gives a guest here.
const MAX_GFN: u64 = 1 << 34;

/// What the target builds before memory arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineConfig {
    /// The hypervisor that it runs on.
    pub xen: XenVersion,
    /// Pages the guest owns.
    pub pages: u64,
    /// Its highest frame number.
    pub max_gfn: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// The frames of its grant table.
    pub grant_frames: u32,
    /// Its processor's features.
    pub policy: Policy,
    /// Its parameters, without those that are zero.
    pub params: Vec<Param>,
    /// Its label in the security policy: it must not arrive as a guest that is less protected.
    pub label: Label,
}

/// An HVM parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Which one.
    pub index: u32,
    /// What it is set to.
    pub value: u64,
}

impl MachineConfig {
    /// The value of a parameter, 0 if it is not set.
    pub fn param(&self, index: u32) -> u64 {
        self.params.iter().find(|param| param.index == index).map_or(0, |param| param.value)
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u32(&mut out, CONFIG_MAGIC);
        put_u32(&mut out, self.xen.major);
        put_u32(&mut out, self.xen.minor);
        put_u32(&mut out, self.vcpus);
        put_u32(&mut out, self.grant_frames);
        put_u64(&mut out, self.pages);
        put_u64(&mut out, self.max_gfn);
        put_u32(&mut out, self.policy.leaves.len() as u32);
        for leaf in &self.policy.leaves {
            for word in [leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d] {
                put_u32(&mut out, word);
            }
        }
        put_u32(&mut out, self.policy.msrs.len() as u32);
        for msr in &self.policy.msrs {
            put_u32(&mut out, msr.idx);
            put_u64(&mut out, msr.val);
        }
        put_u32(&mut out, self.params.len() as u32);
        for param in &self.params {
            put_u32(&mut out, param.index);
            put_u64(&mut out, param.value);
        }
        put_u32(&mut out, self.label.as_str().len() as u32);
        out.extend_from_slice(self.label.as_str().as_bytes());
        out
    }

    /// From bytes of the other agent, for a guest of this kind.
    pub fn decode(bytes: &[u8], kind: &Kind) -> Result<Self> {
        Self::parse(Cursor::new(bytes), kind).map_err(|_| MALFORMED)
    }

    fn parse(mut bytes: Cursor<'_>, kind: &Kind) -> Parsed<Self> {
        if bytes.u32()? != CONFIG_MAGIC {
            return Err(Unreadable);
        }
        let xen = XenVersion { major: bytes.u32()?, minor: bytes.u32()? };
        let (vcpus, grant_frames, pages, max_gfn) = (bytes.u32()?, bytes.u32()?, bytes.u64()?, bytes.u64()?);
        if vcpus == 0 || max_gfn > MAX_GFN || pages > max_gfn + 1 {
            return Err(Unreadable);
        }
        let mut policy = Policy::default();
        for _ in 0..count(&mut bytes, MAX_LEAVES)? {
            policy.leaves.push(CpuidLeaf {
                leaf: bytes.u32()?,
                subleaf: bytes.u32()?,
                a: bytes.u32()?,
                b: bytes.u32()?,
                c: bytes.u32()?,
                d: bytes.u32()?,
            });
        }
        for _ in 0..count(&mut bytes, MAX_MSRS)? {
            policy.msrs.push(MsrEntry { idx: bytes.u32()?, flags: 0, val: bytes.u64()? });
        }
        let mut params = Vec::new();
        for _ in 0..count(&mut bytes, kind.params.len())? {
            let (index, value) = (bytes.u32()?, bytes.u64()?);
            let known = kind.params.iter().any(|&(known, _)| known == index);
            let twice = params.iter().any(|other: &Param| other.index == index);
            let outside = kind.page(index, value).is_some_and(|gfn| gfn.0 > max_gfn);
            if !known || twice || outside {
                return Err(Unreadable);
            }
            params.push(Param { index, value });
        }
        let length = count(&mut bytes, MAX_LABEL)?;
        let label = Label::parse(bytes.take(length)?).ok_or(Unreadable)?;
        bytes.end()?;
        Ok(Self { xen, pages, max_gfn, vcpus, grant_frames, policy, params, label })
    }
}

/// What the target loads after memory: where the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The time-stamp counter.
    pub tsc: TscInfo,
    /// The frames of its grant table, which may have grown.
    pub grant_frames: u32,
    /// The HVM context, opaque.
    pub context: Vec<u8>,
}

impl State {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36 + self.context.len());
        put_u32(&mut out, STATE_MAGIC);
        put_u32(&mut out, self.tsc.tsc_mode);
        put_u32(&mut out, self.tsc.gtsc_khz);
        put_u32(&mut out, self.tsc.incarnation);
        put_u64(&mut out, self.tsc.elapsed_nsec);
        put_u32(&mut out, self.grant_frames);
        put_u32(&mut out, self.context.len() as u32);
        out.extend_from_slice(&self.context);
        out
    }

    /// From bytes of the other agent.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::parse(Cursor::new(bytes)).map_err(|_| MALFORMED_STATE)
    }

    fn parse(mut bytes: Cursor<'_>) -> Parsed<Self> {
        if bytes.u32()? != STATE_MAGIC {
            return Err(Unreadable);
        }
        let tsc = TscInfo {
            tsc_mode: bytes.u32()?,
            gtsc_khz: bytes.u32()?,
            incarnation: bytes.u32()?,
            pad: 0,
            elapsed_nsec: bytes.u64()?,
        };
        let grant_frames = bytes.u32()?;
        let length = count(&mut bytes, MAX_CONTEXT)?;
        let context = bytes.take(length)?.to_vec();
        bytes.end()?;
        Ok(Self { tsc, grant_frames, context })
    }
}

const MALFORMED: Error = Error::Malformed("machine configuration");
const MALFORMED_STATE: Error = Error::Malformed("machine state");

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// What cannot be read; who asked knows what it should have been.
struct Unreadable;

type Parsed<T> = core::result::Result<T, Unreadable>;

impl From<WrongLength> for Unreadable {
    fn from(_: WrongLength) -> Self {
        Self
    }
}

/// How many come next, `limit` at most.
fn count(bytes: &mut Cursor<'_>, limit: usize) -> Parsed<usize> {
    let count = bytes.u32()? as usize;
    if count > limit { Err(Unreadable) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use xen_abi::hvm::{PARAM_CONSOLE_PFN, PARAM_IDENT_PT, PARAM_STORE_EVTCHN, PARAM_STORE_PFN};

    use super::*;
    use crate::guest::kind::PVH;

    fn param(index: u32, value: u64) -> Param {
        Param { index, value }
    }

    fn config() -> MachineConfig {
        MachineConfig {
            xen: XenVersion { major: 4, minor: 17 },
            pages: 65536,
            max_gfn: 0xfefff,
            vcpus: 2,
            grant_frames: 3,
            policy: Policy {
                leaves: vec![CpuidLeaf { leaf: 1, subleaf: u32::MAX, a: 2, b: 3, c: 4, d: 5 }],
                msrs: vec![MsrEntry { idx: 0x10a, flags: 0, val: 7 }],
            },
            params: vec![param(PARAM_STORE_PFN, 0xfeffc), param(PARAM_CONSOLE_PFN, 0xfefff)],
            label: Label::parse(b"system_u:system_r:nomigrate_t").expect("a label"),
        }
    }

    #[test]
    fn a_config_survives_the_wire() {
        assert_eq!(MachineConfig::decode(&config().encode(), &PVH), Ok(config()));
    }

    #[test]
    fn a_state_survives_the_wire() {
        let state = State {
            tsc: TscInfo { tsc_mode: 1, gtsc_khz: 2, incarnation: 3, pad: 0, elapsed_nsec: 4 },
            grant_frames: 5,
            context: vec![1, 2, 3],
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Ok(state));
        for length in 0..bytes.len() {
            assert_eq!(State::decode(&bytes[..length]), Err(MALFORMED_STATE), "{length} bytes");
        }
    }

    #[test]
    fn every_truncation_and_any_surplus_is_refused() {
        let bytes = config().encode();
        for length in 0..bytes.len() {
            assert!(MachineConfig::decode(&bytes[..length], &PVH).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(MachineConfig::decode(&longer, &PVH).is_err());
    }

    #[test]
    fn unknown_repeated_and_outlying_parameters_are_refused() {
        for params in [
            vec![param(0, 1)],
            vec![param(PARAM_STORE_EVTCHN, 1)],
            vec![param(PARAM_STORE_PFN, 1), param(PARAM_STORE_PFN, 2)],
            vec![param(PARAM_STORE_PFN, 0xff000)],
            vec![param(PARAM_IDENT_PT, 0xff000 << 12)],
        ] {
            let config = MachineConfig { params, ..config() };
            assert_eq!(MachineConfig::decode(&config.encode(), &PVH), Err(MALFORMED), "{:?}", config.params);
        }
    }

    #[test]
    fn a_huge_count_is_refused_before_it_is_allocated() {
        let mut bytes = config().encode();
        bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(MachineConfig::decode(&bytes, &PVH), Err(MALFORMED));
    }
}
