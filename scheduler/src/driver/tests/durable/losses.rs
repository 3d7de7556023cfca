//! Workers that are lost: fences, and what the others take over.

use super::*;

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
