//! The variants of what may be sent, by name, so that a sample or golden bytes for each can be asked
//! for. A new variant does not compile until it is listed, and then fails until it has both.

use std::collections::BTreeSet;
use std::fmt::Debug;

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::message::{Content, Decision, Order, Purpose, Report, Restore};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::samples;
use super::scheduling;
use crate::wire::message::{DataHead, Request, ToDriver, ToWorker};

/// Something with variants.
pub(super) trait Variants {
    /// The names of all of them.
    const ALL: &'static [&'static str];
    /// The name of this one.
    fn variant(&self) -> &'static str;
}

macro_rules! variants {
    ($type:ident: $($name:ident),+ $(,)?) => {
        impl Variants for $type {
            const ALL: &'static [&'static str] = &[$(stringify!($name)),+];

            fn variant(&self) -> &'static str {
                match self {
                    $($type::$name { .. } => stringify!($name)),+
                }
            }
        }
    };
}

variants!(ToDriver: Hello, Joined, CannotJoin, Ready, Report, Heartbeat, Results, PeerLost, Regained,
    Failed, Panicked, Finished, Return, Ask, Notice);
variants!(ToWorker: Welcome, Wait, Refused, Peers, Order, HeartbeatAnswer, Finish, Abort, Back,
    Answer);
variants!(Request: Status, Scale, Drain, Savepoint);
variants!(DataHead: Hello, Met, Blocks, Mapped, Released, Retired, Completed, Ranges,
    State);
variants!(Order: Decision, Release, Recorded, Welcome, TakeOver, Leave, Speculate);
variants!(Decision: Admit, ScheduleGroup, CutGroup, CommitCut, Fence, Recover, Checkpoint,
    AbandonCheckpoint, Durable, Prepare, AbandonMoves);
variants!(Report: GroupDone, StageDone, Ranges, Refused, Promise, Fenced, Holding, Snapshots,
    NoSnapshot, HighMark, Prepared, Progress);
variants!(Restore: Manifest, Copy, Position);
variants!(Content: Raw, Partial);
variants!(Purpose: Process, Flush);
variants!(Record: Opened, Members, Fenced, Ranges, End, Manifest);

/// That `values` holds each variant at least once.
pub(super) fn assert_all<T: Variants>(values: impl IntoIterator<Item = T>) {
    let found: BTreeSet<&str> = values.into_iter().map(|value| value.variant()).collect();
    let missing: Vec<_> = T::ALL.iter().filter(|&name| !found.contains(name)).collect();
    assert!(missing.is_empty(), "{} has no example of {missing:?}", std::any::type_name::<T>());
}

fn assert_sampled<T: Variants + Debug>(strategy: impl Strategy<Value = T>) {
    let mut runner = TestRunner::deterministic();
    let mut sample = || strategy.new_tree(&mut runner).expect("nothing is filtered").current();
    assert_all((0..40 * T::ALL.len()).map(|_| sample()));
}

#[test]
fn every_variant_has_a_sample() {
    assert_sampled(samples::to_driver());
    assert_sampled(samples::to_worker());
    assert_sampled(samples::data_head());
    assert_sampled(samples::request());
    assert_sampled(scheduling::order());
    assert_sampled(scheduling::decision());
    assert_sampled(scheduling::report());
    assert_sampled(scheduling::restore());
    assert_sampled(scheduling::content());
    assert_sampled(scheduling::purpose());
    assert_sampled(scheduling::record());
}
