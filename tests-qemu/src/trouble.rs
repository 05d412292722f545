//! Faults of the link between the hosts: packets that are dropped, delayed, or too large for it.
//!
//! It strikes what one agent sends to the other, or all that one host sends to the other. The runner's own way to each
//! dom0, and the guest's to the bridge, stay as they are: so whatever breaks, the test still sees it.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use crate::command::{command, run, run_line};
use crate::network::{PLACES, Place};

/// How many of a thousand packets are dropped.
pub const ALL: u32 = 1000;
/// A protocol of IP.
const UDP: u8 = 17;

/// Whose packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// The agents': `xl`'s own connection from dom0 to dom0 is on another network.
    Agents,
    /// Everything that the hosts say to each other.
    Hosts,
}

impl Between {
    /// The pairs of addresses, one of the sender's host and one of the receiver's.
    fn pairs(self, from: &Place, to: &Place) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        match self {
            Self::Agents => vec![(from.agent, to.agent)],
            Self::Hosts => vec![(from.agent, to.agent), (from.dom0, to.dom0)],
        }
    }
}

/// Trouble on the link; its end mends it.
#[must_use = "the link is mended when this is dropped"]
pub struct Trouble {
    undo: Vec<String>,
}

impl Trouble {
    /// Drops this many of a thousand packets, in both directions.
    pub fn lose(namespace: &str, between: Between, per_mille: u32) -> Result<Self> {
        Self::drop_packets(namespace, between, &[(None, per_mille)])
    }

    /// The same, and a firewall lets no UDP through between the agents.
    pub fn lose_and_deny_datagrams(namespace: &str, per_mille: u32) -> Result<Self> {
        Self::drop_packets(namespace, Between::Agents, &[(Some(UDP), ALL), (None, per_mille)])
    }

    /// Drops so many of a thousand packets of each protocol; of all, where none is named.
    fn drop_packets(namespace: &str, between: Between, what: &[(Option<u8>, u32)]) -> Result<Self> {
        let mut trouble = Self { undo: Vec::new() };
        for (from, to) in [(&PLACES[0], &PLACES[1]), (&PLACES[1], &PLACES[0])] {
            let pairs = between.pairs(from, to);
            for device in from.taps() {
                trouble.classify(namespace, &device)?;
                for ((source, destination), (protocol, per_mille)) in
                    pairs.iter().flat_map(|pair| what.iter().map(move |what| (*pair, *what)))
                {
                    let program = dropper(source, destination, protocol, per_mille);
                    let words = ["-n", namespace, "filter", "add", "dev", &device, "ingress", "bpf", "da", "bytecode"];
                    run(command("tc", words).arg(program))
                        .context("this kernel cannot drop packets (CONFIG_NET_CLS_BPF)")?;
                }
            }
        }
        Ok(trouble)
    }

    /// Cuts the link: nothing arrives, and nobody is told.
    pub fn cut(namespace: &str, between: Between) -> Result<Self> {
        Self::lose(namespace, between, ALL)
    }

    /// Lets no more than `kbit` kbit/s pass of what `from`'s agent sends to `to`'s. Nothing is lost: it waits.
    pub fn slow(namespace: &str, from: &Place, to: &Place, kbit: u32) -> Result<Self> {
        let mut trouble = Self { undo: Vec::new() };
        let filter = format!("match ip src {}/32 match ip dst {}/32", from.agent, to.agent);
        for device in to.taps() {
            // What belongs to no class passes unhindered.
            run_line(&format!("tc -n {namespace} qdisc replace dev {device} root handle 1: htb default 1"))?;
            trouble.undo.push(format!("tc -n {namespace} qdisc del dev {device} root"));
            for words in [
                format!("class add dev {device} parent 1: classid 1:2 htb rate {kbit}kbit"),
                format!("filter add dev {device} parent 1: protocol ip u32 {filter} flowid 1:2"),
            ] {
                run_line(&format!("tc -n {namespace} {words}")).context("this kernel cannot slow the link")?;
            }
        }
        Ok(trouble)
    }

    /// Lets filters look at what comes out of a TAP device.
    fn classify(&mut self, namespace: &str, device: &str) -> Result<()> {
        run_line(&format!("tc -n {namespace} qdisc add dev {device} clsact"))?;
        self.undo.push(format!("tc -n {namespace} qdisc del dev {device} clsact"));
        Ok(())
    }
}

impl Trouble {
    /// Leads what the agents say to each other over hops that carry IP packets of so many bytes, and drop longer ones without a
    /// word. Segments that a host left to its devices are cut before: they are packets there.
    pub fn narrow(namespace: &str, bytes: u32) -> Result<Self> {
        let mut trouble = Self { undo: Vec::new() };
        for (from, to) in [(&PLACES[0], &PLACES[1]), (&PLACES[1], &PLACES[0])] {
            let [hop, end] = Hop::devices(from);
            run_line(&format!("ip -n {namespace} link add {hop} mtu {bytes} type veth peer name {end} mtu {bytes}"))?;
            trouble.undo.push(format!("ip -n {namespace} link del {hop}"));
            for words in [
                format!("{hop} gso_max_size {bytes} up"),
                format!("{end} master br0 up"),
                // Who sends is not there, and nobody else is.
                format!("{end} type bridge_slave learning off flood off mcast_flood off"),
            ] {
                run_line(&format!("ip -n {namespace} link set {words}"))?;
            }
            let filter = format!("match ip src {}/32 match ip dst {}/32", from.agent, to.agent);
            for device in from.taps() {
                trouble.classify(namespace, &device)?;
                let words =
                    format!("dev {device} ingress protocol ip u32 {filter} action mirred egress redirect dev {hop}");
                run_line(&format!("tc -n {namespace} filter add {words}"))
                    .context("this kernel cannot lead packets away")?;
            }
        }
        Ok(trouble)
    }
}

/// What passed the hop of [`Trouble::narrow`].
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Bytes that passed, Ethernet's headers included.
    pub bytes: u64,
    /// Packets that passed.
    pub packets: u64,
    /// Packets that were too large.
    pub dropped: u64,
}

impl Hop {
    /// The figures of what the host of `place` sent. The calling thread must be in the namespace.
    pub fn from(place: &Place) -> Result<Self> {
        let text = fs::read_to_string("/proc/thread-self/net/dev")?;
        let [hop, _] = Self::devices(place);
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{hop}:")));
        let figures = line.context("the hop is gone")?.split_whitespace().map(str::parse);
        let figures: Vec<u64> = figures.collect::<Result<_, _>>().context("the kernel counts")?;
        // Eight figures of what it received, then those of what it sent.
        let [bytes, packets, _, dropped, ..] = figures[8..] else { bail!("the kernel counts something else") };
        Ok(Self { bytes, packets, dropped })
    }

    fn devices(from: &Place) -> [String; 2] {
        ["hop", "end"].map(|name| format!("{name}{}", from.letter))
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        for words in &self.undo {
            if let Err(error) = run_line(words) {
                println!("the link stays in trouble: {error:#}");
            }
        }
    }
}

/// A classifier that drops so many of a thousand IPv4 packets from one address to another, by chance: classic BPF,
/// as `tc` takes it. No other filter is so widely built in: netem and most actions are modules.
fn dropper(source: Ipv4Addr, destination: Ipv4Addr, protocol: Option<u8>, per_mille: u32) -> String {
    const ETHERTYPE: u32 = 12;
    const PROTOCOL: u32 = 23;
    const SOURCE: u32 = 26;
    const DESTINATION: u32 = 30;
    /// `SKF_AD_OFF + SKF_AD_RANDOM` of linux/filter.h.
    const RANDOM: u32 = 0xffff_f038;
    const LOAD_HALF: u32 = 0x28;
    const LOAD_WORD: u32 = 0x20;
    const LOAD_BYTE: u32 = 0x30;
    const JUMP_IF_EQUAL: u32 = 0x15;
    const JUMP_UNLESS_BELOW: u32 = 0x35;
    const MODULO: u32 = 0x94;
    const RETURN: u32 = 0x06;
    /// `TC_ACT_SHOT` and `TC_ACT_UNSPEC` of linux/pkt_cls.h.
    const DROP: u32 = 2;
    const NEXT: u32 = u32::MAX;
    let mut tests = vec![
        (LOAD_HALF, ETHERTYPE, 0x0800),
        (LOAD_WORD, SOURCE, u32::from(source)),
        (LOAD_WORD, DESTINATION, u32::from(destination)),
    ];
    tests.extend(protocol.map(|protocol| (LOAD_BYTE, PROTOCOL, u32::from(protocol))));
    let mut program = Vec::new();
    for (index, (load, field, wanted)) in tests.iter().enumerate() {
        // A test that fails jumps to the last line.
        let left = 2 * (tests.len() - 1 - index) + 4;
        program.extend([(*load, 0, 0, *field), (JUMP_IF_EQUAL, 0, left, *wanted)]);
    }
    program.extend([
        (LOAD_WORD, 0, 0, RANDOM),
        (MODULO, 0, 0, ALL),
        (JUMP_UNLESS_BELOW, 1, 0, per_mille),
        (RETURN, 0, 0, DROP),
        (RETURN, 0, 0, NEXT),
    ]);
    let words: Vec<String> =
        program.iter().map(|(code, yes, no, value)| format!("{code} {yes} {no} {value}")).collect();
    format!("{},{}", words.len(), words.join(","))
}
