//! Rewrites of the graph, in order. Each says what it matched and made, and why it declined what
//! looked like a match.

mod batch;
mod budget;
pub mod dequantize;
mod fold;
mod merge;
mod recurrence;
mod simplify;
mod values;

use budget::Budget;

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::check::refine;
use crate::limits;

/// The rewrites of a pass, made and declined, for `inspect --passes`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Name of the pass.
    pub pass: &'static str,
    /// A line for each rewrite: what it matched and what it made.
    pub made: Vec<String>,
    /// Matches that stayed as they are, with the reason.
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
#[non_exhaustive]
pub struct Declined {
    /// The loop, cell or node.
    pub what: String,
    /// Why, in one line.
    pub reason: String,
}

/// A rewrite: the new graph, and what was done.
type Pass = fn(Graph, &mut Budget) -> Result<(Graph, Report)>;

/// The passes, in their order. `fold` makes weights constant for the passes that look for cells;
/// `cleanup` is the same again, after them.
const PASSES: [(&str, Pass); 7] = [
    ("fold", fold::fold),
    ("loops", |graph, _| recurrence::loops(graph)),
    ("unrolled", |graph, _| recurrence::unrolled(graph)),
    ("cleanup", fold::fold),
    // Before `merge`, which takes the transposes that it makes into the recurrent ops.
    ("batch", |graph, _| batch::batch(graph)),
    ("merge", merge::merge),
    ("cleanup", fold::fold),
];

/// Number of passes that [`run_all`] runs.
pub const COUNT: usize = PASSES.len();

/// Runs every pass in order; the graph is checked after each.
///
/// # Errors
/// As [`run_first`].
pub fn run_all(graph: Graph) -> Result<(Graph, Vec<Report>)> {
    run_first(graph, COUNT)
}

/// Runs the first `count` passes in order, all of them when there are fewer: what a difference
/// between two counts shows is the work of one pass. The graph is checked after each; the edits of
/// a pass that would make it invalid are dropped, and reported as declined.
///
/// # Errors
/// A limit that a pass ran into; declining is no error.
pub fn run_first(mut graph: Graph, count: usize) -> Result<(Graph, Vec<Report>)> {
    let mut budget = Budget::new(&graph);
    let mut reports = Vec::new();
    for (name, pass) in PASSES.into_iter().take(count) {
        limits::check()?;
        let before = graph.clone();
        let (rewritten, report) = pass(graph, &mut budget)?;
        let (kept, report) = checked(before, rewritten, Report { pass: name, ..report });
        graph = kept;
        reports.push(report);
    }
    Ok((graph, reports))
}

/// The result of a pass, when it is valid; otherwise the graph as it was.
fn checked(before: Graph, mut rewritten: Graph, mut report: Report) -> (Graph, Report) {
    match refine(&mut rewritten) {
        Ok(()) => (rewritten, report),
        Err(error) => {
            log::warn!("pass `{}` would make an invalid graph: {error}", report.pass);
            report.made.clear();
            report.declined.push(Declined {
                what: format!("all of `{}`", report.pass),
                reason: format!("the graph would be invalid: {error}"),
            });
            (before, report)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::{Op, Port, ValueType};
    use crate::tensor::DType;

    #[test]
    fn edits_that_would_break_a_graph_are_dropped_with_the_reason() {
        let mut graph = Graph::default();
        let [x, y] =
            ["x", "y"].map(|name| graph.add_value(name, ValueType::fixed(DType::F32, &[2])));
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.add_node(
            "neg",
            Op::Unary(crate::graph::op::Unary::Neg),
            vec![Some(x)],
            vec![Some(y)],
        );
        let mut broken = graph.clone();
        broken.nodes.clear();
        let mut report = Report::new("breaks");
        report.made.push("a mess".into());
        let (kept, report) = checked(graph.clone(), broken, report);
        assert_eq!((kept, report.made.len()), (graph, 0));
        assert!(report.declined[0].reason.contains("invalid"), "{report:?}");
    }

    #[test]
    fn the_first_passes_alone_can_be_run() {
        let (_, reports) = run_first(Graph::default(), 2).unwrap();
        let names: Vec<_> = reports.iter().map(|report| report.pass).collect();
        assert_eq!(names, ["fold", "loops"]);
        assert_eq!(run_all(Graph::default()).unwrap().1.len(), COUNT);
    }
}
