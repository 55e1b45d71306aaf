//! The recurrent ops that take the place of a loop.

use std::collections::HashMap;
use std::sync::Arc;

use super::algebra::first;
use super::loops::{Layer, Loop};
use super::sequence::Sequences;
use super::step::Reason;
use super::trace::{Size, Trace};
use super::turns::Limit;
use super::variables::{Mask, Variable};
use crate::graph::recurrent::{Direction, Layout, Masking, Merge, Source};
use crate::graph::{Dim, Node, Op, Recurrent, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// What a built layer yields.
#[derive(Clone, Copy)]
pub struct Built {
    y: ValueId,
    h_n: ValueId,
    c_n: Option<ValueId>,
}

/// The recurrent ops that take the place of the loop.
pub struct Build<'b, 'a> {
    pub sequences: Sequences<'a>,
    pub this: &'b Loop<'a>,
    pub variables: &'b [Variable],
    pub layers: &'b HashMap<usize, Layer>,
    pub mask: Option<Mask>,
    pub masking: Option<Masking>,
    pub time: Size,
    /// A list that is read: its axes 0 and 1 are time and batch.
    pub list: ValueId,
    pub built: HashMap<usize, Built>,
    pub open: Vec<usize>,
    pub made: Vec<String>,
}

impl Build<'_, '_> {
    pub fn note_reads(&mut self, trace: &Trace, k: usize) {
        let reads: Vec<ValueId> = self.this.reads(trace, k).collect();
        for value in reads {
            self.sequences.set(value, self.this.operands[k]);
        }
    }

    /// What the outputs of masked turns are; states alone do not say.
    pub fn find_masking(&self, trace: &Trace) -> Result<Option<Masking>, Reason> {
        if self.mask.is_none() {
            return Ok(None);
        }
        let mut masking = None;
        for variable in self.variables {
            let (Variable::List { item } | Variable::Last { item }) = variable else { continue };
            let (_, this) = self.masked_item(trace, *item)?;
            if masking.is_some_and(|masking| masking != this) {
                return Err("lists of masked outputs with different values for masked turns".into());
            }
            masking = Some(this);
        }
        Ok(Some(masking.unwrap_or(Masking::Zero)))
    }

    /// The layer behind an entry of a list under the mask, and what masked turns write.
    fn masked_item(&self, trace: &Trace, item: ValueId) -> Result<(usize, Masking), Reason> {
        let refuse = || Reason::from("outputs under a mask that is not that of the states");
        // The masked state itself: on masked turns the old state, which is the last output when it
        // starts from 0.
        for (k, layer) in self.layers {
            if self.this.nexts[*k] == item && layer.step.h_new != item {
                let zero = trace.is_zero(self.this.operands[*k]);
                return if zero { Ok((*k, Masking::Hold)) } else { Err(refuse()) };
            }
        }
        let (mask, new, old) = self.this.masked(trace, item).ok_or_else(refuse)?;
        if Some(mask) != self.mask {
            return Err(refuse());
        }
        // What masked turns write must not change on the way from the cell's output to the list.
        let output = self.sequences.scaled(self.this.algebra.resolve(new));
        let k = self.layer_of(output).ok_or("a masked output is not that of a cell")?;
        if self.this.is_zero(trace, old) {
            return Ok((k, Masking::Zero));
        }
        let kept = self
            .this
            .variable(old)
            .and_then(|j| self.variables.get(j).map(|variable| (j, variable)));
        match kept {
            Some((j, Variable::Output)) if self.this.nexts[j] == item => Ok((k, Masking::Hold)),
            // The old state takes the place of the last output, when both start from 0.
            Some((j, Variable::State { .. })) if j == k && trace.is_zero(self.this.operands[k]) => {
                Ok((k, Masking::Hold))
            }
            _ => Err(refuse()),
        }
    }

    fn layer_of(&self, new: ValueId) -> Option<usize> {
        self.layers.iter().find(|(_, layer)| layer.step.h_new == new).map(|(k, _)| *k)
    }

    /// Builds the layer whose output state is variable `k`, and the layers that it reads.
    pub fn layer(&mut self, trace: &mut Trace, k: usize) -> Result<Built, Reason> {
        if let Some(built) = self.built.get(&k) {
            return Ok(*built);
        }
        if self.open.contains(&k) {
            return Err("the cells of the loop read each other in a circle".into());
        }
        self.open.push(k);
        let layer = self.layers.get(&k).ok_or("no such layer")?;
        let mut parts = Vec::new();
        for &(input, _) in &layer.canonical.inputs {
            parts.push(self.sequence(trace, input)?);
        }
        let name = match self.layers.len() {
            1 => self.this.node.name.clone(),
            _ => format!("{}/{k}", self.this.node.name),
        };
        let x = match parts.as_slice() {
            [one] => *one,
            _ => {
                let width: usize = layer.canonical.inputs.iter().map(|(_, width)| width).sum();
                let ty = self.sequence_type(trace, width);
                let joined = trace.graph.add_value(format!("{name}/input"), ty);
                let op = Op::Concat(crate::graph::op::Concat {
                    axis: -1,
                    activation: crate::graph::op::Activation::Linear,
                });
                let inputs = parts.into_iter().map(Some).collect();
                trace.push(Node {
                    name: format!("{name}/join"),
                    op,
                    inputs,
                    outputs: vec![Some(joined)],
                });
                joined
            }
        };
        let built = self.emit(trace, k, x, &name)?;
        self.open.pop();
        self.built.insert(k, built);
        Ok(built)
    }

    fn emit(
        &mut self,
        trace: &mut Trace,
        k: usize,
        x: ValueId,
        name: &str,
    ) -> Result<Built, Reason> {
        let layer = self.layers.get(&k).ok_or("no such layer")?;
        let canonical = &layer.canonical;
        let blocks = canonical.cell.gate_blocks();
        let (units, width) =
            (canonical.weights.units(blocks), canonical.weights.output_width(blocks));
        let mask = match self.mask {
            None => None,
            Some(Mask::Lengths(m)) => Some(self.this.operands[m]),
            Some(Mask::List(m)) => Some(self.mask_list(trace, m, name)?),
        };
        let op = Recurrent {
            cell: canonical.cell.clone(),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(canonical.weights.clone()),
            }],
            layout: Layout::TimeMajor,
            masking: self.masking.unwrap_or(Masking::Zero),
            merge: Merge::Separate,
            arithmetic: canonical.arithmetic.clone(),
        };
        let state = |trace: &Trace, k: usize| {
            let operand = self.this.operands[k];
            (!trace.is_zero(operand)).then_some(operand)
        };
        let h0 = state(trace, k);
        let c0 = layer.cell_state.and_then(|j| state(trace, j));
        let sequence = self.sequence_type(trace, width);
        let batch =
            sequence.shape.as_ref().and_then(|shape| shape.get(1)).copied().unwrap_or(Dim::Unknown);
        let y = trace.graph.add_value(format!("{name}/y"), sequence);
        let state_type =
            |width: usize| ValueType::symbolic(DType::F32, vec![batch, Dim::Known(width)]);
        let h_n = trace.graph.add_value(format!("{name}/h"), state_type(width));
        let c_n =
            layer.cell_state.map(|_| trace.graph.add_value(format!("{name}/c"), state_type(units)));
        let mut inputs = vec![None; op.input_slots()];
        let mut outputs = vec![None; op.output_slots()];
        for (slot, value) in [
            (Recurrent::X, Some(x)),
            (Recurrent::MASK, mask),
            (Recurrent::h0(0), h0),
            (Recurrent::c0(0), c0),
        ] {
            inputs[slot] = value;
        }
        for (slot, value) in
            [(Recurrent::y(0), Some(y)), (Recurrent::h_n(0), Some(h_n)), (Recurrent::c_n(0), c_n)]
        {
            if let Some(slot) = outputs.get_mut(slot) {
                *slot = value;
            }
        }
        self.made.push(super::describe(&op, name));
        trace.push(Node { name: name.to_owned(), op: Op::Recurrent(op), inputs, outputs });
        Ok(Built { y, h_n, c_n })
    }

    /// The mask as `[T, B]`.
    fn mask_list(&self, trace: &mut Trace, m: usize, name: &str) -> Result<ValueId, Reason> {
        let mut list = self.this.operands[m];
        let ty =
            trace.graph.get(list).map(|value| value.ty.clone()).ok_or("the mask is missing")?;
        if ty.rank() == Some(3) {
            list = without_last(trace, list, name, 0).ok_or("the mask is not followed")?;
        } else if ty.rank() != Some(2) {
            return Err("the mask has neither 2 nor 3 axes".into());
        }
        if ty.dtype == DType::Bool {
            return Ok(list);
        }
        let shape = trace.graph.get(list).and_then(|value| value.ty.shape.clone());
        let bools = trace.graph.add_value(
            format!("{name}/mask"),
            ValueType { dtype: DType::Bool, shape, quantization: None },
        );
        let (op, name) = (Op::Cast(DType::Bool), format!("{name}/mask"));
        trace.push(Node { name, op, inputs: vec![Some(list)], outputs: vec![Some(bools)] });
        Ok(bools)
    }

    /// `[T, B, width]`.
    fn sequence_type(&self, trace: &Trace, width: usize) -> ValueType {
        let list = trace.graph.get(self.list).and_then(|value| value.ty.shape.as_ref());
        let dim =
            |axis: usize| list.and_then(|shape| shape.get(axis)).copied().unwrap_or(Dim::Unknown);
        ValueType::symbolic(DType::F32, vec![dim(0), dim(1), Dim::Known(width)])
    }

    /// A value of the body over all turns.
    fn sequence(&mut self, trace: &mut Trace, value: ValueId) -> Result<ValueId, Reason> {
        let value = self.this.algebra.resolve(value);
        let wanted = self.sequences.needs(value)?;
        for source in wanted {
            let k = self
                .layer_of(source)
                .ok_or("an input of the cell depends on the turn before, or on the counter")?;
            let built = self.layer(trace, k)?;
            self.sequences.set(source, built.y);
        }
        let lead = self.sequence_type(trace, 1);
        self.sequences.build(trace, value, &lead)
    }

    /// What a list of outputs becomes.
    pub fn output_sequence(&mut self, trace: &mut Trace, item: ValueId) -> Result<ValueId, Reason> {
        if self.mask.is_none() {
            return self.sequence(trace, item);
        }
        self.masked_item(trace, item)?;
        match self.this.masked(trace, item) {
            Some((_, new, _)) => self.sequence(trace, new),
            None => {
                let (k, _) = self.masked_item(trace, item)?;
                Ok(self.layer(trace, k)?.y)
            }
        }
    }

    pub fn final_state(&self, k: usize) -> Result<ValueId, Reason> {
        if let Some(built) = self.built.get(&k) {
            return Ok(built.h_n);
        }
        let owner = self.layers.iter().find(|(_, layer)| layer.cell_state == Some(k));
        let built = owner.and_then(|(k, _)| self.built.get(k));
        built.and_then(|built| built.c_n).ok_or_else(|| "a state of no layer".into())
    }

    /// The last entry, `[1, B, P]`.
    pub fn last_output(
        &mut self,
        trace: &mut Trace,
        item: ValueId,
        list: usize,
    ) -> Result<ValueId, Reason> {
        let k = match self.mask {
            None => self
                .layer_of(self.this.algebra.resolve(item))
                .ok_or("the last output is not that of a cell")?,
            Some(_) => {
                let (k, _) = self.masked_item(trace, item)?;
                let new =
                    self.this.masked(trace, item).map(|(_, new, _)| self.this.algebra.resolve(new));
                if new.is_some_and(|new| self.layer_of(new) != Some(k)) {
                    return Err("the last output is not that of a cell".into());
                }
                k
            }
        };
        let built = self.layer(trace, k)?;
        // Without a turn the list keeps what it had.
        let turns = matches!(self.time, Size::Known(turns) if turns > 0);
        let from_zero =
            trace.is_zero(self.this.operands[k]) && trace.is_zero(self.this.operands[list]);
        if !turns && !from_zero {
            return Err("with no turn at all, the last output is not known".into());
        }
        let ends_in_state = match self.masking {
            None => true,
            Some(Masking::Hold) => trace.is_zero(self.this.operands[k]),
            Some(Masking::Zero) => false,
        };
        let name = &self.this.node.name;
        let mut ty = trace.graph.get(built.y).map(|value| value.ty.clone()).ok_or("no output")?;
        if let Some(time) = ty.shape.as_mut().and_then(|shape| shape.first_mut()) {
            *time = Dim::Known(1);
        }
        let last = trace.graph.add_value(format!("{name}/last"), ty);
        let node = if ends_in_state {
            let axis = trace.graph.add_constant(format!("{name}/axis"), Tensor::scalar(0i32));
            Node {
                name: format!("{name}/last"),
                op: Op::ExpandDims,
                inputs: vec![Some(built.h_n), Some(axis)],
                outputs: vec![Some(last)],
            }
        } else {
            // The entry of the last turn, 0 for rows that ended before it.
            let mut bound = |values: [i32; 1]| -> Result<ValueId, Reason> {
                let tensor =
                    Tensor::from_slice(&[1], &values).map_err(|error| error.to_string())?;
                Ok(trace.graph.add_constant(format!("{name}/last"), tensor))
            };
            let (begin, end, step) = (bound([-1])?, bound([0])?, bound([1])?);
            let op = Op::StridedSlice(crate::graph::op::StridedSlice {
                end_mask: 1,
                ..Default::default()
            });
            Node {
                name: format!("{name}/last"),
                op,
                inputs: vec![Some(built.y), Some(begin), Some(end), Some(step)],
                outputs: vec![Some(last)],
            }
        };
        trace.push(node);
        Ok(last)
    }

    /// What a counter ends at: its bound.
    pub fn final_count(
        &self,
        trace: &mut Trace,
        k: usize,
        limits: &[Limit],
    ) -> Result<ValueId, Reason> {
        let dtype = self.this.inner.body.get(self.this.inputs[k]).map(|value| value.ty.dtype);
        match limits {
            [Limit::Operand(value)]
                if trace.graph.get(*value).map(|value| value.ty.dtype) == dtype =>
            {
                Ok(*value)
            }
            [Limit::Known(bound), ..] if matches!(self.time, Size::Known(_)) => {
                let tensor = match dtype {
                    Some(DType::I64) => Tensor::scalar(*bound),
                    _ => Tensor::scalar(*bound as i32),
                };
                Ok(trace.graph.add_constant("turns", tensor))
            }
            _ => Err("the counter is used after the loop".into()),
        }
    }
}

/// `[T, B, 1]` as `[T, B]`: without the op that added the last axis where it can be found behind
/// transposes and reversals.
fn without_last(trace: &mut Trace, value: ValueId, name: &str, depth: usize) -> Option<ValueId> {
    let ty = trace.graph.get(value)?.ty.clone();
    let shape = ty.shape.as_ref().map(|shape| shape.iter().take(2).copied().collect());
    let ty = ValueType { shape, ..ty };
    let node = trace.producer(value).filter(|_| depth < 4).cloned();
    let operands = node.as_ref().map(|node| (first(node), node.input(1)));
    let emit = |trace: &mut Trace, op: Op, inputs: Vec<Option<ValueId>>| {
        let result = trace.graph.add_value(format!("{name}/mask"), ty.clone());
        trace.push(Node { name: format!("{name}/mask"), op, inputs, outputs: vec![Some(result)] });
        result
    };
    if let (Some(node), Some((Some(input), Some(axes)))) = (&node, operands) {
        let numbers = trace.integers(axes).unwrap_or_default();
        match (&node.op, numbers.as_slice()) {
            (Op::ExpandDims, [-1 | 2]) => return Some(input),
            (Op::Reverse, [0 | 1]) => {
                let inner = without_last(trace, input, name, depth + 1)?;
                return Some(emit(trace, Op::Reverse, vec![Some(inner), Some(axes)]));
            }
            (Op::Transpose, [1, 0, 2]) => {
                let inner = without_last(trace, input, name, depth + 1)?;
                let order = Tensor::from_slice(&[2], &[1i32, 0]).ok()?;
                let order = trace.graph.add_constant(format!("{name}/order"), order);
                return Some(emit(trace, Op::Transpose, vec![Some(inner), Some(order)]));
            }
            _ => {}
        }
    }
    Some(emit(trace, Op::Squeeze(crate::graph::op::Squeeze { axes: vec![2] }), vec![Some(value)]))
}
