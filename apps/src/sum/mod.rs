//! The paper's micro-benchmark (section 5.2): tasks that each sum some numbers, in one stage or in
//! two with a shuffle between them. It shows what scheduling costs, because there is little else.
//!
//! [`job`] is the job itself, over [`numbers`]; its results are [`tally`]-ed. [`oracle`] has the same
//! sums by a plain loop, [`flags`], [`run`] and [`report`] say how it is started and what it prints.

pub mod flags;
pub mod job;
pub mod numbers;
pub mod oracle;
mod report;
mod run;
pub mod tally;

pub use flags::SumArguments;
pub use run::main;

#[cfg(test)]
mod tests;
