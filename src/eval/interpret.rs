//! Whole graphs on host tensors: node by node, each tensor freed after its last use. Loops run
//! their two graphs this way, and the `reference` backend its steps.

use super::evaluate;
use crate::error::{Error, Place, Result};
use crate::graph::check::place;
use crate::graph::op::While;
use crate::graph::{Graph, Node, ValueId, ValueType};
use crate::limits;
use crate::tensor::{DType, Tensor};

/// Rounds after which a loop counts as endless. Sequences are far shorter: a day of audio in frames
/// of 10 ms is 2²³ steps.
const MOST_ROUNDS: u64 = 1 << 31;

/// Bytes that the variables of a loop may take together, so that one that doubles every round ends
/// in an error.
const MOST_LOOP_BYTES: usize = 1 << 32;

/// Computes one node; `lookup` gives its operands.
///
/// # Errors
/// What [`evaluate`] found, with the node's name and the types and shapes of its operands.
pub(crate) fn run_node<'t>(
    graph: &'t Graph,
    index: usize,
    lookup: impl Fn(ValueId) -> Option<&'t Tensor>,
) -> Result<Vec<Option<Tensor>>> {
    let node = graph
        .nodes
        .get(index)
        .ok_or_else(|| Error::internal(format!("there is no node {index}")))?;
    let mut inputs: Vec<Option<(&Tensor, &ValueType)>> = Vec::with_capacity(node.inputs.len());
    for id in &node.inputs {
        inputs.push(match id {
            None => None,
            Some(id) => {
                let (tensor, value) = lookup(*id).zip(graph.get(*id)).ok_or_else(|| {
                    Error::internal(format!("value {} is not there", id.0))
                        .within(place(index, node))
                })?;
                Some((tensor, &value.ty))
            }
        });
    }
    let outputs: Vec<Option<&ValueType>> = node
        .outputs
        .iter()
        .map(|id| id.and_then(|id| graph.get(id)).map(|value| &value.ty))
        .collect();
    evaluate(&node.op, &inputs, &outputs).within(|| described(index, node, &inputs))
}

/// `node 3 (dense, FullyConnected) of float32 [2, 3], float32 [4, 3], -`.
fn described(index: usize, node: &Node, inputs: &[Option<(&Tensor, &ValueType)>]) -> String {
    let operands: Vec<String> = inputs
        .iter()
        .map(|input| match input {
            None => "-".to_owned(),
            Some((tensor, _)) => format!("{} {:?}", tensor.dtype(), tensor.shape()),
        })
        .collect();
    format!("{} of {}", place(index, node), operands.join(", "))
}

/// A graph made ready to run any number of times.
pub(crate) struct Interpreter<'g> {
    graph: &'g Graph,
    /// Indices of the nodes that an output needs.
    steps: Vec<usize>,
    /// By value: the step that reads it last; `usize::MAX` for outputs.
    last_use: Vec<usize>,
}

impl<'g> Interpreter<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Self {
        let mut last_use = vec![0; graph.values.len()];
        let mut needed = vec![false; graph.values.len()];
        for port in &graph.outputs {
            if let Some(slot) = needed.get_mut(port.value.index()) {
                *slot = true;
                last_use[port.value.index()] = usize::MAX;
            }
        }
        let mut steps = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            if node.outputs.iter().flatten().any(|id| needed.get(id.index()) == Some(&true)) {
                steps.push(index);
                for id in node.inputs.iter().flatten() {
                    if let Some(slot) = needed.get_mut(id.index()) {
                        *slot = true;
                    }
                }
            }
        }
        steps.reverse();
        for (position, &index) in steps.iter().enumerate() {
            for id in graph.nodes[index].inputs.iter().flatten() {
                if let Some(last) = last_use.get_mut(id.index()) {
                    *last = position.max(*last);
                }
            }
        }
        Interpreter { graph, steps, last_use }
    }

    /// The outputs for these inputs, in the graph's order.
    pub(crate) fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if inputs.len() != self.graph.inputs.len() {
            return Err(Error::graph(format!(
                "expected {} inputs, found {}",
                self.graph.inputs.len(),
                inputs.len()
            )));
        }
        let mut values: Vec<Option<Tensor>> = vec![None; self.graph.values.len()];
        for (port, tensor) in self.graph.inputs.iter().zip(inputs) {
            if let Some(slot) = values.get_mut(port.value.index()) {
                *slot = Some(tensor.clone());
            }
        }
        for (position, &index) in self.steps.iter().enumerate() {
            let results = run_node(self.graph, index, |id| self.find(&values, id))?;
            let node = &self.graph.nodes[index];
            for (id, result) in node.outputs.iter().zip(results) {
                if let Some(slot) = id.and_then(|id| values.get_mut(id.index())) {
                    *slot = result;
                }
            }
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                let at = id.index();
                if self.last_use.get(at).is_some_and(|&last| last <= position) {
                    values[at] = None;
                }
            }
        }
        let output = |id: ValueId| {
            self.find(&values, id)
                .cloned()
                .ok_or_else(|| Error::internal(format!("value {} is not there", id.0)))
        };
        self.graph.outputs.iter().map(|port| output(port.value)).collect()
    }

    fn find<'v>(&'v self, values: &'v [Option<Tensor>], id: ValueId) -> Option<&'v Tensor> {
        values.get(id.index())?.as_ref().or_else(|| self.graph.constant(id))
    }
}

/// The final values of a loop's variables.
pub(crate) fn while_loop(body: &While, mut variables: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let condition = Interpreter::new(&body.condition);
    let step = Interpreter::new(&body.body);
    for _ in 0..MOST_ROUNDS {
        limits::check()?;
        if !holds(&condition.run(&variables).within(|| "condition")?)? {
            return Ok(variables);
        }
        let next = step.run(&variables).within(|| "body")?;
        if next.len() != variables.len() {
            return Err(Error::graph(format!(
                "the body has {} results for {} variables",
                next.len(),
                variables.len()
            )));
        }
        variables = next;
        let bytes =
            variables.iter().fold(0usize, |sum, tensor| sum.saturating_add(tensor.byte_len()));
        if bytes > MOST_LOOP_BYTES {
            return Err(Error::limit(format!(
                "the loop's variables take {bytes} bytes, the limit is {MOST_LOOP_BYTES}"
            )));
        }
    }
    Err(Error::limit(format!("the loop does not end within {MOST_ROUNDS} rounds")))
}

fn holds(results: &[Tensor]) -> Result<bool> {
    match results {
        [one] if one.dtype() == DType::Bool && one.len() == 1 => Ok(one.as_slice::<bool>()?[0]),
        _ => Err(Error::graph("condition: expected one bool scalar")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::graph::op::{Activation, Binary, BinaryFunction, Concat};
    use crate::graph::{Op, Port};

    fn binary(function: BinaryFunction) -> Op {
        Op::Binary(Binary { function, activation: Activation::Linear })
    }

    fn int(shape: &[usize]) -> ValueType {
        ValueType::fixed(DType::I32, shape)
    }

    /// `i < limit`, for variables i and x.
    fn condition(limit: i32, x: ValueType) -> Graph {
        let mut graph = Graph::default();
        for (name, ty) in [("i", int(&[])), ("x", x)] {
            let value = graph.add_value(name, ty);
            graph.inputs.push(Port { name: name.into(), value });
        }
        let end = graph.add_constant("limit", Tensor::scalar(limit));
        let go = graph.add_value("go", ValueType::fixed(DType::Bool, &[]));
        let i = graph.inputs[0].value;
        graph.add_node(
            "less",
            binary(BinaryFunction::Less),
            vec![Some(i), Some(end)],
            vec![Some(go)],
        );
        graph.outputs.push(Port { name: "go".into(), value: go });
        graph
    }

    /// `i + 1`, `op(x, x)`.
    fn body(x: ValueType, op: Op) -> Graph {
        let mut graph = Graph::default();
        let i = graph.add_value("i", int(&[]));
        let x_in = graph.add_value("x", x.clone());
        let one = graph.add_constant("one", Tensor::scalar(1i32));
        let next = graph.add_value("next", int(&[]));
        let x_out = graph.add_value("x'", ValueType::unranked(x.dtype));
        for value in [i, x_in] {
            graph.inputs.push(Port { name: String::new(), value });
        }
        graph.add_node(
            "count",
            binary(BinaryFunction::Add),
            vec![Some(i), Some(one)],
            vec![Some(next)],
        );
        graph.add_node("work", op, vec![Some(x_in), Some(x_in)], vec![Some(x_out)]);
        for value in [next, x_out] {
            graph.outputs.push(Port { name: String::new(), value });
        }
        graph
    }

    #[test]
    fn a_loop_runs_until_its_condition_fails() {
        for rounds in [0i32, 1, 10] {
            let x = int(&[2]);
            let loop_ = While {
                condition: condition(rounds, x.clone()),
                body: body(x, binary(BinaryFunction::Add)),
            };
            let start = vec![Tensor::scalar(0i32), Tensor::from_slice(&[2], &[1i32, 3]).unwrap()];
            let end = while_loop(&loop_, start).unwrap();
            assert_eq!(end[0].as_slice::<i32>().unwrap(), [rounds]);
            assert_eq!(end[1].as_slice::<i32>().unwrap(), [1 << rounds, 3 << rounds]);
        }
    }

    #[test]
    fn a_variable_that_doubles_every_round_ends_in_an_error() {
        let x = ValueType::unranked(DType::I8);
        let concat = Op::Concat(Concat { axis: 0, activation: Activation::Linear });
        let loop_ = While { condition: condition(i32::MAX, x.clone()), body: body(x, concat) };
        // Ten rounds to the limit.
        let start = vec![Tensor::scalar(0i32), Tensor::zeros(DType::I8, &[1 << 23]).unwrap()];
        assert_eq!(while_loop(&loop_, start).unwrap_err().kind(), crate::ErrorKind::Limit);
    }

    #[test]
    fn a_loop_without_end_ends_at_the_deadline() {
        let x = int(&[2]);
        let loop_ = While {
            condition: condition(i32::MAX, x.clone()),
            body: body(x, binary(BinaryFunction::Minimum)),
        };
        let start = vec![Tensor::scalar(0i32), Tensor::from_slice(&[2], &[1i32, 3]).unwrap()];
        let limit = std::time::Duration::from_millis(50);
        let _bounds = limits::RunOptions::new().time_limit(limit).begin().enter();
        let error = while_loop(&loop_, start).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Limit);
        assert!(error.to_string().contains("the limit is 0.1 s"), "{error}");
    }

    #[test]
    fn a_failure_says_where_and_on_what() {
        let x = int(&[2]);
        let loop_ = While {
            condition: condition(3, x.clone()),
            body: body(x, binary(BinaryFunction::And)),
        };
        let start = vec![Tensor::scalar(0i32), Tensor::from_slice(&[2], &[1i32, 3]).unwrap()];
        let text = while_loop(&loop_, start).unwrap_err().to_string();
        assert!(text.starts_with("body: node 1 (work, And) of int32 [2], int32 [2]: "), "{text}");
    }
}
