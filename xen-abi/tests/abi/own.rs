//! What a domain uses for itself.

use std::mem::{offset_of, size_of};

use xen_abi::event_channel::{self, AllocUnbound, BindInterdomain, BindIpi, BindPirq, Close, Send, Status};
use xen_abi::grant_table::{self, CopyEnd, GetVersion, GrantCopy, GrantEntryV1, QuerySize, SetupTable};
use xen_abi::hypercall::{self, MulticallEntry};
use xen_abi::mmu::{self, MmuUpdate, MmuextOp};
use xen_abi::netif::{ExtraGso, RxRequest, RxResponse, TxRequest, TxResponse};
use xen_abi::pciif::{self, MsixEntry, PciOp};
use xen_abi::ring::{self, ConsoleInterface, RingHeader, XenstoreInterface};
use xen_abi::sched::{self, Poll, Shutdown};
use xen_abi::start_info::{SharedInfo, StartInfo, VcpuInfo, VcpuTimeInfo};
use xen_abi::{version, xenstore};

use super::Fact;

/// All of them.
pub fn all(facts: &mut Vec<Fact>) {
    hypercalls(facts);
    mmu(facts);
    sched(facts);
    event_channels(facts);
    grant_table(facts);
    start_info(facts);
    version(facts);
    rings(facts);
    io(facts);
}

fn hypercalls(facts: &mut Vec<Fact>) {
    layout!(facts, "struct multicall_entry", MulticallEntry { op, result, args });
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
    );
}

fn mmu(facts: &mut Vec<Fact>) {
    layout!(facts, "struct mmu_update", MmuUpdate { ptr, val });
    layout!(facts, "struct mmuext_op", MmuextOp { cmd, arg1: "arg1.mfn", arg2: "arg2.nr_ents" });
    numbers!(
        facts,
        "MMU_PT_UPDATE_NO_TRANSLATE" = mmu::MMU_PT_UPDATE_NO_TRANSLATE,
        "MMUEXT_TLB_FLUSH_LOCAL" = mmu::MMUEXT_TLB_FLUSH_LOCAL,
        "UVMF_INVLPG" = mmu::UVMF_INVLPG,
    );
}

fn sched(facts: &mut Vec<Fact>) {
    layout!(facts, "struct sched_poll", Poll { ports, nr_ports, timeout });
    layout!(facts, "struct sched_shutdown", Shutdown { reason });
    numbers!(
        facts,
        "SCHEDOP_yield" = sched::SCHEDOP_YIELD,
        "SCHEDOP_poll" = sched::SCHEDOP_POLL,
        "SCHEDOP_shutdown" = sched::SCHEDOP_SHUTDOWN,
        "SHUTDOWN_poweroff" = sched::SHUTDOWN_POWEROFF,
        "SHUTDOWN_crash" = sched::SHUTDOWN_CRASH,
        "SHUTDOWN_suspend" = sched::SHUTDOWN_SUSPEND,
    );
}

fn event_channels(facts: &mut Vec<Fact>) {
    layout!(facts, "struct evtchn_alloc_unbound", AllocUnbound { dom, remote_dom, port });
    layout!(facts, "struct evtchn_bind_interdomain", BindInterdomain { remote_dom, remote_port, local_port });
    layout!(facts, "struct evtchn_bind_ipi", BindIpi { vcpu, port });
    layout!(facts, "struct evtchn_bind_pirq", BindPirq { pirq, flags, port });
    layout!(facts, "struct evtchn_close", Close { port });
    layout!(facts, "struct evtchn_status", Status { dom, port, status, vcpu, u });
    layout!(facts, "struct evtchn_send", Send { port });
    numbers!(
        facts,
        "EVTCHNOP_bind_interdomain" = event_channel::EVTCHNOP_BIND_INTERDOMAIN,
        "EVTCHNOP_bind_pirq" = event_channel::EVTCHNOP_BIND_PIRQ,
        "EVTCHNOP_close" = event_channel::EVTCHNOP_CLOSE,
        "EVTCHNOP_send" = event_channel::EVTCHNOP_SEND,
        "EVTCHNOP_status" = event_channel::EVTCHNOP_STATUS,
        "EVTCHNSTAT_interdomain" = event_channel::EVTCHNSTAT_INTERDOMAIN,
        "EVTCHNOP_alloc_unbound" = event_channel::EVTCHNOP_ALLOC_UNBOUND,
        "EVTCHNOP_bind_ipi" = event_channel::EVTCHNOP_BIND_IPI,
    );
}

fn grant_table(facts: &mut Vec<Fact>) {
    layout!(facts, "struct grant_entry_v1", GrantEntryV1 { flags, domid, frame });
    layout!(facts, "struct gnttab_copy", GrantCopy { source, dest, len, flags, status });
    layout!(facts, "struct gnttab_copy_ptr", CopyEnd { frame: "u", domid, offset });
    layout!(facts, "struct gnttab_get_version", GetVersion { dom, pad, version });
    layout!(facts, "struct gnttab_query_size", QuerySize { dom, nr_frames, max_nr_frames, status });
    layout!(facts, "struct gnttab_setup_table", SetupTable { dom, nr_frames, status, frame_list });
    numbers!(
        facts,
        "GNTTABOP_setup_table" = grant_table::GNTTABOP_SETUP_TABLE,
        "GNTTABOP_copy" = grant_table::GNTTABOP_COPY,
        "(unsigned short)GNTST_permission_denied" = grant_table::GNTST_PERMISSION_DENIED as u16,
        "GNTCOPY_source_gref" = grant_table::COPY_SOURCE_GREF,
        "GNTCOPY_dest_gref" = grant_table::COPY_DEST_GREF,
        "GNTTABOP_get_version" = grant_table::GNTTABOP_GET_VERSION,
        "GNTTABOP_query_size" = grant_table::GNTTABOP_QUERY_SIZE,
        "GTF_permit_access" = grant_table::GTF_PERMIT_ACCESS,
        "GTF_readonly" = grant_table::GTF_READONLY,
        "GTF_reading" = grant_table::GTF_READING,
        "GTF_writing" = grant_table::GTF_WRITING,
    );
}

fn start_info(facts: &mut Vec<Fact>) {
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
}

fn version(facts: &mut Vec<Fact>) {
    numbers!(facts, "XENVER_version" = version::XENVER_VERSION, "XENVER_extraversion" = version::XENVER_EXTRAVERSION,);
}

fn rings(facts: &mut Vec<Fact>) {
    layout!(@fields facts, "struct netif_tx_sring", RingHeader { req_prod, req_event, rsp_prod, rsp_event });
    layout!(@fields facts, "struct vm_event_sring", RingHeader { req_prod, req_event, rsp_prod, rsp_event });
    numbers!(
        facts,
        "offsetof(struct netif_tx_sring, ring)" = size_of::<RingHeader>(),
        "offsetof(struct vm_event_sring, ring)" = size_of::<RingHeader>(),
        "XENSTORE_RING_SIZE" = ring::XENSTORE_RING_SIZE,
    );
    layout!(
        facts,
        "struct xencons_interface",
        ConsoleInterface { input: "in", output: "out", in_cons, in_prod, out_cons, out_prod }
    );
    layout!(@fields facts, "struct xenstore_domain_interface", XenstoreInterface {
        req, rsp, req_cons, req_prod, rsp_cons, rsp_prod
    });
}

fn io(facts: &mut Vec<Fact>) {
    layout!(facts, "struct netif_tx_request", TxRequest { gref, offset, flags, id, size });
    layout!(@fields facts, "struct netif_extra_info", ExtraGso {
        kind: "type", flags, size: "u.gso.size", gso_kind: "u.gso.type", features: "u.gso.features"
    });
    layout!(facts, "struct netif_tx_response", TxResponse { id, status });
    layout!(facts, "struct netif_rx_request", RxRequest { id, gref });
    layout!(facts, "struct netif_rx_response", RxResponse { id, offset, flags, status });
    layout!(@fields facts, "struct xen_pci_op", PciOp {
        cmd, err, domain, bus, devfn, offset, size, value, info
    });
    layout!(facts, "struct xen_msix_entry", MsixEntry { vector, entry });
    layout!(@fields facts, "struct xen_pci_sharedinfo", pciif::SharedInfo { flags, op, msix: "op.msix_entries" });
    numbers!(
        facts,
        "XEN_PCIF_active" = pciif::XEN_PCIF_ACTIVE,
        "XEN_PCI_OP_conf_read" = pciif::XEN_PCI_OP_CONF_READ,
        "XEN_PCI_OP_conf_write" = pciif::XEN_PCI_OP_CONF_WRITE,
        "XEN_PCI_OP_enable_msix" = pciif::XEN_PCI_OP_ENABLE_MSIX,
        "XEN_PCI_OP_disable_msix" = pciif::XEN_PCI_OP_DISABLE_MSIX,
        "sizeof(struct xsd_sockmsg)" = xenstore::HEADER,
        "XENSTORE_PAYLOAD_MAX" = xenstore::PAYLOAD_MAX,
    );
}
