//! The truth: a plain sequential run over the recorded ranges, batch by batch and stage by stage.

use std::collections::BTreeMap;

use super::versions::Versions;
use crate::ids::{BatchId, PartitionId, StageId, Watermark};
use crate::message::Purpose;
use crate::plan::{Plan, StageKind};
use crate::sim::data::{Job, Kept, Record, Target};

/// What leaves the job, by batch and partition of the last stage, sorted.
pub(crate) type Outputs = BTreeMap<(BatchId, PartitionId), Vec<Record>>;

type Place = (StageId, PartitionId);

struct Model<'a> {
    job: &'a Job,
    kept: BTreeMap<Place, Kept>,
    watermarks: BTreeMap<Place, Watermark>,
    /// What arrives in this batch, and in the next.
    inboxes: [BTreeMap<Place, Vec<Record>>; 2],
    outputs: Outputs,
}

/// Runs batches 1 to `last` over the recorded ranges; the last one is the flush.
pub(crate) fn run(job: &Job, versions: &Versions, last: BatchId) -> Result<Outputs, String> {
    let mut model = Model {
        job,
        kept: BTreeMap::new(),
        watermarks: BTreeMap::new(),
        inboxes: Default::default(),
        outputs: Outputs::new(),
    };
    for number in 1..=last.0 {
        let batch = BatchId(number);
        let purpose = if batch == last { Purpose::Flush } else { Purpose::Process };
        for stage in job.plan.stage_ids() {
            for partition in job.partitions(stage) {
                model.task(versions, (batch, purpose), (stage, partition))?;
            }
        }
        model.inboxes.swap(0, 1);
    }
    Ok(model.outputs)
}

impl Model<'_> {
    fn task(
        &mut self,
        versions: &Versions,
        (batch, purpose): (BatchId, Purpose),
        place: Place,
    ) -> Result<(), String> {
        let (stage, partition) = place;
        let (records, watermark) = if self.job.is_source(stage) {
            let source = self.job.source(stage, partition);
            let taken = versions.recorded(source).nth(batch.0 as usize - 1);
            let taken = taken.ok_or_else(|| format!("no range of {batch} {partition} is known"))?;
            let offsets = taken.range.from..taken.range.to;
            if purpose == Purpose::Flush && !offsets.is_empty() {
                return Err(format!("the flush took {taken:?}"));
            }
            let records = offsets.map(|offset| Record::new(stage, partition, offset)).collect();
            (records, taken.watermark)
        } else {
            let inputs = self.inboxes[0].remove(&place).unwrap_or_default();
            let watermark = self.watermark(stage, partition);
            match self.job.plan.stage(stage).kind {
                StageKind::Source(_) | StageKind::Stateless => (inputs, watermark),
                StageKind::Stateful => {
                    let kept = self.kept.entry(place).or_default();
                    let (out, change) = kept.fold(purpose, watermark, &inputs);
                    kept.apply(&change);
                    (out, watermark)
                }
            }
        };
        self.watermarks.insert(place, watermark);
        for record in records {
            self.send((batch, purpose), place, record);
        }
        if let Some(output) = self.outputs.get_mut(&(batch, partition)) {
            output.sort_unstable();
        }
        Ok(())
    }

    fn watermark(&self, stage: StageId, partition: PartitionId) -> Watermark {
        let edges = self.job.plan.edges_into(stage).filter(|(_, edge)| edge.batch_delta == 0);
        let upstream = edges.flat_map(|(_, edge)| {
            let partitions = self.job.partitions(edge.from);
            let connected = partitions.filter(move |&up| Plan::connects(edge, up, partition));
            connected.map(move |up| (edge.from, up))
        });
        upstream.map(|place| self.watermarks[&place]).min().unwrap_or(Watermark::NONE)
    }

    fn send(
        &mut self,
        (batch, purpose): (BatchId, Purpose),
        (stage, partition): Place,
        record: Record,
    ) {
        match self.job.route(stage, partition, record, purpose) {
            (Target::Sink, record) => {
                self.outputs.entry((batch, partition)).or_default().push(record);
            }
            (Target::Edge(edge, target), record) => {
                let edge = self.job.plan.edge(edge);
                let inbox = &mut self.inboxes[edge.batch_delta as usize];
                inbox.entry((edge.to, target)).or_default().push(record);
            }
        }
    }
}
