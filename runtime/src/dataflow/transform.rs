//! Operators that turn one record into at most one other, fused into one loop per stage.
//!
//! Each holds the operators before it and hands its records on by a call that the compiler sees
//! through, so a chain of them costs what one hand-written loop would.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::dataflow::{Owned, Row, Stamp};

/// A chain of operators within a stage.
pub trait Transform<In: Row>: Clone + Send + Sync + 'static {
    /// What it yields.
    type Out: Row;

    /// Sends `record` through the chain; `emit` is called with what comes out, if anything.
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, emit: F)
    where
        F: FnMut(&<Self::Out as Row>::Of<'_>, &Stamp);

    /// Reports what the chain counted, by name.
    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64));
}

/// The empty chain.
#[derive(Clone, Copy, Debug)]
pub struct Identity;

impl<In: Row> Transform<In> for Identity {
    type Out = In;

    #[inline]
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, mut emit: F)
    where
        F: FnMut(&In::Of<'_>, &Stamp),
    {
        emit(record, stamp);
    }

    fn counters(&self, _report: &mut dyn FnMut(&str, &str, u64)) {}
}

/// Keeps the records that a predicate holds for, and counts the others as `dropped`.
#[derive(Clone, Debug)]
pub struct Filter<T, P> {
    pub(super) previous: T,
    pub(super) name: Arc<str>,
    pub(super) keep: P,
    pub(super) dropped: u64,
}

impl<In, T, P> Transform<In> for Filter<T, P>
where
    In: Row,
    T: Transform<In>,
    P: Fn(&<T::Out as Row>::Of<'_>) -> bool + Clone + Send + Sync + 'static,
{
    type Out = T::Out;

    #[inline]
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, mut emit: F)
    where
        F: FnMut(&<T::Out as Row>::Of<'_>, &Stamp),
    {
        let Filter { previous, keep, dropped, .. } = self;
        previous.apply(record, stamp, |record, stamp| {
            if keep(record) {
                emit(record, stamp);
            } else {
                *dropped += 1;
            }
        });
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        self.previous.counters(report);
        report(&self.name, "dropped", self.dropped);
    }
}

/// Turns each record into another.
#[derive(Clone, Debug)]
pub struct Map<T, M> {
    pub(super) previous: T,
    pub(super) map: M,
}

impl<In, T, M, U> Transform<In> for Map<T, M>
where
    In: Row,
    U: 'static,
    T: Transform<In>,
    M: Fn(&<T::Out as Row>::Of<'_>) -> U + Clone + Send + Sync + 'static,
{
    type Out = Owned<U>;

    #[inline]
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, mut emit: F)
    where
        F: FnMut(&U, &Stamp),
    {
        let Map { previous, map } = self;
        previous.apply(record, stamp, |record, stamp| emit(&map(record), stamp));
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        self.previous.counters(report);
    }
}

/// Turns each record into another or into nothing, and counts the latter as `dropped`.
#[derive(Clone, Debug)]
pub struct FilterMap<T, M> {
    pub(super) previous: T,
    pub(super) name: Arc<str>,
    pub(super) map: M,
    pub(super) dropped: u64,
}

impl<In, T, M, U> Transform<In> for FilterMap<T, M>
where
    In: Row,
    U: 'static,
    T: Transform<In>,
    M: Fn(&<T::Out as Row>::Of<'_>) -> Option<U> + Clone + Send + Sync + 'static,
{
    type Out = Owned<U>;

    #[inline]
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, mut emit: F)
    where
        F: FnMut(&U, &Stamp),
    {
        let FilterMap { previous, map, dropped, .. } = self;
        previous.apply(record, stamp, |record, stamp| match map(record) {
            Some(result) => emit(&result, stamp),
            None => *dropped += 1,
        });
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        self.previous.counters(report);
        report(&self.name, "dropped", self.dropped);
    }
}

/// The side of a lookup join that is there before the job starts, the same on every node.
pub trait Lookup<K: ?Sized>: Send + Sync + 'static {
    /// What a key leads to.
    type Value;

    /// The value of `key`, if there is one.
    fn lookup(&self, key: &K) -> Option<Self::Value>;
    /// Hash over its content: workers with another table are refused.
    fn fingerprint(&self) -> u64;
}

/// Joins each record with what its key leads to in a table, and counts the others as `unmatched`.
pub struct LookupJoin<T, L, Q, J, K: ?Sized> {
    pub(super) previous: T,
    pub(super) name: Arc<str>,
    pub(super) table: Arc<L>,
    pub(super) key: Q,
    pub(super) join: J,
    pub(super) unmatched: u64,
    pub(super) marker: PhantomData<fn(&K)>,
}

impl<T: Clone, L, Q: Clone, J: Clone, K: ?Sized> Clone for LookupJoin<T, L, Q, J, K> {
    fn clone(&self) -> Self {
        LookupJoin {
            previous: self.previous.clone(),
            name: self.name.clone(),
            table: self.table.clone(),
            key: self.key.clone(),
            join: self.join.clone(),
            unmatched: self.unmatched,
            marker: PhantomData,
        }
    }
}

impl<In, T, L, Q, J, K, U> Transform<In> for LookupJoin<T, L, Q, J, K>
where
    In: Row,
    U: 'static,
    K: ?Sized + 'static,
    T: Transform<In>,
    L: Lookup<K>,
    Q: for<'r, 'a> Fn(&'r <T::Out as Row>::Of<'a>) -> &'r K + Clone + Send + Sync + 'static,
    J: Fn(&<T::Out as Row>::Of<'_>, L::Value) -> U + Clone + Send + Sync + 'static,
{
    type Out = Owned<U>;

    #[inline]
    fn apply<F>(&mut self, record: &In::Of<'_>, stamp: &Stamp, mut emit: F)
    where
        F: FnMut(&U, &Stamp),
    {
        let LookupJoin { previous, table, key, join, unmatched, .. } = self;
        previous.apply(record, stamp, |record, stamp| match table.lookup(key(record)) {
            Some(value) => emit(&join(record, value), stamp),
            None => *unmatched += 1,
        });
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        self.previous.counters(report);
        report(&self.name, "unmatched", self.unmatched);
    }
}
