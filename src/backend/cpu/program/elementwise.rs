//! Element-wise ops, softmax and reductions on f32.

use super::slots::Slots;
use crate::backend::cpu::simd::KernelSet;
use crate::error::{Error, Result};
use crate::graph::op::{
    Activation, Binary, BinaryFunction, Reduce, ReduceFunction, Softmax, Unary,
};
use crate::graph::{Node, ValueId};
use crate::plan::Plan;
use crate::tensor::{DType, Tensor};

/// The ops of this kind.
pub(super) enum Kind<'a> {
    Activation(Activation),
    Unary(Unary),
    Binary(&'a Binary),
    Softmax(Softmax),
    Reduce(&'a Reduce),
}

/// A node over f32 elements.
pub(super) struct Elementwise {
    inputs: Vec<ValueId>,
    y: ValueId,
    work: Work,
    kernels: &'static KernelSet,
}

/// What is computed.
enum Work {
    Activation(Activation),
    Unary(fn(f32) -> f32),
    Binary { function: fn(f32, f32) -> f32, activation: Activation, broadcast: Broadcast },
    Softmax { options: Softmax, width: usize },
    Reduce { function: ReduceFunction, outer: usize, reduced: usize, inner: usize },
}

/// How the operands of a binary op follow the result:
/// `index[k] = Σ axes (i / before % size) · stride`, by runs over the last axis.
struct Broadcast {
    shape: Vec<usize>,
    strides: [Vec<usize>; 2],
    index: Vec<usize>,
}

impl Broadcast {
    fn new(shape: &[usize], operands: [&[usize]; 2]) -> Option<Broadcast> {
        let strides = operands.map(|operand| {
            let missing = shape.len().checked_sub(operand.len())?;
            let mut strides = vec![0; shape.len()];
            let mut step = 1;
            for (axis, &size) in operand.iter().enumerate().rev() {
                if size != 1 {
                    if size != shape[missing + axis] {
                        return None;
                    }
                    strides[missing + axis] = step;
                }
                step *= size;
            }
            Some(strides)
        });
        let [Some(a), Some(b)] = strides else { return None };
        Some(Broadcast { shape: shape.to_vec(), strides: [a, b], index: vec![0; shape.len()] })
    }

    fn run(
        &mut self,
        f: impl Fn(f32, f32) -> f32,
        a: &[f32],
        b: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let outside = || Error::internal("an operand is shorter than its shape");
        if a.len() == y.len() && b.len() == y.len() {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = f(*a, *b);
            }
            return Ok(());
        }
        let Some(last) = self.shape.len().checked_sub(1) else { return Err(outside()) };
        let width = self.shape[last].max(1);
        self.index.fill(0);
        let (mut at_a, mut at_b) = (0, 0);
        for y in y.chunks_exact_mut(width) {
            let (step_a, step_b) = (self.strides[0][last], self.strides[1][last]);
            if a.len() <= at_a + step_a * (width - 1) || b.len() <= at_b + step_b * (width - 1) {
                return Err(outside());
            }
            for (k, y) in y.iter_mut().enumerate() {
                *y = f(a[at_a + k * step_a], b[at_b + k * step_b]);
            }
            for axis in (0..last).rev() {
                self.index[axis] += 1;
                at_a += self.strides[0][axis];
                at_b += self.strides[1][axis];
                if self.index[axis] < self.shape[axis] {
                    break;
                }
                self.index[axis] = 0;
                at_a -= self.strides[0][axis] * self.shape[axis];
                at_b -= self.strides[1][axis] * self.shape[axis];
            }
        }
        Ok(())
    }
}

fn unary(function: Unary) -> Option<fn(f32) -> f32> {
    Some(match function {
        Unary::Neg => |x| -x,
        Unary::Abs => f32::abs,
        Unary::Exp => f32::exp,
        Unary::Log => f32::ln,
        Unary::Sqrt => f32::sqrt,
        Unary::Rsqrt => |x| 1.0 / x.sqrt(),
        Unary::Square => |x| x * x,
        Unary::Sin => f32::sin,
        Unary::Cos => f32::cos,
        Unary::Floor => f32::floor,
        Unary::Ceil => f32::ceil,
        Unary::Round => f32::round_ties_even,
        Unary::Sign | Unary::Not | Unary::Erf => return None,
    })
}

fn binary(function: BinaryFunction) -> Option<fn(f32, f32) -> f32> {
    Some(match function {
        BinaryFunction::Add => |a, b| a + b,
        BinaryFunction::Sub => |a, b| a - b,
        BinaryFunction::Mul => |a, b| a * b,
        BinaryFunction::Div => |a, b| a / b,
        BinaryFunction::SquaredDifference => |a, b| (a - b) * (a - b),
        // The rest is rare, or has corner cases (NaN, signs, integers) that are written out once,
        // in `eval`.
        BinaryFunction::FloorDiv
        | BinaryFunction::FloorMod
        | BinaryFunction::Pow
        | BinaryFunction::Minimum
        | BinaryFunction::Maximum
        | BinaryFunction::Equal
        | BinaryFunction::NotEqual
        | BinaryFunction::Less
        | BinaryFunction::LessEqual
        | BinaryFunction::Greater
        | BinaryFunction::GreaterEqual
        | BinaryFunction::And
        | BinaryFunction::Or => return None,
    })
}

/// Reduced axes that follow each other: sizes before, of, and after them.
fn reduction(shape: &[usize], axes: &[i64]) -> Option<(usize, usize, usize)> {
    let rank = shape.len() as i64;
    let mut axes: Vec<i64> =
        axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
    axes.sort_unstable();
    axes.dedup();
    let (first, last) =
        (usize::try_from(*axes.first()?).ok()?, usize::try_from(*axes.last()?).ok()?);
    if last >= shape.len() || last - first + 1 != axes.len() {
        return None;
    }
    let product = |sizes: &[usize]| sizes.iter().product::<usize>();
    Some((product(&shape[..first]), product(&shape[first..=last]), product(&shape[last + 1..])))
}

impl Elementwise {
    /// The kernel of a node on f32 operands of known shapes; `None` for what is computed by `eval`.
    pub fn new(
        kind: &Kind<'_>,
        plan: &Plan,
        node: &Node,
        kernels: &'static KernelSet,
    ) -> Option<Elementwise> {
        let is_float =
            |id: ValueId| plan.graph.get(id).is_some_and(|value| value.ty.dtype == DType::F32);
        let input = |slot: usize| node.input(slot);
        let y = node.output(0).filter(|&id| is_float(id))?;
        let x = input(0).filter(|&id| is_float(id))?;
        let mut inputs = vec![x];
        let work = match *kind {
            Kind::Activation(activation) => Work::Activation(activation),
            Kind::Unary(function) => Work::Unary(unary(function)?),
            Kind::Binary(op) => {
                let b = input(1).filter(|&id| is_float(id))?;
                inputs.push(b);
                let broadcast = Broadcast::new(plan.shape(y)?, [plan.shape(x)?, plan.shape(b)?])?;
                Work::Binary {
                    function: binary(op.function)?,
                    activation: op.activation,
                    broadcast,
                }
            }
            Kind::Softmax(options) => Work::Softmax { options, width: *plan.shape(x)?.last()? },
            Kind::Reduce(op) => {
                let axes = plan.known(input(1)?)?.to_i64().ok()?;
                let (outer, reduced, inner) = reduction(plan.shape(x)?, &axes)?;
                let usual = matches!(op.function, ReduceFunction::Sum | ReduceFunction::Mean);
                if !usual || reduced == 0 {
                    return None;
                }
                Work::Reduce { function: op.function, outer, reduced, inner }
            }
        };
        Some(Elementwise { inputs, y, work, kernels })
    }

    pub fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let id = self.y;
        slots.with_taken(id, |slots, y| {
            let operand = |slot: usize| -> Result<&[f32]> {
                let id = self
                    .inputs
                    .get(slot)
                    .ok_or_else(|| Error::internal("an operand is missing"))?;
                slots.read(*id, inputs, states)?.as_slice()
            };
            let (x, y) = (operand(0)?, y.as_mut_slice::<f32>()?);
            match &mut self.work {
                Work::Activation(activation) => {
                    y.copy_from_slice(x);
                    self.kernels.activate(*activation, y);
                }
                Work::Unary(function) => y.iter_mut().zip(x).for_each(|(y, x)| *y = function(*x)),
                Work::Binary { function, activation, broadcast } => {
                    broadcast.run(*function, x, operand(1)?, y)?;
                    self.kernels.activate(*activation, y);
                }
                Work::Softmax { options, width } => {
                    y.copy_from_slice(x);
                    y.chunks_exact_mut((*width).max(1))
                        .for_each(|row| self.kernels.softmax(options.beta, options.log, row));
                }
                Work::Reduce { function, outer, reduced, inner } => {
                    let count =
                        if *function == ReduceFunction::Mean { *reduced as f64 } else { 1.0 };
                    for (o, i) in (0..*outer).flat_map(|o| (0..*inner).map(move |i| (o, i))) {
                        let first = o * *reduced * *inner + i;
                        let terms = x.iter().skip(first).step_by(*inner).take(*reduced);
                        if let Some(y) = y.get_mut(o * *inner + i) {
                            *y = (terms.map(|&x| f64::from(x)).sum::<f64>() / count) as f32;
                        }
                    }
                }
            }
            Ok(())
        })
    }
}
