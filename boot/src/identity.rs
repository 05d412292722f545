//! The agent's identity, read from the module that the toolstack gave it beside its image; none if its command line says so.

use agent::command_line::AgentOptions;
use agent::secure::{Identity, Security};
use common::IdentityError;
use xen_pv::entropy::{Entropy, NoEntropy, Seed};
use xen_pv::module::ModuleError;

use crate::start::Machine;

/// Why the agent does not start with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is something wrong with the module itself.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The module is no text.
    #[error("the module (ramdisk=) is no text; 'tsmc module' writes it")]
    NoText,
    /// It holds no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its seed cannot be understood.
    #[error("the module's seed does not have 64 hexadecimal digits")]
    BadSeed,
    /// Random numbers would be guessable.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
    /// It is nobody, and was not told to be.
    #[error(
        "no identity: give the agent the file that 'tsmc module' writes as ramdisk=, or, to measure without encryption, the \
         word 'plain' on its command line"
    )]
    Nobody,
    /// It has an identity and shall not use it.
    #[error("the command line says 'plain' and the module (ramdisk=) holds an identity: take one of them away")]
    Both,
}

/// Takes what the module and the command line say. The module's bytes are wiped before this returns.
pub fn take(machine: &mut Machine, options: &AgentOptions) -> Result<(Security, Entropy), Refused> {
    let module = core::mem::replace(&mut machine.module, Ok(None))?;
    let text = module.as_ref().map(|module| core::str::from_utf8(module.bytes()));
    let text = text.transpose().map_err(|_| Refused::NoText)?;
    let security = match text {
        Some(_) if options.plain => return Err(Refused::Both),
        Some(text) => Security::Sealed(Identity::parse(text)?),
        None if options.plain => Security::Plain,
        None => return Err(Refused::Nobody),
    };
    let seed = text.map_or(Ok(None), seed)?;
    let frames = machine.frames.map(u64::to_le_bytes);
    let domain = [machine.command_line.as_bytes(), frames.as_flattened()];
    let entropy = Entropy::new(seed.as_ref(), &domain)?;
    Ok((security, entropy))
}

/// The value of the line `seed ...`, if there is one.
fn seed(text: &str) -> Result<Option<Seed>, Refused> {
    let digits = text.lines().find_map(|line| line.trim().strip_prefix("seed "));
    digits.map(|digits| Seed::parse(digits).ok_or(Refused::BadSeed)).transpose()
}
