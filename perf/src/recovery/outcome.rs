//! What a run came to: the latencies of windows around an event, and when what happened.

use std::ops::Range;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Disturbed, SECOND_NS, Scenario};
use crate::figures::{median, reached};

/// A window that is no later than this is normal.
const NORMAL_MS: f64 = 10.0;
/// From one micro-batch to the next.
pub(super) const INTERVAL_NS: u64 = 10_000_000;

/// What one run came to. Times in milliseconds.
pub(super) struct Outcome {
    /// The latest window since the event.
    max_window: f64,
    /// When all windows are normal again, since the event.
    normal_after: f64,
    /// One after the other, since the event.
    parts: [f64; PARTS.len()],
    /// How long after its end the results of a window would have been visible, had they been
    /// written with transactions: with the checkpoint that covers them.
    visible: f64,
    /// From the last worker that joined until all partitions had moved that were to.
    balanced: f64,
    /// From when they were sent away until the last of them had left.
    left: f64,
    /// Open windows of all cores at most.
    state_mib: f64,
    windows: Value,
}

/// What happens after a loss, each after the one before.
const PARTS: [&str; 5] = ["lost", "fenced", "recovered", "loaded", "replayed"];

/// Over the columns of [`row`].
pub(super) const HEADING: &str = "\
scenario        group  max window     worst  normal after  visible    detect     fence   recover      load    replay  goal";

/// Prints a scenario and makes its row.
pub(super) fn row(scenario: Scenario, group_size: u64, outcomes: &[Outcome]) -> Value {
    let figures = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).collect::<Vec<f64>>();
    let worst = |of: fn(&Outcome) -> f64| figures(of).into_iter().fold(f64::NAN, f64::max);
    let middle = |of: fn(&Outcome) -> f64| median(&figures(of));
    let parts = [0, 1, 2, 3, 4].map(|part| {
        median(&outcomes.iter().map(|outcome| outcome.parts[part]).collect::<Vec<f64>>())
    });
    let max_ms = middle(|outcome| outcome.max_window);
    let worst_ms = worst(|outcome| outcome.max_window);
    let normal_ms = middle(|outcome| outcome.normal_after);
    let visible_ms = middle(|outcome| outcome.visible);
    let goal_ms = scenario.goal_ms();
    let times =
        parts.map(|ms| if ms.is_nan() { format!("{:>10}", "-") } else { format!("{ms:>10.1}") });
    println!(
        "{:<16}{group_size:>5}{max_ms:>9.1} ms{worst_ms:>7.1} ms{normal_ms:>11.0} ms{visible_ms:>6.0} ms{}  {goal_ms} ms: {}",
        scenario.name(),
        times.concat(),
        reached(worst_ms <= goal_ms),
    );
    let (balanced_ms, left_ms) =
        (middle(|outcome| outcome.balanced), middle(|outcome| outcome.left));
    let state_mib = middle(|outcome| outcome.state_mib);
    if scenario.rescales() {
        println!(
            "{:<16}      moved {balanced_ms:.0} ms after the last worker joined (worst {:.0} ms), both gone {left_ms:.0} ms \
             after they were sent away; {state_mib:.0} MiB of open windows",
            "",
            worst(|outcome| outcome.balanced),
        );
    }
    let [detect_ms, fence_ms, recover_ms, load_ms, replay_ms] = parts;
    json!({
        "scenario": scenario.name(),
        "group_size": group_size,
        "max_window_ms": max_ms,
        "worst_window_ms": worst_ms,
        "normal_after_ms": normal_ms,
        "detect_ms": detect_ms,
        "fence_ms": fence_ms,
        "recover_ms": recover_ms,
        "load_ms": load_ms,
        "replay_ms": replay_ms,
        "visible_ms": visible_ms,
        "balanced_ms": balanced_ms,
        "left_ms": left_ms,
        "state_mib": state_mib,
        "lost": 0,
        "duplicated": 0,
        "windows": outcomes.iter().map(|outcome| outcome.windows.clone()).collect::<Vec<Value>>(),
    })
}

impl Outcome {
    /// What a report says of the time around an event.
    pub(super) fn of(report: &Value, disturbed: Disturbed) -> Result<Outcome> {
        let Disturbed { began_ns, sent_away_ns, stopped_ns } = disturbed;
        let windows = report["per_window"].as_array().context("no windows")?;
        let origin_ns = report["origin_ns"].as_u64().context("no origin")?;
        let timeline = Timeline(report["timeline"].as_array().context("no timeline")?);
        let (mut max_window, mut normal_after, mut visible) = (0.0_f64, 0.0, 0.0_f64);
        for (number, window) in windows.iter().enumerate() {
            let Some(latency_us) = window["latency_us"].as_f64() else { continue };
            let latency_ms = latency_us / 1e3;
            let end_ns = origin_ns + (number as u64 + 1) * SECOND_NS;
            if end_ns < began_ns || end_ns > stopped_ns {
                continue;
            }
            max_window = max_window.max(latency_ms);
            if latency_ms > NORMAL_MS {
                normal_after = ms(end_ns - began_ns) + latency_ms;
            }
            let batch = (end_ns - origin_ns) / INTERVAL_NS;
            let shown =
                timeline.durable(batch).map_or(f64::NAN, |at_ns| ms(at_ns.saturating_sub(end_ns)));
            visible = visible.max(shown.max(latency_ms));
        }
        let joined = timeline.last("joined", began_ns..sent_away_ns);
        let moved = joined.and_then(|joined| timeline.last("moved", joined..sent_away_ns));
        let left = timeline.last("left", sent_away_ns..u64::MAX);
        let latencies = windows.iter().map(|window| window["latency_us"].clone());
        Ok(Outcome {
            max_window,
            normal_after,
            parts: timeline.parts(began_ns),
            visible,
            balanced: between(joined, moved),
            left: between(Some(sent_away_ns), left),
            state_mib: report["memory_peak_bytes"]["state"].as_f64().unwrap_or(f64::NAN)
                / f64::from(1 << 20),
            windows: latencies.collect(),
        })
    }
}

/// What drivers have written down.
struct Timeline<'a>(&'a [Value]);

impl Timeline<'_> {
    fn all(&self, change: &str) -> impl DoubleEndedIterator<Item = (u64, &Value)> {
        let events = self.0.iter().filter(move |event| event["change"] == *change);
        events.filter_map(|event| event["at_ns"].as_u64().map(|at_ns| (at_ns, event)))
    }

    fn first(&self, change: &str, after_ns: u64) -> Option<u64> {
        self.all(change).map(|(at_ns, _)| at_ns).find(|&at_ns| at_ns >= after_ns)
    }

    fn last(&self, change: &str, within: Range<u64>) -> Option<u64> {
        self.all(change).map(|(at_ns, _)| at_ns).rfind(|at_ns| within.contains(at_ns))
    }

    /// When the first checkpoint was durable that covers a batch.
    fn durable(&self, batch: u64) -> Option<u64> {
        let covers = |event: &Value| event["batch"].as_u64().is_some_and(|last| last >= batch);
        self.all("durable").find(|(_, event)| covers(event)).map(|(at_ns, _)| at_ns)
    }

    /// How long each of the [`PARTS`] took.
    fn parts(&self, began_ns: u64) -> [f64; PARTS.len()] {
        let mut from = Some(began_ns);
        PARTS.map(|change| {
            let to = from.and_then(|from| self.first(change, from));
            let took = between(from, to);
            from = to;
            took
        })
    }
}

fn between(from: Option<u64>, to: Option<u64>) -> f64 {
    match (from, to) {
        (Some(from), Some(to)) => ms(to.saturating_sub(from)),
        (_, _) => f64::NAN,
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
