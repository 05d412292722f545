//! What is said to people. Whoever would read it may be gone: that must not end a process on which a guest depends, as `println!`
//! does when it cannot write.

use std::fmt::Display;
use std::io::{self, Write};

/// A line on standard output.
pub fn out(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on standard error.
pub fn err(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
