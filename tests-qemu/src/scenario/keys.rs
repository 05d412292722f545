//! Keys of the hosts' agents, made anew for each run by the toolstack's own code.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use toolstack::identity;

use crate::network::{PLACES, Place};

/// How agents talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Encrypted, and each knows the other's key.
    Sealed,
    /// In clear.
    Plain,
}

/// A key pair for each host's agent, in files.
#[derive(Clone, Debug)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Makes them in `folder`, which is emptied before.
    pub fn make(folder: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&folder);
        for place in &PLACES {
            let line =
                identity::generate(&format!("host-{}", place.letter), &folder.join(format!("{}-key", place.letter)))?;
            fs::write(folder.join(format!("{}-line", place.letter)), line)?;
        }
        Ok(Self { folder })
    }

    /// The private key of the agent on `place`, in a file.
    pub fn private_key(&self, place: &Place) -> PathBuf {
        self.folder.join(format!("{}-key", place.letter))
    }

    /// A list of peers: the agents of `places`.
    pub fn peers(&self, places: &[Place]) -> Result<String> {
        let line = |place: &Place| fs::read_to_string(self.folder.join(format!("{}-line", place.letter)));
        places.iter().map(line).collect::<Result<_, _>>().context("a key is gone")
    }

    /// The module for one start of the agent on `place`, which trusts the agents of `peers`.
    pub fn module(&self, place: &Place, peers: &[Place]) -> Result<String> {
        let file = self.folder.join(format!("{}-peers", place.letter));
        fs::write(&file, self.peers(peers)?)?;
        Ok(identity::compose(&self.private_key(place), &file)?.to_string())
    }
}
