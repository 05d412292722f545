//! The results of `cargo bench` for the agent's path without Xen, read from `criterion`'s files.

use std::path::Path;

use serde_json::Value;

/// What was measured, in the order of the path.
const STEPS: [&str; 16] = [
    "step/memcpy",
    "step/scan",
    "step/seal",
    "step/seal_portable_ghash",
    "step/frame",
    "step/tcp_out",
    "step/tcp_in",
    "step/open",
    "step/open_portable_ghash",
    "step/place",
    "source/plain",
    "target/plain",
    "source/sealed",
    "target/sealed",
    "source/sealed_portable_ghash",
    "target/sealed_portable_ghash",
];

/// What both ends do in clear.
pub const PLAIN: [&str; 2] = ["source/plain", "target/plain"];
/// And sealed.
pub const SEALED: [&str; 2] = ["source/sealed", "target/sealed"];

/// GB/s of each step that was measured in this workspace.
pub fn read(workspace: &Path) -> Vec<(String, f64)> {
    let folder = workspace.join("target/criterion");
    STEPS.iter().filter_map(|step| Some(((*step).to_owned(), rate(&folder.join(step).join("new"))?))).collect()
}

fn rate(folder: &Path) -> Option<f64> {
    let read = |name: &str| {
        let json = std::fs::read(folder.join(name)).ok()?;
        serde_json::from_slice::<Value>(&json).ok()
    };
    let bytes = read("benchmark.json")?["throughput"]["Bytes"].as_f64()?;
    let nanoseconds = read("estimates.json")?["median"]["point_estimate"].as_f64()?;
    Some(bytes / nanoseconds)
}
