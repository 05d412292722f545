//! The sizes that the documents name are those of the code.

use common::control::Size;
use common::cost::memory_for;

const DOCUMENT: &str = include_str!("../../docs/install.md");

#[test]
fn the_memory_that_the_manual_names_is_what_the_agent_needs() {
    let guests = [("3.75 GiB", 3840), ("16 GiB", 16 << 10), ("64 GiB", 64 << 10), ("256 GiB", 256 << 10)];
    let rows = guests.map(|(name, mib)| {
        let memory = [1, 2, 4, 6].map(|at_once| memory_for(&Size::of_memory(mib), at_once).to_string());
        format!("| {name} | {} |\n", memory.join(" | "))
    });
    assert!(DOCUMENT.contains(&rows.concat()), "the table should be\n{}", rows.concat());
}
