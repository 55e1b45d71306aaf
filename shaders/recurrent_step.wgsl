// One step in a dispatch: a workgroup makes UNITS units of ROWS batch rows. Grid: layers d, row
// tiles, blocks of units. (The software driver gives each core one run of workgroups; in this order
// the runs of a wave, whose layer 0 has half the work, are alike.)
//
// Plain, the layers are the directions of one layer. In a wave they are the layers of a stack, and
// layer d runs the step that lies d before the dispatch's: its x is the h that layer d - 1 wrote in
// the dispatch before.
//
// h has two slots: a step reads one and writes the other, so that the last step writes slot 0. In a
// wave layer d reads slot (T - 1 - step) & 1 of layer d - 1, which meanwhile runs step + 1 and
// writes the other.

override UNITS: u32 = 64u; // 4 8 16 32 64: units of a workgroup
override SLICES: u32 = 1u; // 1 8 16 32: invocations that share the terms of a unit's sums; more than one needs UNITS <= 8
override ROWS: u32 = 1u; // 1 2 4 8: batch rows of a workgroup, at most SLICES when that is more than one
override LANES: u32 = 1u; // 1 8 16 32 64: invocations of a subgroup, where sums are folded over them
override THREADS: u32 = 64u; // any: UNITS SLICES
override PARTIALS: u32 = 64u; // any: ROWS UNITS SLICES, with slices
override WAVE: bool = false;

@group(0) @binding(1) var<storage, read> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b; of layer 0 in a wave

var<workgroup> partials: array<vec4<f32>, PARTIALS>; // [slice, row, unit]

var<private> d: u32;
var<private> step: u32;
var<private> unit: u32;
var<private> slice: u32;
var<private> lane: u32;
var<private> from_slot: u32;
var<private> to_slot: u32;

// What a sum starts from: the input product, or the bias where that is part of the sum.
fn start(row: u32) -> vec4<f32> {
    if WAVE && d > 0u {
        let at = d * params.extras_direction + params.norm + 4u * unit;
        return vec4<f32>(extras[at], extras[at + 1u], extras[at + 2u], extras[at + 3u]);
    }
    let layer = select(d * params.chunk_steps, 0u, WAVE);
    return inputs[((layer + step - params.chunk_first) * params.batch + row) * params.units + unit];
}

fn finish(row: u32, products: vec4<f32>) {
    if row >= params.batch {
        return;
    }
    let sums = start(row) + scaled(d, unit, products);
    let cell = d * params.c_direction + row * params.units + unit;
    let at = row * 4u * params.quads + unit;
    let old_h = h[from_slot + at];
    let on = is_on(time_of(step, d), row);
    var new_h = old_h;
    if on {
        var old_c = 0.0;
        if CELL == 0u {
            old_c = c[cell];
        }
        let next = unit_step(d, unit, sums, old_c, old_h);
        new_h = next.x;
        if CELL == 0u {
            c[cell] = next.y;
        }
    }
    h[to_slot + at] = new_h;
    if !WAVE {
        put_y(step, row, d, on, unit, new_h);
    } else if ((params.count >> d) & 1u) == 1u {
        // The outputs that are wanted follow one another.
        put_y(step, row, countOneBits(params.count & ((1u << d) - 1u)), on, unit, new_h);
    }
}

fn x_word(at: u32) -> f32 {
    return h[at];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    return vec4<f32>(h[at], h[at + 1u], h[at + 2u], h[at + 3u]);
}

// Word of h where a row of a slot starts; rows past the end repeat the last one and are not stored.
fn row_at(slot: u32, row: u32) -> u32 {
    return slot + min(row, params.batch - 1u) * 4u * params.quads;
}

// Adds the products of the weights from `at` on with this slice's share of the rows in `slot`.
fn add_products(at: u32, slot: u32, first: u32) {
    let depth = 4u * params.quads;
    let share = (weight_rows() / 8u + SLICES - 1u) / SLICES * 8u;
    let begin = min(slice * share, depth);
    products(
        at + begin * WEIGHT_STRIDE,
        WEIGHT_STRIDE,
        min(share, depth - begin),
        lane % 8u,
        begin + row_at(slot, first),
        begin + row_at(slot, first + 1u),
        begin + row_at(slot, first + 2u),
        begin + row_at(slot, first + 3u),
        begin + row_at(slot, first + 4u),
        begin + row_at(slot, first + 5u),
        begin + row_at(slot, first + 6u),
        begin + row_at(slot, first + 7u),
    );
}

fn put_partial(row: u32, sum: vec4<f32>) {
    let folded = across(sum);
    // Slices of one subgroup are folded into its first.
    let merged = max(LANES / UNITS, 1u);
    if slice % merged == 0u {
        partials[(slice / merged * ROWS + row) * UNITS + lane % UNITS] = folded;
    }
}

// Sums over the slices; invocation (slice r, unit u) ends up with row r of unit u.
fn gather() -> vec4<f32> {
    put_partial(0u, s0);
    if ROWS > 1u {
        put_partial(1u, s1);
    }
    if ROWS > 2u {
        put_partial(2u, s2);
        put_partial(3u, s3);
    }
    if ROWS > 4u {
        put_partial(4u, s4);
        put_partial(5u, s5);
        put_partial(6u, s6);
        put_partial(7u, s7);
    }
    workgroupBarrier();
    let parts = SLICES / max(LANES / UNITS, 1u);
    var sum = vec4<f32>();
    for (var i = 0u; i < parts; i++) {
        sum += partials[(i * ROWS + slice % ROWS) * UNITS + lane % UNITS];
    }
    return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    d = group.x;
    lane = index;
    slice = index / UNITS;
    step = params.step;
    let first = group.y * ROWS;
    if WAVE {
        // Of builtins and parameters alone, so that compilers see that a workgroup agrees on it.
        if params.step < group.x || params.step - group.x >= params.time {
            return;
        }
        step -= d;
    }
    let wanted = group.z * UNITS + index % UNITS;
    unit = min(wanted, params.units - 1u);
    let slot = (params.time - 1u - step) & 1u;
    to_slot = slot * params.h_slot + d * params.h_direction;
    from_slot = (1u - slot) * params.h_slot + d * params.h_direction;
    clear_sums();
    if DIAGONAL {
        let w = weight(weight_at(d, unit));
        s0 = w * x_word(row_at(from_slot, first) + unit);
        s1 = w * x_word(row_at(from_slot, first + 1u) + unit);
        s2 = w * x_word(row_at(from_slot, first + 2u) + unit);
        s3 = w * x_word(row_at(from_slot, first + 3u) + unit);
        s4 = w * x_word(row_at(from_slot, first + 4u) + unit);
        s5 = w * x_word(row_at(from_slot, first + 5u) + unit);
        s6 = w * x_word(row_at(from_slot, first + 6u) + unit);
        s7 = w * x_word(row_at(from_slot, first + 7u) + unit);
    } else if WAVE {
        // Per layer: rows of the recurrent weights; above layer 0 as many of the input weights
        // before them.
        let rows = weight_rows();
        if d == 0u {
            add_products(weight_column(unit, rows), from_slot, first);
        } else {
            let layer = (2u * d - 1u) * rows * weight_columns() + weight_column(unit, 2u * rows);
            add_products(layer, to_slot - params.h_direction, first);
            add_products(layer + rows * WEIGHT_STRIDE, from_slot, first);
        }
    } else {
        add_products(weight_at(d, unit), from_slot, first);
    }
    if SLICES > 1u {
        let sum = gather();
        if unit == wanted && slice < ROWS {
            finish(first + slice, sum);
        }
        return;
    }
    if unit != wanted {
        return;
    }
    finish(first, s0);
    if ROWS > 1u {
        finish(first + 1u, s1);
    }
    if ROWS > 2u {
        finish(first + 2u, s2);
        finish(first + 3u, s3);
    }
    if ROWS > 4u {
        finish(first + 4u, s4);
        finish(first + 5u, s5);
        finish(first + 6u, s6);
        finish(first + 7u, s7);
    }
}
