//! Lines that the toolstack and the agent write for each other, and what the agent is started with: the module with its
//! identity and a seed, its command line.
#![no_main]

use core::fmt::{Debug, Display};
use core::str::FromStr;

use common::control::{AgentStatus, Progress, Request, RequestId, SessionToken, State, Summary};
use agent::secure::{Identity, Security};
use agent::{Address, Config};
use libfuzzer_sys::fuzz_target;
use xen_pv::entropy::Seed;

fuzz_target!(|text: &str| {
    says_the_same::<Request>(text);
    says_the_same::<State>(text);
    says_the_same::<Progress>(text);
    says_the_same::<Summary>(text);
    says_the_same::<AgentStatus>(text);
    says_the_same::<RequestId>(text);
    says_the_same::<SessionToken>(text);
    let _ = (Identity::parse(text), Seed::parse(text));
    if let Ok(Config { address: Address::Static { prefix, .. }, .. }) =
        Config::from_command_line(text, [2; 6], 0, Security::Plain)
    {
        assert!((1..=32).contains(&prefix));
    }
});

/// What is understood says the same when it is written down again.
fn says_the_same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(line) = text.parse::<T>() {
        let again = line.to_string();
        assert_eq!(again.parse::<T>().ok(), Some(line), "{again}");
    }
}
