// One step of a layer in two or three dispatches, for what needs all units in the middle of a step:
// layer norm (STAGE 0, 1), the GRU whose reset gate acts on the state (0, 2), the projection (0 or
// 0 and 1, then 3). Grid: units (outputs in stage 3), row tiles, directions; in stage 1: 1, rows,
// directions.
//
// h has two slots, as in recurrent_step.wgsl: every stage but the last leaves both alone.

override STAGE: u32 = 0u; // 0..=3: sums, layer norm, candidate of the GRU, projection
override THREADS: u32 = 64u; // 32 64 128 256
override ROWS: u32 = 1u; // 1 2 4 8: batch rows of an invocation in stages 0 and 2

@group(0) @binding(1) var<storage, read_write> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b; then the sums, or (z, -, x W_n + b_n, -)
@group(0) @binding(7) var<storage, read_write> gated: array<f32>; // [d, B, H in fours]: output before the projection, or r h; zero past H

var<private> d: u32;
var<private> lane: u32;
var<private> unit: u32;
var<private> first: u32; // row
var<private> from_slot: u32;
var<private> to_slot: u32;

fn input_at(step: u32, row: u32, unit: u32) -> u32 {
    return ((d * params.chunk_steps + step - params.chunk_first) * params.batch + row) * params.units + unit;
}

// Word of `gated` where a row starts.
fn gated_at(row: u32) -> u32 {
    return (d * params.batch + row) * ((params.units + 3u) / 4u * 4u);
}

fn put_gated(row: u32, unit: u32, value: f32) {
    gated[gated_at(row) + unit] = value;
}

fn old(row: u32, unit: u32) -> f32 {
    return h[from_slot + row * 4u * params.quads + unit];
}

fn put_h(row: u32, unit: u32, on: bool, value: f32) {
    let new_h = select(old(row, unit), value, on);
    h[to_slot + row * 4u * params.quads + unit] = new_h;
    put_y(params.step, row, d, on, unit, new_h);
}

fn cell_at(row: u32, unit: u32) -> u32 {
    return d * params.c_direction + row * params.units + unit;
}

fn cell_of(unit: u32) -> f32 {
    return c[cell_at(first, unit)];
}

fn put_cell(unit: u32, cell: f32) {
    c[cell_at(first, unit)] = cell;
}

fn put_normed(step: u32, unit: u32, on: bool, value: f32) {
    if PROJECTION {
        put_gated(first, unit, value);
    } else {
        put_h(first, unit, on, value);
    }
}

// What the sums are over: h, or r h.
fn x_word(at: u32) -> f32 {
    if STAGE == 2u {
        return gated[at];
    }
    return h[at];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    if STAGE == 2u {
        return vec4<f32>(gated[at], gated[at + 1u], gated[at + 2u], gated[at + 3u]);
    }
    return vec4<f32>(h[at], h[at + 1u], h[at + 2u], h[at + 3u]);
}

// Word where a row of that starts; rows past the end repeat the last one and are not stored.
fn row_at(row: u32) -> u32 {
    let there = min(row, params.batch - 1u);
    return select(from_slot + there * 4u * params.quads, gated_at(there), STAGE == 2u);
}

fn finish(row: u32, products: vec4<f32>) {
    if row >= params.batch {
        return;
    }
    let at = input_at(params.step, row, unit);
    let on = is_on(time_of(params.step, d), row);
    let cell = cell_at(row, unit);
    if STAGE == 2u {
        // h' = z h + (1 - z) candidate(x W_n + b_n + R_n (r h))
        let z = inputs[at].x;
        let n = candidate(inputs[at].z + scaled(d, unit, products).w);
        put_h(row, unit, on, z * old(row, unit) + (1.0 - z) * n);
        return;
    }
    var s = inputs[at] + scaled(d, unit, products);
    if LAYER_NORM {
        if PEEPHOLE {
            let p = peephole(d, unit) * c[cell];
            s.x += p.x;
            s.y += p.y;
        }
        inputs[at] = s;
    } else if CELL == 1u {
        inputs[at] = vec4<f32>(gate(s.x), 0.0, s.z, 0.0);
        put_gated(row, unit, gate(s.y) * old(row, unit));
    } else if on {
        let next = unit_step(d, unit, s, c[cell], 0.0);
        c[cell] = next.y;
        put_gated(row, unit, next.x);
    }
}

fn sums() {
    clear_sums();
    if DIAGONAL {
        let w = weight(weight_at(d, unit));
        s0 = w * x_word(row_at(first) + unit);
        s1 = w * x_word(row_at(first + 1u) + unit);
        s2 = w * x_word(row_at(first + 2u) + unit);
        s3 = w * x_word(row_at(first + 3u) + unit);
        s4 = w * x_word(row_at(first + 4u) + unit);
        s5 = w * x_word(row_at(first + 5u) + unit);
        s6 = w * x_word(row_at(first + 6u) + unit);
        s7 = w * x_word(row_at(first + 7u) + unit);
        return;
    }
    products(
        weight_at(d, unit),
        WEIGHT_STRIDE,
        4u * params.quads,
        lane % 8u,
        row_at(first),
        row_at(first + 1u),
        row_at(first + 2u),
        row_at(first + 3u),
        row_at(first + 4u),
        row_at(first + 5u),
        row_at(first + 6u),
        row_at(first + 7u),
    );
}

fn finish_all() {
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

// h' = clip(Q m + q)
fn project(p: u32) {
    let on = is_on(time_of(params.step, d), first);
    let base = d * params.extras_direction + params.projection;
    var new_h = extras[base + params.units * params.width + p];
    for (var k = 0u; k < params.units; k++) {
        new_h += extras[base + k * params.width + p] * gated[gated_at(first) + k];
    }
    put_h(first, p, on, clamp(new_h, -params.projection_clip, params.projection_clip));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    d = group.z;
    lane = index;
    let slot = (params.time - 1u - params.step) & 1u;
    to_slot = slot * params.h_slot + d * params.h_direction;
    from_slot = (1u - slot) * params.h_slot + d * params.h_direction;
    let wanted = group.x * THREADS + lane;
    if STAGE == 1u {
        first = group.y;
        var share = vec4<f32>();
        for (var unit = lane; unit < params.units; unit += THREADS) {
            share += inputs[input_at(params.step, first, unit)];
        }
        normed(params.step, share);
    } else if STAGE == 3u {
        first = group.y;
        if wanted < params.width {
            project(wanted);
        }
    } else {
        first = group.y * ROWS;
        // Every invocation makes sums, those past the last unit for nothing: eight neighbors share
        // the terms.
        unit = min(wanted, params.units - 1u);
        sums();
        if unit == wanted {
            finish_all();
        }
    }
}
