//! A new driver takes over from one that is lost.

use std::collections::BTreeMap;

use super::*;
use crate::checkpoint::Manifest;

/// A driver of term 1 and its environment: the journal, and what its two workers were told.
struct Before {
    journal: JournalState,
    decisions: BTreeMap<WorkerId, Vec<(OrderNumber, Decision)>>,
    welcomes: BTreeMap<WorkerId, History>,
}

impl Before {
    /// Plays a script; entries are in the journal at once.
    fn play(options: DriverOptions, script: &str) -> Before {
        let mut driver = Driver::new(two_stages(), options);
        let journal = JournalState { term: Term(1), ..JournalState::EMPTY };
        let (decisions, welcomes) = (BTreeMap::new(), BTreeMap::new());
        let mut before = Before { journal, decisions, welcomes };
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in ["start", "empty"].into_iter().chain(lines) {
            let mut actions = Vec::new();
            let said = event(line, &driver);
            driver.handle(Instant(0), said, &mut actions);
            before.perform(&mut driver, actions);
        }
        before
    }

    fn perform(&mut self, driver: &mut Driver, actions: Vec<DriverAction>) {
        for action in actions {
            match action {
                DriverAction::Send { to, message } => match message.order {
                    Order::Decision { number, decision } => {
                        self.decisions.entry(to).or_default().push((number, decision));
                    }
                    Order::Welcome(history) => {
                        self.welcomes.insert(to, History::clone(&history));
                    }
                    Order::Release { .. }
                    | Order::Recorded { .. }
                    | Order::TakeOver { .. }
                    | Order::Leave { .. }
                    | Order::Speculate(_) => {}
                },
                DriverAction::Append(entry) => {
                    let sequence = entry.sequence;
                    self.write(entry);
                    let mut actions = Vec::new();
                    driver.handle(Instant(0), DriverEvent::Appended { sequence }, &mut actions);
                    self.perform(driver, actions);
                }
                DriverAction::ReadJournal
                | DriverAction::GroupDone { .. }
                | DriverAction::Moved { .. }
                | DriverAction::Drained { .. }
                | DriverAction::Finished { .. }
                | DriverAction::Deposed
                | DriverAction::Failed { .. } => {}
            }
        }
    }

    fn write(&mut self, entry: JournalEntry) {
        self.journal.next = entry.sequence.next();
        match entry.record {
            Record::Opened => {}
            Record::Members(members) => self.journal.members.extend(members),
            Record::Fenced(lives) => self.journal.fenced.extend(lives),
            Record::End(last_batch) => self.journal.end = Some(last_batch),
            Record::Ranges(ranges) => self.journal.ranges.extend(ranges),
            Record::Manifest(manifest) => self.journal.manifests.push(manifest),
        }
    }

    /// What a worker answers that was told of decisions up to `last`.
    fn holding(&self, worker: u32, last: u64, promise: u64) -> DriverEvent {
        let worker = WorkerId(worker);
        let mut history = self.welcomes.get(&worker).cloned().unwrap_or_default();
        let told = self.decisions.get(&worker).map(Vec::as_slice).unwrap_or_default();
        let recent: Vec<_> = told.iter().filter(|(n, _)| n.0 <= last).cloned().collect();
        for (number, decision) in &recent {
            history.apply(*number, decision);
        }
        let holding =
            Holding { promise: BatchId(promise), history, recent, standing: Standing::default() };
        DriverEvent::Message(WorkerMessage {
            worker,
            incarnation: Incarnation(1),
            report: Report::Holding(Box::new(holding)),
        })
    }

    /// The driver of term 2, which has asked everybody.
    fn next_driver(&self, bugs: Bugs) -> Next {
        let options = DriverOptions { term: Term(2), bugs, ..durable(2, 10) };
        let mut next = Next { driver: Driver::new(two_stages(), options), log: String::new() };
        next.told(0, DriverEvent::Start);
        next.told(0, DriverEvent::Journal(self.journal.clone()));
        next.told(0, DriverEvent::Appended { sequence: self.journal.next });
        next
    }
}

/// A driver that takes over, and a log of what it did.
struct Next {
    driver: Driver,
    log: String,
}

impl Next {
    fn told(&mut self, now: u64, event: DriverEvent) {
        self.log += &told(&mut self.driver, now, event);
    }

    fn play(&mut self, script: &str) {
        self.log += &play(&mut self.driver, script);
    }

    /// Sets apart in the log what follows.
    fn pause(&mut self) {
        self.log += "--\n";
    }
}

fn told(driver: &mut Driver, now: u64, event: DriverEvent) -> String {
    let mut actions = Vec::new();
    driver.handle(Instant(now), event, &mut actions);
    printed_all(&actions).into_iter().map(|line| line + "\n").collect()
}

const TWO_GROUPS: &str = "ready 0\n ready 1\n took 0 1 0 0 10\n took 1 1 1 0 5";

#[test]
fn a_new_driver_goes_on_from_the_newest_that_anybody_was_told() {
    let before = Before::play(durable(2, 10), TWO_GROUPS);
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 2, 2));
    next.pause();
    next.told(0, before.holding(1, 3, 4));
    next.pause();
    next.play("fenced 0 4 0 1 0\n fenced 1 4 1 1 0");
    expect![[r#"
        read the journal
        entry 5: opened in term 2
        0 1 <- take over in term 2
        --
        0 <- 3: group 2: Process 11..=20 after 10, start 130
        0 1 <- 4: fence 
        --
        fenced 0 4 0 1 0
        fenced 1 4 1 1 0
            0 1 <- 5: cut! after batch 4
            0 1 <- recorded through batch 1
            0 1 <- 6: recover in epoch 5: 
            0 1 <- 7: group 3: Process 5..=14 after 4, start 30
            0 1 <- 8: group 4: Process 15..=24 after 14, start 130
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn a_worker_that_does_not_answer_a_new_driver_is_fenced() {
    let before = Before::play(durable(2, 10), TWO_GROUPS);
    let mut next = before.next_driver(Bugs::NONE);
    assert_eq!(next.driver.deadline(), Some(Instant(400)));
    next.told(0, before.holding(0, 3, 2));
    next.pause();
    next.told(400, DriverEvent::Tick);
    next.play("fenced 0 4 0 1 0\n all is written");
    expect![[r#"
        read the journal
        entry 5: opened in term 2
        0 1 <- take over in term 2
        --
        0 <- 4: fence worker 1 incarnation 1
        1 <- leave, worker 1 incarnation 1
        entry 6: end of worker 1 incarnation 1
        fenced 0 4 0 1 0
        all is written
            0 <- 5: cut! after batch 2
            0 <- recorded through batch 1
            0 <- 6: recover in epoch 5: 0/1 to worker 0 core 0 after 1 by offset 5, 1/1 to worker 0 core 0 after 0 by manifest, worker 0 core 0 reads 1/1
            0 <- 7: group 3: Process 3..=12 after 2, start 430
            0 <- 8: group 4: Process 13..=22 after 12, start 530
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn where_nobody_is_left_a_new_driver_starts_from_the_journal() {
    let before = Before::play(durable(2, 10), TWO_GROUPS);
    let mut next = before.next_driver(Bugs::NONE);
    next.told(400, DriverEvent::Tick);
    assert_eq!(next.driver.deadline(), None, "somebody has to join");
    next.play("ready 0 as 2\n all is written\n done 0 1 as 2");
    expect![[r#"
        read the journal
        entry 5: opened in term 2
        0 1 <- take over in term 2
        0 <- leave, worker 0 incarnation 1
        1 <- leave, worker 1 incarnation 1
        entry 6: end of worker 0 incarnation 1, worker 1 incarnation 1
        ready 0 as 2
        all is written
            entry 7: members worker 0 incarnation 2
            0 <- welcome after order 3
            0 <- 4: admit worker 0 incarnation 2
            0 <- recorded through batch 1
            0 <- 5: recover in epoch 5: 0/0 to worker 0 core 0 after 1 by offset 10, 0/1 to worker 0 core 0 after 1 by offset 5, 1/0 to worker 0 core 0 after 0 by manifest, 1/1 to worker 0 core 0 after 0 by manifest, worker 0 core 0 reads 0/1, worker 0 core 0 reads 1/1
            0 <- 6: group 2: Process 2..=11 after 1, start 440
            0 <- 7: group 3: Process 12..=21 after 11, start 540
        done 0 1 as 2
            group 1 is done up to batch 1, 4 tasks
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn a_job_that_was_never_told_of_its_workers_begins_with_others() {
    let mut before = Before::play(durable(2, 10), "ready 0\n ready 1");
    before.decisions.clear();
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 0, 0));
    next.told(0, before.holding(1, 0, 0));
    next.play("ready 0 as 2\n ready 1 as 2\n all is written");
    expect![[r#"
        read the journal
        entry 3: opened in term 2
        0 1 <- take over in term 2
        0 <- leave, worker 0 incarnation 1
        1 <- leave, worker 1 incarnation 1
        0 <- leave, worker 0 incarnation 1
        1 <- leave, worker 1 incarnation 1
        entry 4: end of worker 0 incarnation 1, worker 1 incarnation 1
        ready 0 as 2
        ready 1 as 2
        all is written
            entry 5: members worker 0 incarnation 2
            entry 6: members worker 1 incarnation 2
            0 1 <- welcome after order 2
            0 1 <- 3: admit worker 0 incarnation 2, worker 1 incarnation 2
            0 1 <- 4: group 1: Process 1..=10 after 0, start 30, placed in epoch 3
            0 1 <- 5: group 2: Process 11..=20 after 10, start 130
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn batches_that_only_the_lost_were_told_of_are_scheduled_again_with_their_ranges() {
    let before = Before::play(durable(2, 1), &format!("{TWO_GROUPS}\n took 1 2 1 5 9"));
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 2, 1));
    next.told(400, DriverEvent::Tick);
    next.pause();
    next.play("fenced 0 3 0 1 0\n all is written");
    expect![[r#"
        read the journal
        entry 6: opened in term 2
        0 1 <- take over in term 2
        0 <- 3: fence worker 1 incarnation 1
        1 <- leave, worker 1 incarnation 1
        entry 7: end of worker 1 incarnation 1
        --
        fenced 0 3 0 1 0
        all is written
            0 <- 4: cut! after batch 1
            0 <- recorded through batch 1
            0 <- 5: group 2: Process 2..=2 after 1, start 430
            0 <- 6: recover in epoch 6: 0/1 to worker 0 core 0 after 2 by offset 9, 1/1 to worker 0 core 0 after 0 by manifest, worker 0 core 0 reads 1/1, worker 0 core 0 reads 1/2
            0 <- 7: group 3: Process 3..=12 after 2, start 440
            0 <- 8: group 4: Process 13..=22 after 12, start 540
    "#]]
    .assert_eq(&next.log);
}

const CHECKPOINT: &str = "ready 0\n ready 1\n high-mark 0
    took 0 1 0 0 1\n took 0 2 0 1 2\n took 0 3 0 2 3
    took 1 1 1 0 1\n took 1 2 1 1 2\n took 1 3 1 2 3
    snapshot 0 3 0\n snapshot 1 3 1";

#[test]
fn a_manifest_that_workers_were_not_told_of_is_told() {
    let before = Before::play(durable(2, 10), CHECKPOINT);
    assert_eq!(before.journal.manifests.len(), 1);
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 4, 4));
    next.told(0, before.holding(1, 4, 4));
    next.play("fenced 0 6 0 1 0\n fenced 1 6 1 1 0");
    expect![[r#"
        read the journal
        entry 10: opened in term 2
        0 1 <- take over in term 2
        0 1 <- 5: fence 
        0 1 <- 6: no checkpoint of batch 3
        0 1 <- 7: durable up to batch 3
        fenced 0 6 0 1 0
        fenced 1 6 1 1 0
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn the_newest_manifest_counts_unless_a_mistake_is_planted() {
    let mut before = Before::play(durable(2, 10), CHECKPOINT);
    let newest = before.journal.manifests[0].clone();
    before
        .journal
        .manifests
        .insert(0, Arc::new(Manifest { batch: BatchId(2), ..(*newest).clone() }));
    for (bugs, batch) in [(Bugs::NONE, 3), (Bugs::planted(Bug::StaleManifest), 2)] {
        let mut next = before.next_driver(bugs);
        next.told(400, DriverEvent::Tick);
        assert_eq!(next.driver.history().durable(), BatchId(batch));
    }
}

#[test]
fn a_last_group_that_was_scheduled_is_finished_by_the_next_driver() {
    let before =
        Before::play(durable(2, 10), &format!("{TWO_GROUPS}\n stop\n promise 0 1\n promise 1 1"));
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 7, 1));
    next.told(0, before.holding(1, 7, 1));
    next.pause();
    next.play("fenced 0 9 0 1 0\n fenced 1 9 1 1 0\n done 0 3\n done 1 3\n done 0 1\n done 1 1");
    expect![[r#"
        read the journal
        entry 6: opened in term 2
        0 1 <- take over in term 2
        0 1 <- 8: fence 
        0 1 <- 9: no checkpoint of batch 2
        --
        fenced 0 9 0 1 0
        fenced 1 9 1 1 0
        done 0 3
        done 1 3
        done 0 1
        done 1 1
    "#]]
    .assert_eq(&next.log);
}

#[test]
fn a_driver_of_an_older_term_than_the_journal_is_deposed() {
    let mut driver = Driver::new(two_stages(), durable(1, 1));
    let journal = JournalState { next: Sequence(4), term: Term(2), ..JournalState::EMPTY };
    told(&mut driver, 0, DriverEvent::Start);
    assert_eq!(told(&mut driver, 0, DriverEvent::Journal(journal)), "deposed\n");
    assert_eq!(driver.deadline(), None);
}

#[test]
fn a_life_that_the_journal_says_is_over_is_not_believed() {
    let mut before = Before::play(durable(2, 10), TWO_GROUPS);
    let over = Life { worker: WorkerId(0), incarnation: Incarnation(1) };
    before.journal.fenced.insert(over);
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(0, 3, 2));
    next.pause();
    next.told(0, before.holding(1, 3, 2));
    next.play("ready 0\n fenced 1 4 1 1 0\n all is written");
    expect![[r#"
        read the journal
        entry 5: opened in term 2
        1 <- take over in term 2
        --
        1 <- 4: fence worker 0 incarnation 1
        0 <- leave, worker 0 incarnation 1
        ready 0
            0 <- leave, worker 0 incarnation 1
        fenced 1 4 1 1 0
            1 <- 5: cut! after batch 2
            1 <- recorded through batch 1
            1 <- 6: recover in epoch 5: 0/0 to worker 1 core 0 after 1 by offset 10, 1/0 to worker 1 core 0 after 0 by manifest, worker 1 core 0 reads 0/1
            1 <- 7: group 3: Process 3..=12 after 2, start 30
            1 <- 8: group 4: Process 13..=22 after 12, start 130
        all is written
    "#]].assert_eq(&next.log);
}

#[test]
fn a_worker_that_was_about_to_join_does_not_make_the_job_begin_anew() {
    let mut before = Before::play(durable(2, 10), TWO_GROUPS);
    let joins = Life { worker: WorkerId(2), incarnation: Incarnation(1) };
    before.journal.members.push((joins, 1));
    let mut next = before.next_driver(Bugs::NONE);
    next.told(0, before.holding(2, 0, 0));
    next.pause();
    next.told(400, DriverEvent::Tick);
    assert_eq!(next.driver.lineage().newest(), BatchId(1));
    assert!(next.driver.history().placements.versions().next().is_some());
    expect![[r#"
        read the journal
        entry 5: opened in term 2
        0 1 2 <- take over in term 2
        --
        2 <- leave, worker 2 incarnation 1
        0 <- leave, worker 0 incarnation 1
        1 <- leave, worker 1 incarnation 1
        2 <- leave, worker 2 incarnation 1
        entry 6: end of worker 0 incarnation 1, worker 1 incarnation 1, worker 2 incarnation 1
    "#]]
    .assert_eq(&next.log);
}
