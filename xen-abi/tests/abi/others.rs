//! What a domain uses on another one.

use std::mem::{offset_of, size_of};

use xen_abi::domctl::*;
use xen_abi::flask::{self, AccessOp, OcontextOp, RelabelOp, SidContextOp};
use xen_abi::hvm::{self, DmOpBuffer, DmOpSetMemType, HvmGetMemType, HvmParam};
use xen_abi::memory::{self, MemAcquireResource, MemPagingOp, MemoryReservation};
use xen_abi::vm_event::{self, MemPaging, VmEvent};

use super::Fact;

/// All of them.
pub fn all(facts: &mut Vec<Fact>) {
    domctl_layouts(facts);
    domctl_numbers(facts);
    memory(facts);
    vm_event(facts);
    hvm(facts);
    hvm_parameters(facts);
    hvm_context(facts);
    flask(facts);
}

fn domctl_layouts(facts: &mut Vec<Fact>) {
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
    layout!(facts, "struct xen_domctl_iomem_permission", IomemPermission { first_mfn, nr_mfns, allow_access });
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
}

fn domctl_numbers(facts: &mut Vec<Fact>) {
    numbers!(
        facts,
        "XEN_DOMCTL_destroydomain" = DESTROYDOMAIN,
        "XEN_DOMCTL_pausedomain" = PAUSEDOMAIN,
        "XEN_DOMCTL_unpausedomain" = UNPAUSEDOMAIN,
        "XEN_DOMCTL_getdomaininfo" = GETDOMAININFO,
        "XEN_DOMCTL_shadow_op" = SHADOW_OP,
        "XEN_DOMCTL_setvcpucontext" = SETVCPUCONTEXT,
        "XEN_DOMCTL_getvcpucontext" = GETVCPUCONTEXT,
        "XEN_DOMCTL_iomem_permission" = IOMEM_PERMISSION,
        "XEN_DOMCTL_resumedomain" = RESUMEDOMAIN,
        "XEN_DOMCTL_gethvmcontext" = GETHVMCONTEXT,
        "XEN_DOMCTL_sethvmcontext" = SETHVMCONTEXT,
        "XEN_DOMCTL_vm_event_op" = VM_EVENT_OP,
        "XEN_DOMCTL_gettscinfo" = GETTSCINFO,
        "XEN_DOMCTL_settscinfo" = SETTSCINFO,
        "XEN_DOMCTL_getpageframeinfo3" = GETPAGEFRAMEINFO3,
        "XEN_DOMCTL_get_cpu_policy" = GET_CPU_POLICY,
        "XEN_DOMCTL_set_cpu_policy" = SET_CPU_POLICY,
        "XEN_DOMCTL_PFINFO_LTAB_MASK" = PFINFO_LTAB_MASK,
        "XEN_DOMCTL_PFINFO_XTAB" = PFINFO_XTAB,
        "XEN_DOMCTL_PFINFO_XALLOC" = PFINFO_XALLOC,
        "XEN_DOMCTL_PFINFO_BROKEN" = PFINFO_BROKEN,
        "XEN_DOMCTL_SHADOW_OP_OFF" = SHADOW_OP_OFF,
        "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY" = SHADOW_OP_ENABLE_LOGDIRTY,
        "XEN_DOMCTL_SHADOW_OP_CLEAN" = SHADOW_OP_CLEAN,
        "XEN_DOMCTL_SHADOW_OP_PEEK" = SHADOW_OP_PEEK,
        "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL" = SHADOW_LOGDIRTY_FINAL,
        "XEN_DOMCTL_VM_EVENT_OP_PAGING" = VM_EVENT_OP_PAGING,
        "XEN_DOMINF_dying" = DOMINF_DYING,
        "XEN_DOMINF_hvm_guest" = DOMINF_HVM_GUEST,
        "XEN_DOMINF_shutdown" = DOMINF_SHUTDOWN,
        "XEN_DOMINF_hap" = DOMINF_HAP,
        "XEN_DOMINF_shutdownshift" = DOMINF_SHUTDOWN_SHIFT,
        "XEN_VM_EVENT_ENABLE" = VM_EVENT_ENABLE,
        "XEN_VM_EVENT_DISABLE" = VM_EVENT_DISABLE,
    );
}

fn memory(facts: &mut Vec<Fact>) {
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
    );
}

fn vm_event(facts: &mut Vec<Fact>) {
    layout!(
        facts,
        "struct vm_event_st",
        VmEvent { version, flags, reason, vcpu_id, altp2m_idx, mem_paging: "u.mem_paging", data }
    );
    layout!(facts, "struct vm_event_paging", MemPaging { gfn, p2mt, flags });
    numbers!(
        facts,
        "__CONST_RING_SIZE(vm_event, 4096)" = vm_event::SLOTS,
        "VM_EVENT_INTERFACE_VERSION" = vm_event::INTERFACE_VERSION,
        "VM_EVENT_FLAG_VCPU_PAUSED" = vm_event::FLAG_VCPU_PAUSED,
        "VM_EVENT_REASON_MEM_PAGING" = vm_event::REASON_MEM_PAGING,
        "MEM_PAGING_DROP_PAGE" = vm_event::MEM_PAGING_DROP_PAGE,
    );
}

fn hvm(facts: &mut Vec<Fact>) {
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
    numbers!(
        facts,
        "HVMOP_set_param" = hvm::HVMOP_SET_PARAM,
        "HVMOP_get_param" = hvm::HVMOP_GET_PARAM,
        "HVMOP_get_mem_type" = hvm::HVMOP_GET_MEM_TYPE,
        "XEN_DMOP_set_mem_type" = hvm::DMOP_SET_MEM_TYPE,
        "HVMMEM_ram_rw" = hvm::MEM_RAM_RW,
        "HVMMEM_ram_ro" = hvm::MEM_RAM_RO,
        "HVMMEM_mmio_dm" = hvm::MEM_MMIO_DM,
    );
}

fn hvm_parameters(facts: &mut Vec<Fact>) {
    numbers!(
        facts,
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
    );
}

fn hvm_context(facts: &mut Vec<Fact>) {
    numbers!(
        facts,
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
    );
}

fn flask(facts: &mut Vec<Fact>) {
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
        OcontextOp {
            cmd,
            interface_version,
            ocon: "u.ocontext.ocon",
            sid: "u.ocontext.sid",
            low: "u.ocontext.low",
            high: "u.ocontext.high"
        }
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
        "XEN_FLASK_INTERFACE_VERSION" = flask::INTERFACE_VERSION,
        "FLASK_GETENFORCE" = flask::GETENFORCE,
        "FLASK_ACCESS" = flask::ACCESS,
        "FLASK_CONTEXT_TO_SID" = flask::CONTEXT_TO_SID,
        "FLASK_SID_TO_CONTEXT" = flask::SID_TO_CONTEXT,
        "FLASK_ADD_OCONTEXT" = flask::ADD_OCONTEXT,
        "FLASK_RELABEL_DOMAIN" = flask::RELABEL_DOMAIN,
    );
}
