//! Tests of the park word in every interleaving, by loom: `RUSTFLAGS="--cfg loom"`. A lost wake shows as
//! a deadlock.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{Owner, ParkWord};
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
