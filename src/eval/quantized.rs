//! Plain ops on quantized numbers (`real = scale · (stored − zero point)`), with the arithmetic of
//! TFLite's reference kernels.
//!
//! Sums are int32, scales meet in [`Multiplier`]s; logistic, tanh and other curves go through a
//! table of all 256 inputs.

use super::dense::{Convolution, Dense, Product, clamping};
use super::elementwise::{activate, compare};
use super::fixed_point::Multiplier;
use super::movement;
use super::operands::{Affine, Operands};
use super::pool::Pool;
use super::reduce::Groups;
use crate::error::{Error, Result};
use crate::graph::op::{
    Activation, Binary, BinaryFunction, Concat, Conv2d, FullyConnected, Pool2d, PoolFunction,
    ReduceFunction, Softmax,
};
use crate::tensor::{DType, Tensor};

/// Smallest and largest stored number of a quantized type.
fn stored_range(dtype: DType) -> Result<(i32, i32)> {
    match dtype {
        DType::I8 => Ok((i8::MIN.into(), i8::MAX.into())),
        DType::U8 => Ok((0, u8::MAX.into())),
        DType::I16 => Ok((i16::MIN.into(), i16::MAX.into())),
        DType::I32 | DType::I64 | DType::F16 | DType::F32 | DType::F64 | DType::Bool => {
            Err(Error::graph(format!("{dtype} is no quantized type here")))
        }
    }
}

/// The result's side of an op: type, scale, and the range that its activation leaves.
struct Target {
    dtype: DType,
    affine: Affine,
    low: i32,
    high: i32,
}

impl Target {
    fn new(operands: &Operands<'_>, activation: Activation) -> Result<Target> {
        let dtype =
            operands.output(0).ok_or_else(|| Error::graph("nobody wants the result"))?.dtype;
        let affine = operands.output_scale(0)?;
        let (least, most) = stored_range(dtype)?;
        let (low, high) = clamping(activation)?;
        let stored = |real: f32| affine.zero.saturating_add((real / affine.scale).round() as i32);
        let low = low.map_or(least, |low| stored(low).clamp(least, most));
        let high = high.map_or(most, |high| stored(high).clamp(least, most));
        Ok(Target { dtype, affine, low, high })
    }

    /// A scaled sum as a stored number.
    fn store(&self, scaled: i32) -> i64 {
        i64::from(scaled.saturating_add(self.affine.zero).clamp(self.low, self.high.max(self.low)))
    }

    /// A real number as a stored one: halves away from zero.
    fn store_real(&self, real: f32) -> i64 {
        self.store((real / self.affine.scale).round() as i32)
    }

    fn tensor(&self, shape: &[usize], values: Vec<i64>) -> Result<Tensor> {
        movement::from_integers(self.dtype, shape, values)
    }
}

/// Stored numbers less their zero point.
fn centerd(x: &Tensor, affine: Affine) -> Result<Vec<i32>> {
    stored_range(x.dtype())?;
    Ok(x.to_i64()?.into_iter().map(|v| v as i32 - affine.zero).collect())
}

/// Op [`Op::Quantize`](crate::graph::Op::Quantize): `round(x / scale) + zero`, or from one scale to
/// another.
pub(super) fn quantize(operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    let target = Target::new(operands, Activation::Linear)?;
    if x.dtype().is_float() {
        return target
            .tensor(x.shape(), x.to_f32().iter().map(|&v| target.store_real(v)).collect());
    }
    let source = operands.scale(0, "x")?;
    let factor = Multiplier::new(f64::from(source.scale) / f64::from(target.affine.scale));
    target.tensor(
        x.shape(),
        centerd(x, source)?.into_iter().map(|v| target.store(factor.apply(v))).collect(),
    )
}

/// Op [`Op::Dequantize`](crate::graph::Op::Dequantize): `scale · (x − zero)`, with one scale or one
/// for each index of an axis.
pub(super) fn dequantize(operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    if x.dtype().is_float() {
        return movement::cast(x, DType::F32);
    }
    let quantization = operands.ty(0).and_then(|ty| ty.quantization.as_ref()).ok_or_else(|| {
        Error::graph(format!("{} numbers without a scale cannot be dequantized", x.dtype()))
    })?;
    let channels = quantization.scales.len();
    let zeros = &quantization.zero_points;
    if channels == 0 || !(zeros.len() == channels || zeros.len() == 1) {
        return Err(Error::graph(format!("{channels} scales with {} zero points", zeros.len())));
    }
    let block = if channels == 1 {
        1
    } else if x.shape().get(quantization.axis) == Some(&channels) {
        x.shape()[quantization.axis + 1..].iter().product()
    } else {
        return Err(Error::graph(format!(
            "{channels} scales for axis {} of shape {:?}",
            quantization.axis,
            x.shape()
        )));
    };
    let real = |(index, stored): (usize, i64)| {
        let channel = index / block % channels;
        let zero = zeros.get(channel).or(zeros.first()).copied().unwrap_or(0);
        // A product of two numbers of at most 24 bits, rounded once.
        (f64::from(quantization.scales[channel]) * stored.wrapping_sub(zero) as f64) as f32
    };
    Tensor::from_vec(x.shape(), x.to_i64()?.into_iter().enumerate().map(real).collect())
}

/// A function of every real number that x stands for. 8-bit types have a table; each entry is
/// computed in f32.
pub(super) fn by_table(
    operands: &Operands<'_>,
    function: impl Fn(f32) -> Result<f32>,
) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, Activation::Linear)?;
    let inverse = 1.0 / target.affine.scale;
    let entry = |stored: i64| {
        let real = source.scale * (stored as i32 - source.zero) as f32;
        function(real).map(|y| target.store((y * inverse).round() as i32))
    };
    let (low, high) = stored_range(x.dtype())?;
    let table = (low..=high).map(|stored| entry(stored.into())).collect::<Result<Vec<_>>>()?;
    let low = i64::from(low);
    target.tensor(x.shape(), x.to_i64()?.into_iter().map(|v| table[(v - low) as usize]).collect())
}

/// An activation layer. The clamping ones rescale; every other one is a table of the float
/// function.
pub(super) fn activation(function: Activation, operands: &Operands<'_>) -> Result<Tensor> {
    if clamping(function).is_err() {
        return by_table(operands, |v| Ok(activate(function, f64::from(v)) as f32));
    }
    let x = operands.tensor(0, "x")?;
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, function)?;
    let factor = Multiplier::new(f64::from(source.scale / target.affine.scale));
    target.tensor(
        x.shape(),
        centerd(x, source)?.into_iter().map(|v| target.store(factor.apply(v))).collect(),
    )
}

/// Two quantized operands that were broadcast to one shape.
pub(super) fn binary(
    options: &Binary,
    a: &Tensor,
    b: &Tensor,
    operands: &Operands<'_>,
) -> Result<Tensor> {
    let (sa, sb) = (operands.scale(0, "a")?, operands.scale(1, "b")?);
    let pairs: Vec<(i32, i32)> = centerd(a, sa)?.into_iter().zip(centerd(b, sb)?).collect();
    if compare(options.function, &0, &0).is_some() {
        // Real numbers are compared, exactly: both products fit f64.
        let real = |v: i32, affine: Affine| f64::from(v) * f64::from(affine.scale);
        let truths = pairs
            .iter()
            .filter_map(|&(a, b)| compare(options.function, &real(a, sa), &real(b, sb)));
        return Tensor::from_vec::<bool>(a.shape(), truths.collect());
    }
    let target = Target::new(operands, options.activation)?;
    let values = match options.function {
        BinaryFunction::Add => sum(&pairs, [sa, sb], a.dtype(), &target, 1),
        BinaryFunction::Sub => sum(&pairs, [sa, sb], a.dtype(), &target, -1),
        BinaryFunction::Mul => {
            let factor = Multiplier::new(f64::from(sa.scale * sb.scale / target.affine.scale));
            pairs.into_iter().map(|(a, b)| target.store(factor.apply(a.wrapping_mul(b)))).collect()
        }
        BinaryFunction::Minimum | BinaryFunction::Maximum if sa == sb && sa == target.affine => {
            let least = options.function == BinaryFunction::Minimum;
            pairs
                .into_iter()
                .map(|(a, b)| target.store(if least { a.min(b) } else { a.max(b) }))
                .collect()
        }
        BinaryFunction::Minimum | BinaryFunction::Maximum => {
            return Err(Error::unsupported(format!(
                "{:?} of quantized tensors of different scales",
                options.function
            )));
        }
        BinaryFunction::Div
        | BinaryFunction::FloorDiv
        | BinaryFunction::FloorMod
        | BinaryFunction::Pow
        | BinaryFunction::SquaredDifference
        | BinaryFunction::Equal
        | BinaryFunction::NotEqual
        | BinaryFunction::Less
        | BinaryFunction::LessEqual
        | BinaryFunction::Greater
        | BinaryFunction::GreaterEqual
        | BinaryFunction::And
        | BinaryFunction::Or => {
            return Err(Error::unsupported(format!("{:?} of quantized tensors", options.function)));
        }
    };
    target.tensor(a.shape(), values)
}

/// Sum or difference: both operands are brought to twice the larger scale with extra bits, added,
/// and scaled to the result.
fn sum(
    pairs: &[(i32, i32)],
    scales: [Affine; 2],
    dtype: DType,
    target: &Target,
    sign: i32,
) -> Vec<i64> {
    // Extra bits that an int32 has left.
    let extra = if dtype == DType::I16 { 15 } else { 20 };
    let common = f64::from(2.0 * scales[0].scale.max(scales[1].scale));
    let [fa, fb] = scales.map(|affine| Multiplier::new(f64::from(affine.scale) / common));
    let back = Multiplier::new(common / (f64::from(1 << extra) * f64::from(target.affine.scale)));
    let scaled = |v: i32, factor: Multiplier| factor.apply(v.wrapping_shl(extra));
    pairs
        .iter()
        .map(|&(a, b)| {
            target.store(back.apply(scaled(a, fa).wrapping_add(sign.wrapping_mul(scaled(b, fb)))))
        })
        .collect()
}

/// Joins quantized tensors; a part of another scale than the result's is rescaled in f32.
pub(super) fn concat(options: &Concat, operands: &Operands<'_>) -> Result<Tensor> {
    let target = Target::new(operands, options.activation)?;
    let inverse = 1.0 / target.affine.scale;
    let parts = operands
        .all()?
        .into_iter()
        .enumerate()
        .map(|(slot, part)| {
            stored_range(part.dtype())?;
            let source = operands.scale(slot, "x")?;
            if source == target.affine && options.activation == Activation::Linear {
                return Ok(part.clone());
            }
            let scale = source.scale * inverse;
            let bias = -(source.zero as f32) * scale;
            let rescaled = part
                .to_i64()?
                .into_iter()
                .map(|v| target.store((v as f32 * scale + bias).round() as i32));
            target.tensor(part.shape(), rescaled.collect())
        })
        .collect::<Result<Vec<_>>>()?;
    movement::concat(&parts.iter().collect::<Vec<_>>(), options.axis)
}

/// A reduction of quantized rows; the mean's division is folded into the factor between the scales.
pub(super) fn reduce(
    function: ReduceFunction,
    groups: &Groups,
    operands: &Operands<'_>,
) -> Result<Tensor> {
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, Activation::Linear)?;
    let values = centerd(&groups.rows, source)?;
    let rows = (0..groups.groups).map(|g| &values[g * groups.size..][..groups.size]);
    let ratio = Multiplier::new(f64::from(source.scale) / f64::from(target.affine.scale));
    let sum = |row: &[i32]| row.iter().fold(0i32, |sum, &v| sum.wrapping_add(v));
    let results = match function {
        ReduceFunction::Sum => rows.map(|row| target.store(ratio.apply(sum(row)))).collect(),
        ReduceFunction::Mean if groups.size == 0 => {
            return Err(Error::input("the mean of no number"));
        }
        ReduceFunction::Mean => {
            let factor = ratio.divided_by(groups.size);
            rows.map(|row| target.store(factor.apply(sum(row)))).collect()
        }
        ReduceFunction::Maximum | ReduceFunction::Minimum if source != target.affine => {
            return Err(Error::unsupported(format!("{function:?} from one scale to another")));
        }
        ReduceFunction::Maximum => {
            rows.map(|row| target.store(row.iter().copied().max().unwrap_or(i32::MIN))).collect()
        }
        ReduceFunction::Minimum => {
            rows.map(|row| target.store(row.iter().copied().min().unwrap_or(i32::MAX))).collect()
        }
        ReduceFunction::Product | ReduceFunction::Any | ReduceFunction::All => {
            return Err(Error::unsupported(format!("{function:?} of quantized numbers")));
        }
    };
    target.tensor(&groups.shape, results)
}

/// Softmax of 8-bit rows through a table of `e^(scale·β·d)`, all in f32.
pub(super) fn softmax(options: &Softmax, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    if options.log || !matches!(x.dtype(), DType::I8 | DType::U8) {
        return Err(Error::unsupported(format!(
            "softmax of {} numbers, logarithm: {}",
            x.dtype(),
            options.log
        )));
    }
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, Activation::Linear)?;
    let scale = -source.scale * options.beta;
    // By distance from the row's largest number.
    let table: Vec<f32> =
        (0..=u8::MAX).map(|distance| (scale * f32::from(distance)).exp()).collect();
    let values = x.to_i64()?;
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(x.shape().last().copied().unwrap_or(1).max(1)) {
        let most = row.iter().copied().max().unwrap_or(0);
        let exponential = |v: i64| table[(most - v) as usize];
        let sum: f32 = row.iter().map(|&v| exponential(v)).sum();
        let inverse = 1.0 / (sum * target.affine.scale);
        out.extend(row.iter().map(|&v| target.store((exponential(v) * inverse).round() as i32)));
    }
    target.tensor(x.shape(), out)
}

/// Int8 weights (operand 1) of a sum of products, and the factor of every output channel.
struct Weights {
    values: Vec<i32>,
    bias: Option<Vec<i32>>,
    factors: Vec<Multiplier>,
}

impl Weights {
    fn new(
        operands: &Operands<'_>,
        outputs: usize,
        source: Affine,
        target: &Target,
    ) -> Result<Weights> {
        let weights = operands.tensor(1, "weights")?;
        let quantization = operands
            .ty(1)
            .and_then(|ty| ty.quantization.as_ref())
            .ok_or_else(|| Error::graph("the weights of a quantized op have no scale"))?;
        let (scale, zero) = (f64::from(source.scale), f64::from(target.affine.scale));
        let (factors, zero) = match quantization.as_per_tensor() {
            Some((weight_scale, zero_point)) => {
                let affine = Affine::new(weight_scale, zero_point, "the weight tensor")?;
                // The product of the two scales is rounded to f32, as the kernel does.
                let factor = Multiplier::new(f64::from(source.scale * affine.scale) / zero);
                (vec![factor; outputs], affine.zero)
            }
            None if quantization.scales.len() == outputs
                && quantization.zero_points.iter().all(|&zero| zero == 0) =>
            {
                (
                    quantization
                        .scales
                        .iter()
                        .map(|&s| Multiplier::new(scale * f64::from(s) / zero))
                        .collect(),
                    0,
                )
            }
            None => {
                return Err(Error::unsupported(format!(
                    "weights with {} scales for {outputs} outputs, or with zero points",
                    quantization.scales.len()
                )));
            }
        };
        let values = centerd(weights, Affine { scale: 1.0, zero })?;
        let bias = operands
            .optional(2)
            .map(|bias| bias.as_slice::<i32>().map(<[i32]>::to_vec))
            .transpose()?;
        Ok(Weights { values, bias, factors })
    }

    /// The sum of products of an output channel as a stored number. The kernels' int32 sums wrap.
    fn finish(&self, sum: i64, unit: usize, target: &Target) -> i64 {
        let bias = self.bias.as_ref().map_or(0, |bias| bias[unit]);
        target.store(self.factors[unit].apply(sum.wrapping_add(bias.into()) as i32))
    }
}

/// `Σ x·w`, exact.
fn dot(x: &[i32], w: &[i32]) -> i64 {
    x.iter().zip(w).map(|(&x, &w)| i64::from(x) * i64::from(w)).sum()
}

fn eight_bits(x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::I8 | DType::U8 => Ok(()),
        other => Err(Error::unsupported(format!("{other} activations of a sum of products"))),
    }
}

/// Fully connected, int8 or uint8; the weights have one scale or one for each output.
pub(super) fn fully_connected(
    options: &FullyConnected,
    sizes: &Dense,
    operands: &Operands<'_>,
) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    eight_bits(x)?;
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, options.activation)?;
    let weights = Weights::new(operands, sizes.outputs, source, &target)?;
    let x = centerd(x, source)?;
    let mut out = Vec::with_capacity(sizes.rows * sizes.outputs);
    for row in 0..sizes.rows {
        let x = &x[row * sizes.inputs..][..sizes.inputs];
        for unit in 0..sizes.outputs {
            let w = &weights.values[unit * sizes.inputs..][..sizes.inputs];
            out.push(weights.finish(dot(x, w), unit, &target));
        }
    }
    target.tensor(&sizes.shape, out)
}

/// Matrix product of two 8-bit tensors.
pub(super) fn matmul(product: &Product, operands: &Operands<'_>) -> Result<Tensor> {
    eight_bits(&product.a)?;
    eight_bits(&product.b)?;
    let (sa, sb) = (operands.scale(0, "a")?, operands.scale(1, "b")?);
    let target = Target::new(operands, Activation::Linear)?;
    let factor = Multiplier::new(f64::from(sa.scale * sb.scale) / f64::from(target.affine.scale));
    let (a, b, k) = (centerd(&product.a, sa)?, centerd(&product.b, sb)?, product.k);
    let mut out = Vec::new();
    product.pairs(|row, column| {
        let sum = dot(&a[row * k..][..k], &b[column * k..][..k]);
        out.push(target.store(factor.apply(sum as i32)));
    });
    target.tensor(&product.shape, out)
}

/// Convolution, int8 or uint8; the weights have one scale or one for each output.
pub(super) fn conv2d(
    options: &Conv2d,
    sizes: &Convolution,
    operands: &Operands<'_>,
) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    eight_bits(x)?;
    let source = operands.scale(0, "x")?;
    let target = Target::new(operands, options.activation)?;
    let weights = Weights::new(operands, sizes.outputs, source, &target)?;
    let x = centerd(x, source)?;
    let mut out = Vec::new();
    // Outside x lies the real number 0, which adds nothing.
    sizes.sums(
        |sum: &mut i64, i, w| *sum += i64::from(x[i]) * i64::from(weights.values[w]),
        |sum, unit| out.push(weights.finish(sum, unit, &target)),
    );
    target.tensor(&sizes.shape, out)
}

/// A pool, int8 or uint8; x and the result share scale and zero point, so that stored numbers can be
/// compared and added. The average rounds halves away from zero.
pub(super) fn pool2d(options: &Pool2d, pool: &Pool, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    eight_bits(x)?;
    let (source, target) = (operands.scale(0, "x")?, Target::new(operands, options.activation)?);
    if source != target.affine || x.dtype() != target.dtype {
        return Err(Error::graph(format!(
            "x of scale {} and zero point {}, the result of {} and {}: a pool keeps them",
            source.scale, source.zero, target.affine.scale, target.affine.zero
        )));
    }
    let values = movement::integers(x)?;
    let (low, high) = (i64::from(target.low), i64::from(target.high.max(target.low)));
    let mut out = Vec::with_capacity(pool.shape.iter().product());
    match options.function {
        PoolFunction::Maximum => pool.fold(
            low,
            |most, at| most.max(values[at]),
            |most: i64, _, _| out.push(most.min(high)),
        ),
        PoolFunction::Average { count_padding: true } => {
            return Err(Error::unsupported("padding that counts in a quantized average"));
        }
        PoolFunction::Average { count_padding: false } => pool.fold(
            0i64,
            |sum, at| sum + values[at],
            |sum: i64, count, _| {
                let (count, half) = (count.max(1) as i64, count as i64 / 2);
                let mean = if sum > 0 { (sum + half) / count } else { (sum - half) / count };
                out.push(mean.clamp(low, high));
            },
        ),
    }
    target.tensor(&pool.shape, out)
}
