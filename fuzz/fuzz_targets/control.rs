//! Lines that the toolstack and the agent write for each other, and the module with an agent's identity.
#![no_main]

use core::fmt::{Debug, Display};
use core::str::FromStr;

use agent::control::{AgentStatus, Progress, Request, RequestId, SessionToken, State, Summary};
use agent::secure::Identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    says_the_same::<Request>(text);
    says_the_same::<State>(text);
    says_the_same::<Progress>(text);
    says_the_same::<Summary>(text);
    says_the_same::<AgentStatus>(text);
    says_the_same::<RequestId>(text);
    says_the_same::<SessionToken>(text);
    let _ = Identity::parse(text);
});

/// What is understood says the same when it is written down again.
fn says_the_same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(line) = text.parse::<T>() {
        let again = line.to_string();
        assert_eq!(again.parse::<T>().ok(), Some(line), "{again}");
    }
}
