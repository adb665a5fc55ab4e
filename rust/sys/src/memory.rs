//! Memory for large buffers.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// What is as large is memory of its own to glibc: pages, in which the block begins after 16 bytes of it.
const LARGE: usize = 128 << 10;
const PAGE: usize = 4096;
/// What `malloc` aligns every block to.
const ALIGNED: usize = 16;

/// The allocator of libc, except that a large block begins where a page does.
///
/// The kernel copies by `rep movsb` on processors that call it fast. Those of AMD since Zen 3 do, but copy
/// several times slower where the target begins 1 to 31 bytes further into its page than the source, as a
/// buffer of `malloc` does beside a page of a file (glibc bug 30994).
pub struct PageAligned;

// SAFETY: `malloc`, `posix_memalign` and `calloc` return null or a block of at least that size and alignment
// which nobody else has; `free` and `realloc` take the blocks of each of them.
unsafe impl GlobalAlloc for PageAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED && layout.size() < LARGE {
            // SAFETY: Any size may be asked for.
            return unsafe { libc::malloc(layout.size()) }.cast();
        }
        let align = if layout.size() < LARGE { layout.align() } else { layout.align().max(PAGE) };
        let mut block = ptr::null_mut();
        // SAFETY: The alignment is a power of two and more than that of a pointer.
        match unsafe { libc::posix_memalign(&raw mut block, align, layout.size()) } {
            0 => block.cast(),
            _ => ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED && layout.size() < LARGE {
            // SAFETY: Any size may be asked for.
            return unsafe { libc::calloc(1, layout.size()) }.cast();
        }
        // SAFETY: The caller keeps the promises of `alloc`.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: The block has that size.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let becomes_large = layout.size() < LARGE && size >= LARGE;
        if layout.align() <= ALIGNED && !becomes_large {
            // A block that has its place in a page mostly keeps it: the kernel moves whole pages.
            // SAFETY: The block is of this allocator.
            return unsafe { libc::realloc(block.cast(), size) }.cast();
        }
        // SAFETY: The caller has seen to it that a layout of this size is one.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: Both have so many bytes, and are two blocks; the old one is of this allocator.
            unsafe {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        new
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: The block is of this allocator, whose blocks are all of `malloc` and its like.
        unsafe { libc::free(block.cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 5] = [1, 4096, LARGE - 1, LARGE, 3 << 20];
    const FULL: u8 = 7;

    struct Block {
        at: *mut u8,
        layout: Layout,
    }

    impl Block {
        fn new(alloc: unsafe fn(&PageAligned, Layout) -> *mut u8, size: usize, align: usize) -> Block {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: No test asks for 0 bytes.
            let at = unsafe { alloc(&PageAligned, layout) };
            assert!(!at.is_null());
            Block { at, layout }
        }

        fn full(size: usize, align: usize) -> Block {
            let mut block = Block::new(PageAligned::alloc, size, align);
            block.bytes().fill(FULL);
            block
        }

        fn resized(mut self, size: usize) -> Block {
            // SAFETY: The block has that layout, and nobody has a part of it.
            self.at = unsafe { PageAligned.realloc(self.at, self.layout, size) };
            assert!(!self.at.is_null());
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: The block has so many bytes, and lives as long as the slice.
            unsafe { std::slice::from_raw_parts_mut(self.at, self.layout.size()) }
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            // SAFETY: The block has that layout, and nobody has a part of it.
            unsafe { PageAligned.dealloc(self.at, self.layout) }
        }
    }

    #[test]
    fn a_large_block_begins_where_a_page_does() {
        for size in SIZES.into_iter().filter(|size| *size >= LARGE) {
            let zeroed = Block::new(PageAligned::alloc_zeroed, size, 1);
            for block in [Block::full(size, 1), zeroed, Block::full(100, 1).resized(size)] {
                assert_eq!(block.at.addr() % PAGE, 0, "of {size}");
            }
        }
    }

    #[test]
    fn a_block_is_aligned_as_it_was_asked_for_and_keeps_its_bytes() {
        for (size, align) in SIZES.into_iter().flat_map(|size| [1, 16, 64, 8192].map(|align| (size, align))) {
            for new in SIZES {
                let block = Block::full(size, align);
                assert_eq!(block.at.addr() % align, 0, "{size} at {align}");
                let mut block = block.resized(new);
                assert_eq!(block.at.addr() % align, 0, "{size} to {new} at {align}");
                assert!(block.bytes()[..size.min(new)].iter().all(|byte| *byte == FULL));
            }
        }
    }

    #[test]
    fn zeroed_memory_is_zero_also_where_it_was_used_before() {
        for (size, align) in SIZES.into_iter().flat_map(|size| [1, 64].map(|align| (size, align))) {
            drop(Block::full(size, align));
            let mut block = Block::new(PageAligned::alloc_zeroed, size, align);
            assert!(block.bytes().iter().all(|byte| *byte == 0));
        }
    }
}
