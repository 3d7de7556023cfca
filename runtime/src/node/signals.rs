//! SIGINT and SIGTERM: the first asks the job to stop at a cut, a later one ends the process.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::clock::monotonic_now;
use crate::node::StopFlag;

/// Signals that come so soon after the first are the same wish: `timeout` signals a process and then
/// its whole group.
const SAME_WISH_NS: u64 = 300_000_000;

/// Makes the first SIGINT or SIGTERM ask for a stop, and the next one end the process at once.
pub fn stop_on_signals() -> io::Result<StopFlag> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let set = flag.clone();
    let watch = move || {
        let mut first_ns = None;
        for signal in signals.forever() {
            set.store(true, Ordering::Relaxed);
            let now_ns = monotonic_now();
            if now_ns - *first_ns.get_or_insert(now_ns) > SAME_WISH_NS {
                process::exit(128 + signal);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
    Ok(StopFlag(flag))
}
