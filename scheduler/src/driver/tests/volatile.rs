//! Without a journal: groups, cuts and releases.

use super::*;

/// How a job of one worker begins, with groups of two batches.
const ONE_WORKER_TWO_BATCHES: &str = "\
ready 0
    0 <- 1: admit worker 0 incarnation 1
    0 <- 2: group 1: Process 1..=2 after 0, start 30, placed in epoch 1
    0 <- 3: group 2: Process 3..=4 after 2, start 50
";

/// The same with groups of three.
const ONE_WORKER_THREE_BATCHES: &str = "\
ready 0
    0 <- 1: admit worker 0 incarnation 1
    0 <- 2: group 1: Process 1..=3 after 0, start 30, placed in epoch 1
    0 <- 3: group 2: Process 4..=6 after 3, start 60
";

/// The same with two workers.
const TWO_WORKERS_THREE_BATCHES: &str = "\
ready 0
ready 1
    0 1 <- 1: admit worker 0 incarnation 1, worker 1 incarnation 1
    0 1 <- 2: group 1: Process 1..=3 after 0, start 30, placed in epoch 1
    0 1 <- 3: group 2: Process 4..=6 after 3, start 60
";

/// Checks what follows after a job has begun as `begin` says.
fn check_begun(options: DriverOptions, begin: &str, script: &str, expected: &Expect) {
    let mut driver = Driver::new(two_stages(), options);
    replay(&mut driver, begin);
    expected.assert_eq(&play(&mut driver, script));
}

#[test]
fn a_job_runs_from_gathering_to_the_end_of_its_sources() {
    check(
        options(2, 3),
        "ready 0
         ready 1
         took 0 1 0 0 100
         took 1 1 1 0 80
         done 0 1
         done 1 1
         took 0 2 0 100 150 end
         took 1 2 1 80 90
         took 1 3 1 90 90
         took 1 4 1 90 95 end
         promise 1 5
         done 0 2
         promise 0 4
         done 1 2
         done 0 3
         done 0 4
         done 1 4
         stop",
        &expect![[r#"
            ready 0
            ready 1
                0 1 <- 1: admit worker 0 incarnation 1, worker 1 incarnation 1
                0 1 <- 2: group 1: Process 1..=3 after 0, start 30, placed in epoch 1
                0 1 <- 3: group 2: Process 4..=6 after 3, start 60
            took 0 1 0 0 100
            took 1 1 1 0 80
            done 0 1
            done 1 1
                group 1 is done up to batch 3, 8 tasks
                0 1 <- 4: group 3: Process 7..=9 after 6, start 90
            took 0 2 0 100 150 end
            took 1 2 1 80 90
            took 1 3 1 90 90
            took 1 4 1 90 95 end
                0 1 <- 5: cut? not before batch 4
            promise 1 5
            done 0 2
            promise 0 4
                0 1 <- 6: cut! after batch 5
                0 1 <- 7: group 4: Flush 6..=6 after 5, start 0
            done 1 2
                group 2 is done up to batch 5, 8 tasks
            done 0 3
            done 0 4
            done 1 4
                group 4 is done up to batch 6, 8 tasks
                finished after batch 5
            stop
        "#]],
    );
}

#[test]
fn the_cores_of_a_worker_are_placed_in_turn_with_those_of_the_others() {
    let plan = chain(&[(StageKind::Source(Pacing::Clock), 5), (StageKind::Stateful, 2)]);
    let mut driver = Driver::new(plan, options(2, 1));
    let mut actions = Vec::new();
    for (worker, cores) in [(1, 1), (0, 2)] {
        let (worker, incarnation) = (WorkerId(worker), Incarnation(1));
        let event = DriverEvent::WorkerReady { worker, incarnation, cores };
        driver.handle(Instant(0), event, &mut actions);
    }
    let placement = driver.history.placement(BatchId(1)).expect("all workers are there");
    let cores: Vec<String> = placement.cores_by_stage[0].iter().map(CoreId::to_string).collect();
    expect![[r#"
        [
            "worker 0 core 0",
            "worker 1 core 0",
            "worker 0 core 1",
            "worker 0 core 0",
            "worker 1 core 0",
        ]
    "#]]
    .assert_debug_eq(&cores);
}

#[test]
fn a_stop_before_the_start_ends_the_job() {
    check(
        options(2, 3),
        "ready 0\n stop\n ready 1",
        &expect![[r#"
            ready 0
            stop
                failed: it was stopped before it began
            ready 1
        "#]],
    );
}

#[test]
fn a_stop_by_the_user_cuts_at_what_has_been_started_and_a_second_one_changes_nothing() {
    check(
        options(2, 100),
        "ready 0
         ready 1
         stop
         stop
         promise 0 7
         promise 1 8
         stop
         done 0 1
         done 1 1
         done 0 3
         done 1 3",
        &expect![[r#"
            ready 0
            ready 1
                0 1 <- 1: admit worker 0 incarnation 1, worker 1 incarnation 1
                0 1 <- 2: group 1: Process 1..=100 after 0, start 30, placed in epoch 1
                0 1 <- 3: group 2: Process 101..=200 after 100, start 1030
            stop
                0 1 <- 4: cut? not before batch 0
            stop
            promise 0 7
            promise 1 8
                0 1 <- 5: cut! after batch 8
                0 1 <- 6: group 3: Flush 9..=9 after 8, start 0
            stop
            done 0 1
            done 1 1
                group 1 is done up to batch 8, 8 tasks
            done 0 3
            done 1 3
                group 3 is done up to batch 9, 8 tasks
                finished after batch 8
        "#]],
    );
}

#[test]
fn a_stop_before_anything_has_started_voids_every_group() {
    check_begun(
        options(1, 2),
        ONE_WORKER_TWO_BATCHES,
        "stop\n promise 0 0\n done 0 3",
        &expect![[r#"
            stop
                0 <- 4: cut? not before batch 0
            promise 0 0
                0 <- 5: cut! after batch 0
                0 <- 6: group 3: Flush 1..=1 after 0, start 0
            done 0 3
                group 3 is done up to batch 1, 4 tasks
                finished after batch 0
        "#]],
    );
}

#[test]
fn a_cut_never_reaches_beyond_what_is_scheduled() {
    let script = "stop\n promise 0 999\n promise 0 5";
    check_begun(
        options(1, 2),
        ONE_WORKER_TWO_BATCHES,
        script,
        &expect![[r#"
            stop
                0 <- 4: cut? not before batch 0
            promise 0 999
                0 <- 5: cut! after batch 4
                0 <- 6: group 3: Flush 5..=5 after 4, start 0
            promise 0 5
        "#]],
    );
}

#[test]
fn a_lost_worker_ends_the_job_with_its_name() {
    let script = "lost 1 its connection closed\n done 0 1\n stop";
    check_begun(
        options(2, 3),
        TWO_WORKERS_THREE_BATCHES,
        script,
        &expect![[r#"
            lost 1 its connection closed
                failed: worker 1 is lost: its connection closed
            done 0 1
            stop
        "#]],
    );
}

#[test]
fn a_member_that_comes_back_is_lost_and_a_surplus_worker_is_not_heeded() {
    let script = "ready 2\n ready 1\n stop\n promise 0 1\n ready 1 as 2";
    check_begun(
        options(2, 3),
        TWO_WORKERS_THREE_BATCHES,
        script,
        &expect![[r#"
            ready 2
            ready 1
            stop
                0 1 <- 4: cut? not before batch 0
            promise 0 1
            ready 1 as 2
                failed: worker 1 is lost: it came back as incarnation 2
        "#]],
    );
}

#[test]
fn a_worker_may_come_back_while_the_others_gather() {
    let script = "ready 0\n ready 0 as 2\n done 0 1 as 2\n stage-done 0 1 0 as 2\n ready 1";
    check(
        options(2, 3),
        script,
        &expect![[r#"
            ready 0
            ready 0 as 2
            done 0 1 as 2
            stage-done 0 1 0 as 2
            ready 1
                0 1 <- 1: admit worker 0 incarnation 2, worker 1 incarnation 1
                0 1 <- 2: group 1: Process 1..=3 after 0, start 30, placed in epoch 1
                0 1 <- 3: group 2: Process 4..=6 after 3, start 60
        "#]],
    );
}

#[test]
fn a_gap_between_two_ranges_fails_the_job() {
    let script = "took 0 1 0 0 10\n took 0 2 0 11 20\n done 0 1";
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        script,
        &expect![[r#"
            took 0 1 0 0 10
            took 0 2 0 11 20
                failed: partition 0 of stage 0 took [11, 20) in batch 2, but batch 1 had taken up to 10
            done 0 1
        "#]],
    );
}

#[test]
fn a_range_speaks_for_all_batches_since_the_last_one() {
    let script = "took 0 1 0 0 10\n took 0 3 0 10 20\n took 0 2 0 20 30";
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        script,
        &expect![[r#"
            took 0 1 0 0 10
            took 0 3 0 10 20
            took 0 2 0 20 30
                failed: partition 0 of stage 0 took [20, 30) in batch 2, but batch 3 had taken up to 20
        "#]],
    );
}

#[test]
fn a_refused_group_fails_the_job() {
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        "refused 0 2 4",
        &expect![[r#"
            refused 0 2 4
                failed: worker 0 refused group 2: it had reached batch 4
        "#]],
    );
}

#[test]
fn messages_of_an_unknown_worker_or_incarnation_are_ignored() {
    let script = "done 0 1 as 9
                  took 0 5 0 7 8 as 9
                  refused 0 1 0 as 9
                  done 3 1
                  done 0 1";
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        script,
        &expect![[r#"
            done 0 1 as 9
            took 0 5 0 7 8 as 9
            refused 0 1 0 as 9
            done 3 1
            done 0 1
                group 1 is done up to batch 3, 4 tasks
                0 <- 4: group 3: Process 7..=9 after 6, start 90
        "#]],
    );
}

#[test]
fn a_worker_that_repeats_itself_counts_once() {
    let script = "done 0 1\n done 0 1\n done 1 1";
    check_begun(
        options(2, 3),
        TWO_WORKERS_THREE_BATCHES,
        script,
        &expect![[r#"
            done 0 1
            done 0 1
            done 1 1
                group 1 is done up to batch 3, 8 tasks
                0 1 <- 4: group 3: Process 7..=9 after 6, start 90
        "#]],
    );
}

#[test]
fn a_late_report_of_a_voided_group_changes_nothing() {
    let script = "stop\n done 1 2\n promise 0 1\n promise 1 2\n done 0 2";
    check_begun(
        options(2, 3),
        TWO_WORKERS_THREE_BATCHES,
        script,
        &expect![[r#"
            stop
                0 1 <- 4: cut? not before batch 0
            done 1 2
            promise 0 1
            promise 1 2
                0 1 <- 5: cut! after batch 2
                0 1 <- 6: group 3: Flush 3..=3 after 2, start 0
            done 0 2
        "#]],
    );
}

#[test]
fn groups_that_end_out_of_order_are_reported_in_order() {
    let script = "done 0 2\n done 0 1";
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        script,
        &expect![[r#"
            done 0 2
            done 0 1
                group 1 is done up to batch 3, 4 tasks
                group 2 is done up to batch 6, 4 tasks
                0 <- 4: group 3: Process 7..=9 after 6, start 90
                0 <- 5: group 4: Process 10..=12 after 9, start 120
        "#]],
    );
}

#[test]
fn without_prescheduling_a_stage_is_released_once_when_all_upstream_workers_have_reported() {
    let options = DriverOptions { prescheduling: Prescheduling::Off, ..options(2, 3) };
    check_begun(
        options,
        TWO_WORKERS_THREE_BATCHES,
        "stage-done 0 2 0
         stage-done 0 1 0
         stage-done 1 1 0
         stage-done 1 2 0",
        &expect![[r#"
            stage-done 0 2 0
            stage-done 0 1 0
            stage-done 1 1 0
                0 1 <- release batch 1 stage 1
            stage-done 1 2 0
                0 1 <- release batch 2 stage 1
        "#]],
    );
}

#[test]
fn what_was_counted_for_releases_is_forgotten_with_its_group() {
    let options = DriverOptions { prescheduling: Prescheduling::Off, ..options(1, 1) };
    let mut driver = Driver::new(two_stages(), options);
    let said = event("ready 0", &driver);
    driver.handle(Instant(0), said, &mut Vec::new());
    for batch in 1..100 {
        for said in [format!("stage-done 0 {batch} 0"), format!("done 0 {batch}")] {
            let said = event(&said, &driver);
            driver.handle(Instant(0), said, &mut Vec::new());
        }
        assert!(driver.releases.is_empty());
    }
}

#[test]
fn with_prescheduling_nothing_is_released() {
    let script = "stage-done 0 1 0";
    check_begun(
        options(1, 3),
        ONE_WORKER_THREE_BATCHES,
        script,
        &expect![[r#"
            stage-done 0 1 0
        "#]],
    );
}

/// Sources 0 and 1 both feed stage 2.
#[test]
fn a_stage_of_two_inputs_is_released_when_both_are_there() {
    let source = (StageKind::Source(Pacing::Unpaced), 1);
    let mut plan = Plan::clone(&chain(&[source, source, (StageKind::Stateful, 1)]));
    plan.edges[0].to = StageId(2);
    let options = DriverOptions { prescheduling: Prescheduling::Off, ..options(1, 3) };
    let script = "stage-done 0 1 1\n stage-done 0 1 0";
    let mut driver = Driver::new(Arc::new(plan), options);
    replay(&mut driver, ONE_WORKER_THREE_BATCHES);
    let log = play(&mut driver, script);
    expect![[r#"
        stage-done 0 1 1
        stage-done 0 1 0
            0 <- release batch 1 stage 2
    "#]]
    .assert_eq(&log);
}

/// What stage 1 wrote in the batch before, it reads itself.
#[test]
fn a_stage_with_feedback_is_released_when_the_batch_before_is_done() {
    let source = (StageKind::Source(Pacing::Unpaced), 1);
    let mut plan = Plan::clone(&chain(&[source, (StageKind::Stateful, 1)]));
    let edge = crate::plan::Edge { from: StageId(1), batch_delta: 1, ..plan.edges[0].clone() };
    plan.edges.push(edge);
    let options = DriverOptions { prescheduling: Prescheduling::Off, ..options(1, 3) };
    let script = "stage-done 0 1 0\n stage-done 0 2 0\n stage-done 0 1 1";
    let mut driver = Driver::new(Arc::new(plan), options);
    replay(&mut driver, ONE_WORKER_THREE_BATCHES);
    let log = play(&mut driver, script);
    expect![[r#"
        stage-done 0 1 0
            0 <- release batch 1 stage 1
        stage-done 0 2 0
        stage-done 0 1 1
            0 <- release batch 2 stage 1
    "#]]
    .assert_eq(&log);
}

#[test]
fn after_a_long_gap_the_next_group_starts_anew() {
    check_begun(
        options(1, 2),
        ONE_WORKER_TWO_BATCHES,
        "at 1040
         done 0 1
         at 5007
         done 0 2
         at 5027
         done 0 3",
        &expect![[r#"
            at 1040
            done 0 1
                group 1 is done up to batch 2, 4 tasks
                0 <- 4: group 3: Process 5..=6 after 4, start 70
            at 5007
            done 0 2
                group 2 is done up to batch 4, 4 tasks
                0 <- 5: group 4: Process 7..=8 after 6, start 5010
            at 5027
            done 0 3
                group 3 is done up to batch 6, 4 tasks
                0 <- 6: group 5: Process 9..=10 after 8, start 5030
        "#]],
    );
}

#[test]
fn the_oldest_open_batch_keeps_its_start_when_later_groups_get_another() {
    let mut driver = Driver::new(two_stages(), options(1, 2));
    let mut actions = Vec::new();
    assert_eq!(driver.oldest_open_batch(), None);
    let said = event("ready 0", &driver);
    driver.handle(Instant(0), said, &mut actions);
    assert_eq!(driver.oldest_open_batch(), Some((BatchId(1), Instant(30))));
    let said = event("done 0 1", &driver);
    driver.handle(Instant(9000), said, &mut actions);
    assert_eq!(driver.oldest_open_batch(), Some((BatchId(3), Instant(50))));
    let said = event("done 0 2", &driver);
    driver.handle(Instant(9000), said, &mut actions);
    assert_eq!(driver.oldest_open_batch(), Some((BatchId(5), Instant(9000))));
}

/// What a driver sent and did for the same 700 batches, whatever the size of the groups.
struct Cost {
    schedule_messages: BTreeMap<(GroupId, WorkerId), usize>,
    placements: usize,
    actions: usize,
}

fn cost_of_700_batches(workers: u32, group_size: u64) -> Cost {
    let mut driver = Driver::new(two_stages(), options(workers, group_size));
    let mut cost = Cost { schedule_messages: BTreeMap::new(), placements: 0, actions: 0 };
    let mut actions = Vec::new();
    for worker in 0..workers {
        let said = event(&format!("ready {worker}"), &driver);
        driver.handle(Instant(0), said, &mut actions);
    }
    for group in 1..=700 / group_size {
        for worker in 0..workers {
            let said = event(&format!("done {worker} {group}"), &driver);
            driver.handle(Instant(0), said, &mut actions);
        }
    }
    cost.actions = actions.len();
    for action in &actions {
        let DriverAction::Send { to, message } = action else { continue };
        let Order::Decision { decision, .. } = &message.order else {
            panic!("{}", printed_order(&message.order))
        };
        let Decision::ScheduleGroup(group) = decision else {
            assert!(matches!(decision, Decision::Admit(_)));
            cost.actions -= 1;
            continue;
        };
        *cost.schedule_messages.entry((group.group, *to)).or_default() += 1;
        cost.placements += usize::from(group.placement.is_some());
        assert_eq!(group.placement.is_some(), group.group == GroupId(1));
    }
    cost
}

#[test]
fn each_worker_gets_one_message_per_group_and_the_placement_only_in_the_first() {
    for (group_size, workers) in [(1, 1), (1, 4), (7, 3), (100, 1), (100, 4)] {
        let cost = cost_of_700_batches(workers, group_size);
        let groups = 700 / group_size + 2; // Two more are in flight.
        assert_eq!(cost.schedule_messages.len() as u64, groups * u64::from(workers));
        assert!(cost.schedule_messages.values().all(|&messages| messages == 1));
        assert_eq!(cost.placements, workers as usize);
    }
}

#[test]
fn actions_per_batch_fall_with_the_size_of_the_group() {
    for workers in [1, 4, 128] {
        for group_size in [1, 7, 100] {
            let groups = 700 / group_size as usize;
            let messages = (groups + 2) * workers as usize;
            assert_eq!(cost_of_700_batches(workers, group_size).actions, messages + groups);
        }
    }
}
