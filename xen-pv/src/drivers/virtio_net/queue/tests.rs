use super::*;
use crate::memory::Pages;

/// The device's side of a queue.
struct Device {
    rings: NonNull<u8>,
    size: u16,
    used: u16,
}

fn queue(size: u16, event_index: bool) -> (Queue, Device) {
    let pages = Pages::leak(PAGES);
    // SAFETY: leaked pages.
    let queue = unsafe { Queue::new([pages.page(0), pages.page(1)], size, event_index) };
    (queue, Device { rings: pages.page(1), size, used: 0 })
}

impl Device {
    fn word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the page.
        unsafe { AtomicU16::from_ptr(self.rings.add(offset).cast().as_ptr()) }
    }

    fn uses(&mut self, id: u32, length: u32) {
        let place = USED + ENTRIES + 8 * usize::from(self.used % self.size);
        // SAFETY: inside the page.
        unsafe { self.rings.add(place).cast::<UsedElement>().write(UsedElement { id, length }) };
        self.used = self.used.wrapping_add(1);
        self.word(USED + INDEX).store(self.used, Ordering::Relaxed);
    }

    /// Asks for a notification of the buffer with this index.
    fn wants(&self, index: u16) {
        self.word(USED + ENTRIES + 8 * usize::from(self.size)).store(index, Ordering::Relaxed);
    }

    fn descriptor(&self, queue: &Queue, index: u16) -> (u64, u32, u16, u16) {
        // SAFETY: inside the page.
        let descriptor = unsafe { queue.descriptors.add(index.into()).read() };
        (descriptor.address, descriptor.length, descriptor.flags, descriptor.next)
    }

    fn interrupts_at(&self) -> u16 {
        self.word(AVAILABLE + ENTRIES + 2 * usize::from(self.size)).load(Ordering::Relaxed)
    }
}

const PART: Part = Part { address: 0, length: 1 };

#[test]
fn buffers_pass_the_wrap_of_ring_and_index() {
    let (mut queue, mut device) = queue(4, true);
    for round in 0..70_000u32 {
        let head = queue
            .add(&[Part { address: round.into(), length: 1 }, Part { address: 7, length: 2 }], Direction::ToDevice);
        let _ = queue.publish();
        assert_eq!(device.word(AVAILABLE + INDEX).load(Ordering::Relaxed), (round + 1) as u16);
        let (address, length, flags, next) = device.descriptor(&queue, head);
        assert_eq!((address, length, flags), (round.into(), 1, NEXT));
        assert_eq!(device.descriptor(&queue, next), (7, 2, 0, 0));
        device.uses(head.into(), round);
        assert_eq!(queue.waiting(), Ok(1));
        assert_eq!(queue.pop(), Ok(Some(Used { head, length: round })));
        assert_eq!((queue.pop(), queue.free()), (Ok(None), 4));
    }
}

#[test]
fn a_buffer_that_the_device_does_not_have_breaks_the_queue() {
    for id in [1, 2, 3, 4, 65536, u32::MAX] {
        let (mut queue, mut device) = queue(4, true);
        assert_eq!(queue.add(&[PART; 2], Direction::FromDevice), 0);
        let _ = queue.publish();
        device.uses(id, 0);
        assert_eq!(queue.pop(), Err(Broken::Id(id)), "1 is a later part of a buffer, the others are nothing");
    }
    let (mut queue, mut device) = queue(4, true);
    for _ in 0..2 {
        queue.add(&[PART], Direction::FromDevice);
    }
    let _ = queue.publish();
    device.uses(0, 0);
    device.uses(0, 0);
    assert!(queue.pop().is_ok());
    assert_eq!(queue.pop(), Err(Broken::Id(0)), "one cannot come back twice");
}

#[test]
fn more_used_buffers_than_there_are_break_the_queue() {
    let (mut queue, mut device) = queue(4, true);
    queue.add(&[PART], Direction::FromDevice);
    let _ = queue.publish();
    device.uses(0, 0);
    device.uses(0, 0);
    assert_eq!(queue.waiting(), Err(Broken::Index));
    assert_eq!(queue.pop(), Err(Broken::Index));
    assert_eq!(queue.arm(1), Err(Broken::Index));
    device.word(USED + INDEX).store(u16::MAX, Ordering::Relaxed);
    assert_eq!(queue.waiting(), Err(Broken::Index), "an index cannot go back");
}

#[test]
fn the_device_is_notified_only_when_it_asked() {
    let (mut queue, device) = queue(8, true);
    let mut add = || {
        queue.add(&[PART], Direction::ToDevice);
        queue.publish()
    };
    assert!(add());
    assert!(!add(), "it asked for the first only");
    device.wants(3);
    assert!(!add());
    assert!(add());
    let (mut queue, device) = self::queue(8, false);
    assert!(!queue.publish(), "nothing is new");
    queue.add(&[PART], Direction::ToDevice);
    assert!(queue.publish());
    device.word(USED + FLAGS).store(NO_NOTIFY, Ordering::Relaxed);
    queue.add(&[PART], Direction::ToDevice);
    assert!(!queue.publish());
}

#[test]
fn interrupts_come_only_when_asked_for_and_arming_tells_of_what_came_before_it() {
    let (mut queue, mut device) = queue(8, true);
    for _ in 0..4 {
        queue.add(&[PART], Direction::ToDevice);
    }
    let _ = queue.publish();
    assert_eq!((queue.arm(1), device.interrupts_at()), (Ok(false), 0));
    assert_eq!((queue.arm(3), device.interrupts_at()), (Ok(false), 2));
    device.uses(0, 0);
    assert_eq!(queue.arm(1), Ok(true));
    assert!(queue.pop().is_ok());
    assert_eq!((queue.arm(1), device.interrupts_at()), (Ok(false), 1));

    let (mut queue, mut device) = self::queue(8, false);
    let masked = |device: &Device| device.word(AVAILABLE + FLAGS).load(Ordering::Relaxed) == NO_INTERRUPT;
    queue.add(&[PART], Direction::ToDevice);
    let _ = queue.publish();
    assert!(masked(&device));
    assert_eq!(queue.arm(1), Ok(false));
    assert!(!masked(&device));
    device.uses(0, 0);
    assert!(queue.pop().is_ok());
    assert!(masked(&device), "while there is work there is no interrupt");
}
