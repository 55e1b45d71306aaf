// One step of a layer in a dispatch: an invocation owns one unit of ROWS batch rows. Grid: units, row tiles, directions.
//
// h has two slots: a step reads one and writes the other, so that the last step writes slot 0.

override WIDTH: u32 = 64u; // 16 32 64: units of a workgroup
override ROWS: u32 = 1u; // 1 2 4 8: batch rows of an invocation

@group(0) @binding(1) var<storage, read> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b

var<private> d: u32;
var<private> unit: u32;
var<private> from_slot: u32;
var<private> to_slot: u32;

fn start(row: u32) -> vec4<f32> {
    let step = params.step - params.chunk_first;
    return inputs[((d * params.chunk_steps + step) * params.batch + row) * params.units + unit];
}

fn finish(row: u32, products: vec4<f32>) {
    if row >= params.batch {
        return;
    }
    let sums = start(row) + scaled(d, unit, products);
    let cell = d * params.c_direction + row * params.units + unit;
    let at = row * params.quads + unit / 4u;
    let old_h = h[from_slot + at][unit % 4u];
    let on = is_on(time_of(params.step, d), row);
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
    h[to_slot + at][unit % 4u] = new_h;
    put_y(params.step, row, d, on, unit, new_h);
}

fn x_word(at: u32) -> f32 {
    return h[at / 4u][at % 4u];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    return h[at / 4u];
}

// Word of h where a row starts that the sums are over; rows past the end repeat the last one and are not stored.
fn row_at(row: u32) -> u32 {
    return 4u * (from_slot + min(row, params.batch - 1u) * params.quads);
}

@compute @workgroup_size(WIDTH)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    d = id.z;
    unit = min(id.x, params.units - 1u);
    let first = id.y * ROWS;
    if first >= params.batch {
        return;
    }
    let slot = (params.time - 1u - params.step) & 1u;
    to_slot = slot * params.h_slot + d * params.h_direction;
    from_slot = (1u - slot) * params.h_slot + d * params.h_direction;
    clear_sums();
    if DIAGONAL {
        let w = weight(d * params.units + unit);
        s0 = w * x_word(row_at(first) + unit);
        s1 = w * x_word(row_at(first + 1u) + unit);
        s2 = w * x_word(row_at(first + 2u) + unit);
        s3 = w * x_word(row_at(first + 3u) + unit);
        s4 = w * x_word(row_at(first + 4u) + unit);
        s5 = w * x_word(row_at(first + 5u) + unit);
        s6 = w * x_word(row_at(first + 6u) + unit);
        s7 = w * x_word(row_at(first + 7u) + unit);
    } else {
        products(
            d * weight_rows() * params.units + unit,
            params.units,
            4u * params.quads,
            index % 8u,
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
    if unit != id.x {
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
