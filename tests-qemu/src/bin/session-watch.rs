//! Prints what this host's agent reports about its sessions, as it comes: lines of `SESSION NODE VALUE`.
//!
//! The scenario runner follows migrations by this. Asking again and again with Xen's own tools would cost an emulated
//! dom0 a quarter of its processor, which the migration needs.

use std::process::ExitCode;

use toolstack::xenstore::{Xenstore, XenstoreError};

fn main() -> ExitCode {
    let Some(root) = std::env::args().nth(1) else {
        eprintln!("usage: session-watch PATH    the node above an agent's sessions, absolute");
        return ExitCode::from(2);
    };
    let Err(error) = follow(&root);
    eprintln!("session-watch: {error}");
    ExitCode::FAILURE
}

fn follow(root: &str) -> Result<std::convert::Infallible, XenstoreError> {
    let mut store = Xenstore::connect()?;
    store.watch(root)?;
    loop {
        while let Some(path) = store.take_change() {
            let node =
                path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split_once('/'));
            if let (Some((session, node)), Some(value)) = (node, store.read(&path)?) {
                println!("{session} {node} {value}");
            }
        }
        store.receive_change()?;
    }
}
