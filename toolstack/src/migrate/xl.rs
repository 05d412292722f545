//! `xl migrate` as a child, and what it prints.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::process::Signal;

use super::Migrate;
use crate::helper::{MAX_DOWNTIME, MODE, VERIFY};
use crate::process::Process;

/// What our helpers say when they refuse, after the domain's number and before the reason.
const REFUSALS: [&str; 2] = [" cannot leave host ", " cannot arrive on host "];

/// Where our save helper is.
pub const HELPER: &str = "/usr/lib/tsmc/tsmc-save-helper";
/// By which libxl finds it.
const LIBXL_SAVE_HELPER: &str = "LIBXL_SAVE_HELPER";

/// A running `xl migrate`.
pub struct Xl {
    child: Child,
    printed: Receiver<String>,
    seen: Vec<String>,
}

impl Xl {
    /// Starts it, with our save helper at both ends, whatever the environment says there. A terminal's Ctrl-C does not reach it: it
    /// would end without a word to anybody.
    pub fn start(order: &Migrate) -> io::Result<Self> {
        // Without a command for ssh, `xl` takes the host for the whole command.
        let receive = format!("exec {} {} {LIBXL_SAVE_HELPER}={HELPER} xl migrate-receive", order.ssh, order.host);
        let mut xl = Command::new("xl");
        xl.args(["migrate", "-s", "", &order.guest, &receive]).env(LIBXL_SAVE_HELPER, HELPER);
        if let Some(mode) = order.mode {
            xl.env(MODE, mode.to_string());
        }
        if order.verify {
            xl.env(VERIFY, "1");
        }
        if let Some(most) = order.max_downtime {
            xl.env(MAX_DOWNTIME, most.to_string());
        }
        xl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = xl.spawn()?;
        let (sender, printed) = channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for pipe in pipes.into_iter().flatten() {
            listen(pipe, sender.clone());
        }
        Ok(Self { child, printed, seen: Vec::new() })
    }

    /// What it has printed since the last time.
    pub fn lines(&mut self) -> Vec<String> {
        let lines: Vec<String> = self.printed.try_iter().collect();
        self.seen.extend_from_slice(&lines);
        lines
    }

    /// Whether it succeeded, once it has ended.
    pub fn ended(&mut self) -> io::Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Ends it.
    pub fn terminate(&self) {
        if let Some(process) = Process::of(self.child.id()) {
            process.signal(Signal::TERM);
        }
    }

    /// Why it failed, as far as what it printed says.
    pub fn reason(&mut self) -> String {
        self.lines();
        reason(&self.seen)
    }
}

fn listen(pipe: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            // The receiver is gone once the end is known.
            let _ = sender.send(String::from_utf8_lossy(&line).replace(char::is_control, " "));
        }
    });
}

/// The first refusal of a helper, else the first error of libxl, else the last line.
fn reason(lines: &[String]) -> String {
    let refusal = lines.iter().find_map(|line| {
        let (_, rest) = REFUSALS.iter().find_map(|words| line.split_once(words))?;
        Some(rest.split_once(": ")?.1)
    });
    let error = || lines.iter().find(|line| line.contains(" error: ")).map(String::as_str);
    let last = || lines.iter().rfind(|line| !line.trim().is_empty()).map(String::as_str);
    refusal.or_else(error).or_else(last).unwrap_or("xl says nothing").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_refusal_or_else_the_first_error_or_else_the_last_words() {
        let reason = |text: &str| reason(&text.lines().map(str::to_owned).collect::<Vec<_>>());
        let printed = "migration target: Ready to receive domain.\n\
                       tsmc: error: domain 9 cannot arrive on host 'b': too little free memory\n\
                       libxl: error: libxl_stream_read.c:1: failed\n\
                       tsmc: error: domain 5 cannot leave host 'a': the other host's agent gave up\n\
                       Migration failed, resuming at sender.\n";
        assert_eq!(reason(printed), "too little free memory");
        assert_eq!(reason("x\nlibxl: error: libxl_exec.c:1: no\nend\n"), "libxl: error: libxl_exec.c:1: no");
        assert_eq!(reason("ssh: connect to host b: no route\n\n"), "ssh: connect to host b: no route");
        assert_eq!(reason(""), "xl says nothing");
    }
}
