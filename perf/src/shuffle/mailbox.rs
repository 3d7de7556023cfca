//! Blocks between two threads, by mailbox.

use std::thread;

use anyhow::{Result, bail};
use drizzle::clock::monotonic_now;
use drizzle::core::exchange::Press;
use drizzle::io::{Inbox, Outbox, Waker, inbox};
use drizzle::shuffle::{Block, Readers};
use drizzle::transport::{CoreMail, Parcel};

use super::{Load, STORE, Tally, pin};

/// Blocks that a mailbox holds, as one of the engine does.
const CAPACITY: usize = 1024;

fn send(outbox: &mut Outbox<CoreMail>, block: Block) {
    let mut mail = CoreMail::Deliver(Parcel::Block(block));
    while let Err(full) = outbox.try_send(mail) {
        mail = full.0;
        std::hint::spin_loop();
    }
}

fn take(inbox: &mut Inbox<CoreMail>) -> Block {
    loop {
        match inbox.try_recv() {
            Some(CoreMail::Deliver(Parcel::Block(block))) => return block,
            Some(_) => unreachable!("only blocks are sent here"),
            None => std::hint::spin_loop(),
        }
    }
}

fn print(press: &mut Press<super::Entry>, load: Load, number: u64) -> Block {
    loop {
        match press.print(load.of_block(number)) {
            Ok(block) => return block,
            Err(_) => std::hint::spin_loop(),
        }
    }
}

/// Runs the reader beside the calling thread.
fn with_reader<T: Send>(
    reader: impl FnOnce() -> T + Send,
    writer: impl FnOnce() -> Result<u64>,
) -> Result<(u64, T)> {
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            pin(1);
            reader()
        });
        let written = writer();
        match reader.join() {
            Ok(read) => Ok((written?, read)),
            Err(_) => bail!("the reader panicked"),
        }
    })
}

/// Nanoseconds from the first block's begin to the last one's reading.
pub(super) fn stream(load: Load) -> Result<u64> {
    let (mut outbox, mut inbox) = inbox::<CoreMail>(CAPACITY, Waker::detached());
    let reader = move || {
        let mut tally = Tally::default();
        (0..load.blocks).for_each(|_| tally.read(&take(&mut inbox)));
        (tally, monotonic_now())
    };
    let writer = || {
        pin(0);
        let mut press = Press::new(STORE, Readers::Threads);
        let began = monotonic_now();
        (0..load.blocks).for_each(|number| send(&mut outbox, print(&mut press, load, number)));
        Ok(began)
    };
    let (began, (tally, ended)) = with_reader(reader, writer)?;
    tally.check(load)?;
    Ok(ended - began)
}

/// Nanoseconds of each round trip.
pub(super) fn handovers(load: Load) -> Result<Vec<u64>> {
    let (mut there, mut from_here) = inbox::<CoreMail>(CAPACITY, Waker::detached());
    let (mut back, mut from_there) = inbox::<CoreMail>(CAPACITY, Waker::detached());
    let reader = move || {
        let (mut tally, mut press) = (Tally::default(), Press::new(STORE, Readers::Threads));
        for number in 0..load.blocks {
            tally.read(&take(&mut from_here));
            send(&mut back, print(&mut press, load, number));
        }
        tally
    };
    let (mut times, mut echoed) = (Vec::new(), Tally::default());
    let writer = || {
        pin(0);
        let mut press = Press::new(STORE, Readers::Threads);
        for number in 0..load.blocks {
            let began = monotonic_now();
            send(&mut there, print(&mut press, load, number));
            echoed.read(&take(&mut from_there));
            times.push(monotonic_now() - began);
        }
        Ok(0)
    };
    let (_, tally) = with_reader(reader, writer)?;
    tally.check(load)?;
    echoed.check(load)?;
    Ok(times)
}
