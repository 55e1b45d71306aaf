//! Rewrites of the graph, in order. Each says what it matched and made, and why it declined what
//! looked like a match.

mod batch;
pub mod dequantize;
mod fold;
mod merge;
mod recurrence;

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::graph::check::refine;

/// What a pass did or would not do, for `inspect --passes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the pass.
    pub pass: &'static str,
    /// A line for each rewrite: what it matched and what it made.
    pub made: Vec<String>,
    /// What stayed as it is, and the reason.
    pub declined: Vec<Declined>,
}

impl Report {
    /// An empty report of a pass.
    pub fn new(pass: &'static str) -> Self {
        Report { pass, made: Vec::new(), declined: Vec::new() }
    }
}

/// Something that stayed as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// The loop, cell or node.
    pub what: String,
    /// Why, in one line.
    pub reason: String,
}

/// A rewrite: the new graph, and what was done.
type Pass = fn(Graph) -> Result<(Graph, Report)>;

/// The passes, in their order. `fold` makes weights constant for the passes that look for cells,
/// and clears up after them.
const PASSES: [(&str, Pass); 7] = [
    ("fold", fold::fold),
    ("loops", recurrence::loops),
    ("chains", recurrence::chains),
    ("clear", fold::fold),
    // Before `merge`, which takes the transposes that it makes into the recurrent ops.
    ("batch", batch::batch),
    ("merge", merge::merge),
    ("last", fold::fold),
];

/// Runs every pass in order; the graph is checked after each.
///
/// # Errors
/// Only when a pass broke the graph ([`Internal`](crate::ErrorKind::Internal)): declining is no
/// error.
pub fn run_all(mut graph: Graph) -> Result<(Graph, Vec<Report>)> {
    let mut reports = Vec::new();
    for (name, pass) in PASSES {
        let (mut rewritten, report) = pass(graph)?;
        refine(&mut rewritten).map_err(|error| {
            Error::internal(format!("pass `{name}` broke the graph")).with_source(error)
        })?;
        graph = rewritten;
        reports.push(Report { pass: name, ..report });
    }
    Ok((graph, reports))
}
