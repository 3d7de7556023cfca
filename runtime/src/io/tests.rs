//! Tests of both kernel drivers, with the same bodies, over loopback.

#![allow(clippy::disallowed_methods)] // some tests need a second thread

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use drizzle_shuffle::segment::{Segment, SegmentWriter};

use super::{
    Body, Capabilities, Choice, Completion, ExternalPark, HostKind, Io, IoKind, Op, Outcome,
    Readiness, SystemCalls, Token, Waker, choose, open, sys,
};

mod bare;
mod held;

/// So many parks without a completion are a failure; each may last `PATIENCE`.
const ROUNDS: u32 = 2_000;
const PATIENCE: Option<Duration> = Some(Duration::from_millis(20));

/// How many rings the tests that run at a time may need together.
const RINGS: usize = 32;

const RECEIVE: Token = 1;
const SEND: Token = 2;
const ACCEPT: Token = 3;

/// Runs a test with each driver that this machine permits, and again with one that holds every stream.
fn with_each(test: impl Fn(&mut dyn Io)) {
    with_each_kind(|kind| {
        let open = || open(kind).expect("the probe has said that it works");
        test(&mut *open());
        if kind == IoKind::Uring {
            test(&mut Holding(open()));
        }
    });
}

/// A driver that is told to hold each stream that it hears of.
struct Holding(Box<dyn Io>);

impl Io for Holding {
    fn submit(&mut self, token: Token, op: Op) {
        op.stream().iter().for_each(|stream| self.0.hold(stream));
        self.0.submit(token, op);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.0.poll(completions);
    }

    fn park(&mut self, timeout: Option<Duration>) {
        self.0.park(timeout);
    }

    fn waker(&self) -> Waker {
        self.0.waker()
    }

    fn pending(&self) -> usize {
        self.0.pending()
    }

    fn calls(&self) -> SystemCalls {
        self.0.calls()
    }

    fn hold(&mut self, stream: &Arc<TcpStream>) {
        self.0.hold(stream);
    }

    fn close(&mut self, completions: &mut Vec<Completion>) {
        self.0.close(completions);
    }

    fn external(&mut self) -> Option<&mut dyn ExternalPark> {
        self.0.external()
    }
}

fn with_each_kind(test: impl Fn(IoKind)) {
    test(IoKind::Epoll);
    let (host, io) = (Choice::Exactly(HostKind::Plain), Choice::Exactly(IoKind::Uring));
    match choose(host, io, &Capabilities::probe(), RINGS) {
        Ok(_) => test(IoKind::Uring),
        Err(reason) => eprintln!("skipped with the ring: {reason}"),
    }
}

/// Polls and parks until so many operations have completed; they come back ordered by token.
fn all(io: &mut dyn Io, count: usize) -> Vec<Completion> {
    let mut completions = Vec::new();
    for _ in 0..ROUNDS {
        io.poll(&mut completions);
        if completions.len() >= count {
            break;
        }
        io.park(PATIENCE);
    }
    assert_eq!(completions.len(), count, "{} pending: {completions:?}", io.pending());
    completions.sort_by_key(|completion| completion.token);
    completions
}

fn next(io: &mut dyn Io) -> Completion {
    all(io, 1).remove(0)
}

fn pair() -> (Arc<TcpStream>, Arc<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (Arc::new(near), Arc::new(far))
}

/// Writes with std, as any peer may.
fn write(mut stream: &TcpStream, bytes: &[u8]) {
    std::io::Write::write_all(&mut stream, bytes).unwrap();
}

fn receive(stream: &Arc<TcpStream>, capacity: usize) -> Op {
    let buffer = Vec::with_capacity(capacity);
    Op::Recv { stream: stream.clone(), buffer, limit: usize::MAX }
}

fn send(stream: &Arc<TcpStream>, head: &[u8], body: Option<Body>) -> Op {
    Op::Send { stream: stream.clone(), head: head.to_vec(), bodies: body.into_iter().collect() }
}

fn received(completion: Completion) -> Vec<u8> {
    assert_eq!(completion.token, RECEIVE);
    match completion.outcome {
        Outcome::Received { buffer, result: Ok(count) } => {
            assert_eq!(count, buffer.len());
            buffer
        }
        other => panic!("{other:?}"),
    }
}

#[allow(clippy::needless_pass_by_value)]
fn sent(completion: Completion) {
    assert_eq!(completion.token, SEND);
    assert!(matches!(completion.outcome, Outcome::Sent { result: Ok(()), .. }), "{completion:?}");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 257) as u8).collect()
}

#[test]
fn an_accepted_connection_echoes() {
    with_each(|io| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        io.submit(ACCEPT, Op::Accept { listener });
        let mut nothing = Vec::new();
        io.poll(&mut nothing);
        assert_eq!((nothing.len(), io.pending()), (0, 1));
        let near = TcpStream::connect(address).unwrap();
        let accepted = next(io);
        assert_eq!(accepted.token, ACCEPT);
        let Outcome::Accepted(Ok((far, peer))) = accepted.outcome else { panic!("{accepted:?}") };
        assert_eq!(peer, near.local_addr().unwrap());
        let (near, far) = (Arc::new(near), Arc::new(far));
        for round in 0..50u8 {
            io.submit(SEND, send(&near, &[round; 64], None));
            sent(next(io));
            io.submit(RECEIVE, receive(&far, 4096));
            assert_eq!(received(next(io)), [round; 64]);
            io.submit(RECEIVE, receive(&near, 4096));
            io.submit(SEND, send(&far, &[round; 32], None));
            let mut both = all(io, 2);
            sent(both.remove(1));
            assert_eq!(received(both.remove(0)), [round; 32]);
        }
        assert_eq!(io.pending(), 0);
    });
}

#[test]
fn a_large_send_in_two_pieces_arrives_whole_through_a_small_socket_buffer() {
    with_each(|io| {
        let (near, far) = pair();
        let (head, body) = (pattern(100), pattern(1 << 20));
        let whole = [&head[..], &body[..]].concat();
        let shared: Arc<Vec<u8>> = Arc::new(body);
        io.submit(SEND, send(&near, &head, Some(shared.clone())));
        let mut arrived = Vec::with_capacity(whole.len());
        let mut is_sent = false;
        io.submit(RECEIVE, receive(&far, 10_000));
        let mut completions = Vec::new();
        for _ in 0..ROUNDS {
            io.poll(&mut completions);
            for completion in completions.drain(..) {
                if completion.token == SEND {
                    sent(completion);
                    is_sent = true;
                } else {
                    arrived.extend(received(completion));
                    if arrived.len() < whole.len() {
                        io.submit(RECEIVE, receive(&far, 10_000));
                    }
                }
            }
            if io.pending() == 0 {
                break;
            }
            io.park(PATIENCE);
        }
        assert!(is_sent && arrived == whole, "{} of {} bytes", arrived.len(), whole.len());
        assert_eq!(Arc::strong_count(&shared), 1, "the body is given up");
    });
}

#[test]
fn bytes_land_where_they_will_stay() {
    with_each(|io| {
        let (near, far) = pair();
        let sent: Arc<Vec<u8>> = Arc::new(pattern(1 << 20));
        let bodies = vec![sent.clone() as Body, Arc::new(*b"") as Body, Arc::new(*b"more") as Body];
        io.submit(SEND, Op::Send { stream: near, head: b"head".to_vec(), bodies });
        let mut segment = Arc::new(Segment::map(2 << 20).unwrap());
        let mut writer = SegmentWriter::claim(&mut segment).unwrap();
        let mut landing = writer.land(sent.len() + 4);
        landing.fill(b"1234");
        io.submit(RECEIVE, receive(&far, 4));
        let (mut completions, mut is_sent) = (Vec::new(), false);
        for _ in 0..ROUNDS {
            io.poll(&mut completions);
            for Completion { outcome, .. } in completions.drain(..) {
                match outcome {
                    Outcome::Sent { result, .. } => is_sent = result.is_ok(),
                    Outcome::Received { buffer, result } => {
                        assert_eq!(buffer.len(), result.unwrap());
                    }
                    Outcome::Landed { landing: back, result } => {
                        assert!(result.unwrap() > 0);
                        landing = back;
                    }
                    Outcome::Accepted(_) => panic!("nothing was accepted"),
                }
                if io.pending() < 2 - usize::from(is_sent) && landing.missing() > 0 {
                    let empty = writer.land(0);
                    let landing = std::mem::replace(&mut landing, empty);
                    io.submit(RECEIVE, Op::Land { stream: far.clone(), landing });
                }
            }
            if io.pending() == 0 {
                break;
            }
            io.park(PATIENCE);
        }
        let landed = landing.finish();
        assert!(landed.bytes()[4..] == sent[..] && landed.bytes()[..4] == *b"1234");
        io.submit(RECEIVE, receive(&far, 10));
        assert_eq!(received(next(io)), b"more");
    });
}

#[test]
fn the_head_comes_back_as_it_was_and_may_be_empty() {
    with_each(|io| {
        let (near, far) = pair();
        io.submit(SEND, send(&near, &[], Some(Arc::new(*b"body"))));
        sent(next(io));
        io.submit(SEND, send(&near, b"head", Some(Arc::new([]))));
        let Outcome::Sent { head, result } = next(io).outcome else { panic!("it was a send") };
        assert!(head == b"head" && result.is_ok());
        io.submit(SEND, send(&near, &[], None));
        sent(next(io));
        let mut buffer = Vec::with_capacity(100);
        buffer.extend(b"> ");
        io.submit(RECEIVE, Op::Recv { stream: far, buffer, limit: 100 });
        let Outcome::Received { buffer, result } = next(io).outcome else { panic!("a receive") };
        assert_eq!((&buffer[..], result.unwrap()), (&b"> bodyhead"[..], 8));
    });
}

#[test]
fn a_closed_peer_is_received_as_zero_after_its_last_bytes() {
    with_each(|io| {
        let (near, far) = pair();
        io.submit(RECEIVE, receive(&far, 100));
        io.poll(&mut Vec::new());
        write(&near, b"last");
        drop(near);
        assert_eq!(received(next(io)), b"last");
        for _ in 0..2 {
            io.submit(RECEIVE, receive(&far, 100));
            assert_eq!(received(next(io)), b"");
        }
    });
}

#[test]
fn a_send_to_a_peer_that_is_gone_fails() {
    with_each(|io| {
        let (near, far) = pair();
        drop(far);
        let failed = (0..ROUNDS).any(|_| {
            io.submit(SEND, send(&near, &[0; 1000], None));
            matches!(next(io).outcome, Outcome::Sent { result: Err(_), .. })
        });
        assert!(failed);
    });
}

#[test]
fn a_non_blocking_stream_works_all_the_same() {
    with_each(|io| {
        let (near, far) = pair();
        near.set_nonblocking(true).unwrap();
        io.submit(RECEIVE, receive(&near, 100));
        let mut completions = Vec::new();
        io.poll(&mut completions);
        assert_eq!(completions.len(), 0);
        write(&far, b"x");
        assert_eq!(received(next(io)), b"x");
    });
}

#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    with_each(|io| {
        let pairs: Vec<_> = (0..700).map(|_| pair()).collect();
        for (index, (near, far)) in pairs.iter().enumerate() {
            io.submit(index as Token * 2, receive(far, 8));
            io.submit(index as Token * 2 + 1, send(near, &(index as u64).to_ne_bytes(), None));
        }
        assert_eq!(io.pending(), 1400);
        let completions = all(io, 1400);
        assert_eq!(io.pending(), 0);
        for completion in completions {
            if let Outcome::Received { buffer, .. } = completion.outcome {
                assert_eq!(buffer, (completion.token / 2).to_ne_bytes());
            }
        }
    });
}

#[test]
fn a_descriptor_number_used_again_is_a_new_socket() {
    with_each(|io| {
        for round in 0..20u8 {
            let (near, far) = pair();
            io.submit(RECEIVE, receive(&far, 8));
            io.poll(&mut Vec::new());
            write(&near, &[round]);
            assert_eq!(received(next(io)), [round]);
        }
    });
}

#[test]
fn closing_completes_everything_as_cancelled() {
    with_each(|io| {
        let (near, far) = pair();
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let mut completions = Vec::new();
        io.submit(RECEIVE, receive(&far, 100));
        io.submit(ACCEPT, Op::Accept { listener });
        let body: Arc<Vec<u8>> = Arc::new(vec![0; 64 << 20]);
        io.submit(SEND, send(&near, b"head", Some(body.clone())));
        io.poll(&mut completions);
        io.park(Some(Duration::ZERO));
        io.poll(&mut completions);
        let first = received(completions.pop().or_else(|| Some(next(io))).unwrap());
        assert!(!first.is_empty());
        io.submit(SEND + 10, receive(&near, 100));
        io.close(&mut completions);
        let mut tokens: Vec<_> = completions.iter().map(|completion| completion.token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [SEND, ACCEPT, SEND + 10]);
        for completion in completions {
            let error = match completion.outcome {
                Outcome::Accepted(result) => result.map(drop),
                Outcome::Received { result, .. } => result.map(drop),
                Outcome::Landed { result, .. } => result.map(drop),
                Outcome::Sent { result, .. } => result,
            };
            assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
        }
        assert_eq!((io.pending(), Arc::strong_count(&body)), (0, 1));
    });
}

#[test]
fn dropping_a_driver_frees_what_its_operations_own() {
    with_each_kind(|kind| {
        let (near, far) = pair();
        let mut io = open(kind).unwrap();
        io.submit(RECEIVE, receive(&far, 100));
        io.poll(&mut Vec::new());
        io.submit(SEND, receive(&near, 100));
        drop(io);
        assert_eq!((Arc::strong_count(&near), Arc::strong_count(&far)), (1, 1));
    });
}

#[test]
fn a_park_with_a_timeout_returns() {
    with_each(|io| {
        let (_near, far) = pair();
        io.submit(RECEIVE, receive(&far, 100));
        for micros in [0, 1, 50, 1000] {
            io.park(Some(Duration::from_micros(micros)));
            io.poll(&mut Vec::new());
        }
        assert_eq!(io.pending(), 1);
    });
}

#[test]
fn a_wake_before_the_park_ends_it_at_once() {
    with_each(|io| {
        for _ in 0..10 {
            io.waker().wake();
            io.waker().wake();
            io.park(None);
            io.poll(&mut Vec::new());
        }
    });
}

#[test]
fn a_wake_from_another_thread_ends_a_park() {
    with_each(|io| {
        let waker = io.waker();
        let (mut sender, mut receiver) = crate::mailbox::channel(1);
        let thread = thread::spawn(move || {
            sender.try_send(()).unwrap();
            waker.wake();
        });
        while receiver.try_recv().is_none() {
            io.park(None);
            io.poll(&mut Vec::new());
        }
        thread.join().unwrap();
    });
}

/// Answers each number with itself, sleeping without a timeout: a lost wake would hang.
fn ping_pong(kind: IoKind, rounds: u32, park: fn(&mut dyn Io)) {
    let mut near = open(kind).unwrap();
    let (mut to_near, mut from_far) = super::inbox(1, near.waker());
    let (start, started) = std::sync::mpsc::channel();
    let far = thread::spawn(move || {
        let mut far = open(kind).unwrap();
        let (to_far, mut from_near) = super::inbox::<u32>(1, far.waker());
        start.send(to_far).unwrap();
        for _ in 0..rounds {
            let number = await_message(&mut *far, &mut from_near, park);
            to_near.try_send(number).unwrap();
        }
    });
    let mut to_far = started.recv().unwrap();
    for round in 0..rounds {
        to_far.try_send(round).unwrap();
        assert_eq!(await_message(&mut *near, &mut from_far, park), round);
    }
    far.join().unwrap();
}

fn await_message(io: &mut dyn Io, inbox: &mut super::Inbox<u32>, park: fn(&mut dyn Io)) -> u32 {
    loop {
        io.poll(&mut Vec::new());
        match inbox.try_recv() {
            Some(number) => return number,
            None => park(io),
        }
    }
}

/// As a host does that sleeps in its own way.
fn park_outside(io: &mut dyn Io) {
    let external = io.external().expect("kernel drivers can be waited for from outside");
    if external.begin() == Readiness::Waiting {
        sys::wait_readable(external.descriptor().as_fd(), None);
        external.end();
    }
}

#[test]
fn no_wake_is_lost_in_a_hundred_thousand_ping_pongs() {
    with_each_kind(|kind| ping_pong(kind, 100_000, |io| io.park(None)));
}

#[test]
fn no_wake_is_lost_when_a_host_sleeps_outside() {
    with_each_kind(|kind| ping_pong(kind, 20_000, park_outside));
}

#[test]
fn a_completion_ends_a_park_outside() {
    with_each(|io| {
        let (near, far) = pair();
        for round in 0..100u8 {
            io.submit(RECEIVE, receive(&far, 8));
            let near = near.clone();
            let thread = thread::spawn(move || write(&near, &[round]));
            let mut completions = Vec::new();
            while completions.is_empty() {
                park_outside(io);
                io.poll(&mut completions);
            }
            assert_eq!(received(completions.remove(0)), [round]);
            thread.join().unwrap();
        }
    });
}

mod choice {
    //! Tests of the choice of host and driver, with made-up capabilities.

    use super::super::{Capabilities, Choice, HostKind, IoKind, Memlock, choose};
    use Choice::{Auto, Exactly};

    fn able() -> Capabilities {
        let memlock = Memlock::Enforced;
        Capabilities {
            uring: Ok(()),
            holding: Ok(()),
            glommio: Ok(()),
            memlock_limit: 8 << 20,
            memlock,
        }
    }

    fn forbidden() -> Capabilities {
        let reason = || Err("io_uring is forbidden here".to_owned());
        Capabilities { uring: reason(), holding: reason(), glommio: reason(), ..able() }
    }

    fn said(
        host: Choice<HostKind>,
        io: Choice<IoKind>,
        capabilities: &Capabilities,
        cores: usize,
    ) -> String {
        match choose(host, io, capabilities, cores) {
            Ok(chosen) => chosen.describe(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn the_best_is_taken_where_it_works() {
        assert_eq!(said(Auto, Auto, &able(), 2), "host glommio, io uring");
        let plain = said(Exactly(HostKind::Plain), Exactly(IoKind::Epoll), &able(), 2);
        assert_eq!(plain, "host plain, io epoll");
        let mixed = said(Exactly(HostKind::Glommio), Exactly(IoKind::Epoll), &able(), 2);
        assert_eq!(mixed, "host glommio, io epoll");
    }

    #[test]
    fn a_fall_back_says_why_once() {
        assert_eq!(
            said(Auto, Auto, &forbidden(), 2),
            "host plain, io epoll (no uring: io_uring is forbidden here; glommio needs it too)"
        );
        assert_eq!(
            said(Auto, Exactly(IoKind::Epoll), &able(), 2),
            "host plain, io epoll (no glommio: it uses io_uring, and --io epoll asks for none)"
        );
        assert_eq!(
            said(Auto, Auto, &able(), 64),
            "host plain, io uring (no glommio: ulimit -l is 8192 KiB, but 64 cores need 23552 KiB \
             of locked memory)"
        );
        let exempt = Capabilities { memlock: Memlock::Exempt, ..able() };
        assert_eq!(said(Auto, Auto, &exempt, 64), "host glommio, io uring");
    }

    #[test]
    fn a_ring_that_holds_no_streams_says_so() {
        let holding = Err("io_uring takes no table of files".to_owned());
        let poor = Capabilities { holding, ..able() };
        assert_eq!(
            said(Auto, Auto, &poor, 2),
            "host glommio, io uring (no receiving ahead: io_uring takes no table of files)"
        );
        let epoll = said(Exactly(HostKind::Plain), Exactly(IoKind::Epoll), &poor, 2);
        assert_eq!(epoll, "host plain, io epoll");
    }

    #[test]
    fn glommio_wants_its_limit_even_where_it_is_not_enforced() {
        let memlock = Memlock::Exempt;
        let small = Capabilities { memlock_limit: 64 << 10, memlock, ..able() };
        assert_eq!(
            said(Auto, Auto, &small, 1),
            "host plain, io uring (no glommio: ulimit -l is 64 KiB, but glommio wants 512 KiB)"
        );
    }

    #[test]
    fn an_impossible_wish_is_an_error_with_advice() {
        assert_eq!(
            said(Auto, Exactly(IoKind::Uring), &forbidden(), 2),
            "error: --io uring is not possible: io_uring is forbidden here; permit it, or choose \
             --io epoll"
        );
        assert_eq!(
            said(Exactly(HostKind::Glommio), Auto, &forbidden(), 2),
            "error: --host glommio is not possible: io_uring is forbidden here; permit it, or \
             choose --host plain"
        );
    }

    #[test]
    fn this_machine_can_be_asked() {
        let capabilities = Capabilities::probe();
        let chosen = choose(Auto, Auto, &capabilities, 1).expect("something works everywhere");
        eprintln!("{}: {capabilities:?}", chosen.describe());
    }
}

#[test]
fn looking_in_vain_makes_no_system_call() {
    with_each(|io| {
        for _ in 0..1000 {
            io.poll(&mut Vec::new());
        }
        assert_eq!(io.calls().total(), 0, "{:?}", io.calls());
    });
}

#[test]
fn a_ring_makes_no_system_call_while_it_waits_for_what_has_not_come() {
    with_each_kind(|kind| {
        let mut io = open(kind).unwrap();
        let (near, far) = pair();
        io.submit(RECEIVE, receive(&near, 16));
        for _ in 0..1000 {
            io.poll(&mut Vec::new());
        }
        let calls = io.calls();
        // epoll has to ask: nothing in this process tells that something has come.
        match kind {
            IoKind::Uring => assert!(calls.total() <= 2, "{calls:?}"),
            IoKind::Epoll => assert!(calls.polls <= 1000 && calls.receives <= 1, "{calls:?}"),
        }
        write(&far, b"something");
        assert_eq!(next(&mut *io).token, RECEIVE);
        assert!(io.calls().total() > calls.total());
    });
}
