//! Holding devices against stored results, against `reference`, and value by value against each
//! other.

use super::compare::{Comparison, Tolerance, compare};
use super::golden::Run;
use super::inputs::{Sizes, seeded};
use super::layout::{AxisRole, roles};
use crate::error::{Error, Place as _, Result};
use crate::graph::op::SvdfArithmetic;
use crate::graph::recurrent::Arithmetic;
use crate::graph::{Graph, NodeId, Op, Port, ValueId};
use crate::session::{Device, Model, Session, SessionBuilder};
use crate::tensor::DType;

/// How a device is held against expected outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How far it may be from them.
    pub tolerance: Tolerance,
    /// Whether it must be within the tolerance. Otherwise its distance is only stated, and it must
    /// merely have the same shapes and types, and no NaN or infinity where none is expected.
    pub judged: bool,
}

/// One output of one run on one device.
#[derive(Debug)]
pub struct Check {
    /// Tag of the run; empty when the device could not be opened.
    pub run: String,
    /// Name of the output; empty when the whole run failed.
    pub output: String,
    /// Name of the device.
    pub device: String,
    /// What it was held to.
    pub rule: Rule,
    /// The distance, or why there is none.
    pub result: Result<Comparison>,
}

impl Check {
    /// A device that could not be opened, or a run that failed.
    pub fn failed(device: &str, run: &str, rule: Rule, error: Error) -> Check {
        Check {
            run: run.to_owned(),
            output: String::new(),
            device: device.to_owned(),
            rule,
            result: Err(error),
        }
    }

    /// Whether the output is as the rule wants it.
    pub fn holds(&self) -> bool {
        match &self.result {
            Ok(comparison) if self.rule.judged => comparison.holds(),
            Ok(comparison) => comparison.is_comparable(),
            Err(_) => false,
        }
    }
}

/// Whether a graph computes in hybrid or integer arithmetic somewhere, so that devices that compute
/// in float cannot be exact.
pub fn is_quantized(graph: &Graph) -> bool {
    let quantized_value = graph.values.iter().any(|value| {
        value.ty.quantization.is_some()
            && matches!(value.ty.dtype, DType::I8 | DType::U8 | DType::I16)
    });
    let quantized_op = graph.nodes.iter().any(|node| match &node.op {
        Op::Recurrent(op) => op.arithmetic != Arithmetic::Float,
        Op::Svdf(op) => op.arithmetic != SvdfArithmetic::Float,
        Op::While(op) => is_quantized(&op.condition) || is_quantized(&op.body),
        Op::Quantize => true,
        Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Conv2d(_)
        | Op::Pool2d(_)
        | Op::Unary(_)
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Cast(_)
        | Op::Dequantize
        | Op::Transpose
        | Op::Reshape
        | Op::Squeeze(_)
        | Op::ExpandDims
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::Pad
        | Op::Slice
        | Op::StridedSlice(_)
        | Op::Gather(_)
        | Op::Pack(_)
        | Op::Unpack(_)
        | Op::Split
        | Op::Concat(_)
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::SetItem
        | Op::Custom(_) => false,
    });
    quantized_value || quantized_op
}

/// The rule for a device: `reference` within `tolerance`; `cpu` and `gpu` within `tolerance`
/// widened by `allowance` for float models, while for hybrid and integer models, which they run on
/// dequantized weights, the distance is stated.
pub fn rule(model: &Model, device: &Device, tolerance: Tolerance, allowance: f64) -> Rule {
    if device.is_reference() {
        Rule { tolerance, judged: true }
    } else {
        Rule { tolerance: tolerance.widened(allowance), judged: !is_quantized(model.graph()) }
    }
}

/// Makes the runs on a session, the state reset or carried as their tags say, and compares every
/// output that they name.
pub fn check(session: &Session, device: &str, runs: &[Run], rule: Rule) -> Vec<Check> {
    let model = session.model();
    let graph = model.graph();
    let mut stream = session.stream();
    let mut checks = Vec::new();
    for run in runs {
        if !run.continues() {
            stream.reset();
        }
        let outputs = match stream.run(&run.typed_for(model).named_inputs()) {
            Ok(outputs) => outputs,
            Err(error) => {
                checks.push(Check::failed(device, &run.tag, rule, error));
                continue;
            }
        };
        for (name, expected) in &run.outputs {
            let roles = axes_of_output(model, graph, name);
            let result = outputs
                .get(name)
                .and_then(|actual| compare(expected, actual, rule.tolerance, &roles));
            let (run, output, device) = (run.tag.clone(), name.clone(), device.to_owned());
            checks.push(Check { run, output, device, rule, result });
        }
    }
    checks
}

fn axes_of_output(model: &Model, graph: &Graph, name: &str) -> Vec<AxisRole> {
    let port = model.output_index(name).ok().and_then(|index| graph.outputs.get(index));
    port.map(|port| roles(graph, port.value)).unwrap_or_default()
}

/// Runs with seeded random inputs, and the outputs of `reference` as the expected ones: one from
/// the reset state, and for a model with state a second one that goes on from it.
///
/// # Errors
/// Those of [`seeded`] and of the run.
pub fn seeded_runs(model: &Model, sizes: Sizes, seed: u64) -> Result<Vec<Run>> {
    let session = Session::new(model, Device::reference())?;
    let mut runs = Vec::new();
    let mut stream = session.stream();
    for (tag, offset) in [("seeded", 0), ("seeded+", 1)] {
        if offset > 0 && !model.is_stateful() {
            break;
        }
        let inputs = seeded(model, sizes, seed.wrapping_add(offset))?;
        let mut run = Run { tag: tag.to_owned(), inputs, outputs: Vec::new() };
        let outputs = stream.run(&run.named_inputs()).within(|| format!("reference, run {tag}"))?;
        run.outputs =
            outputs.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        runs.push(run);
    }
    Ok(runs)
}

/// One intermediate value on two devices.
#[derive(Debug)]
pub struct Intermediate {
    /// The node that computes it.
    pub node: NodeId,
    /// Name of its op.
    pub op: &'static str,
    /// Name of the node.
    pub name: String,
    /// Name of the value.
    pub value: String,
    /// The distance from `reference`.
    pub comparison: Comparison,
}

/// Compares every value that a node computes with `reference`, in the graph's order, for one run
/// from the reset state on the device that the builder is for. The first entry that does not hold is the first node that diverges.
///
/// # Errors
/// Those of the runs; [`Unsupported`](crate::ErrorKind::Unsupported) when the device cannot run the
/// graph with all its values as outputs.
pub fn intermediates(
    builder: &SessionBuilder,
    run: &Run,
    tolerance: Tolerance,
) -> Result<Vec<Intermediate>> {
    let (open, values) = with_all_values(builder.model().graph())?;
    let open = Model::from_graph(open)?;
    let run = run.typed_for(&open);
    let inputs = run.named_inputs();
    let expected = Session::new(&open, Device::reference())?.run(&inputs)?;
    let actual = builder.clone().for_model(&open).build()?.run(&inputs)?;
    let graph = open.graph();
    let results = expected.tensors().iter().zip(actual.tensors()).zip(&values);
    let mut intermediates = Vec::with_capacity(values.len());
    for ((expected, actual), (node, value)) in results {
        let Some(computed) = graph.node(*node) else { continue };
        intermediates.push(Intermediate {
            node: *node,
            op: computed.op.name(),
            name: computed.name.clone(),
            value: graph.get(*value).map(|value| value.name.clone()).unwrap_or_default(),
            comparison: compare(expected, actual, tolerance, &roles(graph, *value))?,
        });
    }
    Ok(intermediates)
}

/// The graph with every computed value as an output, and the values in that order.
fn with_all_values(graph: &Graph) -> Result<(Graph, Vec<(NodeId, ValueId)>)> {
    let mut open = graph.clone();
    open.outputs.clear();
    let mut values = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let node_id = NodeId(
            u32::try_from(index).map_err(|_| Error::internal("more nodes than can be numbered"))?,
        );
        for value in node.outputs.iter().flatten() {
            open.outputs.push(Port { name: format!("{}", values.len()), value: *value });
            values.push((node_id, *value));
        }
    }
    Ok((open, values))
}
