//! A guest's CPU policy, the features of the processor that it was told of; and what another host cannot give it of them.
//!
//! Xen takes a CPU policy with features that the processor lacks, and leaves them out without a word
//! (`update_domain_cpu_policy`, `recalculate_cpuid_policy`). A guest that uses one of them then dies by an invalid opcode. So what
//! Xen made of a policy is read back and compared.

use alloc::vec::Vec;

use xen_abi::domctl::{CpuidLeaf, MsrEntry};

/// Which features of the processor the guest sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Answers to `cpuid`.
    pub leaves: Vec<CpuidLeaf>,
    /// Model-specific registers.
    pub msrs: Vec<MsrEntry>,
}

/// `XEN_CPUID_NO_SUBLEAF`.
const NO_SUBLEAF: u32 = u32::MAX;
/// `MSR_ARCH_CAPABILITIES`: mostly, which weaknesses the processor does not have.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// The names of its bits.
const CAPABILITIES: &str = "rdcl-no eibrs rsba skip-l1dfl intel-ssb-no mds-no if-pschange-mc-no tsx-ctrl taa-no mcu-ctrl \
                            misc-pkg-ctrl energy-filtering doitm sbdr-ssdp-no fbsdp-no psdp-no - fb-clear fb-clear-ctrl rrsba \
                            bhi-no xapic-status - ovrclk-status pbrsb-no gds-ctrl gds-no rfds-no rfds-clear";
/// Those of its bits that say the contrary: RSBA and RRSBA.
const WEAKNESSES: u64 = 1 << 2 | 1 << 19;

/// A register of an answer to `cpuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A word of feature bits.
struct Word {
    leaf: u32,
    subleaf: u32,
    register: Register,
    /// From bit 0 on, as Xen's `cpuid=` names them; `-` for a bit without a name.
    names: &'static str,
    /// Bits that do not count: what Xen sets from the host or always grants, what depends on the moment, and advice.
    ignored: u32,
}

const fn word(leaf: u32, subleaf: u32, register: Register, ignored: u32, names: &'static str) -> Word {
    Word { leaf, subleaf, register, names, ignored }
}

/// The words of `arch-x86/cpufeatureset.h` that `cpuid` gives.
const WORDS: [Word; 17] = [
    word(
        1,
        NO_SUBLEAF,
        Register::Edx,
        1 << 28,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 - clflush - ds acpi mmx fxsr sse sse2 ss htt \
         tm1 - pbe",
    ),
    word(
        1,
        NO_SUBLEAF,
        Register::Ecx,
        1 << 27,
        "sse3 pclmulqdq dtes64 monitor dscpl vmx smx eist tm2 ssse3 - - fma cx16 xtpr pdcm - pcid dca sse4-1 sse4-2 x2apic movbe \
         popcnt tsc-deadline aesni xsave osxsave avx f16c rdrand hypervisor",
    ),
    word(
        0x8000_0001,
        NO_SUBLEAF,
        Register::Edx,
        0,
        "- - - - - - - - - - - syscall - - - - - - - - nx - mmxext - - ffxsr page1gb rdtscp - lm 3dnowext 3dnow",
    ),
    word(
        0x8000_0001,
        NO_SUBLEAF,
        Register::Ecx,
        1 << 1,
        "lahf-lm cmp-legacy svm extapic cr8-legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 - - \
         nodeid-msr - tbm topoext - - - dbext - - monitorx",
    ),
    word(0xd, 1, Register::Eax, 0, "xsaveopt xsavec xgetbv1 xsaves"),
    word(
        7,
        0,
        Register::Ebx,
        1 << 6 | 1 << 13,
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excp-only smep bmi2 erms invpcid rtm pqm no-fpu-sel mpx pqe avx512f avx512dq \
         rdseed adx smap avx512-ifma - clflushopt clwb proc-trace avx512pf avx512er avx512cd sha avx512bw avx512vl",
    ),
    word(
        7,
        0,
        Register::Ecx,
        1 << 4,
        "prefetchwt1 avx512-vbmi umip pku ospke - avx512-vbmi2 cet-ss gfni vaes vpclmulqdq avx512-vnni avx512-bitalg - \
         avx512-vpopcntdq - - - - - - - rdpid - - cldemote - movdiri movdir64b enqcmd",
    ),
    word(
        7,
        0,
        Register::Edx,
        0,
        "- - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect srbds-ctrl md-clear rtm-always-abort - tsx-force-abort \
         serialize hybrid tsxldtrk - - - cet-ibt - - avx512-fp16 - - ibrsb stibp l1d-flush arch-caps core-caps ssbd",
    ),
    word(7, 1, Register::Eax, 0, "- - - - avx-vnni avx512-bf16 - - - - fzrm fsrs fsrcs"),
    word(7, 1, Register::Ebx, 0, "intel-ppin"),
    word(7, 1, Register::Ecx, 0, ""),
    word(7, 1, Register::Edx, 0, "- - - - - - - - - - - - - - - - - - cet-sss"),
    word(7, 2, Register::Edx, 0, "intel-psfd ipred-ctrl rrsba-ctrl - bhi-ctrl mcdt-no"),
    word(0x8000_0007, NO_SUBLEAF, Register::Edx, 1 << 8, "- - - - - - - hw-pstate itsc cpb efro"),
    word(
        0x8000_0008,
        NO_SUBLEAF,
        Register::Ebx,
        0b111 << 16,
        "clzero - rstr-fp-err-ptrs - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp ibrs-always stibp-always ibrs-fast \
         ibrs-same-mode no-lmsl - - amd-ppin amd-ssbd virt-ssbd ssb-no - psfd btc-no ibpb-ret",
    ),
    word(
        0x8000_0021,
        NO_SUBLEAF,
        Register::Eax,
        0,
        "- - lfence-dispatch - - verw-clear nscb - auto-ibrs - - - - - - - - - - - - - - - - - - sbpb ibpb-brtype srso-no",
    ),
    word(0x8000_0021, NO_SUBLEAF, Register::Ecx, 0, "- tsa-sq-no tsa-l1-no"),
];

/// The first thing that a host cannot give a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// What Xen calls it.
    pub name: &'static str,
    /// What it is part of.
    pub part_of: &'static str,
    /// Which one.
    pub index: u32,
}

impl Lacking {
    /// A feature of this leaf.
    fn feature(name: &'static str, leaf: u32) -> Self {
        Self { name, part_of: "cpuid leaf", index: leaf }
    }

    /// Of a whole leaf, as Xen says.
    pub(super) fn leaf(leaf: u32) -> Self {
        Self::feature("features", leaf)
    }

    /// Of a model-specific register.
    pub(super) fn register(name: &'static str, register: u32) -> Self {
        Self { name, part_of: "register", index: register }
    }
}

/// The first that `wanted` has and `given` has not.
pub(super) fn first_lacking(wanted: &Policy, given: &Policy) -> Option<Lacking> {
    for word in &WORDS {
        let lacking = bits(word, &wanted.leaves) & !bits(word, &given.leaves) & !word.ignored;
        if lacking != 0 {
            return Some(Lacking::feature(name(word.names, lacking.into()), word.leaf));
        }
    }
    let [wanted, given] = [wanted, given].map(|policy| {
        let register = policy.msrs.iter().find(|register| register.idx == ARCH_CAPABILITIES);
        register.map_or(0, |register| register.val)
    });
    let lacking = wanted & !given & !WEAKNESSES;
    (lacking != 0).then(|| Lacking::register(name(CAPABILITIES, lacking), ARCH_CAPABILITIES))
}

/// The name of the lowest of these bits.
fn name(names: &'static str, bits: u64) -> &'static str {
    let name = names.split_whitespace().nth(bits.trailing_zeros() as usize);
    name.filter(|name| *name != "-").unwrap_or("a feature")
}

fn bits(word: &Word, leaves: &[CpuidLeaf]) -> u32 {
    let leaf = leaves.iter().find(|leaf| leaf.leaf == word.leaf && leaf.subleaf == word.subleaf);
    leaf.map_or(0, |leaf| match word.register {
        Register::Eax => leaf.a,
        Register::Ebx => leaf.b,
        Register::Ecx => leaf.c,
        Register::Edx => leaf.d,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn policy(leaves: &[(u32, u32, [u32; 4])], capabilities: u64) -> Policy {
        let leaves = leaves.iter().map(|&(leaf, subleaf, [a, b, c, d])| CpuidLeaf { leaf, subleaf, a, b, c, d });
        Policy {
            leaves: leaves.collect(),
            msrs: vec![MsrEntry { idx: ARCH_CAPABILITIES, flags: 0, val: capabilities }],
        }
    }

    #[test]
    fn the_first_feature_that_is_missing_is_named() {
        let avx2 = policy(&[(1, NO_SUBLEAF, [0, 0, 1 << 28, 0]), (7, 0, [0, 1 << 5 | 1 << 3, 0, 1 << 31])], 0);
        assert_eq!(first_lacking(&avx2, &avx2), None);
        let avx = policy(&[(1, NO_SUBLEAF, [0, 0, 1 << 28, 0]), (7, 0, [0, 1 << 3, 0, 1 << 31])], 0);
        assert_eq!(first_lacking(&avx, &avx2), None, "it may have more");
        assert_eq!(first_lacking(&avx2, &avx), Some(Lacking::feature("avx2", 7)));
        assert_eq!(first_lacking(&avx, &policy(&[], 0)), Some(Lacking::feature("avx", 1)));
    }

    #[test]
    fn what_xen_sets_by_itself_does_not_count() {
        let own = [(1, NO_SUBLEAF, [0, 0, 1 << 27, 1 << 28]), (7, 0, [0, 1 << 6 | 1 << 13, 1 << 4, 0])];
        assert_eq!(first_lacking(&policy(&own, WEAKNESSES), &policy(&[], 0)), None);
        assert_eq!(
            first_lacking(&policy(&[], 1), &policy(&[], 0)),
            Some(Lacking::register("rdcl-no", ARCH_CAPABILITIES))
        );
    }

    /// A name that is forgotten shifts all behind it.
    #[test]
    fn names_are_where_the_manuals_have_them() {
        let known = [
            (1, Register::Edx, 26, "sse2"),
            (1, Register::Ecx, 30, "rdrand"),
            (0x8000_0001, Register::Edx, 29, "lm"),
            (0x8000_0001, Register::Ecx, 29, "monitorx"),
            (7, Register::Ebx, 31, "avx512vl"),
            (7, Register::Ecx, 29, "enqcmd"),
            (7, Register::Edx, 31, "ssbd"),
            (0x8000_0008, Register::Ebx, 30, "ibpb-ret"),
            (0x8000_0007, Register::Edx, 8, "itsc"),
            (0x8000_0021, Register::Eax, 29, "srso-no"),
            (0x8000_0021, Register::Ecx, 2, "tsa-l1-no"),
        ];
        for (leaf, register, bit, name) in known {
            let word = WORDS.iter().find(|word| word.leaf == leaf && word.register == register).expect("a word");
            assert_eq!(word.names.split_whitespace().nth(bit), Some(name));
            assert!(word.names.split_whitespace().count() <= 32);
        }
        assert_eq!(name(CAPABILITIES, 1 << 28), "rfds-clear");
    }
}
