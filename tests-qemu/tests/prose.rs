//! The documents can be read: short cells, short paragraphs, links that lead somewhere. So can the sources. All are short files.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest cell of a table, in characters.
const CELL: usize = 200;
/// The longest paragraph, in lines of [`WIDTH`] characters; an item of a list is a paragraph.
const PARAGRAPH: usize = 6;
/// How wide the documents are wrapped.
const WIDTH: usize = 130;

const CRATES: [&str; 8] = ["agent", "boot", "common", "fuzz", "tests-qemu", "toolstack", "xen-abi", "xen-pv"];

/// The longest source or document, in lines.
const FILE: usize = 400;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace")
}

/// The files of a kind that these are, or that are below these, without what was built.
fn files(roots: &[&str], kind: &str) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> = roots.iter().map(|root| workspace().join(root)).collect();
    let mut files = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
            left.extend(entries.filter(|path| !path.ends_with("target")));
        } else if path.extension().is_some_and(|extension| extension == kind) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `README.md` and all documents below `docs`.
fn documents() -> Vec<PathBuf> {
    files(&["README.md", "docs"], "md")
}

/// The lines of a document with their numbers; those of code are empty.
fn prose(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut is_code = false;
    let line = |(index, line): (usize, &str)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (index + 1, if is_code || is_fence { String::new() } else { line.to_owned() })
    };
    text.lines().enumerate().map(line).collect()
}

fn is_item(line: &str) -> bool {
    let numbered = line.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
    line.starts_with("- ") || line.starts_with("* ") || numbered
}

fn none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn no_cell_and_no_paragraph_is_too_long() {
    let mut offences = Vec::new();
    for file in documents() {
        let mut length = 0;
        for (number, line) in prose(&file) {
            let (at, line) = (format!("{}:{number}", file.display()), line.trim());
            let cells = line.strip_prefix('|').into_iter().flat_map(|row| row.split('|'));
            let long = cells.map(|cell| cell.trim().chars().count()).filter(|length| *length > CELL);
            offences.extend(long.map(|length| format!("{at}: a cell of {length} characters")));
            let is_text = !line.is_empty() && !line.starts_with(['|', '#']);
            let before = if is_text && !is_item(line) { length } else { 0 };
            length = if is_text { before + line.chars().count().div_ceil(WIDTH) } else { 0 };
            if before <= PARAGRAPH && length > PARAGRAPH {
                offences.push(format!("{at}: a paragraph of {length} lines or more"));
            }
        }
    }
    none(&offences);
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    heading.chars().filter(|char| char.is_alphanumeric() || ['-', '_'].contains(char)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut offences = Vec::new();
    for file in documents() {
        for (number, line) in prose(&file) {
            let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for link in links.filter(|link| !link.contains(':')) {
                let (path, name) = link.split_once('#').map_or((link, None), |(path, name)| (path, Some(name)));
                let to = if path.is_empty() { file.clone() } else { file.with_file_name(path) };
                let is_heading = |line: &str, name| line.starts_with('#') && anchor(line) == name;
                if !to.exists() || name.is_some_and(|name| !prose(&to).iter().any(|(_, line)| is_heading(line, name))) {
                    offences.push(format!("{}:{number}: {link} leads nowhere", file.display()));
                }
            }
        }
    }
    none(&offences);
}

#[test]
fn every_file_that_is_named_exists() {
    let mut offences = Vec::new();
    for file in documents() {
        for (number, line) in prose(&file) {
            let named = line.split('`').skip(1).step_by(2).filter(|span| {
                span.split_once('/').is_some_and(|(folder, _)| CRATES.contains(&folder)) && !span.contains([' ', '*'])
            });
            let missing = named.filter(|path| !workspace().join(path).exists());
            offences.extend(missing.map(|path| format!("{}:{number}: there is no {path}", file.display())));
        }
    }
    none(&offences);
}

#[test]
fn no_source_and_no_document_is_too_long() {
    let sources = files(&CRATES, "rs");
    assert!(sources.len() > 100, "the sources are elsewhere");
    let files = sources.into_iter().chain(documents());
    let lines = files.map(|file| (fs::read_to_string(&file).expect("a text").lines().count(), file));
    let long = lines.filter(|(lines, _)| *lines > FILE);
    none(&long.map(|(lines, file)| format!("{}: {lines} lines", file.display())).collect::<Vec<_>>());
}
