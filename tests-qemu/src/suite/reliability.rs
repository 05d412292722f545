//! Holds the table of `docs/reliability.md` against the tests that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{faults, names};

const DOCUMENT: &str = include_str!("../../../docs/reliability.md");

/// The names in the last column of every table whose last column is headed "tests".
fn named() -> BTreeSet<&'static str> {
    let mut named = BTreeSet::new();
    let mut is_ours = false;
    for line in DOCUMENT.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            is_ours = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        is_ours |= last == "tests";
        if is_ours {
            named.extend(last.split('`').skip(1).step_by(2));
        }
    }
    named
}

/// The Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_test_that_the_table_names_exists() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let folders = ["agent/src", "agent/tests", "toolstack/src", "xen-pv/src"].map(|folder| workspace.join(folder));
    let texts: Vec<String> = folders
        .iter()
        .flat_map(|folder| sources(folder))
        .map(|file| fs::read_to_string(file).expect("a source"))
        .collect();
    let on_xen: BTreeSet<&str> = names().collect();
    let exists = |name: &str| on_xen.contains(name) || texts.iter().any(|text| text.contains(&format!("fn {name}()")));
    let named = named();
    assert!(named.len() > 20, "the table has lost its tests");
    let missing: Vec<&str> = named.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "docs/reliability.md names tests that do not exist: {missing:?}");
}

#[test]
fn the_table_names_every_fault_on_real_xen() {
    let named = named();
    let missing: Vec<&str> = faults::all().map(|test| test.name).filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "docs/reliability.md leaves out {missing:?}");
}
