//! Checks and chores of this workspace. `tidy` holds the rules of style that a machine can check.
#![forbid(unsafe_code)]

pub mod tidy;
