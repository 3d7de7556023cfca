//! Tests of streams that a ring holds, and of drivers that ignore it.

use std::io::Read;
use std::net::Shutdown;

use super::*;
use crate::io::MESSAGE;

/// More streams than a ring has places for.
const MANY: usize = 1500;

/// A stream that `io` holds, whose standing receive has been started, and its other end.
fn held(io: &mut dyn Io) -> (Arc<TcpStream>, Arc<TcpStream>) {
    let (near, far) = pair();
    io.hold(&far);
    io.submit(RECEIVE, receive(&far, 8));
    io.poll(&mut Vec::new());
    write(&near, b"hello");
    assert_eq!(received(next(io)), b"hello");
    (near, far)
}

/// Sends everything from a thread of its own, which waits where the socket is full.
fn write_beside(stream: &Arc<TcpStream>, bytes: &Arc<Vec<u8>>) -> thread::JoinHandle<()> {
    let (stream, bytes) = (stream.clone(), bytes.clone());
    thread::spawn(move || write(&stream, &bytes))
}

/// What the kernel says when asked for one more byte.
fn last_word(mut stream: &TcpStream) -> usize {
    stream.read(&mut [0]).unwrap_or(0)
}

#[test]
fn asking_a_held_stream_again_makes_no_system_call() {
    with_each_kind(|kind| {
        let mut io = open(kind).unwrap();
        let (near, far) = held(&mut *io);
        let calls = |io: &dyn Io| io.calls().enters;
        for _ in 0..100 {
            let before = calls(&*io);
            io.submit(RECEIVE, receive(&far, 64));
            io.poll(&mut Vec::new());
            assert_eq!((calls(&*io), io.pending()), (before, 1));
            write(&near, b"message");
            assert_eq!(received(next(&mut *io)), b"message");
        }
    });
}

#[test]
fn what_arrives_before_it_is_asked_for_is_kept_in_order() {
    with_each(|io| {
        let (near, far) = held(io);
        write(&near, b"first, ");
        io.park(Some(Duration::ZERO));
        io.poll(&mut Vec::new());
        write(&near, b"second");
        io.park(Some(Duration::ZERO));
        io.poll(&mut Vec::new());
        for expected in [&b"fir"[..], b"st,", b" se", b"con", b"d"] {
            io.submit(RECEIVE, receive(&far, 3));
            assert_eq!(received(next(io)), expected);
        }
        drop(near);
        io.submit(RECEIVE, receive(&far, 3));
        assert_eq!(received(next(io)), b"");
    });
}

#[test]
fn a_stream_that_nobody_asks_cannot_starve_the_others() {
    with_each(|io| {
        let (deaf_near, deaf_far) = held(io);
        let (near, far) = held(io);
        let bytes = Arc::new(pattern(4 << 20));
        let writer = write_beside(&deaf_near, &bytes);
        for round in 0..200u8 {
            io.submit(RECEIVE, receive(&far, 64));
            io.poll(&mut Vec::new());
            write(&near, &[round; 40]);
            assert_eq!(received(next(io)), [round; 40]);
        }
        let mut arrived = Vec::new();
        while arrived.len() < bytes.len() {
            io.submit(RECEIVE, receive(&deaf_far, 10_000));
            arrived.extend(received(next(io)));
        }
        writer.join().unwrap();
        assert!(arrived == *bytes, "the rest comes when it is asked for");
    });
}

#[test]
fn messages_and_bulk_take_turns_on_one_stream() {
    with_each(|io| {
        let (near, far) = held(io);
        let bytes = Arc::new(pattern(3 << 20));
        let writer = write_beside(&near, &bytes);
        let mut segment = Arc::new(Segment::map(4 << 20).unwrap());
        let mut bulk = SegmentWriter::claim(&mut segment).unwrap();
        let (mut arrived, mut random) = (Vec::new(), 7u64);
        while arrived.len() < bytes.len() {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let size = 1 + (random >> 40) as usize % [100, 5_000, 100_000][arrived.len() % 3];
            let size = size.min(bytes.len() - arrived.len());
            if random >> 62 == 0 && bulk.has_room(size + 16) {
                let mut landing = bulk.land(size);
                while landing.missing() > 0 {
                    io.submit(RECEIVE, Op::Land { stream: far.clone(), landing });
                    let Outcome::Landed { landing: back, result } = next(io).outcome else {
                        panic!("it was to land")
                    };
                    assert!(result.unwrap() > 0);
                    landing = back;
                }
                arrived.extend_from_slice(landing.finish().bytes());
            } else {
                let limit = if random >> 63 == 0 { usize::MAX } else { MESSAGE };
                let buffer = Vec::with_capacity(size);
                io.submit(RECEIVE, Op::Recv { stream: far.clone(), buffer, limit });
                arrived.extend(received(next(io)));
            }
        }
        writer.join().unwrap();
        assert!(arrived == *bytes);
    });
}

#[test]
fn a_peer_sees_at_once_that_a_held_stream_was_shut_down_and_dropped() {
    with_each(|io| {
        for _ in 0..MANY {
            let (near, far) = pair();
            io.hold(&far);
            io.submit(RECEIVE, receive(&far, 8));
            io.poll(&mut Vec::new());
            far.shutdown(Shutdown::Both).unwrap();
            drop(far);
            assert_eq!(last_word(&near), 0);
            assert_eq!(received(next(io)), b"");
        }
        // There is still room for one more.
        held(io);
    });
}

#[test]
fn closing_a_driver_closes_what_only_it_has() {
    with_each(|io| {
        let (near, far) = held(io);
        write(&near, b"nobody reads this");
        io.park(Some(Duration::ZERO));
        io.poll(&mut Vec::new());
        drop(far);
        io.close(&mut Vec::new());
        assert_eq!(last_word(&near), 0);
    });
}
