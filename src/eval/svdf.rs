//! The rank-factorized memory layer, one step, in float, hybrid and integer arithmetic.
//!
//! The memory `[B, F, M]` of every filter is shifted left by one slot and `feature_f · x` goes to
//! the last; then
//!
//! ```text
//! y_u = activation(b_u + Σ_{r<rank} Σ_m time[u·rank+r, m] · memory[u·rank+r, m])
//! ```

use super::elementwise::activate;
use super::fixed_point::{Multiplier, saturate16};
use super::hybrid::HybridMatrix;
use super::movement;
use super::operands::{Affine, Operands, checked_count};
use crate::error::{Error, Result};
use crate::graph::op::{Svdf, SvdfArithmetic};
use crate::tensor::{DType, Element, Tensor};

/// Sizes of the layer.
struct Sizes {
    /// `B`.
    rows: usize,
    /// `I`.
    inputs: usize,
    /// `F`.
    filters: usize,
    /// `M`.
    slots: usize,
    units: usize,
}

impl Sizes {
    fn new(layer: &Svdf, x: &Tensor) -> Result<Sizes> {
        let (feature, time) = (layer.feature.data.shape(), layer.time.data.shape());
        let wrong = || {
            Error::graph(format!(
                "x {:?}, feature weights {feature:?}, time weights {time:?} and rank {} do not fit together",
                x.shape(),
                layer.rank
            ))
        };
        let (&[rows, inputs], &[filters, columns], &[time_filters, slots]) =
            (x.shape(), feature, time)
        else {
            return Err(wrong());
        };
        if inputs != columns
            || filters != time_filters
            || layer.rank == 0
            || filters % layer.rank != 0
            || slots == 0
        {
            return Err(wrong());
        }
        let units = filters / layer.rank;
        if let Some(bias) = layer.bias.as_ref().filter(|bias| bias.shape() != [units]) {
            return Err(Error::graph(format!(
                "a bias of shape {:?} for {units} units",
                bias.shape()
            )));
        }
        Ok(Sizes { rows, inputs, filters, slots, units })
    }

    /// The memory before the step, shifted by one slot: the last one of every filter is to be
    /// filled.
    fn shifted<E: Element>(&self, state: Option<&Tensor>) -> Result<Vec<E>> {
        let shape = [self.rows, self.filters * self.slots];
        let mut memory = match state {
            None => vec![E::default(); checked_count(E::DTYPE, &shape)?],
            Some(state) if state.shape() == shape => state.as_slice::<E>()?.to_vec(),
            Some(state) => {
                return Err(Error::input(format!(
                    "the state has the shape {:?}, not {shape:?}",
                    state.shape()
                )));
            }
        };
        memory.chunks_exact_mut(self.slots).for_each(|slots| slots.rotate_left(1));
        Ok(memory)
    }

    /// Puts `value(row, filter)` into the last slots.
    fn fill<E: Element>(&self, memory: &mut [E], mut value: impl FnMut(usize, usize) -> E) {
        for (index, slots) in memory.chunks_exact_mut(self.slots).enumerate() {
            if let Some(last) = slots.last_mut() {
                *last = value(index / self.filters, index % self.filters);
            }
        }
    }

    fn results<E: Element>(&self, y: Tensor, memory: Vec<E>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(y), Some(Tensor::from_vec(&[self.rows, self.filters * self.slots], memory)?)])
    }
}

/// Op [`Op::Svdf`](crate::graph::Op::Svdf).
pub(super) fn svdf(layer: &Svdf, operands: &Operands<'_>) -> Result<Vec<Option<Tensor>>> {
    let x = operands.tensor(0, "x")?;
    let state = operands.optional(1);
    let sizes = Sizes::new(layer, x)?;
    match &layer.arithmetic {
        SvdfArithmetic::Float => {
            let features = layer.feature.to_f32();
            let x = movement::cast(x, DType::F32)?;
            let x = x.as_slice::<f32>()?;
            let mut memory = sizes.shifted::<f32>(state)?;
            sizes.fill(&mut memory, |row, filter| {
                let weights = &features[filter * sizes.inputs..][..sizes.inputs];
                let x = &x[row * sizes.inputs..][..sizes.inputs];
                weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()
                    as f32
            });
            sizes.results(time_product(layer, &sizes, &memory)?, memory)
        }
        SvdfArithmetic::Hybrid { asymmetric } => {
            let features = HybridMatrix::from_matrix(&layer.feature)?;
            let x = x.as_slice::<f32>()?;
            let mut products =
                vec![0.0f32; checked_count(DType::F32, &[sizes.rows, sizes.filters])?];
            for row in 0..sizes.rows {
                let quantized =
                    features.quantize(&x[row * sizes.inputs..][..sizes.inputs], *asymmetric);
                features
                    .accumulate(&quantized, &mut products[row * sizes.filters..][..sizes.filters]);
            }
            let mut memory = sizes.shifted::<f32>(state)?;
            sizes.fill(&mut memory, |row, filter| products[row * sizes.filters + filter]);
            sizes.results(time_product(layer, &sizes, &memory)?, memory)
        }
        SvdfArithmetic::Integer { input, state: state_scale, output } => {
            let input = Affine::new(input.0, input.1.into(), "x")?;
            let state_scale = Affine::new(*state_scale, 0, "the state")?.scale;
            let output = Affine::new(output.0, output.1.into(), "the output")?;
            integer(layer, &sizes, x, state, input, state_scale, output)
        }
    }
}

/// The time weights (dequantized when they are int8) over a float memory, in f64.
fn time_product(layer: &Svdf, sizes: &Sizes, memory: &[f32]) -> Result<Tensor> {
    let time = layer.time.to_f32();
    let bias = layer.bias.as_ref().map(Tensor::to_f32);
    let per_unit = layer.rank * sizes.slots;
    let shape = [sizes.rows, sizes.units];
    let mut y = Vec::with_capacity(checked_count(DType::F32, &shape)?);
    for row in memory.chunks_exact((per_unit * sizes.units).max(1)) {
        for (unit, memory) in row.chunks_exact(per_unit).enumerate() {
            let weights = &time[unit * per_unit..][..per_unit];
            let sum: f64 =
                weights.iter().zip(memory).map(|(&w, &m)| f64::from(w) * f64::from(m)).sum();
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[unit]));
            y.push(activate(layer.activation, sum + bias) as f32);
        }
    }
    Tensor::from_vec(&shape, y)
}

/// Int8 data, int16 memory:
///
/// ```text
/// s1 = s_x · s_feature / s_state      s2 = s_state · s_time / s_y       in f32
/// slot = sat16(MBQM(Σ (x − z_x)·w, s1))
/// y = clamp8(MBQM(Σ time·memory + b, s2) + z_y)
/// ```
///
/// The kernel applies no activation beyond the clamp to int8.
fn integer(
    layer: &Svdf,
    sizes: &Sizes,
    x: &Tensor,
    state: Option<&Tensor>,
    input: Affine,
    state_scale: f32,
    output: Affine,
) -> Result<Vec<Option<Tensor>>> {
    let (&[feature_scale], &[time_scale]) =
        (layer.feature.scales.as_slice(), layer.time.scales.as_slice())
    else {
        return Err(Error::unsupported(
            "integer weights of a memory layer with more than one scale",
        ));
    };
    let to_state = Multiplier::new(f64::from(input.scale * feature_scale / state_scale));
    let to_output = Multiplier::new(f64::from(state_scale * time_scale / output.scale));
    let (features, time) =
        (layer.feature.data.as_slice::<i8>()?, layer.time.data.as_slice::<i16>()?);
    let bias = layer.bias.as_ref().map(Tensor::as_slice::<i32>).transpose()?;
    let x = x.as_slice::<i8>()?;

    let mut memory = sizes.shifted::<i16>(state)?;
    sizes.fill(&mut memory, |row, filter| {
        let weights = &features[filter * sizes.inputs..][..sizes.inputs];
        let terms = weights
            .iter()
            .zip(&x[row * sizes.inputs..])
            .map(|(&w, &x)| i32::from(w) * (i32::from(x) - input.zero));
        saturate16(to_state.apply(terms.fold(0i32, i32::wrapping_add)))
    });
    let per_unit = layer.rank * sizes.slots;
    let shape = [sizes.rows, sizes.units];
    let mut y = Vec::with_capacity(checked_count(DType::I8, &shape)?);
    for row in memory.chunks_exact((per_unit * sizes.units).max(1)) {
        for (unit, memory) in row.chunks_exact(per_unit).enumerate() {
            let terms = time[unit * per_unit..]
                .iter()
                .zip(memory)
                .map(|(&w, &m)| i32::from(w) * i32::from(m));
            let sum = terms.fold(bias.map_or(0, |bias| bias[unit]), i32::wrapping_add);
            let scaled = to_output.apply(sum).saturating_add(output.zero);
            y.push(scaled.clamp(i8::MIN.into(), i8::MAX.into()) as i8);
        }
    }
    sizes.results(Tensor::from_vec(&shape, y)?, memory)
}
