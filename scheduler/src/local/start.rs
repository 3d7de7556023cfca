//! What runs next.

use std::sync::Arc;

use crate::ids::{BatchId, Instant, StageId, Watermark};
use crate::local::lane::{Lane, LaneState, TaskState};
use crate::local::{Intake, LocalScheduler, Run, SourceStage};
use crate::message::Purpose;
use crate::plan::Pacing;

/// What next may run, beside tasks whose blocks are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FromSource {
    Errand,
    Stage(usize),
}

impl LocalScheduler {
    /// What to run now, if anything: the oldest batch first, in it the stage nearest the sink.
    pub fn next(&mut self, now: Instant) -> Option<Run> {
        // While a promise is open nothing beyond it runs, sources or not: the cut may void such a
        // batch, and a block that is here for its number may be of the group that follows the cut.
        let limit = self.limit();
        let source = self.first_source(now, limit);
        let ready = self.lanes.first_ready().filter(|&batch| batch <= limit);
        match (ready, source) {
            (Some(batch), Some((first, source))) if first < batch => {
                self.start_source(now, first, source)
            }
            (Some(_), _) => self.start_ready(now),
            (None, Some((first, source))) => self.start_source(now, first, source),
            (None, None) => None,
        }
    }

    /// The first batch that lanes of a source stage may start, apart from its start time.
    pub(super) fn first_of(&self, stage: StageId, limit: BatchId) -> Option<BatchId> {
        let may_start = |lane: &&Lane| {
            lane.state == LaneState::Here
                && lane.first <= limit
                && lane.slots.front().is_some_and(|slot| slot.state == TaskState::Waiting)
        };
        self.lanes.of(stage).iter().filter(may_start).map(|lane| lane.first).min()
    }

    fn first_source(&self, now: Instant, limit: BatchId) -> Option<(BatchId, FromSource)> {
        let allowed = limit.min(self.credit.limit(self.lanes.completed()));
        let first = |source: &SourceStage| {
            let batch = self.first_of(source.stage, allowed)?;
            let start = self.groups.start_of(batch)?;
            let is_due = match source.pacing {
                Pacing::Unpaced => true,
                Pacing::Clock => start <= now,
            };
            is_due.then_some(batch)
        };
        let stages = self.sources.iter().enumerate();
        let stages = stages.filter_map(|(i, source)| Some((first(source)?, FromSource::Stage(i))));
        // Others wait for what is read again: it needs no credit.
        let errand = self.errands.first();
        let errand = errand.filter(|&batch| batch <= limit && self.groups.contains(batch));
        stages.chain(errand.map(|batch| (batch, FromSource::Errand))).min()
    }

    fn start_source(&mut self, now: Instant, batch: BatchId, source: FromSource) -> Option<Run> {
        match source {
            FromSource::Errand => self.start_errand(now, batch),
            FromSource::Stage(index) => self.start_stage(now, batch, index),
        }
    }

    fn start_errand(&mut self, now: Instant, batch: BatchId) -> Option<Run> {
        let (errand, attempt) = self.errands.take()?;
        self.started = self.started.max(batch);
        let (purpose, contents) = self.groups.purpose_of(batch);
        Some(Run {
            batch,
            stage: errand.taken.range.stage,
            partitions: Arc::new([errand.taken.range.partition]),
            attempt,
            watermark: Watermark::NONE,
            cut: now,
            purpose,
            contents,
            recorded: Some((errand.taken, errand.floor)),
            intake: Intake::Normal,
        })
    }

    fn start_stage(&mut self, now: Instant, batch: BatchId, index: usize) -> Option<Run> {
        let source = &mut self.sources[index];
        let tasks = self.lanes.take_source(source.stage, batch)?;
        let (start, cut) = self.groups.cut_of(batch, now, source.pacing);
        let overtaken = source.pacing == Pacing::Clock && source.cut >= start;
        source.cut = source.cut.max(cut);
        let (cut, pacing) = (source.cut, source.pacing);
        let (purpose, contents) = self.groups.purpose_of(batch);
        if pacing == Pacing::Clock
            && purpose == Purpose::Process
            && let Some(statistics) = self.groups.statistics_of(batch)
        {
            statistics.overtaken += u64::from(overtaken);
            statistics.worst_delay_ns = statistics.worst_delay_ns.max(now.since(start));
        }
        self.started = self.started.max(batch);
        let full = self.retained.is_full();
        Some(Run {
            batch,
            stage: tasks.stage,
            partitions: tasks.partitions,
            attempt: tasks.attempt,
            watermark: Watermark::NONE,
            cut,
            purpose,
            contents,
            recorded: None,
            intake: if full { Intake::Empty } else { Intake::Normal },
        })
    }

    fn start_ready(&mut self, now: Instant) -> Option<Run> {
        let tasks = self.lanes.take_ready()?;
        self.started = self.started.max(tasks.batch);
        let (purpose, contents) = self.groups.purpose_of(tasks.batch);
        Some(Run {
            batch: tasks.batch,
            stage: tasks.stage,
            partitions: tasks.partitions,
            attempt: tasks.attempt,
            watermark: tasks.watermark,
            cut: now,
            purpose,
            contents,
            recorded: None,
            intake: Intake::Normal,
        })
    }
}
