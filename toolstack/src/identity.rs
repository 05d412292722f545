//! Keys of agents, and the module that an agent is started with.
//!
//! A key file holds one line, `key <64 hexadecimal digits>`, the agent's private key. A file of peers holds a line `peer <64
//! hexadecimal digits> <name>` for each agent that this one trusts with guests, as `tsmc keygen` prints them. A module is both
//! together with a seed that is fresh for each start; [`Keys`] reads it. In all of them empty lines and
//! lines that begin with `#` mean nothing.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::{IdentityError, Keys, PublicKey, hex};
use curve25519_dalek::MontgomeryPoint;
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use zeroize::Zeroizing;

/// Where this host's private key is kept unless told otherwise.
pub const KEY_FILE: &str = "/etc/tsmc/key";
/// Where the list of peers is kept unless told otherwise.
pub const PEERS_FILE: &str = "/etc/tsmc/peers";
/// Where the module of the next start is put unless told otherwise: in memory, until the agent has it.
pub const MODULE_FILE: &str = "/run/tsmc/module";

/// What a module is made of, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The private key.
    pub key: &'a Path,
    /// The list of peers.
    pub peers: &'a Path,
    /// The module.
    pub module: &'a Path,
}

/// Filled in its place, and passed by reference: what is moved leaves a copy behind.
type Secret = Zeroizing<[u8; 32]>;

/// Longest file that is read as a key or a list of peers.
const FILE_LIMIT: u64 = 64 << 10;
/// Longest name of an agent.
const NAME_LIMIT: usize = 64;

/// Why there is no key, or no module.
#[derive(Debug, Error)]
pub enum KeyError {
    /// A name that is none.
    #[error("'{0}' is no name for an agent: use up to {NAME_LIMIT} letters, digits, '.', '-' and '_'")]
    Name(String),
    /// The file of a key is there already.
    #[error("{0} exists: a key is not overwritten; remove it first")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// A file is too long to be what it should be.
    #[error("{0} has more than {FILE_LIMIT} bytes")]
    TooLong(PathBuf),
    /// A private key that others than its owner can read or write.
    #[error("{0} is open to others than its owner; it holds a private key: chmod 600")]
    Exposed(PathBuf),
    /// This line of a file, counted from 1, is not what it should be.
    #[error("{0}, line {1}: {2}")]
    Line(PathBuf, usize, &'static str),
    /// A file without a private key where one should be.
    #[error("{0} has no line 'key ...'; 'tsmc keygen' makes such a file")]
    NoKey(PathBuf),
    /// The module that came of it would be refused by the agent.
    #[error("{0}")]
    Module(IdentityError),
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(io::Error),
}

/// Makes a key pair; writes the private key to `path`, which must not exist, and returns the line for others' lists.
pub fn generate(name: &str, path: &Path) -> Result<String, KeyError> {
    check_name(name)?;
    let mut private = Secret::default();
    fill_random(&mut private)?;
    let public = public_key(&private);
    let mut text = long_enough(name.len());
    text.push_str(&format!("# {name}, known by {public}\n"));
    push_secret(&mut text, "key", &private);
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
        _ => KeyError::File(path.into(), error),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| KeyError::File(path.into(), error))?;
    Ok(format!("peer {public} {name}\n"))
}

/// Composes the module for one start of the agent that has the key in the file `key` and trusts those in the file `peers`.
pub fn compose(key: &Path, peers: &Path) -> Result<Zeroizing<String>, KeyError> {
    let (mut private, mut seed) = (Secret::default(), Secret::default());
    read_private_key(key, &mut private)?;
    let peers = read_peers(peers)?;
    fill_random(&mut seed)?;
    let mut text = long_enough(peers.iter().map(|(_, name)| name.len() + 80).sum());
    text.push_str("tsmc-identity 1\n");
    push_secret(&mut text, "key", &private);
    for (key, name) in &peers {
        text.push_str(&format!("peer {key} {name}\n"));
    }
    push_secret(&mut text, "seed", &seed);
    // The very code that will read it.
    Keys::parse(&text).map_err(KeyError::Module)?;
    Ok(text)
}

impl Files<'_> {
    /// As [`compose`], into the file of the module, for `ramdisk=`. An older one there is replaced.
    pub fn write_module(&self) -> Result<(), KeyError> {
        let text = compose(self.key, self.peers)?;
        let path = self.module;
        let failed = |error| KeyError::File(path.into(), error);
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        // A new file, so that nobody has it open, and complete when it gets its name.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }
}

fn read_private_key(path: &Path, private: &mut Secret) -> Result<(), KeyError> {
    let failed = |error| KeyError::File(path.into(), error);
    let mode = std::fs::metadata(path).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(path.into()));
    }
    let text = read(path)?;
    let mut found = false;
    for (number, line) in lines(&text) {
        let bad = |what| KeyError::Line(path.into(), number, what);
        let digits = line.strip_prefix("key ").ok_or_else(|| bad("not a line 'key <64 hexadecimal digits>'"))?;
        if std::mem::replace(&mut found, true) {
            return Err(bad("a second key"));
        }
        hex::parse_into(digits, &mut private[..]).ok_or_else(|| bad("a key has 64 hexadecimal digits"))?;
    }
    if found { Ok(()) } else { Err(KeyError::NoKey(path.into())) }
}

fn read_peers(path: &Path) -> Result<Vec<(PublicKey, String)>, KeyError> {
    let text = read(path)?;
    let mut peers: Vec<(PublicKey, String)> = Vec::new();
    for (number, line) in lines(&text) {
        let bad = |what| KeyError::Line(path.into(), number, what);
        if line.starts_with("key ") {
            return Err(bad("a private key has no place among peers"));
        }
        let parts = line.strip_prefix("peer ").and_then(|rest| rest.split_once(' '));
        let (digits, name) = parts.ok_or_else(|| bad("not a line 'peer <64 hexadecimal digits> <name>'"))?;
        let key: PublicKey = digits.parse().map_err(|_| bad("a key has 64 hexadecimal digits"))?;
        check_name(name).map_err(|_| bad("a name has up to 64 letters, digits, '.', '-' and '_'"))?;
        if peers.iter().any(|(known, _)| *known == key) {
            return Err(bad("this key is listed before"));
        }
        if peers.iter().any(|(_, known)| known == name) {
            return Err(bad("this name is listed before"));
        }
        peers.push((key, name.into()));
    }
    Ok(peers)
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let failed = |error| KeyError::File(path.into(), error);
    // At its full size from the start: a string that grows leaves copies of itself behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_LIMIT as usize + 1));
    File::open(path).map_err(failed)?.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(KeyError::TooLong(path.into()));
    }
    Ok(text)
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let fits = (1..=NAME_LIMIT).contains(&name.len());
    let clean = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if fits && clean { Ok(()) } else { Err(KeyError::Name(name.escape_debug().to_string())) }
}

fn make_folder(folder: &Path) -> Result<(), KeyError> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| KeyError::File(folder.into(), error))
}

/// The public key that belongs to a private one (RFC 7748). curve25519-dalek takes the private key by value, and wipes neither its
/// argument nor what it computes from it: they stay on the stack until others overwrite them, or until the command has ended, soon
/// after, when Linux clears the memory before anybody else gets it.
fn public_key(private: &[u8; 32]) -> PublicKey {
    PublicKey(MontgomeryPoint::mul_base_clamped(*private).to_bytes())
}

fn fill_random(bytes: &mut Secret) -> Result<(), KeyError> {
    // Up to 256 bytes come in one piece.
    getrandom(&mut bytes[..], GetRandomFlags::empty()).map(drop).map_err(|error| KeyError::Random(error.into()))
}

/// A text for two secrets and so many bytes besides: one that grows leaves copies of itself behind.
fn long_enough(besides: usize) -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(256 + besides))
}

fn push_secret(text: &mut String, word: &str, bytes: &Secret) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{word} {}", hex::Shown(&bytes[..]));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tsmc-identity-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path).expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("a file").mode() & 0o777
    }

    #[test]
    fn two_hosts_come_to_know_each_other() {
        let folder = Folder::new("two-hosts");
        let (a, b) = (folder.0.join("new/a"), folder.0.join("new/b"));
        let line_a = generate("host-a", &a).expect("a key");
        let line_b = generate("host-b", &b).expect("a key");
        assert_eq!(mode(&a), 0o600);
        // Its own key among the peers does no harm: all hosts can have the same list.
        let peers = folder.file("peers", &format!("# all\n\n{line_a}{line_b}"), 0o644);
        let module = folder.0.join("module");
        let files = Files { key: &a, peers: &peers, module: &module };
        files.write_module().expect("a module");
        assert_eq!(mode(&module), 0o600);
        let text = std::fs::read_to_string(&module).expect("text");
        let keys = Keys::parse(&text).expect("keys");
        assert_eq!(line_a, format!("peer {} host-a\n", public_key(keys.private())));
        let names: Vec<_> = keys.peers().map(|(_, name)| name.to_string()).collect();
        assert_eq!(names, ["host-a", "host-b"]);
        // Composed again, it replaces the old one and has another seed.
        files.write_module().expect("a module");
        let again = std::fs::read_to_string(&module).expect("text");
        let seed = |text: &str| text.lines().find(|line| line.starts_with("seed ")).map(str::to_string);
        assert_eq!(seed(&text).expect("a seed").len(), 5 + 64);
        assert_ne!(seed(&text), seed(&again));
    }

    #[test]
    fn public_keys_are_those_of_x25519() {
        // RFC 7748, section 6.1.
        let private = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        assert_eq!(public_key(&hex::parse(private).expect("a key")).to_string(), public);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = Folder::new("overwrite");
        let path = folder.0.join("key");
        generate("a", &path).expect("a key");
        let before = std::fs::read(&path).expect("a file");
        assert!(matches!(generate("a", &path), Err(KeyError::Exists(_))));
        assert_eq!(std::fs::read(&path).expect("a file"), before);
        for name in ["", "a b", "a\n", "\u{e9}", &"a".repeat(65)] {
            assert!(matches!(generate(name, &folder.0.join("other")), Err(KeyError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_list_of_peers_is_checked_line_by_line() {
        let folder = Folder::new("peers");
        let key = folder.0.join("key");
        let own = generate("a", &key).expect("a key");
        let other = "peer 8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let refusal = |text: &str| compose(&key, &folder.file("peers", text, 0o644)).expect_err("refused").to_string();
        let same_key = refusal(&format!("{own}{own}").replacen(" a\n", " b\n", 1));
        assert!(same_key.ends_with("peers, line 2: this key is listed before"), "{same_key}");
        let same_name = refusal(&format!("{own}\n{other} a\n"));
        assert!(same_name.ends_with("peers, line 3: this name is listed before"), "{same_name}");
        for text in [other, "peer 12 b", &format!("{other} two words"), "pear x y"] {
            assert!(refusal(text).contains("peers, line 1: "), "{text}");
        }
        let private = std::fs::read_to_string(&key).expect("text");
        assert!(refusal(&private).contains("a private key has no place"));
        let many: String = (0..257).map(|n| format!("peer {n:064x} host{n}\n")).collect();
        assert_eq!(refusal(&many), KeyError::Module(IdentityError::TooManyPeers { most: 256 }).to_string());
    }

    #[test]
    fn a_key_file_is_checked_and_no_error_shows_its_content() {
        let folder = Folder::new("key-file");
        let peers = folder.file("peers", "", 0o644);
        let digits = "77076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a";
        let refusal = |text: &str, mode| {
            let path = folder.0.join("key");
            let _ = std::fs::remove_file(&path);
            compose(&folder.file("key", text, mode), &peers).expect_err("refused").to_string()
        };
        assert!(refusal(&format!("key {digits}\n"), 0o640).ends_with("chmod 600"));
        assert!(refusal("# nothing\n", 0o600).contains("has no line 'key ...'"));
        for text in [format!("key {digits}0"), format!("key {digits}\nkey {digits}"), format!("{digits}\n")] {
            let refusal = refusal(&text, 0o600);
            assert!(refusal.contains("key, line ") && !refusal.contains(&digits[..8]), "{refusal}");
        }
        assert!(compose(&folder.0.join("none"), &peers).is_err());
    }
}
