//! Whole jobs on the public API, on local clusters of threads: results against a plain loop, and how
//! a job ends when something in it fails or somebody stops it.

#![allow(clippy::disallowed_methods)] // jobs run beside a watch that ends a hanging test

mod cluster;
mod job;
mod memory;
mod nodes;
mod panics;
mod workers;

use std::sync::Arc;

use drizzle::node::{NodeError, Outlet};
use drizzle::scheduler::plan::Pacing;

use cluster::{Case, run_cluster};
use job::{LENGTH, PARTITIONS, Readings, Trouble, everything, sequential};

fn check(case: &Case) {
    let outcome = case.run();
    let report = outcome.report.unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let expected = everything();
    assert_eq!(outcome.results, expected.results, "{case:?}");
    let lines: u64 = (0..u64::from(PARTITIONS)).map(|partition| LENGTH - partition).sum();
    let counters = [
        ("readings.lines", lines),
        ("good.dropped", lines - expected.good),
        ("counts.late", expected.late),
        ("counts.counted", expected.good - expected.late),
        ("counts.results", expected.small_windows),
        ("loads.late", 0),
        ("loads.counted", expected.small_windows),
        ("results.written", expected.results.len() as u64),
    ];
    for (name, count) in counters {
        assert_eq!(report.counters.get(name), Some(&count), "{name} of {case:?}");
    }
    let taken: Vec<_> = report.taken.iter().map(|&(_, p, from, to)| (p.0, from, to)).collect();
    let all: Vec<_> = (0..PARTITIONS).map(|p| (p, u64::from(p), LENGTH)).collect();
    assert_eq!(taken, all, "{case:?}");
    assert_eq!(report.workers, case.workers);
    assert_eq!(report.cores, case.workers * u32::from(case.cores));
    assert_eq!(report.schedule_messages, report.groups * u64::from(case.workers), "{case:?}");
    assert!(!report.stopped);
}

#[test]
fn the_plain_loop_has_late_records_and_open_windows_to_compare_with() {
    let expected = everything();
    assert!(expected.late > 0 && expected.late * 10 < expected.good, "{expected:?}");
    assert!(expected.results.len() >= 24, "{expected:?}");
}

#[test]
fn one_core_equals_the_plain_loop_for_every_group_size() {
    for group_size in [1, 7, 100] {
        check(&Case::new(1, 1, group_size));
    }
}

#[test]
fn several_workers_and_cores_equal_the_plain_loop() {
    check(&Case::new(2, 1, 7));
    check(&Case::new(1, 3, 100));
    check(&Case::new(2, 2, 1));
    check(&Case { partitions: 16, ..Case::new(4, 2, 10) });
}

#[test]
fn more_cores_than_partitions_equal_the_plain_loop() {
    check(&Case { partitions: 2, ..Case::new(4, 2, 7) });
    check(&Case { partitions: 1, ..Case::new(3, 1, 7).not_prescheduled() });
}

#[test]
fn light_workers_equal_the_plain_loop() {
    check(&Case::new(1, 1, 7).light(1));
    check(&Case::new(5, 1, 100).light(2));
    check(&Case::new(3, 2, 1).light(1).not_combined());
    check(&Case::new(4, 1, 10).light(3).not_prescheduled());
    check(&Case { partitions: 16, ..Case::new(40, 1, 10).light(2) });
}

#[test]
fn waiting_for_the_driver_changes_no_result() {
    check(&Case::new(1, 1, 1).not_prescheduled());
    check(&Case::new(2, 2, 10).not_prescheduled());
    check(&Case::new(3, 1, 100).not_prescheduled().not_combined());
}

#[test]
fn sending_every_record_changes_no_result() {
    check(&Case::new(1, 1, 100).not_combined());
    check(&Case::new(2, 2, 7).not_combined());
}

#[test]
fn batches_of_any_size_change_no_result() {
    for batch in [1, 1000] {
        let case = Case::new(2, 1, 10);
        check(&Case { source: Readings { batch, ..case.source.clone() }, ..case });
    }
}

#[test]
fn little_memory_changes_no_result() {
    check(&Case { memory: 4 << 20, ..Case::new(2, 1, 7).not_combined() });
}

#[test]
fn batches_that_wait_for_their_time_change_no_result() {
    let case = Case::new(2, 2, 5);
    check(&Case { source: Readings { pacing: Pacing::Clock, ..case.source.clone() }, ..case });
}

/// Stops an endless job when it has results, and compares them with what was taken.
fn check_stop(case: &Case, pacing: Pacing) {
    let source = Readings { length: u64::MAX, pacing, ..case.source.clone() };
    let outcome = Case { source, ..case.clone() }.run_until(true);
    let report = outcome.report.expect("a job that is stopped ends well");
    assert!(report.stopped);
    assert_eq!(report.taken.len(), PARTITIONS as usize);
    assert!(report.taken.iter().all(|&(_, p, from, to)| from == u64::from(p.0) && to > from));
    let taken = report.taken.iter().map(|&(_, p, from, to)| (u64::from(p.0), from..to));
    let expected = sequential(taken);
    assert!(!expected.results.is_empty());
    assert_eq!(outcome.results, expected.results);
    let read: u64 = report.taken.iter().map(|&(.., from, to)| to - from).sum();
    assert_eq!(report.counters["readings.lines"], read, "what was read is what was taken");
}

#[test]
fn a_job_that_is_stopped_has_the_results_of_what_it_took() {
    check_stop(&Case::new(1, 1, 100), Pacing::Unpaced);
    check_stop(&Case::new(2, 2, 7), Pacing::Unpaced);
    check_stop(&Case::new(3, 1, 10).not_prescheduled(), Pacing::Unpaced);
    check_stop(&Case::new(6, 1, 10).light(2), Pacing::Unpaced);
}

#[test]
fn a_live_job_that_is_stopped_has_the_results_of_what_it_took() {
    check_stop(&Case::new(2, 1, 10), Pacing::Clock);
    check_stop(&Case::new(6, 1, 10).light(2), Pacing::Clock);
    check_stop(&Case::new(2, 2, 1).not_combined(), Pacing::Clock);
}

/// Runs a job that must fail, and checks that its one sentence says all this.
fn check_failure(case: Case, trouble: Trouble, words: &[&str]) {
    let outcome = case.with(trouble).run();
    match outcome.report {
        Err(NodeError::Job(reason)) => {
            for word in words {
                assert!(reason.contains(word), "{word:?} is not in {reason:?}");
            }
            assert!(!reason.contains('\n'), "one line: {reason:?}");
        }
        other => panic!("{trouble:?} ended in {other:?}"),
    }
}

#[test]
fn a_user_function_that_panics_fails_the_job_with_stage_batch_and_cause() {
    let cases = [
        Case::new(1, 1, 100),
        Case::new(2, 2, 7),
        Case::new(3, 1, 1).not_prescheduled(),
        Case::new(5, 1, 7).light(2),
    ];
    for case in cases {
        let words = ["worker ", "stage \"readings\"", "batch ", "panicked", "a reading of "];
        check_failure(case.clone(), Trouble::FilterPanics, &words);
        let words = ["worker ", "stage \"counts\"", "batch ", "panicked", "has no room"];
        check_failure(case, Trouble::MapPanics, &words);
    }
    let words = ["worker ", "stage \"counts\"", "batch ", "panicked", "too heavy"];
    check_failure(Case::new(2, 1, 10), Trouble::AggregatePanics, &words);
}

#[test]
fn a_source_that_fails_fails_the_job_with_stage_batch_and_cause() {
    for case in [Case::new(1, 1, 100), Case::new(2, 2, 7).not_prescheduled()] {
        let words = ["worker ", "stage \"readings\"", "batch ", "the cable is cut"];
        check_failure(case.clone(), Trouble::ReadFails, &words);
        let words = ["worker ", "stage \"readings\"", "batch 1:", "nobody is there"];
        check_failure(case, Trouble::OpenFails, &words);
    }
}

#[test]
fn a_sink_that_fails_fails_the_job_with_stage_batch_and_cause() {
    let words = ["worker ", "stage \"loads\"", "batch ", "the paper is out"];
    check_failure(Case::new(2, 1, 7), Trouble::SinkFails, &words);
    let words = ["worker ", "stage \"loads\"", "batch 1:", "panicked", "no pencil"];
    check_failure(Case::new(2, 1, 7), Trouble::SinkOpenPanics, &words);
}

#[test]
fn a_connector_that_cannot_be_opened_or_closed_fails_the_job() {
    let words = ["worker ", "stage \"readings\"", "panicked", "the door is stuck"];
    check_failure(Case::new(2, 1, 7), Trouble::OpenPanics, &words);
    let words = ["worker ", "stage \"readings\"", "the disk is full"];
    check_failure(Case::new(2, 1, 7), Trouble::CloseFails, &words);
    check_failure(Case::new(4, 1, 7).light(2), Trouble::CloseFails, &words);
    let words = ["worker ", "stage \"loads\"", "panicked", "the lid is stuck"];
    check_failure(Case::new(2, 1, 7), Trouble::SinkClosePanics, &words);
}

#[test]
fn workers_that_build_another_plan_or_none_are_refused() {
    let case = Case::new(2, 1, 7);
    let mut cluster = case.cluster();
    cluster.worker.factory = Arc::new(|_, _| Err("the table is not there".to_owned()));
    let job = case.job(&Outlet::nowhere());
    let outcome = run_cluster(&cluster, &job, false);
    let error = outcome.report.expect_err("no worker can join");
    assert!(
        matches!(&error, NodeError::Setup(reason) if reason.contains("the table is not there"))
    );

    for other in [Case { partitions: 9, ..case.clone() }, Case { partitions: 9, ..case.light(1) }] {
        let outcome = run_cluster(&other.cluster(), &job, false);
        let error = outcome.report.expect_err("no worker has this plan");
        assert!(matches!(&error, NodeError::Setup(reason) if reason.contains("another plan")));
    }
}
