//! Data connections to other worker processes. Each peer worker's connection belongs to one core;
//! the other cores reach it through that core's mailbox.

use std::collections::BTreeMap;
use std::net::TcpStream;

use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{BatchId, CoreId, Incarnation, PartitionId, WorkerId};
use drizzle_shuffle::{BlockHeader, BlockStore, ReceiveError};

use crate::dataflow::Job;
use crate::io::{Io, Outcome, Token};
use crate::transport::{Closed, Connection, Parcel};
use crate::wire::{DataHead, FrameKind, decode_data, encode_block, encode_data};

#[cfg(test)]
mod tests;

/// A connection to a peer worker, as it is handed to the core that will own it.
#[derive(Debug)]
pub struct LinkPlan {
    /// The peer.
    pub worker: WorkerId,
    /// Its life: blocks of another one are refused.
    pub incarnation: Incarnation,
    /// The connection, greeted on both sides.
    pub stream: TcpStream,
}

/// The connections that one core owns.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<WorkerId, Link>,
}

#[derive(Debug)]
struct Link {
    incarnation: Incarnation,
    connection: Connection,
    /// A block could not be taken in for want of memory: nothing more is received until it can.
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    to_core: u16,
    header: BlockHeader,
    body: Vec<u8>,
}

/// Something that arrived for a core of this worker.
#[derive(Debug)]
pub struct Arrival {
    /// Number of the core.
    pub to_core: u16,
    /// What it is.
    pub parcel: Parcel,
}

/// What taking in a block needs.
pub struct Intake<'a> {
    /// The job, which knows the types of its edges.
    pub job: &'a Job,
    /// Where bodies are copied to.
    pub store: &'a mut BlockStore,
    /// How many cores this worker has.
    pub cores: u16,
}

impl Links {
    /// Takes the connections over.
    pub fn new(plans: Vec<LinkPlan>) -> std::io::Result<Links> {
        let link = |LinkPlan { worker, incarnation, stream }| {
            let connection = Connection::new(stream, u64::from(worker.0))?;
            Ok((worker, Link { incarnation, connection, stalled: None }))
        };
        Ok(Links { links: plans.into_iter().map(link).collect::<std::io::Result<_>>()? })
    }

    /// Whether the connection to `worker` belongs here.
    pub fn has(&self, worker: WorkerId) -> bool {
        self.links.contains_key(&worker)
    }

    /// Queues a parcel for a core of a peer.
    pub fn send(&mut self, to: CoreId, parcel: Parcel) {
        let Some(link) = self.links.get_mut(&to.worker) else { return };
        let to_core = to.core;
        match parcel {
            Parcel::Block(block) => {
                let same = block.clone();
                link.connection.send_block(block, |out| encode_block(to_core, &same, out));
            }
            Parcel::Completed { from, batch } => link.connection.send(|out| {
                encode_data(&DataHead::Completed { from, to_core, batch }, 0, out);
            }),
        }
    }

    /// Takes the outcome of an operation, and what has arrived with it.
    pub fn completed(
        &mut self,
        token: Token,
        outcome: Outcome,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), (WorkerId, Closed)> {
        let worker = WorkerId(Connection::number_of(token) as u32);
        let Some(link) = self.links.get_mut(&worker) else { return Ok(()) };
        let result = link.connection.completed(outcome);
        let result = result.and_then(|()| link.take_in(intake, arrivals));
        result.map_err(|closed| {
            self.links.remove(&worker);
            (worker, closed)
        })
    }

    /// Starts what can be started, and tries again to take in what there was no memory for.
    pub fn drive(
        &mut self,
        io: &mut dyn Io,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), (WorkerId, Closed)> {
        let result = self.links.iter_mut().try_for_each(|(&worker, link)| {
            link.drive(io, intake, arrivals).map_err(|closed| (worker, closed))
        });
        if let Err((worker, _)) = &result {
            self.links.remove(worker);
        }
        result
    }

    /// Whether a block waits for memory, so that the core must look again without being woken.
    pub fn is_stalled(&self) -> bool {
        self.links.values().any(|link| link.stalled.is_some())
    }
}

impl Link {
    fn drive(
        &mut self,
        io: &mut dyn Io,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        if self.stalled.is_some() {
            self.take_in(intake, arrivals)?;
        }
        match self.stalled {
            Some(_) => self.connection.drive_sends(io),
            None => self.connection.drive(io),
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        if let Some(Stalled { to_core, header, body }) = self.stalled.take() {
            self.take_in_block(to_core, header, &body, intake, arrivals)?;
        }
        while self.stalled.is_none()
            && let Some(frame) = self.connection.next_frame()?
        {
            if frame.kind != FrameKind::Data {
                return Err(Closed::Protocol(format!("a frame {} came", frame.kind)));
            }
            match decode_data(frame.head, frame.body.len())? {
                DataHead::Hello { .. } => {
                    return Err(Closed::Protocol("a second greeting came".to_owned()));
                }
                DataHead::Completed { from, to_core, batch } => {
                    let parcel = Parcel::Completed { from, batch };
                    arrivals.push(Arrival { to_core, parcel });
                }
                // Ranges are relayed to those who keep them, and no job does yet.
                DataHead::Ranges { .. } => {
                    return Err(Closed::Protocol("ranges came, which nobody keeps".to_owned()));
                }
                DataHead::Block { to_core, header } => {
                    check_header(intake, self.incarnation, to_core, &header)?;
                    let Err((header, body)) =
                        receive(to_core, header, frame.body, intake, arrivals)?
                    else {
                        continue;
                    };
                    self.stalled = Some(Stalled { to_core, header, body });
                }
            }
        }
        Ok(())
    }

    fn take_in_block(
        &mut self,
        to_core: u16,
        header: BlockHeader,
        body: &[u8],
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        if let Err((header, body)) = receive(to_core, header, body, intake, arrivals)? {
            self.stalled = Some(Stalled { to_core, header, body });
        }
        Ok(())
    }
}

/// A header and body that there was no memory for.
type NoMemory = (BlockHeader, Vec<u8>);

fn receive(
    to_core: u16,
    header: BlockHeader,
    body: &[u8],
    intake: &mut Intake<'_>,
    arrivals: &mut Vec<Arrival>,
) -> Result<Result<(), NoMemory>, Closed> {
    let unknown = || Closed::Protocol("a block came on an edge that the plan does not have".into());
    let check =
        intake.job.check_of(header.notice.edge, header.notice.content).ok_or_else(unknown)?;
    match intake.store.receive(header.clone(), body) {
        Err(ReceiveError::Full(_)) => Ok(Err((header, body.to_vec()))),
        received => {
            let block = received.and_then(|unchecked| unchecked.validate(check));
            let block = block.map_err(|error| Closed::Protocol(error.to_string()))?;
            arrivals.push(Arrival { to_core, parcel: Parcel::Block(block) });
            Ok(Ok(()))
        }
    }
}

/// What a header says must fit the plan before anything is decided by it.
fn check_header(
    intake: &Intake<'_>,
    incarnation: Incarnation,
    to_core: u16,
    header: &BlockHeader,
) -> Result<(), Closed> {
    let notice = &header.notice;
    let plan: &Plan = intake.job.plan();
    let wrong = |what: &str| Err(Closed::Protocol(format!("a block came {what}")));
    if notice.incarnation != incarnation {
        return wrong("from another life of that worker");
    }
    if to_core >= intake.cores || notice.batch == BatchId(0) {
        return wrong("for a core or batch that does not exist");
    }
    let Some(edge) = plan.edges.get(notice.edge.index()) else {
        return wrong("on an edge that the plan does not have");
    };
    let beyond = |partitions: &[PartitionId], count: u32| {
        partitions.iter().any(|partition| partition.0 >= count)
    };
    if beyond(&notice.upstream, plan.stage(edge.from).partition_count)
        || beyond(&notice.downstream, plan.stage(edge.to).partition_count)
    {
        return wrong("for partitions that its edge does not have");
    }
    Ok(())
}
