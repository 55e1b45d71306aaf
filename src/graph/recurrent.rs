//! The canonical recurrent layer. Every way to write a recurrent layer ends as this one op, and no
//! code after `formats` and `passes` knows a foreign gate order or weight layout.
//!
//! Sizes: `T` time steps, `B` batch rows, `I` input width, `A` auxiliary width, `H` cells (units),
//! `P` output width (`P = H` without projection), `G` gate blocks.
//!
//! | cell | gate blocks, in this order |
//! |---|---|
//! | LSTM | input, forget, cell (candidate), output; `G = 4` |
//! | LSTM, coupled input and forget gate | forget, cell, output; `G = 3` (input gate = 1 − forget gate) |
//! | GRU | update, reset, candidate; `G = 3` |
//! | RNN | one; `G = 1` |

use std::sync::Arc;

use super::op::Activation;
use crate::tensor::Tensor;

/// A recurrent layer over a whole sequence, in one or both directions.
///
/// Operands, each absent or present (`d` = 0 for the first direction, 1 for the second):
///
/// | input slot | value | shape |
/// |---|---|---|
/// | [`Recurrent::X`] | input | `[T, B, I]` or `[B, T, I]`, see [`Layout`] |
/// | [`Recurrent::MASK`] | lengths (an integer type) `[B]`, or a mask (bool) `[T, B]` or `[B, T]` | |
/// | [`Recurrent::AUXILIARY`] | auxiliary input | as the input, width `A` |
/// | [`Recurrent::h0`]`(d)` | output state before the first step; absent: zeros | `[B, P]` |
/// | [`Recurrent::c0`]`(d)` | cell state before the first step (LSTM only); absent: zeros | `[B, H]` |
///
/// | output slot | value | shape |
/// |---|---|---|
/// | [`Recurrent::y`]`(d)` | outputs of every step, each stored at the index of its input step | `[T, B, P]` or `[B, T, P]` |
/// | [`Recurrent::h_n`]`(d)` | output state after the last processed step | `[B, P]` |
/// | [`Recurrent::c_n`]`(d)` | cell state after the last processed step (LSTM only) | `[B, H]` |
///
/// With [`Merge::Concat`] slot `y(0)` holds both directions joined on the last axis (`P₀ + P₁`) and
/// `y(1)` is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// The equations of one step.
    pub cell: Cell,
    /// One or two directions, each with weights of its own.
    pub directions: Vec<Direction>,
    /// Order of the time and batch axes of inputs and outputs.
    pub layout: Layout,
    /// What happens at a step that lengths or mask leave out; read only when the operand is
    /// present.
    pub masking: Masking,
    /// How the outputs of two directions are returned.
    pub merge: Merge,
    /// Bound of the magnitude of what goes into the activation of every gate and of the candidate
    /// (`clip` of ONNX): `s` is `clip(s, gate_clip)` in the equations of the cell.
    pub gate_clip: Option<f32>,
    /// The arithmetic that the source of the model promises.
    pub arithmetic: Arithmetic,
}

/// The equations of one step. `W x`, `R h`, `A a` are the matrix products of [`CellWeights`]; `b`
/// its bias.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cell {
    /// Long short-term memory.
    Lstm(Lstm),
    /// Gated recurrent unit.
    Gru(Gru),
    /// The plain recurrent cell.
    Rnn(Rnn),
}

/// One LSTM step, with `s_k = W_k x + R_k h (+ A_k a) (+ p_k ∘ c)`, the peephole of i and f on the
/// old `c`, of o on the new one:
///
/// ```text
/// s_k = b_k + s_k                                  without layer norm
/// s_k = b_k + coef_k ∘ (s_k − mean) / sqrt(var + 1e-8)   with it (population variance over the H cells)
/// i = gate(s_i)   or 1 − f when coupled      f = gate(s_f)      g = candidate(s_g)
/// c' = clip(f ∘ c + i ∘ g, cell_clip)        o = gate(s_o)      m = o ∘ output(c')
/// h' = m          or clip(Q m + q, projection_clip) with a projection
/// ```
///
/// Peephole, projection, layer norm and diagonal recurrent weights are on when [`CellWeights`] has
/// them.
#[derive(Clone, Debug, PartialEq)]
pub struct Lstm {
    /// Activation of the input, forget and output gates.
    pub gate: Activation,
    /// Activation of the candidate.
    pub candidate: Activation,
    /// Activation of the new cell state on its way to the output.
    pub output: Activation,
    /// The input gate is `1 − f`: there are three gate blocks (forget, cell, output).
    pub coupled_input_forget: bool,
    /// Bound of the cell state's magnitude.
    pub cell_clip: Option<f32>,
    /// Bound of the projected output's magnitude; ignored without a projection.
    pub projection_clip: Option<f32>,
}

/// One GRU step:
///
/// ```text
/// z = gate(W_z x + R_z h + b_z)      r = gate(W_r x + R_r h + b_r)
/// n = candidate(W_n x + b_n + R_n (r ∘ h))             reset before
/// n = candidate(W_n x + b_n + r ∘ (R_n h + rb_n))      reset after; rb = recurrent_bias
/// h' = z ∘ h + (1 − z) ∘ n
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Gru {
    /// Activation of the update and reset gates.
    pub gate: Activation,
    /// Activation of the candidate.
    pub candidate: Activation,
    /// The reset gate acts on the recurrent product rather than on the state.
    pub reset_after: bool,
}

/// One step of the plain cell: `h' = activation(W x + R h (+ A a) + b)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rnn {
    /// Activation of the sum.
    pub activation: Activation,
}

/// One direction of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Processes the last step first; outputs stay at the index of their input step.
    pub reverse: bool,
    /// Which operand the input weights act on.
    pub source: Source,
    /// The weights, shared by every copy of the op.
    pub weights: Arc<CellWeights>,
}

/// Which operand a direction's input weights act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The input.
    X,
    /// The auxiliary input *instead of* the input (TFLite's "parallel linking").
    Auxiliary,
}

/// Weights of one direction, rows = output units, gate blocks in the order of the module's table.
#[derive(Clone, Debug, PartialEq)]
pub struct CellWeights {
    /// `[G·H, I]`.
    pub input: Matrix,
    /// `[G·H, P]`; `[G·H]` when diagonal: the product is element-wise.
    pub recurrent: Matrix,
    /// `[G·H, A]`: added to every gate ("cross linking").
    pub auxiliary: Option<Matrix>,
    /// `[G·H]`, f32 (i32 for integer arithmetic). A forget bias is folded in.
    pub bias: Option<Tensor>,
    /// GRU with `reset_after` only: `[H]`, f32, the recurrent bias of the candidate. Those of the
    /// gates are summed into `bias`.
    pub recurrent_bias: Option<Tensor>,
    /// LSTM: `[3·H]` for input, forget, output, or `[2·H]` for forget, output when coupled. f32
    /// (dequantized when the source is hybrid), i16 with one scale a block for integer arithmetic.
    pub peephole: Option<Matrix>,
    /// LSTM: layer-norm coefficients `[G·H]`; f32, i16 with one scale a block for integer
    /// arithmetic.
    pub layer_norm: Option<Matrix>,
    /// LSTM: projection to the output width.
    pub projection: Option<Projection>,
}

/// `h' = Q m + q`.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// `[P, H]`.
    pub weight: Matrix,
    /// `[P]`; f32, i32 for integer arithmetic.
    pub bias: Option<Tensor>,
}

/// Weights with the scales of their rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// f32, f16, i8 or (integer peephole and layer norm) i16; `[rows, columns]`, or `[rows]` for
    /// vectors. The u8 basic kernel keeps u8.
    pub data: Tensor,
    /// Empty for float data. Otherwise `n` scales that divide the rows into `n` equal runs:
    /// `weight = scale · data`.
    pub scales: Vec<f32>,
}

/// Order of the leading axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[T, B, ·]`.
    TimeMajor,
    /// `[B, T, ·]`.
    BatchMajor,
}

/// What a step that lengths or mask leave out yields. The state is kept unchanged in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masking {
    /// The output is 0 (ONNX, TensorFlow 1).
    Zero,
    /// The output of the step processed before is repeated, 0 when there is none (Keras).
    Hold,
}

/// How two directions are returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Merge {
    /// Each direction has an output of its own (also the form of a single direction).
    Separate,
    /// One output, both joined on the last axis, first direction first.
    Concat,
}

/// The arithmetic that a model's source promises; `reference` honors it bit for bit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arithmetic {
    /// Float throughout; weights may be stored in f16.
    Float,
    /// Int8 weights, activations quantized per batch row at every step (`tflite-recurrent-ops`
    /// section 9).
    Hybrid {
        /// The activations' zero point is free.
        asymmetric: bool,
    },
    /// Int8 activations and weights, int16 cell state (section 10.4).
    Integer(IntegerScales),
    /// The u8 BASIC kernel (section 4): activations scale 1/128 zero 128, state scale 1/2048.
    IntegerBasic {
        /// Zero point of the u8 weights.
        weight_zero_point: i32,
    },
}

/// Scales of the integer LSTM that are not in its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerScales {
    /// Scale and zero point of the input.
    pub input: (f32, i32),
    /// Scale and zero point of the output state (which is also the output).
    pub output_state: (f32, i32),
    /// `k`: the cell state's scale is `2^k`.
    pub cell_scale_log2: i32,
    /// Scales of the gates' intermediates (input, forget, cell, output); used with layer norm only,
    /// `2^-12` otherwise.
    pub gates: [f32; 4],
    /// Scale and zero point of the gated output before the projection.
    pub hidden: (f32, i32),
}

impl Cell {
    /// `G`: number of gate blocks in the weights.
    pub fn gate_blocks(&self) -> usize {
        match self {
            Cell::Lstm(lstm) => {
                if lstm.coupled_input_forget {
                    3
                } else {
                    4
                }
            }
            Cell::Gru(_) => 3,
            Cell::Rnn(_) => 1,
        }
    }

    /// Whether there is a cell state beside the output state.
    pub fn has_cell_state(&self) -> bool {
        matches!(self, Cell::Lstm(_))
    }

    /// `LSTM`, `GRU` or `RNN`.
    pub fn name(&self) -> &'static str {
        match self {
            Cell::Lstm(_) => "LSTM",
            Cell::Gru(_) => "GRU",
            Cell::Rnn(_) => "RNN",
        }
    }
}

impl Recurrent {
    /// Input slot of the input.
    pub const X: usize = 0;
    /// Input slot of the lengths or the mask.
    pub const MASK: usize = 1;
    /// Input slot of the auxiliary input.
    pub const AUXILIARY: usize = 2;

    /// Input slot of direction `d`'s initial output state.
    pub const fn h0(d: usize) -> usize {
        3 + 2 * d
    }

    /// Input slot of direction `d`'s initial cell state.
    pub const fn c0(d: usize) -> usize {
        4 + 2 * d
    }

    /// Output slot of direction `d`'s outputs.
    pub const fn y(d: usize) -> usize {
        d
    }

    /// Output slot of direction `d`'s final output state.
    pub const fn h_n(d: usize) -> usize {
        2 + 2 * d
    }

    /// Output slot of direction `d`'s final cell state.
    pub const fn c_n(d: usize) -> usize {
        3 + 2 * d
    }

    /// Number of input slots, used or not.
    pub fn input_slots(&self) -> usize {
        3 + 2 * self.directions.len()
    }

    /// Number of output slots, used or not.
    pub fn output_slots(&self) -> usize {
        2 + 2 * self.directions.len()
    }
}

impl CellWeights {
    /// `H`: number of cells, for a cell of `gate_blocks` blocks.
    pub fn units(&self, gate_blocks: usize) -> usize {
        self.input.rows() / gate_blocks.max(1)
    }

    /// `P`: width of the output, for a cell of `gate_blocks` blocks.
    pub fn output_width(&self, gate_blocks: usize) -> usize {
        self.projection
            .as_ref()
            .map_or_else(|| self.units(gate_blocks), |projection| projection.weight.rows())
    }

    /// Whether the recurrent weights are a diagonal.
    pub fn is_diagonal(&self) -> bool {
        self.recurrent.data.shape().len() == 1
    }

    /// Every matrix and vector that is present, with a name for messages.
    pub fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        let mut parts =
            vec![("input weights", &self.input.data), ("recurrent weights", &self.recurrent.data)];
        parts.extend(self.auxiliary.as_ref().map(|m| ("auxiliary weights", &m.data)));
        parts.extend(self.bias.as_ref().map(|t| ("bias", t)));
        parts.extend(self.recurrent_bias.as_ref().map(|t| ("recurrent bias", t)));
        parts.extend(self.peephole.as_ref().map(|m| ("peephole", &m.data)));
        parts.extend(self.layer_norm.as_ref().map(|m| ("layer norm", &m.data)));
        if let Some(projection) = &self.projection {
            parts.push(("projection weights", &projection.weight.data));
            parts.extend(projection.bias.as_ref().map(|t| ("projection bias", t)));
        }
        parts
    }
}

impl Matrix {
    /// Float weights, without scales.
    pub fn float(data: Tensor) -> Self {
        Matrix { data, scales: Vec::new() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.shape().first().copied().unwrap_or(0)
    }

    /// Number of columns; 1 for a vector.
    pub fn columns(&self) -> usize {
        self.data.shape().get(1).copied().unwrap_or(1)
    }

    /// The weights as f32, row-major, scales applied.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = self.data.to_f32().into_owned();
        if !self.scales.is_empty() && !out.is_empty() {
            let run = out.len().div_ceil(self.scales.len());
            for (chunk, scale) in out.chunks_mut(run).zip(&self.scales) {
                chunk.iter_mut().for_each(|w| *w *= scale);
            }
        }
        out
    }
}
