//! What a run cost its cores, for reports: time by kind, and system calls.

use std::fmt;

use drizzle::node::{JobReport, SystemCalls};
use serde_json::{Map, Value, json};

/// Where the time of all cores went, in nanoseconds.
pub(crate) fn time_json(job: &JobReport) -> Value {
    let kinds = job.costs.time.by_kind();
    Value::Object(kinds.into_iter().map(|(kind, ns)| (kind.to_owned(), json!(ns))).collect())
}

/// The system calls of all cores, and of the threads that control them, by name.
pub(crate) fn calls_json(job: &JobReport) -> Value {
    let by_name = |calls: &SystemCalls| {
        let kinds = calls.by_kind().into_iter();
        let mut object: Map<String, Value> =
            kinds.map(|(name, count)| (name.to_owned(), json!(count))).collect();
        object.insert("total".to_owned(), json!(calls.total()));
        Value::Object(object)
    };
    json!({ "cores": by_name(&job.costs.calls), "control": by_name(&job.control_calls) })
}

/// Parts of the cores' time, as a line of the table.
pub(crate) struct CoreTime<'a>(pub(crate) &'a JobReport);

impl fmt::Display for CoreTime<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = &self.0.costs.time;
        let all: u64 = time.by_kind().iter().map(|(_, ns)| ns).sum();
        let percent = |ns: u64| ns as f64 * 100.0 / all.max(1) as f64;
        let exchange = time.serialise_ns + time.send_ns + time.receive_ns;
        write!(
            out,
            "run {:.1} %      schedule {:.1} %      exchange {:.1} %      poll {:.1} %      idle {:.1} %",
            percent(time.run_ns),
            percent(time.schedule_ns),
            percent(exchange),
            percent(time.poll_ns),
            percent(time.idle_poll_ns + time.wait_ns),
        )
    }
}
