//! The plain host: the thread itself steps, and blocks in the driver when there is nothing to do.

use super::runner::{Runner, Stop};
use super::statistics::Counters;
use super::{CoreLoop, Pacer, Started};

/// Runs a core on the calling thread until it is done.
pub(super) fn run<B>(started: &Started, pacer: Pacer, counters: &Counters, build: B)
where
    B: FnOnce() -> Box<dyn CoreLoop>,
{
    let _ = started.send(Ok(()));
    let mut runner = Runner::new(build(), pacer, counters);
    loop {
        match runner.run(u32::MAX) {
            Stop::Breath => {}
            Stop::Park(timeout) => {
                let since = runner.before_park();
                runner.core().io().park(timeout);
                runner.after_park(since);
            }
            Stop::Done => return,
        }
    }
}
