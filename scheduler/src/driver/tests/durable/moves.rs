//! Planned moves: workers that join, and workers that are drained.

use super::*;
use crate::balance::{Speculation, StragglerOptions};

/// A third worker joins, and is to take a partition.
const JOIN: &str = "\
ready 2
    entry 3: members worker 2 incarnation 1
written 3
    2 <- welcome after order 3
    0 1 2 <- 4: admit worker 2 incarnation 1
    0 1 2 <- 5: prepare 1/1 worker 1 core 0 -> worker 2 core 0
";

/// All have prepared that move, and two of three have promised a last batch.
const CUT: &str = "\
prepared 0 5
prepared 1 5
prepared 2 5
    0 1 2 <- 6: cut? not before batch 2
promise 0 4
promise 1 6
";

/// Checks what follows in a job of two workers after `logs`.
fn check_moving(logs: &[&str], script: &str, expected: &Expect) {
    let mut driver = Driver::new(two_stages(), durable(2, 10));
    play(&mut driver, BEGIN);
    for log in logs {
        replay(&mut driver, log);
    }
    expected.assert_eq(&play(&mut driver, script));
}

#[test]
fn a_worker_that_joins_is_welcomed_and_given_its_share_at_a_cut() {
    check_moving(
        &[JOIN, CUT],
        "promise 2 2
         done 0 1
         done 1 1
         done 2 1",
        &expect![[r#"
            promise 2 2
                0 1 2 <- 7: cut! after batch 6
                1 moves for Members
                0 1 2 <- 8: group 3: Process 7..=16 after 6, start 90, placed in epoch 2
                0 1 2 <- 9: checkpoint of batch 7
            done 0 1
            done 1 1
                group 1 is done up to batch 6, 8 tasks
                0 1 2 <- 10: group 4: Process 17..=26 after 16, start 190
            done 2 1
        "#]],
    );
}

#[test]
fn a_worker_that_is_drained_leaves_when_a_manifest_covers_its_moves() {
    check_after(
        durable(2, 1),
        BEGIN,
        "drain 1
         prepared 0 4
         prepared 1 4
         promise 0 1
         promise 1 1
         took 0 1 0 0 1
         took 1 1 1 0 1
         written 3
         took 0 2 0 1 2
         took 0 2 1 1 2
         took 0 3 0 2 3
         took 0 3 1 2 3
         took 0 4 0 3 4
         took 0 4 1 3 4
         snapshot 0 3 0
         snapshot 0 3 1
         written 4
         written 5
         written 6",
        &expect![[r#"
            drain 1
                0 1 <- 4: prepare 0/1 worker 1 core 0 -> worker 0 core 0, 1/1 worker 1 core 0 -> worker 0 core 0
            prepared 0 4
            prepared 1 4
                0 1 <- 5: cut? not before batch 2
            promise 0 1
            promise 1 1
                0 1 <- 6: cut! after batch 2
                2 moves for Members
                0 1 <- 7: group 3: Process 3..=3 after 2, start 50, placed in epoch 2
                0 1 <- 8: checkpoint of batch 3
            took 0 1 0 0 1
                entry 3: ranges 0/1 [0, 1)
            took 1 1 1 0 1
            written 3
                entry 4: ranges 1/1 [0, 1)
            took 0 2 0 1 2
            took 0 2 1 1 2
            took 0 3 0 2 3
            took 0 3 1 2 3
            took 0 4 0 3 4
            took 0 4 1 3 4
            snapshot 0 3 0
            snapshot 0 3 1
            written 4
                0 1 <- recorded through batch 1
                entry 5: ranges 0/2 [1, 2), 0/3 [2, 3), 0/4 [3, 4), 1/2 [1, 2), 1/3 [2, 3), 1/4 [3, 4)
            written 5
                0 1 <- recorded through batch 4
                entry 6: manifest of batch 3 with 0@3 1@3
            written 6
                0 1 <- 9: durable up to batch 3
                0 <- 10: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
                worker 1 is drained
                group 1 is done up to batch 1, 0 tasks
                group 2 is done up to batch 2, 0 tasks
                group 3 is done up to batch 3, 0 tasks
                0 <- 11: group 4: Process 4..=4 after 3, start 60
                0 <- 12: group 5: Process 5..=5 after 4, start 70
                entry 7: end of worker 1 incarnation 1
        "#]],
    );
}

#[test]
fn a_loss_before_the_commit_undoes_planned_moves() {
    check_moving(
        &[JOIN, CUT],
        "lost 2 its connection closed
         fenced 0 7 0 1 0
         fenced 1 7 1 1 0
         all is written",
        &expect![[r#"
            lost 2 its connection closed
                0 1 <- 7: fence worker 2 incarnation 1
                2 <- leave, worker 2 incarnation 1
                0 1 <- 8: no moves
                entry 4: end of worker 2 incarnation 1
            fenced 0 7 0 1 0
            fenced 1 7 1 1 0
            all is written
                0 1 <- 9: cut! after batch 6
                0 1 <- 10: recover in epoch 2: 
                0 1 <- 11: group 3: Process 7..=16 after 6, start 90
                0 1 <- 12: group 4: Process 17..=26 after 16, start 190
        "#]],
    );
}

#[test]
fn moves_that_take_too_long_to_prepare_are_given_up_and_tried_again() {
    check_moving(
        &[JOIN],
        "prepared 0 5
         at 400
         tick
         at 800
         tick",
        &expect![[r#"
            prepared 0 5
            at 400
            tick
                0 1 2 <- 6: no moves
            at 800
            tick
                0 1 2 <- 7: prepare 1/1 worker 1 core 0 -> worker 2 core 0
        "#]],
    );
}

/// Two groups: in the second one worker 0 ran nearly all the time, and worker 1 did not.
const SLOW: &str = "at 100
    ran 0 1 10
    ran 1 1 10
    at 300
    ran 0 2 190
    ran 1 2 10";

fn balancing() -> DriverOptions {
    let options = StragglerOptions {
        period_ns: 100,
        periods: 1,
        busy_permille: 600,
        rest_periods: 10,
        speculation: Speculation::Off,
    };
    DriverOptions { balance: Balance::On(options), ..durable(2, 10) }
}

#[test]
fn a_core_that_is_slow_loses_a_partition_at_a_cut() {
    check_after(
        balancing(),
        &format!("{BEGIN}\n{SLOW}"),
        "prepared 0 6
         prepared 1 6
         promise 0 12
         promise 1 13",
        &expect![[r#"
            prepared 0 6
            prepared 1 6
                0 1 <- 7: cut? not before batch 2
            promise 0 12
            promise 1 13
                0 1 <- 8: cut! after batch 13
                1 moves for SlowCore
                0 1 <- 9: group 5: Process 14..=23 after 13, start 160, placed in epoch 2
                0 1 <- 10: group 6: Process 24..=33 after 23, start 260
                0 1 <- 11: checkpoint of batch 14
        "#]],
    );
}

#[test]
fn relief_that_takes_too_long_is_given_up_and_changes_nothing_else() {
    check_after(
        balancing(),
        &format!("{BEGIN}\n{SLOW}"),
        "prepared 1 6
         at 700
         tick
         at 2000
         tick",
        &expect![[r#"
            prepared 1 6
            at 700
            tick
                0 1 <- 7: no moves
            at 2000
            tick
        "#]],
    );
}
