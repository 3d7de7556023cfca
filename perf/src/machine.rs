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

/// Says what figures were measured on.
pub(crate) fn print(figures: &Value) {
    let machine = &figures["machine"];
    println!(
        "machine             Linux {}, {} x {}",
        machine["kernel"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["model"].as_str().unwrap_or_default(),
    );
    println!(
        "runtime             {}, {}, {} polling, group {}",
        figures["host"].as_str().unwrap_or_default(),
        figures["io"].as_str().unwrap_or_default(),
        figures["poll"].as_str().unwrap_or_default(),
        figures["group_size"],
    );
}
