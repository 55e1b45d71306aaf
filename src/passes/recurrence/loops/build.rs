//! The recurrent ops that take the place of a loop.

use std::collections::HashMap;
use std::sync::Arc;

use super::body::{Loop, Read};
use super::layers::Layer;
use super::sequence::Sequences;
use super::trip_count::Limit;
use super::variables::{Mask, Variable};
use crate::graph::op::{Activation, Concat, Squeeze, StridedSlice};
use crate::graph::recurrent::{Direction, Layout, Masking, Merge, Source};
use crate::graph::{Dim, Node, Op, Recurrent, ValueId, ValueType};
use crate::passes::recurrence::algebra::first;
use crate::passes::recurrence::shape_tracer::{ShapeTracer, Size};
use crate::passes::recurrence::step::Reason;
use crate::tensor::{DType, Tensor};

/// The results of a built layer.
#[derive(Clone, Copy)]
pub struct Built {
    y: ValueId,
    h_n: ValueId,
    c_n: Option<ValueId>,
}

/// The recurrent ops that take the place of the loop.
pub struct Build<'b, 'a> {
    sequences: Sequences<'a>,
    this: &'b Loop<'a>,
    variables: &'b [Variable],
    layers: &'b HashMap<usize, Layer>,
    mask: Option<Mask>,
    masking: Option<Masking>,
    time: Size,
    /// A list that is read.
    read: Read,
    /// That list with time first: its axes 0 and 1 are time and batch.
    list: ValueId,
    /// Lists in the order of the iterations, by variable, axis, direction and rank.
    in_order: HashMap<(usize, usize, bool, bool), ValueId>,
    built: HashMap<usize, Built>,
    open: Vec<usize>,
    /// A line for each op that was made.
    pub made: Vec<String>,
}

impl<'b, 'a> Build<'b, 'a> {
    pub fn new(
        this: &'b Loop<'a>,
        variables: &'b [Variable],
        layers: &'b HashMap<usize, Layer>,
        mask: Option<Mask>,
        (read, time): (Read, Size),
        sequences: Sequences<'a>,
    ) -> Self {
        Build {
            sequences,
            this,
            variables,
            layers,
            mask,
            masking: None,
            time,
            read,
            list: this.operands[read.list],
            in_order: HashMap::new(),
            built: HashMap::new(),
            open: Vec::new(),
            made: Vec::new(),
        }
    }

    /// Notes what the entries that the body reads are over all iterations.
    pub fn note_reads(&mut self, tracer: &mut ShapeTracer) -> Result<(), Reason> {
        for read in &self.this.reads {
            let list = self.in_order(tracer, read)?;
            self.sequences.set(read.value, list);
        }
        self.list = self.in_order(tracer, &self.read.clone())?;
        Ok(())
    }

    /// A list in the order of the iterations: the axis that is read in front, reversed when it is
    /// read from its end on, an axis of size 1 behind it when the body keeps it.
    fn in_order(&mut self, tracer: &mut ShapeTracer, read: &Read) -> Result<ValueId, Reason> {
        let key = (read.list, read.axis, read.reverse, read.kept);
        if let Some(&known) = self.in_order.get(&key) {
            return Ok(known);
        }
        let mut list = self.this.operands[read.list];
        let ty = tracer.graph.ty(list).cloned().ok_or("a list is missing")?;
        let mut shape = ty.shape.clone().ok_or("a list of unknown rank")?;
        let name = format!("{}/in_order", self.this.node.name);
        let mut add = |op: Op, operand: Tensor, shape: &[Dim], list: ValueId| {
            let operand = tracer.graph.add_constant(name.clone(), operand);
            let ty = ValueType { shape: Some(shape.to_vec()), ..ty.clone() };
            let moved = tracer.graph.add_value(name.clone(), ty);
            let inputs = vec![Some(list), Some(operand)];
            tracer.push(Node { name: name.clone(), op, inputs, outputs: vec![Some(moved)] });
            moved
        };
        if read.axis != 0 {
            let mut order: Vec<i32> = (0i32..).take(shape.len()).collect();
            (read.axis < shape.len()).then_some(()).ok_or("a list without that axis")?;
            let (axis, size) = (order.remove(read.axis), shape.remove(read.axis));
            order.insert(0, axis);
            shape.insert(0, size);
            let order = Tensor::from_vec(&[order.len()], order).map_err(|e| e.to_string())?;
            list = add(Op::Transpose, order, &shape, list);
        }
        if read.reverse {
            let axes = Tensor::from_vec(&[1], vec![0i32]).map_err(|e| e.to_string())?;
            list = add(Op::Reverse, axes, &shape, list);
        }
        if read.kept {
            let axis = read.axis + 1;
            let at = i32::try_from(axis).map_err(|e| e.to_string())?;
            shape.insert(axis.min(shape.len()), Dim::Known(1));
            list = add(Op::ExpandDims, Tensor::scalar(at), &shape, list);
        }
        self.in_order.insert(key, list);
        Ok(list)
    }

    /// Finds what the outputs of masked iterations are; states alone do not say.
    pub fn find_masking(&mut self, tracer: &ShapeTracer) -> Result<(), Reason> {
        if self.mask.is_none() {
            return Ok(());
        }
        let mut masking = None;
        for variable in self.variables {
            let (Variable::List { item, .. } | Variable::Last { item }) = variable else {
                continue;
            };
            let (_, this) = self.masked_item(tracer, *item)?;
            if masking.is_some_and(|masking| masking != this) {
                return Err(
                    "lists of masked outputs with different values for masked iterations".into()
                );
            }
            masking = Some(this);
        }
        self.masking = Some(masking.unwrap_or(Masking::Zero));
        Ok(())
    }

    /// The layer behind an entry of a list under the mask, and what masked iterations write.
    fn masked_item(&self, tracer: &ShapeTracer, item: ValueId) -> Result<(usize, Masking), Reason> {
        let refuse = || Reason::from("outputs under a mask that is not that of the states");
        // The masked state itself: on masked iterations the old state, which is the last output when it
        // starts from 0.
        for (k, layer) in self.layers {
            if self.this.nexts[*k] == item && layer.h_new != item {
                let zero = tracer.is_zero(self.this.operands[*k]);
                return if zero { Ok((*k, Masking::Hold)) } else { Err(refuse()) };
            }
        }
        let (mask, new, old) = self.this.masked(item).ok_or_else(refuse)?;
        if Some(mask) != self.mask {
            return Err(refuse());
        }
        // What masked iterations write must not change on the way from the cell's output to the list.
        let output = self.sequences.scaled(self.this.algebra.resolve(new));
        let k = self.layer_of(output).ok_or("a masked output is not that of a cell")?;
        if self.this.is_zero(tracer, old) {
            return Ok((k, Masking::Zero));
        }
        let kept = self
            .this
            .variable(old)
            .and_then(|j| self.variables.get(j).map(|variable| (j, variable)));
        match kept {
            Some((j, Variable::Output)) if self.this.nexts[j] == item => Ok((k, Masking::Hold)),
            // The old state takes the place of the last output, when both start from 0.
            Some((j, Variable::State { .. }))
                if j == k && tracer.is_zero(self.this.operands[k]) =>
            {
                Ok((k, Masking::Hold))
            }
            _ => Err(refuse()),
        }
    }

    fn layer_of(&self, new: ValueId) -> Option<usize> {
        self.layers.iter().find(|(_, layer)| layer.h_new == new).map(|(k, _)| *k)
    }

    /// Builds the layer whose output state is variable `k`, and the layers that it reads.
    pub fn layer(&mut self, tracer: &mut ShapeTracer, k: usize) -> Result<Built, Reason> {
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
            parts.push(self.sequence(tracer, input)?);
        }
        let name = match self.layers.len() {
            1 => self.this.node.name.clone(),
            _ => format!("{}/{k}", self.this.node.name),
        };
        let x = match parts.as_slice() {
            [one] => *one,
            _ => {
                let width: usize = layer.canonical.inputs.iter().map(|(_, width)| width).sum();
                let ty = self.sequence_type(tracer, width);
                let joined = tracer.graph.add_value(format!("{name}/input"), ty);
                let op = Op::Concat(Concat { axis: -1, activation: Activation::Linear });
                let inputs = parts.into_iter().map(Some).collect();
                tracer.push(Node {
                    name: format!("{name}/join"),
                    op,
                    inputs,
                    outputs: vec![Some(joined)],
                });
                joined
            }
        };
        let built = self.emit(tracer, k, x, &name)?;
        self.open.pop();
        self.built.insert(k, built);
        Ok(built)
    }

    fn emit(
        &mut self,
        tracer: &mut ShapeTracer,
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
            Some(Mask::List { list, axis, reverse }) => {
                let read = Read { list, axis, reverse, kept: false, ..self.read };
                let list = self.in_order(tracer, &read)?;
                Some(mask_list(tracer, list, name)?)
            }
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
            gate_clip: None,
            arithmetic: canonical.arithmetic.clone(),
        };
        let dtype = self.this.body().ty(self.this.inputs[k]).map_or(DType::F32, |ty| ty.dtype);
        let x = cast(tracer, x, DType::F32, name);
        let mut state = |k: usize| {
            let operand = self.this.operands[k];
            (!tracer.is_zero(operand)).then(|| cast(tracer, operand, DType::F32, name))
        };
        let h0 = state(k);
        let c0 = layer.cell_state.and_then(state);
        let sequence = self.sequence_type(tracer, width);
        let batch =
            sequence.shape.as_ref().and_then(|shape| shape.get(1)).copied().unwrap_or(Dim::Unknown);
        let y = tracer.graph.add_value(format!("{name}/y"), sequence);
        let state_type =
            |width: usize| ValueType::symbolic(DType::F32, vec![batch, Dim::Known(width)]);
        let h_n = tracer.graph.add_value(format!("{name}/h"), state_type(width));
        let c_n = layer
            .cell_state
            .map(|_| tracer.graph.add_value(format!("{name}/c"), state_type(units)));
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
        let mut line = crate::passes::recurrence::describe(&op, name);
        if dtype != DType::F32 {
            line.push_str(&format!(", computed in float32 instead of {dtype}"));
        }
        self.made.push(line);
        tracer.push(Node { name: name.to_owned(), op: Op::Recurrent(op), inputs, outputs });
        let mut back = |value: ValueId| cast(tracer, value, dtype, name);
        Ok(Built { y: back(y), h_n: back(h_n), c_n: c_n.map(back) })
    }

    /// `[T, B, width]`.
    fn sequence_type(&self, tracer: &ShapeTracer, width: usize) -> ValueType {
        let list = tracer.graph.get(self.list).and_then(|value| value.ty.shape.as_ref());
        let dim =
            |axis: usize| list.and_then(|shape| shape.get(axis)).copied().unwrap_or(Dim::Unknown);
        ValueType::symbolic(DType::F32, vec![dim(0), dim(1), Dim::Known(width)])
    }

    /// A value of the body over all iterations.
    fn sequence(&mut self, tracer: &mut ShapeTracer, value: ValueId) -> Result<ValueId, Reason> {
        let value = self.this.algebra.resolve(value);
        let wanted = self.sequences.needs(value)?;
        for source in wanted {
            let k = self
                .layer_of(source)
                .ok_or("an input of the cell depends on the iteration before, or on the counter")?;
            let built = self.layer(tracer, k)?;
            self.sequences.set(source, built.y);
        }
        let lead = self.sequence_type(tracer, 1);
        self.sequences.build(tracer, value, &lead)
    }

    /// A list of outputs over all iterations.
    pub fn output_sequence(
        &mut self,
        tracer: &mut ShapeTracer,
        item: ValueId,
        reverse: bool,
    ) -> Result<ValueId, Reason> {
        let outputs = match (self.mask, self.this.masked(item)) {
            (None, _) => self.sequence(tracer, item)?,
            (Some(_), choice) => {
                let (k, _) = self.masked_item(tracer, item)?;
                match choice {
                    Some((_, new, _)) => self.sequence(tracer, new)?,
                    None => self.layer(tracer, k)?.y,
                }
            }
        };
        if !reverse {
            return Ok(outputs);
        }
        let name = format!("{}/reversed", self.this.node.name);
        let ty = tracer.graph.ty(outputs).cloned().ok_or("no output")?;
        let axes = Tensor::from_vec(&[1], vec![0i32]).map_err(|error| error.to_string())?;
        let axes = tracer.graph.add_constant(name.clone(), axes);
        let reversed = tracer.graph.add_value(name.clone(), ty);
        let inputs = vec![Some(outputs), Some(axes)];
        tracer.push(Node { name, op: Op::Reverse, inputs, outputs: vec![Some(reversed)] });
        Ok(reversed)
    }

    pub fn final_state(&self, k: usize) -> Result<ValueId, Reason> {
        if let Some(built) = self.built.get(&k) {
            return Ok(built.h_n);
        }
        let owner = self.layers.iter().find(|(_, layer)| layer.cell_state == Some(k));
        let built = owner.and_then(|(k, _)| self.built.get(k));
        built.and_then(|built| built.c_n).ok_or_else(|| "a state of no layer".into())
    }

    /// The last entry of a list of states, as a list of one: `[1, B, H]`.
    pub fn last_state(&self, tracer: &mut ShapeTracer, item: ValueId) -> Option<ValueId> {
        let is_state =
            |(_, variable): &(usize, &Variable)| matches!(variable, Variable::State { .. });
        let mut states = self.variables.iter().enumerate().filter(is_state);
        let (k, _) = states.find(|&(k, _)| self.this.nexts[k] == item)?;
        let state = self.final_state(k).ok()?;
        let mut ty = tracer.graph.ty(state)?.clone();
        ty.shape.as_mut()?.insert(0, Dim::Known(1));
        let name = format!("{}/last", self.this.node.name);
        let last = tracer.graph.add_value(name.clone(), ty);
        let axis = tracer.graph.add_constant(name.clone(), Tensor::scalar(0i32));
        tracer.push(Node {
            name,
            op: Op::ExpandDims,
            inputs: vec![Some(state), Some(axis)],
            outputs: vec![Some(last)],
        });
        Some(last)
    }

    /// The last entry, `[1, B, P]`.
    pub fn last_output(
        &mut self,
        tracer: &mut ShapeTracer,
        item: ValueId,
        list: usize,
    ) -> Result<ValueId, Reason> {
        let k = match self.mask {
            None => self
                .layer_of(self.this.algebra.resolve(item))
                .ok_or("the last output is not that of a cell")?,
            Some(_) => {
                let (k, _) = self.masked_item(tracer, item)?;
                let new = self.this.masked(item).map(|(_, new, _)| self.this.algebra.resolve(new));
                if new.is_some_and(|new| self.layer_of(new) != Some(k)) {
                    return Err("the last output is not that of a cell".into());
                }
                k
            }
        };
        let built = self.layer(tracer, k)?;
        // Without a iteration the list keeps what it had.
        let runs = matches!(self.time, Size::Known(count) if count > 0);
        let from_zero =
            tracer.is_zero(self.this.operands[k]) && tracer.is_zero(self.this.operands[list]);
        if !runs && !from_zero {
            return Err("with no iteration at all, the last output is not known".into());
        }
        let ends_in_state = match self.masking {
            None => true,
            Some(Masking::Hold) => tracer.is_zero(self.this.operands[k]),
            Some(Masking::Zero) => false,
        };
        let name = &self.this.node.name;
        let mut ty = tracer.graph.get(built.y).map(|value| value.ty.clone()).ok_or("no output")?;
        if let Some(time) = ty.shape.as_mut().and_then(|shape| shape.first_mut()) {
            *time = Dim::Known(1);
        }
        let last = tracer.graph.add_value(format!("{name}/last"), ty);
        let node = if ends_in_state {
            let axis = tracer.graph.add_constant(format!("{name}/axis"), Tensor::scalar(0i32));
            Node {
                name: format!("{name}/last"),
                op: Op::ExpandDims,
                inputs: vec![Some(built.h_n), Some(axis)],
                outputs: vec![Some(last)],
            }
        } else {
            // The entry of the last iteration, 0 for rows that ended before it.
            let mut bound = |values: [i32; 1]| -> Result<ValueId, Reason> {
                let tensor =
                    Tensor::from_slice(&[1], &values).map_err(|error| error.to_string())?;
                Ok(tracer.graph.add_constant(format!("{name}/last"), tensor))
            };
            let (begin, end, step) = (bound([-1])?, bound([0])?, bound([1])?);
            let op = Op::StridedSlice(StridedSlice { end_mask: 1, ..Default::default() });
            Node {
                name: format!("{name}/last"),
                op,
                inputs: vec![Some(built.y), Some(begin), Some(end), Some(step)],
                outputs: vec![Some(last)],
            }
        };
        tracer.push(node);
        Ok(last)
    }

    /// The last value of a counter: its bound.
    pub fn final_count(
        &self,
        tracer: &mut ShapeTracer,
        k: usize,
        limits: &[Limit],
    ) -> Result<ValueId, Reason> {
        if !self.this.is_counter(k) {
            return Err(format!("loop variable {k}, a counter, is used after the loop"));
        }
        let dtype = self.this.body().ty(self.this.inputs[k]).map(|ty| ty.dtype);
        match limits {
            [Limit::Operand(value)]
                if tracer.graph.get(*value).map(|value| value.ty.dtype) == dtype =>
            {
                Ok(*value)
            }
            [Limit::Known(bound), ..] if matches!(self.time, Size::Known(_)) => {
                let tensor = match dtype {
                    Some(DType::I64) => Tensor::scalar(*bound),
                    _ => Tensor::scalar(*bound as i32),
                };
                Ok(tracer.graph.add_constant("trip_count", tensor))
            }
            _ => Err("the counter is used after the loop".into()),
        }
    }
}

/// The mask as `[T, B]`.
fn mask_list(tracer: &mut ShapeTracer, mut list: ValueId, name: &str) -> Result<ValueId, Reason> {
    let ty = tracer.graph.get(list).map(|value| value.ty.clone()).ok_or("the mask is missing")?;
    if ty.rank() == Some(3) {
        list = without_last(tracer, list, name, 0).ok_or("the mask is not followed")?;
    } else if ty.rank() != Some(2) {
        return Err("the mask has neither 2 nor 3 axes".into());
    }
    if ty.dtype == DType::Bool {
        return Ok(list);
    }
    let shape = tracer.graph.get(list).and_then(|value| value.ty.shape.clone());
    let bools = tracer.graph.add_value(
        format!("{name}/mask"),
        ValueType { dtype: DType::Bool, shape, quantization: None },
    );
    let (op, name) = (Op::Cast(DType::Bool), format!("{name}/mask"));
    tracer.push(Node { name, op, inputs: vec![Some(list)], outputs: vec![Some(bools)] });
    Ok(bools)
}

/// A value in another element type: itself where it has that type.
fn cast(tracer: &mut ShapeTracer, value: ValueId, dtype: DType, name: &str) -> ValueId {
    let Some(ty) = tracer.graph.ty(value).filter(|ty| ty.dtype != dtype).cloned() else {
        return value;
    };
    let result = tracer
        .graph
        .add_value(format!("{name}/cast"), ValueType { dtype, quantization: None, ..ty });
    tracer.push(Node {
        name: format!("{name}/cast"),
        op: Op::Cast(dtype),
        inputs: vec![Some(value)],
        outputs: vec![Some(result)],
    });
    result
}

/// `[T, B, 1]` as `[T, B]`: without the op that added the last axis where it can be found behind
/// transposes and reversals.
fn without_last(
    tracer: &mut ShapeTracer,
    value: ValueId,
    name: &str,
    depth: usize,
) -> Option<ValueId> {
    let ty = tracer.graph.get(value)?.ty.clone();
    let shape = ty.shape.as_ref().map(|shape| shape.iter().take(2).copied().collect());
    let ty = ValueType { shape, ..ty };
    let node = tracer.producer(value).filter(|_| depth < 4).cloned();
    let operands = node.as_ref().map(|node| (first(node), node.input(1)));
    let emit = |tracer: &mut ShapeTracer, op: Op, inputs: Vec<Option<ValueId>>| {
        let result = tracer.graph.add_value(format!("{name}/mask"), ty.clone());
        tracer.push(Node { name: format!("{name}/mask"), op, inputs, outputs: vec![Some(result)] });
        result
    };
    if let (Some(node), Some((Some(input), Some(axes)))) = (&node, operands) {
        let numbers = tracer.integers(axes).unwrap_or_default();
        match (&node.op, numbers.as_slice()) {
            (Op::ExpandDims, [-1 | 2]) => return Some(input),
            (Op::Reverse, [0 | 1]) => {
                let inner = without_last(tracer, input, name, depth + 1)?;
                return Some(emit(tracer, Op::Reverse, vec![Some(inner), Some(axes)]));
            }
            (Op::Transpose, [1, 0, 2]) => {
                let inner = without_last(tracer, input, name, depth + 1)?;
                let order = Tensor::from_slice(&[2], &[1i32, 0]).ok()?;
                let order = tracer.graph.add_constant(format!("{name}/order"), order);
                return Some(emit(tracer, Op::Transpose, vec![Some(inner), Some(order)]));
            }
            _ => {}
        }
    }
    Some(emit(tracer, Op::Squeeze(Squeeze { axes: vec![2] }), vec![Some(value)]))
}
