// What every strategy of the recurrent layer shares: options, sizes, memory, and the equations of
// one unit.
//
// T steps, B batch rows, H units, P outputs (P = H without a projection), d the direction (0 or 1).
// A quad holds the four sums of one unit: LSTM (input, forget, candidate, output); GRU (update,
// reset, candidate from x, candidate from h); RNN (sum, 0, 0, 0).

override CELL: u32 = 0u; // 0..=2: LSTM, GRU, RNN
override GATE: u32 = 5u; // 0..=17: see functions.wgsl
override CANDIDATE: u32 = 4u; // 0..=17; the activation of the RNN
override OUTPUT: u32 = 4u; // 0..=17
override COUPLED: bool = false;
override PEEPHOLE: bool = false;
override LAYER_NORM: bool = false;
override PROJECTION: bool = false;
override CLIPPED: bool = false;
override DIAGONAL: bool = false;
override RESET_AFTER: bool = true;
override MASK: u32 = 0u; // 0..=2: none, lengths [B], a value for every step and row
override HOLD: bool = false;
override KEEP: bool = true;
override SCALED: bool = false; // the weights are int8 with a scale for each column

struct Params {
    step: u32, // the first step of this dispatch, in the order of processing
    chunk_first: u32, // the step that row 0 of `inputs` belongs to
    chunk_steps: u32, // steps that `inputs` holds
    count: u32, // steps of this dispatch; in a wave, bit d: the outputs of layer d are wanted
    time: u32, // T
    batch: u32, // B
    units: u32, // H
    width: u32, // P
    quads: u32, // P in fours: ceil(P / 4)
    reverse: u32, // bit d: direction d goes from the last step to the first
    y_first: u32, // word of y where direction 0 starts
    y_step: u32, // words of y from one step to the next, one row, one direction
    y_row: u32,
    y_direction: u32,
    h_slot: u32, // words of h from one slot to the other, one direction to the next
    h_direction: u32,
    c_direction: u32,
    mask_step: u32,
    mask_row: u32,
    peephole: u32, // words of `extras` where they start
    norm: u32, // in a wave, of the bias
    projection: u32,
    scales: u32,
    extras_direction: u32,
    cell_clip: f32,
    projection_clip: f32,
    gate_alpha: f32,
    gate_beta: f32,
    candidate_alpha: f32,
    candidate_beta: f32,
    output_alpha: f32,
    output_beta: f32,
}

var<immediate> params: Params;
// binding 0: recurrent weights [d, H in eights, P in eights, 8] quads, zero past H and P (one row
// when diagonal), by weight(i)
@group(0) @binding(2) var<storage, read> extras: array<f32>; // per d: peephole [H, 3], layer norm [H, 4 + 4] or bias [H] quads, projection [H, P] and [P], scales of the weights [H] quads
@group(0) @binding(3) var<storage, read> mask: array<i32>; // [B], or T and B in either order
@group(0) @binding(4) var<storage, read_write> h: array<f32>; // [slot, d, B, quads, 4], zero past P; words, as neighboring invocations store neighbors
@group(0) @binding(5) var<storage, read_write> c: array<f32>; // [d, B, H]
@group(0) @binding(6) var<storage, read_write> y: array<f32>; // T, B, d and P in any order, P last

// Weights from one row to the next: eight units lie side by side, and their rows follow one another
// without gaps.
const WEIGHT_STRIDE: u32 = 8u;

// Rows of the recurrent weights of one direction: P in eights.
fn weight_rows() -> u32 {
    return select((params.quads + 1u) / 2u * 8u, 1u, DIAGONAL);
}

// Columns of the weights: H in eights.
fn weight_columns() -> u32 {
    return (params.units + 7u) / 8u * 8u;
}

// Where the column of a unit starts in a matrix of so many rows.
fn weight_column(unit: u32, rows: u32) -> u32 {
    return unit / 8u * rows * 8u + unit % 8u;
}

// Where the recurrent weights of a unit start.
fn weight_at(d: u32, unit: u32) -> u32 {
    return d * weight_rows() * weight_columns() + weight_column(unit, weight_rows());
}

// The index of a step in x, y and mask.
fn time_of(step: u32, d: u32) -> u32 {
    return select(step, params.time - 1u - step, ((params.reverse >> d) & 1u) == 1u);
}

fn is_on(t: u32, row: u32) -> bool {
    if MASK == 1u {
        return i32(t) < mask[row];
    }
    if MASK == 2u {
        return mask[t * params.mask_step + row * params.mask_row] != 0;
    }
    return true;
}

fn y_at(t: u32, row: u32, d: u32) -> u32 {
    return params.y_first + t * params.y_step + row * params.y_row + d * params.y_direction;
}

// Stores an output of a step that is on, or what stands for it when it is off.
fn put_y(step: u32, row: u32, d: u32, on: bool, unit: u32, value: f32) {
    if !KEEP {
        return;
    }
    let t = time_of(step, d);
    var result = value;
    if MASK != 0u && !on {
        result = 0.0;
        if HOLD && step > 0u {
            result = y[y_at(time_of(step - 1u, d), row, d) + unit];
        }
    }
    y[y_at(t, row, d) + unit] = result;
}

fn gate(x: f32) -> f32 {
    return activate(GATE, x, params.gate_alpha, params.gate_beta);
}

fn candidate(x: f32) -> f32 {
    return activate(CANDIDATE, x, params.candidate_alpha, params.candidate_beta);
}

fn output(x: f32) -> f32 {
    return activate(OUTPUT, x, params.output_alpha, params.output_beta);
}

fn peephole(d: u32, unit: u32) -> vec3<f32> {
    let at = d * params.extras_direction + params.peephole + 3u * unit;
    return vec3<f32>(extras[at], extras[at + 1u], extras[at + 2u]);
}

// A sum of products with the weights as stored, as it is with the weights as meant.
fn scaled(d: u32, unit: u32, sum: vec4<f32>) -> vec4<f32> {
    if SCALED {
        let at = d * params.extras_direction + params.scales + 4u * unit;
        return sum * vec4<f32>(extras[at], extras[at + 1u], extras[at + 2u], extras[at + 3u]);
    }
    return sum;
}

// c' = clip(f c + i g) from the sums of a unit.
fn next_cell(s: vec4<f32>, old: f32) -> f32 {
    let f = gate(s.y);
    var i = 1.0 - f;
    if !COUPLED {
        i = gate(s.x);
    }
    let cell = f * old + i * candidate(s.z);
    return select(cell, clamp(cell, -params.cell_clip, params.cell_clip), CLIPPED);
}

// One unit without layer norm: (h', c') from its sums, its old cell state and its old output.
fn unit_step(d: u32, unit: u32, sums: vec4<f32>, old_c: f32, old_h: f32) -> vec2<f32> {
    if CELL == 1u {
        // z h + (1 - z) n
        let z = gate(sums.x);
        let n = candidate(sums.z + gate(sums.y) * sums.w);
        return vec2<f32>(z * old_h + (1.0 - z) * n, 0.0);
    }
    if CELL == 2u {
        return vec2<f32>(candidate(sums.x), 0.0);
    }
    var s = sums;
    if PEEPHOLE {
        let p = peephole(d, unit);
        s.x += p.x * old_c;
        s.y += p.y * old_c;
        let cell = next_cell(s, old_c);
        return vec2<f32>(gate(s.w + p.z * cell) * output(cell), cell);
    }
    let cell = next_cell(s, old_c);
    return vec2<f32>(gate(s.w) * output(cell), cell);
}
