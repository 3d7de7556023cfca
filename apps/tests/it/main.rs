//! The binary as a user sees it: real processes, real files, real ports.
//!
//! Every process has a limit of time after which it is killed and its output shown, so that a job
//! that hangs fails its test instead of stopping all of them. Nothing else here depends on a clock.

#![forbid(unsafe_code)]

mod between;
mod cluster;
mod command_line;
mod generator;
mod hosts;
mod inputs;
mod matrix;
mod memory;
mod pairwise;
mod process;
mod recovery;
mod senders;
mod slow;
mod sum;
