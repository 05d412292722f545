//! Every structure and number of Xen's interface that this crate has, held against Xen's own headers: a C program prints
//! what the headers say, and that must be what Rust says.
//!
//! The headers are those of the source that the testbed builds its hypervisor from, and those that Debian 13 has of its own;
//! `XEN_INCLUDE` names another folder (the one in which `public/xen.h` is). Without headers the test fails: `make tools` fetches them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use xen_abi::domctl::INTERFACE_VERSIONS;
use xen_abi::flask;

/// A C expression and the value it must have.
type Fact = (String, u64);

/// The size of a structure and the offsets of its fields; a field has the same name in C unless one is given.
macro_rules! layout {
    ($facts:ident, $c:literal, $rust:ty { $($field:tt $(: $path:literal)?),* $(,)? }) => {
        $facts.push((format!("sizeof({})", $c), size_of::<$rust>() as u64));
        layout!(@fields $facts, $c, $rust { $($field $(: $path)?),* });
    };
    (@fields $facts:ident, $c:literal, $rust:ty { $($field:tt $(: $path:literal)?),* $(,)? }) => {
        $(
            #[allow(unused_assignments, unused_mut)]
            let mut path = stringify!($field);
            $(path = $path;)?
            $facts.push((format!("offsetof({}, {path})", $c), offset_of!($rust, $field) as u64));
        )*
    };
}

/// Numbers: a C expression and a Rust one each.
macro_rules! numbers {
    ($facts:ident, $($c:literal = $rust:expr),* $(,)?) => {
        $($facts.push(($c.to_owned(), $rust as u64));)*
    };
}

#[path = "abi/others.rs"]
mod others;
#[path = "abi/own.rs"]
mod own;

#[test]
fn permissions_are_those_of_the_policys_own_lists() {
    let folder = include_folder().join("../xsm/flask/policy");
    let list = |file: &str| fs::read_to_string(folder.join(file)).expect("Xen's lists of classes and permissions");
    let kernel = |line: &&str| line.starts_with("class ") && !line.contains("userspace");
    let classes = list("security_classes");
    let vectors = list("access_vectors");
    let in_domain =
        [("unpause", flask::DOMAIN_UNPAUSE), ("resume", flask::DOMAIN_RESUME), ("destroy", flask::DOMAIN_DESTROY)];
    let in_mmu = [("map_read", flask::MMU_MAP_READ)];
    for (class, number, permissions) in
        [("domain", flask::CLASS_DOMAIN, &in_domain[..]), ("mmu", flask::CLASS_MMU, &in_mmu)]
    {
        let place = classes.lines().filter(kernel).position(|line| line == format!("class {class}"));
        assert_eq!(number as usize, place.expect("the class") + 1);
        let (_, body) = vectors.split_once(&format!("\nclass {class}\n{{")).expect("the class");
        let (body, _) = body.split_once("\n}").expect("its end");
        let names: Vec<&str> =
            body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        for (name, bit) in permissions {
            let place = names.iter().position(|other| other == name).expect("the permission");
            assert_eq!(*bit, 1 << place, "{name}");
        }
    }
}

#[test]
fn kinds_of_resources_are_those_of_the_policys_own_header() {
    let header = include_folder().join("../xsm/flask/ss/policydb.h");
    let text = fs::read_to_string(header).expect("Xen's header of policies");
    let number = text.lines().find_map(|line| line.strip_prefix("#define OCON_DEVICE ")?.split_whitespace().next());
    assert_eq!(number.and_then(|number| number.parse().ok()), Some(flask::OCON_DEVICE));
}

#[test]
fn layouts_and_numbers_are_those_of_xens_headers() {
    let mut facts = Vec::new();
    own::all(&mut facts);
    others::all(&mut facts);
    facts.push(("XEN_DOMCTL_INTERFACE_VERSION".into(), 0));
    let mut versions = Vec::new();
    for folder in include_folders() {
        let mut said = what_the_headers_say(&folder, &facts);
        assert_eq!(said.len(), facts.len());
        let version = said.pop().expect("the last fact") as u32;
        assert!(INTERFACE_VERSIONS.contains(&version), "the domctl interface of {} is {version:#x}", folder.display());
        versions.push(version);
        let wrong: Vec<String> = facts
            .iter()
            .zip(said)
            .filter(|((_, ours), theirs)| ours != theirs)
            .map(|((expression, ours), theirs)| {
                format!("{expression} is {theirs} in {}, {ours} here", folder.display())
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    println!("held against {versions:#x?}");
}

/// Of Xen 4.17 and 4.20, or the one that the environment names.
fn include_folders() -> Vec<PathBuf> {
    match env::var_os("XEN_INCLUDE") {
        Some(folder) => vec![with_headers(folder.into())],
        None => vec![include_folder(), with_headers(testbed().join("debian-13/headers/usr/include"))],
    }
}

/// Of the source that has the policy, too.
fn include_folder() -> PathBuf {
    with_headers(env::var_os("XEN_INCLUDE").map_or_else(|| testbed().join("xen-source/xen/include"), PathBuf::from))
}

fn testbed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/testbed")
}

fn with_headers(folder: PathBuf) -> PathBuf {
    assert!(
        folder.join("public/xen.h").exists(),
        "no Xen headers in {}: `make tools` fetches them, or XEN_INCLUDE names them",
        folder.display()
    );
    folder
}

const HEADERS: &str = "\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdbool.h>
#define __XEN_TOOLS__ 1
#include <public/xen.h>
#include <public/domctl.h>
#include <public/event_channel.h>
#include <public/features.h>
#include <public/grant_table.h>
#include <public/memory.h>
#include <public/sched.h>
#include <public/version.h>
#include <public/vm_event.h>
#include <public/hvm/dm_op.h>
#include <public/hvm/hvm_op.h>
#include <public/hvm/params.h>
#include <public/hvm/save.h>
#include <public/io/console.h>
#include <public/io/netif.h>
#include <public/io/pciif.h>
#include <public/io/ring.h>
#include <public/io/xs_wire.h>
#include <public/xsm/flask_op.h>
";

/// Compiles and runs a program that prints the value of every expression, in order.
fn what_the_headers_say(include: &Path, facts: &[Fact]) -> Vec<u64> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("abi.c"), folder.join("abi"));
    let mut text = String::from(HEADERS);
    text.push_str("int main(void) {\n");
    for (expression, _) in facts {
        text.push_str(&format!("\tprintf(\"%llu\\n\", (unsigned long long)({expression}));\n"));
    }
    text.push_str("\treturn 0;\n}\n");
    fs::write(&source, text).expect("the test's folder is writable");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut compile = Command::new(&compiler);
    compile.arg("-w").arg("-I").arg(include).arg("-o").arg(&program).arg(&source);
    assert!(compile.status().expect("there is a C compiler").success(), "the headers do not compile");
    let output = Command::new(&program).output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("it prints numbers");
    text.lines().map(|line| line.parse().expect("it prints numbers")).collect()
}
