//! Buffers that wait for the next request of this thread. A connection has one only while a
//! request is in flight, and the one it gets is still warm in the processor's cache.

use std::cell::RefCell;

use bytes::BytesMut;

/// Room for the head of a request or an answer and the first of its body.
const SIZE: usize = 8 * 1024;
/// Larger ones are given back to the system.
const LARGEST: usize = 64 * 1024;
/// How many of each kind a thread keeps.
const MOST: usize = 512;

thread_local! {
    static OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static IN: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer to write into.
pub(crate) fn take_out() -> Vec<u8> {
    OUT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SIZE))
}

/// Gives it back.
pub(crate) fn give_out(mut buffer: Vec<u8>) {
    buffer.clear();
    if (SIZE..=LARGEST).contains(&buffer.capacity()) {
        OUT.with_borrow_mut(|spare| {
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}

/// An empty buffer to read into.
pub(crate) fn take_in() -> BytesMut {
    IN.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Gives it back.
pub(crate) fn give_in(mut buffer: BytesMut) {
    buffer.clear();
    // What was read past is claimed back, as long as nobody else holds a part of it.
    if buffer.try_reclaim(SIZE) && buffer.capacity() <= LARGEST {
        IN.with_borrow_mut(|spare| {
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}
