//! Pages that the guest grants: a guest whose grant table is in use, and grows.

use std::convert::Infallible;
use std::time::Duration;
use std::{fs, io, thread};

use common::DomId;
use xen_abi::privcmd::Offers;

use crate::options::Options;

/// Pages that are granted at a time, and the time until the next.
const STEP: u32 = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// How many all programs of the guest may grant.
const LIMIT: &str = "/sys/module/xen_gntalloc/parameters/limit";

/// Grants pages and withdraws them, for ever.
pub fn run(options: &Options) -> io::Result<Infallible> {
    fs::write(LIMIT, "1000000")?;
    let offers = Offers::open()?;
    loop {
        let mut offered = Vec::new();
        while (offered.len() as u32) < options.grants.div_ceil(STEP) {
            match offers.offer(DomId::DOM0, STEP) {
                Ok(offer) => offered.push(offer),
                Err(error) => {
                    println!("load: no more than {} steps of {STEP} pages can be granted: {error}", offered.len());
                    break;
                }
            }
            thread::sleep(PAUSE);
        }
        if options.keep_grants {
            loop {
                thread::park();
            }
        }
        for offer in offered {
            offers.withdraw(offer, STEP)?;
            thread::sleep(PAUSE);
        }
    }
}
