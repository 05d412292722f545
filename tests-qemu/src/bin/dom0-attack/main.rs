//! What a hostile administrator of dom0 tries on a domain, and on the host, straight through the hypervisor's interface.
//!
//! ```text
//! dom0-attack domain DOMID [away]
//! dom0-attack run DOMID
//! dom0-attack crash DOMID
//! dom0-attack host
//! dom0-attack card ADDRESS
//! dom0-attack peek PHYSICAL-ADDRESS
//! ```
//!
//! One line an attempt: `refused`, `done`, or `passed` (the security policy let it through, and it failed later), a tab, what
//! it was, a tab, and the error; and as the last line `gone`, if there is no such domain any more. Whatever succeeds is
//! harmless or undone at once.

mod card;
mod privcmd;

use std::process::ExitCode;

use privcmd::{Dom0, PAGE};
use rustix::io::Errno;

/// How an attempt ended: `Ok` if it did what it was meant to.
type Outcome = Result<(), Errno>;

const PLATFORM_OP: u64 = 7;
const MEMORY_OP: u64 = 12;
const XSM_OP: u64 = 27;
const SCHED_OP: u64 = 29;
const HVM_OP: u64 = 34;
const SYSCTL: u64 = 35;
const DOMCTL: u64 = 36;
const KEXEC_OP: u64 = 37;
const DM_OP: u64 = 41;
/// `XEN_DOMCTL_INTERFACE_VERSION` and `XEN_SYSCTL_INTERFACE_VERSION` of Xen 4.17.
const INTERFACE_VERSION: u64 = 0x15;
/// `XENPF_INTERFACE_VERSION`.
const PLATFORM_VERSION: u64 = 0x0300_0001;
/// `XEN_DMOP_nr_vcpus`.
const DMOP_NR_VCPUS: u64 = 20;
/// RAM of every Linux guest: frame 1 MiB.
const RAM: u64 = 0x100;
/// A hole of every small guest.
const HOLE: u64 = 0xe_0000;
/// A grant that no guest has come to use.
const UNUSED_GRANT: u32 = 510;
/// Where `DOMINF_HVM_GUEST` is told.
const HVM_GUEST: u64 = 1 << 33;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let dom0 = match Dom0::open() {
        Ok(dom0) => Attacker(dom0),
        Err(error) => {
            eprintln!("dom0-attack: no way to the hypervisor: {error}");
            return ExitCode::FAILURE;
        }
    };
    match (words.as_slice(), words.get(1).and_then(|word| word.parse().ok())) {
        (["domain", _, more @ ..], Some(domain)) if matches!(more, [] | ["away"]) => {
            if let Some(is_hvm) = dom0.look_at(domain) {
                dom0.attack_domain(domain, is_hvm);
                if more == ["away"] {
                    dom0.revive(domain);
                }
            }
            if dom0.look_at(domain).is_none() {
                println!("gone");
            }
        }
        (["run", _], Some(domain)) => dom0.run(domain),
        (["crash", _], Some(domain)) => dom0.crash(domain),
        (["host"], _) => dom0.attack_host(),
        (["card", address], _) => {
            if let Err(error) = dom0.attack_card(address) {
                eprintln!("dom0-attack: {address}: {error}");
                return ExitCode::FAILURE;
            }
        }
        (["peek", _], _) => return card::peek(words[1]),
        _ => {
            eprintln!(
                "usage: dom0-attack domain DOMID [away] | run DOMID | crash DOMID | host | card ADDRESS | peek ADDRESS"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

struct Attacker(Dom0);

fn report(what: &str, outcome: Outcome) {
    match outcome {
        Ok(()) => println!("done\t{what}\t"),
        Err(error @ (Errno::ACCESS | Errno::PERM)) => println!("refused\t{what}\t{error}"),
        Err(error) => println!("passed\t{what}\t{error}"),
    }
}

impl Attacker {
    /// Whether a domain is an HVM one, if it exists.
    fn look_at(&self, domain: u16) -> Option<bool> {
        let mut info = [0u64; 16];
        self.domctl(5, domain, &mut info).ok()?;
        // Of a number that is free the hypervisor tells about the next domain.
        (info[0] as u16 == domain).then_some(info[0] & HVM_GUEST != 0)
    }

    /// Everything that would show or change memory or registers of a domain.
    fn attack_domain(&self, domain: u16, is_hvm: bool) {
        let mut buffer = vec![0u64; 2 * PAGE / 8];
        let address = buffer.as_mut_ptr() as u64;
        let domctl = |what, command, body: &[u64]| {
            let mut room = [0u64; 16];
            room[..body.len()].copy_from_slice(body);
            report(what, self.domctl(command, domain, &mut room));
        };
        report("map a page", self.0.map(domain, RAM).map(drop));
        report("map its grant table", self.0.map_grant_table(domain).map(drop));
        report("grant itself a page", self.grant_itself(domain));
        domctl("read its registers", 13, &[0, address]);
        domctl("set its registers", 12, &[u64::from(u32::MAX), address]);
        domctl("read its machine state", 33, &[0, 0]);
        domctl("load a machine state", 34, &[0, address]);
        domctl("read its extended registers", 63, &[0, 0, 0, 0]);
        domctl("read its MSRs", 72, &[0, 0]);
        domctl("find its RAM", 61, &[1, address]);
        domctl("read its dirty log", 10, &[12, 0, 0, 0]);
        domctl("read its memory as a debugger", 1000, &[0, 0, address, 8]);
        domctl("single-step it", 54, &[0]);
        domctl("watch its pages", 56, &[2 << 32, 0]);
        domctl("page its memory", 56, &[1 << 32, 0]);
        domctl("share its pages", 57, &[0, 0]);
        for (what, label) in [
            ("relabel it as an ordinary guest", "system_u:system_r:domU_t"),
            ("relabel it as a guest that is built", "system_u:system_r:nomigrate_t_building"),
        ] {
            report(what, self.relabel(domain, label));
        }
        if is_hvm {
            let mut target = [0u64; 16];
            target[0] = domain.into();
            report("make dom0 its device model", self.domctl(46, 0, &mut target));
            let mut physmap = [u64::from(domain) | (1 << 32), 0, HOLE];
            report("put its grant table where it can be mapped", self.memory_op(7, &mut physmap));
            let mut nominate = [u64::from(domain) << 16, 0, RAM];
            report("make a page absent", self.memory_op(20, &mut nominate));
            let mut param = [u64::from(domain) | (1 << 32), 0];
            report("read a parameter", self.hvm_op(1, &mut param));
            report("act as its device model", self.dm_op(domain));
        }
    }

    /// What would end the exile of a guest that has left.
    fn revive(&self, domain: u16) {
        for (what, command) in [("unpause it", 4), ("resume it", 27), ("destroy it", 2)] {
            report(what, self.domctl(command, domain, &mut [0; 16]));
        }
    }

    /// Lets a domain run on that has suspended and is held by a pause count.
    fn run(&self, domain: u16) {
        for (what, command) in [("resume it", 27), ("unpause it", 4)] {
            report(what, self.domctl(command, domain, &mut [0; 16]));
        }
    }

    /// Stops a domain as its own crash does.
    fn crash(&self, domain: u16) {
        // `SCHEDOP_remote_shutdown`; `SHUTDOWN_crash`.
        let remote = [u64::from(domain) | 3 << 32];
        report("crash it", self.hypercall(SCHED_OP, [4, remote.as_ptr() as u64, 0, 0, 0]));
    }

    /// Everything that would undo or bypass the policy.
    fn attack_host(&self) {
        let buffer = [0u64; 4];
        let address = buffer.as_ptr() as u64;
        report("load another policy", self.xsm_op(1, &mut [address, 16, 0, 0]));
        report("switch enforcement off", self.enforce(0).and_then(|()| self.enforce(1)));
        report("set a boolean", self.set_boolean("tsmc_locked"));
        // To set what is set already needs no permission.
        let cache = |size| self.xsm_op(17, &mut [size, 0, 0, 0]);
        report("change the decision cache", cache(511).and_then(|()| cache(512)));
        // No kind of device that there is.
        report("label a device", self.xsm_op(21, &mut [0, 0, 0, 0]));
        report("kexec", self.hypercall(KEXEC_OP, [3, [0u64; 3].as_mut_ptr() as u64, 0, 0, 0]));
        report("list live patches", self.sysctl(27, &mut [2, 0, 0, 0, 0, 0, 0]));
        report("press a debug key", self.sysctl(7, &mut [b"h".as_ptr() as u64, 1]));
        report("trace", self.sysctl(2, &mut [0, 0, 0, 0, 0, 0]));
        // Of no bytes.
        let mut microcode = [35 | (PLATFORM_VERSION << 32), address, 0];
        report("load microcode", self.hypercall(PLATFORM_OP, [microcode.as_mut_ptr() as u64, 0, 0, 0, 0]));
        report("read this host's memory as a debugger", self.debug_itself());
        for (what, label) in [
            ("make an agent", "system_u:system_r:tsmc_agent_t"),
            ("build an agent", "system_u:system_r:tsmc_agent_t_building"),
        ] {
            report(what, self.create(label));
        }
    }

    /// Writes a grant for dom0 into the guest's table, and uses it.
    fn grant_itself(&self, domain: u16) -> Outcome {
        let table = self.0.map_grant_table(domain)?;
        // Version 1: permission, domain 0, frame.
        table.write(UNUSED_GRANT as usize, 1 | (RAM << 32));
        let result = self.0.map_grant(domain, UNUSED_GRANT).map(|page| _ = page.read(0));
        table.write(UNUSED_GRANT as usize, 0);
        result
    }

    /// Reads a word of its own through the interface of a debugger, which would follow any page table of the host.
    fn debug_itself(&self) -> Outcome {
        let (secret, mut found) = (0x1234_5678_9abc_def0_u64, 0u64);
        let (from, to) = ((&raw const secret) as u64, (&raw mut found) as u64);
        let mut body = [0u64; 16];
        body[..4].copy_from_slice(&[0, from, to, 8]);
        self.domctl(1000, 0, &mut body)?;
        // SAFETY: it is ours; the hypervisor may have written it.
        if unsafe { (&raw const found).read_volatile() } == secret { Ok(()) } else { Err(Errno::IO) }
    }

    fn create(&self, label: &str) -> Outcome {
        let sid = self.find(label)?;
        let mut body = [0u64; 16];
        // `ssidref`, and flags that no version knows.
        body[0] = sid.into();
        body[2] = u64::from(u32::MAX) << 32;
        self.domctl(1, 0xffff, &mut body)
    }

    fn relabel(&self, domain: u16, label: &str) -> Outcome {
        let sid = self.find(label)?;
        self.xsm_op(24, &mut [u64::from(domain) | u64::from(sid) << 32, 0, 0, 0])
    }

    fn find(&self, label: &str) -> Result<u32, Errno> {
        let mut body = [(label.len() as u64) << 32, label.as_ptr() as u64, 0, 0];
        self.xsm_op(4, &mut body)?;
        Ok(body[0] as u32)
    }

    fn enforce(&self, value: u64) -> Outcome {
        self.xsm_op(3, &mut [value, 0, 0, 0])
    }

    /// Sets a boolean to the value that it may have already: 0.
    fn set_boolean(&self, name: &str) -> Outcome {
        // By name (-1); new value 0, to be committed.
        self.xsm_op(12, &mut [u64::from(u32::MAX) | 1 << 56, name.len() as u64, name.as_ptr() as u64, 0])
    }

    fn dm_op(&self, domain: u16) -> Outcome {
        let mut op = [DMOP_NR_VCPUS, 0];
        let buffers = [op.as_mut_ptr() as u64, size_of_val(&op) as u64];
        self.hypercall(DM_OP, [domain.into(), 1, buffers.as_ptr() as u64, 0, 0])
    }

    fn hvm_op(&self, command: u64, argument: &mut [u64]) -> Outcome {
        self.hypercall(HVM_OP, [command, argument.as_mut_ptr() as u64, 0, 0, 0])
    }

    fn memory_op(&self, command: u64, argument: &mut [u64]) -> Outcome {
        self.hypercall(MEMORY_OP, [command, argument.as_mut_ptr() as u64, 0, 0, 0])
    }

    fn xsm_op(&self, command: u32, body: &mut [u64; 4]) -> Outcome {
        let mut op = [u64::from(command) | (1 << 32), body[0], body[1], body[2], body[3]];
        let outcome = self.hypercall(XSM_OP, [op.as_mut_ptr() as u64, 0, 0, 0, 0]);
        body.copy_from_slice(&op[1..]);
        outcome
    }

    fn sysctl(&self, command: u64, body: &mut [u64]) -> Outcome {
        let mut op = [0u64; 17];
        op[0] = command | (INTERFACE_VERSION << 32);
        op[1..=body.len()].copy_from_slice(body);
        self.hypercall(SYSCTL, [op.as_mut_ptr() as u64, 0, 0, 0, 0])
    }

    fn domctl(&self, command: u64, domain: u16, body: &mut [u64; 16]) -> Outcome {
        let mut op = [0u64; 18];
        op[0] = command | (INTERFACE_VERSION << 32);
        op[1] = domain.into();
        op[2..].copy_from_slice(body);
        let outcome = self.hypercall(DOMCTL, [op.as_mut_ptr() as u64, 0, 0, 0, 0]);
        body.copy_from_slice(&op[2..]);
        outcome
    }

    fn hypercall(&self, op: u64, args: [u64; 5]) -> Outcome {
        // SAFETY: every caller above passes structures of its own, as large as the hypercall's, or no address at all.
        unsafe { self.0.xen().hypercall(op, args) }.map(drop)
    }
}
