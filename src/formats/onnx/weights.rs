//! Weights of LSTM, GRU and RNN in the order of the canonical op.
//!
//! | operator | gate blocks of W, R, B | peephole P | canonical |
//! |---|---|---|---|
//! | LSTM | i, o, f, c | i, o, f | i, f, c, o; i, f, o |
//! | GRU | z, r, h | | update, reset, candidate |

use super::step::Step;
use crate::error::{Error, Result};
use crate::graph::recurrent::{CellWeights, Matrix};
use crate::tensor::{DType, Tensor};

/// A recurrent operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lstm,
    Gru,
    Rnn,
}

impl Kind {
    /// Number of gate blocks.
    pub fn gates(self) -> usize {
        match self {
            Kind::Lstm => 4,
            Kind::Gru => 3,
            Kind::Rnn => 1,
        }
    }
}

/// The sizes of a layer: those of W `[D, G·H, I]`.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub kind: Kind,
    pub hidden: usize,
    pub input: usize,
}

impl Sizes {
    /// Takes the sizes from R, holds W and the attribute against them.
    /// `quantized`: they are integers `[D, H, G·H]` and `[D, I, G·H]`.
    pub fn read(
        step: &Step<'_, '_>,
        kind: Kind,
        directions: usize,
        quantized: bool,
    ) -> Result<Self> {
        let gates = kind.gates();
        let r = shape(step, 2, "R", quantized)?;
        let hidden = match *r.as_slice() {
            [_, hidden, _] if quantized => hidden,
            [_, _, hidden] => hidden,
            _ => return Err(Error::malformed(format!("R: expected 3 axes, found shape {r:?}"))),
        };
        if hidden == 0 {
            return Err(Error::malformed(format!("R: expected sizes of 1 or more, found {r:?}")));
        }
        if let Some(stated) = step.attrs.int("hidden_size")?
            && usize::try_from(stated) != Ok(hidden)
        {
            return Err(Error::malformed(format!(
                "hidden_size: expected {hidden} as R has, found {stated}"
            )));
        }
        let rows = gates
            .checked_mul(hidden)
            .filter(|&rows| rows <= usize::MAX / 2)
            .ok_or_else(|| Error::limit("R: the number of rows overflows"))?;
        let w = shape(step, 1, "W", quantized)?;
        let input = if quantized {
            expect("R", &r, &[directions, hidden, rows])?;
            let input = w.get(1).copied().unwrap_or(0);
            expect("W", &w, &[directions, input, rows])?;
            for (slot, name) in SCALES {
                if step.optional(slot)?.is_some() {
                    let found = shape(step, slot, name, name.ends_with("zero_point"))?;
                    if found != [directions] {
                        expect(name, &found, &[directions, rows])?;
                    }
                }
            }
            input
        } else {
            expect("R", &r, &[directions, rows, hidden])?;
            let input = w.last().copied().unwrap_or(0);
            expect("W", &w, &[directions, rows, input])?;
            input
        };
        let width = 2 * rows;
        if step.optional(3)?.is_some() {
            expect("B", &shape(step, 3, "B", false)?, &[directions, width])?;
        }
        if kind == Kind::Lstm && step.optional(7)?.is_some() {
            expect("P", &shape(step, 7, "P", false)?, &[directions, 3 * hidden])?;
        }
        Ok(Sizes { kind, hidden, input })
    }
}

fn expect(name: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::malformed(format!("{name}: expected shape {expected:?}, found {found:?}")))
}

/// Operands of the quantized LSTM beside its weights.
const SCALES: [(usize, &str); 4] =
    [(8, "W_scale"), (9, "W_zero_point"), (10, "R_scale"), (11, "R_zero_point")];

/// The sizes of an operand, all of which must be known.
fn shape(step: &Step<'_, '_>, slot: usize, name: &str, bytes: bool) -> Result<Vec<usize>> {
    let id = step.optional(slot)?;
    let id = id.ok_or_else(|| Error::malformed(format!("{name} is absent")))?;
    let ty = step.builder.ty(id)?;
    let fits = if bytes { matches!(ty.dtype, DType::I8 | DType::U8) } else { ty.dtype.is_float() };
    if !fits {
        let expected = if bytes { "int8 or uint8" } else { "floats" };
        return Err(Error::malformed(format!("{name}: expected {expected}, found {}", ty.dtype)));
    }
    ty.known_shape()
        .ok_or_else(|| Error::unsupported(format!("{name}: weights whose shape is not known")))
}

/// The weights as the file has them.
pub struct Weights {
    sizes: Sizes,
    w: Tensor,
    r: Tensor,
    b: Option<Tensor>,
    p: Option<Tensor>,
}

impl Weights {
    /// `None` when one of them is no constant.
    pub fn read(step: &Step<'_, '_>, sizes: &Sizes) -> Result<Option<Self>> {
        let constant = |slot: usize| -> Result<Option<Option<Tensor>>> {
            let Some(id) = step.optional(slot)? else { return Ok(Some(None)) };
            Ok(step.builder.constant(id).cloned().map(Some))
        };
        let p = if sizes.kind == Kind::Lstm { constant(7)? } else { Some(None) };
        let (Some(Some(w)), Some(Some(r)), Some(b), Some(p)) =
            (constant(1)?, constant(2)?, constant(3)?, p)
        else {
            return Ok(None);
        };
        Ok(Some(Weights { sizes: *sizes, w, r, b, p }))
    }

    /// The weights of one direction. `coupled`: the forget gate is `1 − i`, which is the input
    /// gate of negated weights.
    pub fn direction(&self, d: usize, coupled: bool, reset_after: bool) -> Result<CellWeights> {
        let Sizes { kind, hidden, input, .. } = self.sizes;
        let (order, peephole_order): (&[Block], &[Block]) = match (kind, coupled) {
            (Kind::Lstm, false) => (&[TAKE[0], TAKE[2], TAKE[3], TAKE[1]], &PEEPHOLE),
            (Kind::Lstm, true) => (&COUPLED, &COUPLED_PEEPHOLE),
            (Kind::Gru, _) => (&TAKE[..3], &[]),
            (Kind::Rnn, _) => (&TAKE[..1], &[]),
        };
        let gates = kind.gates();
        let matrix = |tensor: &Tensor, columns: usize| {
            let data = blocks(tensor, d, gates, hidden * columns, order)?
                .reshaped(&[order.len() * hidden, columns])?;
            // Halves are kept as they are; everything else is computed in f32.
            if data.dtype() == DType::F16 { Ok(data) } else { single(data) }.map(Matrix::float)
        };
        let (bias, recurrent_bias) = match &self.b {
            None => (None, None),
            Some(b) => self.biases(b, d, order, reset_after)?,
        };
        let peephole = match &self.p {
            None => None,
            Some(p) => Some(Matrix::float(single(blocks(p, d, 3, hidden, peephole_order)?)?)),
        };
        Ok(CellWeights {
            input: matrix(&self.w, input)?,
            recurrent: matrix(&self.r, hidden)?,
            auxiliary: None,
            bias,
            recurrent_bias,
            peephole,
            layer_norm: None,
            projection: None,
        })
    }

    /// The bias, both of the file summed, and the recurrent bias of a candidate whose product the
    /// reset gate acts on.
    fn biases(
        &self,
        b: &Tensor,
        d: usize,
        order: &[Block],
        reset_after: bool,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gates, hidden) = (self.sizes.kind.gates(), self.sizes.hidden);
        let second: Vec<Block> =
            order.iter().map(|block| Block { from: block.from + gates, ..*block }).collect();
        let first = floats(&blocks(b, d, 2 * gates, hidden, order)?);
        let mut second = floats(&blocks(b, d, 2 * gates, hidden, &second)?);
        let recurrent = if reset_after {
            let candidate = second.split_off(second.len().saturating_sub(hidden));
            let values: Vec<f32> = candidate.iter().map(|&x| x as f32).collect();
            second.resize(first.len(), 0.0);
            Some(Tensor::from_vec(&[hidden], values)?)
        } else {
            None
        };
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| (a + b) as f32).collect();
        Ok((Some(Tensor::from_vec(&[sum.len()], sum)?), recurrent))
    }
}

/// A gate block of the file, taken as it is or negated.
#[derive(Clone, Copy)]
struct Block {
    from: usize,
    negated: bool,
}

const fn take(from: usize) -> Block {
    Block { from, negated: false }
}

const fn negate(from: usize) -> Block {
    Block { from, negated: true }
}

const TAKE: [Block; 4] = [take(0), take(1), take(2), take(3)];
/// Input, forget, output of i, o, f.
const PEEPHOLE: [Block; 3] = [take(0), take(2), take(1)];
/// Forget (the input gate's complement), cell, output of i, o, f, c.
const COUPLED: [Block; 3] = [negate(0), take(3), take(1)];
const COUPLED_PEEPHOLE: [Block; 2] = [negate(0), take(1)];

/// Blocks of `length` elements of one direction of `[D, blocks·length]`, in an order.
fn blocks(
    tensor: &Tensor,
    d: usize,
    blocks: usize,
    length: usize,
    order: &[Block],
) -> Result<Tensor> {
    fn pick<E: crate::tensor::Element>(
        all: &[E],
        start: usize,
        length: usize,
        order: &[Block],
        negate: impl Fn(E) -> E,
    ) -> Result<Tensor> {
        let mut out = Vec::with_capacity(order.len() * length);
        for block in order {
            let begin = start + block.from * length;
            let part = all
                .get(begin..begin + length)
                .ok_or_else(|| Error::internal("a block past the end of the weights"))?;
            if block.negated {
                out.extend(part.iter().map(|&x| negate(x)));
            } else {
                out.extend_from_slice(part);
            }
        }
        Tensor::from_vec(&[out.len()], out)
    }
    let start = d * blocks * length;
    match tensor.dtype() {
        DType::F16 => pick(tensor.as_slice::<half::f16>()?, start, length, order, |x| -x),
        DType::F64 => pick(tensor.as_slice::<f64>()?, start, length, order, |x| -x),
        DType::F32 => pick(tensor.as_slice::<f32>()?, start, length, order, |x| -x),
        other => Err(Error::malformed(format!("weights: expected floats, found {other}"))),
    }
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.as_slice::<f64>() {
        Ok(values) => values.to_vec(),
        Err(_) => tensor.to_f32().iter().map(|&x| f64::from(x)).collect(),
    }
}

/// In f32.
fn single(tensor: Tensor) -> Result<Tensor> {
    let shape = tensor.shape().to_vec();
    Tensor::from_vec(&shape, tensor.to_f32().into_owned())
}
