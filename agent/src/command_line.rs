//! What an image is started with: the command line that `extra=` of its `xl.cfg` gives.
//!
//! It consists of words in any order. One that is not known, that comes twice or that makes no sense is refused: an image that
//! skipped it would run, and not as its operator meant.

mod agent;
mod selftest;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::error::CommandLineError;

pub use agent::AgentOptions;
pub use selftest::{SelfTestOptions, Task};

/// So much of a refused word is shown.
const SHOWN: usize = 40;

type Result<T, E = CommandLineError> = core::result::Result<T, E>;

/// A word that a command line may have.
struct Word {
    /// All of it, or what comes before its value, with the `=`.
    name: &'static str,
    /// What its value may be.
    takes: &'static str,
}

impl Word {
    /// A word with a value.
    const fn with_value(name: &'static str, takes: &'static str) -> Self {
        Self { name, takes }
    }

    /// A word that says all by being there.
    const fn alone(name: &'static str) -> Self {
        Self { name, takes: "no value" }
    }
}

/// The words of a command line: all of them are known, and none is there twice.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn parse(line: &'a str, known: &[Word]) -> Result<Self> {
        let words = || line.split_ascii_whitespace();
        for (index, word) in words().enumerate() {
            let name = name(word);
            let Some(known) = known.iter().find(|known| known.name == name) else {
                let names: Vec<_> = known.iter().map(|known| known.name).collect();
                return Err(CommandLineError::Unknown { word: shown(word), known: names.join(", ") });
            };
            if words().take(index).any(|earlier| self::name(earlier) == name) {
                return Err(CommandLineError::Twice(known.name));
            }
        }
        Ok(Self(line))
    }

    fn has(&self, word: &Word) -> bool {
        self.text(word).is_some()
    }

    /// What `parse` makes of a word's value, if the word is there.
    fn value<T>(&self, word: &Word, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.text(word) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| bad(word, text))
    }

    /// The same of a word without which nothing goes.
    fn required<T>(&self, word: &Word, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let missing = CommandLineError::Missing { name: word.name, takes: word.takes };
        self.value(word, parse)?.ok_or(missing)
    }

    /// What follows a word's name.
    fn text(&self, word: &Word) -> Option<&'a str> {
        self.0.split_ascii_whitespace().find(|found| name(found) == word.name)?.strip_prefix(word.name)
    }
}

/// A word up to its `=`, and with it.
fn name(word: &str) -> &str {
    word.split_inclusive('=').next().unwrap_or_default()
}

fn bad(word: &Word, text: &str) -> CommandLineError {
    CommandLineError::Bad { word: shown(&format!("{}{text}", word.name)), name: word.name, takes: word.takes }
}

/// A word as it can be shown to anybody: short, and in one line.
fn shown(word: &str) -> String {
    let mut signs = word.chars();
    let mut shown: String = signs.by_ref().take(SHOWN).flat_map(char::escape_default).collect();
    if signs.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// The address of one host.
fn address(text: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = text.parse().ok()?;
    let is_one = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
    is_one.then_some(address)
}

/// `ADDRESS/PREFIX`; without a prefix it is 24.
fn address_in_network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (host, prefix) = text.split_once('/').unwrap_or((text, "24"));
    let prefix = prefix.parse::<u8>().ok().filter(|prefix| (1..=32).contains(prefix))?;
    Some((address(host)?, prefix))
}
