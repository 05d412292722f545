//! Counts the entries of a guest's grant table that let another domain use its pages: `lent-entries GUEST DOMID`.

use std::io;

use common::DomId;
use xen_abi::grant_table::GrantEntryV1;
use xen_abi::privcmd::{GrantFrames, Privcmd};

fn main() -> io::Result<()> {
    let numbers: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [guest, other] = numbers[..] else {
        return Err(io::Error::other("usage: lent-entries GUEST DOMID    the numbers of both domains"));
    };
    let privcmd = Privcmd::open()?;
    let (frames, _) = privcmd.grant_frames(DomId(guest)).map_err(|errno| io::Error::other(errno.to_string()))?;
    let table = GrantFrames::map(&privcmd, DomId(guest), 0, frames)?;
    let is_lent = |index: &usize| GrantEntryV1::of_word(table.entry(*index)).is_for(DomId(other));
    println!("{}", (0..table.entries()).filter(is_lent).count());
    Ok(())
}
