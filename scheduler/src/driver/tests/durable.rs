//! With a journal: checkpoints, what becomes of the journal itself, and the end of a job.

use super::*;

mod losses;
mod moves;

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
