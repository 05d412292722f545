//! Both halves of the queue with a device in memory: what it should do, and what none would.

use core::ptr::NonNull;

use super::*;
use crate::drivers::{Receive, Transmit};

/// Everything that a device may offer.
const ALL: u64 = u64::MAX;

/// The device's side: registers in memory, and the queues' pages.
struct Device {
    registers: Pages,
    pages: Pages,
    used: [u16; 2],
}

struct Driver {
    common: Common,
    link: Rc<Link>,
    rx: Rx,
    tx: Tx,
}

fn up(offered: u64) -> (Driver, Device) {
    let registers = Pages::leak(2);
    let pages = Pages::leak(PAGES);
    let device = Device { registers: registers.share(), pages: pages.share(), used: [0; 2] };
    device.put(0, 18, &[2, 0]);
    device.put(0, 24, &[0, 4]);
    // SAFETY: leaked pages.
    let over = |page: usize, size| unsafe { Registers::over(registers.page(page), size) };
    let common = Common::new(over(0, layout::COMMON_BYTES as usize));
    let notify = [over(1, 2), over(1, 2)];
    let link = Rc::new(Link { notify, running: Cell::new(true), broken: Cell::new(None) });
    let features = Features::negotiate(offered).unwrap();
    let (mut rx, tx) = queues(&common, pages, features, &link, |pages, page| address(pages.page(page))).unwrap();
    common.start();
    rx.start();
    (Driver { common, link, rx, tx }, device)
}

fn address(page: NonNull<u8>) -> u64 {
    page.addr().get() as u64
}

impl Device {
    fn put(&self, page: usize, at: usize, bytes: &[u8]) {
        // SAFETY: inside a leaked page.
        unsafe { self.registers.page(page).add(at).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    fn rings(&self, queue: u16) -> NonNull<u8> {
        self.pages.page(2 * usize::from(queue) + 1)
    }

    /// The 16-bit word of a queue's rings.
    fn word(&self, queue: u16, at: usize) -> u16 {
        // SAFETY: inside a leaked page.
        unsafe { self.rings(queue).add(at).cast::<u16>().read_volatile() }
    }

    fn uses(&mut self, queue: u16, id: u32, length: u32) {
        let used = &mut self.used[usize::from(queue)];
        let place = queue::USED + 4 + 8 * usize::from(*used % queue::SIZE);
        *used = used.wrapping_add(1);
        let (used, rings) = (*used, self.rings(queue));
        // SAFETY: inside a leaked page.
        unsafe {
            rings.add(place).cast::<[u32; 2]>().write([id, length]);
            rings.add(queue::USED + 2).cast::<u16>().write_volatile(used);
        }
    }

    /// Gives a packet, whose buffers are the next that are offered, by 4096 bytes.
    fn gives(&mut self, header: [u8; header::LENGTH], packet: &[u8]) {
        let whole = [&header[..], packet].concat();
        for part in whole.chunks(PAGE_SIZE) {
            let slot = usize::from(self.used[0] % queue::SIZE);
            let id = self.word(RX, queue::AVAILABLE + 4 + 2 * slot);
            let page = self.pages.page(2 * queue::PAGES + usize::from(id));
            // SAFETY: inside a leaked page.
            unsafe { page.copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
            self.uses(RX, id.into(), part.len() as u32);
        }
    }

    /// What the driver sent last: the buffer's number, and its bytes.
    fn sent(&self) -> (u16, Vec<u8>) {
        let index = self.word(TX, queue::AVAILABLE + 2).wrapping_sub(1) % queue::SIZE;
        let head = self.word(TX, queue::AVAILABLE + 4 + 2 * usize::from(index));
        let mut bytes = Vec::new();
        let mut at = head;
        loop {
            // SAFETY: inside a leaked page; the addresses are those of leaked pages.
            unsafe {
                let descriptor = self.pages.page(queue::PAGES).add(16 * usize::from(at));
                let (address, [length, flags]) =
                    (descriptor.cast::<u64>().read(), descriptor.add(8).cast::<[u32; 2]>().read());
                bytes.extend(core::slice::from_raw_parts(address as *const u8, length as usize));
                if flags & 1 == 0 {
                    return (head, bytes);
                }
                at = (flags >> 16) as u16;
            }
        }
    }
}

fn header(buffers: u8) -> [u8; header::LENGTH] {
    [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0]
}

#[test]
fn packets_of_one_and_of_many_buffers_come_in_whole_for_ever() {
    let (mut driver, mut device) = up(ALL);
    let large: Vec<u8> = (0..64_000u32).map(|byte| byte as u8).collect();
    for _ in 0..5000 {
        device.gives(header(16), &large);
        device.gives(header(1), &large[..60]);
        assert_eq!(driver.rx.receive().as_deref(), Some(&large[..]));
        assert_eq!(driver.rx.receive().as_deref(), Some(&large[..60]));
        assert_eq!(driver.rx.receive(), None);
    }
    assert_eq!(driver.link.broken(), None);
}

#[test]
fn a_packet_that_nobody_vouches_for_is_looked_at() {
    let (mut driver, mut device) = up(ALL);
    let mut wrong = [0; 54];
    wrong[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    device.gives(header(1), &wrong);
    assert_eq!(driver.rx.receive().map(|packet| packet.len()), Some(54));
    device.gives([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &wrong);
    assert_eq!(driver.rx.receive().map(|packet| packet.len()), Some(0), "its checksum is wrong");
    device.gives([2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &wrong);
    assert_eq!(driver.rx.receive().map(|packet| packet.len()), Some(0), "large IPv6 packets were not agreed on");
    assert_eq!(driver.link.broken(), None);
}

#[test]
fn a_device_that_lies_about_a_packet_ends_the_queue_and_nothing_else() {
    type Lie = fn(&mut Device);
    let lies: [(Lie, Broken); 7] = [
        (|device| device.uses(RX, 0, 11), Broken::Length(11)),
        (|device| device.uses(RX, 0, 4097), Broken::Length(4097)),
        (|device| device.uses(RX, 256, 60), Broken::Id(256)),
        (|device| device.gives(header(0), &[0; 60]), Broken::Buffers(0)),
        (|device| device.gives(header(2), &[0; 60]), Broken::Buffers(2)),
        (|device| device.gives(header(18), &[0; 70_000]), Broken::Buffers(18)),
        (|device| (0..257).for_each(|_| device.uses(RX, 0, 60)), Broken::Index),
    ];
    for (lie, broken) in lies {
        let (mut driver, mut device) = up(ALL);
        lie(&mut device);
        assert_eq!(driver.rx.receive(), None);
        assert_eq!(driver.rx.broken(), Some(crate::drivers::Broken::Device(broken)));
        assert!(!driver.tx.is_ready(), "the other half ends, too");
        driver.tx.send(60, None, &mut |frame| frame.fill(0));
        assert_eq!(device.word(TX, queue::AVAILABLE + 2), 0, "and sends nothing");
    }
}

#[test]
fn the_largest_packet_is_sent_whole_and_its_buffer_comes_back() {
    let (mut driver, mut device) = up(ALL);
    for round in 0..1000u32 {
        assert!(driver.tx.is_ready());
        let length = if round % 2 == 0 { MAX_TX_SIZE } else { 60 };
        driver.tx.send(length, None, &mut |frame| frame.fill(round as u8));
        let (head, bytes) = device.sent();
        assert_eq!(bytes.len(), header::LENGTH + length);
        assert!(bytes[header::LENGTH..].iter().all(|byte| *byte == round as u8));
        device.uses(TX, head.into(), 0);
    }
    assert!(driver.tx.is_ready());
    assert_eq!(driver.link.broken(), None);
}

#[test]
fn a_full_queue_is_ready_again_once_the_device_has_read() {
    let (mut driver, mut device) = up(ALL);
    let mut heads = Vec::new();
    while driver.tx.is_ready() {
        driver.tx.send(MAX_TX_SIZE, None, &mut |_| {});
        heads.push(device.sent().0);
    }
    assert_eq!(heads.len(), 12);
    let event = device.word(TX, queue::AVAILABLE + 4 + 2 * usize::from(queue::SIZE));
    assert_eq!(event, 2, "an interrupt is asked for when a quarter is read");
    for head in &heads[..3] {
        device.uses(TX, (*head).into(), 0);
    }
    assert!(driver.tx.is_ready());
    device.uses(TX, heads[0].into(), 0);
    assert!(!driver.tx.is_ready());
    assert_eq!(driver.link.broken.get(), Some(Broken::Id(heads[0].into())), "one cannot be read twice");
}

#[test]
fn packets_without_offloads_say_nothing_in_their_header() {
    let (mut driver, device) = up(3 << 32 | 1 << 5);
    driver.tx.send(60, core::num::NonZeroU16::new(1448), &mut |frame| frame.fill(7));
    assert_eq!(device.sent().1[..header::LENGTH], [0; header::LENGTH]);
}

#[test]
fn a_device_that_is_gone_or_wants_a_reset_is_found_out() {
    let (driver, device) = up(ALL);
    assert_eq!(driver.common.check(), Ok(()));
    for status in [0xff, 0x4f, 0] {
        device.put(0, 20, &[status]);
        assert_eq!(driver.common.check(), Err(Broken::Status(status)));
    }
    driver.link.end(Broken::Status(0xff));
    assert!(!driver.link.is_running());
}

#[test]
fn queues_that_are_too_small_or_missing_are_refused() {
    for (queues_said, size, unusable) in [(1, 256, Unusable::Queue(1, 0)), (2, 16, Unusable::Queue(0, 16))] {
        let registers = Pages::leak(1);
        // SAFETY: a leaked page.
        let common = Common::new(unsafe { Registers::over(registers.start(), 56) });
        let words: [(usize, u16); 2] = [(18, queues_said), (24, size)];
        for (at, value) in words {
            // SAFETY: inside the page.
            unsafe { registers.start().add(at).cast::<u16>().write(value) };
        }
        assert_eq!(common.queue_size(0).and_then(|_| common.queue_size(1)), Err(unusable));
    }
}

#[test]
fn a_hardware_address_is_one_of_one_device_and_packets_fit_a_buffer() {
    let registers = Pages::leak(1);
    let describe = |offered, bytes: [u8; 12]| {
        // SAFETY: a leaked page.
        unsafe {
            registers.start().cast().write(bytes);
            super::describe(&Registers::over(registers.start(), 12), Features::negotiate(offered).unwrap())
        }
    };
    let with = |mac: u8, mtu: u16| [mac, 0, 0, 0, 0, 1, 0, 0, 0, 0, mtu as u8, (mtu >> 8) as u8];
    assert_eq!(describe(ALL, with(2, 9000)).map(|found| (found.mac, found.mtu)), Ok(([2, 0, 0, 0, 0, 1], 9000)));
    assert_eq!(describe(ALL & !(1 << 15), with(2, 9000)).map(|found| found.mtu), Ok(4070));
    assert_eq!(describe(ALL & !(1 << 3), with(2, 9000)).map(|found| found.mtu), Ok(1500));
    assert_eq!(describe(ALL, with(1, 1500)), Err(Unusable::NoMac));
    assert_eq!(describe(ALL, [0; 12]), Err(Unusable::NoMac));
}

#[test]
fn packets_that_come_at_the_very_moment_of_looking_are_whole() {
    const PACKETS: u32 = 200_000;
    let (mut driver, mut device) = up(ALL);
    let giver = std::thread::spawn(move || {
        for _ in 0..PACKETS {
            while device.word(RX, queue::AVAILABLE + 2) == device.used[0] {
                std::hint::spin_loop();
            }
            device.gives(header(1), &[7; 60]);
        }
    });
    let mut received = 0;
    while received < PACKETS && driver.link.broken().is_none() {
        received += u32::from(driver.rx.receive().is_some());
    }
    assert_eq!(driver.link.broken(), None, "after {received} packets");
    giver.join().unwrap();
}
