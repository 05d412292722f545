//! Gates of the unikernel images: checks of the files for what a bare domain could not run, or would run wrongly.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::command::{command, run};

/// The agents' image, stripped, at most.
const FILE_LIMIT: u64 = 1536 * 1024;

/// What stands in the self-test's verdict, in its nodes in xenstore and in the names of its sources.
const SELF_TEST_WORD: &str = "selftest";

/// A gate: what must hold, and how to tell; an `Ok` may carry a figure for the reader.
struct Gate {
    what: &'static str,
    check: fn(&Path) -> Result<String>,
}

/// What every image must be, to run as a bare domain.
const BARE: &[Gate] = &[
    Gate { what: "no undefined symbol", check: no_undefined_symbol },
    Gate { what: "no interpreter, no dynamic section", check: nothing_dynamic },
    Gate { what: "Xen's notes are there", check: has_notes },
    Gate { what: "no access to the red zone", check: no_red_zone },
];

/// What hosts may expect besides of the image that they run.
const PRODUCTION: &[Gate] =
    &[Gate { what: "no self-test", check: has_no_self_test }, Gate { what: "sizes", check: sizes }];

/// Holds the gate above to its word: what it looks for is in the image that has the self-test.
const SELF_TEST: &[Gate] = &[Gate { what: "the self-test is there", check: has_self_test }];

/// Checks the stripped images, and the unstripped twin beside each; returns the exit status.
pub fn check(agent: &Path, self_test: &Path) -> Result<u8> {
    let gates = |image, gates: &'static [Gate]| BARE.iter().chain(gates).map(move |gate| (image, gate));
    let (mut passed, mut failed) = (0, 0);
    for (image, gate) in gates(agent, PRODUCTION).chain(gates(self_test, SELF_TEST)) {
        ensure!(image.exists(), "there is no {}: run `make image`", image.display());
        let name = image.file_stem().unwrap_or_default().display();
        match (gate.check)(image) {
            Ok(figure) => {
                println!("gate {name}: {} ... ok{figure}", gate.what);
                passed += 1;
            }
            Err(error) => {
                println!("gate {name}: {} ... FAILED: {error:#}", gate.what);
                failed += 1;
            }
        }
    }
    println!("image gates: {passed} passed, {failed} failed");
    Ok(u8::from(failed > 0))
}

/// The weak references of precompiled code would be calls to address 0.
fn no_undefined_symbol(image: &Path) -> Result<String> {
    let undefined = run(command("nm", ["--undefined-only"]).arg(image.with_extension("debug")))?;
    ensure!(undefined.trim().is_empty(), "{}", undefined.trim());
    Ok(String::new())
}

fn nothing_dynamic(image: &Path) -> Result<String> {
    let headers = run(command("readelf", ["--program-headers", "--wide"]).arg(image))?;
    for unwanted in ["INTERP", "DYNAMIC"] {
        ensure!(!headers.contains(unwanted), "the image has a program header {unwanted}");
    }
    Ok(String::new())
}

fn has_notes(image: &Path) -> Result<String> {
    let notes = run(command("readelf", ["--notes", "--wide"]).arg(image))?;
    let count = notes.lines().filter(|line| line.trim_start().starts_with("Xen ")).count();
    // GUEST_OS, XEN_VERSION, LOADER, VIRT_BASE, PADDR_OFFSET, ENTRY, PAE_MODE
    ensure!(count >= 7, "only {count} of Xen's notes:\n{notes}");
    Ok(format!(": {count}"))
}

/// Xen pushes event frames right below the stack pointer: nothing may be kept there.
fn no_red_zone(image: &Path) -> Result<String> {
    let code = run(command("objdump", ["--disassemble", "--no-show-raw-insn"]).arg(image.with_extension("debug")))?;
    let mut function = "";
    let mut found = Vec::new();
    for line in code.lines() {
        if line.ends_with(">:") {
            function = line;
        } else if touches_red_zone(line) {
            found.push(format!("{function} {}", line.trim()));
        }
    }
    ensure!(found.is_empty(), "{} accesses, such as {}", found.len(), found[0]);
    Ok(String::new())
}

/// Whether an instruction reads or writes below the stack pointer. Computing such an address is no access. Neither is what
/// lies an element or less before an index, `-0x1(%rsp,%rcx,1)`, `-0x8(%rsp,%rcx,8)`: that is an array in the frame, counted from
/// one; what the compiler keeps in the red zone starts at a multiple of eight, and an array of one element has no index.
fn touches_red_zone(line: &str) -> bool {
    let below = line.match_indices("(%rsp").any(|(at, found)| {
        let displacement = line[..at].rsplit([' ', ',', '\t', ':']).next().unwrap_or_default();
        let index = line[at + found.len()..].split(')').next().unwrap_or_default();
        let element = if index.ends_with(",8") { 8 } else { 7 };
        let distance =
            displacement.strip_prefix("-0x").map(|digits| u64::from_str_radix(digits, 16).unwrap_or(u64::MAX));
        distance.is_some_and(|distance| index.is_empty() || distance > element)
    });
    below && !line.split_whitespace().any(|word| word == "lea")
}

fn has_no_self_test(image: &Path) -> Result<String> {
    ensure!(!names_self_test(image)?, "the image has code of the self-test");
    Ok(String::new())
}

fn has_self_test(image: &Path) -> Result<String> {
    ensure!(
        names_self_test(image)?,
        "the image does not say '{SELF_TEST_WORD}': the agents' image is searched for it in vain"
    );
    Ok(String::new())
}

/// Whether the image has a text that is the self-test's, in capitals or not.
fn names_self_test(image: &Path) -> Result<bool> {
    let bytes = std::fs::read(image)?;
    Ok(bytes.windows(SELF_TEST_WORD.len()).any(|window| window.eq_ignore_ascii_case(SELF_TEST_WORD.as_bytes())))
}

fn sizes(image: &Path) -> Result<String> {
    let file = std::fs::metadata(image)?.len();
    let table = run(&mut command("size", [image]))?;
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    let figure = |index: usize| row.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    ensure!(file <= FILE_LIMIT, "the image has {file} bytes, more than {FILE_LIMIT}");
    Ok(format!(
        ": text {} KiB, data {} KiB, zeroed {} KiB, file {} KiB of at most {} KiB",
        figure(0) / 1024,
        figure(1) / 1024,
        figure(2) / 1024,
        file / 1024,
        FILE_LIMIT / 1024
    ))
}

#[cfg(test)]
mod tests {
    use super::touches_red_zone;

    #[test]
    fn only_accesses_below_the_stack_pointer_count() {
        assert!(touches_red_zone("  1000:\tmov    %rax,-0x8(%rsp)"));
        assert!(touches_red_zone("  1000:\tmovups -0x18(%rsp,%rcx,8),%xmm0"));
        assert!(!touches_red_zone("  1000:\tmov    %dl,-0x1(%rsp,%rcx,1)"));
        assert!(!touches_red_zone("  1000:\tmov    -0x8(%rsp,%rsi,8),%rdi"));
        assert!(touches_red_zone("  1000:\tmov    -0x8(%rsp,%rsi,4),%rdi"));
        assert!(!touches_red_zone("  1000:\tmov    0x8(%rsp),%rax"));
        assert!(!touches_red_zone("  1000:\tlea    -0x80(%rsp),%rsp"));
        assert!(!touches_red_zone("  1000:\tmov    -0x8(%rbp),%rax"));
    }
}
