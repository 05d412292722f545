//! A slower link for each host, in both directions.
//!
//! A queue can only be limited where packets leave a device, and the TAP device of a host is where they reach it. So a
//! pair of virtual cables stands between the host and the bridge meanwhile, each end with its limit.

use anyhow::{Context, Result};

use crate::command::run_line;
use crate::network::{Place, limit};
use crate::scenario::testbed::Testbed;

/// Slow links; their end makes them fast again.
#[must_use = "the links are fast again when this is dropped"]
pub struct Shaped {
    namespace: String,
    places: Vec<Place>,
}

impl Shaped {
    /// Limits what each host of `testbed` sends, and what it receives, to `mbit` Mbit/s.
    pub fn new(testbed: &Testbed, mbit: u32) -> Result<Self> {
        let shaped = Self { namespace: testbed.run.namespace.clone(), places: testbed.run.places().to_vec() };
        let namespace = &shaped.namespace;
        for place in &shaped.places {
            let ([tap, own], [switch, inside, outside]) = (place.taps(), names(place));
            for words in [
                format!("add {switch} type bridge forward_delay 0 mcast_snooping 0"),
                format!("add {inside} type veth peer name {outside}"),
                format!("set {switch} up"),
                format!("set {inside} master {switch} up"),
                format!("set {outside} master br0 up"),
                format!("set {tap} master {switch}"),
                format!("set {own} master {switch}"),
            ] {
                run_line(&format!("ip -n {namespace} link {words}")).context("this kernel has no virtual cables")?;
            }
            [inside, outside].iter().try_for_each(|device| limit(namespace, device, mbit))?;
        }
        Ok(shaped)
    }
}

/// The switch that the host is on, and the ends of its cable there and at the bridge.
fn names(place: &Place) -> [String; 3] {
    ["switch", "inside", "outside"].map(|what| format!("{what}{}", place.letter))
}

impl Drop for Shaped {
    fn drop(&mut self) {
        let namespace = &self.namespace;
        for place in &self.places {
            let ([tap, own], [switch, inside, _]) = (place.taps(), names(place));
            for words in [
                format!("set {tap} master br0"),
                format!("set {own} master br0"),
                format!("del {inside}"),
                format!("del {switch}"),
            ] {
                if let Err(error) = run_line(&format!("ip -n {namespace} link {words}")) {
                    println!("the link stays slow: {error:#}");
                }
            }
        }
    }
}
