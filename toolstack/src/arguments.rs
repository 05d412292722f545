//! What libxl passes to its save helper on the command line.
//!
//! `--save-domain   IO_FD BACK_FD DOMID FLAGS CALLBACKS STREAM_TYPE`
//! `--restore-domain IO_FD BACK_FD DOMID STORE_PORT STORE_DOMID CONSOLE_PORT CONSOLE_DOMID CALLBACKS STREAM_TYPE`
//!
//! (Xen's `libxl_save_callout.c`: every argument but the first is a decimal number; no back channel is `-1`.)

use common::DomId;

/// What libxl wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Write a domain's memory to a stream.
    Save(SaveArguments),
    /// Fill a domain's memory from a stream.
    Restore(RestoreArguments),
}

/// The arguments of a save or of the sending end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveArguments {
    /// The stream's file descriptor.
    pub stream: i32,
    /// The domain to save.
    pub domain: DomId,
    /// It goes on running while it is saved: a migration. `xl save` stops it first.
    pub live: bool,
    /// The callbacks that libxl answers.
    pub callbacks: u32,
    /// No checkpoints are to follow (Remus, COLO).
    pub plain: bool,
}

/// The arguments of a restore or of the receiving end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreArguments {
    /// The stream's file descriptor.
    pub stream: i32,
    /// The domain to fill.
    pub domain: DomId,
    /// xenstore's event channel in the domain.
    pub store_port: u32,
    /// The domain that serves xenstore.
    pub store_domain: DomId,
    /// The console's event channel in the domain.
    pub console_port: u32,
    /// The domain that serves the console.
    pub console_domain: DomId,
    /// The callbacks that libxl answers.
    pub callbacks: u32,
    /// No checkpoints are to follow (Remus, COLO).
    pub plain: bool,
}

/// libxl's flag for a domain that runs while it is saved (`XCFLAGS_LIVE`).
const FLAG_LIVE: u32 = 1;

/// The arguments are not what libxl passes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no call from libxl: {0}")]
pub struct BadArguments(String);

impl Arguments {
    /// Reads the arguments, without the program's name.
    pub fn parse(arguments: &[String]) -> Result<Self, BadArguments> {
        let Some((operation, rest)) = arguments.split_first() else {
            return Err(BadArguments("no arguments".into()));
        };
        let mut numbers = Numbers { rest: rest.iter() };
        let parsed = match operation.as_str() {
            "--save-domain" => {
                let stream = numbers.next("stream")?;
                let _back_channel: i32 = numbers.next("back channel")?;
                let domain = numbers.next("domain")?;
                let flags: u32 = numbers.next("flags")?;
                let callbacks = numbers.next("callbacks")?;
                let stream_type: u32 = numbers.next("stream type")?;
                let (live, plain) = (flags & FLAG_LIVE != 0, stream_type == 0);
                Self::Save(SaveArguments { stream, domain, live, callbacks, plain })
            }
            "--restore-domain" => {
                let stream = numbers.next("stream")?;
                let _back_channel: i32 = numbers.next("back channel")?;
                let domain = numbers.next("domain")?;
                let store_port = numbers.next("store port")?;
                let store_domain = numbers.next("store domain")?;
                let console_port = numbers.next("console port")?;
                let console_domain = numbers.next("console domain")?;
                let callbacks = numbers.next("callbacks")?;
                let stream_type: u32 = numbers.next("stream type")?;
                Self::Restore(RestoreArguments {
                    stream,
                    domain,
                    store_port,
                    store_domain,
                    console_port,
                    console_domain,
                    callbacks,
                    plain: stream_type == 0,
                })
            }
            other => return Err(BadArguments(format!("unknown operation '{other}'"))),
        };
        match numbers.rest.next() {
            None => Ok(parsed),
            Some(extra) => Err(BadArguments(format!("unexpected argument '{extra}'"))),
        }
    }
}

/// The decimal arguments that are left.
struct Numbers<'a> {
    rest: std::slice::Iter<'a, String>,
}

impl Numbers<'_> {
    fn next<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, BadArguments> {
        let text = self.rest.next().ok_or_else(|| BadArguments(format!("{what} is missing")))?;
        text.parse().map_err(|_| BadArguments(format!("{what} is '{text}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, BadArguments> {
        Arguments::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_live_migration_is_told_from_a_save() {
        let expected = SaveArguments { stream: 9, domain: DomId(5), live: true, callbacks: 136, plain: true };
        assert_eq!(parse("--save-domain 9 -1 5 1 136 0"), Ok(Arguments::Save(expected)));
        let Ok(Arguments::Save(save)) = parse("--save-domain 9 -1 5 0 136 0") else { panic!("no save") };
        assert!(!save.live);
        let Ok(Arguments::Save(remus)) = parse("--save-domain 9 4 5 1 136 1") else { panic!("no save") };
        assert!(!remus.plain);
    }

    #[test]
    fn a_restore_names_both_backends() {
        let expected = RestoreArguments {
            stream: 0,
            domain: DomId(7),
            store_port: 1,
            store_domain: DomId(0),
            console_port: 2,
            console_domain: DomId(3),
            callbacks: 768,
            plain: true,
        };
        assert_eq!(parse("--restore-domain 0 1 7 1 0 2 3 768 0"), Ok(Arguments::Restore(expected)));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in ["", "--save-domain", "--save-domain 9 -1 5 1 136", "--save-domain 9 -1 5 1 136 0 0"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--save-domain 9 -1 70000 1 136 0").is_err());
        assert!(parse("--help").is_err());
    }
}
