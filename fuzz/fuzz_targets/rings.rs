//! Pages that the agent shares: with the network's backend or device, with PCI's backend, with xenstore, with the hypervisor
//! for faults. The first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pv::drivers::{netfront, pci, virtio_net};
use xen_pv::{guest, xenstore};

fuzz_target!(|bytes: &[u8]| {
    let Some((ring, bytes)) = bytes.split_first() else { return };
    match ring % 6 {
        0 => netfront::fuzzing::queue(bytes),
        1 => virtio_net::fuzzing::device(bytes),
        2 => virtio_net::fuzzing::configuration(bytes),
        3 => pci::fuzzing::operations(bytes),
        4 => xenstore::fuzzing::store(bytes),
        _ => guest::pager::fuzzing::ring(bytes),
    }
});
