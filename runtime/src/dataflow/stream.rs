//! Streams: what a user strings operators on. A stream is a stage under construction; keying and
//! windowing it ends the stage with a shuffle and begins the next.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use drizzle_scheduler::StageId;
use drizzle_scheduler::plan::StageKind;
use drizzle_shuffle::{PartialEntry, PartitionKey, RawEntry, Record, checker};

use crate::dataflow::aggregate::{Aggregate, Count};
use crate::dataflow::job::{Builder, EdgeChecks};
use crate::dataflow::shuffle_terminal::ShuffleTerminal;
use crate::dataflow::sink_terminal::SinkTerminal;
use crate::dataflow::stage::{Fused, Head};
use crate::dataflow::transform::{Filter, FilterMap, Identity, Lookup, LookupJoin, Map, Transform};
use crate::dataflow::window::Tumbling;
use crate::dataflow::window_head::WindowHead;
use crate::dataflow::{Row, Sink};

/// What a stream's operators yield.
type Out<H, T> = <T as Transform<<H as Head>::Record>>::Out;

/// Records on their way from a head `H` through operators `T`.
#[derive(Debug)]
#[must_use = "a stream must end in a sink"]
pub struct Stream<H, T> {
    builder: Rc<RefCell<Builder>>,
    stage: StageId,
    head: H,
    transform: T,
}

impl<H: Head, T: Transform<H::Record>> Stream<H, T> {
    pub(super) fn new(
        builder: Rc<RefCell<Builder>>,
        stage: StageId,
        head: H,
        transform: T,
    ) -> Stream<H, T> {
        Stream { builder, stage, head, transform }
    }

    /// Keeps the records that `keep` holds for; the others are counted as `NAME.dropped`.
    pub fn filter<P>(self, name: &str, keep: P) -> Stream<H, Filter<T, P>>
    where
        P: Fn(&<Out<H, T> as Row>::Of<'_>) -> bool + Clone + Send + Sync + 'static,
    {
        self.builder.borrow_mut().operator("filter", name, 0);
        let name = name.into();
        self.then(|previous| Filter { previous, name, keep, dropped: 0 })
    }

    /// Turns each record into another.
    pub fn map<M, U>(self, name: &str, map: M) -> Stream<H, Map<T, M>>
    where
        U: 'static,
        M: Fn(&<Out<H, T> as Row>::Of<'_>) -> U + Clone + Send + Sync + 'static,
    {
        self.builder.borrow_mut().operator("map", name, 0);
        self.then(|previous| Map { previous, map })
    }

    /// Turns each record into another or drops it; the latter are counted as `NAME.dropped`.
    pub fn filter_map<M, U>(self, name: &str, map: M) -> Stream<H, FilterMap<T, M>>
    where
        U: 'static,
        M: Fn(&<Out<H, T> as Row>::Of<'_>) -> Option<U> + Clone + Send + Sync + 'static,
    {
        self.builder.borrow_mut().operator("filter map", name, 0);
        let name = name.into();
        self.then(|previous| FilterMap { previous, name, map, dropped: 0 })
    }

    /// Looks the key of each record up in a table that is the same on every node, and joins what it
    /// leads to; records without a match are counted as `NAME.unmatched`.
    pub fn lookup_join<K, L, Q, J, U>(
        self,
        name: &str,
        table: Arc<L>,
        key: Q,
        join: J,
    ) -> Stream<H, LookupJoin<T, L, Q, J, K>>
    where
        K: ?Sized + 'static,
        L: Lookup<K>,
        U: 'static,
        Q: for<'r, 'a> Fn(&'r <Out<H, T> as Row>::Of<'a>) -> &'r K + Clone + Send + Sync + 'static,
        J: Fn(&<Out<H, T> as Row>::Of<'_>, L::Value) -> U + Clone + Send + Sync + 'static,
    {
        self.builder.borrow_mut().operator("lookup join", name, table.fingerprint());
        let name = name.into();
        self.then(|previous| LookupJoin {
            previous,
            name,
            table,
            key,
            join,
            unmatched: 0,
            marker: PhantomData,
        })
    }

    /// Groups records by a key.
    pub fn key_by<F, K>(self, key: F) -> KeyedStream<H, T, F, K>
    where
        K: Record + PartitionKey,
        F: Fn(&<Out<H, T> as Row>::Of<'_>) -> K + Clone + Send + Sync + 'static,
    {
        KeyedStream { stream: self, key, marker: PhantomData }
    }

    /// Writes the records to a sink.
    pub fn sink<S: Sink<Out<H, T>>>(self, name: &str, sink: S) {
        let mut builder = self.builder.borrow_mut();
        builder.operator("sink", name, sink.fingerprint());
        let terminal = SinkTerminal { sink, name: name.into() };
        let fused = Fused { head: self.head, transform: self.transform, terminal };
        builder.finish_stage(self.stage, Arc::new(fused));
    }

    fn then<U>(self, wrap: impl FnOnce(T) -> U) -> Stream<H, U> {
        let Stream { builder, stage, head, transform } = self;
        Stream { builder, stage, head, transform: wrap(transform) }
    }
}

/// Records grouped by a key.
#[derive(Debug)]
#[must_use = "a stream must end in a sink"]
pub struct KeyedStream<H, T, F, K> {
    stream: Stream<H, T>,
    key: F,
    marker: PhantomData<fn() -> K>,
}

impl<H, T, F, K> KeyedStream<H, T, F, K>
where
    H: Head,
    T: Transform<H::Record>,
    K: Record + PartitionKey,
    F: Fn(&<Out<H, T> as Row>::Of<'_>) -> K + Clone + Send + Sync + 'static,
{
    /// Divides each key's records into windows of event time. A record is late, and dropped, if its
    /// window had ended by the watermark of its own source partition.
    pub fn window(self, window: Tumbling) -> WindowedStream<H, T, F, K> {
        WindowedStream { keyed: self, window }
    }
}

/// Records grouped by a key and a window.
#[derive(Debug)]
#[must_use = "a stream must end in a sink"]
pub struct WindowedStream<H, T, F, K> {
    keyed: KeyedStream<H, T, F, K>,
    window: Tumbling,
}

impl<H, T, F, K> WindowedStream<H, T, F, K>
where
    H: Head,
    T: Transform<H::Record>,
    K: Record + PartitionKey,
    F: Fn(&<Out<H, T> as Row>::Of<'_>) -> K + Clone + Send + Sync + 'static,
{
    /// Counts the records of each key and window. The operator reports `NAME.counted`, `NAME.late`
    /// and `NAME.results`.
    pub fn count(self, name: &str) -> Stream<WindowHead<Out<H, T>, K, Count>, Identity> {
        self.aggregate(name, Count)
    }

    /// Aggregates the records of each key and window.
    pub fn aggregate<A>(
        self,
        name: &str,
        aggregate: A,
    ) -> Stream<WindowHead<Out<H, T>, K, A>, Identity>
    where
        A: Aggregate<Out<H, T>>,
    {
        let WindowedStream { keyed: KeyedStream { stream, key, .. }, window } = self;
        let mut builder = stream.builder.borrow_mut();
        builder.operator(std::any::type_name::<A>(), name, window.length_ms());
        let partitions = builder.options.partitions;
        let to = builder.stage(name, StageKind::Stateful, partitions);
        let checks = EdgeChecks {
            raw: checker::<RawEntry<K, A::Value>>(),
            partial: checker::<PartialEntry<K, A::Accumulator>>(),
        };
        let terminal = ShuffleTerminal {
            name: name.into(),
            edge: builder.edge(stream.stage, to, checks),
            to,
            key,
            window,
            aggregate: aggregate.clone(),
            combine: builder.options.combine,
            marker: PhantomData,
        };
        let fused = Fused { head: stream.head, transform: stream.transform, terminal };
        builder.finish_stage(stream.stage, Arc::new(fused));
        drop(builder);
        let head = WindowHead { name: name.into(), window, aggregate, marker: PhantomData };
        Stream::new(stream.builder, to, head, Identity)
    }
}
