// A chunk of steps in one dispatch, the terms of every product shared out: a workgroup owns one
// batch row of one direction, and SLICES invocations a unit, each with TERMS terms of its product.
// Grid: rows, 1, directions.
//
// Invocation slice * SPAN + unit: neighbors have the same terms, so that they read the same words
// of h. Two barriers a step: behind the partial sums, and behind the new h.

override THREADS: u32 = 256u; // any: SLICES SPAN
override ROWS: u32 = 1u; // 1
override SLICES: u32 = 4u; // 1 2 3 4
override SPAN: u32 = 64u; // any: H up to a multiple of 32
override TERMS: u32 = 16u; // any: terms of a slice, in fours; those held in registers where they are
override HELD: u32 = 16u; // 16 32
override H_WORDS: u32 = 64u; // any: at least SLICES TERMS and P in fours

@group(0) @binding(1) var<storage, read> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b

var<workgroup> hs: array<f32, H_WORDS>; // zero past P; words, as neighboring invocations store neighbors
var<workgroup> partial: array<vec4<f32>, THREADS>; // [slice, SPAN]

fn x_word(at: u32) -> f32 {
    return hs[at];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    return vec4<f32>(hs[at], hs[at + 1u], hs[at + 2u], hs[at + 3u]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let d = group.z;
    let row = group.x;
    let unit = min(index % SPAN, params.units - 1u);
    // The invocation that finishes a unit and keeps its state.
    let owns = index < params.units;
    let h_at = d * params.h_direction + row * 4u * params.quads;
    let c_at = d * params.c_direction + row * params.units + unit;
    for (var i = index; i < H_WORDS; i += THREADS) {
        var value = 0.0;
        if i < 4u * params.quads {
            value = h[h_at + i];
        }
        hs[i] = value;
    }
    var old_h = h[h_at + unit];
    var old_c = 0.0;
    if CELL == 0u {
        old_c = c[c_at];
    }
    let term = index / SPAN * TERMS;
    let depth = min(4u * params.quads - min(term, 4u * params.quads), TERMS);
    let column = weight_at(d, unit);
    prepare(column, WEIGHT_STRIDE, term);
    workgroupBarrier();
    for (var n = 0u; n < params.count; n++) {
        let step = params.step + n;
        var start = vec4<f32>();
        if owns {
            start = inputs[((d * params.chunk_steps + step - params.chunk_first) * params.batch + row) * params.units + unit];
        }
        clear_sums();
        products(column + term * WEIGHT_STRIDE, WEIGHT_STRIDE, depth, 0u, term, term, term, term, term, term, term, term);
        partial[index] = s0;
        workgroupBarrier();
        if owns {
            var sum = s0;
            for (var slice = 1u; slice < SLICES; slice++) {
                sum += partial[slice * SPAN + unit];
            }
            let on = is_on(time_of(step, d), row);
            if on {
                let next = unit_step(d, unit, start + scaled(d, unit, sum), old_c, old_h);
                old_h = next.x;
                old_c = next.y;
            }
            hs[unit] = old_h;
            put_y(step, row, d, on, unit, old_h);
        }
        workgroupBarrier();
    }
    if owns {
        h[h_at + unit] = old_h;
        if CELL == 0u {
            c[c_at] = old_c;
        }
    }
}
