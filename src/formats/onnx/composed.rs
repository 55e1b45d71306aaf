//! LSTM, GRU and RNN as loops of basic ops, for what the canonical op does not say: weights that
//! are no constants, bounds of the gates' inputs, functions of its own.
//!
//! One direction over x `[T, B, I]`, with `s_k = W_k x + R_k h + Wb_k + Rb_k (+ P_k ∘ c)` inside of
//! the bounds:
//!
//! ```text
//! LSTM  i = f(s_i)   f = f(s_f) or 1 − i   c' = f ∘ c + i ∘ g(s_c)   o = f(s_o)   h' = o ∘ h(c')
//! GRU   z = f(s_z)   r = f(s_r)   n = g(W_h x + Wb_h + R_h (r ∘ h) + Rb_h)
//!       or, reset after the product, n = g(W_h x + Wb_h + r ∘ (R_h h + Rb_h))
//!       h' = (1 − z) ∘ n + z ∘ h
//! RNN   h' = f(s)
//! ```
//!
//! The peephole of o is that of the new c.

use super::activations::{Function, Functions};
use super::attributes::Attributes;
use super::loop_body::Inner;
use super::quantized;
use super::step::Step;
use super::weights::Kind;
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, Gather, MatMul, ReverseSequence};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

/// One direction of a layer; operands in f32.
pub struct Composed {
    pub kind: Kind,
    pub hidden: usize,
    pub functions: Functions,
    pub clip: Option<f32>,
    pub input_forget: bool,
    pub reset_after: bool,
    pub reverse: bool,
    /// `[T, B, I]`.
    pub x: ValueId,
    /// `[B]`.
    pub lengths: Option<ValueId>,
    /// Of x and of h.
    pub w: Weight,
    pub r: Weight,
    /// `[2·G·H]`.
    pub b: Option<ValueId>,
    /// `[3·H]`.
    pub p: Option<ValueId>,
    /// `[B, H]`.
    pub h0: Option<ValueId>,
    pub c0: Option<ValueId>,
}

/// Weights of a product.
#[derive(Clone, Copy)]
pub enum Weight {
    /// f32 `[G·H, K]`.
    Float(ValueId),
    /// `scale · q` with q i32 `[K, G·H]`, its zero point taken off, and scale `[]` or `[G·H]`. The
    /// other factor is quantized to 8 bits as a whole, and the product is one of integers.
    Quantized { q: ValueId, scale: ValueId },
}

impl Weight {
    fn bring(self, inner: &mut Inner, step: &Step<'_, '_>) -> Result<Weight> {
        Ok(match self {
            Weight::Float(id) => Weight::Float(inner.bring(step, id)?),
            Weight::Quantized { q, scale } => {
                Weight::Quantized { q: inner.bring(step, q)?, scale: inner.bring(step, scale)? }
            }
        })
    }

    fn float(self) -> Result<ValueId> {
        match self {
            Weight::Float(id) => Ok(id),
            Weight::Quantized { .. } => Err(Error::internal("quantized weights of a GRU")),
        }
    }
}

/// What the body of the loop reads.
struct Inside {
    /// `W x + b` of this step, `[B, G·H]`.
    x: ValueId,
    h: ValueId,
    c: ValueId,
    r: Weight,
    candidate_bias: Option<ValueId>,
    p: Option<ValueId>,
}

impl Composed {
    /// Y `[T, B, H]`, final h and c `[B, H]`.
    pub fn lower(&self, step: &mut Step<'_, '_>) -> Result<[ValueId; 3]> {
        let lengths = match self.lengths {
            Some(lengths) => Some(step.cast(lengths, DType::I64)?),
            None => None,
        };
        let x = self.turned(step, self.x, lengths)?;
        let (products, candidate_bias) = self.products(step, x)?;
        let shape = step.shape_of(x)?;
        let index = step.scalar(0);
        let trips = step.add(gather(), &[shape, index])?;
        let (mut buffer, mut state) = (step.slice(shape, 0, 0, 2)?, step.slice(shape, 0, 1, 2)?);
        let hidden = step.vector(&[self.hidden as i64])?;
        buffer = step.concat(0, &[buffer, hidden])?;
        state = step.concat(0, &[state, hidden])?;
        let zero = step.number(DType::F32, 0.0)?;
        let buffer = step.add(Op::Fill, &[buffer, zero])?;
        let zeros = step.add(Op::Fill, &[state, zero])?;
        let (h0, c0) = (self.h0.unwrap_or(zeros), self.c0.unwrap_or(zeros));

        let mut inner = Inner::new(step, Some(trips))?;
        let mut slots = Vec::new();
        let mut insides = Vec::new();
        for (name, outer) in [("h", h0), ("c", c0), ("y", buffer)] {
            let mut ty = step.builder.ty(zeros)?.clone();
            if name == "y" {
                ty = step.builder.ty(buffer)?.clone();
            }
            slots.push(inner.variables.len());
            insides.push(inner.add_variable(name, ty, outer));
        }
        let [h, c, y] = *insides.as_slice() else {
            return Err(Error::internal("three variables were added"));
        };
        let products = inner.bring(step, products)?;
        let r = self.r.bring(&mut inner, step)?;
        let mut bring = |id: Option<ValueId>| id.map(|id| inner.bring(step, id)).transpose();
        let (candidate_bias, p, lengths) =
            (bring(candidate_bias)?, bring(self.p)?, bring(lengths)?);
        let counter = inner.counter;
        let mut body = Step {
            cx: &mut *step.cx,
            builder: &mut inner.builder,
            scope: &mut *step.scope,
            node: step.node,
            attrs: Attributes::default(),
            inputs: Vec::new(),
            opset: step.opset,
        };
        let x = body.add(gather(), &[products, counter])?;
        let [mut h_next, mut c_next] =
            self.cell(&mut body, &Inside { x, h, c, r, candidate_bias, p })?;
        let mut item = h_next;
        if let Some(lengths) = lengths {
            let on = body.binary(F::Less, counter, lengths)?;
            let last = body.scalar(-1);
            let on = body.add(Op::ExpandDims, &[on, last])?;
            let zero = body.number(DType::F32, 0.0)?;
            item = body.add(Op::Select, &[on, h_next, zero])?;
            h_next = body.add(Op::Select, &[on, h_next, h])?;
            c_next = body.add(Op::Select, &[on, c_next, c])?;
        }
        let written = body.add(Op::SetItem, &[y, counter, item])?;
        for (&slot, next) in slots.iter().zip([h_next, c_next, written]) {
            inner.set_next(slot, next);
        }
        let ids = inner.emit(step, Some(trips))?;
        let at = |k: usize| {
            let slot = slots.get(k).copied().unwrap_or(0);
            ids.get(slot).copied().ok_or_else(|| Error::internal("a loop without results"))
        };
        let (h, c, y) = (at(0)?, at(1)?, at(2)?);
        // A cell without c leaves it as it was.
        let c = if self.kind == Kind::Lstm { c } else { zeros };
        let lengths = match self.lengths {
            Some(lengths) => Some(step.cast(lengths, DType::I64)?),
            None => None,
        };
        Ok([self.turned(step, y, lengths)?, h, c])
    }

    /// `W x + b` of every row, and the bias of a candidate whose product the reset gate acts on.
    fn products(&self, step: &mut Step<'_, '_>, x: ValueId) -> Result<(ValueId, Option<ValueId>)> {
        let mut products = self.product(step, x, self.w)?;
        let mut candidate_bias = None;
        if let Some(b) = self.b {
            let width = (self.kind.gates() * self.hidden) as i64;
            let input = step.slice(b, 0, 0, width)?;
            let mut recurrent = step.slice(b, 0, width, 2 * width)?;
            if self.reset_after {
                let gates = width - self.hidden as i64;
                candidate_bias = Some(step.slice(recurrent, 0, gates, width)?);
                let zeros = step.constant(Tensor::zeros(DType::F32, &[self.hidden])?);
                let gates = step.slice(recurrent, 0, 0, gates)?;
                recurrent = step.concat(0, &[gates, zeros])?;
            }
            let sum = step.binary(F::Add, input, recurrent)?;
            products = step.binary(F::Add, products, sum)?;
        }
        Ok((products, candidate_bias))
    }

    /// One step of x `[B, I]`: h and c.
    pub fn once(&self, step: &mut Step<'_, '_>, x: ValueId) -> Result<[ValueId; 2]> {
        let shape = step.shape_of(x)?;
        let batch = step.slice(shape, 0, 0, 1)?;
        let hidden = step.vector(&[self.hidden as i64])?;
        let state = step.concat(0, &[batch, hidden])?;
        let zero = step.number(DType::F32, 0.0)?;
        let zeros = step.add(Op::Fill, &[state, zero])?;
        let (x, candidate_bias) = self.products(step, x)?;
        let (h, c) = (self.h0.unwrap_or(zeros), self.c0.unwrap_or(zeros));
        self.cell(step, &Inside { x, h, c, r: self.r, candidate_bias, p: self.p })
    }

    /// A reversed direction's sequence, within the lengths.
    fn turned(
        &self,
        step: &mut Step<'_, '_>,
        x: ValueId,
        lengths: Option<ValueId>,
    ) -> Result<ValueId> {
        match (self.reverse, lengths) {
            (false, _) => Ok(x),
            (true, None) => {
                let axes = step.vector(&[0])?;
                step.add(Op::Reverse, &[x, axes])
            }
            (true, Some(lengths)) => {
                let op = Op::ReverseSequence(ReverseSequence { time_axis: 0, batch_axis: 1 });
                step.add(op, &[x, lengths])
            }
        }
    }

    fn product(&self, step: &mut Step<'_, '_>, x: ValueId, weights: Weight) -> Result<ValueId> {
        let op = |transpose_b| {
            Op::MatMul(MatMul { transpose_a: false, transpose_b, asymmetric_inputs: false })
        };
        match weights {
            Weight::Float(weights) => step.add(op(true), &[x, weights]),
            Weight::Quantized { q, scale } => {
                let x = quantized::dynamic(step, x)?;
                let centered = step.binary(F::Sub, x.q, x.zero)?;
                let centered = step.cast(centered, DType::I32)?;
                let product = step.add(op(false), &[centered, q])?;
                let product = step.cast(product, DType::F32)?;
                let scale = step.binary(F::Mul, x.scale, scale)?;
                step.binary(F::Mul, product, scale)
            }
        }
    }

    /// `[h', c']`.
    fn cell(&self, step: &mut Step<'_, '_>, v: &Inside) -> Result<[ValueId; 2]> {
        match self.kind {
            Kind::Lstm => self.lstm(step, v),
            Kind::Gru => self.gru(step, v),
            Kind::Rnn => {
                let product = self.product(step, v.h, v.r)?;
                let sum = step.binary(F::Add, v.x, product)?;
                let sum = self.bounded(step, sum)?;
                Ok([self.functions.gate.lower(step, sum)?, v.c])
            }
        }
    }

    fn block(&self, step: &mut Step<'_, '_>, x: ValueId, axis: usize, k: i64) -> Result<ValueId> {
        let width = self.hidden as i64;
        step.slice(x, axis, k * width, (k + 1) * width)
    }

    fn bounded(&self, step: &mut Step<'_, '_>, x: ValueId) -> Result<ValueId> {
        let Some(clip) = self.clip else { return Ok(x) };
        let (low, high) =
            (step.number(DType::F32, f64::from(-clip))?, step.number(DType::F32, f64::from(clip))?);
        let x = step.binary(F::Maximum, x, low)?;
        step.binary(F::Minimum, x, high)
    }

    fn lstm(&self, step: &mut Step<'_, '_>, v: &Inside) -> Result<[ValueId; 2]> {
        let product = self.product(step, v.h, v.r)?;
        let sums = step.binary(F::Add, v.x, product)?;
        // Blocks i, o, f, c; peepholes i, o, f.
        let gate = |step: &mut Step<'_, '_>, k: i64, c: Option<ValueId>| -> Result<ValueId> {
            let mut sum = self.block(step, sums, 1, k)?;
            if let (Some(p), Some(c)) = (v.p, c) {
                let p = self.block(step, p, 0, k)?;
                let seen = step.binary(F::Mul, p, c)?;
                sum = step.binary(F::Add, sum, seen)?;
            }
            self.bounded(step, sum)
        };
        let i = gate(step, 0, Some(v.c))?;
        let i = self.functions.gate.lower(step, i)?;
        let f = if self.input_forget {
            let one = step.number(DType::F32, 1.0)?;
            step.binary(F::Sub, one, i)?
        } else {
            let f = gate(step, 2, Some(v.c))?;
            self.functions.gate.lower(step, f)?
        };
        let g = gate(step, 3, None)?;
        let g = self.functions.candidate.lower(step, g)?;
        let kept = step.binary(F::Mul, f, v.c)?;
        let new = step.binary(F::Mul, i, g)?;
        let c = step.binary(F::Add, kept, new)?;
        let o = gate(step, 1, Some(c))?;
        let o = self.functions.gate.lower(step, o)?;
        let shown = self.functions.output.lower(step, c)?;
        Ok([step.binary(F::Mul, o, shown)?, c])
    }

    fn gru(&self, step: &mut Step<'_, '_>, v: &Inside) -> Result<[ValueId; 2]> {
        let width = self.hidden as i64;
        let r_weights = v.r.float()?;
        let gate_weights = Weight::Float(step.slice(r_weights, 0, 0, 2 * width)?);
        let product = self.product(step, v.h, gate_weights)?;
        let mut gates = Vec::with_capacity(2);
        for k in 0..2 {
            let (x, product) = (self.block(step, v.x, 1, k)?, self.block(step, product, 1, k)?);
            let sum = step.binary(F::Add, x, product)?;
            let sum = self.bounded(step, sum)?;
            gates.push(self.functions.gate.lower(step, sum)?);
        }
        let [z, r] = *gates.as_slice() else {
            return Err(Error::internal("two gates were read"));
        };
        let weights = Weight::Float(self.block(step, r_weights, 0, 2)?);
        let seen = if self.reset_after {
            let mut product = self.product(step, v.h, weights)?;
            if let Some(bias) = v.candidate_bias {
                product = step.binary(F::Add, product, bias)?;
            }
            step.binary(F::Mul, r, product)?
        } else {
            let reset = step.binary(F::Mul, r, v.h)?;
            self.product(step, reset, weights)?
        };
        let x = self.block(step, v.x, 1, 2)?;
        let sum = step.binary(F::Add, x, seen)?;
        let sum = self.bounded(step, sum)?;
        let n = self.functions.candidate.lower(step, sum)?;
        let one = step.number(DType::F32, 1.0)?;
        let rest = step.binary(F::Sub, one, z)?;
        let new = step.binary(F::Mul, rest, n)?;
        let kept = step.binary(F::Mul, z, v.h)?;
        Ok([step.binary(F::Add, new, kept)?, v.c])
    }
}

fn gather() -> Op {
    Op::Gather(Gather { axis: 0, batch_dims: 0 })
}

impl Function {
    /// The function of every element.
    fn lower(self, step: &mut Step<'_, '_>, x: ValueId) -> Result<ValueId> {
        use crate::graph::op::Activation;
        let scaled = |step: &mut Step<'_, '_>, function: F, x: ValueId, by: f32| {
            let by = step.number(DType::F32, f64::from(by))?;
            step.binary(function, x, by)
        };
        match self {
            Function::Plain(activation) => step.add(Op::Activation(activation), &[x]),
            Function::Affine { alpha, beta } => {
                let x = scaled(step, F::Mul, x, alpha)?;
                scaled(step, F::Add, x, beta)
            }
            Function::ScaledTanh { alpha, beta } => {
                let x = scaled(step, F::Mul, x, beta)?;
                let x = step.add(Op::Activation(Activation::Tanh), &[x])?;
                scaled(step, F::Mul, x, alpha)
            }
            Function::ThresholdedRelu { alpha } => {
                let on = scaled(step, F::Greater, x, alpha)?;
                let zero = step.number(DType::F32, 0.0)?;
                step.add(Op::Select, &[on, x, zero])
            }
        }
    }
}
