//! States of partitions: freezing, shipping and restoring them, and what becomes of their staged
//! output.

use super::core_node::{CoreMail, Place};
use super::network::{Body, Frame};
use super::storage::{Request, Why};
use super::{Event, Simulation, name};
use crate::checkpoint::{Snapshot, build_on};
use crate::ids::{BatchId, CoreId, Life, Task};
use crate::local::{LocalEvent, Published};
use crate::message::Restore;
use crate::plan::StageKind;
use crate::sim::data::{PartitionState, Piece};
use crate::sim::generator::Contract;

impl Simulation {
    /// A manifest covers all batches up to this one.
    pub(super) fn forget(&mut self, (life, core): (Life, u16), through: BatchId) {
        self.auditor.released(life, through);
        let edges = self.job.plan.edges.clone();
        let contract = self.auditor.contract();
        let job = self.job.clone();
        let Some(it) = self.core(life, core) else { return };
        it.retained
            .retain(|block, _| block.batch.0 + edges[block.edge.index()].batch_delta > through.0);
        let mut visible = Vec::new();
        for (&(stage, partition), state) in &mut it.states {
            state.feedback.retain(|&batch, _| batch >= through);
            if contract == Contract::Transactional && job.is_sink(stage) {
                let later = state.staged.split_off(&through.next());
                let staged = std::mem::replace(&mut state.staged, later);
                visible
                    .extend(staged.into_iter().map(|(batch, output)| (batch, partition, output)));
            }
        }
        for (batch, partition, output) in visible {
            self.auditor.commits(batch, partition, &output);
        }
    }

    /// The ranges of all batches up to this one are recorded: their output may be written.
    pub(super) fn write_recorded(&mut self, (life, core): (Life, u16), through: BatchId) {
        self.auditor.told_recorded(&format!("{}.{core}", name(life)), through);
        let contract = self.auditor.contract();
        let Some(it) = self.core(life, core) else { return };
        it.recorded = it.recorded.max(through);
        if contract != Contract::Append {
            return;
        }
        let mut writes = Vec::new();
        for (&(_, partition), state) in &mut it.states {
            let later = state.staged.split_off(&through.next());
            let staged = std::mem::replace(&mut state.staged, later);
            writes.extend(staged.into_iter().map(|(batch, output)| (batch, partition, output)));
        }
        for (batch, partition, output) in writes {
            self.auditor.commits(batch, partition, &output);
        }
    }

    pub(super) fn snapshot(
        &mut self,
        (life, core): (Life, u16),
        place: Place,
        batch: BatchId,
        chain: &[BatchId],
    ) {
        let (stage, partition) = place;
        let kind = self.job.plan.stage(stage).kind;
        let who = format!("{}.{core} {stage} {partition} snapshot of {batch}", name(life));
        let Some(it) = self.core(life, core) else { return };
        let piece = match it.state_after(kind, place, batch) {
            Some(state) => state.freeze(batch, build_on(chain, |since| state.changed(since))),
            None => Err("the state is not there, or not that of this batch".to_owned()),
        };
        let Some(piece) = self.auditor.check(piece, &who) else { return };
        let (since, incarnation) = (piece.since(), life.incarnation);
        let snapshot = Snapshot { stage, partition, batch, since, incarnation };
        self.ask_storage(Request::Write { life, core, snapshot, piece });
    }

    pub(super) fn ship(
        &mut self,
        (life, core): (Life, u16),
        place: Place,
        batch: BatchId,
        to: CoreId,
        since: Option<BatchId>,
    ) {
        let (stage, partition) = place;
        let kind = self.job.plan.stage(stage).kind;
        let who = format!("{}.{core} {stage} {partition} shipped after {batch}", name(life));
        let Some(it) = self.core(life, core) else { return };
        // It may be asked for once more: then the copy is all that is left.
        let is_shipped = it.shipped.get(&place) == Some(&batch);
        if !is_shipped && it.state_after(kind, place, batch).is_some() {
            let state = it.states.remove(&place).expect("it is there");
            it.copies.insert(place, state);
            it.shipped.insert(place, batch);
        }
        let piece = match it.copies.get(&place) {
            Some(copy) => copy.freeze(batch, since),
            None => Err("there is no copy any more".to_owned()),
        };
        let ranges = it.scheduler.ranges_to_relay().into();
        let Some(piece) = self.auditor.check(piece, &who) else { return };
        self.phases.ships(stage, partition);
        let sender = CoreId { worker: life.worker, core };
        let body = Body::State { stage, partition, piece };
        self.send_frame(life, sender, to, Frame { ranges, body });
    }

    pub(super) fn restore(
        &mut self,
        (life, core): (Life, u16),
        place: Place,
        after: BatchId,
        from: Restore,
    ) {
        let source = self.job.is_source(place.0).then(|| self.job.source(place.0, place.1));
        let kind = self.job.plan.stage(place.0).kind;
        let needs_copy = source.is_some() || self.job.plan.needs_snapshot(place.0);
        let Some(it) = self.core(life, core) else { return };
        let copy = match from {
            Restore::Copy => it.copies.remove(&place),
            Restore::Manifest | Restore::Position { .. } => None,
        };
        let serial = it.replace(place);
        it.loading.insert(place, (serial, after));
        let who = format!("{}.{core} {} {}", name(life), place.0, place.1);
        match from {
            Restore::Manifest if after == BatchId(0) => {
                it.states.insert(place, PartitionState::default());
            }
            Restore::Manifest => {
                let manifest = it.scheduler.history().manifest.clone();
                let Some(manifest) = manifest.filter(|manifest| manifest.batch == after) else {
                    let what = format!("{who} starts from {after}, which is not in its history");
                    return self.auditor.fail(what);
                };
                if source.is_none() && self.job.plan.needs_snapshot(place.0) {
                    let why = Why::Restore { serial };
                    self.ask_storage(Request::Load { life, core, manifest, place, why });
                    return;
                }
                let position = manifest
                    .positions
                    .iter()
                    .find(|position| (position.stage, position.partition) == place);
                let offset = position.map_or(0, |position| position.offset);
                self.position((life, core), place, after, offset);
            }
            Restore::Position { offset, .. } => self.position((life, core), place, after, offset),
            Restore::Copy => match copy {
                Some(state) => {
                    it.states.insert(place, state);
                    if it.state_after(kind, place, after).is_none() {
                        self.auditor.fail(format!("{who}: its copy is not that of {after}"));
                    }
                }
                None if !needs_copy => {}
                None => self.auditor.fail(format!("{who}: the copy is not there any more")),
            },
        }
        let mail = Box::new(CoreMail::Ready { place, serial });
        self.push(self.now + 1, Event::Core { life, core, mail });
    }

    /// A source goes on behind what was taken.
    pub(super) fn position(
        &mut self,
        (life, core): (Life, u16),
        place: Place,
        after: BatchId,
        offset: u64,
    ) {
        if !self.job.is_source(place.0) {
            return;
        }
        let source = self.job.source(place.0, place.1);
        let version = match after {
            BatchId(0) => Some(0),
            after => self.auditor.versions.at(source, after, offset),
        };
        let Some(version) = version else {
            let what = format!("{place:?} goes on at {offset} after {after}, where nobody stopped");
            return self.auditor.fail(what);
        };
        let mut basis = vec![0; self.job.source_count()];
        basis[source] = version;
        let Some(it) = self.core(life, core) else { return };
        let state = PartitionState::position(after, offset, basis);
        it.states.insert(place, state);
    }

    /// The pieces are there: puts the state together, and writes its feedback once more.
    pub(super) fn restore_from(
        &mut self,
        (life, core): (Life, u16),
        place: Place,
        after: BatchId,
        pieces: &[Piece],
    ) {
        let (stage, partition) = place;
        let who = format!("{}.{core} {stage} {partition} restored after {after}", name(life));
        let state = self.auditor.check(PartitionState::thaw(pieces), &who);
        let Some(mut state) = state else { return };
        if self.job.plan.stage(stage).kind == StageKind::Stateful {
            let task = Task { batch: after, stage, partition };
            self.auditor.restored(task, &state.basis, state.kept.digest());
        }
        let staged = std::mem::take(&mut state.staged);
        if self.job.is_sink(stage) && self.auditor.contract() != Contract::Upsert {
            for (batch, output) in staged {
                self.auditor.commits(batch, partition, &output);
            }
        }
        let feedback = state.feedback.get(&after).cloned().unwrap_or_default();
        let basis = state.basis.clone();
        let watermark = state.watermark;
        let Some(it) = self.core(life, core) else { return };
        it.states.insert(place, state);
        let blocks = self.feedback_blocks((life, core), place, after, &feedback, &basis, watermark);
        if !blocks.is_empty() {
            let published: Vec<Published> = blocks.iter().map(|(it, _)| it.clone()).collect();
            self.retain((life, core), &blocks);
            self.tell_core(life, core, LocalEvent::Republished(&published));
            self.send_blocks((life, core), blocks);
        }
        self.restored((life, core), place);
    }

    pub(super) fn restored(&mut self, (life, core): (Life, u16), place: Place) {
        let Some(it) = self.core(life, core) else { return };
        let Some((_, after)) = it.loading.remove(&place) else { return };
        let (stage, partition) = place;
        self.tell_core(life, core, LocalEvent::Restored { stage, partition, after });
    }
}
