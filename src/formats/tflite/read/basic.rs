//! The BASIC kernel of LSTM: one step, five operands, one weight matrix for input and state
//! together.

use std::sync::Arc;

use super::function::{Call, Function};
use super::lstm::{end_single_step, scale_of, single_step};
use super::weights::{Storage, Wanted, Weight, stack, stack_bias};
use crate::error::{Error, Place, Result};
use crate::graph::op::Activation;
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Masking, Merge, Recurrent, Source,
};
use crate::graph::{Op, ValueId};
use crate::tensor::DType;

const ACTIVATION: usize = 1;
const WEIGHTS: usize = 2;
const BIAS: usize = 3;
const STATE: usize = 4;

/// The kernel's row blocks are input, candidate, forget, output: where the canonical gates stand in
/// it.
const BLOCKS: [usize; 4] = [0, 2, 1, 3];

pub(super) fn read<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(5..=5, 4)?;
    let (x, y) = single_step(function, call)?;
    let integer = match function.ty(x)?.dtype {
        DType::F32 => false,
        DType::U8 => true,
        other => {
            return Err(Error::unsupported(format!(
                "the basic kernel on {other}: float32 and uint8 are supported"
            )));
        }
    };
    let (weights, weight_zero_point) = read_weights(function, call, integer)?;
    if integer {
        expect_scales(function, call)?;
    }
    let (activation_type, state_type) =
        if integer { (DType::U8, DType::I16) } else { (DType::F32, DType::F32) };
    let h = carried(function, call, ACTIVATION, activation_type)?;
    let c = carried(function, call, STATE, state_type)?;
    let next_h = function.is_variable(call, ACTIVATION).then(|| {
        let ty = function.ty(h).cloned();
        ty.map(|ty| function.graph.add_value("activation/next", ty))
    });
    let next_h = next_h.transpose()?;
    let arithmetic =
        if integer { Arithmetic::IntegerBasic { weight_zero_point } } else { Arithmetic::Float };
    // The new state is an output; the two scratch outputs are nobody's business.
    let state = function.output(call, 1)?;
    function.node(
        Op::Recurrent(Recurrent {
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(weights),
            }],
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic,
        }),
        vec![Some(x), None, None, Some(h), Some(c)],
        vec![Some(y), None, next_h, Some(state)],
    );
    if let Some(next_h) = next_h {
        function.write_state(call, ACTIVATION, next_h)?;
    }
    if function.is_variable(call, STATE) {
        function.write_state(call, STATE, state)?;
    }
    end_single_step(function, call, y)
}

/// The previous activation or state: an ordinary value, or a variable tensor that the kernel writes
/// to.
fn carried<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slot: usize,
    dtype: DType,
) -> Result<ValueId> {
    let value = function.input(call, slot)?;
    let ty = function.ty(value)?;
    if ty.dtype != dtype || ty.rank().is_some_and(|rank| rank != 2) {
        let found = format!("{} of shape {:?}", ty.dtype, ty.shape.as_deref().unwrap_or_default());
        return Err(Error::malformed(format!("expected {dtype} of rank 2, found {found}"))
            .within(format!("input {slot}")));
    }
    Ok(value)
}

/// The one matrix `[4H, I + H]` as input and recurrent weights with their blocks in canonical
/// order, and its zero point.
fn read_weights<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    integer: bool,
) -> Result<(CellWeights, i32)> {
    let shape = function.weight_shape(call, WEIGHTS, "weights", 2)?;
    let (rows, columns) = (shape[0], shape[1]);
    let units = rows / 4;
    if rows % 4 != 0 || units == 0 || columns < units {
        let found = format!("expected shape [4H, I + H], found {shape:?}");
        return Err(Error::malformed(found).within(format!("input {WEIGHTS} (weights)")));
    }
    let (matrix, zero_point) = if integer {
        function.byte_weight(call, WEIGHTS)?
    } else {
        (
            function.weight(
                call,
                &Wanted { slot: WEIGHTS, what: "weights", shape: &shape },
                Storage::Float,
            )?,
            0,
        )
    };
    let storage = if integer { Storage::Int32 } else { Storage::Float };
    let bias =
        function.weight(call, &Wanted { slot: BIAS, what: "bias", shape: &[rows] }, storage)?;
    let width = columns - units;
    let rows = |block: usize| block * units..(block + 1) * units;
    let mut parts: [Vec<Weight>; 3] = Default::default();
    for block in BLOCKS {
        parts[0].push(matrix.block(rows(block), 0..width)?);
        parts[1].push(matrix.block(rows(block), width..columns)?);
        parts[2].push(bias.run(rows(block))?);
    }
    // All blocks come from one matrix, with one scale.
    let one_scale = |blocks: &[Weight]| {
        stack(blocks).map(|mut matrix| {
            matrix.scales.truncate(1);
            matrix
        })
    };
    let weights = CellWeights {
        input: one_scale(&parts[0])?,
        recurrent: one_scale(&parts[1])?,
        auxiliary: None,
        bias: Some(stack_bias(&parts[2])?),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: None,
    };
    Ok((weights, zero_point))
}

/// The kernel's fixed scales: activations 1/128 around 128, state 1/2048.
fn expect_scales<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    for (slot, expected) in
        [(0, (1.0 / 128.0, 128)), (ACTIVATION, (1.0 / 128.0, 128)), (STATE, (1.0 / 2048.0, 0))]
    {
        let value = function.input(call, slot)?;
        let found = scale_of(function.ty(value)?.quantization.as_ref())
            .within(|| format!("input {slot}"))?;
        if found != expected {
            return Err(Error::malformed(format!(
                "expected scale and zero point {expected:?}, found {found:?}"
            ))
            .within(format!("input {slot}")));
        }
    }
    Ok(())
}
