//! Seeded random inputs for any model, at any batch size and length.

use super::layout::{AxisRole, input_roles};
use crate::error::{Error, Place as _, Result};
use crate::graph::Graph;
use crate::graph::synthetic::Random;
use crate::limits::{MOST_TENSOR_BYTES, room_for};
use crate::session::{Axis, Model, TensorSpec};
use crate::tensor::{DType, Tensor, element_count};

/// Sizes that the caller chooses; `None`: as the model declares them, or the default where it
/// leaves them open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Batch rows.
    pub batch: Option<usize>,
    /// Time steps.
    pub time: Option<usize>,
}

/// Batch rows where neither the model nor the caller says how many.
const DEFAULT_BATCH: usize = 1;
/// Time steps where neither the model nor the caller says how many.
const DEFAULT_TIME: usize = 16;

/// Random inputs for `model`, by name, in its order: floats uniform in −1 .. 1, stored integers of
/// quantized inputs over their whole range, other integers 0 or 1 (they are indices or lengths, and
/// these are valid ones).
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) when a size is chosen and no axis of any input
/// can be told to be the one; [`Limit`](crate::ErrorKind::Limit) before anything is made when there
/// is no memory for all of them.
pub fn seeded(model: &Model, sizes: Sizes, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let mut random = Random::new(seed);
    let shapes = shapes(model, sizes)?;
    check_room(model, &shapes)?;
    shapes
        .into_iter()
        .zip(model.inputs())
        .map(|(shape, spec)| Ok((spec.name.clone(), tensor(spec, &shape, &mut random)?)))
        .collect()
}

/// Refuses inputs that take more memory than there is for a run.
fn check_room(model: &Model, shapes: &[Vec<usize>]) -> Result<()> {
    let mut bytes: usize = 0;
    for (shape, spec) in shapes.iter().zip(model.inputs()) {
        let place = || format!("input `{}` of shape {shape:?}", spec.name);
        // The numbers are drawn as f32 and then converted.
        let size = spec.dtype.size().max(size_of::<f32>());
        let own = element_count(shape).within(place)?.saturating_mul(size);
        if own as u64 > MOST_TENSOR_BYTES {
            return Err(Error::limit(format!(
                "it takes {own} bytes, the limit is {MOST_TENSOR_BYTES}"
            ))
            .within(place()));
        }
        bytes = bytes.saturating_add(own);
        room_for(bytes, 1).within(place)?;
    }
    Ok(())
}

/// The shapes of the inputs at these sizes, in the model's order.
///
/// # Errors
/// As [`seeded`].
pub fn shapes(model: &Model, sizes: Sizes) -> Result<Vec<Vec<usize>>> {
    let graph: &Graph = model.graph();
    let (mut batch_found, mut time_found) = (false, false);
    let mut shapes = Vec::new();
    for (spec, port) in model.inputs().iter().zip(&graph.inputs) {
        let axes = spec.axes.as_ref().ok_or_else(|| {
            Error::input("the model does not say how many axes it has: give it in a file")
                .within(format!("input `{}`", spec.name))
        })?;
        let roles = input_roles(graph, port.value);
        let mut shape = Vec::with_capacity(axes.len());
        for (index, axis) in axes.iter().enumerate() {
            let (chosen, default) = match role(axis, roles.get(index).copied()) {
                Some(AxisRole::Row) => {
                    batch_found = true;
                    (sizes.batch, DEFAULT_BATCH)
                }
                Some(AxisRole::Step) => {
                    time_found = true;
                    (sizes.time, DEFAULT_TIME)
                }
                Some(AxisRole::Unit | AxisRole::Other) | None => (None, 1),
            };
            let declared = match axis {
                Axis::Known(size) => Some(*size),
                Axis::Named(_) | Axis::Open => None,
            };
            shape.push(chosen.or(declared).unwrap_or(default));
        }
        shapes.push(shape);
    }
    let unknown = |what: &str| {
        Error::input(format!("no axis of any input can be told to be the {what} axis"))
    };
    if sizes.batch.is_some() && !batch_found {
        return Err(unknown("batch"));
    }
    if sizes.time.is_some() && !time_found {
        return Err(unknown("time"));
    }
    Ok(shapes)
}

/// What an axis is: by the op that it feeds, or else by its name.
fn role(axis: &Axis, traced: Option<AxisRole>) -> Option<AxisRole> {
    if traced.is_some() {
        return traced;
    }
    let Axis::Named(name) = axis else { return None };
    let name = name.to_lowercase();
    if name.contains("batch") {
        Some(AxisRole::Row)
    } else if ["time", "step", "seq", "length"].iter().any(|part| name.contains(part)) {
        Some(AxisRole::Step)
    } else {
        None
    }
}

fn tensor(spec: &TensorSpec, shape: &[usize], random: &mut Random) -> Result<Tensor> {
    let count = element_count(shape)?;
    let mut uniform = |from: f32, to: f32| -> Vec<f32> {
        (0..count).map(|_| from + (random.next_f32() + 1.0) / 2.0 * (to - from)).collect()
    };
    macro_rules! integers {
        ($ty:ty) => {{
            // Quantized numbers over the whole range of their type; `as` saturates.
            let quantized = spec.quantization.is_some();
            let (from, to) =
                if quantized { (<$ty>::MIN as f32, <$ty>::MAX as f32 + 1.0) } else { (0.0, 2.0) };
            let most = if quantized { <$ty>::MAX } else { 1 };
            Tensor::from_vec(
                shape,
                uniform(from, to).into_iter().map(|x| (x.floor() as $ty).min(most)).collect(),
            )
        }};
    }
    match spec.dtype {
        DType::F32 => Tensor::from_vec(shape, uniform(-1.0, 1.0)),
        DType::F64 => {
            Tensor::from_vec(shape, uniform(-1.0, 1.0).into_iter().map(f64::from).collect())
        }
        DType::F16 => Tensor::from_vec(
            shape,
            uniform(-1.0, 1.0).into_iter().map(half::f16::from_f32).collect(),
        ),
        DType::I8 => integers!(i8),
        DType::U8 => integers!(u8),
        DType::I16 => integers!(i16),
        DType::I32 => integers!(i32),
        DType::I64 => integers!(i64),
        DType::Bool => {
            Tensor::from_vec(shape, uniform(0.0, 2.0).into_iter().map(|x| x >= 1.0).collect())
        }
    }
}
