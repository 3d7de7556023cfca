//! Tasks that end in a panic: each is tried anew, by others, as often as is allowed.
//!
//! Of one attempt all workers that run the batch may report a panic. An attempt ends with a recovery, which
//! is a new epoch: what is reported of the same epoch is one attempt.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::ids::{BatchId, Epoch, StageId};

/// How often tasks were tried in vain.
#[derive(Debug)]
pub struct Attempts {
    /// So many for each stage and batch.
    most: NonZeroU32,
    in_vain: BTreeMap<(BatchId, StageId), InVain>,
}

#[derive(Clone, Copy, Debug)]
struct InVain {
    attempts: u32,
    /// That of the last of them.
    epoch: Epoch,
}

/// What follows from a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whoever has the partitions next tries again.
    TryAgain,
    /// So many attempts were enough: the job fails.
    GiveUp {
        /// How many there were.
        attempts: u32,
    },
}

impl Attempts {
    /// Each stage of each batch may be tried so often.
    pub fn new(most: NonZeroU32) -> Attempts {
        Attempts { most, in_vain: BTreeMap::new() }
    }

    /// A task of `stage` in `batch` panicked on a core that knew `epoch`. Batches up to `durable` are in a
    /// checkpoint and will not be run again.
    pub fn panicked(
        &mut self,
        stage: StageId,
        batch: BatchId,
        epoch: Epoch,
        durable: BatchId,
    ) -> Verdict {
        self.in_vain.retain(|(batch, _), _| *batch > durable);
        let before = self.in_vain.get(&(batch, stage)).copied();
        let in_vain = match before {
            Some(before) if epoch <= before.epoch => before,
            Some(before) => InVain { attempts: before.attempts + 1, epoch },
            None => InVain { attempts: 1, epoch },
        };
        self.in_vain.insert((batch, stage), in_vain);
        let InVain { attempts, .. } = in_vain;
        match attempts < self.most.get() {
            true => Verdict::TryAgain,
            false => Verdict::GiveUp { attempts },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::{Attempts, Verdict};
    use crate::ids::{BatchId, Epoch, StageId};

    /// What follows from each of these panics, by stage, batch, epoch and what is durable.
    fn verdicts(most: u32, panics: &[(u16, u64, u64, u64)]) -> Vec<Verdict> {
        let mut attempts = Attempts::new(NonZeroU32::new(most).expect("at least one"));
        let panics = panics.iter();
        panics
            .map(|&(stage, batch, epoch, durable)| {
                let (batch, durable) = (BatchId(batch), BatchId(durable));
                attempts.panicked(StageId(stage), batch, Epoch(epoch), durable)
            })
            .collect()
    }

    const AGAIN: Verdict = Verdict::TryAgain;

    #[test]
    fn a_task_is_tried_as_often_as_allowed() {
        let enough = Verdict::GiveUp { attempts: 3 };
        assert_eq!(
            verdicts(3, &[(0, 7, 1, 0), (0, 7, 2, 0), (0, 7, 4, 5)]),
            [AGAIN, AGAIN, enough]
        );
        assert_eq!(verdicts(1, &[(0, 7, 1, 0)]), [Verdict::GiveUp { attempts: 1 }]);
    }

    #[test]
    fn other_stages_and_batches_have_attempts_of_their_own() {
        assert_eq!(verdicts(2, &[(0, 7, 1, 0), (1, 7, 2, 0), (0, 8, 3, 0)]), [AGAIN; 3]);
    }

    #[test]
    fn several_workers_in_the_same_epoch_are_one_attempt() {
        let enough = Verdict::GiveUp { attempts: 2 };
        let panics = [(0, 7, 1, 0), (0, 7, 1, 0), (0, 7, 2, 0)];
        assert_eq!(verdicts(2, &panics), [AGAIN, AGAIN, enough]);
        // One that had not heard of the recovery yet.
        let panics = [(0, 7, 2, 0), (0, 7, 1, 0)];
        assert_eq!(verdicts(2, &panics), [AGAIN; 2]);
    }

    #[test]
    fn what_is_durable_is_forgotten() {
        assert_eq!(verdicts(2, &[(0, 7, 1, 0), (0, 9, 2, 7), (0, 7, 3, 6)]), [AGAIN; 3]);
    }
}
