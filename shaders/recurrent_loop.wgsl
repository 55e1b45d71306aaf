// A chunk of steps in one dispatch: a workgroup owns ROWS batch rows of one direction and keeps
// their h and c in workgroup memory. Grid: row tiles, 1, directions. Layer norm and the GRU that
// resets before the product need ROWS = 1.

override THREADS: u32 = 64u; // 32 64 128 256
override ROWS: u32 = 1u; // 1 2 4 8
override H_WORDS: u32 = 128u; // any: 2 ROWS P in fours
override C_WORDS: u32 = 64u; // any: ROWS H
override HELD: u32 = 64u; // 16 32 48 64 96 128 192 256: recurrent weights of a unit that are held in registers, where they are
override M_WORDS: u32 = 64u; // any: ROWS H with a projection or a reset before the product, else 1

@group(0) @binding(1) var<storage, read_write> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b; layer norm works in place

var<workgroup> hs: array<f32, H_WORDS>; // [parity, row, quads, 4], zero past P; words, as neighboring invocations store neighbors
var<workgroup> cs: array<f32, C_WORDS>; // [row, H]
var<workgroup> ms: array<f32, M_WORDS>; // [row, H]: gated output before the projection, or r h of the GRU

var<private> d: u32;
var<private> lane: u32;
var<private> first: u32; // row
var<private> from_h: u32; // word of hs
var<private> to_h: u32;

fn input_at(step: u32, row: u32, unit: u32) -> u32 {
    return ((d * params.chunk_steps + step - params.chunk_first) * params.batch + min(row, params.batch - 1u)) * params.units + unit;
}

// Output r of the tile before this step.
fn old(r: u32, unit: u32) -> f32 {
    return hs[from_h + r * 4u * params.quads + unit];
}

fn put_h(r: u32, unit: u32, value: f32) {
    hs[to_h + r * 4u * params.quads + unit] = value;
}

fn x_word(at: u32) -> f32 {
    return hs[at];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    return vec4<f32>(hs[at], hs[at + 1u], hs[at + 2u], hs[at + 3u]);
}

// Word of hs where row r starts that the sums are over.
fn row_at(r: u32) -> u32 {
    return from_h + min(r, ROWS - 1u) * 4u * params.quads;
}

// The sums of a unit for the rows of the tile: x W + b + h R.
fn sum_up(step: u32, unit: u32) {
    clear_sums();
    if DIAGONAL {
        let w = weight(weight_at(d, unit));
        s0 = w * x_word(row_at(0u) + unit);
        s1 = w * x_word(row_at(1u) + unit);
        s2 = w * x_word(row_at(2u) + unit);
        s3 = w * x_word(row_at(3u) + unit);
        s4 = w * x_word(row_at(4u) + unit);
        s5 = w * x_word(row_at(5u) + unit);
        s6 = w * x_word(row_at(6u) + unit);
        s7 = w * x_word(row_at(7u) + unit);
    } else {
        products(
            weight_at(d, unit),
            WEIGHT_STRIDE,
            4u * params.quads,
            lane % 8u,
            row_at(0u),
            row_at(1u),
            row_at(2u),
            row_at(3u),
            row_at(4u),
            row_at(5u),
            row_at(6u),
            row_at(7u),
        );
    }
    s0 = inputs[input_at(step, first, unit)] + scaled(d, unit, s0);
    if ROWS > 1u {
        s1 = inputs[input_at(step, first + 1u, unit)] + scaled(d, unit, s1);
    }
    if ROWS > 2u {
        s2 = inputs[input_at(step, first + 2u, unit)] + scaled(d, unit, s2);
        s3 = inputs[input_at(step, first + 3u, unit)] + scaled(d, unit, s3);
    }
    if ROWS > 4u {
        s4 = inputs[input_at(step, first + 4u, unit)] + scaled(d, unit, s4);
        s5 = inputs[input_at(step, first + 5u, unit)] + scaled(d, unit, s5);
        s6 = inputs[input_at(step, first + 6u, unit)] + scaled(d, unit, s6);
        s7 = inputs[input_at(step, first + 7u, unit)] + scaled(d, unit, s7);
    }
}

// The new cell state of a unit, and its new output or what the projection takes.
fn finish(step: u32, r: u32, unit: u32, sums: vec4<f32>) {
    let row = first + r;
    let on = row < params.batch && is_on(time_of(step, d), min(row, params.batch - 1u));
    let cell = r * params.units + unit;
    if PROJECTION {
        if on {
            let next = unit_step(d, unit, sums, cs[cell], 0.0);
            cs[cell] = next.y;
            ms[cell] = next.x;
        }
        return;
    }
    let old_h = old(r, unit);
    var new_h = old_h;
    if on {
        let next = unit_step(d, unit, sums, cs[cell], old_h);
        new_h = next.x;
        cs[cell] = next.y;
    }
    put_h(r, unit, new_h);
    if row < params.batch {
        put_y(step, row, d, on, unit, new_h);
    }
}

fn finish_all(step: u32, unit: u32) {
    finish(step, 0u, unit, s0);
    if ROWS > 1u {
        finish(step, 1u, unit, s1);
    }
    if ROWS > 2u {
        finish(step, 2u, unit, s2);
        finish(step, 3u, unit, s3);
    }
    if ROWS > 4u {
        finish(step, 4u, unit, s4);
        finish(step, 5u, unit, s5);
        finish(step, 6u, unit, s6);
        finish(step, 7u, unit, s7);
    }
}

// h' = clip(Q m + q)
fn project(step: u32, r: u32) {
    let row = first + r;
    let on = row < params.batch && is_on(time_of(step, d), min(row, params.batch - 1u));
    let base = d * params.extras_direction + params.projection;
    for (var p = lane; p < params.width; p += THREADS) {
        var new_h = old(r, p);
        if on {
            new_h = extras[base + params.units * params.width + p];
            for (var k = 0u; k < params.units; k++) {
                new_h += extras[base + k * params.width + p] * ms[r * params.units + k];
            }
            new_h = clamp(new_h, -params.projection_clip, params.projection_clip);
        }
        put_h(r, p, new_h);
        if row < params.batch {
            put_y(step, row, d, on, p, new_h);
        }
    }
}

fn cell_of(unit: u32) -> f32 {
    return cs[unit];
}

fn put_cell(unit: u32, cell: f32) {
    cs[unit] = cell;
}

// The output of a normed step, or what the projection takes.
fn put_normed(step: u32, unit: u32, on: bool, value: f32) {
    if PROJECTION {
        ms[unit] = value;
        return;
    }
    let new_h = select(old(0u, unit), value, on);
    put_h(0u, unit, new_h);
    put_y(step, first, d, on, unit, new_h);
}

// A step of the LSTM with layer norm; the sums stay in `inputs` meanwhile.
fn normed_step(step: u32) {
    var sum = vec4<f32>();
    // Every invocation makes sums, those past the last unit for nothing: eight neighbors share the
    // terms of h.
    for (var base = 0u; base < params.units; base += THREADS) {
        let unit = min(base + lane, params.units - 1u);
        sum_up(step, unit);
        if PEEPHOLE {
            let p = peephole(d, unit) * cs[unit];
            s0.x += p.x;
            s0.y += p.y;
        }
        if unit == base + lane {
            inputs[input_at(step, first, unit)] = s0;
            sum += s0;
        }
    }
    normed(step, sum);
}

// A step of the GRU whose reset gate acts on the state: n = candidate(x W_n + b_n + R_n (r h)).
fn reset_before_step(step: u32) {
    for (var base = 0u; base < params.units; base += THREADS) {
        let unit = min(base + lane, params.units - 1u);
        sum_up(step, unit);
        let old_h = old(0u, unit);
        if unit == base + lane {
            ms[unit] = gate(s0.y) * old_h;
            cs[unit] = gate(s0.x);
        }
    }
    workgroupBarrier();
    let on = is_on(time_of(step, d), first);
    for (var unit = lane; unit < params.units; unit += THREADS) {
        var products = 0.0;
        if DIAGONAL {
            products = weight(weight_at(d, unit)).w * ms[unit];
        } else {
            var at = weight_at(d, unit);
            for (var k = 0u; k < params.width; k++) {
                products += weight(at).w * ms[k];
                at += WEIGHT_STRIDE;
            }
        }
        let n = inputs[input_at(step, first, unit)].z + scaled(d, unit, vec4<f32>(products)).w;
        let old_h = old(0u, unit);
        let z = cs[unit];
        let new_h = select(old_h, z * old_h + (1.0 - z) * candidate(n), on);
        put_h(0u, unit, new_h);
        put_y(step, first, d, on, unit, new_h);
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    d = group.z;
    lane = index;
    first = group.x * ROWS;
    let width = 4u * params.quads;
    let size = ROWS * width;
    for (var i = lane; i < size; i += THREADS) {
        let row = min(first + i / width, params.batch - 1u);
        let value = h[d * params.h_direction + row * width + i % width];
        hs[i] = value;
        hs[size + i] = value; // for its zeros past P
    }
    if CELL == 0u {
        for (var i = lane; i < ROWS * params.units; i += THREADS) {
            let row = min(first + i / params.units, params.batch - 1u);
            cs[i] = c[d * params.c_direction + row * params.units + i % params.units];
        }
    }
    prepare(weight_at(d, min(lane, params.units - 1u)), WEIGHT_STRIDE, 0u);
    workgroupBarrier();
    for (var n = 0u; n < params.count; n++) {
        let step = params.step + n;
        from_h = (n & 1u) * size;
        to_h = size - from_h;
        if LAYER_NORM {
            normed_step(step);
        } else if CELL == 1u && !RESET_AFTER {
            reset_before_step(step);
        } else {
            for (var base = 0u; base < params.units; base += THREADS) {
                let unit = min(base + lane, params.units - 1u);
                sum_up(step, unit);
                if unit == base + lane {
                    finish_all(step, unit);
                }
            }
        }
        if PROJECTION {
            workgroupBarrier();
            for (var r = 0u; r < ROWS; r++) {
                project(step, r);
            }
        }
        workgroupBarrier();
    }
    from_h = (params.count & 1u) * size;
    for (var i = lane; i < size; i += THREADS) {
        let row = first + i / width;
        if row < params.batch {
            h[d * params.h_direction + row * width + i % width] = hs[from_h + i];
        }
    }
    if CELL == 0u {
        for (var i = lane; i < ROWS * params.units; i += THREADS) {
            let row = first + i / params.units;
            if row < params.batch {
                c[d * params.c_direction + row * params.units + i % params.units] = cs[i];
            }
        }
    }
}
