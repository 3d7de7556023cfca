//! Which of the blocks that a core keeps a task folds: of blocks that cover the same upstream
//! partition, because one is of another attempt or came twice, only one.

use crate::bugs::Bugs;
use crate::ids::{EdgeId, PartitionId};
use crate::local::lanes::is_repetition;
use crate::message::BlockNotice;
use crate::plan::Plan;

/// Which of the kept blocks a task folds, in folding order: by batch, then by the first upstream
/// partition. A block whose upstream partitions are all in a larger one is left out.
pub fn select_inputs(
    plan: &Plan,
    edge: EdgeId,
    downstream: PartitionId,
    kept: &[&BlockNotice],
) -> Vec<usize> {
    select(plan, edge, downstream, kept, Bugs::NONE)
}

pub(super) fn select(
    plan: &Plan,
    edge: EdgeId,
    downstream: PartitionId,
    kept: &[&BlockNotice],
    bugs: Bugs,
) -> Vec<usize> {
    let pattern = plan.edge(edge);
    let concerns = |notice: &BlockNotice| {
        notice.edge == edge
            && notice.downstream.binary_search(&downstream).is_ok()
            && notice.upstream.iter().any(|&p| Plan::connects(pattern, p, downstream))
    };
    let mut chosen: Vec<usize> = (0..kept.len()).filter(|&index| concerns(kept[index])).collect();
    if chosen.len() > 1 {
        chosen.sort_unstable_by_key(|&index| {
            let notice = kept[index];
            let size = std::cmp::Reverse(notice.upstream.len());
            (notice.batch, size, notice.upstream[0], notice.attempt, index)
        });
        leave_out_repetitions(plan, edge, kept, &mut chosen, bugs);
        chosen.sort_unstable_by_key(|&index| (kept[index].batch, kept[index].upstream[0], index));
    }
    chosen
}

/// Of blocks with the larger ones first, drops those that say nothing new.
fn leave_out_repetitions(
    plan: &Plan,
    edge: EdgeId,
    kept: &[&BlockNotice],
    chosen: &mut Vec<usize>,
    bugs: Bugs,
) {
    let upstream = plan.stage(plan.edge(edge).from).partition_count as usize;
    // By upstream partition, the attempt of the block that covers it.
    let mut covered = vec![None; upstream];
    let mut batch = None;
    chosen.retain(|&index| {
        let notice = kept[index];
        if batch != Some(notice.batch) {
            batch = Some(notice.batch);
            covered.fill(None);
        }
        let is_known = |&p: &PartitionId| {
            covered[p.index()].is_some_and(|known| is_repetition(bugs, known, notice.attempt))
        };
        let repetition = notice.upstream.iter().all(is_known);
        for p in notice.upstream.iter().filter(|_| !repetition) {
            covered[p.index()] = Some(notice.attempt);
        }
        !repetition
    });
}
