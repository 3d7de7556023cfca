//! What a loop has of a driver that it shares with the other loops of its thread: being woken. Its
//! messages come by mailboxes and channels; it has no sockets, so it submits nothing, and it is its
//! thread that parks.

use std::time::Duration;

use super::{Bells, Completion, Io, Op, SystemCalls, Token, Waker};

/// See the module's text.
#[derive(Debug)]
pub struct Tenant {
    waker: Waker,
}

impl Tenant {
    /// The part of loop `number` in the driver that `io` is.
    pub fn new(io: &Waker, bells: &Bells, number: usize) -> Tenant {
        Tenant { waker: io.for_loop(bells, number) }
    }
}

impl Io for Tenant {
    fn submit(&mut self, _token: Token, op: Op) {
        unreachable!("{op:?} of a loop that shares its thread and has no sockets");
    }

    fn poll(&mut self, _completions: &mut Vec<Completion>) {}

    /// Returns at once, as a park may: where one loop waited, the others would.
    fn park(&mut self, _timeout: Option<Duration>) {}

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pending(&self) -> usize {
        0
    }

    /// Those of the driver, which all loops of the thread share, are counted there.
    fn calls(&self) -> SystemCalls {
        SystemCalls::default()
    }

    fn close(&mut self, _completions: &mut Vec<Completion>) {}
}
