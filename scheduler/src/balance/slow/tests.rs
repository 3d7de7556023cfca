//! Tests of who is slow.

use super::*;
use crate::tests::core;

/// Judged after each group; a core that never waits runs for 100.
fn options(periods: u32) -> StragglerOptions {
    StragglerOptions {
        period_ns: 100,
        periods,
        busy_permille: 600,
        rest_periods: 2,
        speculation: Speculation::Off,
    }
}

/// A watch and its clock.
struct Watched {
    watch: StragglerWatch,
    now: u64,
}

impl Watched {
    fn new(options: StragglerOptions) -> Watched {
        let mut watch = StragglerWatch::new(options);
        assert_eq!(watch.end_of_group(Instant(0)), None, "some of it ran before");
        Watched { watch, now: 0 }
    }

    /// A group that took so long, by worker.
    fn group_of(&mut self, elapsed_ns: u64, run_ns: &[&[u64]]) -> Option<CoreId> {
        for (worker, run_ns) in run_ns.iter().enumerate() {
            self.watch.observe(WorkerId(worker as u32), run_ns);
        }
        self.now += elapsed_ns;
        self.watch.end_of_group(Instant(self.now))
    }

    fn group(&mut self, run_ns: &[&[u64]]) -> Option<CoreId> {
        self.group_of(100, run_ns)
    }
}

#[test]
fn a_core_is_slow_after_so_many_periods_in_a_row() {
    let mut watched = Watched::new(options(3));
    let slow: &[&[u64]] = &[&[40, 81], &[39, 41]];
    let fast: &[&[u64]] = &[&[40, 80], &[39, 41]];
    let found = [slow, slow, fast, slow, slow, slow].map(|run_ns| watched.group(run_ns));
    assert_eq!(found, [None, None, None, None, None, Some(core(0, 1))]);
    let found = [slow, slow, slow].map(|run_ns| watched.group(run_ns));
    assert_eq!(found, [None, None, Some(core(0, 1))], "a move gets time to show");
}

#[test]
fn of_several_slow_cores_the_slowest_goes_first() {
    let mut watched = Watched::new(options(1));
    assert_eq!(watched.group(&[&[10, 80], &[10, 90], &[10]]), Some(core(1, 1)));
}

#[test]
fn one_of_two_cores_can_be_slow_and_one_of_one_cannot() {
    assert_eq!(Watched::new(options(1)).group(&[&[10, 90]]), Some(core(0, 1)));
    assert_eq!(Watched::new(options(1)).group(&[&[90]]), None);
    assert_eq!(Watched::new(options(1)).group(&[]), None);
}

#[test]
fn cores_that_run_nothing_are_no_measure() {
    assert_eq!(Watched::new(options(1)).group(&[&[0, 0, 0, 70, 71, 72]]), None);
    assert_eq!(Watched::new(options(1)).group(&[&[0, 0], &[0]]), None);
}

#[test]
fn a_core_that_is_gone_is_forgotten() {
    let mut watched = Watched::new(options(2));
    assert_eq!(watched.group(&[&[10, 10], &[90]]), None);
    assert_eq!(watched.group(&[&[10, 10]]), None);
    assert_eq!(watched.group(&[&[10, 10], &[90]]), None);
    assert_eq!(watched.group(&[&[10, 10], &[90]]), Some(core(1, 0)));
}

#[test]
fn a_core_with_time_left_keeps_up_however_long_its_tasks_take() {
    let mut watched = Watched::new(options(1));
    assert_eq!(watched.group(&[&[1, 59], &[1, 2]]), None);
    assert_eq!(watched.group(&[&[1, 60], &[1, 2]]), Some(core(0, 1)));
}

#[test]
fn cores_that_are_all_busy_are_not_slow() {
    // Two that share a processor with others run all the time, and the others for half of it.
    assert_eq!(Watched::new(options(1)).group(&[&[100], &[100], &[50], &[50]]), None);
}

#[test]
fn short_groups_are_judged_together() {
    let mut watched = Watched::new(options(2));
    // Whatever happens within a moment, the period as a whole has nobody slow.
    for _ in 0..8 {
        assert_eq!(watched.group_of(25, &[&[20], &[1]]), None);
        assert_eq!(watched.group_of(25, &[&[1], &[20]]), None);
    }
    let found: Vec<_> = (0..8).map(|_| watched.group_of(25, &[&[20], &[1]])).collect();
    assert_eq!(found.iter().flatten().collect::<Vec<_>>(), [&core(0, 0)]);
    assert_eq!(found[7], Some(core(0, 0)), "after two periods of four groups");
}

#[test]
fn after_a_change_everything_is_counted_anew() {
    let mut watched = Watched::new(options(2));
    assert_eq!(watched.group(&[&[90], &[10]]), None);
    watched.watch.start_over();
    assert_eq!(watched.group(&[&[90], &[10]]), None, "some of it ran before the change");
    assert_eq!(watched.group(&[&[90], &[10]]), None);
    assert_eq!(watched.group(&[&[90], &[10]]), Some(core(0, 0)));
}

#[test]
fn nothing_moves_to_a_core_that_ran_longer_than_most() {
    let mut watched = Watched::new(options(1));
    assert!(watched.watch.has_room(core(0, 0)), "nothing is known of it");
    assert_eq!(watched.group(&[&[90], &[60], &[10], &[20]]), Some(core(0, 0)));
    let with_room = (0..4).filter(|&worker| watched.watch.has_room(core(worker, 0)));
    assert_eq!(with_room.collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_partition_that_left_a_slow_core_rests() {
    let mut watched = Watched::new(options(1));
    let (stage, partition) = (StageId(1), PartitionId(3));
    watched.watch.moved(Move { stage, partition, from: core(0, 0), to: core(1, 0) });
    let may_move = [(); 4].map(|()| {
        watched.group(&[&[10], &[10]]);
        watched.watch.may_move(stage, partition)
    });
    assert_eq!(may_move, [false, false, true, true]);
    assert!(watched.watch.may_move(stage, PartitionId(4)));
}

#[test]
fn times_near_the_end_of_the_range_do_not_overflow() {
    let mut watched = Watched::new(options(1));
    watched.watch.observe(WorkerId(0), &[u64::MAX, u64::MAX]);
    assert_eq!(watched.group(&[&[u64::MAX, u64::MAX]]), None);
    assert_eq!(watched.group_of(u64::MAX - 200, &[&[u64::MAX], &[1]]), Some(core(0, 0)));
}
