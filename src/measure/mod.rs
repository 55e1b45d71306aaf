//! Comparison of results, statistics, reports.
pub mod sweep;
pub mod synthetic;
