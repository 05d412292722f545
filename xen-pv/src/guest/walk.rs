//! What a stopped guest will touch first: found in its machine state and through its own page tables.
//!
//! Everything here is a guess that saves faults. The guest wrote all of it and may have written anything: loops are bounded,
//! and a frame number that leads nowhere is skipped.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use common::cursor::{Cursor, WrongLength};
use common::{Gfn, PAGE_SIZE, Page};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;
use xen_abi::PAGE_SHIFT;
use xen_abi::hvm::{SAVE_CPU, SAVE_END, cpu};
use xen_abi::mmu::{PTE_ADDRESS, PTE_LARGE, PTE_PRESENT};

/// Pages of a per-CPU area that are taken along.
const PER_CPU_PAGES: u64 = 64;
/// Registers that hold operands and addresses.
const GENERAL: usize = 16;
/// Bytes of a kernel stack, and its alignment.
const STACK: u64 = 16 << 10;

/// Frames that the guest of this HVM context touches first, the most urgent first, at most `limit`. `read` copies a page of
/// the guest out and says whether it could.
pub fn first_touched(context: &[u8], limit: usize, read: impl FnMut(Gfn, &mut Page) -> bool) -> Vec<Gfn> {
    let cpus = cpus(context);
    let mut walk = Walk { read, tables: Vec::new(), order: Vec::new(), known: BTreeSet::new(), limit };
    for cpu in &cpus {
        for address in cpu.urgent() {
            walk.touch(cpu, address);
        }
    }
    for cpu in &cpus {
        for address in (0..STACK).step_by(PAGE_SIZE).map(|at| (cpu.rsp & !(STACK - 1)) + at) {
            walk.touch(cpu, address);
        }
    }
    for page in 0..PER_CPU_PAGES {
        for cpu in &cpus {
            walk.touch(cpu, cpu.per_cpu().wrapping_add(page << PAGE_SHIFT));
        }
    }
    walk.order
}

/// Frames that the virtual CPUs of this HVM context may have touched when they stopped, at most `limit`: where they were, and
/// what their registers point at.
pub fn last_touched(context: &[u8], limit: usize, read: impl FnMut(Gfn, &mut Page) -> bool) -> Vec<Gfn> {
    let mut walk = Walk { read, tables: Vec::new(), order: Vec::new(), known: BTreeSet::new(), limit };
    for cpu in &cpus(context) {
        for address in [cpu.rip, cpu.rsp].into_iter().chain(cpu.general) {
            walk.touch(cpu, address);
        }
    }
    walk.order
}

/// The registers of one virtual CPU that matter here.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    general: [u64; GENERAL],
    rsp: u64,
    rip: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    gs: u64,
    shadow_gs: u64,
    tr: u64,
    idtr: u64,
    gdtr: u64,
    lstar: u64,
    efer: u64,
}

const CR0_PG: u64 = Cr0Flags::PAGING.bits();
const CR4_LA57: u64 = Cr4Flags::L5_PAGING.bits();
const EFER_LMA: u64 = EferFlags::LONG_MODE_ACTIVE.bits();

impl Cpu {
    fn urgent(&self) -> [u64; 8] {
        let next = self.rip.wrapping_add(PAGE_SIZE as u64);
        [self.rip, self.rsp, self.per_cpu(), self.gdtr, self.idtr, self.tr, next, self.lstar]
    }

    /// In the kernel GS holds the per-CPU area, an address of the upper half; while user code runs it is put aside.
    fn per_cpu(&self) -> u64 {
        if self.gs >> 63 != 0 { self.gs } else { self.shadow_gs }
    }

    /// Levels of page tables, or nothing: not paged, or of a kind not walked here.
    fn levels(&self) -> Option<u32> {
        match (self.cr0 & CR0_PG != 0, self.efer & EFER_LMA != 0, self.cr4 & CR4_LA57 != 0) {
            (true, true, false) => Some(4),
            (true, true, true) => Some(5),
            _ => None,
        }
    }
}

/// The virtual CPUs' records of an HVM context.
fn cpus(context: &[u8]) -> Vec<Cpu> {
    let (mut context, mut cpus) = (Cursor::new(context), Vec::new());
    while let Ok((typecode, record)) = next_record(&mut context)
        && typecode != SAVE_END
    {
        if typecode == SAVE_CPU && record.len() >= cpu::SIZE {
            cpus.push(registers(record));
        }
    }
    cpus
}

/// The type of the next record, and what it holds (`struct hvm_save_descriptor`).
fn next_record<'a>(context: &mut Cursor<'a>) -> Result<(u16, &'a [u8]), WrongLength> {
    let (typecode, _instance, length) = (context.u16()?, context.u16()?, context.u32()?);
    Ok((typecode, context.take(length as usize)?))
}

fn registers(record: &[u8]) -> Cpu {
    let word = |at: usize| record.get(at..).and_then(|rest| Cursor::new(rest).u64().ok()).unwrap_or_default();
    Cpu {
        general: core::array::from_fn(|index| word(cpu::GENERAL + 8 * index)),
        rsp: word(cpu::RSP),
        rip: word(cpu::RIP),
        cr0: word(cpu::CR0),
        cr3: word(cpu::CR3),
        cr4: word(cpu::CR4),
        gs: word(cpu::GS_BASE),
        shadow_gs: word(cpu::SHADOW_GS),
        tr: word(cpu::TR_BASE),
        idtr: word(cpu::IDTR_BASE),
        gdtr: word(cpu::GDTR_BASE),
        lstar: word(cpu::MSR_LSTAR),
        efer: word(cpu::MSR_EFER),
    }
}

/// Tables remembered, so that neighbours cost one look each.
const TABLES: usize = 16;

struct Walk<R> {
    read: R,
    tables: Vec<(Gfn, Box<Page>)>,
    order: Vec<Gfn>,
    known: BTreeSet<Gfn>,
    limit: usize,
}

impl<R: FnMut(Gfn, &mut Page) -> bool> Walk<R> {
    /// Notes the page behind an address, and the tables that lead there: the processor reads those too.
    fn touch(&mut self, cpu: &Cpu, address: u64) {
        // The guest stands still meanwhile, and its tables may be made to take long: no look that nothing comes of.
        if address == 0 || self.order.len() >= self.limit {
            return;
        }
        if let Some(gfn) = self.translate(cpu, address) {
            self.note(gfn);
        }
    }

    fn note(&mut self, gfn: Gfn) {
        if self.order.len() < self.limit && self.known.insert(gfn) {
            self.order.push(gfn);
        }
    }

    fn translate(&mut self, cpu: &Cpu, address: u64) -> Option<Gfn> {
        let levels = cpu.levels()?;
        let mut table = Gfn((cpu.cr3 & PTE_ADDRESS) >> PAGE_SHIFT);
        for level in (1..=levels).rev() {
            self.note(table);
            let shift = PAGE_SHIFT + 9 * (level - 1);
            let entry = self.entry(table, (address >> shift) as usize & 511)?;
            if entry & PTE_PRESENT == 0 {
                return None;
            }
            let frame = (entry & PTE_ADDRESS) >> PAGE_SHIFT;
            if level == 1 {
                return Some(Gfn(frame));
            }
            if entry & PTE_LARGE != 0 {
                let within = (1u64 << (shift - PAGE_SHIFT)) - 1;
                return Some(Gfn(frame & !within | address >> PAGE_SHIFT & within));
            }
            table = Gfn(frame);
        }
        None
    }

    fn entry(&mut self, table: Gfn, index: usize) -> Option<u64> {
        let at = match self.tables.iter().position(|(gfn, _)| *gfn == table) {
            Some(at) => at,
            None => {
                let mut page = Box::new([0; PAGE_SIZE]);
                if !(self.read)(table, &mut page) {
                    return None;
                }
                if self.tables.len() == TABLES {
                    self.tables.remove(0);
                }
                self.tables.push((table, page));
                self.tables.len() - 1
            }
        };
        Cursor::new(&self.tables[at].1[8 * index..]).u64().ok()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec;

    use super::*;

    fn record(values: &[(usize, u64)]) -> Vec<u8> {
        let mut context = vec![2, 0, 0, 0];
        context.extend_from_slice(&(cpu::SIZE as u32).to_le_bytes());
        let mut body = vec![0; cpu::SIZE];
        for &(at, value) in values {
            body[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        context.extend_from_slice(&body);
        context.extend_from_slice(&[0; 8]);
        context
    }

    const BASE: u64 = 0xffff_8880_0000_0000;

    fn context() -> Vec<u8> {
        record(&[
            (cpu::CR0, CR0_PG),
            (cpu::MSR_EFER, EFER_LMA),
            (cpu::CR3, 0x1000),
            (cpu::RIP, BASE + 0x20_0123),
            (cpu::GS_BASE, BASE + 0x1000),
        ])
    }

    /// Tables 1 to 4; two small pages at `BASE`, a large one behind them.
    fn memory() -> BTreeMap<u64, BTreeMap<usize, u64>> {
        let index = |shift: u32| (BASE >> shift) as usize & 511;
        BTreeMap::from([
            (1, BTreeMap::from([(index(39), 2 << 12 | PTE_PRESENT)])),
            (2, BTreeMap::from([(index(30), 3 << 12 | PTE_PRESENT)])),
            (
                3,
                BTreeMap::from([
                    (index(21), 4 << 12 | PTE_PRESENT),
                    (index(21) + 1, 0x400 << 12 | PTE_LARGE | PTE_PRESENT),
                ]),
            ),
            (4, BTreeMap::from([(index(12), 100 << 12 | PTE_PRESENT), (index(12) + 1, 101 << 12 | PTE_PRESENT)])),
        ])
    }

    fn touched(context: &[u8], limit: usize) -> Vec<u64> {
        let memory = memory();
        let read = |gfn: Gfn, page: &mut Page| {
            let Some(entries) = memory.get(&gfn.0) else { return false };
            for (index, entry) in entries {
                page[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
            }
            true
        };
        first_touched(context, limit, read).iter().map(|gfn| gfn.0).collect()
    }

    #[test]
    fn tables_come_first_then_code_then_data() {
        let touched = touched(&context(), 100);
        assert_eq!(touched[..6], [1, 2, 3, 0x400, 4, 101]);
    }

    #[test]
    fn the_limit_holds_for_pages_and_for_looks() {
        assert_eq!(touched(&context(), 3), [1, 2, 3]);
        let mut looks = 0u64;
        let read = |_: Gfn, page: &mut Page| {
            looks += 1;
            // Every table leads to another one.
            page.chunks_exact_mut(8).zip(0..).for_each(|(entry, index)| {
                entry.copy_from_slice(&((looks * 512 + index) << 12 | PTE_PRESENT).to_le_bytes());
            });
            true
        };
        let cpus: Vec<u8> = core::iter::repeat_n(context(), 64).flat_map(|one| one[..one.len() - 8].to_vec()).collect();
        assert_eq!(first_touched(&cpus, 20, read).len(), 20);
        assert!(looks <= 20, "{looks} looks");
    }

    #[test]
    fn truncated_and_unpaged_states_lead_nowhere() {
        let context = context();
        for length in 0..context.len() - 8 {
            assert!(touched(&context[..length], 100).is_empty(), "{length} bytes");
        }
        assert!(touched(&record(&[(cpu::RIP, 0x1000)]), 100).is_empty());
    }
}
