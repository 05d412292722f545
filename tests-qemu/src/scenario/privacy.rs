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
    // Frame 256 is 1 MiB: RAM of every Linux guest. Comparing it with itself maps it twice.
    let map = ["xen-mfndump", "memcmp-mfns", &domain, "256", &domain, "256"];
    let registers = ["xenctx", &domain];
    let save = ["xl", "save", guest::NAME, "/root/stolen"];
    let mut attempts = Vec::new();
    for (what, command) in
        [("map a page", map.as_slice()), ("read registers", registers.as_slice()), ("xl save", save.as_slice())]
    {
        let output = dom0.run(command)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let refused = output.status != 0;
        let answer = text.lines().find(|line| line.to_lowercase().contains("denied")).or_else(|| text.lines().next());
        attempts.push(Attempt { what, refused, answer: answer.unwrap_or_default().trim().to_owned() });
    }
    dom0.run(&["rm", "-f", "/root/stolen"])?;
    Ok(attempts)
}
