//! What happened to a cluster and when, a line of JSON for each event: for measurements.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use drizzle::node::{Change, ClusterEvent};
use serde_json::json;

/// A file that grows by a line for each event. Without a file nothing is written.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Option<File>);

impl Timeline {
    /// Appends to the file at `path`, so that drivers that follow each other share it.
    pub(crate) fn open(path: Option<&Path>) -> Result<Timeline> {
        let Some(path) = path else { return Ok(Timeline(None)) };
        let file = File::options().create(true).append(true).open(path);
        Ok(Timeline(Some(file.with_context(|| format!("cannot open {}", path.display()))?)))
    }

    /// Notes an event, in one write.
    pub(crate) fn note(&mut self, event: &ClusterEvent) {
        let Some(file) = &mut self.0 else { return };
        let at_ns = event.at_ns;
        let line = match &event.change {
            Change::WorkerJoined { worker, incarnation } => json!({
                "change": "joined", "at_ns": at_ns, "worker": worker.0, "life": incarnation.0,
            }),
            Change::WorkerLost { worker, incarnation, reason } => json!({
                "change": "lost", "at_ns": at_ns, "worker": worker.0, "life": incarnation.0,
                "reason": reason,
            }),
            Change::Fenced => json!({ "change": "fenced", "at_ns": at_ns }),
            Change::Recovered { epoch } => {
                json!({ "change": "recovered", "at_ns": at_ns, "epoch": epoch.0 })
            }
            Change::Loaded => json!({ "change": "loaded", "at_ns": at_ns }),
            Change::Replayed => json!({ "change": "replayed", "at_ns": at_ns }),
            Change::Moved { partitions } => {
                json!({ "change": "moved", "at_ns": at_ns, "partitions": partitions })
            }
            Change::WorkerLeft { worker } => {
                json!({ "change": "left", "at_ns": at_ns, "worker": worker.0 })
            }
            Change::CaughtUp => json!({ "change": "caught up", "at_ns": at_ns }),
            Change::Durable { batch } => {
                json!({ "change": "durable", "at_ns": at_ns, "batch": batch.0 })
            }
            Change::Relieved { from, to } => json!({
                "change": "relieved", "at_ns": at_ns,
                "from": from.worker.0, "from_core": from.core,
                "to": to.worker.0, "to_core": to.core,
            }),
            Change::TookOver => json!({ "change": "took over", "at_ns": at_ns }),
        };
        // Who measures notices that a line is missing; the job goes on.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
