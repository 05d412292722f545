//! What dom0 tries on the network card that the agent has for itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use common::DomId;
use rustix::io::Errno;
use xen_abi::privcmd::Frames;
use xen_abi::{Mfn, PAGE_SHIFT};

use crate::privcmd::Dom0;
use crate::{Attacker, Outcome, report};

/// Device memory, for the privileges of whoever maps it.
const DOMID_IO: u16 = 0x7ff1;
/// Configuration space: the size of a cache line, which no PCIe device looks at.
const CACHE_LINE: u64 = 0xc;
/// That of a port: the number of the bus above it, beside that of the bus below it. Nothing in a PCIe port looks at it either.
const PRIMARY_BUS: u64 = 0x18;
/// A bridge's header, among the kinds that there are.
const HEADER_TYPE: u64 = 0xe;
/// Memory, among the flags of a resource.
const MEMORY: u64 = 0x200;

impl Attacker {
    /// Everything that would lead to the card's registers. Nothing of it disturbs a card that works.
    pub fn attack_card(&self, address: &str) -> io::Result<()> {
        let folder = fs::canonicalize(Path::new("/sys/bus/pci/devices").join(address))?;
        let resources = fs::read_to_string(folder.join("resource"))?;
        for (bar, line) in resources.lines().enumerate() {
            let mut numbers = line.split(' ').map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
            let (Some(Ok(first)), Some(Ok(last)), Some(Ok(flags))) = (numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            if flags & MEMORY == 0 || first == 0 {
                continue;
            }
            let (first_frame, last_frame) = (first >> PAGE_SHIFT, last >> PAGE_SHIFT);
            let frames = Frames { first: Mfn(first_frame), count: last_frame - first_frame + 1 };
            // That of a ROM that is switched off answers nobody.
            if bar < 6 {
                report(&format!("read region {bar} by /dev/mem"), read(first));
            }
            report(&format!("map region {bar}"), self.0.map(DOMID_IO, first_frame).map(drop));
            // It has it already, or asks in vain.
            report(&format!("give itself region {bar}"), self.0.xen().permit_iomem(DomId::DOM0, frames, true));
        }
        let card = folder.join("config");
        report("read its configuration", is_there(&card));
        report("write its configuration", changes(&card, CACHE_LINE));
        let port = folder.parent().map(|port| port.join("config")).unwrap_or_default();
        if fs::read(&port).is_ok_and(|bytes| bytes.len() > PRIMARY_BUS as usize) {
            report("move it to another bus", changes(&port, PRIMARY_BUS));
            report("write the configuration of its port", changes(&port, CACHE_LINE));
        }
        report("give it away", self.assign(address));
        Ok(())
    }

    /// Gives it to nobody (DOMID_IO). Xen asks the policy before it says that it has an owner.
    fn assign(&self, address: &str) -> Outcome {
        let digits: String = address.chars().filter(char::is_ascii_hexdigit).collect();
        let number = u64::from_str_radix(&digits, 16).map_err(|_| Errno::INVAL)?;
        // Four digits of the segment, two of the bus, two of the device, one of the function.
        let place = number >> 12 << 8 | (number >> 4 & 0x1f) << 3 | number & 7;
        let mut body = [0u64; 16];
        body[1] = place;
        self.domctl(37, DOMID_IO, &mut body)
    }
}

/// What the device's first register holds, read by a program of its own: a fault ends it.
fn read(address: u64) -> Outcome {
    let own = std::env::current_exe().map_err(|_| Errno::NOENT)?;
    let mut peek = Command::new(own);
    peek.args(["peek", &address.to_string()]).stderr(Stdio::null());
    let status = peek.stdout(Stdio::null()).status().map_err(|_| Errno::NOEXEC)?;
    if status.success() { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Reads a word of device memory.
pub fn peek(address: &str) -> ExitCode {
    match address.parse().map_err(|_| Errno::INVAL).and_then(Dom0::map_device) {
        Ok(page) => {
            println!("{:#x}", page.read(0));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Xen answers reads that it refuses by ones, and swallows writes.
fn is_there(config: &Path) -> Outcome {
    let file = open(config)?;
    if get(&file, 0)? == u8::MAX && get(&file, HEADER_TYPE)? == u8::MAX { Err(Errno::ACCESS) } else { Ok(()) }
}

/// Whether a byte of configuration space can be changed; it is changed back.
fn changes(config: &Path, at: u64) -> Outcome {
    let file = open(config)?;
    let before = get(&file, at)?;
    let other = before ^ 1;
    put(&file, at, &[other])?;
    let after = get(&file, at)?;
    put(&file, at, &[before])?;
    if after == other { Ok(()) } else { Err(Errno::ACCESS) }
}

fn open(config: &Path) -> Result<File, Errno> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(config)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn get(file: &File, at: u64) -> Result<u8, Errno> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).map_err(|_| Errno::IO)?;
    Ok(byte[0])
}

fn put(file: &File, at: u64, bytes: &[u8]) -> Outcome {
    file.write_all_at(bytes, at).map_err(|_| Errno::IO)
}
