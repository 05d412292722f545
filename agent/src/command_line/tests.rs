use alloc::format;
use alloc::string::{String, ToString};
use core::net::Ipv4Addr;

use common::DomId;
use log::LevelFilter;
use proptest::prelude::*;

use super::{AgentOptions, SelfTestOptions, Task};
use crate::config::{Address, DEFAULT_PORT, MTU};

fn refusal(line: &str) -> String {
    AgentOptions::parse(line).unwrap_err().to_string()
}

fn self_test_refusal(line: &str) -> String {
    SelfTestOptions::parse(line).unwrap_err().to_string()
}

#[test]
fn a_command_line_gives_address_gateway_and_port() {
    let options = AgentOptions::parse("ip=10.77.0.11/24 gw=10.77.0.1").unwrap();
    let address = Ipv4Addr::new(10, 77, 0, 11);
    let gateway = Some(Ipv4Addr::new(10, 77, 0, 1));
    assert_eq!(options.address, Address::Static { address, prefix: 24, gateway });
    assert_eq!((options.port, options.mtu), (DEFAULT_PORT, None));
    assert_eq!((options.log_level, options.plain), (LevelFilter::Info, false));
    let options = AgentOptions::parse(" plain\tmtu=9000 port=9  ip=dhcp loglevel=warn ").unwrap();
    assert_eq!((options.address, options.port, options.mtu), (Address::Dhcp, 9, Some(9000)));
    assert_eq!((options.log_level, options.plain), (LevelFilter::Warn, true));
}

#[test]
fn a_word_that_nobody_knows_is_refused_by_its_name() {
    let known = "known are: ip=, gw=, port=, mtu=, loglevel=, plain";
    for word in ["prot=7078", "PORT=7078", "port", "=", "plain=", "plain=yes", "selftest", "meter", "peer=10.77.0.2"] {
        let line = ["ip=dhcp ", word].concat();
        assert_eq!(refusal(&line), ["unknown word '", word, "' on the command line; ", known].concat());
    }
}

#[test]
fn a_word_that_comes_twice_is_refused() {
    assert_eq!(refusal("port=1 ip=dhcp port=1"), "port= is on the command line twice");
    assert_eq!(refusal("ip=dhcp ip=10.77.0.11/24"), "ip= is on the command line twice");
    assert_eq!(refusal("plain ip=dhcp plain"), "plain is on the command line twice");
}

#[test]
fn a_value_that_makes_no_sense_is_refused() {
    let port = "'port=70000' on the command line makes no sense; port= takes a number from 1 to 65535";
    assert_eq!(refusal("ip=dhcp port=70000"), port);
    assert!(refusal("ip=dhcp mtu=1").ends_with(&format!("from {} to {}", MTU.start(), MTU.end())));
    let addresses =
        ["", "10.77.0/24", "10.77.0.1/77", "10.77.0.1/0", "0.0.0.0/24", "224.0.0.1/24", "255.255.255.255/24"];
    let words = addresses.map(|address| ["ip=", address].concat());
    let words = words.iter().map(String::as_str);
    for word in
        words.chain(["gw=x", "gw=0.0.0.0", "port=0", "port=", "mtu=575", "mtu=9217", "mtu=large", "loglevel=all"])
    {
        let line = if word.starts_with("ip=") { word.to_string() } else { ["ip=10.77.0.1/24 ", word].concat() };
        let refusal = refusal(&line);
        let expected =
            ["'", word, "' on the command line makes no sense; ", &word[..=word.find('=').unwrap()]].concat();
        assert!(refusal.starts_with(&expected), "{line}: {refusal}");
    }
}

#[test]
fn an_agent_without_an_address_and_one_with_a_gateway_that_dhcp_gives_are_refused() {
    assert!(refusal("port=1").starts_with("the command line has no ip=, which takes an IPv4 address"));
    assert!(refusal("ip=dhcp gw=10.77.0.1").ends_with("goes with an ip= that is not dhcp"));
}

#[test]
fn the_self_test_has_one_task() {
    let task = |words: &str| SelfTestOptions::parse(&["ip=10.77.0.11/24 ", words].concat()).unwrap().task;
    assert_eq!(task("peer=10.77.0.2"), Task::Everything { peer: Ipv4Addr::new(10, 77, 0, 2) });
    assert_eq!(task("meter"), Task::Meter);
    assert_eq!(task("panic"), Task::Panic);
    assert_eq!(task("arm=1"), Task::Arm(DomId(1)));
    assert_eq!(task("adopt=2"), Task::Adopt(DomId(2)));
    assert_eq!(task("hold=3"), Task::Hold(DomId(3)));
    assert_eq!(task("leave=32751"), Task::Leave(DomId(32751)));
    for words in ["", " meter panic", " arm=1 adopt=1"] {
        let refusal = self_test_refusal(&["ip=10.77.0.11/24", words].concat());
        assert!(refusal.starts_with("the command line must have one of peer=, meter,"), "{refusal}");
    }
    for (word, refused) in [("port=1", "unknown word"), ("meter=1", "unknown word"), ("arm=0", "'arm=0' on")] {
        let refusal = self_test_refusal(&["ip=10.77.0.11/24 ", word].concat());
        assert!(refusal.starts_with(refused), "{refusal}");
    }
    assert!(self_test_refusal("meter").starts_with("the command line has no ip=, "));
    assert!(self_test_refusal("ip=dhcp meter").starts_with("'ip=dhcp' on"));
}

proptest! {
    #[test]
    fn a_refusal_is_one_short_line(line in "((ip=|gw=|port=|mtu=|plain|peer=|arm=)?\\PC{0,60}[ \n]){0,4}") {
        let errors = [AgentOptions::parse(&line).err(), SelfTestOptions::parse(&line).err()];
        for refusal in errors.into_iter().flatten().map(|error| error.to_string()) {
            prop_assert!(refusal.len() < 600 && !refusal.contains(char::is_control), "{}", refusal);
        }
    }
}
