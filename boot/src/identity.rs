//! What the toolstack gives the agent beside its image: its identity, and a seed for its random numbers.

use core::fmt;

use xen_pv::entropy::{Entropy, NoEntropy, SEED};
use xen_pv::module::ModuleError;
use zeroize::Zeroizing;

use crate::start::Machine;

/// Why the agent does not start with what it was given.
#[derive(Debug)]
pub enum Refused {
    /// There is something wrong with the module itself.
    Module(ModuleError),
    /// The module is no text.
    NoText,
    /// Its seed cannot be understood.
    BadSeed,
    /// Random numbers would be guessable.
    NoEntropy(NoEntropy),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(error) => error.fmt(f),
            Self::NoText => f.write_str("the module (ramdisk=) is no text; 'tsmc module' writes it"),
            Self::BadSeed => write!(f, "the module's seed does not have {} hexadecimal digits", 2 * SEED),
            Self::NoEntropy(error) => error.fmt(f),
        }
    }
}

/// Takes what the module says. Its bytes are wiped before this returns.
pub fn take(machine: &mut Machine) -> Result<Entropy, Refused> {
    let module = core::mem::replace(&mut machine.module, Ok(None)).map_err(Refused::Module)?;
    let text = module.as_ref().map_or(Ok(""), |module| core::str::from_utf8(module.bytes()));
    let text = text.map_err(|_| Refused::NoText)?;
    let seed = seed(text)?;
    let frames = machine.frames.map(u64::to_le_bytes);
    let domain = [machine.command_line.as_bytes(), frames.as_flattened()];
    Entropy::new(seed.as_deref(), &domain).map_err(Refused::NoEntropy)
}

/// The value of the line `seed <64 hexadecimal digits>`, if there is one.
fn seed(text: &str) -> Result<Option<Zeroizing<[u8; SEED]>>, Refused> {
    let Some(digits) = text.lines().find_map(|line| line.trim().strip_prefix("seed ")) else { return Ok(None) };
    if digits.len() != 2 * SEED || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Refused::BadSeed);
    }
    let mut seed = Zeroizing::new([0; SEED]);
    for (at, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| Refused::BadSeed)?;
    }
    Ok(Some(seed))
}
