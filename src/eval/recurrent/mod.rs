//! The recurrent layer: the walk over time steps and batch rows that every cell and arithmetic
//! shares.
//!
//! The equations of a step are in [`float`] (float and hybrid), [`integer`] (int8 LSTM) and
//! [`basic`] (the uint8 kernel).

mod basic;
mod float;
mod integer;

use super::movement::{self, concat};
use super::operands::{Operands, checked_count};
use crate::error::{Error, Place, Result};
use crate::graph::Recurrent;
use crate::graph::recurrent::{
    Arithmetic, CellWeights, Direction, Layout, Masking, Matrix, Merge, Source,
};
use crate::limits;
use crate::tensor::{DType, Element, Tensor};

/// One time step of one batch row.
trait Step {
    /// Type of inputs.
    type X: Element;
    /// Type of the output state and of outputs.
    type H: Element;
    /// Type of the cell state.
    type C: Element;

    /// Brings `h` `[P]` and `c` `[H]` of batch row `row` one step further; `auxiliary` is empty
    /// when there is none.
    fn step(
        &mut self,
        row: usize,
        x: &[Self::X],
        auxiliary: &[Self::X],
        h: &mut [Self::H],
        c: &mut [Self::C],
    );

    /// What an output that was left out holds, and every state that starts at zero.
    fn zero(&self) -> (Self::H, Self::C);
}

/// Op [`Op::Recurrent`](crate::graph::Op::Recurrent).
pub(super) fn recurrent(layer: &Recurrent, operands: &Operands<'_>) -> Result<Vec<Option<Tensor>>> {
    let sequence = Sequence::new(layer, operands)?;
    if layer.directions.is_empty() || layer.directions.len() > 2 {
        return Err(Error::graph(format!(
            "a recurrent layer has {} directions",
            layer.directions.len()
        )));
    }
    let mut results = vec![None; layer.output_slots()];
    for (d, direction) in layer.directions.iter().enumerate() {
        let run = run_direction(layer, direction, d, &sequence, operands)
            .within(|| format!("direction {d}"))?;
        results[Recurrent::y(d)] = Some(run.y);
        results[Recurrent::h_n(d)] = Some(run.h);
        results[Recurrent::c_n(d)] = run.c;
    }
    if layer.merge == Merge::Concat && layer.directions.len() == 2 {
        let last = results[1].take().zip(results[0].take());
        results[0] = last.map(|(second, first)| concat(&[&first, &second], -1)).transpose()?;
    }
    Ok(results)
}

/// What one direction yields.
struct Run {
    y: Tensor,
    h: Tensor,
    c: Option<Tensor>,
}

fn run_direction(
    layer: &Recurrent,
    direction: &Direction,
    d: usize,
    sequence: &Sequence<'_>,
    operands: &Operands<'_>,
) -> Result<Run> {
    let sizes = Sizes::new(layer, direction, sequence)?;
    let walk = Walk {
        layer,
        direction,
        sequence,
        sizes,
        h0: operands.optional(Recurrent::h0(d)),
        c0: operands.optional(Recurrent::c0(d)),
    };
    match &layer.arithmetic {
        Arithmetic::Float => {
            walk.run(&mut float::CellStep::<f64>::new(layer, direction, &sizes, None)?)
        }
        Arithmetic::Hybrid { asymmetric } => {
            walk.run(&mut float::CellStep::<f32>::new(layer, direction, &sizes, Some(*asymmetric))?)
        }
        Arithmetic::Integer(scales) => {
            walk.run(&mut integer::LstmStep::new(layer, direction, &sizes, scales)?)
        }
        Arithmetic::IntegerBasic { weight_zero_point } => {
            walk.run(&mut basic::BasicStep::new(layer, direction, &sizes, *weight_zero_point)?)
        }
    }
}

/// The sequence operands: both inputs, and which steps count.
struct Sequence<'a> {
    x: &'a Tensor,
    auxiliary: Option<&'a Tensor>,
    /// `T`.
    steps: usize,
    /// `B`.
    rows: usize,
    /// `[T, B]`, whether the step counts; `None`: all do.
    mask: Option<Vec<bool>>,
}

/// `T` and `B` of a sequence tensor.
fn leading(x: &Tensor, layout: Layout, name: &str) -> Result<(usize, usize)> {
    match (x.shape(), layout) {
        (&[steps, rows, _], Layout::TimeMajor) | (&[rows, steps, _], Layout::BatchMajor) => {
            Ok((steps, rows))
        }
        _ => Err(Error::input(format!(
            "{name} of a recurrent layer has rank 3, its shape is {:?}",
            x.shape()
        ))),
    }
}

impl<'a> Sequence<'a> {
    fn new(layer: &Recurrent, operands: &Operands<'a>) -> Result<Sequence<'a>> {
        let x = operands.tensor(Recurrent::X, "x")?;
        let auxiliary = operands.optional(Recurrent::AUXILIARY);
        let (steps, rows) = leading(x, layer.layout, "x")?;
        if let Some(auxiliary) = auxiliary
            && leading(auxiliary, layer.layout, "the auxiliary input")? != (steps, rows)
        {
            return Err(Error::input(format!(
                "the auxiliary input of shape {:?} does not go with x of shape {:?}",
                auxiliary.shape(),
                x.shape()
            )));
        }
        let mask = operands
            .optional(Recurrent::MASK)
            .map(|mask| match mask.dtype() {
                DType::Bool => step_mask(mask, layer.layout, steps, rows),
                DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 => {
                    length_mask(mask, steps, rows)
                }
                DType::F16 | DType::F32 | DType::F64 => {
                    Err(Error::input(format!("lengths or mask are {}", mask.dtype())))
                }
            })
            .transpose()?;
        Ok(Sequence { x, auxiliary, steps, rows, mask })
    }

    /// Whether step `t` of row `b` counts.
    fn counts(&self, t: usize, b: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[t * self.rows + b])
    }
}

/// A bool mask as `[T, B]`.
fn step_mask(mask: &Tensor, layout: Layout, steps: usize, rows: usize) -> Result<Vec<bool>> {
    let expected = match layout {
        Layout::TimeMajor => [steps, rows],
        Layout::BatchMajor => [rows, steps],
    };
    if mask.shape() != expected {
        return Err(Error::input(format!(
            "a mask of shape {:?}, expected {expected:?}",
            mask.shape()
        )));
    }
    let flags = mask.as_slice::<bool>()?;
    Ok(match layout {
        Layout::TimeMajor => flags.to_vec(),
        Layout::BatchMajor => {
            (0..steps * rows).map(|i| flags[i % rows * steps + i / rows]).collect()
        }
    })
}

/// Lengths `[B]` as a mask `[T, B]`.
fn length_mask(lengths: &Tensor, steps: usize, rows: usize) -> Result<Vec<bool>> {
    if lengths.shape() != [rows] {
        return Err(Error::input(format!(
            "lengths of shape {:?} for {rows} batch rows",
            lengths.shape()
        )));
    }
    let lengths = lengths.to_i64()?;
    if let Some((row, n)) = lengths.iter().enumerate().find(|&(_, &n)| n < 0 || n > steps as i64) {
        return Err(Error::input(format!("length {n} of batch row {row} is not in 0..={steps}")));
    }
    Ok((0..steps * rows).map(|i| ((i / rows) as i64) < lengths[i % rows]).collect())
}

/// Sizes of one direction.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Width of what the input weights act on.
    input: usize,
    /// Width of the auxiliary input that is added to the gates; 0 without.
    auxiliary: usize,
    /// `H`.
    units: usize,
    /// `P`.
    output: usize,
    /// `G`.
    blocks: usize,
    /// `B`.
    rows: usize,
}

impl Sizes {
    /// Takes the sizes from the weights and checks every part against them and the inputs.
    fn new(layer: &Recurrent, direction: &Direction, sequence: &Sequence<'_>) -> Result<Sizes> {
        let weights = &*direction.weights;
        let blocks = layer.cell.gate_blocks();
        let width = |x: &Tensor| x.shape().last().copied().unwrap_or(0);
        let auxiliary = || {
            sequence.auxiliary.ok_or_else(|| {
                Error::graph("the weights read an auxiliary input that is not there")
            })
        };
        let input = match direction.source {
            Source::X => width(sequence.x),
            Source::Auxiliary => width(auxiliary()?),
        };
        let added = if weights.auxiliary.is_some() { width(auxiliary()?) } else { 0 };
        let sizes = Sizes {
            input,
            auxiliary: added,
            units: weights.units(blocks),
            output: weights.output_width(blocks),
            blocks,
            rows: sequence.rows,
        };
        sizes.check(layer, weights)?;
        Ok(sizes)
    }

    fn check(&self, layer: &Recurrent, weights: &CellWeights) -> Result<()> {
        let (units, rows) = (self.units, self.blocks * self.units);
        let recurrent = if weights.is_diagonal() { vec![rows] } else { vec![rows, self.output] };
        if weights.is_diagonal() && self.output != units {
            return Err(Error::graph(
                "diagonal recurrent weights with a projection to another width",
            ));
        }
        let vector = |matrix: &Option<Matrix>| matrix.as_ref().map(|m| m.data.clone());
        let projection = weights.projection.as_ref();
        let parts = [
            ("input weights", Some(weights.input.data.clone()), vec![rows, self.input]),
            ("recurrent weights", Some(weights.recurrent.data.clone()), recurrent),
            ("auxiliary weights", vector(&weights.auxiliary), vec![rows, self.auxiliary]),
            ("bias", weights.bias.clone(), vec![rows]),
            ("recurrent bias", weights.recurrent_bias.clone(), vec![units]),
            ("peephole", vector(&weights.peephole), vec![(self.blocks - 1) * units]),
            ("layer norm", vector(&weights.layer_norm), vec![rows]),
            (
                "projection weights",
                projection.map(|p| p.weight.data.clone()),
                vec![self.output, units],
            ),
            ("projection bias", projection.and_then(|p| p.bias.clone()), vec![self.output]),
        ];
        for (name, tensor, shape) in parts {
            if let Some(tensor) = tensor.filter(|tensor| tensor.shape() != shape) {
                return Err(Error::graph(format!(
                    "the {name} have the shape {:?}, not {shape:?}",
                    tensor.shape()
                )));
            }
        }
        let lstm = layer.cell.has_cell_state();
        let lstm_only =
            weights.peephole.is_some() || weights.layer_norm.is_some() || projection.is_some();
        if lstm_only && !lstm {
            return Err(Error::graph(format!("a {} cell with LSTM weights", layer.cell.name())));
        }
        Ok(())
    }
}

/// One direction on its way over the sequence.
struct Walk<'a> {
    layer: &'a Recurrent,
    direction: &'a Direction,
    sequence: &'a Sequence<'a>,
    sizes: Sizes,
    h0: Option<&'a Tensor>,
    c0: Option<&'a Tensor>,
}

impl Walk<'_> {
    /// Steps of every row in the direction's order. A step that does not count keeps the state; its
    /// output is 0, or what the step processed before put out.
    fn run<S: Step>(&self, step: &mut S) -> Result<Run> {
        let Sequence { steps, rows, .. } = *self.sequence;
        let Sizes { input, auxiliary, units, output, .. } = self.sizes;
        let (zero_h, zero_c) = step.zero();
        let mut h = initial(self.h0, zero_h, &[rows, output], "h0")?;
        let mut c = initial(self.c0, zero_c, &[rows, units], "c0")?;
        let shape = self.index_shape(output);
        let mut y = vec![zero_h; checked_count(S::H::DTYPE, &shape)?];
        let (x, added) = self.sources::<S::X>()?;
        for b in 0..rows {
            let (h, c) = (&mut h[b * output..][..output], &mut c[b * units..][..units]);
            let mut previous = None;
            for passed in 0..steps {
                let t = if self.direction.reverse { steps - 1 - passed } else { passed };
                let at = self.index(t, b);
                if self.sequence.counts(t, b) {
                    limits::check()?;
                    step.step(
                        b,
                        &x[at * input..][..input],
                        &added[at * auxiliary..][..auxiliary],
                        h,
                        c,
                    );
                    y[at * output..][..output].copy_from_slice(h);
                    previous = Some(at);
                } else if self.layer.masking == Masking::Hold
                    && let Some(before) = previous
                {
                    y.copy_within(before * output..before * output + output, at * output);
                }
            }
        }
        Ok(Run {
            y: Tensor::from_vec(&shape, y)?,
            h: Tensor::from_vec(&[rows, output], h)?,
            c: if self.layer.cell.has_cell_state() {
                Some(Tensor::from_vec(&[rows, units], c)?)
            } else {
                None
            },
        })
    }

    /// The values that the input weights and the auxiliary weights act on; the second is empty
    /// without auxiliary weights.
    fn sources<E: Element>(&self) -> Result<(Vec<E>, Vec<E>)> {
        let main = match self.direction.source {
            Source::X => Some(self.sequence.x),
            Source::Auxiliary => self.sequence.auxiliary,
        };
        let added = if self.sizes.auxiliary > 0 { self.sequence.auxiliary } else { None };
        let read =
            |x: Option<&Tensor>| x.map_or_else(|| Ok(Vec::new()), |x| elements(x, "the input"));
        Ok((read(main)?, read(added)?))
    }

    /// Position of a step of a row.
    fn index(&self, t: usize, b: usize) -> usize {
        match self.layer.layout {
            Layout::TimeMajor => t * self.sequence.rows + b,
            Layout::BatchMajor => b * self.sequence.steps + t,
        }
    }

    fn index_shape(&self, width: usize) -> [usize; 3] {
        let Sequence { steps, rows, .. } = *self.sequence;
        match self.layer.layout {
            Layout::TimeMajor => [steps, rows, width],
            Layout::BatchMajor => [rows, steps, width],
        }
    }
}

/// The elements of a tensor; f16 and f64 are read as f32 where that is asked for, integers must
/// match.
fn elements<E: Element>(x: &Tensor, name: &str) -> Result<Vec<E>> {
    let x = if E::DTYPE == DType::F32 && x.dtype().is_float() {
        movement::cast(x, DType::F32)?
    } else {
        x.clone()
    };
    x.into_vec::<E>().map_err(|error| error.within(name))
}

/// The elements of an initial state.
fn initial<E: Element>(
    state: Option<&Tensor>,
    zero: E,
    shape: &[usize; 2],
    name: &str,
) -> Result<Vec<E>> {
    match state {
        None => Ok(vec![zero; checked_count(E::DTYPE, shape)?]),
        Some(state) if state.shape() == shape => elements(state, name),
        Some(state) => {
            Err(Error::input(format!("{name} has the shape {:?}, not {shape:?}", state.shape())))
        }
    }
}
