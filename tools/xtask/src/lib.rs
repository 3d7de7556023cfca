//! Checks and chores of this workspace. `sim` runs the simulator, `tidy` holds the rules of style that a machine can check.
#![forbid(unsafe_code)]

pub mod sim;
pub mod tidy;
