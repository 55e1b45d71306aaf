//! Comparison of results, statistics, reports.
