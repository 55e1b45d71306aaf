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

fn finish(row: u32, sums: vec4<f32>) {
    if row >= params.batch {
        return;
    }
    let cell = d * params.c_direction + row * params.units + unit;
    let old_h = h[from_slot + row * params.width + unit];
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
    h[to_slot + row * params.width + unit] = new_h;
    put_y(params.step, row, d, on, unit, new_h);
}

@compute @workgroup_size(WIDTH)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    d = id.z;
    unit = id.x;
    let first = id.y * ROWS;
    if unit >= params.units || first >= params.batch {
        return;
    }
    let slot = (params.time - 1u - params.step) & 1u;
    to_slot = slot * params.h_slot + d * params.h_direction;
    from_slot = (1u - slot) * params.h_slot + d * params.h_direction;
    // Rows past the end repeat the last one and are not stored.
    let last = params.batch - 1u;
    let row1 = min(first + 1u, last);
    let row2 = min(first + 2u, last);
    let row3 = min(first + 3u, last);
    let row4 = min(first + 4u, last);
    let row5 = min(first + 5u, last);
    let row6 = min(first + 6u, last);
    let row7 = min(first + 7u, last);
    var s0 = start(first);
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var s4 = vec4<f32>();
    var s5 = vec4<f32>();
    var s6 = vec4<f32>();
    var s7 = vec4<f32>();
    if ROWS > 1u {
        s1 = start(row1);
    }
    if ROWS > 2u {
        s2 = start(row2);
        s3 = start(row3);
    }
    if ROWS > 4u {
        s4 = start(row4);
        s5 = start(row5);
        s6 = start(row6);
        s7 = start(row7);
    }
    if DIAGONAL {
        let w = weight(d * params.units + unit);
        s0 += w * h[from_slot + first * params.width + unit];
        s1 += w * h[from_slot + row1 * params.width + unit];
        s2 += w * h[from_slot + row2 * params.width + unit];
        s3 += w * h[from_slot + row3 * params.width + unit];
        s4 += w * h[from_slot + row4 * params.width + unit];
        s5 += w * h[from_slot + row5 * params.width + unit];
        s6 += w * h[from_slot + row6 * params.width + unit];
        s7 += w * h[from_slot + row7 * params.width + unit];
    } else {
        let h0 = from_slot + first * params.width;
        let h1 = from_slot + row1 * params.width;
        let h2 = from_slot + row2 * params.width;
        let h3 = from_slot + row3 * params.width;
        let h4 = from_slot + row4 * params.width;
        let h5 = from_slot + row5 * params.width;
        let h6 = from_slot + row6 * params.width;
        let h7 = from_slot + row7 * params.width;
        var at = d * params.width * params.units + unit;
        for (var k = 0u; k < params.width; k++) {
            let w = weight(at);
            at += params.units;
            s0 += w * h[h0 + k];
            if ROWS > 1u {
                s1 += w * h[h1 + k];
            }
            if ROWS > 2u {
                s2 += w * h[h2 + k];
                s3 += w * h[h3 + k];
            }
            if ROWS > 4u {
                s4 += w * h[h4 + k];
                s5 += w * h[h5 + k];
                s6 += w * h[h6 + k];
                s7 += w * h[h7 + k];
            }
        }
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
