//! `ConvLSTM1D` and `ConvLSTM2D`: an LSTM whose products are convolutions, written out step by
//! step.

use serde_json::json;

use super::convolution::Window;
use super::recurrent::RECURRENT;
use super::wrappers::joined_steps;
use super::{Layer, Masks, Use};
use crate::error::{Error, Result};
use crate::formats::keras::activation::read_simple;
use crate::formats::keras::builder::{Builder, Flow};
use crate::graph::op::{Activation, BinaryFunction, Op, Pack, Padding, Unpack};
use crate::graph::{Dim, ValueId};
use crate::tensor::{DType, Tensor};

/// The most steps that are written out.
const MAX_STEPS: usize = 128;

pub(super) const LAYERS: &[Layer] = &[Layer {
    classes: &["ConvLSTM1D", "ConvLSTM2D"],
    arguments: &["sequences", "initial_state", "mask", "training"],
    passed_over: &[&RECURRENT],
    masks: Masks::Drop,
    apply: conv_lstm,
}];

/// What every step does alike.
struct Cell {
    window: Window,
    recurrent: Tensor,
    zeros: Tensor,
    gate: Activation,
    candidate: Activation,
}

impl Cell {
    /// i, f, g, o from `x + h * recurrent`; `c' = f·c + i·g`, `h' = o·activation(c')`. Without a
    /// state both are zero.
    fn step(
        &self,
        b: &mut Builder,
        x: ValueId,
        state: Option<[ValueId; 2]>,
    ) -> Result<[ValueId; 2]> {
        let gates = match state {
            Some([h, _]) => {
                let (weights, bias) = (self.recurrent.clone(), self.zeros.clone());
                let h = self.window.run(b, h, weights, bias, 1)?;
                b.binary(BinaryFunction::Add, x, h)?
            }
            None => x,
        };
        let axis = b.constant(Tensor::scalar(-1i32));
        let parts = b.node(Op::Split, &[Some(gates), Some(axis), None], &[true; 4])?;
        let [Some(i), Some(f), Some(g), Some(o)] = parts[..] else {
            return Err(Error::internal("a split without results"));
        };
        let i = b.activation(self.gate, i)?;
        let g = b.activation(self.candidate, g)?;
        let mut c = b.binary(BinaryFunction::Mul, i, g)?;
        if let Some([_, before]) = state {
            let f = b.activation(self.gate, f)?;
            let kept = b.binary(BinaryFunction::Mul, f, before)?;
            c = b.binary(BinaryFunction::Add, kept, c)?;
        }
        let o = b.activation(self.gate, o)?;
        let shown = b.activation(self.candidate, c)?;
        Ok([b.binary(BinaryFunction::Mul, o, shown)?, c])
    }
}

fn conv_lstm(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let config = used.config;
    for field in ["stateful", "zero_output_for_mask", "time_major"] {
        config.must_be(field, &json!(false))?;
    }
    // Written out either way.
    config.pass_over(&["unroll"]);
    let x = used.arguments.flow("sequences")?;
    if x.mask.is_some() || used.arguments.get("mask").is_some() {
        return Err(Error::unsupported("a ConvLSTM under a mask"));
    }
    let state = match used.arguments.flows("initial_state")?.as_slice() {
        [] => None,
        [h, c] => Some([h.value, c.value]),
        other => return Err(Error::malformed(format!("{} initial states", other.len()))),
    };
    let dims = b.dims(x.value)?.to_vec();
    let steps = match dims.get(1) {
        Some(Dim::Known(steps)) if *steps <= MAX_STEPS => *steps,
        Some(Dim::Known(steps)) => {
            return Err(Error::unsupported(format!(
                "a ConvLSTM over {steps} steps, up to {MAX_STEPS} are written out"
            )));
        }
        _ => return Err(Error::unsupported("a ConvLSTM over an open number of steps")),
    };
    let (cell, gates) = read_cell(b, used, x.value, &dims)?;
    let list = b.node(Op::Unpack(Unpack { axis: 1 }), &[Some(gates)], &vec![true; steps])?;
    let mut list: Vec<ValueId> = list.into_iter().flatten().collect();
    if config.flag("go_backwards", false)? {
        list.reverse();
    }
    let mut state = state;
    let mut outputs = Vec::with_capacity(steps);
    for x in list {
        let next = cell.step(b, x, state)?;
        outputs.push(next[0]);
        state = Some(next);
    }
    let [h, c] = state.ok_or_else(|| Error::malformed("a ConvLSTM over no steps"))?;
    let output = match config.flag("return_sequences", false)? {
        true => b.op(Op::Pack(Pack { axis: 1 }), &outputs)?,
        false => h,
    };
    let mut out = vec![Flow::plain(output)];
    if config.flag("return_state", false)? {
        out.extend([Flow::plain(h), Flow::plain(c)]);
    }
    Ok(out)
}

/// The cell, and the inputs' part of the gates of all steps, `[B, T, …, 4·F]`.
fn read_cell(
    b: &mut Builder,
    used: &Use<'_, '_>,
    x: ValueId,
    dims: &[Dim],
) -> Result<(Cell, ValueId)> {
    let config = used.config;
    let scope = format!("{}/cell", used.scope);
    let window = Window::read(used.class, config)?;
    let (filters, width) = (config.size("filters")?, b.width(x)?);
    let rows = filters.checked_mul(4).ok_or_else(|| Error::limit("filters overflow"))?;
    let kernel = b.weight(&scope, 0, &window.shape([width, rows]), "kernel")?;
    let recurrent = b.weight(&scope, 1, &window.shape([filters, rows]), "recurrent kernel")?;
    let zeros = Tensor::zeros(DType::F32, &[rows])?;
    let bias = match config.flag("use_bias", true)? {
        true => b.weight(&scope, 2, &[rows], "bias")?,
        false => zeros.clone(),
    };
    let input = joined_steps(b, x, dims.get(2..).unwrap_or(&[]))?;
    let kernel = window.turned(&kernel, rows, width)?;
    let gates = window.run(b, input, kernel, bias, 1)?;
    let mut apart: Vec<Dim> = dims.get(..2).unwrap_or(&[]).to_vec();
    apart.extend(b.dims(gates)?.get(1..).unwrap_or(&[]));
    let mut open = Vec::new();
    for (at, _) in apart.iter().enumerate().filter(|(_, dim)| dim.known().is_none()) {
        open.push(if at < 2 { (x, at) } else { (gates, at - 1) });
    }
    let gates = b.reshape_to(gates, &apart, &open)?;
    let recurrent = window.turned(&recurrent, rows, filters)?;
    // States keep their size: one step at a time, zeros around.
    let window = Window { strides: [1, 1], dilations: [1, 1], padding: Padding::Same, ..window };
    let cell = Cell {
        window,
        recurrent,
        zeros,
        gate: read_simple(config, "recurrent_activation", "hard_sigmoid", b.major)?,
        candidate: read_simple(config, "activation", "tanh", b.major)?,
    };
    Ok((cell, gates))
}
