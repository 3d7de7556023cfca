//! The mesh: every core of a process has a mailbox of its own from every other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use drizzle_scheduler::{BatchId, CoreId, WorkerId};
use drizzle_shuffle::Record;

use super::{Entry, ROUNDS, block, core, store};
use crate::io::{Io, IoKind, open};
use crate::transport::{Cargo, CoreMail, Mesh, MeshPlace, Parcel};

/// Runs `body` on a thread for each core, once all have met.
fn on_cores<T: Send + 'static>(
    cores: &[CoreId],
    body: fn(CoreId, MeshPlace, &mut dyn Io) -> T,
) -> Vec<T> {
    let mesh = Arc::new(Mesh::new(cores.len()));
    let start = |&core: &CoreId| {
        let mesh = mesh.clone();
        thread::spawn(move || {
            let mut io = open(IoKind::Epoll).unwrap();
            let place = mesh.join(core, io.waker()).unwrap();
            body(core, place, &mut *io)
        })
    };
    let threads: Vec<_> = cores.iter().map(start).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Takes mail, sleeping while there is none, until `count` pieces have come.
fn take(place: &mut MeshPlace, io: &mut dyn Io, count: usize) -> Vec<CoreMail> {
    let mut mails = Vec::new();
    let mut rounds_in_vain = 0;
    while rounds_in_vain < ROUNDS {
        let before = mails.len();
        for inbox in &mut place.inboxes {
            while let Some(mail) = inbox.try_recv() {
                mails.push(mail);
            }
        }
        if mails.len() >= count {
            return mails;
        }
        rounds_in_vain = if mails.len() > before { 0 } else { rounds_in_vain + 1 };
        io.park(super::PATIENCE);
        io.poll(&mut Vec::new());
    }
    panic!("only {} of {count} came", mails.len());
}

fn completed(from: CoreId, batch: u64) -> CoreMail {
    CoreMail::Deliver(Parcel::Completed { from, batch: BatchId(batch) })
}

#[test]
fn three_cores_reach_each_other_each_in_the_order_of_its_sender() {
    const EACH: u64 = 3000; // more than a mailbox holds
    let cores = [core(0), core(1), CoreId { worker: WorkerId(1), core: 1 }];
    let received = on_cores(&cores, |core, mut place, io| {
        assert_eq!((place.outboxes.len(), place.inboxes.len()), (2, 2));
        assert!(!place.outboxes.contains_key(&core), "nobody writes to himself");
        let mut mails = Vec::new();
        for batch in 1..=EACH {
            for outbox in place.outboxes.values_mut() {
                let mut mail = completed(core, batch);
                while let Err(full) = outbox.try_send(mail) {
                    mail = full.0;
                    for inbox in &mut place.inboxes {
                        mails.extend(std::iter::from_fn(|| inbox.try_recv()));
                    }
                    thread::yield_now();
                }
            }
        }
        let rest = 2 * EACH as usize - mails.len();
        mails.extend(take(&mut place, io, rest));
        mails
    });
    for (core, mails) in cores.iter().zip(received) {
        let mut batches: BTreeMap<CoreId, u64> = BTreeMap::new();
        for mail in mails {
            let CoreMail::Deliver(Parcel::Completed { from, batch }) = mail else {
                panic!("{mail:?} was not sent");
            };
            let last = batches.entry(from).or_default();
            assert_eq!(batch.0, *last + 1, "from {from} to {core}");
            *last = batch.0;
        }
        let others: Vec<CoreId> = cores.iter().copied().filter(|other| other != core).collect();
        assert_eq!(batches.into_iter().collect::<Vec<_>>(), [(others[0], EACH), (others[1], EACH)]);
    }
}

#[test]
fn a_block_goes_from_core_to_core_by_pointer() {
    let addresses = on_cores(&[core(0), core(1), core(2)], |own, mut place, io| {
        if own == core(0) {
            let block = block(&mut store(), 1, 1000);
            for outbox in place.outboxes.values_mut() {
                let parcel = Parcel::Block(block.clone());
                assert!(outbox.try_send(CoreMail::Deliver(parcel)).is_ok());
            }
            take(&mut place, io, 2); // the others have looked at it
            return block.body().as_ptr() as usize;
        }
        let mails = take(&mut place, io, 1);
        let [CoreMail::Deliver(Parcel::Block(block))] = &mails[..] else { panic!("{mails:?}") };
        let values = block.records::<Entry>().iter().map(|entry| Entry::unarchive(entry).value);
        assert!(values.eq((0..1000).map(|key| key ^ 1)));
        let answer = CoreMail::Relay {
            to: WorkerId(9),
            cargo: Cargo::Completed { from: own, to_core: 0, batch: BatchId(1) },
        };
        assert!(place.outboxes.get_mut(&core(0)).unwrap().try_send(answer).is_ok());
        block.body().as_ptr() as usize
    });
    assert_eq!(addresses[0], addresses[1]);
    assert_eq!(addresses[0], addresses[2]);
}

#[test]
fn one_core_alone_meets_nobody() {
    let places = on_cores(&[core(0)], |_, place, _| (place.outboxes.len(), place.inboxes.len()));
    assert_eq!(places, [(0, 0)]);
}
