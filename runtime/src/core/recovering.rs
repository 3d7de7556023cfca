//! How far a core is with the lost partitions that it was given: for those who measure.

use drizzle_scheduler::message::Recover;
use drizzle_scheduler::{Epoch, Instant};

use super::{Core, CoreOutput};
use crate::wire::Regained;

/// Partitions that were lost and are to go on here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovering {
    epoch: Epoch,
    /// When they were given to this core.
    began: Instant,
    /// What has been reported.
    reached: Option<Regained>,
}

impl Core {
    /// Partitions have new owners, perhaps this core.
    pub(super) fn begin_recovering(&mut self, recover: &Recover, now: Instant) {
        if recover.moved.iter().any(|rollback| rollback.to == self.core) {
            let (epoch, began) = (recover.epoch, now);
            self.recovering = Some(Recovering { epoch, began, reached: None });
        }
    }

    /// Says so when their states are there, and when they have done again what was due when they came.
    pub(super) fn note_recovering(&mut self) {
        let Some(recovering) = self.recovering else { return };
        let reached = match recovering.reached {
            None if self.kept().loading.is_empty() => Regained::State,
            Some(Regained::State) if !self.scheduler.is_behind(recovering.began) => Regained::Time,
            Some(Regained::Time) => {
                self.recovering = None;
                return;
            }
            None | Some(Regained::State) => return,
        };
        self.recovering = Some(Recovering { reached: Some(reached), ..recovering });
        self.tell_control(CoreOutput::Regained { epoch: recovering.epoch, what: reached });
    }
}
