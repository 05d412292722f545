//! Every structure and number of Xen's interface that this crate has, held against Xen's own headers: a C program prints
//! what the headers say, and that must be what Rust says.
//!
//! The headers are those of the source that the testbed builds its hypervisor from; `XEN_INCLUDE` names another folder (the
//! one in which `public/xen.h` is). Without headers the test fails: `make tools` fetches them.

use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use xen_abi::domctl::{self, *};
use xen_abi::event_channel::{self, AllocUnbound, BindInterdomain, BindIpi, Close, Send};
use xen_abi::flask::{self, AccessOp, RelabelOp, SidContextOp};
use xen_abi::grant_table::{self, GetVersion, GrantEntryV1, QuerySize, SetupTable};
use xen_abi::hvm::{self, DmOpBuffer, DmOpSetMemType, HvmGetMemType, HvmParam};
use xen_abi::hypercall::{self, MulticallEntry};
use xen_abi::memory::{self, MemAcquireResource, MemPagingOp, MemoryReservation};
use xen_abi::mmu::{self, MmuUpdate, MmuextOp};
use xen_abi::netif::{ExtraGso, RxRequest, RxResponse, TxRequest, TxResponse};
use xen_abi::sched::{self, Poll, Shutdown};
use xen_abi::start_info::{SharedInfo, StartInfo, VcpuInfo, VcpuTimeInfo};
use xen_abi::vm_event::{self, MemPaging, RingHeader, VmEvent};
use xen_abi::{version, xenstore};

/// A C expression and the value it must have.
type Fact = (String, u64);

/// The size of a structure and the offsets of its fields; a field has the same name in C unless one is given.
macro_rules! layout {
    ($facts:ident, $c:literal, $rust:ty { $($field:tt $(: $path:literal)?),* $(,)? }) => {
        $facts.push((format!("sizeof({})", $c), size_of::<$rust>() as u64));
        layout!(@fields $facts, $c, $rust { $($field $(: $path)?),* });
    };
    (@fields $facts:ident, $c:literal, $rust:ty { $($field:tt $(: $path:literal)?),* $(,)? }) => {
        $(
            #[allow(unused_assignments, unused_mut)]
            let mut path = stringify!($field);
            $(path = $path;)?
            $facts.push((format!("offsetof({}, {path})", $c), offset_of!($rust, $field) as u64));
        )*
    };
}

/// Numbers: a C expression and a Rust one each.
macro_rules! numbers {
    ($facts:ident, $($c:literal = $rust:expr),* $(,)?) => {
        $($facts.push(($c.to_owned(), $rust as u64));)*
    };
}

#[test]
fn permissions_are_those_of_the_policys_own_lists() {
    let folder = include_folder().join("../xsm/flask/policy");
    let list = |file: &str| fs::read_to_string(folder.join(file)).expect("Xen's lists of classes and permissions");
    let kernel = |line: &&str| line.starts_with("class ") && !line.contains("userspace");
    let classes = list("security_classes");
    let domain = classes.lines().filter(kernel).position(|line| line == "class domain").expect("the class");
    assert_eq!(flask::CLASS_DOMAIN as usize, domain + 1);
    let vectors = list("access_vectors");
    let (_, body) = vectors.split_once("\nclass domain\n{").expect("the class");
    let (body, _) = body.split_once("\n}").expect("its end");
    let names: Vec<&str> =
        body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for (name, bit) in
        [("unpause", flask::DOMAIN_UNPAUSE), ("resume", flask::DOMAIN_RESUME), ("destroy", flask::DOMAIN_DESTROY)]
    {
        let place = names.iter().position(|other| *other == name).expect("the permission");
        assert_eq!(bit, 1 << place, "{name}");
    }
}

#[test]
fn layouts_and_numbers_are_those_of_xens_headers() {
    let mut facts = Vec::new();
    own_interface(&mut facts);
    rings(&mut facts);
    domctls(&mut facts);
    memory_and_paging(&mut facts);
    translated_guests(&mut facts);
    let said = what_the_headers_say(&include_folder(), &facts);
    assert_eq!(said.len(), facts.len());
    let wrong: Vec<String> = facts
        .iter()
        .zip(said)
        .filter(|((_, ours), theirs)| ours != theirs)
        .map(|((expression, ours), theirs)| format!("{expression} is {theirs} in Xen, {ours} here"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn own_interface(facts: &mut Vec<Fact>) {
    layout!(facts, "struct multicall_entry", MulticallEntry { op, result, args });
    layout!(facts, "struct mmu_update", MmuUpdate { ptr, val });
    layout!(facts, "struct mmuext_op", MmuextOp { cmd, arg1: "arg1.mfn", arg2: "arg2.nr_ents" });
    layout!(facts, "struct sched_poll", Poll { ports, nr_ports, timeout });
    layout!(facts, "struct sched_shutdown", Shutdown { reason });
    layout!(facts, "struct evtchn_alloc_unbound", AllocUnbound { dom, remote_dom, port });
    layout!(facts, "struct evtchn_bind_interdomain", BindInterdomain { remote_dom, remote_port, local_port });
    layout!(facts, "struct evtchn_bind_ipi", BindIpi { vcpu, port });
    layout!(facts, "struct evtchn_close", Close { port });
    layout!(facts, "struct evtchn_send", Send { port });
    layout!(facts, "struct grant_entry_v1", GrantEntryV1 { flags, domid, frame });
    layout!(facts, "struct gnttab_get_version", GetVersion { dom, pad, version });
    layout!(facts, "struct gnttab_query_size", QuerySize { dom, nr_frames, max_nr_frames, status });
    layout!(facts, "struct gnttab_setup_table", SetupTable { dom, nr_frames, status, frame_list });
    layout!(
        facts,
        "struct vcpu_time_info",
        VcpuTimeInfo { version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags }
    );
    layout!(
        facts,
        "struct vcpu_info",
        VcpuInfo { evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, cr2: "arch.cr2", time }
    );
    layout!(
        facts,
        "struct shared_info",
        SharedInfo {
            vcpu_info,
            evtchn_pending,
            evtchn_mask,
            wc_version,
            wc_sec,
            wc_nsec,
            wc_sec_hi,
            max_pfn: "arch.max_pfn",
            p2m_cr3: "arch.p2m_cr3",
            p2m_generation: "arch.p2m_generation",
        }
    );
    layout!(
        facts,
        "struct start_info",
        StartInfo {
            magic,
            nr_pages,
            shared_info,
            flags,
            store_mfn,
            store_evtchn,
            console_mfn: "console.domU.mfn",
            console_evtchn: "console.domU.evtchn",
            pt_base,
            nr_pt_frames,
            mfn_list,
            mod_start,
            mod_len,
            cmd_line,
            first_p2m_pfn,
            nr_p2m_frames,
        }
    );
    numbers!(
        facts,
        "__HYPERVISOR_mmu_update" = hypercall::MMU_UPDATE,
        "__HYPERVISOR_memory_op" = hypercall::MEMORY_OP,
        "__HYPERVISOR_multicall" = hypercall::MULTICALL,
        "__HYPERVISOR_update_va_mapping" = hypercall::UPDATE_VA_MAPPING,
        "__HYPERVISOR_xen_version" = hypercall::XEN_VERSION,
        "__HYPERVISOR_console_io" = hypercall::CONSOLE_IO,
        "__HYPERVISOR_grant_table_op" = hypercall::GRANT_TABLE_OP,
        "__HYPERVISOR_mmuext_op" = hypercall::MMUEXT_OP,
        "__HYPERVISOR_xsm_op" = hypercall::XSM_OP,
        "__HYPERVISOR_sched_op" = hypercall::SCHED_OP,
        "__HYPERVISOR_event_channel_op" = hypercall::EVENT_CHANNEL_OP,
        "__HYPERVISOR_hvm_op" = hypercall::HVM_OP,
        "__HYPERVISOR_domctl" = hypercall::DOMCTL,
        "__HYPERVISOR_dm_op" = hypercall::DM_OP,
        "EVTCHNOP_bind_interdomain" = event_channel::EVTCHNOP_BIND_INTERDOMAIN,
        "EVTCHNOP_close" = event_channel::EVTCHNOP_CLOSE,
        "EVTCHNOP_send" = event_channel::EVTCHNOP_SEND,
        "EVTCHNOP_alloc_unbound" = event_channel::EVTCHNOP_ALLOC_UNBOUND,
        "EVTCHNOP_bind_ipi" = event_channel::EVTCHNOP_BIND_IPI,
        "GNTTABOP_setup_table" = grant_table::GNTTABOP_SETUP_TABLE,
        "GNTTABOP_get_version" = grant_table::GNTTABOP_GET_VERSION,
        "GNTTABOP_query_size" = grant_table::GNTTABOP_QUERY_SIZE,
        "GTF_permit_access" = grant_table::GTF_PERMIT_ACCESS,
        "GTF_readonly" = grant_table::GTF_READONLY,
        "GTF_reading" = grant_table::GTF_READING,
        "GTF_writing" = grant_table::GTF_WRITING,
        "XENVER_version" = version::XENVER_VERSION,
        "XENVER_extraversion" = version::XENVER_EXTRAVERSION,
        "SCHEDOP_yield" = sched::SCHEDOP_YIELD,
        "SCHEDOP_poll" = sched::SCHEDOP_POLL,
        "SCHEDOP_shutdown" = sched::SCHEDOP_SHUTDOWN,
        "SHUTDOWN_poweroff" = sched::SHUTDOWN_POWEROFF,
        "SHUTDOWN_crash" = sched::SHUTDOWN_CRASH,
        "SHUTDOWN_suspend" = sched::SHUTDOWN_SUSPEND,
        "MMU_PT_UPDATE_NO_TRANSLATE" = mmu::MMU_PT_UPDATE_NO_TRANSLATE,
        "MMUEXT_TLB_FLUSH_LOCAL" = mmu::MMUEXT_TLB_FLUSH_LOCAL,
        "UVMF_INVLPG" = mmu::UVMF_INVLPG,
    );
}

fn rings(facts: &mut Vec<Fact>) {
    layout!(facts, "struct netif_tx_request", TxRequest { gref, offset, flags, id, size });
    layout!(@fields facts, "struct netif_extra_info", ExtraGso {
        kind: "type", flags, size: "u.gso.size", gso_kind: "u.gso.type", features: "u.gso.features"
    });
    layout!(facts, "struct netif_tx_response", TxResponse { id, status });
    layout!(facts, "struct netif_rx_request", RxRequest { id, gref });
    layout!(facts, "struct netif_rx_response", RxResponse { id, offset, flags, status });
    layout!(@fields facts, "struct vm_event_sring", RingHeader { req_prod, req_event, rsp_prod, rsp_event });
    numbers!(
        facts,
        "offsetof(struct vm_event_sring, ring)" = size_of::<RingHeader>(),
        "__CONST_RING_SIZE(vm_event, 4096)" = vm_event::SLOTS,
        // Private to their modules, which have them written out.
        "offsetof(struct netif_tx_sring, ring)" = 64,
        "offsetof(struct xencons_interface, out)" = 1024,
        "offsetof(struct xencons_interface, in_cons)" = 1024 + 2048,
        "offsetof(struct xencons_interface, out_prod)" = 1024 + 2048 + 12,
        "offsetof(struct xenstore_domain_interface, rsp)" = 1024,
        "offsetof(struct xenstore_domain_interface, req_cons)" = 2048,
        "offsetof(struct xenstore_domain_interface, rsp_prod)" = 2048 + 12,
        "sizeof(struct xsd_sockmsg)" = xenstore::HEADER,
        "XENSTORE_PAYLOAD_MAX" = xenstore::PAYLOAD_MAX,
    );
}

fn domctls(facts: &mut Vec<Fact>) {
    layout!(facts, "struct xen_domctl", Domctl { cmd, interface_version, domain, u });
    layout!(
        facts,
        "struct xen_domctl_getdomaininfo",
        GetDomainInfo {
            domain,
            flags,
            tot_pages,
            max_pages,
            outstanding_pages,
            shr_pages,
            paged_pages,
            shared_info_frame,
            cpu_time,
            nr_online_vcpus,
            max_vcpu_id,
            ssidref,
            handle,
            cpupool,
            gpaddr_bits,
            emulation_flags: "arch_config.emulation_flags",
            misc_flags: "arch_config.misc_flags",
        }
    );
    layout!(facts, "struct xen_domctl_getpageframeinfo3", GetPageFrameInfo3 { num, array });
    layout!(
        facts,
        "struct xen_domctl_shadow_op",
        ShadowOp {
            op,
            mode,
            mb,
            dirty_bitmap,
            pages,
            fault_count: "stats.fault_count",
            dirty_count: "stats.dirty_count"
        }
    );
    layout!(facts, "struct xen_domctl_vcpucontext", VcpuContext { vcpu, ctxt });
    layout!(facts, "struct vcpu_guest_context", VcpuGuestContext { rax: "user_regs.rax" });
    layout!(facts, "struct xen_domctl_hvmcontext", HvmContext { size, buffer });
    layout!(facts, "struct xen_domctl_tsc_info", TscInfo { tsc_mode, gtsc_khz, incarnation, elapsed_nsec });
    layout!(facts, "struct xen_domctl_vm_event_op", VmEventOp { op, mode, port: "u.enable.port" });
    layout!(
        facts,
        "struct xen_domctl_cpu_policy",
        CpuPolicy { nr_leaves, nr_msrs, leaves, msrs, err_leaf, err_subleaf, err_msr }
    );
    layout!(facts, "struct xen_cpuid_leaf", CpuidLeaf { leaf, subleaf, a, b, c, d });
    layout!(facts, "struct xen_msr_entry", MsrEntry { idx, flags, val });
    numbers!(
        facts,
        "XEN_DOMCTL_INTERFACE_VERSION" = domctl::INTERFACE_VERSION,
        "XEN_DOMCTL_destroydomain" = DESTROYDOMAIN,
        "XEN_DOMCTL_pausedomain" = PAUSEDOMAIN,
        "XEN_DOMCTL_unpausedomain" = UNPAUSEDOMAIN,
        "XEN_DOMCTL_getdomaininfo" = GETDOMAININFO,
        "XEN_DOMCTL_shadow_op" = SHADOW_OP,
        "XEN_DOMCTL_setvcpucontext" = SETVCPUCONTEXT,
        "XEN_DOMCTL_getvcpucontext" = GETVCPUCONTEXT,
        "XEN_DOMCTL_resumedomain" = RESUMEDOMAIN,
        "XEN_DOMCTL_gethvmcontext" = GETHVMCONTEXT,
        "XEN_DOMCTL_sethvmcontext" = SETHVMCONTEXT,
        "XEN_DOMCTL_vm_event_op" = VM_EVENT_OP,
        "XEN_DOMCTL_gettscinfo" = GETTSCINFO,
        "XEN_DOMCTL_settscinfo" = SETTSCINFO,
        "XEN_DOMCTL_getpageframeinfo3" = GETPAGEFRAMEINFO3,
        "XEN_DOMCTL_get_cpu_policy" = GET_CPU_POLICY,
        "XEN_DOMCTL_set_cpu_policy" = SET_CPU_POLICY,
        "XEN_DOMINF_dying" = DOMINF_DYING,
        "XEN_DOMINF_hvm_guest" = DOMINF_HVM_GUEST,
        "XEN_DOMINF_shutdown" = DOMINF_SHUTDOWN,
        "XEN_DOMINF_hap" = DOMINF_HAP,
        "XEN_DOMINF_shutdownshift" = DOMINF_SHUTDOWN_SHIFT,
        "XEN_DOMCTL_PFINFO_LTAB_MASK" = PFINFO_LTAB_MASK,
        "XEN_DOMCTL_PFINFO_XTAB" = PFINFO_XTAB,
        "XEN_DOMCTL_PFINFO_XALLOC" = PFINFO_XALLOC,
        "XEN_DOMCTL_PFINFO_BROKEN" = PFINFO_BROKEN,
        "XEN_DOMCTL_SHADOW_OP_OFF" = SHADOW_OP_OFF,
        "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY" = SHADOW_OP_ENABLE_LOGDIRTY,
        "XEN_DOMCTL_SHADOW_OP_CLEAN" = SHADOW_OP_CLEAN,
        "XEN_DOMCTL_SHADOW_OP_PEEK" = SHADOW_OP_PEEK,
        "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL" = SHADOW_LOGDIRTY_FINAL,
        "XEN_VM_EVENT_ENABLE" = VM_EVENT_ENABLE,
        "XEN_VM_EVENT_DISABLE" = VM_EVENT_DISABLE,
        "XEN_DOMCTL_VM_EVENT_OP_PAGING" = VM_EVENT_OP_PAGING,
    );
}

fn memory_and_paging(facts: &mut Vec<Fact>) {
    layout!(
        facts,
        "struct xen_memory_reservation",
        MemoryReservation { extent_start, nr_extents, extent_order, mem_flags, domid }
    );
    layout!(facts, "struct xen_mem_paging_op", MemPagingOp { op, domain, buffer, gfn });
    layout!(
        facts,
        "struct xen_mem_acquire_resource",
        MemAcquireResource { domid, r#type: "type", id, nr_frames, pad, frame, frame_list }
    );
    layout!(
        facts,
        "struct vm_event_st",
        VmEvent { version, flags, reason, vcpu_id, altp2m_idx, mem_paging: "u.mem_paging", data }
    );
    layout!(facts, "struct vm_event_paging", MemPaging { gfn, p2mt, flags });
    numbers!(
        facts,
        "XENMEM_decrease_reservation" = memory::XENMEM_DECREASE_RESERVATION,
        "XENMEM_populate_physmap" = memory::XENMEM_POPULATE_PHYSMAP,
        "XENMEM_maximum_gpfn" = memory::XENMEM_MAXIMUM_GPFN,
        "XENMEM_paging_op" = memory::XENMEM_PAGING_OP,
        "XENMEM_claim_pages" = memory::XENMEM_CLAIM_PAGES,
        "XENMEM_acquire_resource" = memory::XENMEM_ACQUIRE_RESOURCE,
        "XENMEM_paging_op_nominate" = memory::PAGING_OP_NOMINATE,
        "XENMEM_paging_op_prep" = memory::PAGING_OP_PREP,
        "XENMEM_resource_grant_table" = memory::RESOURCE_GRANT_TABLE,
        "VM_EVENT_INTERFACE_VERSION" = vm_event::INTERFACE_VERSION,
        "VM_EVENT_FLAG_VCPU_PAUSED" = vm_event::FLAG_VCPU_PAUSED,
        "VM_EVENT_REASON_MEM_PAGING" = vm_event::REASON_MEM_PAGING,
        "MEM_PAGING_DROP_PAGE" = vm_event::MEM_PAGING_DROP_PAGE,
    );
}

fn translated_guests(facts: &mut Vec<Fact>) {
    layout!(facts, "struct xen_hvm_param", HvmParam { domid, index, value });
    layout!(facts, "struct xen_hvm_get_mem_type", HvmGetMemType { domid, mem_type, pfn });
    layout!(facts, "struct xen_dm_op_buf", DmOpBuffer { data: "h", size });
    layout!(
        facts,
        "struct xen_dm_op",
        DmOpSetMemType {
            op,
            nr: "u.set_mem_type.nr",
            mem_type: "u.set_mem_type.mem_type",
            first_pfn: "u.set_mem_type.first_pfn"
        }
    );
    layout!(
        facts,
        "struct xen_flask_op",
        SidContextOp {
            cmd,
            interface_version,
            sid: "u.sid_context.sid",
            size: "u.sid_context.size",
            context: "u.sid_context.context"
        }
    );
    layout!(
        facts,
        "struct xen_flask_op",
        RelabelOp { cmd, interface_version, domid: "u.relabel.domid", sid: "u.relabel.sid" }
    );
    layout!(
        facts,
        "struct xen_flask_op",
        AccessOp {
            cmd,
            interface_version,
            ssid: "u.access.ssid",
            tsid: "u.access.tsid",
            tclass: "u.access.tclass",
            req: "u.access.req",
            allowed: "u.access.allowed",
            seqno: "u.access.seqno",
        }
    );
    numbers!(
        facts,
        "HVMOP_set_param" = hvm::HVMOP_SET_PARAM,
        "HVMOP_get_param" = hvm::HVMOP_GET_PARAM,
        "XEN_DMOP_set_mem_type" = hvm::DMOP_SET_MEM_TYPE,
        "HVMOP_get_mem_type" = hvm::HVMOP_GET_MEM_TYPE,
        "HVMMEM_ram_rw" = hvm::MEM_RAM_RW,
        "HVMMEM_ram_ro" = hvm::MEM_RAM_RO,
        "HVMMEM_mmio_dm" = hvm::MEM_MMIO_DM,
        "HVM_PARAM_STORE_PFN" = hvm::PARAM_STORE_PFN,
        "HVM_PARAM_STORE_EVTCHN" = hvm::PARAM_STORE_EVTCHN,
        "HVM_PARAM_IOREQ_PFN" = hvm::PARAM_IOREQ_PFN,
        "HVM_PARAM_BUFIOREQ_PFN" = hvm::PARAM_BUFIOREQ_PFN,
        "HVM_PARAM_VIRIDIAN" = hvm::PARAM_VIRIDIAN,
        "HVM_PARAM_IDENT_PT" = hvm::PARAM_IDENT_PT,
        "HVM_PARAM_CONSOLE_PFN" = hvm::PARAM_CONSOLE_PFN,
        "HVM_PARAM_CONSOLE_EVTCHN" = hvm::PARAM_CONSOLE_EVTCHN,
        "HVM_PARAM_ACPI_IOPORTS_LOCATION" = hvm::PARAM_ACPI_IOPORTS_LOCATION,
        "HVM_PARAM_PAGING_RING_PFN" = hvm::PARAM_PAGING_RING_PFN,
        "HVM_PARAM_MONITOR_RING_PFN" = hvm::PARAM_MONITOR_RING_PFN,
        "HVM_PARAM_SHARING_RING_PFN" = hvm::PARAM_SHARING_RING_PFN,
        "HVM_PARAM_IOREQ_SERVER_PFN" = hvm::PARAM_IOREQ_SERVER_PFN,
        "HVM_PARAM_NR_IOREQ_SERVER_PAGES" = hvm::PARAM_NR_IOREQ_SERVER_PAGES,
        "HVM_PARAM_VM_GENERATION_ID_ADDR" = hvm::PARAM_VM_GENERATION_ID_ADDR,
        "HVM_PARAM_X87_FIP_WIDTH" = hvm::PARAM_X87_FIP_WIDTH,
        "HVM_PARAM_VM86_TSS_SIZED" = hvm::PARAM_VM86_TSS_SIZED,
        "HVM_PARAM_MCA_CAP" = hvm::PARAM_MCA_CAP,
        "HVM_SAVE_CODE(END)" = hvm::SAVE_END,
        "HVM_SAVE_CODE(CPU)" = hvm::SAVE_CPU,
        "sizeof(struct hvm_hw_cpu)" = hvm::cpu::SIZE,
        "offsetof(struct hvm_hw_cpu, rsp)" = hvm::cpu::RSP,
        "offsetof(struct hvm_hw_cpu, rip)" = hvm::cpu::RIP,
        "offsetof(struct hvm_hw_cpu, cr0)" = hvm::cpu::CR0,
        "offsetof(struct hvm_hw_cpu, cr3)" = hvm::cpu::CR3,
        "offsetof(struct hvm_hw_cpu, cr4)" = hvm::cpu::CR4,
        "offsetof(struct hvm_hw_cpu, gs_base)" = hvm::cpu::GS_BASE,
        "offsetof(struct hvm_hw_cpu, tr_base)" = hvm::cpu::TR_BASE,
        "offsetof(struct hvm_hw_cpu, idtr_base)" = hvm::cpu::IDTR_BASE,
        "offsetof(struct hvm_hw_cpu, gdtr_base)" = hvm::cpu::GDTR_BASE,
        "offsetof(struct hvm_hw_cpu, shadow_gs)" = hvm::cpu::SHADOW_GS,
        "offsetof(struct hvm_hw_cpu, msr_lstar)" = hvm::cpu::MSR_LSTAR,
        "offsetof(struct hvm_hw_cpu, msr_efer)" = hvm::cpu::MSR_EFER,
        "XEN_FLASK_INTERFACE_VERSION" = flask::INTERFACE_VERSION,
        "FLASK_GETENFORCE" = flask::GETENFORCE,
        "FLASK_ACCESS" = flask::ACCESS,
        "FLASK_CONTEXT_TO_SID" = flask::CONTEXT_TO_SID,
        "FLASK_SID_TO_CONTEXT" = flask::SID_TO_CONTEXT,
        "FLASK_RELABEL_DOMAIN" = flask::RELABEL_DOMAIN,
    );
}

fn include_folder() -> PathBuf {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/testbed/xen-source/xen/include");
    let folder = env::var_os("XEN_INCLUDE").map_or(testbed, PathBuf::from);
    assert!(
        folder.join("public/xen.h").exists(),
        "no Xen headers in {}: `make tools` fetches them, or XEN_INCLUDE names them",
        folder.display()
    );
    folder
}

const HEADERS: &str = "\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdbool.h>
#define __XEN_TOOLS__ 1
#include <public/xen.h>
#include <public/domctl.h>
#include <public/event_channel.h>
#include <public/features.h>
#include <public/grant_table.h>
#include <public/memory.h>
#include <public/sched.h>
#include <public/version.h>
#include <public/vm_event.h>
#include <public/hvm/dm_op.h>
#include <public/hvm/hvm_op.h>
#include <public/hvm/params.h>
#include <public/hvm/save.h>
#include <public/io/console.h>
#include <public/io/netif.h>
#include <public/io/ring.h>
#include <public/io/xs_wire.h>
#include <public/xsm/flask_op.h>
";

/// Compiles and runs a program that prints the value of every expression, in order.
fn what_the_headers_say(include: &Path, facts: &[Fact]) -> Vec<u64> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("abi.c"), folder.join("abi"));
    let mut text = String::from(HEADERS);
    text.push_str("int main(void) {\n");
    for (expression, _) in facts {
        text.push_str(&format!("\tprintf(\"%llu\\n\", (unsigned long long)({expression}));\n"));
    }
    text.push_str("\treturn 0;\n}\n");
    fs::write(&source, text).expect("the test's folder is writable");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut compile = Command::new(&compiler);
    compile.arg("-w").arg("-I").arg(include).arg("-o").arg(&program).arg(&source);
    assert!(compile.status().expect("there is a C compiler").success(), "the headers do not compile");
    let output = Command::new(&program).output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("it prints numbers");
    text.lines().map(|line| line.parse().expect("it prints numbers")).collect()
}
