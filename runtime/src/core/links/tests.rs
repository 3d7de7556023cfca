//! What a core takes in from another process, and what it hangs up on.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use drizzle_scheduler::{BatchId, EdgeId, Incarnation, PartitionId, WorkerId};
use drizzle_shuffle::{
    Block, BlockHeader, BlockStore, Bundle, BundleHeader, Place, Readers, StoreOptions,
};

use super::{Arrival, Cargo, Intake, LinkPlan, Links, Meeting};
use crate::dataflow::Combine;
use crate::dataflow::tests::harness::{Bench, Items, Sum, core, item, options, windowed};
use crate::io::{Completion, Io, IoKind, open};
use crate::transport::{Closed, Connection, Parcel, Rendezvous, Sharing, meet};
use crate::wire::{DataHead, MappedPlace, decode_data, encode_bundle, encode_data, encode_mapped};

const PEER: WorkerId = WorkerId(1);
const PAGE: usize = 4096;

/// A core that is linked to one peer, which is a plain stream.
struct Receiver {
    bench: Bench,
    store: BlockStore,
    io: Box<dyn Io>,
    links: Links,
    peer: TcpStream,
    arrivals: Vec<Arrival>,
    cores: u16,
}

impl Receiver {
    fn new(pages: usize) -> Receiver {
        Receiver::with(pages, None)
    }

    fn with(pages: usize, meeting: Option<Meeting>) -> Receiver {
        let items = Items::new(&[(0..20).map(|key| item(key, 1, 1)).collect()]);
        let (mut bench, _) = windowed(items, Sum, options(2, Combine::Never));
        bench.batch();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        let plan = LinkPlan { worker: PEER, incarnation: Incarnation(1), stream, meeting };
        let store = StoreOptions { segment_bytes: PAGE, max_bytes: pages * PAGE };
        Receiver {
            bench,
            store: BlockStore::new(store),
            io: open(IoKind::Epoll).unwrap(),
            links: Links::new(vec![plan]).unwrap(),
            peer,
            arrivals: Vec::new(),
            cores: 2,
        }
    }

    /// The block that the job's source wrote.
    fn block(&self) -> Block {
        self.bench.blocks[0].1.clone()
    }

    fn write(&self, to_core: u16, change: impl FnOnce(&mut BlockHeader)) {
        let block = self.block();
        let mut header = block.header().clone();
        header.checksum = block.checksum();
        change(&mut header);
        let mut bytes = Vec::new();
        let header = BundleHeader::new(vec![(to_core, header)]);
        encode_data(&DataHead::Blocks { header }, block.body().len(), &mut bytes);
        self.write_bytes(&bytes);
        self.write_bytes(block.body());
    }

    fn write_bytes(&self, bytes: &[u8]) {
        std::io::Write::write_all(&mut &self.peer, bytes).unwrap();
    }

    /// One turn of the core's loop over its connections.
    fn turn(&mut self) -> Result<(), (WorkerId, Closed)> {
        let mut intake =
            Intake { edges: &self.bench.job, store: &mut self.store, cores: self.cores };
        self.links.drive(&mut *self.io, &mut intake, &mut self.arrivals)?;
        self.io.park(Some(Duration::from_millis(5)));
        let mut completions = Vec::new();
        self.io.poll(&mut completions);
        completions.into_iter().try_for_each(|Completion { token, outcome }| {
            self.links.completed(token, outcome, &mut intake, &mut self.arrivals)
        })
    }

    fn until(&mut self, mut done: impl FnMut(&Receiver) -> bool) {
        for _ in 0..2000 {
            self.turn().unwrap();
            if done(self) {
                return;
            }
        }
        panic!("{:?} arrived, and it is not done", self.arrivals);
    }

    fn closed(&mut self) -> Closed {
        for _ in 0..2000 {
            if let Err((worker, closed)) = self.turn() {
                assert_eq!(worker, PEER);
                assert!(
                    !self.links.links.contains_key(&PEER),
                    "the connection is given up: {closed}"
                );
                return closed;
            }
        }
        panic!("the connection is still open");
    }
}

#[test]
fn blocks_and_credit_arrive_for_the_core_that_they_name() {
    let mut receiver = Receiver::new(4);
    let mut bytes = Vec::new();
    encode_bundle(&Bundle::new(1, receiver.block()), &mut bytes);
    receiver.write_bytes(&bytes);
    receiver.write_bytes(receiver.block().body());
    bytes.clear();
    let credit = DataHead::Completed { from: core(1), to_core: 0, batch: BatchId(7) };
    encode_data(&credit, 0, &mut bytes);
    receiver.write_bytes(&bytes);
    receiver.until(|receiver| receiver.arrivals.len() == 2);
    let Arrival { to_core: 1, parcel: Parcel::Block(block) } = &receiver.arrivals[0] else {
        panic!("{:?}", receiver.arrivals);
    };
    assert_eq!(
        (block.notice(), block.body()),
        (receiver.block().notice(), receiver.block().body())
    );
    let Arrival { to_core: 0, parcel: Parcel::Completed { from, batch } } = receiver.arrivals[1]
    else {
        panic!("{:?}", receiver.arrivals);
    };
    assert_eq!((from, batch), (core(1), BatchId(7)));
}

#[test]
fn blocks_for_several_cores_arrive_from_one_frame() {
    let mut receiver = Receiver::new(4);
    let block = receiver.block();
    let full = BlockHeader { checksum: block.checksum(), ..block.header().clone() };
    let record_counts = full.record_counts.iter().map(|_| 0).collect();
    let empty = BlockHeader { record_counts, body_len: 0, checksum: 0, ..full.clone() };
    let header = BundleHeader::new(vec![(0, full), (1, empty)]);
    let mut bytes = Vec::new();
    encode_data(&DataHead::Blocks { header }, block.body().len(), &mut bytes);
    let (first, rest) = block.body().split_at(10);
    receiver.write_bytes(&bytes);
    receiver.write_bytes(first);
    receiver.turn().unwrap();
    assert!(receiver.arrivals.is_empty(), "most of the body is missing");
    receiver.write_bytes(rest);
    receiver.until(|receiver| receiver.arrivals.len() == 2);
    let counts = receiver.arrivals.iter().map(|arrival| match &arrival.parcel {
        Parcel::Block(block) => (arrival.to_core, block.record_count()),
        Parcel::Completed { .. } | Parcel::Ranges { .. } | Parcel::State(_) => {
            panic!("{arrival:?} was not sent")
        }
    });
    assert_eq!(counts.collect::<Vec<_>>(), [(0, block.record_count()), (1, 0)]);
}

#[test]
fn a_header_that_does_not_fit_the_plan_closes_the_connection() {
    type Change = fn(&mut BlockHeader);
    let cases: [(&str, u16, Change); 6] = [
        ("another life", 0, |header| header.notice.incarnation = Incarnation(2)),
        ("core or batch", 2, |_| {}),
        ("core or batch", 0, |header| header.notice.batch = BatchId(0)),
        ("on an edge", 0, |header| header.notice.edge = EdgeId(1)),
        ("for partitions", 0, |header| header.notice.downstream = [PartitionId(2)].into()),
        ("for partitions", 0, |header| header.notice.upstream = [PartitionId(1)].into()),
    ];
    for (word, to_core, change) in cases {
        let mut receiver = Receiver::new(4);
        receiver.write(to_core, change);
        let closed = receiver.closed();
        assert!(matches!(&closed, Closed::Protocol(text) if text.contains(word)), "{closed}");
        assert!(receiver.arrivals.is_empty());
    }
}

#[test]
fn a_damaged_body_closes_the_connection() {
    let mut receiver = Receiver::new(4);
    receiver.write(0, |header| header.checksum ^= 1);
    let closed = receiver.closed();
    assert!(matches!(&closed, Closed::Protocol(text) if text.contains("checksum")), "{closed}");
}

/// Fills a store of one page with blocks that arrived, until one more waits for memory.
fn stalled(change_last: impl Fn(&mut BlockHeader)) -> Receiver {
    let mut receiver = Receiver::new(1);
    let fitting = PAGE / receiver.block().body().len();
    (0..fitting).for_each(|_| receiver.write(0, |_| {}));
    receiver.write(0, change_last);
    receiver.until(|receiver| receiver.links.is_stalled());
    assert_eq!(receiver.arrivals.len(), fitting);
    receiver
}

#[test]
fn a_block_without_memory_waits_and_holds_back_what_is_behind_it() {
    let mut receiver = stalled(|_| {});
    let fitting = receiver.arrivals.len();
    receiver.write(1, |_| {});
    (0..3).for_each(|_| receiver.turn().unwrap());
    assert_eq!(receiver.arrivals.len(), fitting, "nothing gets past it");
    receiver.arrivals.clear();
    receiver.until(|receiver| receiver.arrivals.len() == 2);
    let cores: Vec<u16> = receiver.arrivals.iter().map(|arrival| arrival.to_core).collect();
    assert_eq!(cores, [0, 1]);
    assert!(!receiver.links.is_stalled());
}

#[test]
fn a_block_that_waited_and_is_bad_closes_the_connection() {
    let mut receiver = stalled(|header| header.checksum ^= 1);
    receiver.arrivals.clear();
    let closed = receiver.closed();
    assert!(matches!(&closed, Closed::Protocol(text) if text.contains("checksum")), "{closed}");
    assert!(receiver.turn().is_ok(), "it is told once");
}

/// A peer of a receiver, which has come to the receiver's rendezvous.
struct Guest {
    receiver: Receiver,
    sharing: Sharing,
    store: BlockStore,
}

impl Guest {
    fn new() -> Guest {
        let rendezvous = Rendezvous::new().unwrap();
        let sharing = Sharing::new(meet(rendezvous.name()).unwrap());
        let receiver = Receiver::with(8, Some(Meeting::Expected(rendezvous)));
        let guest = Guest { receiver, sharing, store: shared_store(8) };
        guest.say(&DataHead::Met);
        guest
    }

    fn say(&self, head: &DataHead) {
        let mut bytes = Vec::new();
        encode_data(head, 0, &mut bytes);
        self.receiver.write_bytes(&bytes);
    }

    fn block(&mut self) -> Block {
        in_store(&self.receiver, &mut self.store)
    }

    fn lend(&mut self, change: impl FnOnce(&mut MappedPlace)) -> Block {
        let block = self.block();
        let bundle = Bundle::new(0, block.clone());
        let mut places = self.sharing.lend(&bundle).unwrap().places;
        change(&mut places[0]);
        let mut bytes = Vec::new();
        encode_mapped(&bundle, &places, &mut bytes);
        self.receiver.write_bytes(&bytes);
        block
    }

    fn expect_refusal(mut self, word: &str) {
        let closed = self.receiver.closed();
        assert!(matches!(&closed, Closed::Protocol(text) if text.contains(word)), "{closed}");
        assert!(self.receiver.arrivals.is_empty());
    }
}

fn shared_store(pages: usize) -> BlockStore {
    let options = StoreOptions { segment_bytes: PAGE, max_bytes: pages * PAGE };
    BlockStore::for_readers(options, Readers::Processes)
}

/// The receiver's sample, in another store.
fn in_store(receiver: &Receiver, store: &mut BlockStore) -> Block {
    let block = receiver.block();
    let header = BlockHeader { checksum: block.checksum(), ..block.header().clone() };
    let check = receiver.bench.job.check_of(header.notice.edge, header.notice.content).unwrap();
    store.receive(&header, block.body()).unwrap().validate(check).unwrap()
}

#[test]
fn a_block_is_copied_from_where_it_lies_and_then_released() {
    let mut guest = Guest::new();
    let sent: Vec<Block> = (0..3).map(|_| guest.lend(|_| {})).collect();
    assert_eq!(guest.sharing.lent_blocks(), 3);
    guest.receiver.until(|receiver| receiver.arrivals.len() == 3);
    for (arrival, sent) in guest.receiver.arrivals.iter().zip(&sent) {
        let Parcel::Block(block) = &arrival.parcel else { panic!("{arrival:?}") };
        assert_eq!((block.notice(), block.body()), (sent.notice(), sent.body()));
        assert_ne!(block.body().as_ptr(), sent.body().as_ptr());
    }
    guest.receiver.turn().unwrap();
    let mut heard = Connection::new(guest.receiver.peer.try_clone().unwrap(), 7).unwrap();
    let mut io = open(IoKind::Epoll).unwrap();
    while guest.sharing.lent_blocks() > 0 {
        heard.drive(&mut *io);
        io.park(Some(Duration::from_millis(5)));
        let mut completions = Vec::new();
        io.poll(&mut completions);
        completions.into_iter().for_each(|done| heard.completed(done.outcome).unwrap());
        while let Some(frame) = heard.next_frame().unwrap() {
            match decode_data(frame.head, 0).unwrap() {
                DataHead::Released { copied } => guest.sharing.released(copied).unwrap(),
                head => panic!("{head:?} was not to be sent"),
            }
        }
        guest.receiver.turn().unwrap();
    }
}

#[test]
fn two_ends_share_memory_and_recycle_it() {
    const BLOCKS: usize = 200;
    let rendezvous = Rendezvous::new().unwrap();
    let met = Meeting::Met(meet(rendezvous.name()).unwrap());
    let mut far = Receiver::with(8, Some(Meeting::Expected(rendezvous)));
    let stream = far.peer.try_clone().unwrap();
    let plan = LinkPlan { worker: PEER, incarnation: Incarnation(1), stream, meeting: Some(met) };
    let mut near = Receiver::with(8, None);
    near.links = Links::new(vec![plan]).unwrap();
    let mut store = shared_store(8);
    let one = near.block().body().len();
    let cores = u16::try_from(8192_usize.div_ceil(one)).unwrap();
    far.cores = cores;
    let (mut sent, mut arrived) = (0, 0);
    for _ in 0..20_000 {
        if sent < BLOCKS && store.retained_bytes() < 7 * PAGE {
            let mut bundle = Bundle::new(0, in_store(&near, &mut store));
            (1..cores).for_each(|core| bundle.add(core, in_store(&near, &mut store)).unwrap());
            near.links.send(PEER, &Cargo::Blocks(bundle));
            sent += 1;
        }
        near.turn().unwrap();
        far.turn().unwrap();
        arrived += far.arrivals.drain(..).count();
        if arrived == BLOCKS * usize::from(cores) && near.links.links[&PEER].lent() == 0 {
            return;
        }
    }
    panic!("{sent} sent, {arrived} arrived, {} not released", near.links.links[&PEER].lent());
}

#[test]
fn places_where_no_block_lies_close_the_connection() {
    type Change = fn(&mut MappedPlace);
    let cases: [(&str, Change); 4] = [
        ("did not share", |mapped| mapped.segment += 1),
        ("has none at", |mapped| mapped.place.offset = 8192),
        ("of generation", |mapped| mapped.place.generation += 1),
        ("checksum", |mapped| mapped.place = Place { offset: 1024, ..mapped.place }),
    ];
    for (word, change) in cases {
        let mut guest = Guest::new();
        guest.lend(change);
        guest.expect_refusal(word);
    }
}

#[test]
fn memory_that_is_not_shared_is_not_spoken_of() {
    for head in [DataHead::Released { copied: 0 }, DataHead::Retired { segment: 0 }, DataHead::Met]
    {
        let mut receiver = Receiver::new(4);
        let mut bytes = Vec::new();
        encode_data(&head, 0, &mut bytes);
        receiver.write_bytes(&bytes);
        let closed = receiver.closed();
        assert!(matches!(&closed, Closed::Protocol(text) if text.contains("shared")), "{closed}");
    }
    let cases = [
        (DataHead::Released { copied: 1 }, "released blocks"),
        (DataHead::Retired { segment: 0 }, "gave up a segment"),
        (DataHead::Met, "not shared"),
    ];
    for (head, word) in cases {
        let guest = Guest::new();
        guest.say(&head);
        guest.expect_refusal(word);
    }
}
