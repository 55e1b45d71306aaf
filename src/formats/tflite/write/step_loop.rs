//! A recurrent op that no fused operator computes (a GRU, other activations, lengths or a mask),
//! step by step.
//!
//! The form is a `WHILE` over the time steps. Of the forms that the real interpreter accepts it is
//! the one whose file does not grow with the sequence (an unrolled chain does, and fixes its
//! length), and whose work grows with its length only: `W x + b` of all steps is one product before
//! the loop; a round does `R h` and the gates; outputs are put into one tensor by
//! `DYNAMIC_UPDATE_SLICE`, where converters usually join a longer list in every round. A sequence
//! of exactly one step needs no loop at all.

mod equations;

use self::equations::Step;
use super::build::Build;
use super::sizes::Sizes;
use crate::error::{Error, Result};
use crate::graph::op::{Pack, While};
use crate::graph::recurrent::{Arithmetic, Cell, Layout, Masking, Recurrent};
use crate::graph::{Dim, Graph, Node, Op, Port, ValueId, ValueType};
use crate::tensor::DType;

/// Rewrites a node of one direction whose weights act on the input.
pub(super) fn rewrite(graph: &mut Graph, sizes: &Sizes, node: &Node, op: &Recurrent) -> Result<()> {
    let [direction] = op.directions.as_slice() else {
        return Err(Error::internal("one direction was expected"));
    };
    let asymmetric = match op.arithmetic {
        Arithmetic::Float => false,
        Arithmetic::Hybrid { asymmetric } => asymmetric,
        Arithmetic::Integer(_) | Arithmetic::IntegerBasic { .. } => {
            return Err(Error::unsupported("integer arithmetic outside the fused operators"));
        }
    };
    let step =
        Step { cell: &op.cell, gate_clip: op.gate_clip, weights: &direction.weights, asymmetric };
    let operand = |slot: usize| node.input(slot);
    let x = operand(Recurrent::X).ok_or_else(|| Error::graph("input 0 is absent"))?;
    let batch_major = op.layout == Layout::BatchMajor;
    let time =
        sizes.shape(x).and_then(|shape| shape.get(usize::from(batch_major)).copied().flatten());

    let mut build = Build { graph, name: node.name.clone() };
    let x = time_major(&mut build, x, batch_major, DType::F32)?;
    let mut gates = step.input_product(&mut build, x)?;
    if let (Some(auxiliary), Some(weights)) =
        (operand(Recurrent::AUXILIARY), &direction.weights.auxiliary)
    {
        let auxiliary = time_major(&mut build, auxiliary, batch_major, DType::F32)?;
        let product = build.dense(auxiliary, weights, None, asymmetric)?;
        gates = build.add(gates, product);
    }
    let mask = operand(Recurrent::MASK);
    let is_mask = mask
        .and_then(|mask| build.graph.get(mask))
        .is_some_and(|value| value.ty.dtype == DType::Bool);
    let mask = match mask {
        Some(mask) if is_mask => {
            Some(Mask::Steps(time_major(&mut build, mask, batch_major, DType::Bool)?))
        }
        Some(lengths) => {
            Some(Mask::Lengths(build.op(Op::Cast(DType::I32), &[lengths], DType::I32)))
        }
        None => None,
    };
    let batch = build.size(gates, 1)?;
    let h0 = initial(&mut build, operand(Recurrent::h0(0)), batch, step.output_width())?;
    let c0 = match op.cell {
        Cell::Lstm(_) => Some(initial(&mut build, operand(Recurrent::c0(0)), batch, step.units())?),
        Cell::Gru(_) | Cell::Rnn(_) => None,
    };
    let wanted = |slot: usize| node.output(slot);
    let run = Run {
        step,
        reverse: direction.reverse,
        masking: op.masking,
        wants_y: wanted(Recurrent::y(0)).is_some(),
        name: node.name.clone(),
    };
    let end = if time == Some(1) && mask.is_none() {
        run.once(&mut build, gates, h0, c0)?
    } else {
        run.looped(&mut build, gates, mask, batch, h0, c0)?
    };
    if let (Some(y), Some(wanted)) = (end.y, wanted(Recurrent::y(0))) {
        if batch_major {
            let order = build.integers(&[1, 0, 2])?;
            name(&mut build, Op::Transpose, &[y, order], wanted);
        } else {
            alias(&mut build, y, wanted)?;
        }
    }
    if let Some(wanted) = wanted(Recurrent::h_n(0)) {
        alias(&mut build, end.h, wanted)?;
    }
    if let (Some(c), Some(wanted)) = (end.c, wanted(Recurrent::c_n(0))) {
        alias(&mut build, c, wanted)?;
    }
    Ok(())
}

/// Which steps count.
#[derive(Clone, Copy)]
enum Mask {
    /// `[T, B]`, bool.
    Steps(ValueId),
    /// `[B]`, i32.
    Lengths(ValueId),
}

fn time_major(
    build: &mut Build<'_>,
    x: ValueId,
    batch_major: bool,
    dtype: DType,
) -> Result<ValueId> {
    if !batch_major {
        return Ok(x);
    }
    let order =
        if dtype == DType::Bool { build.integers(&[1, 0])? } else { build.integers(&[1, 0, 2])? };
    Ok(build.op(Op::Transpose, &[x, order], dtype))
}

/// A given initial state, or zeros `[B, width]`.
fn initial(
    build: &mut Build<'_>,
    given: Option<ValueId>,
    batch: ValueId,
    width: usize,
) -> Result<ValueId> {
    match given {
        Some(value) => Ok(value),
        None => {
            let width = build.integer(width as i32);
            let shape = build.op(Op::Pack(Pack { axis: 0 }), &[batch, width], DType::I32);
            let zero = build.number(0.0);
            Ok(build.op(Op::Fill, &[shape, zero], DType::F32))
        }
    }
}

/// A node that computes a value which exists already.
fn name(build: &mut Build<'_>, op: Op, inputs: &[ValueId], result: ValueId) {
    let name = build.graph.get(result).map(|value| value.name.clone()).unwrap_or_default();
    build.graph.add_node(name, op, inputs.iter().copied().map(Some).collect(), vec![Some(result)]);
}

/// Gives a new value the place of one that exists already: the node that computes it computes the
/// other one.
fn alias(build: &mut Build<'_>, from: ValueId, to: ValueId) -> Result<()> {
    let node = build.graph.nodes.iter_mut().rev().find(|node| node.outputs.contains(&Some(from)));
    let node = node.ok_or_else(|| Error::internal("a result is missing"))?;
    for output in node.outputs.iter_mut().filter(|output| **output == Some(from)) {
        *output = Some(to);
    }
    // The last step's output may be read under both names.
    for node in &mut build.graph.nodes {
        for input in node.inputs.iter_mut().filter(|input| **input == Some(from)) {
            *input = Some(to);
        }
    }
    Ok(())
}

/// What a run over the sequence yields.
struct End {
    /// `[T, B, P]`.
    y: Option<ValueId>,
    h: ValueId,
    c: Option<ValueId>,
}

/// A run over the sequence.
struct Run<'r> {
    step: Step<'r>,
    reverse: bool,
    masking: Masking,
    wants_y: bool,
    name: String,
}

/// The variables of the loop, in its order; those that do not change last.
struct Variables {
    step: ValueId,
    h: ValueId,
    c: Option<ValueId>,
    y: Option<ValueId>,
    held: Option<ValueId>,
    count: ValueId,
    gates: ValueId,
    mask: Option<ValueId>,
}

impl Variables {
    fn list(&self) -> Vec<ValueId> {
        let mut list = vec![self.step, self.h];
        list.extend(self.c);
        list.extend(self.y);
        list.extend(self.held);
        list.extend([self.count, self.gates]);
        list.extend(self.mask);
        list
    }
}

impl Run<'_> {
    /// The one step of a sequence of one.
    fn once(
        &self,
        build: &mut Build<'_>,
        gates: ValueId,
        h: ValueId,
        c: Option<ValueId>,
    ) -> Result<End> {
        let first = build.integer(0);
        let gates = build.item(gates, first, DType::F32);
        let (h, c) = self.step.step(build, gates, h, c)?;
        let axis = build.integer(0);
        let y = self.wants_y.then(|| build.op(Op::ExpandDims, &[h, axis], DType::F32));
        Ok(End { y, h, c })
    }

    fn looped(
        &self,
        build: &mut Build<'_>,
        gates: ValueId,
        mask: Option<Mask>,
        batch: ValueId,
        h: ValueId,
        c: Option<ValueId>,
    ) -> Result<End> {
        let count = build.size(gates, 0)?;
        let y = if self.wants_y {
            let width = build.integer(self.step.output_width() as i32);
            let shape = build.op(Op::Pack(Pack { axis: 0 }), &[count, batch, width], DType::I32);
            let zero = build.number(0.0);
            Some(build.op(Op::Fill, &[shape, zero], DType::F32))
        } else {
            None
        };
        let holds = self.wants_y && mask.is_some() && self.masking == Masking::Hold;
        let held =
            if holds { Some(initial(build, None, batch, self.step.output_width())?) } else { None };
        let mask_value = mask.map(|mask| match mask {
            Mask::Steps(value) | Mask::Lengths(value) => value,
        });
        let step = build.integer(0);
        let variables = Variables { step, h, c, y, held, count, gates, mask: mask_value };
        let condition = self.condition(&variables, mask)?;
        let body = self.body(&variables, mask)?;
        let before = variables.list();
        let name = format!("{}/loop", self.name);
        let after: Vec<ValueId> = body
            .outputs
            .iter()
            .map(|port| {
                let dtype = body.get(port.value).map_or(DType::F32, |value| value.ty.dtype);
                build.graph.add_value(name.clone(), ValueType::unranked(dtype))
            })
            .collect();
        let outputs = after.iter().copied().map(Some).collect();
        let op = Op::While(Box::new(While { condition, body }));
        build.graph.add_node(name, op, before.into_iter().map(Some).collect(), outputs);
        let mut after = after.into_iter().skip(1);
        let mut next = || after.next().ok_or_else(|| Error::internal("a loop variable is missing"));
        let h = next()?;
        let c = if c.is_some() { Some(next()?) } else { None };
        let y = if y.is_some() { Some(next()?) } else { None };
        Ok(End { y, h, c })
    }

    /// The loop's variables as the inputs of a graph of their own.
    fn inputs(&self, graph: &mut Graph, outer: &Variables, mask: Option<Mask>) -> Variables {
        let mut input = |name: &str, dtype: DType, rank: usize| {
            let value = graph.add_value(name, ValueType::symbolic(dtype, vec![Dim::Unknown; rank]));
            graph.inputs.push(Port { name: name.to_owned(), value });
            value
        };
        Variables {
            step: input("step", DType::I32, 0),
            h: input("h", DType::F32, 2),
            c: outer.c.map(|_| input("c", DType::F32, 2)),
            y: outer.y.map(|_| input("outputs", DType::F32, 3)),
            held: outer.held.map(|_| input("held", DType::F32, 2)),
            count: input("count", DType::I32, 0),
            gates: input("gates", DType::F32, 3),
            mask: mask.map(|mask| match mask {
                Mask::Steps(_) => input("mask", DType::Bool, 2),
                Mask::Lengths(_) => input("lengths", DType::I32, 1),
            }),
        }
    }

    fn condition(&self, outer: &Variables, mask: Option<Mask>) -> Result<Graph> {
        let mut graph = Graph { name: format!("{}_condition", self.name), ..Graph::default() };
        let variables = self.inputs(&mut graph, outer, mask);
        let mut build = Build { graph: &mut graph, name: self.name.clone() };
        let holds = build.less(variables.step, variables.count);
        graph.outputs.push(Port { name: "goes on".to_owned(), value: holds });
        Ok(graph)
    }

    fn body(&self, outer: &Variables, mask: Option<Mask>) -> Result<Graph> {
        let mut graph = Graph { name: format!("{}_body", self.name), ..Graph::default() };
        let old = self.inputs(&mut graph, outer, mask);
        let mut build = Build { graph: &mut graph, name: self.name.clone() };
        let one = build.integer(1);
        let next_step = build.add_index(old.step, one);
        let index = if self.reverse { build.sub_index(old.count, next_step) } else { old.step };
        let gates = build.item(old.gates, index, DType::F32);
        let (mut h, mut c) = self.step.step(&mut build, gates, old.h, old.c)?;
        let (mut output, mut held) = (h, None);
        if let (Some(mask), Some(given)) = (mask, old.mask) {
            let counts = match mask {
                Mask::Steps(_) => build.item(given, index, DType::Bool),
                Mask::Lengths(_) => build.less(index, given),
            };
            let axis = build.integer(-1);
            let counts = build.op(Op::ExpandDims, &[counts, axis], DType::Bool);
            let left_out = match old.held {
                Some(held) => held,
                None => build.number(0.0),
            };
            output = build.op(Op::Select, &[counts, h, left_out], DType::F32);
            held = old.held.map(|_| output);
            h = build.op(Op::Select, &[counts, h, old.h], DType::F32);
            c = match (c, old.c) {
                (Some(new), Some(old)) => {
                    Some(build.op(Op::Select, &[counts, new, old], DType::F32))
                }
                _ => None,
            };
        }
        let y = old.y.map(|y| build.op(Op::SetItem, &[y, index, output], DType::F32));
        let new = Variables {
            step: next_step,
            h,
            c,
            y,
            held,
            count: old.count,
            gates: old.gates,
            mask: old.mask,
        };
        for (number, value) in new.list().into_iter().enumerate() {
            graph.outputs.push(Port { name: format!("next {number}"), value });
        }
        Ok(graph)
    }
}
