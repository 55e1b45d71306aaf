//! An unrolled layer, and the recurrent op that takes its place.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::masks::Condition;
use crate::graph::op::{Activation, Concat, Pack, Squeeze, Unary, Unpack};
use crate::graph::recurrent::{Direction, Layout, Masking, Merge, Source};
use crate::graph::{Dim, Graph, Op, Recurrent, ValueId, ValueType};
use crate::passes::recurrence::describe;
use crate::passes::recurrence::weights::Canonical;
use crate::tensor::{DType, Tensor};

/// Which rows count in which steps.
pub enum Mask {
    /// The first `n` steps of each row: a value `[B]`.
    Lengths(ValueId),
    /// For each step, a value `[B]` or `[B, 1]`.
    Steps(Vec<Condition>),
}

/// Steps that become one recurrent op.
pub struct Unrolled {
    pub name: String,
    pub canonical: Canonical,
    /// For each input part, the value at each step and its width.
    pub inputs: Vec<(Vec<ValueId>, usize)>,
    /// For each step, the values that are its output.
    pub steps: Vec<Vec<ValueId>>,
    /// The values that are the final states.
    pub h_n: Vec<ValueId>,
    pub c_n: Vec<ValueId>,
    pub h0: Option<ValueId>,
    pub c0: Option<ValueId>,
    pub batch: Dim,
    pub mask: Option<Mask>,
    pub masking: Masking,
}

impl Unrolled {
    /// One line about the op.
    pub fn line(&self) -> String {
        format!("{} steps → {}", self.steps.len(), describe(&self.op(), &self.name))
    }

    fn op(&self) -> Recurrent {
        Recurrent {
            cell: self.canonical.cell.clone(),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(self.canonical.weights.clone()),
            }],
            layout: Layout::TimeMajor,
            masking: self.masking,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic: self.canonical.arithmetic.clone(),
        }
    }

    /// `[T, B, width]`.
    fn sequence(&self, width: usize) -> ValueType {
        let time = Dim::Known(self.steps.len());
        ValueType::symbolic(DType::F32, vec![time, self.batch, Dim::Known(width)])
    }

    /// Adds the op and takes its results from the nodes that computed them; the order of the nodes
    /// is not kept. Returns the final state, which keeps the name of the last output, and the last
    /// output as a piece of the sequence.
    pub fn emit(&self, graph: &mut Graph) -> Option<(ValueId, ValueId)> {
        let x = self.emit_input(graph);
        let mask = self.emit_mask(graph);
        let [h0, c0] = [self.h0, self.c0].map(|state| state.map(|state| self.flat(graph, state)));
        self.release(graph);
        let op = self.op();
        let name = &self.name;
        let width = self.canonical.weights.output_width(self.canonical.cell.gate_blocks());
        let y = graph.add_value(format!("{name}/y"), self.sequence(width));
        let mut inputs = vec![None; op.input_slots()];
        let mut outputs = vec![None; op.output_slots()];
        let operands = [
            (Recurrent::X, Some(x)),
            (Recurrent::MASK, mask),
            (Recurrent::h0(0), h0),
            (Recurrent::c0(0), c0),
        ];
        for (slot, value) in operands {
            if let Some(slot) = inputs.get_mut(slot) {
                *slot = value;
            }
        }
        let h_n = self.h_n.first().copied();
        let mut lifted = Vec::new();
        let results = [
            (Recurrent::y(0), Some(y)),
            (Recurrent::h_n(0), h_n.map(|h_n| self.lowered(graph, h_n, &mut lifted))),
            (Recurrent::c_n(0), self.c_n.first().map(|&c_n| self.lowered(graph, c_n, &mut lifted))),
        ];
        for (slot, value) in results {
            if let Some(slot) = outputs.get_mut(slot) {
                *slot = value;
            }
        }
        graph.add_node(name.clone(), Op::Recurrent(op), inputs, outputs);
        let mut pieces: Vec<Option<ValueId>> =
            self.steps.iter().map(|values| values.first().copied()).collect();
        // The last output may be the final state, too.
        let shared = h_n.filter(|h_n| self.steps.last().is_some_and(|last| last.contains(h_n)));
        let last = shared.map(|h_n| {
            let ty = graph.ty(h_n).cloned().unwrap_or_else(|| {
                ValueType::symbolic(DType::F32, vec![self.batch, Dim::Known(width)])
            });
            (h_n, graph.add_value(format!("{name}/last"), ty))
        });
        if let (Some(piece), Some((_, fresh))) = (pieces.last_mut(), last) {
            *piece = Some(fresh);
        }
        for piece in pieces.iter_mut().flatten() {
            *piece = self.lowered(graph, *piece, &mut lifted);
        }
        let unpack = Op::Unpack(Unpack { axis: 0 });
        graph.add_node(format!("{name}/unpack"), unpack, vec![Some(y)], pieces);
        for (flat, value) in lifted {
            let axis = graph.add_constant(format!("{name}/axis"), Tensor::scalar(0i32));
            let inputs = vec![Some(flat), Some(axis)];
            graph.add_node(format!("{name}/lift"), Op::ExpandDims, inputs, vec![Some(value)]);
        }
        self.share(graph);
        last
    }

    /// A value of a step as `[B, n]`, without a leading axis of size 1.
    fn flat(&self, graph: &mut Graph, value: ValueId) -> ValueId {
        let Some(ty) = graph.ty(value).filter(|ty| ty.rank() == Some(3)).cloned() else {
            return value;
        };
        let flat = graph.add_value(format!("{}/flat", self.name), without_first(&ty));
        let squeeze = Op::Squeeze(Squeeze { axes: vec![0] });
        let name = format!("{}/flat", self.name);
        graph.add_node(name, squeeze, vec![Some(value)], vec![Some(flat)]);
        flat
    }

    /// The result of the op that stands for a value: itself, or one of which the value is to be
    /// made.
    fn lowered(
        &self,
        graph: &mut Graph,
        value: ValueId,
        lifted: &mut Vec<(ValueId, ValueId)>,
    ) -> ValueId {
        let Some(ty) = graph.ty(value).filter(|ty| ty.rank() == Some(3)).cloned() else {
            return value;
        };
        let flat = graph.add_value(format!("{}/flat", self.name), without_first(&ty));
        lifted.push((flat, value));
        flat
    }

    /// The inputs of the steps as one sequence.
    fn emit_input(&self, graph: &mut Graph) -> ValueId {
        let name = &self.name;
        let mut packed = Vec::new();
        for (values, width) in &self.inputs {
            let x = graph.add_value(format!("{name}/x"), self.sequence(*width));
            let inputs = values.iter().map(|&value| Some(self.flat(graph, value))).collect();
            let pack = Op::Pack(Pack { axis: 0 });
            graph.add_node(format!("{name}/pack"), pack, inputs, vec![Some(x)]);
            packed.push(x);
        }
        if let [one] = packed.as_slice() {
            return *one;
        }
        let total = self.inputs.iter().map(|(_, width)| width).sum();
        let x = graph.add_value(format!("{name}/x"), self.sequence(total));
        let op = Op::Concat(Concat { axis: -1, activation: Activation::Linear });
        let packed = packed.into_iter().map(Some).collect();
        graph.add_node(format!("{name}/join"), op, packed, vec![Some(x)]);
        x
    }

    /// The mask as the op takes it: lengths, or bools `[T, B]`.
    fn emit_mask(&self, graph: &mut Graph) -> Option<ValueId> {
        let conditions = match self.mask.as_ref()? {
            Mask::Lengths(lengths) => return Some(*lengths),
            Mask::Steps(conditions) => conditions,
        };
        let name = format!("{}/mask", self.name);
        let first = *conditions.first()?;
        let column = graph.ty(first.base)?.rank() == Some(2);
        let mut shape = vec![Dim::Known(conditions.len()), self.batch];
        if column {
            shape.push(Dim::Known(1));
        }
        let bools = |shape: &[Dim]| ValueType::symbolic(DType::Bool, shape.to_vec());
        let mut add = |op: Op, inputs: Vec<Option<ValueId>>, shape: &[Dim]| {
            let result = graph.add_value(name.clone(), bools(shape));
            graph.add_node(name.clone(), op, inputs, vec![Some(result)]);
            result
        };
        let steps = conditions.iter().map(|condition| Some(condition.base)).collect();
        let mut mask = add(Op::Pack(Pack { axis: 0 }), steps, &shape);
        if column {
            shape.truncate(2);
            mask = add(Op::Squeeze(Squeeze { axes: vec![2] }), vec![Some(mask)], &shape);
        }
        if !first.holds {
            mask = add(Op::Unary(Unary::Not), vec![Some(mask)], &shape);
        }
        Some(mask)
    }

    /// All values that are results of the op.
    fn results(&self) -> impl Iterator<Item = &Vec<ValueId>> {
        self.steps.iter().chain([&self.h_n, &self.c_n])
    }

    /// Takes the results from the nodes of the steps.
    fn release(&self, graph: &mut Graph) {
        let taken: HashSet<ValueId> = self.results().flatten().copied().collect();
        for output in graph.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
            if output.is_some_and(|id| taken.contains(&id)) {
                *output = None;
            }
        }
    }

    /// Reads the first of several values that are the same result.
    fn share(&self, graph: &mut Graph) {
        let mut same: HashMap<ValueId, ValueId> = HashMap::new();
        for values in self.results() {
            let Some((first, others)) = values.split_first() else { continue };
            for other in others {
                same.entry(*other).or_insert(*first);
            }
        }
        same.retain(|from, to| from != to);
        if same.is_empty() {
            return;
        }
        let read = |id: &mut ValueId| *id = same.get(id).copied().unwrap_or(*id);
        graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()).for_each(read);
        graph.outputs.iter_mut().for_each(|port| read(&mut port.value));
        graph.states.iter_mut().for_each(|state| read(&mut state.next));
    }
}

fn without_first(ty: &ValueType) -> ValueType {
    let shape = ty.shape.as_ref().map(|shape| shape.iter().skip(1).copied().collect());
    ValueType { shape, ..ty.clone() }
}
