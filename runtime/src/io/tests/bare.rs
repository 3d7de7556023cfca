//! Tests of the bare streams.

use super::*;
use crate::io::bare::{Notified, Sending, drain, send};

#[test]
fn a_bare_stream_moves_all_bytes_and_tells_what_was_copied() {
    with_each_kind(|kind| {
        if kind != IoKind::Uring {
            return;
        }
        for sending in [Sending::Copied, Sending::ZeroCopy] {
            let (near, far) = pair();
            let (block, times) = (Arc::new(pattern(100_000)), 100);
            let sender = thread::spawn({
                let block = block.clone();
                move || send(&near, &block, times, sending)
            });
            drain(&far, times * block.len() as u64).unwrap();
            let Notified { sends, copied } = sender.join().unwrap().unwrap();
            assert_eq!(sends, if sending == Sending::ZeroCopy { times } else { 0 });
            assert!(copied <= sends);
            assert_eq!(Arc::strong_count(&block), 1);
        }
    });
}

#[test]
fn a_bare_stream_that_ends_early_is_an_error() {
    with_each_kind(|kind| {
        if kind == IoKind::Uring {
            let (near, far) = pair();
            write(&near, b"few");
            drop(near);
            let error = drain(&far, 100).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        }
    });
}
