//! Tests of the rules of the module's text, with blocks of a real job.

use std::sync::Arc;

use drizzle_scheduler::local::{Intake, Retention};
use drizzle_scheduler::message::Purpose;
use drizzle_scheduler::{Attempt, Instant, Watermark};

use super::*;
use crate::dataflow::tests::harness::{Bench, Item, Items, Sum, core, item, options, windowed};
use crate::dataflow::{Combine, Dataflow, Tumbling, WindowResult};

const KIB: usize = 1024;
const PEER: WorkerId = WorkerId(1);

fn memory(plan: &Plan, max_bytes: usize, peer_bytes: usize) -> Memory {
    let store = StoreOptions { segment_bytes: 4 * KIB, max_bytes };
    let options = MemoryOptions {
        written: store,
        received: store,
        state_bytes: 100,
        combiner_bytes: 4 * KIB,
        peers: BTreeMap::from([(PEER, peer_bytes)]),
        batch_bytes: 1 << 20,
    };
    Memory::new(plan, options, Readers::Threads, Retention::WhenFolded)
}

fn run(batch: u64, stage: u16) -> Run {
    Run {
        batch: BatchId(batch),
        stage: StageId(stage),
        partitions: Arc::new([]),
        watermark: Watermark::NONE,
        cut: Instant(0),
        purpose: Purpose::Process,
        attempt: Attempt(0),
        contents: Arc::default(),
        recorded: None,
        intake: Intake::Normal,
    }
}

/// A job of two shuffles, whose second stage reads and writes.
fn chain() -> Bench {
    let rows = crate::dataflow::tests::harness::Rows::new();
    let flow = Dataflow::new("chain", options(2, Combine::Never));
    flow.source("items", items())
        .key_by(|item| item.key)
        .window(Tumbling::of(std::time::Duration::from_millis(10)))
        .aggregate("sums", Sum)
        .map("items again", |sum: &WindowResult<u32, u64>| Item {
            key: sum.key,
            time: sum.window_start,
            value: sum.value,
        })
        .key_by(|item| item.key)
        .window(Tumbling::of(std::time::Duration::from_millis(10)))
        .aggregate("sums of sums", Sum)
        .sink("rows", rows);
    Bench::new(flow.build().unwrap(), 1)
}

fn items() -> Items {
    Items::new(&[(0..1000).map(|key| item(key, 1, 1)).collect()])
}

/// Blocks that a batch wrote into `memory`, of about 24 KiB together.
fn blocks(memory: &mut Memory, bench: &mut Bench) -> Vec<(CoreId, Block)> {
    bench.batch();
    let header = bench.blocks[0].1.header().clone();
    let body = bench.blocks[0].1.body().to_vec();
    let header = drizzle_shuffle::BlockHeader { checksum: bench.blocks[0].1.checksum(), ..header };
    let check = bench.job.check_of(header.notice.edge, header.notice.content).unwrap();
    let block = memory.written.receive(&header, &body).unwrap().validate(check).unwrap();
    vec![(core(0), block)]
}

#[test]
fn sources_pause_while_more_than_half_is_held() {
    let (mut bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let mut memory = memory(&bench.plan(), 64 * KIB, usize::MAX / 4);
    assert_eq!(memory.intake().0, IntakeState::Open);
    let first = blocks(&mut memory, &mut bench);
    assert!(first[0].1.body().len() > 16 * KIB, "{}", first[0].1.body().len());
    assert_eq!(memory.intake().0, IntakeState::Open);
    let (mut again, _) = windowed(items(), Sum, options(2, Combine::Never));
    let second = blocks(&mut memory, &mut again);
    assert_eq!(memory.intake().0, IntakeState::Paused);
    assert!(memory.held_bytes() > 32 * KIB);
    drop(first);
    assert_eq!(memory.intake().0, IntakeState::Open);
    drop(second);
}

#[test]
fn a_task_that_writes_waits_for_older_batches_and_never_for_its_own_or_later_ones() {
    let mut bench = chain();
    let mut memory = memory(&bench.plan(), 32 * KIB, usize::MAX / 4);
    let held = blocks(&mut memory, &mut bench);
    memory.wrote(WorkerId(0), &run(5, 0), &held).unwrap();
    assert!(memory.is_half_held());
    assert!(memory.must_wait(&run(6, 1)));
    assert!(!memory.must_wait(&run(5, 1)), "nothing older is held");
    assert!(!memory.must_wait(&run(4, 1)));
    assert!(!memory.must_wait(&run(6, 0)), "a source pauses instead");
    assert!(!memory.must_wait(&run(6, 2)), "it writes nothing");
    drop(held);
    assert!(!memory.must_wait(&run(6, 1)));
    assert!(memory.live.is_empty());
}

#[test]
fn what_was_sent_counts_until_all_cores_of_the_peer_have_finished_its_batch() {
    let (bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let mut bench = bench.on_cores(2);
    bench.batch();
    let sent: Vec<_> = bench.blocks.iter().map(|(_, block)| (core(1), block.clone())).collect();
    let bytes: usize = sent.iter().map(|(_, block)| block.body().len()).sum();
    let mut memory = memory(&bench.plan(), 1 << 20, 3 * bytes * 3 / 2);
    let other = CoreId { worker: PEER, core: 1 };
    memory.wrote(WorkerId(0), &run(1, 0), &sent).unwrap();
    assert_eq!(memory.intake().0, IntakeState::Paused, "more than half of 1.5 times {bytes}");
    memory.completed(core(1), BatchId(1));
    assert_eq!(memory.intake().0, IntakeState::Open);
    let both = vec![sent[0].clone(), (other, sent[1].1.clone())];
    memory.wrote(WorkerId(0), &run(2, 0), &both).unwrap();
    memory.completed(core(1), BatchId(7));
    assert_eq!(memory.intake().0, IntakeState::Paused, "the other core has not finished it");
    memory.completed(other, BatchId(2));
    assert_eq!(memory.intake().0, IntakeState::Open);
    memory.wrote(WorkerId(1), &run(3, 0), &sent).unwrap();
    assert_eq!(memory.held_bytes(), 0, "what stays in the process is not sent");
}

#[test]
fn a_batch_that_a_peer_can_never_keep_is_an_error_that_says_so() {
    let (bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let mut bench = bench.on_cores(2);
    bench.batch();
    let sent: Vec<_> = bench.blocks.iter().map(|(_, block)| (core(1), block.clone())).collect();
    let mut memory = memory(&bench.plan(), 1 << 20, 3 * KIB);
    let error = memory.wrote(WorkerId(0), &run(7, 0), &sent).unwrap_err().to_string();
    assert!(error.starts_with("batch 7 sends 2"), "{error}");
    assert!(error.contains("worker 1, which has memory for 1024 from this core"), "{error}");
}

#[test]
fn source_tasks_take_less_when_they_write_much_and_more_when_they_write_little() {
    let (mut bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let plan = bench.plan();
    let mut memory = memory(&plan, 640 * KIB, usize::MAX / 4);
    assert_eq!(memory.intake().1, 10 * KIB as u64, "memory is small, so the first batch is");
    let little = blocks(&mut memory, &mut bench);
    memory.source_wrote(&little);
    assert_eq!(memory.intake().1, 10 * KIB as u64, "neither much nor little");
    memory.source_wrote(&[]);
    assert_eq!(memory.intake().1, 10 * KIB as u64, "nothing says nothing");
    let much: Vec<_> = little.iter().cycle().take(4).cloned().collect();
    memory.source_wrote(&much);
    assert_eq!(memory.intake().1, 5 * KIB as u64);
    let mut large = super::tests::memory(&plan, 1 << 30, usize::MAX / 4);
    (0..4).for_each(|_| large.source_ran(0));
    assert_eq!(large.intake().1, 1 << 20);
    large.source_wrote(&little);
    assert_eq!(large.intake().1, 1 << 20, "never more than the options say");
}

#[test]
fn source_tasks_take_less_when_they_run_for_long_and_more_when_they_do_not() {
    let (bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let mut memory = memory(&bench.plan(), 1 << 30, usize::MAX / 4);
    assert_eq!(memory.intake().1, FIRST_TIMELY_BYTES, "it is not known yet how long they run");
    memory.source_ran(LONG_RUN_NS / 2);
    assert_eq!(memory.intake().1, FIRST_TIMELY_BYTES, "neither long nor short");
    memory.source_ran(4 * LONG_RUN_NS);
    assert_eq!(memory.intake().1, FIRST_TIMELY_BYTES / 4);
    memory.source_ran(u64::MAX);
    assert_eq!(memory.intake().1, LEAST_BATCH_BYTES);
    memory.source_ran(SHORT_RUN_NS / 2);
    assert_eq!(memory.intake().1, 2 * LEAST_BATCH_BYTES);
}

#[test]
fn open_windows_may_take_as_much_as_the_options_say() {
    let (bench, _) = windowed(items(), Sum, options(2, Combine::Never));
    let mut memory = memory(&bench.plan(), 1 << 20, 0);
    assert!(!memory.is_state_too_large(100));
    assert!(memory.is_state_too_large(101));
    assert_eq!(memory.peaks().state_bytes, 101);
}
