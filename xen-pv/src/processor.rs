//! Turns AVX on where the domain's CPU policy offers it.

use core::arch::asm;
use core::arch::x86_64::CpuidResult;

/// Features that leaf 1 tells in ECX: XSAVE, AVX.
const XSAVE: u32 = 1 << 26;
const AVX: u32 = 1 << 28;
/// The leaf whose EAX tells which registers XCR0 may name: those of x87, SSE and AVX are the lowest three bits.
const REGISTERS: u32 = 0xd;
const X87_SSE_AVX: u32 = 0b111;
/// CR4: the kernel takes care of XCR0.
const OSXSAVE: u64 = 1 << 18;

/// Turns AVX on, where the domain's CPU policy has it; whether it is on. A domain starts with XCR0 as if its kernel knew
/// of no AVX. To be called before anything looks at what the processor can.
///
/// The registers need no saving here: one thread, no interrupts, no traps. Xen saves what XCR0 names.
pub fn enable_avx() -> bool {
    let highest = policy(0).eax;
    let registers = if highest >= REGISTERS { policy(REGISTERS).eax } else { 0 };
    let has = has_avx(policy(1).ecx, registers);
    if has {
        // SAFETY: the policy has XSAVE and these registers, so that Xen carries out both of these privileged instructions;
        // that more of the processor can be used changes nothing for code that does not.
        unsafe {
            asm!(
                "mov {cr4}, cr4",
                "or {cr4}, {osxsave}",
                "mov cr4, {cr4}",
                "xsetbv",
                cr4 = out(reg) _,
                osxsave = const OSXSAVE,
                in("ecx") 0,
                in("eax") X87_SSE_AVX,
                in("edx") 0,
                options(nostack),
            );
        }
    }
    has
}

/// `xsetbv` of what the policy lacks would end the domain.
fn has_avx(features: u32, registers: u32) -> bool {
    features & (XSAVE | AVX) == XSAVE | AVX && registers & X87_SSE_AVX == X87_SSE_AVX
}

/// What the domain's CPU policy answers. The processor itself, which only some let Xen intercept, may have more.
fn policy(leaf: u32) -> CpuidResult {
    let (eax, ebx, ecx, edx);
    // SAFETY: Xen takes an undefined instruction and its name for an order to emulate CPUID (`pv/emul-inv-op.c`). The compiler
    // keeps rbx for itself.
    unsafe {
        asm!(
            "mov {kept:r}, rbx",
            "ud2",
            ".ascii \"xen\"",
            "cpuid",
            "xchg {kept:r}, rbx",
            kept = out(reg) ebx,
            inlateout("eax") leaf => eax,
            inlateout("ecx") 0 => ecx,
            lateout("edx") edx,
            options(nostack, nomem),
        );
    }
    CpuidResult { eax, ebx, ecx, edx }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avx_stays_off_where_the_policy_lacks_any_part_of_it() {
        assert!(has_avx(XSAVE | AVX, X87_SSE_AVX));
        assert!(has_avx(u32::MAX, u32::MAX));
        assert!(!has_avx(!XSAVE, X87_SSE_AVX), "xsetbv is undefined without XSAVE");
        assert!(!has_avx(!AVX, X87_SSE_AVX));
        assert!(!has_avx(XSAVE | AVX, !0b100), "Xen would refuse XCR0");
    }
}
