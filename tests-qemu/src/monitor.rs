//! QEMU's monitor of a host (QMP): the registers of its processor.

use std::io::{self, BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::network::Place;

/// An abstract name: it belongs to the network namespace of the run, and leaves nothing on the disk.
fn name(place: &Place) -> String {
    format!("tsmc-monitor-{}", place.letter)
}

/// QEMU's arguments for a host that has one.
pub fn arguments(place: &Place) -> [String; 4] {
    let socket = format!("socket,id=monitor,path={},abstract=on,tight=on,server=on,wait=off", name(place));
    ["-chardev".to_owned(), socket, "-mon".to_owned(), "chardev=monitor,mode=control".to_owned()]
}

/// A connection to a host's monitor.
pub struct Monitor {
    answers: BufReader<UnixStream>,
    commands: UnixStream,
}

/// What tells whose code a processor runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    pub rip: u64,
    pub cs: u64,
    pub cr3: u64,
    /// It waits for an interrupt.
    pub halted: bool,
}

impl Monitor {
    /// Of a host in the calling thread's network namespace.
    pub fn connect(place: &Place) -> io::Result<Self> {
        let commands = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name(place))?)?;
        let mut monitor = Self { answers: BufReader::new(commands.try_clone()?), commands };
        monitor.ask(&json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    /// Of the host's first processor, which is not stopped for that: under TCG the program counter is then that of the last
    /// jump out of translated code. Stopping is no way: guests of the emulated hypervisor do not always survive it.
    pub fn registers(&mut self) -> io::Result<Registers> {
        let arguments = json!({"command-line": "info registers"});
        let said = self.ask(&json!({"execute": "human-monitor-command", "arguments": arguments}))?;
        said.as_str().and_then(Registers::parse).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn ask(&mut self, command: &Value) -> io::Result<Value> {
        writeln!(self.commands, "{command}")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A greeting and events come as well.
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
        }
    }
}

impl Registers {
    /// From the lines of `info registers`.
    fn parse(text: &str) -> Option<Self> {
        let of = |name: &str| {
            let value = text.split_once(name)?.1.split(|c: char| !c.is_ascii_hexdigit()).next()?;
            u64::from_str_radix(value, 16).ok()
        };
        Some(Self { rip: of("RIP=")?, cs: of("CS =")?, cr3: of("CR3=")?, halted: of("HLT=")? == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::Registers;

    #[test]
    fn registers_are_found_in_what_the_monitor_says() {
        let said = "RAX=0000000000000000 RBX=1\r\nRIP=ffff82d04022a7b5 RFL=00000246 [---Z-P-] CPL=0 II=0 HLT=1\r\n\
                    CS =e008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64\r\nCR0=80050033 CR2=1 CR3=000000005f104000 CR4=1\r\n";
        let registers = Registers { rip: 0xffff_82d0_4022_a7b5, cs: 0xe008, cr3: 0x5f10_4000, halted: true };
        assert_eq!(Registers::parse(said), Some(registers));
        assert_eq!(Registers::parse("RIP=1"), None);
    }
}
