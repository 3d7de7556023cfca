//! The messages between driver and workers as bytes. A head is the message's tag, one byte, and
//! its fields in the order of their declaration. What concerns scheduling is in `orders.rs`
//! and `reports.rs`.
//!
//! The tags of [`ToDriver`], [`ToWorker`] and [`DataHead`](super::DataHead) do not overlap, so no
//! head of one family can be taken for one of another.

use drizzle_scheduler::message::{Report, WorkerMessage};
use drizzle_scheduler::{BatchId, Epoch, Incarnation, Life, StageId, Term, WorkerId};

use super::codec::{DecodeError, MAX_TEXT, Reader, Writer};
use super::frame::{FrameKind, append_frame};
use super::ids::MAX_WORKERS;
use super::message::{
    CoreCosts, FinalReport, MemoryPeaks, Peer, Regained, Request, Returning, TaskPanic, TimeByKind,
    ToDriver, ToWorker, WorkerStatus,
};
use super::orders::{read_driver_message, write_driver_message};
use super::ranges::MAX_RANGES;
use super::reports::{read_worker_message, write_worker_message};
use crate::io::SystemCalls;

/// The most bytes of rows in one [`ToDriver::Results`].
pub const MAX_ROWS: usize = 1 << 20;
/// The most arguments of a job. The arguments of a job must also fit one head together.
pub const MAX_ARGUMENTS: usize = 1 << 16;
/// The longest argument, in bytes: as long as Linux lets one be.
pub const MAX_ARGUMENT: usize = 128 << 10;
/// The most workers of a job.
pub const MAX_PEERS: usize = MAX_WORKERS;
/// The longest answer to somebody who operates the cluster, in bytes. What is longer is cut.
pub const MAX_ANSWER: usize = 1 << 20;
/// The most counters of a worker.
pub const MAX_COUNTERS: usize = 1 << 14;

// Tags of `ToDriver`: 1 to 63.
const HELLO: u8 = 1;
const JOINED: u8 = 2;
const CANNOT_JOIN: u8 = 3;
const READY: u8 = 4;
const REPORT: u8 = 5;
const HEARTBEAT: u8 = 6;
const RESULTS: u8 = 7;
const PEER_LOST: u8 = 8;
const FAILED: u8 = 9;
const FINISHED: u8 = 10;
const RETURN: u8 = 11;
const ASK: u8 = 12;
const REGAINED: u8 = 13;
const NOTICE: u8 = 14;
const PANICKED: u8 = 15;

// Tags of `ToWorker`: 64 to 127.
const WELCOME: u8 = 64;
const REFUSED: u8 = 65;
const PEERS: u8 = 66;
const ORDER: u8 = 67;
const HEARTBEAT_ANSWER: u8 = 68;
const FINISH: u8 = 69;
const ABORT: u8 = 70;
const BACK: u8 = 71;
const ANSWER: u8 = 72;
const WAIT: u8 = 73;

// Tags of `Request`.
const STATUS: u8 = 1;
const SCALE: u8 = 2;
const DRAIN: u8 = 3;
const SAVEPOINT: u8 = 4;

/// The least bytes of an argument, a peer and a counter: what their number is checked against.
const ARGUMENT_LEN: usize = 4;
const PEER_LEN: usize = 4 + 8 + 2 + 7;
const COUNTER_LEN: usize = 4 + 8;

/// Appends a message to the driver: one whole frame. Ranges beyond what fits one frame go into
/// several, each a whole report; texts beyond [`MAX_TEXT`] are cut.
///
/// # Panics
///
/// If a limit of this module is exceeded, for instance [`MAX_ROWS`].
pub fn encode_to_driver(message: &ToDriver, out: &mut Vec<u8>) {
    if let ToDriver::Report(WorkerMessage { worker, incarnation, report: Report::Ranges(ranges) }) =
        message
        && ranges.len() > MAX_RANGES
    {
        for part in ranges.chunks(MAX_RANGES) {
            let report = Report::Ranges(part.to_vec());
            let part = WorkerMessage { worker: *worker, incarnation: *incarnation, report };
            encode_to_driver(&ToDriver::Report(part), out);
        }
        return;
    }
    append_frame(FrameKind::ToDriver, 0, out, |writer| write_to_driver(writer, message));
}

/// Reads the head of a frame to the driver.
pub fn decode_to_driver(head: &[u8]) -> Result<ToDriver, DecodeError> {
    let mut reader = Reader::new(head);
    let message = read_to_driver(&mut reader)?;
    reader.end("a message to the driver")?;
    Ok(message)
}

/// Appends a message to a worker: one whole frame. Texts beyond [`MAX_TEXT`] are cut.
///
/// # Panics
///
/// If a limit of this module is exceeded, for instance [`MAX_ARGUMENT`].
pub fn encode_to_worker(message: &ToWorker, out: &mut Vec<u8>) {
    append_frame(FrameKind::ToWorker, 0, out, |writer| write_to_worker(writer, message));
}

/// Reads the head of a frame to a worker.
pub fn decode_to_worker(head: &[u8]) -> Result<ToWorker, DecodeError> {
    let mut reader = Reader::new(head);
    let message = read_to_worker(&mut reader)?;
    reader.end("a message to a worker")?;
    Ok(message)
}

fn write_to_driver(writer: &mut Writer<'_>, message: &ToDriver) {
    match message {
        ToDriver::Hello { cores, process } => {
            writer.u8(HELLO);
            writer.u16(*cores);
            writer.u32(*process);
        }
        ToDriver::Joined { fingerprint, data_address, runtime } => {
            writer.u8(JOINED);
            writer.u64(*fingerprint);
            writer.address(*data_address);
            writer.text(runtime);
        }
        ToDriver::CannotJoin { reason } => {
            writer.u8(CANNOT_JOIN);
            writer.text(reason);
        }
        ToDriver::Ready => writer.u8(READY),
        ToDriver::Report(message) => {
            writer.u8(REPORT);
            write_worker_message(writer, message);
        }
        ToDriver::Heartbeat { sent_ns, status } => {
            writer.u8(HEARTBEAT);
            writer.u64(*sent_ns);
            write_status(writer, status);
        }
        ToDriver::Results { rows } => {
            writer.u8(RESULTS);
            writer.bytes(rows, MAX_ROWS);
        }
        ToDriver::PeerLost { worker, incarnation, reason } => {
            writer.u8(PEER_LOST);
            writer.u32(worker.0);
            writer.u64(incarnation.0);
            writer.text(reason);
        }
        ToDriver::Regained { core, epoch, what } => {
            writer.u8(REGAINED);
            writer.u16(*core);
            writer.u64(epoch.0);
            write_regained(writer, *what);
        }
        ToDriver::Failed { reason } => {
            writer.u8(FAILED);
            writer.text(reason);
        }
        ToDriver::Panicked(panic) => {
            writer.u8(PANICKED);
            write_panic(writer, panic);
        }
        ToDriver::Notice { line } => {
            writer.u8(NOTICE);
            writer.text(line);
        }
        ToDriver::Finished(report) => {
            writer.u8(FINISHED);
            write_final_report(writer, report);
        }
        ToDriver::Return(returning) => {
            writer.u8(RETURN);
            write_returning(writer, returning);
        }
        ToDriver::Ask(request) => {
            writer.u8(ASK);
            write_request(writer, request);
        }
    }
}

fn write_regained(writer: &mut Writer<'_>, what: Regained) {
    writer.u8(match what {
        Regained::State => 1,
        Regained::Time => 2,
    });
}

fn write_panic(writer: &mut Writer<'_>, panic: &TaskPanic) {
    let TaskPanic { stage, batch, epoch, cause } = panic;
    writer.u16(stage.0);
    writer.u64(batch.0);
    writer.u64(epoch.0);
    writer.text(cause);
}

fn read_to_driver(reader: &mut Reader<'_>) -> Result<ToDriver, DecodeError> {
    let what = "the tag of a message to the driver";
    Ok(match reader.u8(what)? {
        HELLO => ToDriver::Hello {
            cores: reader.u16("the number of a worker's cores")?,
            process: reader.u32("a process id")?,
        },
        JOINED => ToDriver::Joined {
            fingerprint: reader.u64("a plan's fingerprint")?,
            data_address: reader.address("a data address")?,
            runtime: reader.text("a runtime's name", MAX_TEXT)?,
        },
        CANNOT_JOIN => ToDriver::CannotJoin { reason: reader.text("a reason", MAX_TEXT)? },
        READY => ToDriver::Ready,
        REPORT => ToDriver::Report(read_worker_message(reader)?),
        HEARTBEAT => ToDriver::Heartbeat {
            sent_ns: reader.u64("a heartbeat's time")?,
            status: read_status(reader)?,
        },
        RESULTS => ToDriver::Results { rows: reader.bytes("rows", MAX_ROWS)?.to_vec() },
        PEER_LOST => ToDriver::PeerLost {
            worker: WorkerId(reader.u32("a lost worker's number")?),
            incarnation: Incarnation(reader.u64("a lost worker's incarnation")?),
            reason: reader.text("a reason", MAX_TEXT)?,
        },
        REGAINED => ToDriver::Regained {
            core: reader.u16("a core's number")?,
            epoch: Epoch(reader.u64("an epoch")?),
            what: match reader.u8("what is there again")? {
                1 => Regained::State,
                2 => Regained::Time,
                found => {
                    return Err(DecodeError::UnknownTag { what: "what is there again", found });
                }
            },
        },
        FAILED => ToDriver::Failed { reason: reader.text("a reason", MAX_TEXT)? },
        PANICKED => ToDriver::Panicked(TaskPanic {
            stage: StageId(reader.u16("a stage")?),
            batch: BatchId(reader.u64("a batch")?),
            epoch: Epoch(reader.u64("an epoch")?),
            cause: reader.text("a cause", MAX_TEXT)?,
        }),
        FINISHED => ToDriver::Finished(Box::new(read_final_report(reader)?)),
        RETURN => ToDriver::Return(read_returning(reader)?),
        ASK => ToDriver::Ask(read_request(reader)?),
        NOTICE => ToDriver::Notice { line: reader.text("a line", MAX_TEXT)? },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

fn write_returning(writer: &mut Writer<'_>, returning: &Returning) {
    let Returning { life, cores, process, fingerprint, data_address, runtime, term } = returning;
    writer.u32(life.worker.0);
    writer.u64(life.incarnation.0);
    writer.u16(*cores);
    writer.u32(*process);
    writer.u64(*fingerprint);
    writer.address(*data_address);
    writer.text(runtime);
    writer.u64(term.0);
}

fn read_returning(reader: &mut Reader<'_>) -> Result<Returning, DecodeError> {
    let worker = WorkerId(reader.u32("a worker's number")?);
    let incarnation = Incarnation(reader.u64("an incarnation")?);
    Ok(Returning {
        life: Life { worker, incarnation },
        cores: reader.u16("the number of a worker's cores")?,
        process: reader.u32("a process id")?,
        fingerprint: reader.u64("a plan's fingerprint")?,
        data_address: reader.address("a data address")?,
        runtime: reader.text("a runtime's name", MAX_TEXT)?,
        term: Term(reader.u64("a term")?),
    })
}

fn write_request(writer: &mut Writer<'_>, request: &Request) {
    match request {
        Request::Status => writer.u8(STATUS),
        Request::Scale { workers } => {
            writer.u8(SCALE);
            writer.u32(*workers);
        }
        Request::Drain { worker } => {
            writer.u8(DRAIN);
            writer.u32(worker.0);
        }
        Request::Savepoint { to } => {
            writer.u8(SAVEPOINT);
            writer.text(to);
        }
    }
}

fn read_request(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let what = "the tag of a request";
    Ok(match reader.u8(what)? {
        STATUS => Request::Status,
        SCALE => Request::Scale { workers: reader.u32("a number of workers")? },
        SAVEPOINT => Request::Savepoint { to: reader.text("a savepoint's folder", MAX_TEXT)? },
        DRAIN => Request::Drain { worker: WorkerId(reader.u32("a worker's number")?) },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

fn write_status(writer: &mut Writer<'_>, status: &WorkerStatus) {
    let WorkerStatus { completed, records, stalled, paused } = status;
    writer.u64(*completed);
    writer.u64(*records);
    for text in [stalled, paused] {
        writer.flag(text.is_some());
        if let Some(text) = text {
            writer.text(text);
        }
    }
}

fn read_status(reader: &mut Reader<'_>) -> Result<WorkerStatus, DecodeError> {
    let completed = reader.u64("the last completed batch")?;
    let records = reader.u64("the number of records")?;
    let mut text = |whether, what| match reader.flag(whether)? {
        true => Ok(Some(reader.text(what, MAX_TEXT)?)),
        false => Ok::<_, DecodeError>(None),
    };
    let stalled = text("whether a worker is stalled", "what a worker waits for")?;
    let paused = text("whether sources are paused", "why sources are paused")?;
    Ok(WorkerStatus { completed, records, stalled, paused })
}

fn write_final_report(writer: &mut Writer<'_>, report: &FinalReport) {
    let FinalReport {
        counters,
        control_cpu_ns,
        cores_cpu_ns,
        task_cpu_ns,
        idle_poll_ns,
        costs,
        control_calls,
    } = report;
    writer.count(counters.len(), MAX_COUNTERS);
    for (name, value) in counters {
        writer.text(name);
        writer.u64(*value);
    }
    for time_ns in [control_cpu_ns, cores_cpu_ns, task_cpu_ns, idle_poll_ns] {
        writer.u64(*time_ns);
    }
    write_costs(writer, costs);
    control_calls.by_kind().iter().for_each(|(_, count)| writer.u64(*count));
}

fn read_final_report(reader: &mut Reader<'_>) -> Result<FinalReport, DecodeError> {
    let count = reader.count("a list of counters", MAX_COUNTERS, COUNTER_LEN)?;
    let counters = (0..count)
        .map(|_| Ok((reader.text("a counter's name", MAX_TEXT)?, reader.u64("a counter")?)))
        .collect::<Result<_, DecodeError>>()?;
    Ok(FinalReport {
        counters,
        control_cpu_ns: reader.u64("the control thread's time")?,
        cores_cpu_ns: reader.u64("the core threads' time")?,
        task_cpu_ns: reader.u64("the time of tasks")?,
        idle_poll_ns: reader.u64("the time of looking in vain")?,
        costs: read_costs(reader)?,
        control_calls: SystemCalls::from_counts(read_numbers(reader, "system calls")?),
    })
}

fn write_costs(writer: &mut Writer<'_>, costs: &CoreCosts) {
    let CoreCosts { time, calls, memory } = costs;
    time.by_kind().iter().for_each(|(_, ns)| writer.u64(*ns));
    calls.by_kind().iter().for_each(|(_, count)| writer.u64(*count));
    let MemoryPeaks { blocks_bytes, state_bytes, results_bytes, spilled_bytes } = memory;
    for bytes in [blocks_bytes, state_bytes, results_bytes, spilled_bytes] {
        writer.u64(*bytes);
    }
}

fn read_costs(reader: &mut Reader<'_>) -> Result<CoreCosts, DecodeError> {
    Ok(CoreCosts {
        time: TimeByKind::from_times(read_numbers(reader, "the time of cores")?),
        calls: SystemCalls::from_counts(read_numbers(reader, "system calls")?),
        memory: MemoryPeaks {
            blocks_bytes: reader.u64("the memory of blocks")?,
            state_bytes: reader.u64("the memory of open windows")?,
            results_bytes: reader.u64("the memory of results")?,
            spilled_bytes: reader.u64("what was spilled")?,
        },
    })
}

fn read_numbers<const N: usize>(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<[u64; N], DecodeError> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = reader.u64(what)?;
    }
    Ok(numbers)
}

fn write_to_worker(writer: &mut Writer<'_>, message: &ToWorker) {
    match message {
        ToWorker::Welcome { term, worker, incarnation, arguments } => {
            writer.u8(WELCOME);
            writer.u64(term.0);
            writer.u32(worker.0);
            writer.u64(incarnation.0);
            writer.count(arguments.len(), MAX_ARGUMENTS);
            for argument in arguments {
                writer.bytes(argument.as_bytes(), MAX_ARGUMENT);
            }
        }
        ToWorker::Refused { reason } => {
            writer.u8(REFUSED);
            writer.text(reason);
        }
        ToWorker::Peers { cores_on_host, peers } => {
            writer.u8(PEERS);
            writer.u32(*cores_on_host);
            writer.count(peers.len(), MAX_PEERS);
            for peer in peers {
                write_peer(writer, peer);
            }
        }
        ToWorker::Order(message) => {
            writer.u8(ORDER);
            write_driver_message(writer, message);
        }
        ToWorker::HeartbeatAnswer { sent_ns, driver_ns } => {
            writer.u8(HEARTBEAT_ANSWER);
            writer.u64(*sent_ns);
            writer.u64(*driver_ns);
        }
        ToWorker::Wait => writer.u8(WAIT),
        ToWorker::Finish => writer.u8(FINISH),
        ToWorker::Abort { reason } => {
            writer.u8(ABORT);
            writer.text(reason);
        }
        ToWorker::Back { term } => {
            writer.u8(BACK);
            writer.u64(term.0);
        }
        ToWorker::Answer { text } => {
            writer.u8(ANSWER);
            let longest = text.floor_char_boundary(MAX_ANSWER);
            writer.bytes(&text.as_bytes()[..longest], MAX_ANSWER);
        }
    }
}

fn read_to_worker(reader: &mut Reader<'_>) -> Result<ToWorker, DecodeError> {
    let what = "the tag of a message to a worker";
    Ok(match reader.u8(what)? {
        WELCOME => ToWorker::Welcome {
            term: Term(reader.u64("a term")?),
            worker: WorkerId(reader.u32("a worker's number")?),
            incarnation: Incarnation(reader.u64("an incarnation")?),
            arguments: read_arguments(reader)?,
        },
        REFUSED => ToWorker::Refused { reason: reader.text("a reason", MAX_TEXT)? },
        PEERS => ToWorker::Peers {
            cores_on_host: reader.u32("the number of a host's cores")?,
            peers: read_peers(reader)?,
        },
        ORDER => ToWorker::Order(read_driver_message(reader)?),
        HEARTBEAT_ANSWER => ToWorker::HeartbeatAnswer {
            sent_ns: reader.u64("a heartbeat's time")?,
            driver_ns: reader.u64("the driver's time")?,
        },
        WAIT => ToWorker::Wait,
        FINISH => ToWorker::Finish,
        ABORT => ToWorker::Abort { reason: reader.text("a reason", MAX_TEXT)? },
        BACK => ToWorker::Back { term: Term(reader.u64("a term")?) },
        ANSWER => ToWorker::Answer { text: reader.text("an answer", MAX_ANSWER)? },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

fn read_arguments(reader: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    let count = reader.count("a list of arguments", MAX_ARGUMENTS, ARGUMENT_LEN)?;
    (0..count).map(|_| reader.text("an argument", MAX_ARGUMENT)).collect()
}

fn read_peers(reader: &mut Reader<'_>) -> Result<Vec<Peer>, DecodeError> {
    let count = reader.count("a list of peers", MAX_PEERS, PEER_LEN)?;
    (0..count).map(|_| read_peer(reader)).collect()
}

fn write_peer(writer: &mut Writer<'_>, peer: &Peer) {
    let Peer { worker, incarnation, cores, address } = peer;
    writer.u32(worker.0);
    writer.u64(incarnation.0);
    writer.u16(*cores);
    writer.address(*address);
}

fn read_peer(reader: &mut Reader<'_>) -> Result<Peer, DecodeError> {
    Ok(Peer {
        worker: WorkerId(reader.u32("a peer's number")?),
        incarnation: Incarnation(reader.u64("a peer's incarnation")?),
        cores: reader.u16("the number of a peer's cores")?,
        address: reader.address("a peer's address")?,
    })
}
