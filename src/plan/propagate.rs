//! Types and known elements of every value, from the inputs on.

use crate::error::{Error, Place, Result};
use crate::eval::evaluate;
use crate::graph::check::{place, state_type};
use crate::graph::infer::{Operand, infer};
use crate::graph::op::While;
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// Largest result that is computed while planning. Shapes, permutations and initial states are far
/// smaller; larger results are left to the run, so that a plan does not grow with the model's
/// weights.
const MOST_KNOWN_ELEMENTS: usize = 65_536;

/// Elements that all evaluations of one plan may read and write together: some 0.1 s, however many
/// nodes a file has.
const EVALUATION_BUDGET: usize = 1 << 24;

/// Loops in loops whose bodies are still gone through; each level goes through the next at most
/// [`LOOP_ROUNDS`] times.
const DEEPEST_LOOP: usize = 3;

/// How often a loop's body is gone through to find the sizes that stay as they are. Once is enough
/// for nearly every loop: nothing changes. Twice when some variable grows; a third time when others
/// depend on it.
const LOOP_ROUNDS: usize = 3;

/// What is known of every value of a graph, by value index.
pub(super) struct Facts {
    pub(super) types: Vec<Option<ValueType>>,
    pub(super) known: Vec<Option<Tensor>>,
    /// By state: the shape before and after a run.
    pub(super) state_shapes: Vec<Vec<usize>>,
}

/// Goes through the graph until the shapes of its states are known.
///
/// A state's batch size is open in the first round, which finds out what is written to it; the
/// second round starts from that.
pub(super) fn with_states(graph: &Graph, inputs: &[ValueType]) -> Result<Facts> {
    let live = super::lifetime::live_nodes(graph, |_| false);
    let mut states = Vec::with_capacity(graph.states.len());
    for state in &graph.states {
        let declared = &value_of(graph, state.value)?.ty;
        // Nothing follows what no node writes.
        states.push(if state.next == state.value {
            declared.clone()
        } else {
            state_type(declared)
        });
    }
    let mut facts = Walk::new(0).graph(graph, inputs, &states, &live)?;
    if graph.states.is_empty() {
        return Ok(facts);
    }
    for (state, ty) in graph.states.iter().zip(&mut states) {
        let next = facts.get(state.next).and_then(ValueType::known_shape);
        let declared = value_of(graph, state.value)?.ty.known_shape();
        let shape = next.or(declared).ok_or_else(|| {
            Error::graph(format!("state {:?}: its shape follows from nothing", state.name))
        })?;
        *ty = ValueType {
            quantization: ty.quantization.clone(),
            ..ValueType::fixed(ty.dtype, &shape)
        };
    }
    facts = Walk::new(0).graph(graph, inputs, &states, &live)?;
    for (state, ty) in graph.states.iter().zip(&states) {
        let before = ty.known_shape().unwrap_or_default();
        // A shape that depends on data is held against the state's when the model runs.
        if let Some(after) = facts.get(state.next).and_then(ValueType::known_shape)
            && after != before
        {
            return Err(Error::graph(format!(
                "state {:?}: expected the same shape before and after a run, found {before:?} and {after:?}",
                state.name
            )));
        }
        facts.state_shapes.push(before);
    }
    Ok(facts)
}

fn value_of(graph: &Graph, id: ValueId) -> Result<&crate::graph::Value> {
    graph.get(id).ok_or_else(|| Error::graph(format!("no value has index {}", id.0)))
}

impl Facts {
    fn get(&self, id: ValueId) -> Option<&ValueType> {
        self.types.get(id.index())?.as_ref()
    }
}

/// One walk over a graph, and over the bodies of its loops.
struct Walk {
    depth: usize,
    budget: usize,
}

impl Walk {
    fn new(depth: usize) -> Self {
        Walk { depth, budget: EVALUATION_BUDGET }
    }

    fn graph(
        &mut self,
        graph: &Graph,
        inputs: &[ValueType],
        states: &[ValueType],
        live: &[bool],
    ) -> Result<Facts> {
        let count = graph.values.len();
        let mut facts =
            Facts { types: vec![None; count], known: vec![None; count], state_shapes: Vec::new() };
        for (index, value) in graph.values.iter().enumerate() {
            if let Some(tensor) = &value.constant {
                facts.types[index] = Some(value.ty.clone());
                facts.known[index] = Some(tensor.clone());
            }
        }
        let given = graph.inputs.iter().map(|port| port.value).zip(inputs);
        let kept = graph.states.iter().map(|state| state.value).zip(states);
        for (id, ty) in given.chain(kept) {
            if let Some(slot) = facts.types.get_mut(id.index()) {
                *slot = Some(ty.clone());
            }
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            if live.get(index) == Some(&true) {
                self.node(graph, node, &mut facts).within(|| place(index, node))?;
            }
        }
        Ok(facts)
    }

    fn node(&mut self, graph: &Graph, node: &Node, facts: &mut Facts) -> Result<()> {
        let types = self.infer(graph, node, facts)?;
        let known = self.evaluate(graph, node, &types, facts)?;
        for (slot, id) in node.outputs.iter().enumerate() {
            let Some(index) = id.map(|id| id.index()) else { continue };
            let (Some(ty), Some(declared)) = (types.get(slot), graph.values.get(index)) else {
                return Err(Error::graph(format!("result {slot} does not exist")));
            };
            let mut ty = ty.clone();
            ty.quantization.clone_from(&declared.ty.quantization);
            if matches!(node.op, Op::Quantize) {
                ty.dtype = declared.ty.dtype;
            }
            facts.types[index] = Some(ty);
            facts.known[index] = known.get(slot).cloned().flatten();
        }
        Ok(())
    }

    fn infer(&mut self, graph: &Graph, node: &Node, facts: &Facts) -> Result<Vec<ValueType>> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            let Some(id) = *id else {
                operands.push(None);
                continue;
            };
            let ty = facts.get(id).ok_or_else(|| {
                let name = graph.get(id).map_or("", |value| value.name.as_str());
                Error::graph(format!("value {} ({name}) is used before it is computed", id.0))
            })?;
            operands.push(Some(Operand {
                ty,
                known: facts.known.get(id.index()).and_then(Option::as_ref),
            }));
        }
        let types = infer(&node.op, &operands, node.outputs.len())?;
        if let Op::Custom(custom) = &node.op {
            return Err(Error::unsupported(format!(
                "{} is known by name only: it can be carried and written, not run",
                custom.name
            )));
        }
        if let Op::While(body) = &node.op
            && self.depth < DEEPEST_LOOP
        {
            let variables: Vec<ValueType> =
                operands.iter().flatten().map(|operand| operand.ty.clone()).collect();
            return self.loop_types(body, variables);
        }
        Ok(types)
    }

    /// The types of a loop's variables that hold before and after every round.
    fn loop_types(
        &mut self,
        body: &While,
        mut variables: Vec<ValueType>,
    ) -> Result<Vec<ValueType>> {
        let live = super::lifetime::live_nodes(&body.body, |_| false);
        for _ in 0..LOOP_ROUNDS {
            self.depth += 1;
            let round = self.graph(&body.body, &variables, &[], &live).within(|| "body");
            self.depth -= 1;
            let facts = round?;
            let after = body.body.outputs.iter().map(|port| facts.get(port.value));
            let stable: Vec<ValueType> =
                variables.iter().zip(after).map(|(ty, after)| common(ty, after)).collect();
            if stable == variables {
                return Ok(variables);
            }
            variables = stable;
        }
        for ty in &mut variables {
            ty.shape = None;
        }
        Ok(variables)
    }

    /// The node's results, when they follow from what is known and are small.
    fn evaluate(
        &mut self,
        graph: &Graph,
        node: &Node,
        types: &[ValueType],
        facts: &Facts,
    ) -> Result<Vec<Option<Tensor>>> {
        if let Op::Shape(dtype) = node.op {
            let x = node.input(0).and_then(|id| facts.get(id)?.known_shape());
            return Ok(vec![x.and_then(|shape| shape_tensor(dtype, &shape))]);
        }
        let Some(inputs) = known_operands(graph, node, facts) else {
            return Ok(Vec::new());
        };
        let cost = types.iter().map(|ty| ty.known_shape()).try_fold(0usize, |sum, shape| {
            sum.checked_add(crate::tensor::element_count(&shape?).ok()?)
        });
        let read: usize = inputs.iter().flatten().map(|(tensor, _)| tensor.len()).sum();
        let affordable = cost
            .filter(|&cost| cost <= MOST_KNOWN_ELEMENTS)
            .and_then(|cost| cost.checked_add(read));
        let Some(left) = affordable.and_then(|cost| self.budget.checked_sub(cost)) else {
            return Ok(Vec::new());
        };
        self.budget = left;
        let wanted: Vec<Option<&ValueType>> = node
            .outputs
            .iter()
            .map(|id| id.and_then(|id| graph.get(id)).map(|value| &value.ty))
            .collect();
        // A node that fails fails again when it runs, with its operands in the message; in a loop
        // it may never run.
        Ok(evaluate(&node.op, &inputs, &wanted).unwrap_or_default())
    }
}

/// The operands as `evaluate` takes them, when all of them are known and the op is no heavy one.
fn known_operands<'a>(
    graph: &'a Graph,
    node: &Node,
    facts: &'a Facts,
) -> Option<Vec<Option<(&'a Tensor, &'a ValueType)>>> {
    if !decides_shapes(&node.op) {
        return None;
    }
    let known = |id: ValueId| {
        let index = id.index();
        Some((facts.known.get(index)?.as_ref()?, &graph.values.get(index)?.ty))
    };
    node.inputs.iter().map(|id| id.map_or(Some(None), |id| known(id).map(Some))).collect()
}

/// Whether an op is worth evaluating while planning: products, layers and loops cost more than
/// their operands' elements.
fn decides_shapes(op: &Op) -> bool {
    match op {
        Op::Recurrent(_)
        | Op::Svdf(_)
        | Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Conv2d(_)
        | Op::Pool2d(_)
        | Op::While(_)
        | Op::Custom(_) => false,
        Op::Unary(_)
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Cast(_)
        | Op::Quantize
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
        | Op::SetItem => true,
    }
}

fn shape_tensor(dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let sizes: Vec<i64> =
        shape.iter().map(|&size| i64::try_from(size).ok()).collect::<Option<_>>()?;
    match dtype {
        DType::I64 => Tensor::from_vec(&[sizes.len()], sizes).ok(),
        DType::I32 => {
            let sizes: Vec<i32> =
                sizes.into_iter().map(|size| i32::try_from(size).ok()).collect::<Option<_>>()?;
            Tensor::from_vec(&[sizes.len()], sizes).ok()
        }
        _ => None,
    }
}

/// What holds of both: the sizes that are equal.
fn common(a: &ValueType, b: Option<&ValueType>) -> ValueType {
    let shape = match (&a.shape, b.and_then(|b| b.shape.as_ref())) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            Some(a.iter().zip(b).map(|(&a, &b)| if a == b { a } else { Dim::Unknown }).collect())
        }
        _ => None,
    };
    ValueType { shape, ..a.clone() }
}
