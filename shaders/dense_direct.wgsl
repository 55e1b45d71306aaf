// y = activation(x w + b) without workgroup memory: each invocation makes a tile of ROWS rows and four columns.
//
// On the software driver this is three times faster than a tiled kernel (barriers and workgroup memory cost there and save
// nothing); on real devices it serves few rows. Eight rows were the best of 4, 8 and 16.

override ROWS: u32 = 8u; // 1 2 4 8: rows of a tile
override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;
override ACCUMULATE: bool = false; // add to what y holds, instead of to the bias

struct Params {
    rows: u32, // M
    depth: u32, // K
    quads: u32, // columns in fours: ceil(N / 4)
    columns: u32, // N
    y_stride: u32, // words from one row of y to the next
    y_offset: u32, // word of y where the first row starts
    x_offset: u32, // word of x where the first row starts
    x_inner: u32, // rows come in runs of this many
    x_run: u32, // words of x from one run to the next (modulo 2^32, so that it may go backwards)
    x_stride: u32, // words of x from one row of a run to the next
}

var<immediate> params: Params;
// binding 0: weights [K, quads], by weight(i)
@group(0) @binding(1) var<storage, read> x: array<f32>; // M rows of K
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>; // [quads]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [M, N]

fn x_at(row: u32) -> u32 {
    return params.x_offset + (row / params.x_inner) * params.x_run + (row % params.x_inner) * params.x_stride;
}

fn start(row: u32, quad: u32) -> vec4<f32> {
    if ACCUMULATE {
        let at = params.y_offset + row * params.y_stride + 4u * quad;
        return vec4<f32>(y[at], y[at + 1u], y[at + 2u], y[at + 3u]);
    }
    return bias[quad];
}

fn put(row: u32, quad: u32, sum: vec4<f32>) {
    if row >= params.rows {
        return;
    }
    let at = params.y_offset + row * params.y_stride + 4u * quad;
    let left = params.columns - 4u * quad;
    y[at] = activate(ACTIVATION, sum.x, ALPHA, BETA);
    if left > 1u {
        y[at + 1u] = activate(ACTIVATION, sum.y, ALPHA, BETA);
    }
    if left > 2u {
        y[at + 2u] = activate(ACTIVATION, sum.z, ALPHA, BETA);
    }
    if left > 3u {
        y[at + 3u] = activate(ACTIVATION, sum.w, ALPHA, BETA);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    let quad = i % params.quads;
    let first = (i / params.quads) * ROWS;
    if first >= params.rows {
        return;
    }
    // Rows past the end repeat the last one and are not stored.
    let last = params.rows - 1u;
    let depth = params.depth;
    let r0 = x_at(first);
    let r1 = x_at(min(first + 1u, last));
    let r2 = x_at(min(first + 2u, last));
    let r3 = x_at(min(first + 3u, last));
    let r4 = x_at(min(first + 4u, last));
    let r5 = x_at(min(first + 5u, last));
    let r6 = x_at(min(first + 6u, last));
    let r7 = x_at(min(first + 7u, last));
    var a0 = start(first, quad);
    var a1 = a0;
    var a2 = a0;
    var a3 = a0;
    var a4 = a0;
    var a5 = a0;
    var a6 = a0;
    var a7 = a0;
    if ACCUMULATE {
        a1 = start(min(first + 1u, last), quad);
        a2 = start(min(first + 2u, last), quad);
        a3 = start(min(first + 3u, last), quad);
        a4 = start(min(first + 4u, last), quad);
        a5 = start(min(first + 5u, last), quad);
        a6 = start(min(first + 6u, last), quad);
        a7 = start(min(first + 7u, last), quad);
    }
    for (var k = 0u; k < depth; k++) {
        let w = weight(k * params.quads + quad);
        a0 += x[r0 + k] * w;
        if ROWS > 1u {
            a1 += x[r1 + k] * w;
        }
        if ROWS > 2u {
            a2 += x[r2 + k] * w;
            a3 += x[r3 + k] * w;
        }
        if ROWS > 4u {
            a4 += x[r4 + k] * w;
            a5 += x[r5 + k] * w;
            a6 += x[r6 + k] * w;
            a7 += x[r7 + k] * w;
        }
    }
    put(first, quad, a0);
    if ROWS > 1u {
        put(first + 1u, quad, a1);
    }
    if ROWS > 2u {
        put(first + 2u, quad, a2);
        put(first + 3u, quad, a3);
    }
    if ROWS > 4u {
        put(first + 4u, quad, a4);
        put(first + 5u, quad, a5);
        put(first + 6u, quad, a6);
        put(first + 7u, quad, a7);
    }
}
