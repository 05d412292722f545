//! Who prints to somebody who has gone does not die of it.

use std::io;
use std::process::{Command, Stdio};

#[test]
fn a_program_whose_reader_is_gone_ends_as_it_would_have() -> io::Result<()> {
    for (program, word) in
        [(env!("CARGO_BIN_EXE_tsmc-save-helper"), "--version"), (env!("CARGO_BIN_EXE_tsmc"), "status")]
    {
        let mut expected = None;
        for is_read in [true, false] {
            let (reader, writer) = io::pipe()?;
            let kept = is_read.then_some(reader);
            let mut child = Command::new(program);
            child.arg(word).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            let status = child.status()?;
            drop(kept);
            assert_eq!(*expected.get_or_insert(status), status, "{program} {word}");
        }
    }
    Ok(())
}
