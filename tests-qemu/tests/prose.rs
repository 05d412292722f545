//! The documents can be read: short cells, short paragraphs, links that lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest cell of a table, in characters.
const CELL: usize = 200;
/// The longest paragraph, in lines of [`WIDTH`] characters; an item of a list is a paragraph.
const PARAGRAPH: usize = 6;
/// How wide the documents are wrapped.
const WIDTH: usize = 130;

/// `README.md` and all documents below `docs`.
fn documents() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut folders = vec![workspace.join("docs")];
    let mut files = vec![workspace.join("README.md")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of documents") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
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
