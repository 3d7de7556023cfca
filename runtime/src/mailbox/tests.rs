//! Tests of the mailbox. `RUSTFLAGS="--cfg loom"` runs the ones that try every interleaving.

#[cfg(loom)]
mod interleavings {
    use super::super::channel;

    #[test]
    fn values_arrive_once_and_in_order_in_every_interleaving() {
        loom::model(|| {
            let (mut sender, mut receiver) = channel::<Box<u32>>(2);
            let thread = loom::thread::spawn(move || {
                for value in 0..3 {
                    while sender.try_send(Box::new(value)).is_err() {
                        loom::thread::yield_now();
                    }
                }
            });
            for expected in 0..3 {
                let value = loop {
                    match receiver.try_recv() {
                        Some(value) => break value,
                        None => loom::thread::yield_now(),
                    }
                };
                assert_eq!(*value, expected);
            }
            thread.join().unwrap();
            assert!(receiver.try_recv().is_none());
        });
    }

    #[test]
    fn what_was_not_received_is_dropped_in_every_interleaving() {
        loom::model(|| {
            let (mut sender, mut receiver) = channel::<loom::sync::Arc<()>>(2);
            let value = loom::sync::Arc::new(());
            let sent = value.clone();
            let thread = loom::thread::spawn(move || {
                let _ = sender.try_send(sent.clone());
                let _ = sender.try_send(sent);
            });
            drop(receiver.try_recv());
            drop(receiver);
            thread.join().unwrap();
            assert_eq!(loom::sync::Arc::strong_count(&value), 1);
        });
    }
}

#[cfg(not(loom))]
mod plain {
    use std::sync::Arc;
    use std::thread;

    use super::super::{Full, channel};

    #[test]
    fn a_full_mailbox_gives_the_value_back() {
        let (mut sender, mut receiver) = channel(2);
        assert_eq!(sender.capacity(), 2);
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        let Err(Full(back)) = sender.try_send(3) else { panic!("there is no room") };
        assert_eq!(back, 3);
        assert_eq!(receiver.try_recv(), Some(1));
        sender.try_send(3).unwrap();
        assert_eq!([receiver.try_recv(), receiver.try_recv()], [Some(2), Some(3)]);
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn values_keep_their_order_around_the_ring() {
        let (mut sender, mut receiver) = channel(4);
        let mut received = Vec::new();
        for value in 0..100u32 {
            sender.try_send(value).unwrap();
            if value % 3 == 2 {
                received.extend(std::iter::from_fn(|| receiver.try_recv()));
            }
        }
        received.extend(receiver.try_recv());
        assert_eq!(received, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_indices_wrap() {
        let (mut sender, mut receiver) = channel(2);
        let start = usize::MAX - 2;
        sender.ring.head.store(start, super::super::Ordering::Relaxed);
        sender.ring.tail.store(start, super::super::Ordering::Relaxed);
        (sender.tail, sender.known_head) = (start, start);
        (receiver.head, receiver.known_tail) = (start, start);
        for value in 0..10 {
            sender.try_send(Box::new(value)).unwrap();
            sender.try_send(Box::new(value)).unwrap();
            assert!(sender.try_send(Box::new(value)).is_err());
            assert_eq!(receiver.try_recv().as_deref(), Some(&value));
            assert_eq!(receiver.try_recv().as_deref(), Some(&value));
        }
    }

    #[test]
    fn what_was_not_received_is_dropped() {
        let value = Arc::new(());
        let (mut sender, mut receiver) = channel(8);
        for _ in 0..6 {
            sender.try_send(value.clone()).unwrap();
        }
        drop(receiver.try_recv());
        assert!(!sender.is_abandoned());
        drop(receiver);
        assert!(sender.is_abandoned());
        assert_eq!(Arc::strong_count(&value), 6);
        drop(sender);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn two_threads_lose_nothing() {
        const VALUES: u64 = 300_000;
        let (mut sender, mut receiver) = channel(64);
        let thread = thread::spawn(move || {
            for value in 0..VALUES {
                let mut value = Box::new(value);
                while let Err(Full(back)) = sender.try_send(value) {
                    value = back;
                    thread::yield_now();
                }
            }
        });
        for expected in 0..VALUES {
            let value = loop {
                match receiver.try_recv() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*value, expected);
        }
        thread.join().unwrap();
        assert!(receiver.try_recv().is_none());
    }
}
