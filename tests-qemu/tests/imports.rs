//! One direction: no file imports what, itself or by way of others, imports it. Only a module and what is inside it may know each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::iter::Peekable;
use std::path::Path;
use std::str::SplitWhitespace;

/// The sources that are held to it. In `agent/src` only files: what a guest is at either end knows the notes and callees of sessions.
const SOURCES: &[(&str, Unit)] = &[
    ("agent/src", Unit::File),
    ("agent/src", Unit::Family),
    ("common/src", Unit::Folder),
    ("xen-abi/src", Unit::Folder),
    ("xen-pv/src", Unit::Folder),
    ("boot/src", Unit::Folder),
    ("toolstack/src", Unit::Folder),
    ("tests-qemu/src", Unit::Folder),
];

/// What has one direction.
#[derive(Clone, Copy)]
enum Unit {
    /// Files; those of two folders may import each other, as long as none imports what imports it.
    File,
    /// Files, where a module's imports of what is inside it count as well, and the other way round: by them a circle may lead
    /// through a module and one inside it, unless a module of the circle has all of it inside.
    Family,
    /// Folders too: no file of one may import another's if any does the other way round.
    Folder,
}

/// The code of files, by their paths.
type Files = BTreeMap<String, String>;
/// A module, as the names that lead to it from the crate's root.
type Module<'a> = Vec<&'a str>;
/// Which module imports which, and where that is said.
type Graph<'a> = BTreeMap<Module<'a>, BTreeMap<Module<'a>, BTreeSet<String>>>;

#[test]
fn no_import_leads_back() {
    let mut found = String::new();
    for (source, unit) in SOURCES {
        let mut files = Files::new();
        read(&Path::new("..").join(source), &mut files);
        found += &circles(&files, source, *unit);
    }
    assert!(found.is_empty(), "imports that lead back to where they came from:\n{found}");
}

/// Reads the sources below `folder`, but not those of further programs: they have roots of their own.
fn read(folder: &Path, files: &mut Files) {
    for path in fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
        let name = path.to_str().expect("a name in UTF-8").trim_start_matches("../");
        if path.is_dir() && !name.ends_with("src/bin") {
            read(&path, files);
        } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
            files.insert(name.to_owned(), code(&fs::read_to_string(&path).expect("a source")));
        }
    }
}

/// A file's code, word by word: without comments, and without the tests at its end. Quoted text is taken for code.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let is_word = |sign: char| sign.is_alphanumeric() || "_:".contains(sign);
    let apart = |sign| if is_word(sign) { String::from(sign) } else { format!(" {sign} ") };
    lines.flat_map(|line| line.chars().chain([' '])).map(apart).collect::<String>().replace("::", " :: ")
}

/// For each import that leads back the shortest circle with it; nothing if there is none.
fn circles(files: &Files, root: &str, unit: Unit) -> String {
    let modules: BTreeMap<_, _> = files.keys().filter_map(|path| Some((module(path, root)?, path.as_str()))).collect();
    let graph = graph(files, &modules, unit);
    let mut circles = BTreeSet::new();
    for (from, imported) in &graph {
        for mut circle in imported.keys().filter_map(|to| way(&graph, to, from)) {
            if circle.iter().any(|module| circle.iter().all(|other| other.starts_with(module))) {
                continue;
            }
            // The same one, whichever of its files it was found from.
            let first = (0..circle.len()).min_by_key(|&index| circle[index]).unwrap_or(0);
            circle.rotate_left(first);
            circles.insert(circle);
        }
    }
    let mut report = String::new();
    for circle in circles {
        circle.iter().for_each(|module| report += &format!("{} -> ", modules[*module]));
        report += &format!("{}\n", modules[circle[0]]);
        let steps = circle.iter().zip(circle.iter().cycle().skip(1));
        report.extend(steps.flat_map(|(from, to)| &graph[*from][*to]).map(String::as_str));
    }
    report
}

/// The module in a file; nothing for the crate's root, which knows all and is known by all.
fn module<'a>(path: &'a str, root: &str) -> Option<Module<'a>> {
    let name = path.strip_prefix(root)?.strip_prefix('/')?.strip_suffix(".rs")?.trim_end_matches("/mod");
    (name != "lib" && name != "main").then(|| name.split('/').collect())
}

/// Who imports whom; modules inside each other only as a family.
fn graph<'a>(files: &'a Files, modules: &BTreeMap<Module<'a>, &'a str>, unit: Unit) -> Graph<'a> {
    let mut graph = Graph::new();
    for (from, path) in modules {
        let inner = |name: &str| modules.contains_key(&[&from[..], &[name]].concat());
        for names in paths(&files[*path], inner) {
            let Some(to) = resolve(from, &names, modules) else { continue };
            let shared = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
            let is_family = shared == from.len().min(to.len());
            if !is_family || matches!(unit, Unit::Family) && *from != to {
                let [from, to] = [from, &to].map(|module| match unit {
                    Unit::File | Unit::Family => module.clone(),
                    Unit::Folder => module[..=shared].to_vec(),
                });
                let words = format!("    {path}: {}\n", names.join("::"));
                graph.entry(from).or_default().entry(to).or_default().insert(words);
            }
        }
    }
    graph
}

/// The innermost module that a path within `module` leads to, if it is one of ours.
fn resolve<'a>(module: &[&'a str], path: &[&'a str], modules: &BTreeMap<Module<'a>, &str>) -> Option<Module<'a>> {
    let up = path.iter().take_while(|name| **name == "super").count();
    let (start, rest) = match path[0] {
        "crate" => (0, &path[1..]),
        "super" => (module.len().saturating_sub(up), &path[up..]),
        _ => (module.len(), path),
    };
    let mut to = [&module[..start], rest].concat();
    while !modules.contains_key(&to) {
        to.pop()?;
    }
    Some(to)
}

/// The shortest way from one module to another along imports, with both.
fn way<'g, 'a>(graph: &'g Graph<'a>, from: &'g Module<'a>, to: &Module<'a>) -> Option<Vec<&'g Module<'a>>> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop_front() {
        let last = way[way.len() - 1];
        if last == to {
            return Some(way);
        }
        let next = graph.get(last).into_iter().flat_map(BTreeMap::keys).filter(|next| seen.insert(*next));
        ways.extend(next.map(|next| [&way[..], &[next]].concat()));
    }
    None
}

/// The paths in a file's code that lead to other modules, of imports and elsewhere: out of its own, or to an `inner` one.
fn paths(code: &str, inner: impl Fn(&str) -> bool) -> Vec<Vec<&str>> {
    let mut words = code.split_whitespace().peekable();
    let mut paths = Vec::new();
    let mut last = "";
    while let Some(&word) = words.peek() {
        match word {
            "crate" | "super" => branch(&mut words, Vec::new(), &mut paths),
            _ if inner(word) && !["::", ".", "mod", "fn", "let"].contains(&last) => {
                branch(&mut words, Vec::new(), &mut paths)
            }
            _ => _ = words.next(),
        }
        last = word;
    }
    // A name alone may be anything.
    paths.retain(|path| path.len() > 1 || ["crate", "super"].contains(&path[0]));
    paths
}

/// Takes the words of a path that goes on where `path` ends, or of all that branch from it.
fn branch<'a>(words: &mut Peekable<SplitWhitespace<'a>>, mut path: Vec<&'a str>, paths: &mut Vec<Vec<&'a str>>) {
    let is_name = |word: &&str| word.starts_with(|first: char| first.is_alphabetic() || "_*".contains(first));
    while let Some(name) = words.next_if(is_name) {
        path.push(name);
        if words.next_if_eq(&"::").is_none() {
            return paths.push(path);
        }
    }
    if words.next_if_eq(&"{").is_none() {
        return paths.push(path);
    }
    while words.next_if_eq(&"}").is_none() {
        match words.peek() {
            Some(&"as") => _ = words.nth(1),
            Some(word) if is_name(word) => branch(words, path.clone(), paths),
            Some(_) => _ = words.next(),
            None => return,
        }
    }
}

#[test]
fn a_circle_is_seen_however_it_is_imported() {
    let files = [
        // By a tree of several lines, and by a path in the midst of code.
        ("desk.rs", "use std::{fs, io};\nuse crate::{\n    house::{self, room::{Door as D,}},\n};"),
        ("house/mod.rs", "mod room;\npub use room::Door;\nfn f() -> bool { room::g() }"),
        ("house/room.rs", "use super::Window;\nfn g() { _ = (super::super::lamp::light::<u8>(), 1); }"),
        ("lamp.rs", "pub(crate) use super::desk::*;"),
        // One of a module with what is inside it.
        ("barn/mod.rs", "mod saw;\npub use saw::Saw;"),
        ("barn/saw.rs", "use super::Nail;\nuse crate::wood::Oak;"),
        ("wood.rs", "use crate::barn::Saw;"),
        // One of folders, not of files; neither comments nor tests count.
        ("park/gate.rs", "//! [`super::pond`]\nuse crate::tree::Leaf;"),
        ("park/mod.rs", "mod gate;\nmod pond;"),
        ("park/pond.rs", "#[cfg(test)]\nmod tests {\n    use crate::lamp; }"),
        ("tree.rs", "use crate::park::pond;"),
    ];
    let files = files.map(|(path, text)| (format!("made/src/{path}"), code(text))).into();
    let of_files = "made/src/desk.rs -> made/src/house/room.rs -> made/src/lamp.rs -> made/src/desk.rs
    made/src/desk.rs: crate::house::room::Door
    made/src/house/room.rs: super::super::lamp::light
    made/src/lamp.rs: super::desk::*\n";
    assert_eq!(circles(&files, "made/src", Unit::File), of_files);
    let of_family = "made/src/barn/mod.rs -> made/src/barn/saw.rs -> made/src/wood.rs -> made/src/barn/mod.rs
    made/src/barn/mod.rs: saw::Saw
    made/src/barn/saw.rs: crate::wood::Oak
    made/src/wood.rs: crate::barn::Saw\n";
    assert!(circles(&files, "made/src", Unit::Family).starts_with(of_family));
    let of_folders = "made/src/park/mod.rs -> made/src/tree.rs -> made/src/park/mod.rs
    made/src/park/gate.rs: crate::tree::Leaf
    made/src/tree.rs: crate::park::pond\n";
    assert!(circles(&files, "made/src", Unit::Folder).ends_with(of_folders));
}
