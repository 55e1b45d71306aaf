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

// Four terms of a row's sum.
fn terms(w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return w0 * x.x + w1 * x.y + w2 * x.z + w3 * x.w;
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
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var s4 = vec4<f32>();
    var s5 = vec4<f32>();
    var s6 = vec4<f32>();
    var s7 = vec4<f32>();
    let h0 = from_slot + first * params.quads;
    let h1 = from_slot + row1 * params.quads;
    let h2 = from_slot + row2 * params.quads;
    let h3 = from_slot + row3 * params.quads;
    let h4 = from_slot + row4 * params.quads;
    let h5 = from_slot + row5 * params.quads;
    let h6 = from_slot + row6 * params.quads;
    let h7 = from_slot + row7 * params.quads;
    if DIAGONAL {
        let w = weight(d * params.units + unit);
        let quad = unit / 4u;
        let part = unit % 4u;
        s0 += w * h[h0 + quad][part];
        s1 += w * h[h1 + quad][part];
        s2 += w * h[h2 + quad][part];
        s3 += w * h[h3 + quad][part];
        s4 += w * h[h4 + quad][part];
        s5 += w * h[h5 + quad][part];
        s6 += w * h[h6 + quad][part];
        s7 += w * h[h7 + quad][part];
    } else {
        let units = params.units;
        let quads = params.quads;
        var at = 4u * d * quads * units + unit;
        for (var k = 0u; k < quads; k++) {
            // One load of h for four of weights: on the software driver a load costs the same for one word as for four.
            let w0 = weight(at);
            let w1 = weight(at + units);
            let w2 = weight(at + 2u * units);
            let w3 = weight(at + 3u * units);
            at += 4u * units;
            s0 += terms(w0, w1, w2, w3, h[h0 + k]);
            if ROWS > 1u {
                s1 += terms(w0, w1, w2, w3, h[h1 + k]);
            }
            if ROWS > 2u {
                s2 += terms(w0, w1, w2, w3, h[h2 + k]);
                s3 += terms(w0, w1, w2, w3, h[h3 + k]);
            }
            if ROWS > 4u {
                s4 += terms(w0, w1, w2, w3, h[h4 + k]);
                s5 += terms(w0, w1, w2, w3, h[h5 + k]);
                s6 += terms(w0, w1, w2, w3, h[h6 + k]);
                s7 += terms(w0, w1, w2, w3, h[h7 + k]);
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
