//! Stages opened by hand and run batch by batch: no scheduler, no thread, no clock.

pub(crate) mod harness;
mod jobs;
mod operators;
mod shuffle;
mod sources;
mod states;
mod windows;
