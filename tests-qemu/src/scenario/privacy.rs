//! The proof that dom0 cannot read a private guest: it tries what dom0 could do, and every attempt must be refused.

use anyhow::{Result, bail};
use tests_qemu::exec::Dom0;

use super::agents::domain_id;
use super::guest;

/// What dom0 tried, and how it was answered.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it was.
    pub what: &'static str,
    /// Whether it was refused.
    pub refused: bool,
    /// What the tool said.
    pub answer: String,
}

/// Tries to map a page of the guest, to read its registers and to save it.
pub fn try_reading(dom0: &Dom0) -> Result<Vec<Attempt>> {
    let Some(domain) = domain_id(dom0, guest::NAME)? else { bail!("there is no guest to try to read") };
    let domain = domain.to_string();
    // Frame 0x100 is at 1 MiB: RAM of every Linux guest. Comparing it with itself maps it twice.
    let map = ["xen-mfndump", "memcmp-mfns", &domain, "100", &domain, "100"];
    let registers = ["xenctx", &domain];
    let save = ["xl", "save", guest::NAME, "/dev/null"];
    // Only the tool's own words tell a refusal from another failure: one of them exits with 0 either way.
    let attempts: [(&str, &[&str], &str); 3] = [
        ("map a page", &map, "Failed to map"),
        ("read its registers", &registers, "Permission denied"),
        ("save it", &save, "Permission denied"),
    ];
    attempts.into_iter().map(|(what, command, refusal)| attempt(dom0, what, command, refusal)).collect()
}

fn attempt(dom0: &Dom0, what: &'static str, command: &[&str], refusal: &str) -> Result<Attempt> {
    let output = dom0.run(command)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().find(|line| line.contains(refusal));
    let answer = said.or_else(|| text.lines().next()).unwrap_or_default().trim().to_owned();
    Ok(Attempt { what, refused: said.is_some(), answer })
}
