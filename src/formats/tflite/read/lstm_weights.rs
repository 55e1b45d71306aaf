//! The weights of one direction of an LSTM: which operands go together, and their shapes against
//! each other.

use super::function::{Call, Function};
use super::lstm::Settings;
use super::weights::{Kind, Storage, Wanted, Weight, is_absent, stack, stack_bias};
use crate::error::{Error, Result};
use crate::graph::recurrent::{CellWeights, Matrix, Projection};

/// Where the operands of one direction stand.
pub(super) struct Slots {
    pub(super) input: [usize; 4],
    pub(super) recurrent: [usize; 4],
    pub(super) auxiliary: Option<[usize; 4]>,
    /// Input, forget, output.
    pub(super) peephole: [usize; 3],
    pub(super) bias: [usize; 4],
    pub(super) projection: usize,
    pub(super) projection_bias: usize,
    pub(super) h: usize,
    pub(super) c: usize,
    pub(super) layer_norm: Option<[usize; 4]>,
}

pub(super) const SINGLE: Slots = Slots {
    input: [1, 2, 3, 4],
    recurrent: [5, 6, 7, 8],
    auxiliary: None,
    peephole: [9, 10, 11],
    bias: [12, 13, 14, 15],
    projection: 16,
    projection_bias: 17,
    h: 18,
    c: 19,
    layer_norm: Some([20, 21, 22, 23]),
};

pub(super) const FORWARD: Slots =
    Slots { auxiliary: Some([40, 41, 42, 43]), h: 35, c: 36, layer_norm: None, ..SINGLE };

pub(super) const BACKWARD: Slots = Slots {
    input: [18, 19, 20, 21],
    recurrent: [22, 23, 24, 25],
    auxiliary: Some([44, 45, 46, 47]),
    peephole: [26, 27, 28],
    bias: [29, 30, 31, 32],
    projection: 33,
    projection_bias: 34,
    h: 37,
    c: 38,
    layer_norm: None,
};
/// Indices of the gates that have weights, in canonical order.
pub(super) fn gates(coupled: bool) -> &'static [usize] {
    if coupled { &[1, 2, 3] } else { &[0, 1, 2, 3] }
}

pub(super) fn expect_absent(call: &Call<'_>, slot: usize, what: &str) -> Result<()> {
    if is_absent(call, slot) {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{what} given, but the input gate has no input weights (operand 1 is absent: coupled gates)"
    ))
    .within(format!("input {slot}")))
}

/// Whether operands that go together are there: all of them, or none.
fn together(call: &Call<'_>, slots: &[usize], what: &str) -> Result<bool> {
    let missing: Vec<usize> = slots.iter().copied().filter(|slot| is_absent(call, *slot)).collect();
    if missing.is_empty() || missing.len() == slots.len() {
        return Ok(missing.is_empty());
    }
    Err(Error::malformed(format!(
        "{what}: inputs {slots:?} go together, but {missing:?} are absent"
    )))
}

/// The weights of one direction, stacked; and whether its input and forget gates are coupled.
pub(super) fn read_weights<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    settings: &Settings,
    input_width: Option<usize>,
) -> Result<(bool, CellWeights)> {
    let coupled = is_absent(call, slots.input[0]);
    if coupled {
        expect_absent(call, slots.recurrent[0], "recurrent to input gate weights")?;
        expect_absent(call, slots.peephole[0], "input gate peephole")?;
        expect_absent(call, slots.bias[0], "input gate bias")?;
        if let Some(layer_norm) = slots.layer_norm {
            expect_absent(call, layer_norm[0], "input gate layer-norm coefficients")?;
        }
    }
    let gates = gates(coupled);
    if settings.diagonal && kind != Kind::Float {
        return Err(Error::unsupported("diagonal recurrent weights with quantized weights"));
    }

    // H and I from one matrix, P from another; every other operand is held against them.
    let shape = function.weight_shape(call, slots.input[3], "input to output gate weights", 2)?;
    let (units, own_width) = (shape[0], shape[1]);
    let input = [units, input_width.unwrap_or(own_width)];
    let rank = if settings.diagonal { 1 } else { 2 };
    let shape = function.weight_shape(
        call,
        slots.recurrent[3],
        "recurrent to output gate weights",
        rank,
    )?;
    let recurrent: Vec<usize> = if settings.diagonal {
        vec![units]
    } else {
        vec![units, shape.get(1).copied().unwrap_or(units)]
    };
    let output_width = recurrent.get(1).copied().unwrap_or(units);
    if units == 0 || output_width == 0 {
        return Err(Error::malformed(format!(
            "a layer of {units} units and output width {output_width}"
        )));
    }

    let input =
        read_blocks(function, call, slots.input, gates, "input weights", &input, kind.matrix())?;
    let recurrent = read_blocks(
        function,
        call,
        slots.recurrent,
        gates,
        "recurrent weights",
        &recurrent,
        kind.matrix(),
    )?;
    let bias = read_vectors(function, call, slots.bias, gates, "bias", units, kind.bias())?;
    Ok((
        coupled,
        CellWeights {
            input,
            recurrent,
            auxiliary: None,
            bias: Some(stack_bias(&bias)?),
            recurrent_bias: None,
            peephole: read_peephole(function, call, slots, kind, coupled, units)?,
            layer_norm: read_layer_norm(function, call, slots, kind, coupled, units)?,
            projection: read_projection(function, call, slots, kind, units, output_width)?,
        },
    ))
}

fn read_peephole<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    coupled: bool,
    units: usize,
) -> Result<Option<Matrix>> {
    let present = if coupled { &slots.peephole[1..] } else { &slots.peephole[..] };
    if !together(call, present, "peephole weights")? {
        return Ok(None);
    }
    let storage = match kind {
        Kind::Float => Storage::Float,
        Kind::Hybrid => Storage::DequantizedInt8,
        Kind::Integer => Storage::Int16,
    };
    let mut blocks = Vec::new();
    for &slot in present {
        blocks.push(function.weight(
            call,
            &Wanted { slot, what: "peephole weights", shape: &[units] },
            storage,
        )?);
    }
    Ok(Some(stack(&blocks)?))
}

fn read_layer_norm<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    coupled: bool,
    units: usize,
) -> Result<Option<Matrix>> {
    let Some(layer_norm) = slots.layer_norm else { return Ok(None) };
    let gates = gates(coupled);
    let present: Vec<usize> = gates.iter().map(|gate| layer_norm[*gate]).collect();
    if !together(call, &present, "layer-norm coefficients")? {
        return Ok(None);
    }
    let storage = match kind {
        Kind::Float | Kind::Hybrid => Storage::Float,
        Kind::Integer => Storage::Int16,
    };
    Ok(Some(stack(&read_vectors(
        function,
        call,
        layer_norm,
        gates,
        "layer-norm coefficients",
        units,
        storage,
    )?)?))
}

fn read_projection<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    units: usize,
    output_width: usize,
) -> Result<Option<Projection>> {
    if is_absent(call, slots.projection) {
        if !is_absent(call, slots.projection_bias) {
            return Err(Error::malformed("a projection bias without projection weights")
                .within(format!("input {}", slots.projection_bias)));
        }
        if output_width != units {
            return Err(Error::malformed(format!(
                "recurrent weights for {output_width} outputs of {units} units, without a projection"
            )));
        }
        return Ok(None);
    }
    let wanted = Wanted {
        slot: slots.projection,
        what: "projection weights",
        shape: &[output_width, units],
    };
    let weight = function.weight(call, &wanted, kind.matrix())?.into_matrix();
    let wanted =
        Wanted { slot: slots.projection_bias, what: "projection bias", shape: &[output_width] };
    let bias = function.optional_weight(call, &wanted, kind.bias())?;
    Ok(Some(Projection { weight, bias: bias.map(Weight::into_bias).transpose()? }))
}

pub(super) fn read_blocks<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: [usize; 4],
    gates: &[usize],
    what: &'static str,
    shape: &[usize],
    storage: Storage,
) -> Result<Matrix> {
    let mut blocks = Vec::new();
    for &gate in gates {
        blocks.push(function.weight(call, &Wanted { slot: slots[gate], what, shape }, storage)?);
    }
    stack(&blocks)
}

fn read_vectors<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: [usize; 4],
    gates: &[usize],
    what: &'static str,
    units: usize,
    storage: Storage,
) -> Result<Vec<Weight>> {
    let mut blocks = Vec::new();
    for &gate in gates {
        blocks.push(function.weight(
            call,
            &Wanted { slot: slots[gate], what, shape: &[units] },
            storage,
        )?);
    }
    Ok(blocks)
}
