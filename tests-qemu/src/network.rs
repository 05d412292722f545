//! The network between the hosts: a bridge in a namespace of its own, a TAP device for each network card of a host.
//!
//! Nothing of it is visible outside the namespace, so runs may stand side by side with the same addresses.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cleanup::{self, Undo};
use crate::command::run_line;

/// Names of our namespaces start with this; what follows is the runner's process number.
pub const PREFIX: &str = "tsmc-";

/// The address of the bridge itself: the third place, from which guests are probed.
pub const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A host's letter and its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// `A` or `B`.
    pub letter: char,
    /// dom0's address.
    pub dom0: Ipv4Addr,
    /// The agent's address.
    pub agent: Ipv4Addr,
}

/// The two hosts.
pub const PLACES: [Place; 2] = [
    Place { letter: 'A', dom0: Ipv4Addr::new(10, 77, 0, 2), agent: Ipv4Addr::new(10, 77, 0, 11) },
    Place { letter: 'B', dom0: Ipv4Addr::new(10, 77, 0, 3), agent: Ipv4Addr::new(10, 77, 0, 12) },
];

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);

/// A second guest's address.
pub const SECOND_GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 22);

/// The addresses of all guests that there may be at once.
pub const GUESTS: [Ipv4Addr; 4] = [GUEST, SECOND_GUEST, Ipv4Addr::new(10, 77, 0, 23), Ipv4Addr::new(10, 77, 0, 24)];

/// The hardware address of the interface of the guest at this address.
pub fn guest_mac(address: Ipv4Addr) -> String {
    format!("00:16:3e:77:00:{:02x}", address.octets()[3])
}

impl Place {
    /// Where dom0's daemon listens.
    pub fn dom0_socket(&self) -> SocketAddr {
        SocketAddr::from((self.dom0, tests_qemu::exec::PORT))
    }

    /// The names of its TAP devices: of dom0's network card, and of the second one, which is for the agent.
    pub fn taps(&self) -> [String; 2] {
        ["tap", "nic"].map(|name| format!("{name}{}", self.letter))
    }

    /// The hardware address of dom0's network card.
    pub fn mac(&self) -> String {
        format!("52:54:00:77:00:{:02x}", self.dom0.octets()[3])
    }

    /// The hardware address of the second network card.
    pub fn second_mac(&self) -> String {
        format!("52:54:00:77:01:{:02x}", self.dom0.octets()[3])
    }
}

/// Makes the namespace, its bridge and the TAP devices of `places`, and registers their removal.
pub fn create(namespace: &str, places: &[Place]) -> Result<()> {
    cleanup::register(Undo::Namespace(namespace.to_owned()));
    run_line(&format!("ip netns add {namespace}"))?;
    run_line(&format!("ip -n {namespace} link set lo up"))?;
    run_line(&format!("ip -n {namespace} link add br0 type bridge forward_delay 0 mcast_snooping 0"))?;
    run_line(&format!("ip -n {namespace} addr add {BRIDGE}/24 dev br0"))?;
    run_line(&format!("ip -n {namespace} link set br0 up"))?;
    // The prober must not have to ask for the guest's address while the guest is away.
    for guest in GUESTS {
        let mac = guest_mac(guest);
        run_line(&format!("ip -n {namespace} neigh replace {guest} lladdr {mac} dev br0 nud permanent"))?;
    }
    for tap in places.iter().flat_map(Place::taps) {
        // vnet_hdr lets whole segments of up to 64 KiB and unfinished checksums cross from host to host.
        run_line(&format!("ip -n {namespace} tuntap add dev {tap} mode tap vnet_hdr"))?;
        run_line(&format!("ip -n {namespace} link set {tap} master br0 up"))?;
    }
    Ok(())
}

/// Limits what each network card of `places` receives to `mbit` Mbit/s.
pub fn shape(namespace: &str, places: &[Place], mbit: u32) -> Result<()> {
    places.iter().flat_map(Place::taps).try_for_each(|tap| limit(namespace, &tap, mbit))
}

/// Limits what leaves by a device to `mbit` Mbit/s.
pub fn limit(namespace: &str, device: &str, mbit: u32) -> Result<()> {
    // A burst must hold the largest segment (64 KiB) and a few milliseconds of the rate.
    let burst = (mbit * 1_000_000 / 8 / 200).max(128 * 1024);
    let words = format!("dev {device} root tbf rate {mbit}mbit burst {burst} latency 100ms");
    run_line(&format!("tc -n {namespace} qdisc replace {words}")).context("cannot shape the link")?;
    Ok(())
}

/// Undoes [`shape`].
pub fn unshape(namespace: &str, places: &[Place]) -> Result<()> {
    places
        .iter()
        .flat_map(Place::taps)
        .try_for_each(|tap| run_line(&format!("tc -n {namespace} qdisc del dev {tap} root")).map(drop))
}

/// Bytes that the host of `place` has received from the network. The calling thread must be in the namespace.
pub fn received_by(place: &Place) -> Result<u64> {
    Ok(received_by_cards(place)?.iter().sum())
}

/// The same for each of its network cards.
pub fn received_by_cards(place: &Place) -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let received_by = |tap: String| -> Result<u64> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&tap)?.strip_prefix(':'));
        // Eight figures of what came out of the host, then those of what went to it.
        let word = line.context("the TAP device is gone")?.split_whitespace().nth(8);
        word.and_then(|word| word.parse().ok()).context("the kernel counts bytes")
    };
    let [first, second] = place.taps();
    Ok([received_by(first)?, received_by(second)?])
}

/// Whether a process lives in the namespace: a run that another checkout of this project keeps up, say.
pub fn is_inhabited(namespace: &str) -> bool {
    run_line(&format!("ip netns pids {namespace}")).is_ok_and(|pids| !pids.trim().is_empty())
}

/// Moves the calling thread, and the threads it will start, into the namespace.
pub fn enter(namespace: &str) -> Result<()> {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("no network namespace {namespace}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the network namespace {namespace}"))
}
