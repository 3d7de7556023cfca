//! An allocator that counts. An island of unsafe code, for the trait of allocators.
//!
//! 1. Every call is passed on to the system's allocator as it came, and so is its answer; counting touches
//!    neither.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, with a count of what it hands out.
pub struct Counting {
    allocations: AtomicU64,
}

impl Counting {
    pub const fn new() -> Counting {
        Counting { allocations: AtomicU64::new(0) }
    }

    /// How often memory was asked for so far, by all threads; to grow is to ask again.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: (1) what the trait demands, the system's allocator keeps.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: (1) the caller keeps the contract of `System.alloc`, which is the same.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: (1).
        unsafe { System.alloc(layout) }
    }

    // SAFETY: (1) as above.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: (1).
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: (1) as above.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: (1).
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: (1) as above.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count();
        // SAFETY: (1).
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
