//! A xenstored and a libxl for tests, speaking the real protocols over sockets and pipes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::callbacks::Libxl;
use crate::xenstore::Xenstore;

/// How long a test waits for something that must happen.
const SOON: Duration = Duration::from_secs(10);

/// A xenstored with one client.
#[derive(Clone)]
pub struct FakeStore {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

struct State {
    nodes: BTreeMap<String, String>,
    watches: Vec<String>,
    resumed: Vec<String>,
    client: UnixStream,
}

impl FakeStore {
    /// Starts one and connects a client to it.
    pub fn start() -> (Self, Xenstore) {
        let (server, client) = UnixStream::pair().expect("a pair");
        let requests = server.try_clone().expect("a clone");
        let state = State { nodes: BTreeMap::new(), watches: Vec::new(), resumed: Vec::new(), client: server };
        let fake = Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() };
        let serving = fake.clone();
        std::thread::spawn(move || serving.serve(requests));
        (fake, Xenstore::over(OwnedFd::from(client)))
    }

    /// Starts one on a host with an agent in domain 1.
    pub fn with_agent() -> (Self, Xenstore) {
        let (fake, store) = Self::start();
        fake.add_agent(1);
        (fake, store)
    }

    /// Starts an agent in `domain`.
    pub fn add_agent(&self, domain: u16) {
        let home = format!("/local/domain/{domain}");
        self.set(&format!("{home}/name"), "tsmc-agent");
        self.set(
            &format!("{home}/data/tsmc/agent"),
            "ready version=0.1.0 address=10.77.0.11 port=7077 memory_kib=1024 features=dirty-log,paging nic=pci,checksum",
        );
    }

    /// Somebody else writes.
    pub fn set(&self, path: &str, value: &str) {
        self.lock().set(path, value);
        self.changed.notify_all();
    }

    /// A migration that this host's agent, in domain 1, has completed after its helper had ended. Gives where its note is kept.
    pub fn add_completed(&self) -> &'static str {
        let session = "/local/domain/1/data/tsmc/session/in-3-0a0a0a0a";
        self.set(&format!("{session}/state"), "complete");
        self.set(&format!("{session}/note"), "00ff");
        self.set("/tool/tsmc/in/3", "00ff");
        "/tool/tsmc/in/3"
    }

    /// Whether a node is there.
    pub fn has(&self, path: &str) -> bool {
        self.lock().nodes.contains_key(path)
    }

    /// Somebody else removes.
    pub fn remove(&self, path: &str) {
        self.lock().remove(path);
        self.changed.notify_all();
    }

    /// Waits until a node below `folder` has a name that starts with `prefix`; returns its name and value.
    pub fn wait_for(&self, folder: &str, prefix: &str) -> (String, String) {
        let start = format!("{folder}/{prefix}");
        let mut found = None;
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, SOON, |state| {
            found = state.nodes.iter().find(|(path, _)| path.starts_with(&start)).map(|(p, v)| (p.clone(), v.clone()));
            found.is_none()
        });
        drop(waited);
        let (path, value) = found.unwrap_or_else(|| panic!("nobody wrote {start}"));
        (path[folder.len() + 1..].to_string(), value)
    }

    /// The domains that xenstored was told about as resumed.
    pub fn resumed(&self) -> Vec<String> {
        self.lock().resumed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut requests: UnixStream) {
        loop {
            let mut header = [0; 16];
            if requests.read_exact(&mut header).is_err() {
                return;
            }
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let mut payload = vec![0; word(12) as usize];
            requests.read_exact(&mut payload).expect("a payload");
            let text = String::from_utf8(payload).expect("text");
            self.lock().answer(word(0), word(4), &text);
            self.changed.notify_all();
        }
    }
}

impl State {
    fn answer(&mut self, kind: u32, request: u32, payload: &str) {
        let (path, rest) = payload.split_once('\0').expect("a path");
        let value = match kind {
            1 => self.children(path),
            2 => self.nodes.get(path).cloned(),
            4 => {
                self.watches.push(path.into());
                self.send(kind, request, "OK\0");
                self.send(15, 0, &format!("{path}\0{path}\0"));
                return;
            }
            11 => {
                self.set(path, rest);
                Some("OK\0".into())
            }
            13 => {
                self.remove(path);
                Some("OK\0".into())
            }
            18 => {
                self.resumed.push(path.into());
                Some("OK\0".into())
            }
            other => panic!("request {other}"),
        };
        match value {
            Some(value) => self.send(kind, request, &value),
            None => self.send(16, request, "ENOENT\0"),
        }
    }

    fn children(&self, folder: &str) -> Option<String> {
        let below = format!("{folder}/");
        let mut names: Vec<_> =
            self.nodes.keys().filter_map(|path| path.strip_prefix(&below)?.split('/').next()).collect();
        names.dedup();
        (!names.is_empty()).then(|| names.iter().map(|name| format!("{name}\0")).collect())
    }

    fn set(&mut self, path: &str, value: &str) {
        self.nodes.insert(path.into(), value.into());
        self.fire(path);
    }

    fn remove(&mut self, path: &str) {
        self.nodes.retain(|node, _| node != path && !node.starts_with(&format!("{path}/")));
        self.fire(path);
    }

    fn fire(&mut self, path: &str) {
        for watch in self.watches.clone() {
            if path.starts_with(&watch) {
                self.send(15, 0, &format!("{path}\0{watch}\0"));
            }
        }
    }

    fn send(&mut self, kind: u32, request: u32, payload: &str) {
        let mut message: Vec<u8> =
            [kind, request, 0, payload.len() as u32].iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend_from_slice(payload.as_bytes());
        // A client that is gone is told nothing.
        let _ = self.client.write_all(&message);
    }
}

/// A libxl that answers every callback and remembers all messages, one line each.
pub struct FakeLibxl {
    messages: JoinHandle<Vec<String>>,
}

impl FakeLibxl {
    /// Its answer to a suspend: none, it dies.
    pub const DIES: i32 = i32::MIN;

    /// Starts one. `suspend` is its answer to a suspend.
    pub fn start(suspend: i32) -> (Self, Libxl) {
        let (from_helper, to_libxl) = rustix::pipe::pipe().expect("a pipe");
        let (from_libxl, to_helper) = rustix::pipe::pipe().expect("a pipe");
        let messages = std::thread::spawn(move || converse(from_helper.into(), to_helper.into(), suspend));
        (Self { messages }, Libxl::new(to_libxl.into(), from_libxl.into(), u32::MAX))
    }

    /// All messages, once the helper is done.
    pub fn messages(self) -> Vec<String> {
        self.messages.join().expect("libxl")
    }
}

fn converse(mut from: File, mut to: File, suspend: i32) -> Vec<String> {
    let mut messages = Vec::new();
    let mut length = [0; 2];
    while from.read_exact(&mut length).is_ok() {
        let mut body = vec![0; usize::from(u16::from_ne_bytes(length))];
        from.read_exact(&mut body).expect("a whole message");
        let (answer, line) = understand(&body, suspend);
        messages.push(line);
        if answer == Some(FakeLibxl::DIES) {
            break;
        }
        if let Some(answer) = answer {
            to.write_all(&answer.to_ne_bytes()).expect("answered");
        }
    }
    messages
}

fn understand(body: &[u8], suspend: i32) -> (Option<i32>, String) {
    let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    match u16::from_ne_bytes([body[0], body[1]]) {
        1 => {
            let context = word(10) as usize;
            let text = &body[14 + context + 4..body.len() - 1];
            (None, format!("log {} {}", word(2), str::from_utf8(text).expect("text")))
        }
        2 => (None, "progress".into()),
        3 => (Some(suspend), "suspend".into()),
        8 => (Some(0), "static_data_done".into()),
        9 => (None, format!("restore_results {:#x} {:#x}", long(2), long(10))),
        10 => (Some(0), format!("complete {} {}", word(2).cast_signed(), word(6))),
        other => panic!("message {other}"),
    }
}
