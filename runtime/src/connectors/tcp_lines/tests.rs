//! Senders and jobs over loopback, and what neither may say.

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use drizzle_scheduler::{Instant, PartitionId};
use proptest::prelude::*;

use super::protocol::{Answer, Answers, MOST_BYTES, Malformed, Request, Requests};
use super::store::{Store, There};
use super::{LineServer, ServerOptions, ServerStatus, TcpLines, TcpLinesReader};
use crate::connectors::{LineReader, Lines};
use crate::dataflow::Limit;

const FIRST: PartitionId = PartitionId(0);
/// Whoever waits here waits for an event; that it takes so long is a failure.
const LONG: Duration = Duration::from_secs(60);

// The protocol.

/// Everything that these bytes say if they come in pieces of that size, and how they fail.
fn answers(bytes: &[u8], piece: usize) -> (Vec<Answer>, Option<Malformed>) {
    let (mut parser, mut all) = (Answers::default(), Vec::new());
    for mut piece in bytes.chunks(piece) {
        loop {
            match parser.take(&mut piece) {
                Ok(Some(answer)) => all.push(answer),
                Ok(None) => break,
                Err(malformed) => return (all, Some(malformed)),
            }
        }
    }
    (all, None)
}

fn refused(bytes: &[u8]) -> String {
    answers(bytes, bytes.len()).1.expect("it is to be refused").to_string()
}

#[test]
fn answers_are_the_same_however_their_bytes_come() {
    let bytes = b"lines 4\na\nb\nlines 1\nzend 5\n";
    let (whole, malformed) = answers(bytes, bytes.len());
    let lines = |text: &str| Answer::Lines(text.as_bytes().to_vec());
    assert_eq!(whole, [lines("a\nb\n"), lines("z"), Answer::End(5)]);
    assert_eq!(malformed, None);
    for piece in 1..bytes.len() {
        assert_eq!(answers(bytes, piece), (whole.clone(), None));
    }
}

#[test]
fn hostile_headers_are_refused_with_what_they_say() {
    assert!(refused(b"HTTP/1.1 400 Bad Request\r\n").contains("HTTP/1.1 400"));
    for header in ["lines\n", "lines \n", "lines +4\n", "lines -1\n", "lines 4 4\n", " 4\n", "\n"] {
        assert!(refused(header.as_bytes()).contains("no header"), "{header:?}");
    }
    assert!(refused(&[b'9'; 4096]).len() < 100, "a header without an end is given up early");
    assert!(refused(b"lines 99999999999999999999999\n").contains("no header"));
    assert!(refused(b"\xff\xfe 7\n").contains("no header"));
    assert!(refused(b"durable 7\n").contains("no header"), "a job does not take requests");
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_kept() {
    for length in ["0", "1048577", "18446744073709551615"] {
        let said = refused(format!("lines {length}\n").as_bytes());
        assert!(said.contains(length) && said.contains("1048576"), "{said}");
    }
    assert_eq!(answers(format!("lines {MOST_BYTES}\n").as_bytes(), 5), (Vec::new(), None));
}

#[test]
fn nothing_comes_after_a_line_without_an_end() {
    assert!(refused(b"lines 1\nalines 2\nb\n").contains("without an end"));
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        piece in 1_usize..40,
    ) {
        let whole = answers(&bytes, bytes.len().max(1));
        prop_assert_eq!(answers(&bytes, piece), whole);
    }

    #[test]
    fn requests_are_read_as_they_are_written(
        offsets in proptest::collection::vec((any::<bool>(), any::<u64>()), 0..20),
    ) {
        let requests = offsets.iter().map(|&(from, offset)| match from {
            true => Request::From(offset),
            false => Request::Durable(offset),
        });
        let requests: Vec<Request> = requests.collect();
        let text: String = requests.iter().map(Request::to_string).collect();
        let (mut parser, mut bytes) = (Requests::default(), text.as_bytes());
        let mut read = Vec::new();
        while let Some(request) = parser.take(&mut bytes).unwrap() {
            read.push(request);
        }
        prop_assert_eq!(read, requests);
    }
}

// What a sender keeps.

#[test]
fn store_forgets_what_is_acknowledged_and_nothing_else() {
    let mut store = Store::default();
    store.push(b"aa\n".to_vec());
    store.push(b"bb\ncc\n".to_vec());
    assert_eq!(store.at(6), There::Lines(b"bb\ncc\n".to_vec().into(), 3));
    assert_eq!(store.at(9), There::NotYet);
    store.durable(6);
    store.durable(3);
    assert_eq!((store.at(5), store.oldest(), store.kept_bytes()), (There::Gone(6), 6, 3));
    assert_eq!(store.at(6), There::Lines(b"bb\ncc\n".to_vec().into(), 3));
    store.durable(9);
    store.end();
    assert_eq!((store.at(9), store.kept_bytes()), (There::End(9), 0));
}

#[test]
fn sender_that_begins_anew_skips_what_was_acknowledged_before() {
    let mut store = Store::default();
    store.durable(5);
    store.push(b"aa\n".to_vec());
    assert_eq!((store.kept_bytes(), store.at(0)), (0, There::Gone(5)));
    store.push(b"bb\n".to_vec());
    assert_eq!(store.at(5), There::Lines(b"bb\n".to_vec().into(), 2));
}

// Both together.

fn serve(input: impl Read + Send + 'static, kept_bytes: u64) -> LineServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    LineServer::start(listener, input, ServerOptions { kept_bytes }).unwrap()
}

fn reader(address: std::net::SocketAddr) -> TcpLinesReader {
    TcpLines::new(&[address.to_string()]).unwrap().open().unwrap()
}

fn wait(server: &LineServer, is_there: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
    let status = server.wait(LONG, &is_there);
    assert!(is_there(&status), "{status:?}");
    status
}

/// What the reader has from `from` on, until `is_enough` or the end.
fn read_until(
    reader: &mut TcpLinesReader,
    mut from: u64,
    limit: u64,
    is_enough: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    loop {
        let choice = reader.choose(FIRST, from, &Limit { cut: Instant(0), bytes: limit });
        if from < choice.to {
            let before = read.len();
            let chunks = reader.read_chunks(FIRST, from..choice.to, |chunk| {
                read.extend_from_slice(chunk.lines());
            });
            chunks.map_err(|error| error.to_string())?;
            assert_eq!((read.len() - before) as u64, choice.to - from);
        }
        from = choice.to;
        if choice.ended || is_enough(&read) {
            return Ok(read);
        }
        thread::yield_now();
    }
}

fn read_all(reader: &mut TcpLinesReader, limit: u64) -> Vec<u8> {
    read_until(reader, 0, limit, |_| false).unwrap()
}

/// Numbered lines, so many bytes of them.
fn numbered(bytes: usize) -> Vec<u8> {
    let lines = (0_u64..).map(|number| format!("{{\"number\": \"{number}\"}}\n").into_bytes());
    lines.flatten().take(bytes).collect()
}

#[test]
fn everything_that_is_sent_is_read_whatever_a_batch_takes() {
    for (stream, limit) in [
        (numbered(9 << 20), 4 << 20),
        (numbered(100_000), 1),
        (numbered(70_000), 1000),
        (b"one\n\n\nlast without its newline".to_vec(), 5),
        (Vec::new(), 5),
    ] {
        let server = serve(std::io::Cursor::new(stream.clone()), 1 << 30);
        let mut reader = reader(server.address());
        assert!(read_all(&mut reader, limit) == stream, "{} bytes by {limit}", stream.len());
        reader.durable(FIRST, stream.len() as u64);
        reader.close();
        assert!(wait(&server, ServerStatus::is_complete).kept_bytes == 0);
    }
}

#[test]
fn what_was_read_can_be_read_again_by_any_core_until_it_is_acknowledged() {
    let stream = numbered(3 << 20);
    let server = serve(std::io::Cursor::new(stream.clone()), 1 << 30);
    let mut first = reader(server.address());
    assert!(read_all(&mut first, 100_000) == stream);
    let mut other = reader(server.address());
    let line =
        |near: usize| stream[near..].iter().position(|&byte| byte == b'\n').unwrap() + near + 1;
    let (from, to) = (line(5000), line(2_500_000));
    let again = |reader: &mut TcpLinesReader| {
        let mut read = Vec::new();
        let range = from as u64..to as u64;
        let result =
            reader.read_chunks(FIRST, range, |chunk| read.extend_from_slice(chunk.lines()));
        result.map(|()| read).map_err(|error| error.to_string())
    };
    assert!(again(&mut other).unwrap() == stream[from..to]);
    first.durable(FIRST, to as u64);
    wait(&server, |status| status.oldest == to as u64);
    let refused = again(&mut other).unwrap_err();
    for part in [&server.address().to_string(), &to.to_string(), &from.to_string()] {
        assert!(refused.contains(part.as_str()), "{refused}");
    }
}

#[test]
fn partition_that_goes_on_elsewhere_goes_on_where_it_was() {
    let stream = numbered(2 << 20);
    let server = serve(std::io::Cursor::new(stream.clone()), 1 << 30);
    let (mut one, mut other) = (reader(server.address()), reader(server.address()));
    let mut read = read_until(&mut one, 0, 10_000, |read| read.len() > 500_000).unwrap();
    one.leave(FIRST);
    let begin = read.len() as u64;
    read.extend(read_until(&mut other, begin, 10_000, |read| read.len() > 500_000).unwrap());
    other.leave(FIRST);
    // And back, to where it is now.
    let begin = read.len() as u64;
    read.extend(read_until(&mut one, begin, 10_000, |_| false).unwrap());
    assert!(read == stream);
}

#[test]
fn partition_that_had_ended_before_is_acknowledged_all_the_same() {
    let server = serve(std::io::Cursor::new(b"a\nb\n"), 1 << 20);
    let mut reader = reader(server.address());
    reader.durable(FIRST, 4);
    reader.close();
    assert!(wait(&server, ServerStatus::is_complete).calls == 0);
}

#[test]
fn sender_stops_reading_its_input_while_too_much_is_kept() {
    let (input, mut output) = pipe().unwrap();
    let server = serve(input, 10);
    output.write_all(b"0123456789\n").unwrap();
    wait(&server, |status| status.length == 11);
    output.write_all(b"next\n").unwrap();
    let mut reader = reader(server.address());
    let first = read_until(&mut reader, 0, 1000, |read| !read.is_empty()).unwrap();
    assert_eq!((&first[..], server.status().length), (&b"0123456789\n"[..], 11));
    reader.durable(FIRST, 11);
    wait(&server, |status| status.length == 16);
    let next = read_until(&mut reader, 11, 1000, |read| !read.is_empty()).unwrap();
    assert_eq!((&next[..], server.status().kept_bytes), (&b"next\n"[..], 5));
}

#[test]
fn core_never_has_more_than_a_few_mebibytes_of_a_partition() {
    let server = serve(std::io::Cursor::new(numbered(40 << 20)), 1 << 30);
    let mut reader = reader(server.address());
    let (mut from, mut most) = (0, 0);
    loop {
        let choice = reader.choose(FIRST, from, &Limit { cut: Instant(0), bytes: u64::MAX });
        most = most.max(choice.to - from);
        from = choice.to;
        if choice.ended {
            break;
        }
        thread::yield_now();
    }
    assert_eq!(from, 40 << 20);
    assert!(most <= 5 << 20, "{most}");
}

#[test]
fn line_that_is_too_long_ends_the_input_with_a_sentence() {
    let mut stream = b"short\n".to_vec();
    stream.resize(stream.len() + MOST_BYTES, b'x');
    stream.push(b'\n');
    let server = serve(std::io::Cursor::new(stream), 1 << 30);
    let status = wait(&server, |status| status.failed.is_some());
    assert_eq!(status.failed.as_deref(), Some("a line is longer than 1048576 bytes"));
    let longest = [vec![b'x'; MOST_BYTES - 1], b"\n".to_vec()].concat().repeat(3);
    let server = serve(std::io::Cursor::new(longest.clone()), 1 << 30);
    assert!(read_all(&mut reader(server.address()), 4 << 20) == longest);
}

#[test]
fn sender_that_is_started_again_with_its_input_goes_on() {
    let stream = numbered(300_000);
    let (input, mut output) = pipe().unwrap();
    let first = serve(input, 1 << 30);
    let sent = &stream[..=memchr::memrchr(b'\n', &stream[..250_000]).unwrap()];
    // It stays open: the first sender does not end by itself.
    output.write_all(sent).unwrap();
    let address = first.address();
    let mut reader = reader(address);
    let mut read = read_until(&mut reader, 0, 1000, |read| read == sent).unwrap();
    reader.durable(FIRST, read.len() as u64);
    wait(&first, |status| status.oldest == read.len() as u64);
    drop((first, output));
    let bind = || TcpListener::bind(address).ok();
    let listener = std::iter::repeat_with(bind).flatten().next().unwrap();
    // It could not keep all of it.
    let options = ServerOptions { kept_bytes: 100_000 };
    let input = std::io::Cursor::new(stream.clone());
    let second = LineServer::start(listener, input, options).unwrap();
    let begin = read.len() as u64;
    read.extend(read_until(&mut reader, begin, 1000, |_| false).unwrap());
    assert!(read == stream);
    reader.durable(FIRST, stream.len() as u64);
    wait(&second, ServerStatus::is_complete);
}

#[test]
fn sender_that_may_not_keep_enough_says_so() {
    let (input, mut output) = pipe().unwrap();
    let server = serve(input, 5);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"durable 3\nfrom 100\n").unwrap();
    wait(&server, |status| status.calls == 1);
    output.write_all(b"0123456789\n").unwrap();
    wait(&server, |status| status.length == 11);
    output.write_all(b"0123456789\n").unwrap();
    let failed = wait(&server, |status| status.failed.is_some()).failed.unwrap();
    assert!(failed.contains("from byte 100") && failed.contains("after byte 3"), "{failed}");
}

// Senders that are not ours.

fn start<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().spawn(body).unwrap()
}

/// Answers the next connection as `body` does.
fn play(listener: &TcpListener, body: impl FnOnce(&str, &mut TcpStream)) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
    body(&request, &mut stream);
}

#[test]
fn connection_that_breaks_goes_on_where_it_broke() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reader = reader(listener.local_addr().unwrap());
    let sender = start(move || {
        play(&listener, |request, stream| {
            assert_eq!(request, "from 0\n");
            // The second message is cut.
            stream.write_all(b"lines 4\na\nb\nlines 4\nc\n").unwrap();
        });
        play(&listener, |request, stream| {
            assert_eq!(request, "from 4\n");
            stream.write_all(b"lines 4\nc\nd\nend 8\n").unwrap();
        });
    });
    assert_eq!(read_all(&mut reader, 100), b"a\nb\nc\nd\n");
    sender.join().unwrap();
}

/// What a job says of a sender that says this.
fn complaint_about(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reader = reader(listener.local_addr().unwrap());
    let sender = start(move || {
        play(&listener, |_, stream| {
            stream.write_all(answer).unwrap();
            // Until the job hangs up.
            let _ = stream.read(&mut [0; 100]);
        });
    });
    let complaint = read_until(&mut reader, 0, 100, |_| false).unwrap_err();
    drop(reader);
    sender.join().unwrap();
    complaint
}

#[test]
fn sender_that_does_not_keep_to_the_protocol_ends_the_job_with_a_sentence() {
    for (answer, words) in [
        (&b"220 mail.example ESMTP\r\n"[..], ["is none of lines", "220 mail.example"]),
        (b"lines 2000000\n", ["announced 2000000 bytes", "1 to 1048576"]),
        (b"gone 7\n", ["forgotten what is before byte 7", "from byte 0"]),
        (b"lines 2\na\nend 9\n", ["ends at byte 9", "at byte 2"]),
    ] {
        let complaint = complaint_about(answer);
        assert!(words.iter().all(|word| complaint.contains(word)), "{complaint}");
        assert!(complaint.starts_with("the sender at 127.0.0.1:"), "{complaint}");
    }
}

#[test]
fn job_that_asks_twice_or_in_another_language_is_hung_up_on() {
    for request in ["from 0\nfrom 2\n", "GET / HTTP/1.1\r\n\r\n", "from zero\n"] {
        let server = serve(std::io::Cursor::new(b"a\nb\n"), 1 << 20);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = Vec::new();
        // It ends, well or with what the system says of a connection that was closed.
        let _ = stream.read_to_end(&mut said);
        assert!(said.len() <= b"lines 4\na\nb\nend 4\n".len());
    }
}

#[test]
fn sender_that_is_not_there_is_waited_for_and_said_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut reader = reader(address);
    let mut choose = || {
        let choice = reader.choose(FIRST, 0, &Limit { cut: Instant(0), bytes: 100 });
        assert_eq!(choice.to, 0);
        thread::yield_now();
        reader.notice()
    };
    let notice = std::iter::repeat_with(&mut choose).flatten().next().unwrap();
    assert!(notice.contains(&address.to_string()) && notice.contains("60 s"), "{notice}");
    let listener = TcpListener::bind(address).unwrap();
    let input = std::io::Cursor::new(b"a\n");
    let server = LineServer::start(listener, input, ServerOptions { kept_bytes: 100 }).unwrap();
    assert_eq!(read_all(&mut reader, 100), b"a\n");
    assert_eq!(reader.notice(), Some(format!("the sender at {address} is there")));
    assert_eq!((reader.notice(), server.status().calls), (None, 1));
}

#[test]
fn addresses_are_checked_before_anything_runs() {
    let refused = |addresses: &[&str]| TcpLines::new(addresses).unwrap_err().to_string();
    for address in ["localhost", ":7500", "localhost:", "localhost:70000", "localhost:http"] {
        assert!(refused(&[address]).contains(&format!("{address:?}")), "{address}");
    }
    assert!(refused(&[]).contains("no sender"));
    assert!(refused(&["a:1", "b:1", "a:1"]).contains("named twice"));
    let fingerprint = |addresses: &[&str]| TcpLines::new(addresses).unwrap().fingerprint();
    assert_ne!(fingerprint(&["a:1", "b:1"]), fingerprint(&["b:1", "a:1"]));
    assert_ne!(fingerprint(&["a:1"]), fingerprint(&["a:1", "b:1"]));
}
