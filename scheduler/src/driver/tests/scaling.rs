//! How the driver's work grows, counted in steps: events that it is told, passes over its own state,
//! and messages that it sends.

use std::collections::VecDeque;

use super::*;

/// Steps of the driver for each batch, over ten groups after the first.
fn steps_per_batch(workers: u32, group_size: u64) -> u64 {
    const CORES: u16 = 4;
    let partitions = workers * u32::from(CORES);
    let plan = chain(&[(StageKind::Source(Pacing::Clock), partitions), (StageKind::Stateful, 16)]);
    let mut job =
        Job { driver: Driver::new(plan, durable(workers, group_size)), entry: 0, steps: 0 };
    job.tell(DriverEvent::Start);
    job.tell(DriverEvent::Journal(JournalState::EMPTY));
    for worker in (0..workers).map(WorkerId) {
        job.tell(DriverEvent::WorkerReady { worker, incarnation: Incarnation(1), cores: CORES });
    }
    job.run_group(workers, 1, group_size);
    job.steps = 0;
    (2..=11).for_each(|group| job.run_group(workers, group, group_size));
    job.steps / (10 * group_size)
}

struct Job {
    driver: Driver,
    /// The last entry of the journal.
    entry: u64,
    steps: u64,
}

impl Job {
    /// Storage answers at once.
    fn tell(&mut self, event: DriverEvent) {
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            let passes = self.driver.passes;
            self.driver.handle(Instant(0), event, &mut actions);
            self.steps += 1 + (self.driver.passes - passes) + actions.len() as u64;
            for action in actions.drain(..) {
                match action {
                    DriverAction::Append(entry) => {
                        self.entry = entry.sequence.0;
                        events.push_back(DriverEvent::Appended { sequence: entry.sequence });
                    }
                    DriverAction::Failed { reason } => panic!("{reason}"),
                    DriverAction::Send { .. }
                    | DriverAction::ReadJournal
                    | DriverAction::GroupDone { .. }
                    | DriverAction::Moved { .. }
                    | DriverAction::Drained { .. }
                    | DriverAction::Finished { .. }
                    | DriverAction::Deposed => {}
                }
            }
        }
    }

    /// Each worker reports its four ranges of each batch in one message, and each group once.
    fn run_group(&mut self, workers: u32, group: u64, group_size: u64) {
        for batch in (group - 1) * group_size + 1..=group * group_size {
            for worker in 0..workers {
                let ranges = (0..4).map(|core| TakenRange {
                    batch: BatchId(batch),
                    range: SourceRange {
                        stage: StageId(0),
                        partition: PartitionId(worker + core * workers),
                        from: batch,
                        to: batch + 1,
                    },
                    ended: false,
                    watermark: Watermark(batch),
                });
                self.said(worker, Report::Ranges(ranges.collect()));
            }
        }
        for worker in 0..workers {
            let report = Report::GroupDone {
                group: GroupId(group),
                epoch: Epoch(1),
                last_batch: BatchId(group * group_size),
                statistics: GroupStatistics::default(),
            };
            self.said(worker, report);
        }
    }

    fn said(&mut self, worker: u32, report: Report) {
        let (worker, incarnation) = (WorkerId(worker), Incarnation(1));
        self.tell(DriverEvent::Message(WorkerMessage { worker, incarnation, report }));
    }
}

#[test]
fn work_per_batch_does_not_grow_with_the_size_of_the_group() {
    for workers in [10, 100] {
        let steps: Vec<u64> = [1, 10, 100].map(|size| steps_per_batch(workers, size)).to_vec();
        assert!(steps.is_sorted_by(|small, large| large <= small), "{workers} workers: {steps:?}");
    }
}

#[test]
fn work_per_batch_grows_at_most_linearly_with_the_workers() {
    let steps = [10, 100, 1000].map(|workers| (u64::from(workers), steps_per_batch(workers, 10)));
    let (least, base) = steps[0];
    for (workers, steps) in steps {
        let linear = base * workers / least;
        assert!(
            steps <= linear + linear / 10,
            "{workers} workers: {steps} steps, {linear} allowed"
        );
    }
}
