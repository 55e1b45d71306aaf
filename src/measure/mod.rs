//! Measuring: how far two results are apart, what a series of timings says, and inputs to measure
//! with.

pub mod compare;
pub mod crosscheck;
pub mod golden;
pub mod inputs;
pub mod layout;
pub mod stats;

pub use compare::{Comparison, Tolerance, Worst};
