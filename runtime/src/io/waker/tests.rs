//! Tests of the park word in every interleaving, by loom: `RUSTFLAGS="--cfg loom"`. A lost wake shows as
//! a deadlock.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{Bell, Bells, Owner, ParkWord};
use crate::io::Readiness;

/// Messages without any order of their own, and an eventfd.
struct Model {
    word: ParkWord,
    messages: [AtomicU32; 2],
    event: Mutex<u32>,
    written: Condvar,
}

impl Model {
    fn new() -> Arc<Self> {
        let messages = [AtomicU32::new(0), AtomicU32::new(0)];
        let (event, written) = (Mutex::new(0), Condvar::new());
        Arc::new(Model { word: ParkWord::new(), messages, event, written })
    }

    fn send(&self, sender: usize, message: u32) {
        self.messages[sender].store(message, Ordering::Relaxed);
        if self.word.notify() == Owner::Asleep {
            *self.event.lock().unwrap() += 1;
            self.written.notify_one();
        }
    }

    fn park(&self) {
        if self.word.begin_park() == Readiness::Waiting {
            let mut count = self.event.lock().unwrap();
            while *count == 0 {
                count = self.written.wait(count).unwrap();
            }
            *count = 0;
            drop(count);
            self.word.end_park();
        }
    }
}

fn check(senders: usize, last: u32) {
    loom::model(move || {
        let model = Model::new();
        let threads: Vec<_> = (0..senders)
            .map(|sender| {
                let model = model.clone();
                thread::spawn(move || (1..=last).for_each(|message| model.send(sender, message)))
            })
            .collect();
        let has_all = |model: &Model| {
            model.messages[..senders].iter().all(|m| m.load(Ordering::Relaxed) == last)
        };
        while !has_all(&model) {
            model.park();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn no_wake_of_one_sender_is_lost_in_any_interleaving() {
    check(1, 2);
}

#[test]
fn no_wake_of_two_senders_is_lost_in_any_interleaving() {
    check(2, 1);
}

#[test]
fn no_wake_of_a_loop_that_shares_its_thread_is_lost_in_any_interleaving() {
    loom::model(|| {
        let (model, bells) = (Model::new(), Bells::new(1));
        let sender = thread::spawn({
            let (model, bells) = (model.clone(), bells.clone());
            move || {
                for message in 1..=2 {
                    model.messages[0].store(message, Ordering::Relaxed);
                    if bells.ring(0) == Bell::Rung && model.word.notify() == Owner::Asleep {
                        *model.event.lock().unwrap() += 1;
                        model.written.notify_one();
                    }
                }
            }
        });
        // The loop looks at its messages when its bell has rung, and only then.
        let mut seen = 0;
        while seen < 2 {
            match bells.take(0) {
                0 => model.park(),
                _ => seen = model.messages[0].load(Ordering::Relaxed),
            }
        }
        sender.join().unwrap();
    });
}
