//! Partitions that come and go: snapshots, restores, and moves with their states.

use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition, build_on};
use drizzle_scheduler::local::LocalEvent;
use drizzle_scheduler::message::Restore;
use drizzle_scheduler::plan::StageKind;
use drizzle_scheduler::{BatchId, CoreId, Life};

use super::keeping::{Answer, Place, Thawing, Why};
use super::{Core, boundary};
use crate::clock::monotonic_now;
use crate::dataflow::stage::Stage;
use crate::dataflow::state::{Extent, Slot};
use crate::dataflow::{Beginning, Origin, Piece};
use crate::transport::{Parcel, StateParcel};

impl Core {
    /// Freezes the state of a partition. It is written with all that is frozen at the same time.
    pub(super) fn snapshot(
        &mut self,
        place: Place,
        batch: BatchId,
        chain: &[BatchId],
    ) -> Result<(), String> {
        let (stage, partition) = place;
        let incarnation = self.context.incarnation;
        let running = self.at(place)?;
        let since = build_on(chain, |since| running.weigh(partition, Extent::after(since)));
        let piece = running.freeze(partition, Slot::Live, Extent::after(since));
        let snapshot = Snapshot { stage, partition, batch, since, incarnation };
        self.kept().frozen.push((snapshot, piece));
        Ok(())
    }

    /// A partition starts here with the batch after `after`.
    pub(super) fn restore(
        &mut self,
        place: Place,
        after: BatchId,
        from: Restore,
    ) -> Result<(), String> {
        let request = self.kept().replace(place);
        self.kept().loading.insert(place, (request, after));
        let (stage, partition) = place;
        match from {
            Restore::Manifest => {
                self.at(place)?.clear(partition, Slot::Live);
                if after > BatchId(0) && self.load_from_manifest(place, after, request)? {
                    return Ok(());
                }
            }
            Restore::Position { offset, watermark, ended } => {
                let position = SourcePosition { stage, partition, after, offset, watermark, ended };
                self.at(place)?.go_on(&position);
            }
            Restore::Copy => {
                self.kept().shipped.remove(&place);
                self.at(place)?.shift(partition, Slot::Copy, Slot::Live);
            }
        }
        self.kept().ready.push_back(Answer::Ready { place, request });
        Ok(())
    }

    /// Asks for what the manifest has of a partition; whether something is to come.
    fn load_from_manifest(
        &mut self,
        place: Place,
        after: BatchId,
        request: u64,
    ) -> Result<bool, String> {
        let manifest = self.scheduler.history().manifest.clone();
        let manifest = manifest.filter(|manifest| manifest.batch == after);
        let manifest = manifest.expect("a partition starts from the newest manifest");
        if self.context.plan.is_source(place.0) {
            let mut positions = manifest.positions.iter();
            let position = positions.find(|position| (position.stage, position.partition) == place);
            if let Some(position) = position {
                self.at(place)?.go_on(position);
            }
            return Ok(false);
        }
        let needs_snapshot = self.context.plan.needs_snapshot(place.0);
        if needs_snapshot {
            self.kept().load(place, &manifest, Why::Restore { request });
        }
        Ok(needs_snapshot)
    }

    pub(super) fn drop_partition(&mut self, place: Place) {
        self.kept().replace(place);
        self.clear(place, Slot::Live);
    }

    pub(super) fn drop_copy(&mut self, place: Place) {
        self.kept().shipped.remove(&place);
        self.clear(place, Slot::Copy);
    }

    fn clear(&mut self, (stage, partition): Place, slot: Slot) {
        if let Some(stage) = &mut self.stages[stage.index()] {
            stage.clear(partition, slot);
        }
    }

    /// Loads what the manifest has of a partition that will move here.
    pub(super) fn preload(&mut self, place: Place, manifest: Option<&Manifest>) {
        match manifest {
            Some(manifest) => {
                let request = self.kept().next_request();
                self.kept().preloading.insert(place, request);
                self.kept().load(place, manifest, Why::Ahead { request });
            }
            None => self.kept().ready.push_back(Answer::NothingAhead { place }),
        }
    }

    /// Sends the state of a partition to its new owner, and keeps a copy.
    pub(super) fn ship_state(
        &mut self,
        place: Place,
        batch: BatchId,
        to: CoreId,
        since: Option<BatchId>,
    ) -> Result<(), String> {
        let (stage, partition) = place;
        // It may be asked for once more: then the copy is all that is left.
        let is_shipped = self.kept().shipped.get(&place) == Some(&batch);
        let slot = if is_shipped { Slot::Copy } else { Slot::Live };
        let running = self.at(place)?;
        let piece = running.freeze(partition, slot, Extent::after(since));
        if !is_shipped {
            running.shift(partition, Slot::Live, Slot::Copy);
            self.kept().shipped.insert(place, batch);
        }
        let from = Life { worker: self.core.worker, incarnation: self.context.incarnation };
        let state = StateParcel { from, stage, partition, batch, since, piece: piece.into() };
        self.relay_ranges([to].into_iter());
        self.hand_over(to, Parcel::State(Arc::new(state)));
        Ok(())
    }

    /// The state of a partition has come from its owner before.
    pub(super) fn state_arrives(&mut self, now_ns: u64, state: &StateParcel) -> Result<(), String> {
        let &StateParcel { from, stage, partition, batch, since, ref piece } = state;
        let place = (stage, partition);
        if self.scheduler.accepts_state(from, stage, partition, batch) {
            let is_stateless = self.context.plan.stage(stage).kind == StageKind::Stateless;
            match since {
                Some(since) => {
                    if self.kept().ahead.remove(&place) != Some(since) {
                        let name = &self.context.plan.stage(stage).name;
                        return Err(format!(
                            "stage {name:?} {partition}: what changed after {since} came, and what \
                             was before is not here"
                        ));
                    }
                    self.at(place)?.shift(partition, Slot::Ahead, Slot::Live);
                }
                None if is_stateless => {}
                None => self.at(place)?.clear(partition, Slot::Live),
            }
            let piece = Piece { batch, origin: Origin::Move, bytes: piece };
            let mut from = Some(0);
            while let Some(next) = from {
                let thawed = self.at(place)?.thaw(partition, Slot::Live, &piece, next);
                from = thawed.map_err(|error| self.of_state(place, &error.to_string()))?;
            }
            self.begin(place, batch)?;
        }
        let event = LocalEvent::StateArrived { from, stage, partition, batch, since };
        self.scheduler.handle(self.clock.at(now_ns), event, &mut self.actions);
        Ok(())
    }

    /// Takes what storage has answered; whether there was something.
    pub(super) fn read_storage(&mut self) -> bool {
        if self.keeping.is_none() {
            return false;
        }
        let mut any = false;
        while let Some(answer) = self.keeping.as_mut().and_then(|keeping| keeping.next_answer()) {
            any = true;
            if let Err(reason) = self.take_answer(answer) {
                self.fail(reason);
            }
            self.perform();
        }
        match self.resend_some().and_then(|resent| Ok(self.thaw_some()? || resent)) {
            Ok(false) => return any,
            Ok(true) => {}
            Err(reason) => self.fail(reason),
        }
        self.perform();
        true
    }

    fn take_answer(&mut self, answer: Answer) -> Result<(), String> {
        match answer {
            Answer::Written { snapshots, result } => {
                if let Err(error) = &result {
                    self.warn(format!("a checkpoint is abandoned: {error}"));
                }
                for Snapshot { stage, partition, batch, since, .. } in snapshots {
                    self.tell(match &result {
                        Ok(()) => LocalEvent::SnapshotDurable { stage, partition, batch, since },
                        Err(_) => LocalEvent::SnapshotFailed { stage, partition, batch },
                    });
                }
            }
            Answer::Ready { place, request } => {
                if self.kept().loading.get(&place).is_some_and(|loading| loading.0 == request) {
                    self.restored(place)?;
                }
            }
            Answer::Loaded { place, batch, why, pieces } => {
                let pieces = pieces.map_err(|error| self.of_state(place, &error.to_string()))?;
                let thawing = Thawing { place, batch, why, pieces: pieces.into(), from: None };
                self.kept().thawing.push_back(thawing);
            }
            Answer::Spilled { blocks, file } => self.spilled(blocks, file),
            Answer::NothingAhead { place: (stage, partition) } => {
                self.tell(LocalEvent::Preloaded { stage, partition });
            }
        }
        Ok(())
    }

    /// Puts together some of a state whose pieces are there, so that tasks do not wait for all of it;
    /// whether there was any.
    fn thaw_some(&mut self) -> Result<bool, String> {
        let Some(mut thawing) = self.kept().thawing.pop_front() else { return Ok(false) };
        let Thawing { place, batch, why, .. } = thawing;
        if !self.kept().is_wanted(place, batch, why) {
            return Ok(true);
        }
        let slot = match why {
            Why::Ahead { .. } => Slot::Ahead,
            Why::Restore { .. } => Slot::Live,
        };
        let stage = self.at(place)?;
        if thawing.from.is_none() {
            stage.clear(place.1, slot);
        }
        if let Some((batch, bytes)) = thawing.pieces.front() {
            let piece = Piece { batch: *batch, origin: Origin::Checkpoint, bytes };
            let next = stage.thaw(place.1, slot, &piece, thawing.from.unwrap_or(0));
            let next = next.map_err(|error| self.of_state(place, &error.to_string()))?;
            thawing.from = Some(next.unwrap_or(0));
            if next.is_none() {
                thawing.pieces.pop_front();
            }
            self.kept().thawing.push_front(thawing);
            return Ok(true);
        }
        match why {
            Why::Restore { .. } => self.restored(place)?,
            Why::Ahead { .. } => {
                self.kept().preloading.remove(&place);
                self.kept().ahead.insert(place, batch);
                self.tell(LocalEvent::Preloaded { stage: place.0, partition: place.1 });
            }
        }
        Ok(true)
    }

    fn of_state(&self, (stage, partition): Place, error: &str) -> String {
        let name = &self.context.plan.stage(stage).name;
        format!("the state of stage {name:?} {partition} cannot be restored: {error}")
    }

    /// The state of a partition is there.
    fn restored(&mut self, place: Place) -> Result<(), String> {
        let Some((_, after)) = self.kept().loading.remove(&place) else { return Ok(()) };
        let (stage, partition) = place;
        self.begin(place, after)?;
        self.tell(LocalEvent::Restored { stage, partition, after });
        Ok(())
    }

    /// The sink of a partition that starts here is told so.
    fn begin(&mut self, place: Place, after: BatchId) -> Result<(), String> {
        let beginning = Beginning { epoch: self.scheduler.epoch(), after };
        let begun = self.at(place)?.begin_at(place.1, beginning);
        begun.map_err(|error| self.of_state(place, &error.to_string()))
    }

    fn tell(&mut self, event: LocalEvent<'_>) {
        let now = self.clock.at(monotonic_now());
        self.scheduler.handle(now, event, &mut self.actions);
    }

    /// The stage of a partition, opened.
    fn at(&mut self, (stage, _): Place) -> Result<&mut dyn Stage, String> {
        boundary::run(|| self.open(stage))?;
        let stage = self.stages[stage.index()].as_mut();
        Ok(&mut **stage.expect("it was just opened"))
    }
}
