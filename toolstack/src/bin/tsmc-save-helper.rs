//! Drop-in for libxl's save helper: set `LIBXL_SAVE_HELPER` to its path in the environment of `xl`, `libvirtd` or
//! `virtxend`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use toolstack::arguments::Arguments;
use toolstack::follow::{self, Follow};
use toolstack::print;

const USAGE: &str = "\
Usage: libxl runs this program; people do not.

A drop-in for libxl-save-helper: live migrations of PVH guests go through this host's migration agent, everything else
goes to the stock helper. Set in the environment of the toolstack:

  LIBXL_SAVE_HELPER=/usr/lib/tsmc/tsmc-save-helper   on both hosts
  TSMC_MODE=tsmc|precopy|postcopy                    how pages move (default: tsmc)
  TSMC_VERIFY=1                                      compare all memory at the switch
  TSMC_MAX_DOWNTIME=MS                               let a guest stay that would stand still for longer
  TSMC_STOCK_HELPER=FILE                             the stock helper, if it is not where distributions put it";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("--help" | "-h") => {
            print::out(USAGE);
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            print::out(concat!("tsmc-save-helper ", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Some(follow::WORD) => return follow(&words[1..]),
        _ => {}
    }
    let call = match Arguments::parse(&words) {
        Ok(call) => call,
        Err(error) => {
            print::err(format_args!("tsmc-save-helper: {error}\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match toolstack::helper::serve(call, &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::err(format_args!("tsmc-save-helper: lost libxl: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What a helper leaves behind.
fn follow(words: &[String]) -> ExitCode {
    match Follow::parse(words).map(Follow::run) {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::from(2),
    }
}
