//! The Yahoo Streaming Benchmark: ad events as JSON lines; keep the views, join each ad with its
//! campaign, count per campaign and window of event time.
//!
//! [`job`] is the job itself. Beside it: [`flags`] what a user may choose, [`table`] ads and
//! campaigns, [`generator`] events at a rate, [`replay`] events in memory, [`oracle`] the same counts by a plain sequential run,
//! [`run`] and [`report`] how it is started and what it prints.

pub mod event;
pub mod flags;
pub mod generator;
pub mod job;
pub mod oracle;
pub mod output;
pub mod replay;
pub mod report;
pub mod results;
mod run;
pub mod table;

pub use flags::YsbArguments;
pub use run::main;

#[cfg(test)]
mod tests;
