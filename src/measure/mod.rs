//! Measuring: how far two results are apart, what a series of timings says, and networks and sizes
//! to measure with.

pub mod bench;
pub mod chart;
pub mod compare;
pub mod crosscheck;
pub mod golden;
pub mod inputs;
pub mod layout;
pub mod report;
pub mod stats;
pub mod svg;
pub mod sweep;
pub mod synthetic;

pub use compare::{Comparison, Tolerance, Worst};
