//! Lines that the toolstack and the agent write for each other, and what the agent is started with: the module with its
//! identity and a seed, the command lines.
#![no_main]

use core::fmt::{Debug, Display};
use core::str::FromStr;

use common::control::{AgentStatus, Progress, Request, RequestId, Ring, SessionToken, State, Summary};
use agent::Address;
use agent::command_line::{AgentOptions, SelfTestOptions};
use agent::error::CommandLineError;
use agent::secure::Identity;
use libfuzzer_sys::fuzz_target;
use xen_pv::entropy::Seed;

fuzz_target!(|text: &str| {
    says_the_same::<Request>(text);
    says_the_same::<State>(text);
    says_the_same::<Progress>(text);
    says_the_same::<Summary>(text);
    says_the_same::<AgentStatus>(text);
    says_the_same::<RequestId>(text);
    says_the_same::<Ring>(text);
    says_the_same::<SessionToken>(text);
    let _ = (Identity::parse(text), Seed::parse(text));
    let agent = AgentOptions::parse(text).map(|options| match options.address {
        Address::Static { prefix, .. } => prefix,
        Address::Dhcp => 32,
    });
    is_a_prefix_or_one_line(agent);
    is_a_prefix_or_one_line(SelfTestOptions::parse(text).map(|options| options.prefix));
});

/// What comes of a command line: a network's prefix, or a refusal that can be shown to anybody.
fn is_a_prefix_or_one_line(outcome: Result<u8, CommandLineError>) {
    match outcome {
        Ok(prefix) => assert!((1..=32).contains(&prefix)),
        Err(refusal) => assert!(!refusal.to_string().contains(char::is_control), "{refusal}"),
    }
}

/// What is understood says the same when it is written down again.
fn says_the_same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(line) = text.parse::<T>() {
        let again = line.to_string();
        assert_eq!(again.parse::<T>().ok(), Some(line), "{again}");
    }
}
