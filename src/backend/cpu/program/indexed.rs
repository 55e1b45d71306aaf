//! Ops that pick elements by what is known at run time only: indices, lengths, a condition.

use super::slots::Slots;
use crate::error::{Error, Result};
use crate::graph::op::{Gather, ReverseSequence};
use crate::graph::{Node, ValueId};
use crate::plan::Plan;
use crate::tensor::{DType, Tensor};

/// The ops of this kind.
pub(super) enum Kind<'a> {
    Gather(&'a Gather),
    ReverseSequence(&'a ReverseSequence),
    Select,
}

/// A node that picks elements of its operands.
pub(super) struct Indexed {
    operands: Vec<ValueId>,
    y: ValueId,
    dtype: DType,
    work: Work,
}

enum Work {
    Gather(Picks),
    ReverseSequence { time: Axis, batch: Axis },
    Select,
}

/// x `[rows, size, block]`; of every row `each` entries of the middle axis. The indices are
/// `[rows / before, each]`.
struct Picks {
    axis: usize,
    rows: usize,
    before: usize,
    size: usize,
    block: usize,
    each: usize,
}

/// Stride and size of an axis.
#[derive(Clone, Copy)]
struct Axis {
    stride: usize,
    size: usize,
}

/// Integers of an operand.
#[derive(Clone, Copy)]
enum Integers<'a> {
    Narrow(&'a [i32]),
    Wide(&'a [i64]),
}

impl Integers<'_> {
    fn of(tensor: &Tensor) -> Result<Integers<'_>> {
        match tensor.dtype() {
            DType::I32 => Ok(Integers::Narrow(tensor.as_slice()?)),
            _ => Ok(Integers::Wide(tensor.as_slice()?)),
        }
    }

    fn len(self) -> usize {
        match self {
            Integers::Narrow(all) => all.len(),
            Integers::Wide(all) => all.len(),
        }
    }

    fn at(self, index: usize) -> i64 {
        match self {
            Integers::Narrow(all) => all.get(index).map_or(0, |&n| n.into()),
            Integers::Wide(all) => all.get(index).copied().unwrap_or(0),
        }
    }

    fn all(self) -> impl Iterator<Item = i64> {
        (0..self.len()).map(move |index| self.at(index))
    }
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

fn outside() -> Error {
    Error::internal("elements past the end of a tensor")
}

impl Picks {
    fn new(options: &Gather, x: &[usize], indices: &[usize]) -> Option<Picks> {
        let axis = axis_of(options.axis, x.len())?;
        let batch = usize::try_from(options.batch_dims).ok().filter(|&batch| batch <= axis)?;
        if indices.get(..batch)? != x.get(..batch)? {
            return None;
        }
        let product = |sizes: &[usize]| sizes.iter().product::<usize>();
        let before = product(&x[batch..axis]);
        Some(Picks {
            axis,
            rows: product(&x[..batch]) * before,
            before,
            size: x[axis],
            block: product(&x[axis + 1..]),
            each: product(&indices[batch..]),
        })
    }

    fn run<E: Copy>(&self, x: &[E], indices: Integers<'_>, y: &mut [E]) -> Result<()> {
        let Picks { axis, size, block, .. } = *self;
        if let Some(index) = indices.all().find(|&index| index < 0 || index as u64 >= size as u64) {
            return Err(Error::input(format!(
                "index {index} is out of range for axis {axis} of size {size}"
            )));
        }
        let mut to = y.chunks_exact_mut(block.max(1));
        for row in 0..self.rows {
            for k in 0..self.each {
                let index = indices.at(row / self.before * self.each + k) as usize;
                let from = (row * size + index) * block;
                let Some(to) = to.next() else { return Ok(()) };
                to.copy_from_slice(x.get(from..from + block).ok_or_else(outside)?);
            }
        }
        Ok(())
    }
}

/// Row b of the result has the first `lengths[b]` steps of x from the last to the first, the others
/// as they are.
fn reverse<E: Copy>(
    time: Axis,
    batch: Axis,
    x: &[E],
    lengths: Integers<'_>,
    y: &mut [E],
) -> Result<()> {
    let steps = time.size;
    if let Some((row, n)) = lengths.all().enumerate().find(|&(_, n)| n < 0 || n > steps as i64) {
        return Err(Error::input(format!("length {n} of row {row} is not in 0..={steps}")));
    }
    // Up to the smaller stride, elements lie as they do in x.
    let run = time.stride.min(batch.stride).max(1);
    for (number, to) in y.chunks_exact_mut(run).enumerate() {
        let at = number * run;
        let (t, row) = (at / time.stride % steps, at / batch.stride % batch.size);
        let length = lengths.at(row) as usize;
        let from =
            if t < length { at - t * time.stride + (length - 1 - t) * time.stride } else { at };
        to.copy_from_slice(x.get(from..from + run).ok_or_else(outside)?);
    }
    Ok(())
}

fn select<E: Copy>(condition: &[bool], a: &[E], b: &[E], y: &mut [E]) {
    for (((y, &holds), &a), &b) in y.iter_mut().zip(condition).zip(a).zip(b) {
        *y = if holds { a } else { b };
    }
}

impl Indexed {
    /// The kernel of a node whose shapes are known; `None` for what is computed by `eval`.
    pub fn new(kind: &Kind<'_>, plan: &Plan, node: &Node) -> Option<Indexed> {
        let dtype = |id: ValueId| Some(plan.graph.get(id)?.ty.dtype);
        let operands: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let shape = |slot: usize| plan.shape(*operands.get(slot)?);
        let y = node.output(0)?;
        let types: Vec<DType> = operands.iter().copied().map(dtype).collect::<Option<_>>()?;
        let of = dtype(y)?;
        let is_integer = |dtype: &DType| matches!(dtype, DType::I32 | DType::I64);
        let work = match *kind {
            Kind::Gather(options) => {
                let (true, &[x, ref indices]) = (operands.len() == 2, types.as_slice()) else {
                    return None;
                };
                if x != of || !is_integer(indices) {
                    return None;
                }
                Work::Gather(Picks::new(options, shape(0)?, shape(1)?)?)
            }
            Kind::ReverseSequence(options) => {
                let (true, &[x, ref lengths]) = (operands.len() == 2, types.as_slice()) else {
                    return None;
                };
                let sizes = shape(0)?;
                let axis = |axis: i64| {
                    let axis = axis_of(axis, sizes.len())?;
                    Some(Axis { stride: sizes[axis + 1..].iter().product(), size: sizes[axis] })
                };
                let (time, batch) = (axis(options.time_axis)?, axis(options.batch_axis)?);
                let same_axis = axis_of(options.time_axis, sizes.len())
                    == axis_of(options.batch_axis, sizes.len());
                if x != of || !is_integer(lengths) || same_axis || shape(1)? != [batch.size] {
                    return None;
                }
                Work::ReverseSequence { time, batch }
            }
            Kind::Select => {
                let all = plan.shape(y)?;
                let same_shape = (0..3).all(|slot| shape(slot) == Some(all));
                if types != [DType::Bool, of, of] || !same_shape {
                    return None;
                }
                Work::Select
            }
        };
        Some(Indexed { operands, y, dtype: of, work })
    }

    pub fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let Indexed { operands, y, dtype, work } = self;
        slots.with_taken(*y, |slots, y| {
            let operand = |slot: usize| -> Result<&Tensor> {
                let id = operands.get(slot).ok_or_else(|| Error::internal("an operand is missing"))?;
                slots.read(*id, inputs, states)
            };
            macro_rules! of_type {
                ($($dtype:ident $ty:ty),*) => {
                    match dtype { $(DType::$dtype => {
                        let y = y.as_mut_slice::<$ty>()?;
                        match work {
                            Work::Gather(picks) => picks.run(operand(0)?.as_slice()?, Integers::of(operand(1)?)?, y),
                            Work::ReverseSequence { time, batch } => {
                                reverse(*time, *batch, operand(0)?.as_slice()?, Integers::of(operand(1)?)?, y)
                            }
                            Work::Select => {
                                let condition = operand(0)?.as_slice::<bool>()?;
                                select(condition, operand(1)?.as_slice()?, operand(2)?.as_slice()?, y);
                                Ok(())
                            }
                        }
                    })* }
                };
            }
            of_type!(F32 f32, F64 f64, F16 half::f16, I8 i8, U8 u8, I16 i16, I32 i32, I64 i64, Bool bool)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::backend::{Backend, BackendOptions, Io};
    use crate::eval::evaluate;
    use crate::graph::{Graph, Op, Port, ValueType};

    /// Result of one node of this backend, and whether it was left to `eval`; `None` for a run that
    /// fails.
    fn run(op: &Op, operands: &[Tensor], y: (DType, &[usize])) -> (Option<Tensor>, bool) {
        let mut graph = Graph::default();
        let mut slots = Vec::new();
        for (index, tensor) in operands.iter().enumerate() {
            let value = graph
                .add_value(format!("x{index}"), ValueType::fixed(tensor.dtype(), tensor.shape()));
            // Paddings have to be known.
            if matches!(op, Op::Pad) && index > 0 {
                graph.values[value.index()].constant = Some(tensor.clone());
            } else {
                graph.inputs.push(Port { name: format!("x{index}"), value });
            }
            slots.push(Some(value));
        }
        let y = graph.add_value("y", ValueType::fixed(y.0, y.1));
        graph.add_node("node", op.clone(), slots, vec![Some(y)]);
        graph.outputs.push(Port { name: "y".into(), value: y });
        let inputs: Vec<Tensor> = operands.iter().take(graph.inputs.len()).cloned().collect();
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|tensor| tensor.shape().to_vec()).collect();
        let plan = Arc::new(Plan::new(&Arc::new(graph), &shapes).unwrap());
        let resources = crate::backend::cpu::Resources {
            kernels: crate::backend::cpu::simd::select(None).unwrap(),
            options: &BackendOptions::default(),
            threads: 1,
        };
        let mut values = Slots::new(&plan);
        let step =
            super::super::step::Step::new(&plan, &plan.graph.nodes[0], &mut values, &resources)
                .unwrap();
        let left = matches!(step, Some(super::super::step::Step::Evaluate(_)));
        let mut program =
            CpuBackend::new(BackendOptions::default()).unwrap().compile(&plan).unwrap();
        let mut outputs = vec![Tensor::scalar(0.0f32)];
        let done = program.run(Io { inputs: &inputs, states: &mut [], outputs: &mut outputs });
        (done.ok().map(|()| outputs.remove(0)), left)
    }

    /// As `eval` computes it, by a kernel of this backend; failing where it fails.
    fn same(op: &Op, operands: &[Tensor], y: (DType, &[usize])) {
        let types: Vec<ValueType> =
            operands.iter().map(|t| ValueType::fixed(t.dtype(), t.shape())).collect();
        let given: Vec<_> = operands.iter().zip(&types).map(Some).collect();
        let wanted = ValueType::fixed(y.0, y.1);
        let expected =
            evaluate(op, &given, &[Some(&wanted)]).ok().map(|mut all| all.remove(0).unwrap());
        let (found, left) = run(op, operands, y);
        assert!(!left, "{op:?} has no kernel");
        assert_eq!(found, expected, "{op:?}");
    }

    fn floats(shape: &[usize]) -> Tensor {
        let data = (0..shape.iter().product()).map(|n: usize| n as f32 + 0.5).collect();
        Tensor::from_vec(shape, data).unwrap()
    }

    #[test]
    fn gathers() {
        let wide = Tensor::from_vec(&[2, 2], vec![3i64, 0, 1, 1]).unwrap();
        let narrow = Tensor::from_vec(&[2, 2], vec![3i32, 0, 1, 1]).unwrap();
        for indices in [wide, narrow] {
            let plain = |axis| Op::Gather(Gather { axis, batch_dims: 0 });
            same(&plain(0), &[floats(&[4, 3]), indices.clone()], (DType::F32, &[2, 2, 3]));
            same(&plain(-1), &[floats(&[2, 5]), indices.clone()], (DType::F32, &[2, 2, 2]));
            let batched = Op::Gather(Gather { axis: 2, batch_dims: 1 });
            same(&batched, &[floats(&[2, 3, 4, 2]), indices.clone()], (DType::F32, &[2, 3, 2, 2]));
            // Out of range, on both sides.
            same(&plain(0), &[floats(&[3, 3]), indices], (DType::F32, &[2, 2, 3]));
        }
        let negative = Tensor::from_vec(&[1], vec![-1i32]).unwrap();
        same(
            &Op::Gather(Gather { axis: 0, batch_dims: 0 }),
            &[floats(&[3, 2]), negative],
            (DType::F32, &[1, 2]),
        );
    }

    #[test]
    fn sequences_reversed_by_lengths() {
        for (time_axis, batch_axis, shape) in
            [(1, 0, [3, 4, 2]), (0, 1, [4, 3, 2]), (2, 0, [3, 2, 4])]
        {
            let op = Op::ReverseSequence(ReverseSequence { time_axis, batch_axis });
            for lengths in [vec![0i32, 3, 4], vec![4, 1, 2], vec![5, 0, 0], vec![-1, 0, 0]] {
                let lengths = Tensor::from_vec(&[3], lengths).unwrap();
                same(&op, &[floats(&shape), lengths], (DType::F32, &shape));
            }
        }
    }

    #[test]
    fn selections_and_paddings() {
        let condition =
            Tensor::from_vec(&[2, 3], vec![true, false, true, false, false, true]).unwrap();
        let other = Tensor::from_vec(&[2, 3], vec![-1.0f32; 6]).unwrap();
        same(&Op::Select, &[condition, floats(&[2, 3]), other], (DType::F32, &[2, 3]));
        let paddings = Tensor::from_vec(&[3, 2], vec![1i32, 0, 0, 2, 3, 1]).unwrap();
        same(&Op::Pad, &[floats(&[2, 2, 2]), paddings.clone()], (DType::F32, &[3, 4, 6]));
        same(
            &Op::Pad,
            &[floats(&[2, 2, 2]), paddings, Tensor::scalar(9.0f32)],
            (DType::F32, &[3, 4, 6]),
        );
    }
}
