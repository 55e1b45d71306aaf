//! Values of a loop's body as values over all iterations, `[B, n]` becoming `[T, B, n]`: what does not
//! depend on the iteration before can be computed for all iterations at once.

use std::collections::{HashMap, HashSet};

use crate::graph::op::{Activation, BinaryFunction, Concat, FullyConnected, Unary};
use crate::graph::{Dim, Graph, Node, NodeId, Op, ValueId, ValueMap, ValueType};
use crate::passes::recurrence::shape_tracer::ShapeTracer;
use crate::passes::recurrence::step::Reason;
use crate::tensor::Tensor;

/// Longest chain of ops between a list and a cell; real ones have two or three.
const MOST_DEPTH: usize = 64;

/// Values of the body over all iterations.
pub struct Sequences<'a> {
    body: &'a Graph,
    producers: ValueMap<Option<NodeId>>,
    known: HashMap<ValueId, ValueId>,
    /// Values that are the same in every iteration, as values around the loop.
    invariants: HashMap<ValueId, ValueId>,
    /// Values that are not computed from their operands: the new states of cells, whose layers are built
    /// whole.
    stops: HashSet<ValueId>,
}

impl<'a> Sequences<'a> {
    pub fn new(
        body: &'a Graph,
        invariants: HashMap<ValueId, ValueId>,
        stops: HashSet<ValueId>,
    ) -> Self {
        Sequences { body, producers: body.producers(), known: HashMap::new(), invariants, stops }
    }

    /// `value` of the body is the entry of `sequence` in every iteration.
    pub fn set(&mut self, value: ValueId, sequence: ValueId) {
        self.known.insert(value, sequence);
    }

    fn node(&self, value: ValueId) -> Option<&'a Node> {
        self.body.node(self.producers[value]?)
    }

    /// The ops that can be lifted row by row, and the operands that go with the iterations.
    fn operands(&self, value: ValueId) -> Option<(&'a Node, Vec<ValueId>)> {
        let node = self.node(value)?;
        let constant = |id: ValueId| self.body.constant(id);
        let operand = |slot: usize| node.input(slot);
        let rank = |id: ValueId| self.body.get(id).and_then(|value| value.ty.rank());
        if rank(value) != Some(2) {
            return None;
        }
        let moving = match &node.op {
            Op::Unary(_) | Op::Activation(_) | Op::Cast(_) => vec![operand(0)?],
            Op::Binary(_) => {
                let (a, b) = (operand(0)?, operand(1)?);
                [a, b].into_iter().filter(|&id| !self.repeats(id)).collect()
            }
            Op::FullyConnected(_) | Op::MatMul(_) => {
                let weights = constant(operand(1)?)?;
                let plain = match &node.op {
                    Op::MatMul(options) => !options.transpose_a,
                    _ => true,
                };
                (plain && weights.shape().len() == 2).then_some(())?;
                if let Some(bias) = operand(2) {
                    constant(bias)?;
                }
                vec![operand(0)?]
            }
            Op::Concat(options) => {
                (options.axis == -1 || options.axis == 1).then_some(())?;
                node.inputs.iter().copied().collect::<Option<Vec<_>>>()?
            }
            _ => return None,
        };
        moving.iter().all(|&id| rank(id) == Some(2)).then_some((node, moving))
    }

    /// Operands that an element-wise op repeats for every iteration: constants and invariants of at most the axes
    /// of a iteration, filled tensors.
    fn repeats(&self, id: ValueId) -> bool {
        let fits =
            self.body.get(id).and_then(|value| value.ty.rank()).is_some_and(|rank| rank <= 2);
        fits && self.is_fixed(id, 0)
    }

    /// Whether a value is the same in every iteration.
    fn is_fixed(&self, id: ValueId, depth: usize) -> bool {
        if self.constant(id).is_some() || self.invariants.contains_key(&id) {
            return true;
        }
        self.node(id).is_some_and(|node| {
            let element_wise = matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Activation(_));
            element_wise
                && depth < 8
                && node.inputs.iter().flatten().all(|&input| self.is_fixed(input, depth + 1))
        })
    }

    /// A value that is the same in every iteration, around the loop.
    fn fixed(&mut self, tracer: &mut ShapeTracer, id: ValueId) -> Option<ValueId> {
        if let Some(outer) = self.invariants.get(&id) {
            return Some(*outer);
        }
        let own = self.body.get(id)?;
        if let Some(tensor) = self.constant(id) {
            let copy = tracer.graph.add_constant(own.name.clone(), tensor.clone());
            tracer.graph.get_mut(copy)?.ty.quantization = own.ty.quantization.clone();
            return Some(copy);
        }
        let node = self.node(id)?;
        let mut inputs = Vec::new();
        for input in &node.inputs {
            inputs.push(Some(self.fixed(tracer, (*input)?)?));
        }
        let rank = own.ty.rank().unwrap_or(0);
        let ty = ValueType { shape: Some(vec![Dim::Unknown; rank]), ..own.ty.clone() };
        let result = tracer.graph.add_value(own.name.clone(), ty);
        tracer.push(Node {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs,
            outputs: vec![Some(result)],
        });
        self.invariants.insert(id, result);
        Some(result)
    }

    /// The number that a tensor is filled with.
    fn filling(&self, id: ValueId) -> Option<ValueId> {
        let node = self.node(id)?;
        let number = node.input(1).filter(|_| matches!(node.op, Op::Fill))?;
        self.body.constant(number).map(|_| number)
    }

    /// The value that `value` scales: 0 where that is 0, whatever the factors.
    pub fn scaled(&self, mut value: ValueId) -> ValueId {
        for _ in 0..MOST_DEPTH {
            let Some(node) = self.node(value) else { break };
            let operand = |slot: usize| node.input(slot);
            let (Some(a), b) = (operand(0), operand(1)) else { break };
            value = match (&node.op, b) {
                (Op::Binary(binary), Some(b)) if binary.activation == Activation::Linear => {
                    match binary.function {
                        BinaryFunction::Mul if self.repeats(b) => a,
                        BinaryFunction::Mul if self.repeats(a) => b,
                        BinaryFunction::Div if self.repeats(b) => a,
                        _ => break,
                    }
                }
                (Op::Activation(Activation::Relu | Activation::Tanh), _)
                | (Op::Unary(Unary::Neg), _) => a,
                _ => break,
            };
        }
        value
    }

    /// The values that have to be known before `value` can be built.
    pub fn needs(&self, value: ValueId) -> Result<Vec<ValueId>, Reason> {
        let mut open = vec![value];
        let mut missing = Vec::new();
        let mut seen = 0;
        while let Some(value) = open.pop() {
            seen += 1;
            if seen > MOST_DEPTH {
                return Err("what the cell reads is computed by too many ops".into());
            }
            if self.known.contains_key(&value) {
                continue;
            }
            match self.operands(value) {
                Some((_, operands)) if !self.stops.contains(&value) => open.extend(operands),
                _ => missing.push(value),
            }
        }
        Ok(missing)
    }

    /// A constant, or the number that a tensor is filled with.
    fn constant(&self, id: ValueId) -> Option<&'a Tensor> {
        self.body.constant(id).or_else(|| self.body.constant(self.filling(id)?))
    }

    /// Builds `value` over all iterations; `lead` is a type `[T, B, _]`.
    pub fn build(
        &mut self,
        tracer: &mut ShapeTracer,
        value: ValueId,
        lead: &ValueType,
    ) -> Result<ValueId, Reason> {
        if let Some(known) = self.known.get(&value) {
            return Ok(*known);
        }
        let (node, moving) = self
            .operands(value)
            .ok_or("an input of the cell is computed in a way that is not followed")?;
        let mut lifted = HashMap::new();
        for operand in moving {
            lifted.insert(operand, self.build(tracer, operand, lead)?);
        }
        let mut inputs = Vec::new();
        for input in &node.inputs {
            inputs.push(match input {
                None => None,
                Some(id) => Some(match lifted.get(id) {
                    Some(lifted) => *lifted,
                    None => {
                        self.fixed(tracer, *id).ok_or("an operand of the loop is not followed")?
                    }
                }),
            });
        }
        let op = match &node.op {
            Op::FullyConnected(options) => {
                Op::FullyConnected(FullyConnected { keep_leading_axes: true, ..*options })
            }
            Op::Concat(options) => Op::Concat(Concat { axis: -1, ..*options }),
            other => other.clone(),
        };
        let own = self.body.get(value).ok_or("no such value")?;
        let mut shape = lead.shape.clone().unwrap_or_else(|| vec![Dim::Unknown; 3]);
        shape.truncate(2);
        // Symbols of the body are not those of the graph around it.
        let width = own.ty.shape.as_ref().and_then(|shape| shape.last()?.known());
        shape.push(width.map_or(Dim::Unknown, Dim::Known));
        let ty = ValueType { dtype: own.ty.dtype, shape: Some(shape), quantization: None };
        let result = tracer.graph.add_value(own.name.clone(), ty);
        tracer.push(Node { name: node.name.clone(), op, inputs, outputs: vec![Some(result)] });
        self.known.insert(value, result);
        Ok(result)
    }
}
