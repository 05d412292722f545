//! The outcome of a migration, as `tsmc migrate` reports it.

/// The exit statuses of `tsmc migrate`.
pub const EXIT_STATUS: &str = "\
Exit status:
  0   the guest runs on the other host
  1   it could not move, and runs on here as before; standard error says why
  2   the command line makes no sense
  3   it was given up (Ctrl-C, --timeout), and runs on here as before
  4   it runs on the other host, and the agents have lost each other: 'tsmc status' says when they have found each other again
  5   it is not clear yet: 'tsmc status' on both hosts
  78  it will fail again until the agent's configuration is changed";

/// What became of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs on the other host, with all of its memory.
    Moved,
    /// It runs on the other host; the rest of its memory follows by itself, and was not waited for.
    Follows,
    /// It runs on the other host, and the agents have lost each other, for this reason.
    Interrupted(String),
    /// It runs on here, for this reason.
    Stayed(String),
    /// It runs on here: the operator gave the migration up, or it took too long.
    GivenUp(&'static str),
    /// `xl` failed, for this reason, and it is not clear yet whose the guest is.
    Unclear(String),
}

impl Outcome {
    /// It is here, for this reason or since it was given up.
    pub fn stayed(reason: String, given_up: Option<&'static str>) -> Self {
        given_up.map_or(Self::Stayed(reason), Self::GivenUp)
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Moved | Self::Follows => 0,
            Self::Stayed(_) => 1,
            Self::GivenUp(_) => 3,
            Self::Interrupted(_) => 4,
            Self::Unclear(_) => 5,
        }
    }

    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Follows => "follows",
            Self::Interrupted(_) => "interrupted",
            Self::Stayed(_) => "stayed",
            Self::GivenUp(_) => "given-up",
            Self::Unclear(_) => "unclear",
        }
    }

    /// Why it is not simply there.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Moved | Self::Follows => None,
            Self::Interrupted(reason) | Self::Stayed(reason) | Self::Unclear(reason) => Some(reason),
            Self::GivenUp(reason) => Some(reason),
        }
    }

    /// One line about `guest` and the other `host` for people.
    pub fn sentence(&self, guest: &str, host: &str) -> String {
        match self {
            Self::Moved => format!("{guest} runs on {host}"),
            Self::Follows => {
                format!("{guest} runs on {host}; the rest of its memory follows by itself ('tsmc status')")
            }
            Self::Interrupted(reason) => format!(
                "{guest} runs on {host}, and waits for pages that are still here: {reason}; the agents go on calling each other"
            ),
            Self::Stayed(reason) => format!("{guest} runs on here: {reason}"),
            Self::GivenUp(reason) => format!("{guest} runs on here: {reason}"),
            Self::Unclear(reason) => {
                format!("it is not clear yet what became of {guest} ('tsmc status' on both hosts): {reason}")
            }
        }
    }
}
