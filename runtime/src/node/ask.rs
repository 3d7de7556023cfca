//! Asking a driver for something, as who operates a cluster does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::node::NodeError;
use crate::wire::{
    FrameDecoder, FrameKind, Request, ToDriver, ToWorker, decode_to_worker, encode_to_driver,
};

/// How long a driver may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes that are read at a time.
const PIECE: usize = 16 * 1024;

/// Asks the driver at `address` for something; its answer.
pub fn ask_driver(address: SocketAddr, request: Request) -> Result<String, NodeError> {
    let cannot = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| {
            NodeError::Setup(format!("cannot {what} the driver at {address}: {error}"))
        }
    };
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(cannot("reach"))?;
    stream.set_read_timeout(Some(LIMIT)).map_err(cannot("ask"))?;
    stream.set_write_timeout(Some(LIMIT)).map_err(cannot("ask"))?;
    let mut bytes = Vec::new();
    encode_to_driver(&ToDriver::Ask(request), &mut bytes);
    stream.write_all(&bytes).map_err(cannot("ask"))?;
    let strange = |reason: String| {
        NodeError::Setup(format!("what listens at {address} is no driver of ours: {reason}"))
    };
    let (mut decoder, mut piece) = (FrameDecoder::new(), vec![0; PIECE]);
    loop {
        match decoder.next_frame().map_err(|error| strange(error.to_string()))? {
            Some(frame) if frame.kind == FrameKind::ToWorker => {
                let message = decode_to_worker(frame.head);
                return answer(message.map_err(|error| strange(error.to_string()))?);
            }
            Some(frame) => return Err(strange(format!("a frame {} came", frame.kind))),
            None => {}
        }
        match stream.read(&mut piece).map_err(cannot("hear"))? {
            0 => return Err(strange("it hung up without an answer".to_owned())),
            count => decoder.push(&piece[..count]),
        }
    }
}

fn answer(message: ToWorker) -> Result<String, NodeError> {
    match message {
        ToWorker::Answer { text } => Ok(text),
        ToWorker::Refused { reason } => Err(NodeError::Setup(reason)),
        other => Err(NodeError::Setup(format!("the driver answered with {other:?}"))),
    }
}
