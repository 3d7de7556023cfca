//! The glommio host: the loop is one task of a `LocalExecutor` on the core's thread.
//!
//! glommio 0.9 has no public way to await an arbitrary descriptor, but its streams arm a poll when
//! they are made from a descriptor, of whatever kind, and the first read waits for that poll before
//! it touches the descriptor. So a park is: wrap a duplicate of the driver's descriptor (the eventfd
//! registered with our ring, or the epoll descriptor) in a `UnixStream` and await a read of it. The poll
//! wakes the task; the read that follows fails with `ENOTSOCK`, which is what is waited for and
//! why the descriptor is untouched by it. A stream whose poll has not fired is kept for the next park.
//! A timeout is a glommio timer beside it, which is exact to the executor's own sleep.
//!
//! While there is work the task steps without awaiting, and every so often takes a breath: it awaits a
//! timer of no length, which makes the executor look at its rings and run its other tasks.
//!
//! glommio 0.9 can fall asleep although a task is ready: when a completion reaches its latency ring between
//! its look at the rings and its look at the run queue, `run_task_queues` reports that nothing ran,
//! and the executor parks. In practice that completion is the preemption timer, on a thread that
//! the kernel held up for longer than the timer's 100 ms. Three things keep us from it: the timer is set so
//! long that it never fires, breaths do not need it, and no park is longer than `LONGEST_PARK`,
//! so that should it happen in another way, the core loses that time and not its life.
//!
//! An island of unsafe code, for one call:
//!
//! 1. A descriptor given to a glommio stream is an owned duplicate that nothing else closes.
#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use ::glommio::net::UnixStream;
use ::glommio::timer::Timer;
use ::glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use futures_io::AsyncRead;

use super::runner::{Runner, Stop};
use super::statistics::Counters;
use super::{CoreLoop, Pacer, Started};
use crate::clock;
use crate::io::Readiness;

/// How many steps are made between two looks at the clock.
const STEPS_PER_LOOK: u32 = 32;

/// How long the loop may keep other tasks of its executor waiting, beyond the steps between two looks.
const BREATHLESS_NS: u64 = 10_000_000;

/// The time after which glommio would preempt the loop: never. See the module's doc.
const PREEMPT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The longest sleep. See the module's doc.
const LONGEST_PARK: Duration = Duration::from_secs(1);

/// Memory for direct IO that is registered with each of an executor's three rings. It counts as locked, so it
/// is glommio's minimum; more comes from the allocator.
const STORAGE_MEMORY: usize = 64 * 1024;

/// Runs a core on the calling thread until it is done.
pub(super) fn run<B>(started: &Started, pacer: Pacer, counters: &Counters, build: B)
where
    B: FnOnce() -> Box<dyn CoreLoop>,
{
    let executor = match executor() {
        Ok(executor) => executor,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    let runner = Runner::new(build(), pacer, counters);
    executor.run(drive(runner));
}

/// An executor that leaves pinning to us: the thread is pinned already.
fn executor() -> io::Result<LocalExecutor> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(STORAGE_MEMORY)
        .preempt_timer(PREEMPT_AFTER)
        .make()
        .map_err(|error| io::Error::other(format!("cannot start a glommio executor: {error}")))
}

async fn drive(mut runner: Runner<'_>) {
    let mut armed = Armed(None);
    let mut breathed_at = clock::monotonic_now();
    loop {
        let found = match runner.run(STEPS_PER_LOOK) {
            Stop::Breath => Readiness::Ready,
            Stop::Park(timeout) => {
                let since = runner.before_park();
                let found = park(runner.core(), &mut armed, timeout).await;
                runner.after_park(since);
                found
            }
            Stop::Done => return,
        };
        let now = clock::monotonic_now();
        if found == Readiness::Waiting {
            breathed_at = now;
        } else if now.saturating_sub(breathed_at) >= BREATHLESS_NS {
            Timer::new(Duration::ZERO).await;
            breathed_at = now;
        }
    }
}

/// Sleeps, unless there is a reason not to; says which.
async fn park(core: &mut dyn CoreLoop, armed: &mut Armed, timeout: Option<Duration>) -> Readiness {
    let io = core.io();
    let Some(external) = io.external() else {
        io.park(timeout);
        return Readiness::Ready;
    };
    let found = external.begin();
    if found == Readiness::Waiting {
        let timeout = timeout.map_or(LONGEST_PARK, |timeout| timeout.min(LONGEST_PARK));
        armed.readable(external.descriptor(), timeout).await;
        external.end();
    }
    found
}

/// A stream around the driver's descriptor whose poll has not fired yet.
struct Armed(Option<UnixStream>);

impl Armed {
    /// Waits until the descriptor is readable or the time is over.
    async fn readable(&mut self, descriptor: BorrowedFd<'_>, timeout: Duration) {
        let mut stream = self.0.take().unwrap_or_else(|| wrap(descriptor));
        let mut timer = pin!(Timer::new(timeout));
        let fired = poll_fn(|context| {
            let mut nothing = [0u8; 1];
            if Pin::new(&mut stream).poll_read(context, &mut nothing).is_ready() {
                return Poll::Ready(true);
            }
            timer.as_mut().poll(context).map(|_| false)
        })
        .await;
        if !fired {
            self.0 = Some(stream);
        }
    }
}

fn wrap(descriptor: BorrowedFd<'_>) -> UnixStream {
    let duplicate = descriptor.try_clone_to_owned().expect("one more descriptor per core");
    // SAFETY: (1) `into_raw_fd` gives the duplicate up to the stream.
    unsafe { UnixStream::from_raw_fd(duplicate.into_raw_fd()) }
}
