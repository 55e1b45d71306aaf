//! The closed list of ops. No match over [`Op`] has a wildcard arm, so adding an op makes the
//! compiler name every place to change.
//!
//! What TFLite has as an option is a field here; what it has as an operand is an operand (an input
//! value) here, also when it is nearly always constant (a permutation, axes, a target shape): the
//! planner knows its value from constants and shapes. Image tensors are
//! `[N, height, width, channels]`. Axes may be negative, counted from the end.

use super::Graph;
use super::recurrent::{Matrix, Recurrent};
pub use super::window::Padding;
use crate::tensor::{DType, Tensor};

/// An operation of the graph. The doc of each variant lists its inputs → outputs; `?` marks the
/// ones that may be absent.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
#[non_exhaustive]
pub enum Op {
    /// A recurrent layer; operands in [`Recurrent`].
    Recurrent(Recurrent),
    /// x `[B, I]`, state? `[B, F·M]` → y `[B, units]`, next state.
    Svdf(Svdf),
    /// x `[.., I]`, weights `[O, I]`, bias? `[O]` → y `[.., O]`.
    FullyConnected(FullyConnected),
    /// a `[.., M, K]`, b `[.., K, N]` (batch axes broadcast) → `[.., M, N]`.
    MatMul(MatMul),
    /// x `[N, h, w, I]`, weights `[O, kh, kw, I / groups]`, bias? `[O]` → `[N, h', w', O]`.
    Conv2d(Conv2d),
    /// x `[N, h, w, C]` → `[N, h', w', C]`.
    Pool2d(Pool2d),
    /// x → y, element by element.
    Unary(Unary),
    /// x → y, element by element.
    Activation(Activation),
    /// a, b (broadcast) → y.
    Binary(Binary),
    /// condition (bool), a, b (broadcast) → a where the condition holds, else b.
    Select,
    /// x → y of the same shape.
    Softmax(Softmax),
    /// x, axes (integers) → y.
    Reduce(Reduce),
    /// x, axis (integer scalar) → indices.
    ArgMax(ArgMax),
    /// x → y of another type: floats truncate towards zero.
    Cast(DType),
    /// real or quantized x → quantized y; scales are those of the values.
    Quantize,
    /// quantized or f16 x → f32 y.
    Dequantize,
    /// x, permutation → y.
    Transpose,
    /// x, target shape (one entry may be −1) → y.
    Reshape,
    /// x → y without axes of size 1.
    Squeeze(Squeeze),
    /// x, axis → y with one more axis of size 1.
    ExpandDims,
    /// x → its shape, of the given integer type.
    Shape(DType),
    /// shape, value (scalar) → y.
    Fill,
    /// start, limit, delta (scalars) → `[n]`.
    Range,
    /// x, multiples → y.
    Tile,
    /// x, shape → y.
    BroadcastTo,
    /// x, paddings `[rank, 2]`, value? (scalar; absent: zero) → y.
    Pad,
    /// x, begin, size (−1: to the end) → y.
    Slice,
    /// x, begin, end, strides → y.
    StridedSlice(StridedSlice),
    /// x, indices → y; an index out of range is an error.
    Gather(Gather),
    /// x₀, x₁, … → one tensor with a new axis.
    Pack(Pack),
    /// x → one tensor for each index of an axis.
    Unpack(Unpack),
    /// x, axis (scalar), sizes? (one may be −1; absent: equal parts) → as many tensors as the node
    /// has outputs.
    Split,
    /// x₀, x₁, … → one tensor.
    Concat(Concat),
    /// x, axes → x with these axes reversed.
    Reverse,
    /// x, lengths `[batch]` → x with the first `length` entries reversed, for each batch index.
    ReverseSequence(ReverseSequence),
    /// x `[n, ..]`, index (scalar), item `[..]` → x with item at index: how a loop writes a list of
    /// tensors.
    SetItem,
    /// loop variables → their final values.
    While(Box<While>),
    /// An op that another program gave a name to: it can be carried and written, not run.
    Custom(Custom),
}

/// An element-wise function, as a layer of its own or inside a recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// x.
    Linear,
    /// max(x, 0).
    Relu,
    /// min(max(x, −1), 1).
    ReluN1To1,
    /// min(max(x, 0), 6).
    Relu6,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^−x).
    Sigmoid,
    /// min(max(alpha·x + beta, 0), 1): Keras 2 has (0.2, 0.5), Keras 3 (1/6, 0.5).
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// 1 for negative x, else 0.
    SignBit,
    /// x for positive x, else alpha·(e^x − 1).
    Elu {
        /// Scale of the negative part.
        alpha: f32,
    },
    /// x for positive x, else alpha·x.
    LeakyRelu {
        /// Slope of the negative part.
        alpha: f32,
    },
    /// scale·x for positive x, else scale·alpha·(e^x − 1), with the constants of the SELU paper.
    Selu,
    /// ln(1 + e^x).
    Softplus,
    /// x / (1 + |x|).
    Softsign,
    /// x·sigmoid(x).
    Swish,
    /// The Gaussian error linear unit: exact, or by tanh.
    Gelu {
        /// Use the tanh form.
        approximate: bool,
    },
    /// x·relu6(x + 3)/6.
    HardSwish,
    /// e^x.
    Exponential,
}

/// An element-wise function of one argument that is no activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Unary {
    Neg,
    Abs,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Square,
    Sin,
    Cos,
    Floor,
    Ceil,
    /// Half to even, as TensorFlow.
    Round,
    Sign,
    /// The error function.
    Erf,
    Not,
}

/// An element-wise function of two arguments with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Binary {
    /// Which function.
    pub function: BinaryFunction,
    /// Applied to the result.
    pub activation: Activation,
}

/// The functions of [`Binary`]; comparisons and logic yield bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum BinaryFunction {
    Add,
    Sub,
    Mul,
    /// Integers truncate towards zero.
    Div,
    /// Rounds towards minus infinity.
    FloorDiv,
    /// Sign of the divisor.
    FloorMod,
    Pow,
    Minimum,
    Maximum,
    SquaredDifference,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

/// Options of the fully connected op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FullyConnected {
    /// Applied to the sum.
    pub activation: Activation,
    /// Keep the leading axes of x; otherwise they are flattened into one.
    pub keep_leading_axes: bool,
    /// With int8 weights and float x: the activations' zero point is free.
    pub asymmetric_inputs: bool,
}

/// Options of the matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMul {
    /// The last two axes of a are swapped.
    pub transpose_a: bool,
    /// The last two axes of b are swapped.
    pub transpose_b: bool,
    /// With int8 b and float a: the activations' zero point is free.
    pub asymmetric_inputs: bool,
}

/// Options of the convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Zeros around the image.
    pub padding: Padding,
    /// Vertical, horizontal.
    pub strides: [usize; 2],
    /// Vertical, horizontal.
    pub dilations: [usize; 2],
    /// Input and output channels are divided into this many parts, of which each pair is a
    /// convolution of its own; with as many as there are input channels, a depthwise convolution.
    pub groups: usize,
    /// Applied to the sum.
    pub activation: Activation,
}

impl Default for Conv2d {
    /// Whole windows, one step at a time, all channels together.
    fn default() -> Self {
        Conv2d {
            padding: Padding::Valid,
            strides: [1, 1],
            dilations: [1, 1],
            groups: 1,
            activation: Activation::Linear,
        }
    }
}

/// Options of a pool over windows of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pool2d {
    /// Which function.
    pub function: PoolFunction,
    /// Height and width of the window.
    pub window: [usize; 2],
    /// Vertical, horizontal.
    pub strides: [usize; 2],
    /// Vertical, horizontal.
    pub dilations: [usize; 2],
    /// Entries around the image: a maximum never takes them.
    pub padding: Padding,
    /// Applied to the result.
    pub activation: Activation,
}

/// The functions of [`Pool2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolFunction {
    /// The largest entry of the window; the lowest number of the type where the window meets none.
    Maximum,
    /// The sum of the window's entries, divided by how many there are; 0 where there are none.
    Average {
        /// Entries of padding count, as zeros.
        count_padding: bool,
    },
}

impl PoolFunction {
    /// The name that is printed.
    pub fn name(self) -> &'static str {
        match self {
            PoolFunction::Maximum => "MaxPool2d",
            PoolFunction::Average { .. } => "AveragePool2d",
        }
    }
}

/// Options of the softmax: `e^(beta·x) / Σ e^(beta·x)` over the last axis, or its logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// Inverse temperature.
    pub beta: f32,
    /// Return the logarithm.
    pub log: bool,
}

/// Options of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// Which function.
    pub function: ReduceFunction,
    /// Reduced axes stay with size 1.
    pub keep_dims: bool,
}

/// The functions of [`Reduce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ReduceFunction {
    Sum,
    Mean,
    Product,
    Maximum,
    Minimum,
    Any,
    All,
}

/// Options of the index of the extreme value (the first one on ties).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgMax {
    /// The smallest value instead of the largest.
    pub minimum: bool,
    /// Type of the indices.
    pub dtype: DType,
}

/// Options of squeeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Squeeze {
    /// The axes to remove; empty: all of size 1.
    pub axes: Vec<i64>,
}

/// Options of the strided slice; bit `k` of a mask speaks of entry `k`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StridedSlice {
    /// Begin is ignored: from the start.
    pub begin_mask: u32,
    /// End is ignored: to the end.
    pub end_mask: u32,
    /// This entry stands for as many axes as are left.
    pub ellipsis_mask: u32,
    /// This entry is a new axis of size 1.
    pub new_axis_mask: u32,
    /// Only the entry at begin, and the axis goes.
    pub shrink_axis_mask: u32,
    /// End is an offset from begin.
    pub offset: bool,
}

/// Options of gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The axis that the indices run over.
    pub axis: i64,
    /// Number of leading axes that x and indices share.
    pub batch_dims: i64,
}

/// Options of pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Position of the new axis.
    pub axis: i64,
}

/// Options of unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpack {
    /// The axis to take apart.
    pub axis: i64,
}

/// Options of concatenation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concat {
    /// The axis to join on.
    pub axis: i64,
    /// Applied to the result.
    pub activation: Activation,
}

/// Options of the sequence reversal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseSequence {
    /// Axis that is reversed.
    pub time_axis: i64,
    /// Axis that the lengths belong to.
    pub batch_axis: i64,
}

/// Rank-factorized memory layer (SVDF), one step.
///
/// The memory of every filter is shifted left by one slot, `feature_f · x` goes to the last slot,
/// and `y_u = activation(b_u + Σ_{r<rank} Σ_m time[u·rank+r, m] · memory[u·rank+r, m])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Svdf {
    /// Filters a unit.
    pub rank: usize,
    /// Applied to the sum.
    pub activation: Activation,
    /// `[F, I]`, `F = units·rank`; f32 or i8.
    pub feature: Matrix,
    /// `[F, M]`; f32, i8 (dequantized) or i16 (integer).
    pub time: Matrix,
    /// `[units]`; f32 or i32.
    pub bias: Option<Tensor>,
    /// The arithmetic that the source promises.
    pub arithmetic: SvdfArithmetic,
}

/// Arithmetic of [`Svdf`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SvdfArithmetic {
    /// Float throughout.
    Float,
    /// Int8 feature weights, x quantized per batch row.
    Hybrid {
        /// The activations' zero point is free.
        asymmetric: bool,
    },
    /// Int8 activations, int16 memory.
    Integer {
        /// Scale and zero point of x.
        input: (f32, i32),
        /// Scale of the memory.
        state: f32,
        /// Scale and zero point of y.
        output: (f32, i32),
    },
}

/// A structured loop: while `condition(vars…)` holds, `vars = body(vars…)`.
#[derive(Clone, Debug, PartialEq)]
pub struct While {
    /// Inputs: the loop variables. One output: a bool scalar.
    pub condition: Graph,
    /// Inputs: the loop variables. Outputs: their next values.
    pub body: Graph,
}

/// An op known by name only.
#[derive(Clone, Debug, PartialEq)]
pub struct Custom {
    /// Its name.
    pub name: String,
    /// Its options, as the source had them.
    pub options: Vec<u8>,
}

impl Op {
    /// The name that is printed: the variant's name, or the function of an element-wise op and a
    /// reduction.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Recurrent(_) => "Recurrent",
            Op::Svdf(_) => "Svdf",
            Op::FullyConnected(_) => "FullyConnected",
            Op::MatMul(_) => "MatMul",
            Op::Conv2d(_) => "Conv2d",
            Op::Pool2d(pool) => pool.function.name(),
            Op::Unary(function) => function.name(),
            Op::Activation(activation) => activation.name(),
            Op::Binary(binary) => binary.function.name(),
            Op::Select => "Select",
            Op::Softmax(_) => "Softmax",
            Op::Reduce(reduce) => reduce.function.name(),
            Op::ArgMax(_) => "ArgMax",
            Op::Cast(_) => "Cast",
            Op::Quantize => "Quantize",
            Op::Dequantize => "Dequantize",
            Op::Transpose => "Transpose",
            Op::Reshape => "Reshape",
            Op::Squeeze(_) => "Squeeze",
            Op::ExpandDims => "ExpandDims",
            Op::Shape(_) => "Shape",
            Op::Fill => "Fill",
            Op::Range => "Range",
            Op::Tile => "Tile",
            Op::BroadcastTo => "BroadcastTo",
            Op::Pad => "Pad",
            Op::Slice => "Slice",
            Op::StridedSlice(_) => "StridedSlice",
            Op::Gather(_) => "Gather",
            Op::Pack(_) => "Pack",
            Op::Unpack(_) => "Unpack",
            Op::Split => "Split",
            Op::Concat(_) => "Concat",
            Op::Reverse => "Reverse",
            Op::ReverseSequence(_) => "ReverseSequence",
            Op::SetItem => "SetItem",
            Op::While(_) => "While",
            Op::Custom(_) => "Custom",
        }
    }
}

impl Activation {
    /// The variant's name.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Linear => "Linear",
            Activation::Relu => "Relu",
            Activation::ReluN1To1 => "ReluN1To1",
            Activation::Relu6 => "Relu6",
            Activation::Tanh => "Tanh",
            Activation::Sigmoid => "Sigmoid",
            Activation::HardSigmoid { .. } => "HardSigmoid",
            Activation::SignBit => "SignBit",
            Activation::Elu { .. } => "Elu",
            Activation::LeakyRelu { .. } => "LeakyRelu",
            Activation::Selu => "Selu",
            Activation::Softplus => "Softplus",
            Activation::Softsign => "Softsign",
            Activation::Swish => "Swish",
            Activation::Gelu { .. } => "Gelu",
            Activation::HardSwish => "HardSwish",
            Activation::Exponential => "Exponential",
        }
    }
}

impl Unary {
    /// The variant's name.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Neg => "Neg",
            Unary::Abs => "Abs",
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sqrt => "Sqrt",
            Unary::Rsqrt => "Rsqrt",
            Unary::Square => "Square",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::Sign => "Sign",
            Unary::Erf => "Erf",
            Unary::Not => "Not",
        }
    }
}

impl BinaryFunction {
    /// The variant's name.
    pub fn name(self) -> &'static str {
        match self {
            BinaryFunction::Add => "Add",
            BinaryFunction::Sub => "Sub",
            BinaryFunction::Mul => "Mul",
            BinaryFunction::Div => "Div",
            BinaryFunction::FloorDiv => "FloorDiv",
            BinaryFunction::FloorMod => "FloorMod",
            BinaryFunction::Pow => "Pow",
            BinaryFunction::Minimum => "Minimum",
            BinaryFunction::Maximum => "Maximum",
            BinaryFunction::SquaredDifference => "SquaredDifference",
            BinaryFunction::Equal => "Equal",
            BinaryFunction::NotEqual => "NotEqual",
            BinaryFunction::Less => "Less",
            BinaryFunction::LessEqual => "LessEqual",
            BinaryFunction::Greater => "Greater",
            BinaryFunction::GreaterEqual => "GreaterEqual",
            BinaryFunction::And => "And",
            BinaryFunction::Or => "Or",
        }
    }
}

impl ReduceFunction {
    /// The variant's name behind `Reduce`, to tell it from the element-wise functions.
    pub fn name(self) -> &'static str {
        match self {
            ReduceFunction::Sum => "ReduceSum",
            ReduceFunction::Mean => "ReduceMean",
            ReduceFunction::Product => "ReduceProduct",
            ReduceFunction::Maximum => "ReduceMaximum",
            ReduceFunction::Minimum => "ReduceMinimum",
            ReduceFunction::Any => "ReduceAny",
            ReduceFunction::All => "ReduceAll",
        }
    }
}
