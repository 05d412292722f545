//! The heap: a list of free blocks, for the control plane. Its calls are O(n); the page path allocates nothing.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use common::PAGE_SIZE;
use linked_list_allocator::Heap;
use spin::Mutex;
use xen_pv::memory::Pages;

struct LockedHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

/// Gives the heap its memory; once only.
pub fn init(pages: Pages) {
    // SAFETY: the pages are ours alone for ever, and this is called once.
    unsafe { HEAP.0.lock().init(pages.start().as_ptr(), pages.count() * PAGE_SIZE) };
}

/// Bytes that are free.
pub fn free() -> usize {
    HEAP.0.lock().free()
}

// SAFETY: blocks come from `Heap`, which hands out each byte once. There is one thread and no interrupt: the lock is
// never contended.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got the block from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}
