//! Blocks: what a run writes for which core, and what is kept of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::network::{Body, Frame};
use super::run::Done;
use super::{Simulation, name};
use crate::driver::Durability;
use crate::ids::{Attempt, BatchId, CoreId, EdgeId, Life, PartitionId, StageId, Watermark};
use crate::local::{BlockName, Published, Run};
use crate::message::{BlockNotice, Combined, Content, TakenRange};
use crate::placement::PlacementHistory;
use crate::plan::{Pattern, Plan};
use crate::sim::data::{Basis, Record, Target};

/// What a block holds.
#[derive(Debug)]
pub(super) struct Load {
    /// Each with the partitions that wrote it and that it is for.
    pub(super) records: Vec<(PartitionId, PartitionId, Record)>,
    pub(super) basis: Basis,
}

/// A block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) notice: BlockNotice,
    pub(super) load: Arc<Load>,
}

impl Simulation {
    /// What the combiners of a run did, as far as anybody believes it.
    pub(super) fn combined(&self, run: &Run, done: &[Done]) -> Vec<(EdgeId, Combined)> {
        let edges = self.job.plan.edges_out_of(run.stage);
        let edges = edges.filter(|(_, edge)| edge.pattern == Pattern::AllToAll);
        let one = |edge: EdgeId| {
            let is_on = |(target, _): &&(Target, Record)| matches!(target, Target::Edge(to, _) if *to == edge);
            let records_in = done.iter().flat_map(|done| &done.routed).filter(is_on).count() as u64;
            let records_out = match run.contents.get(edge.index()) {
                Some(Content::Partial) | None => records_in.div_ceil(2),
                Some(Content::Raw) => records_in,
            };
            (edge, Combined { records_in, records_out })
        };
        edges.map(|(edge, _)| one(edge)).collect()
    }

    /// The blocks of a run, each with the core that it goes to.
    pub(super) fn blocks(
        &mut self,
        (life, core): (Life, u16),
        run: &Run,
        done: &[Done],
    ) -> Vec<(Published, Arc<Load>)> {
        let plan = self.job.plan.clone();
        let mut blocks = Vec::new();
        for (edge, spec) in plan.edges_out_of(run.stage) {
            let combines = spec.pattern == Pattern::AllToAll && run.attempt == Attempt(0);
            let groups: Vec<&[Done]> = if combines { vec![done] } else { done.chunks(1).collect() };
            for group in groups {
                let writers = Writers {
                    batch: run.batch,
                    attempt: run.attempt,
                    content: run.contents.get(edge.index()).copied().unwrap_or(Content::Raw),
                    upstream: group.iter().map(|done| done.partition).collect(),
                    watermark: group.iter().map(|done| done.watermark).min(),
                };
                let mut basis = Basis::new();
                for done in group {
                    let joined = self.auditor.versions.join(&mut basis, &done.basis);
                    self.auditor.check(joined, "a block");
                }
                let mut records = Vec::new();
                for done in group {
                    let on_edge = done.routed.iter().filter_map(|&(target, record)| match target {
                        Target::Edge(to, partition) if to == edge => Some((partition, record)),
                        Target::Edge(..) | Target::Sink => None,
                    });
                    records.extend(on_edge.map(|(to, record)| (done.partition, to, record)));
                }
                let load = Arc::new(Load { records, basis });
                self.address((life, core), edge, &writers, &load, &mut blocks);
            }
        }
        blocks
    }

    /// One block for every core that reads from these writers, whether there is a record or not.
    fn address(
        &mut self,
        (life, core): (Life, u16),
        edge: EdgeId,
        writers: &Writers,
        load: &Arc<Load>,
        blocks: &mut Vec<(Published, Arc<Load>)>,
    ) {
        let plan = self.job.plan.clone();
        let spec = plan.edge(edge);
        let is_full = self.now < self.processes[&life.worker].oddities.full_until;
        let Some(it) = self.core(life, core) else { return };
        let reader = BatchId(writers.batch.0 + spec.batch_delta);
        let Some(owners) =
            owners(it.scheduler.placements(), &plan, edge, reader, &writers.upstream)
        else {
            // A checkpoint may have made the run superfluous while it was out.
            if reader > it.scheduler.history().durable() {
                let who = name(life);
                self.auditor.fail(format!("{who}.{core} knows no placement of {reader}"));
            }
            return;
        };
        for (to, downstream) in owners {
            let mine = load.records.iter().filter(|(_, down, _)| downstream.contains(down));
            // Headers have memory of their own.
            let bytes = 40 * mine.count() as u64;
            let notice = BlockNotice {
                epoch: it.scheduler.epoch(),
                incarnation: life.incarnation,
                attempt: writers.attempt,
                sender: CoreId { worker: life.worker, core },
                batch: writers.batch,
                edge,
                content: writers.content,
                upstream: writers.upstream.clone().into(),
                downstream: downstream.into(),
                watermark: writers.watermark.unwrap_or(Watermark::NONE),
            };
            let bytes = if is_full { bytes * 400 + 400 } else { bytes };
            blocks.push((Published { to, notice, bytes }, load.clone()));
        }
    }

    /// What a restored partition had written to its feedback edge, as blocks.
    pub(super) fn feedback_blocks(
        &mut self,
        at: (Life, u16),
        (stage, partition): (StageId, PartitionId),
        batch: BatchId,
        records: &[(PartitionId, Record)],
        basis: &Basis,
        watermark: Option<Watermark>,
    ) -> Vec<(Published, Arc<Load>)> {
        let plan = self.job.plan.clone();
        let mut blocks = Vec::new();
        for (edge, _) in plan.edges_out_of(stage).filter(|(_, edge)| edge.batch_delta == 1) {
            let records = records.iter().map(|&(to, record)| (partition, to, record)).collect();
            let load = Arc::new(Load { records, basis: basis.clone() });
            let epoch = self.core(at.0, at.1).map_or(0, |it| it.scheduler.epoch().0);
            let writers = Writers {
                batch,
                attempt: Attempt(epoch as u32),
                content: Content::Raw,
                upstream: vec![partition],
                watermark,
            };
            self.address(at, edge, &writers, &load, &mut blocks);
        }
        blocks
    }

    /// Keeps blocks for those who may need them once more.
    pub(super) fn retain(&mut self, (life, core): (Life, u16), blocks: &[(Published, Arc<Load>)]) {
        if self.scenario.durability == Durability::None {
            return;
        }
        let Some(it) = self.core(life, core) else { return };
        for (Published { notice, .. }, load) in blocks {
            it.retained.insert(
                BlockName::of(notice),
                Block { notice: notice.clone(), load: load.clone() },
            );
        }
    }

    pub(super) fn send_blocks(&mut self, at: (Life, u16), blocks: Vec<(Published, Arc<Load>)>) {
        let (life, core) = at;
        let Some(it) = self.core(life, core) else { return };
        let ranges: Arc<[TakenRange]> = it.scheduler.ranges_to_relay().into();
        let sender = CoreId { worker: life.worker, core };
        for (Published { to, mut notice, .. }, load) in blocks {
            let Some(it) = self.core(life, core) else { return };
            notice.epoch = it.scheduler.epoch();
            let block = Block { notice, load };
            if to == sender {
                self.offer(life, core, block);
            } else {
                let frame = Frame { ranges: ranges.clone(), body: Body::Block(block) };
                self.send_frame(life, sender, to, frame);
            }
        }
    }
}

/// Who wrote some blocks.
struct Writers {
    batch: BatchId,
    attempt: Attempt,
    content: Content,
    upstream: Vec<PartitionId>,
    watermark: Option<Watermark>,
}

/// The cores that read what some partitions wrote, with the partitions that they have.
fn owners(
    placements: &PlacementHistory,
    plan: &Plan,
    edge: EdgeId,
    reader: BatchId,
    upstream: &[PartitionId],
) -> Option<BTreeMap<CoreId, Vec<PartitionId>>> {
    let spec = plan.edge(edge);
    let placement = placements.at(reader)?;
    let mut owners: BTreeMap<CoreId, Vec<PartitionId>> = BTreeMap::new();
    for down in (0..plan.stage(spec.to).partition_count).map(PartitionId) {
        if upstream.iter().any(|&up| Plan::connects(spec, up, down)) {
            owners.entry(placement.core_of(spec.to, down)).or_default().push(down);
        }
    }
    Some(owners)
}
