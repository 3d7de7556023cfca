//! With a journal: checkpoints, losses, moves, and what becomes of the journal itself.

use super::*;

/// Two workers with one core each; groups of 10 batches; all set up to the first group.
const BEGIN: &str = "start
    empty
    written 1
    ready 0
    ready 1
    written 2";

fn check_after(options: DriverOptions, begin: &str, script: &str, expected: &Expect) {
    let mut driver = Driver::new(two_stages(), options);
    play(&mut driver, begin);
    expected.assert_eq(&play(&mut driver, script));
}

#[test]
fn a_job_begins_when_the_journal_has_its_driver_and_its_workers() {
    let script = "ready 0\n start\n empty\n written 1\n ready 1\n written 2";
    check(
        durable(2, 10),
        script,
        &expect![[r#"
        ready 0
        start
            read the journal
        empty
            entry 1: opened in term 1
        written 1
        ready 1
            entry 2: members worker 0 incarnation 1, worker 1 incarnation 1
        written 2
            0 1 <- 1: admit worker 0 incarnation 1, worker 1 incarnation 1
            0 1 <- 2: group 1: Process 1..=10 after 0, start 30, placed in epoch 1
            0 1 <- 3: group 2: Process 11..=20 after 10, start 130
    "#]],
    );
}

#[test]
fn a_checkpoint_becomes_durable_when_all_parts_and_ranges_are() {
    check_after(
        durable(2, 10),
        BEGIN,
        "took 0 1 0 0 10
         at 5000
         tick
         took 1 1 1 0 5
         written 3
         took 0 2 0 10 20
         took 0 3 0 20 30
         written 4
         took 0 4 0 30 40
         took 1 2 1 5 6
         took 1 3 1 6 7
         took 1 4 1 7 8
         snapshot 0 4 0
         snapshot 0 4 1
         snapshot 1 4 1
         written 5
         written 6
         written 7",
        &expect![[r#"
            took 0 1 0 0 10
                entry 3: ranges 0/1 [0, 10)
            at 5000
            tick
                0 1 <- 4: checkpoint of batch 4
            took 1 1 1 0 5
            written 3
                entry 4: ranges 1/1 [0, 5)
            took 0 2 0 10 20
            took 0 3 0 20 30
            written 4
                0 1 <- recorded through batch 1
                entry 5: ranges 0/2 [10, 20), 0/3 [20, 30)
            took 0 4 0 30 40
            took 1 2 1 5 6
            took 1 3 1 6 7
            took 1 4 1 7 8
            snapshot 0 4 0
            snapshot 0 4 1
            snapshot 1 4 1
            written 5
                entry 6: ranges 0/4 [30, 40), 1/2 [5, 6), 1/3 [6, 7), 1/4 [7, 8)
            written 6
                0 1 <- recorded through batch 4
                entry 7: manifest of batch 4 with 0@4 1@4
            written 7
                0 1 <- 5: durable up to batch 4
        "#]],
    );
}

#[test]
fn a_checkpoint_that_comes_too_late_is_tried_again_further_ahead() {
    check_after(
        durable(2, 10),
        BEGIN,
        "high-mark 0
         snapshot 0 3 0
         no-snapshot 1 3
         snapshot 1 3 1
         at 100
         tick",
        &expect![[r#"
            high-mark 0
                0 1 <- 4: checkpoint of batch 3
            snapshot 0 3 0
            no-snapshot 1 3
                0 1 <- 5: no checkpoint of batch 3
            snapshot 1 3 1
            at 100
            tick
                0 1 <- 6: checkpoint of batch 4
        "#]],
    );
}

#[test]
fn a_checkpoint_is_abandoned_when_its_batch_has_come_and_its_time_is_over() {
    check_after(
        durable(2, 10),
        BEGIN,
        "high-mark 0
         at 2000
         tick
         took 0 1 0 0 10
         took 0 2 0 10 20
         took 0 3 0 20 30
         at 4000
         tick
         at 4100
         tick",
        &expect![[r#"
            high-mark 0
                0 1 <- 4: checkpoint of batch 3
            at 2000
            tick
            took 0 1 0 0 10
                entry 3: ranges 0/1 [0, 10)
            took 0 2 0 10 20
            took 0 3 0 20 30
            at 4000
            tick
            at 4100
            tick
        "#]],
    );
}

#[test]
fn a_lost_worker_is_fenced_then_ranges_are_written_then_others_take_its_partitions() {
    check_after(
        durable(3, 10),
        "start\n empty\n written 1\n ready 0\n ready 1\n ready 2\n written 2",
        "took 1 1 1 0 5
         took 1 2 1 5 6
         lost 1 its connection closed
         fenced 0 4 0 1 0
         fenced 2 4
         all is written
         done 0 1 1
         done 2 1 1
         done 0 1
         done 2 1
         ready 1
         ready 1 as 2
         all is written",
        &expect![[r#"
            took 1 1 1 0 5
                entry 3: ranges 1/1 [0, 5)
            took 1 2 1 5 6
            lost 1 its connection closed
                0 2 <- 4: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
            fenced 0 4 0 1 0
            fenced 2 4
            all is written
                entry 4: end of worker 1 incarnation 1
                entry 5: ranges 1/2 [5, 6)
                0 2 <- 5: recover in epoch 2: 0/1 to worker 2 core 0 after 2 by offset 6, 1/1 to worker 2 core 0 after 0 by manifest, worker 0 core 0 reads 1/1, worker 2 core 0 reads 1/2
                0 2 <- 6: group 3: Process 21..=30 after 20, start 230
                0 2 <- 7: group 4: Process 31..=40 after 30, start 330
            done 0 1 1
            done 2 1 1
            done 0 1
            done 2 1
                group 1 is done up to batch 10, 8 tasks
            ready 1
                1 <- leave, worker 1 incarnation 1
            ready 1 as 2
                entry 6: members worker 1 incarnation 2
            all is written
                1 <- welcome after order 7
                0 1 2 <- 8: admit worker 1 incarnation 2
                0 1 2 <- 9: prepare 1/1 worker 2 core 0 -> worker 1 core 0
        "#]],
    );
}

#[test]
fn a_second_loss_while_fencing_begins_it_anew() {
    check_after(
        durable(3, 10),
        "start\n empty\n written 1\n ready 0\n ready 1\n ready 2\n written 2",
        "lost 1 its connection closed
         fenced 0 4 0 1 0
         at 400
         tick
         fenced 0 4 0 1 0
         fenced 0 5 0 1 0
         all is written",
        &expect![[r#"
            lost 1 its connection closed
                0 2 <- 4: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
                entry 3: end of worker 1 incarnation 1
            fenced 0 4 0 1 0
            at 400
            tick
                0 <- 5: fence worker 2 incarnation 1
                2 <- leave, worker 2 incarnation 1
            fenced 0 4 0 1 0
            fenced 0 5 0 1 0
            all is written
                entry 4: end of worker 2 incarnation 1
                0 <- 6: recover in epoch 2: 0/1 to worker 0 core 0 after 0 by offset 0, 1/1 to worker 0 core 0 after 0 by manifest
                0 <- 7: group 3: Process 21..=30 after 20, start 230
                0 <- 8: group 4: Process 31..=40 after 30, start 330
        "#]],
    );
}

#[test]
fn when_nobody_is_left_the_first_that_joins_takes_everything() {
    check_after(
        durable(2, 10),
        BEGIN,
        "took 0 1 0 0 10
         lost 0 it was killed
         lost 1 it was killed
         all is written
         ready 0 as 2
         all is written
         done 0 1 as 2",
        &expect![[r#"
            took 0 1 0 0 10
                entry 3: ranges 0/1 [0, 10)
            lost 0 it was killed
                1 <- 4: fence worker 0 incarnation 1
                0 <- leave, worker 0 incarnation 1
            lost 1 it was killed
                1 <- leave, worker 1 incarnation 1
            all is written
                entry 4: end of worker 0 incarnation 1
                entry 5: end of worker 1 incarnation 1
            ready 0 as 2
                entry 6: members worker 0 incarnation 2
            all is written
                0 <- welcome after order 5
                0 <- 6: admit worker 0 incarnation 2
                0 <- 7: recover in epoch 2: 0/0 to worker 0 core 0 after 1 by offset 10, 0/1 to worker 0 core 0 after 0 by offset 0, 1/0 to worker 0 core 0 after 0 by manifest, 1/1 to worker 0 core 0 after 0 by manifest, worker 0 core 0 reads 0/1
                0 <- 8: group 3: Process 21..=30 after 20, start 230
                0 <- 9: group 4: Process 31..=40 after 30, start 330
            done 0 1 as 2
                group 1 is done up to batch 10, 4 tasks
        "#]],
    );
}

#[test]
fn a_worker_that_makes_no_promise_is_fenced_before_the_cut_is_committed() {
    check_after(
        durable(2, 10),
        BEGIN,
        "stop
         promise 0 3
         at 400
         tick
         took 1 9 1 7 8
         took 0 1 0 0 10
         fenced 0 5 0 1 0
         all is written",
        &expect![[r#"
            stop
                0 1 <- 4: cut? not before batch 0
            promise 0 3
            at 400
            tick
                0 <- 5: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
                entry 3: end of worker 1 incarnation 1
            took 1 9 1 7 8
                1 <- leave, worker 1 incarnation 1
            took 0 1 0 0 10
            fenced 0 5 0 1 0
            all is written
                0 <- 6: cut! after batch 3
                0 <- 7: recover in epoch 2: 0/1 to worker 0 core 0 after 0 by offset 0, 1/1 to worker 0 core 0 after 0 by manifest
                entry 4: the end after batch 3
                0 <- 8: checkpoint of batch 4
                0 <- 9: group 3: Flush 4..=4 after 3, start 0
                entry 5: ranges 0/1 [0, 10)
        "#]],
    );
}

#[test]
fn a_worker_that_joins_is_welcomed_and_given_its_share_at_a_cut() {
    check_after(
        durable(2, 10),
        BEGIN,
        "ready 2
         written 3
         prepared 0 5
         prepared 1 5
         prepared 2 5
         promise 0 4
         promise 1 6
         promise 2 2
         done 0 1
         done 1 1
         done 2 1",
        &expect![[r#"
            ready 2
                entry 3: members worker 2 incarnation 1
            written 3
                2 <- welcome after order 3
                0 1 2 <- 4: admit worker 2 incarnation 1
                0 1 2 <- 5: prepare 1/1 worker 1 core 0 -> worker 2 core 0
            prepared 0 5
            prepared 1 5
            prepared 2 5
                0 1 2 <- 6: cut? not before batch 2
            promise 0 4
            promise 1 6
            promise 2 2
                0 1 2 <- 7: cut! after batch 6
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
    check_after(
        durable(2, 10),
        BEGIN,
        "ready 2
         written 3
         prepared 0 5
         prepared 1 5
         prepared 2 5
         promise 0 4
         promise 1 6
         lost 2 its connection closed
         fenced 0 7 0 1 0
         fenced 1 7 1 1 0
         all is written",
        &expect![[r#"
            ready 2
                entry 3: members worker 2 incarnation 1
            written 3
                2 <- welcome after order 3
                0 1 2 <- 4: admit worker 2 incarnation 1
                0 1 2 <- 5: prepare 1/1 worker 1 core 0 -> worker 2 core 0
            prepared 0 5
            prepared 1 5
            prepared 2 5
                0 1 2 <- 6: cut? not before batch 2
            promise 0 4
            promise 1 6
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
    check_after(
        durable(2, 10),
        BEGIN,
        "ready 2
         written 3
         prepared 0 5
         at 400
         tick
         at 800
         tick",
        &expect![[r#"
            ready 2
                entry 3: members worker 2 incarnation 1
            written 3
                2 <- welcome after order 3
                0 1 2 <- 4: admit worker 2 incarnation 1
                0 1 2 <- 5: prepare 1/1 worker 1 core 0 -> worker 2 core 0
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

#[test]
fn a_driver_whose_entry_collides_is_deposed() {
    check_after(
        durable(2, 10),
        BEGIN,
        "took 0 1 0 0 10
         unwritten 3 deposed
         done 0 1",
        &expect![[r#"
            took 0 1 0 0 10
                entry 3: ranges 0/1 [0, 10)
            unwritten 3 deposed
                deposed
            done 0 1
        "#]],
    );
}

#[test]
fn a_driver_that_is_not_first_with_its_first_entry_reads_again() {
    let script = "start\n empty\n unwritten 1 deposed\n empty\n written 1";
    check(
        durable(2, 10),
        script,
        &expect![[r#"
        start
            read the journal
        empty
            entry 1: opened in term 1
        unwritten 1 deposed
            read the journal
        empty
            entry 1: opened in term 1
        written 1
    "#]],
    );
}

#[test]
fn an_entry_that_storage_did_not_take_is_tried_again() {
    check_after(
        durable(2, 10),
        BEGIN,
        "took 0 1 0 0 10
         unwritten 3 unavailable
         took 1 1 1 0 5
         at 100
         tick
         written 3
         written 4",
        &expect![[r#"
            took 0 1 0 0 10
                entry 3: ranges 0/1 [0, 10)
            unwritten 3 unavailable
            took 1 1 1 0 5
            at 100
            tick
                entry 3: ranges 0/1 [0, 10)
            written 3
                entry 4: ranges 1/1 [0, 5)
            written 4
                0 1 <- recorded through batch 1
        "#]],
    );
}

#[test]
fn a_job_ends_when_the_checkpoint_of_its_last_batch_is_durable() {
    check_after(
        durable(2, 10),
        BEGIN,
        "stop
         promise 0 1
         promise 1 0
         written 3
         done 0 1
         done 1 1
         took 0 1 0 0 10
         took 0 2 0 10 10
         took 1 1 1 0 10
         took 1 2 1 10 10
         snapshot 0 2 0
         snapshot 1 2 1
         done 0 3
         done 1 3
         written 4
         written 5
         written 6",
        &expect![[r#"
            stop
                0 1 <- 4: cut? not before batch 0
            promise 0 1
            promise 1 0
                0 1 <- 5: cut! after batch 1
                entry 3: the end after batch 1
            written 3
                0 1 <- 6: checkpoint of batch 2
                0 1 <- 7: group 3: Flush 2..=2 after 1, start 0
            done 0 1
            done 1 1
                group 1 is done up to batch 1, 8 tasks
            took 0 1 0 0 10
                entry 4: ranges 0/1 [0, 10)
            took 0 2 0 10 10
            took 1 1 1 0 10
            took 1 2 1 10 10
            snapshot 0 2 0
            snapshot 1 2 1
            done 0 3
            done 1 3
                group 3 is done up to batch 2, 8 tasks
            written 4
                entry 5: ranges 0/2 [10, 10), 1/1 [0, 10), 1/2 [10, 10)
            written 5
                0 1 <- recorded through batch 2
                entry 6: manifest of batch 2 with 0@2 1@2
            written 6
                0 1 <- 8: durable up to batch 2
                finished after batch 1
        "#]],
    );
}

#[test]
fn a_message_of_a_life_that_is_over_is_answered_by_its_end() {
    check_after(
        durable(2, 10),
        BEGIN,
        "lost 1 its connection closed
         done 1 1
         ready 1",
        &expect![[r#"
            lost 1 its connection closed
                0 <- 4: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
                entry 3: end of worker 1 incarnation 1
            done 1 1
                1 <- leave, worker 1 incarnation 1
            ready 1
                1 <- leave, worker 1 incarnation 1
        "#]],
    );
}

#[test]
fn the_driver_always_says_when_to_wake_it_while_somebody_owes_an_answer() {
    let mut driver = Driver::new(two_stages(), durable(2, 10));
    play(&mut driver, BEGIN);
    assert_eq!(driver.deadline(), Some(Instant(5000)), "the first checkpoint");
    play(&mut driver, "stop");
    assert_eq!(driver.deadline(), Some(Instant(400)), "promises");
    play(&mut driver, "at 400\n tick\n all is written");
    assert_eq!(driver.deadline(), Some(Instant(2610)), "the last checkpoint");
    play(&mut driver, "at 2610\n tick");
    assert_eq!(driver.deadline(), None, "somebody has to join");
}

#[test]
fn planted_mistakes_are_made() {
    let with = |bug| DriverOptions { bugs: Bugs::planted(bug), ..durable(1, 10) };
    let begin = "start\n empty\n written 1\n ready 0\n written 2";
    let cut = "stop\n promise 0 3";
    check_after(
        with(Bug::CutOffByOne),
        begin,
        cut,
        &expect![[r#"
            stop
                0 <- 4: cut? not before batch 0
            promise 0 3
                0 <- 5: cut! after batch 2
                entry 3: the end after batch 2
        "#]],
    );
    let checkpoint = "high-mark 0
        took 0 1 0 0 1
        written 3
        took 0 2 0 1 2
        took 0 3 0 2 3
        took 0 1 1 0 1
        took 0 2 1 1 2
        took 0 3 1 2 3
        snapshot 0 3 0
        snapshot 0 3 1
        written 4
        written 5";
    check_after(
        with(Bug::ReleaseBeforeManifest),
        begin,
        checkpoint,
        &expect![[r#"
        high-mark 0
            0 <- 4: checkpoint of batch 3
        took 0 1 0 0 1
            entry 3: ranges 0/1 [0, 1)
        written 3
        took 0 2 0 1 2
            entry 4: ranges 0/2 [1, 2)
        took 0 3 0 2 3
        took 0 1 1 0 1
        took 0 2 1 1 2
        took 0 3 1 2 3
        snapshot 0 3 0
        snapshot 0 3 1
        written 4
            entry 5: ranges 0/3 [2, 3), 1/1 [0, 1), 1/2 [1, 2), 1/3 [2, 3)
        written 5
            0 <- recorded through batch 3
            entry 6: manifest of batch 3 with 0@3 1@3
            0 <- 5: durable up to batch 3
    "#]],
    );
}

#[test]
fn a_group_that_a_manifest_covers_is_not_waited_for_after_a_recovery() {
    let end = "stop
        promise 0 1
        promise 1 0
        written 3
        took 0 1 0 0 10
        took 0 2 0 10 10
        took 1 1 1 0 10
        took 1 2 1 10 10
        snapshot 0 2 0
        snapshot 1 2 1
        written 4
        written 5";
    check_after(
        durable(2, 10),
        &format!("{BEGIN}\n{end}"),
        "lost 1 its connection closed
         all is written
         fenced 0 8 0 1 0",
        &expect![[r#"
            lost 1 its connection closed
                0 <- 8: fence worker 1 incarnation 1
                1 <- leave, worker 1 incarnation 1
            all is written
                0 <- 9: durable up to batch 2
                entry 7: end of worker 1 incarnation 1
            fenced 0 8 0 1 0
                0 <- 10: recover in epoch 2: 0/1 to worker 0 core 0 after 2 by offset 10, 1/1 to worker 0 core 0 after 2 by manifest
                group 1 is done up to batch 1, 0 tasks
                group 3 is done up to batch 2, 0 tasks
                finished after batch 1
        "#]],
    );
}
