//! What a measurement ran on: no figure means anything without it.

use serde_json::{Value, json};

/// Kernel and processors.
pub(crate) fn describe() -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split_once(':')).map_or("unknown", |(_, name)| name);
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({ "kernel": kernel.trim(), "cpus": cpus, "model": model.trim() })
}
