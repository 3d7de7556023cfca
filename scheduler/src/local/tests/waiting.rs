//! What is said to wait, and for what.

use expect_test::expect;

use super::*;

#[test]
fn the_reason_why_nothing_moves_is_named() {
    let mut said = Vec::new();

    let mut bench = Bench::source(CLOCK, ahead(2));
    said.push(bench.waiting());
    bench.group(1, 100);
    said.push(bench.waiting());
    bench.cut_group(0);
    said.push(bench.waiting());

    let plan = chain(&[(UNPACED, 1), (StageKind::Stateful, 2)]);
    let mut bench =
        Bench::with(&plan, vec![vec![core(0, 0)], vec![core(1, 0), core(2, 0)]], ahead(2));
    bench.group(1, 100);
    while bench.run_batch().is_some() {}
    bench.peer_completed(1, 2);
    said.push(bench.waiting());

    let mut bench = Bench::reduce(StageKind::Stateful, 2, 3, without_prescheduling());
    bench.group(1, 100);
    bench.block(1, 0);
    said.push(bench.waiting());
    bench.block(1, 2);
    bench.block(1, 1);
    said.push(bench.waiting());
    bench.cut_group(0);
    said.push(bench.waiting());

    expect![[r#"
        [
            "nothing waits",
            "batch 1 stage 0 partition 0 waits for its start time",
            "batch 1 stage 0 partition 0 waits for the driver to commit a cut",
            "batch 3 stage 0 partition 0 waits for worker 2 core 0, which is too far behind",
            "batch 1 stage 1 partition 0 waits for the block of upstream partition 1",
            "batch 1 stage 1 partition 0 waits for the batch before it or the driver's release",
            "batch 1 stage 1 partition 0 waits for the driver to commit a cut",
        ]
    "#]]
    .assert_debug_eq(&said);
}

#[test]
fn a_task_that_reads_from_one_partition_waits_for_that_one() {
    let mut plan = Plan::clone(&chain(&[(CLOCK, 100), (StageKind::Stateless, 100)]));
    plan.edges[0].pattern = Pattern::Forward;
    let mut readers = vec![core(1, 0); 100];
    readers[70] = core(0, 0);
    let cores = vec![vec![core(1, 0); 100], readers];
    let mut bench = Bench::with(&Arc::new(plan), cores, ahead(2));
    bench.group(1, 1);
    let missing = "batch 1 stage 1 partition 70 waits for the block of upstream partition 70";
    assert_eq!(bench.waiting(), missing);
    assert_eq!(bench.block(1, 6), Offer::Discard);
    assert_eq!(bench.block(1, 70), Offer::Keep);
    assert_eq!(bench.run_names(), [(1, 1)]);
}
