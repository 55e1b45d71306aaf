// What the forms of y = activation(x w + b) share: sizes, memory, where a row of x lies, how four
// columns of a row are stored.

override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;
override ACCUMULATE: bool = false; // add to what y holds, instead of to the bias
override SCALED: bool = false; // the weights are int8 with a scale for each column, behind the bias

struct Params {
    rows: u32, // M
    depth: u32, // K, at least 1
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
// binding 0: weights [K in eights, quads], zero past K, by weight(i)
// binding 1: x, M rows of K, by x_quad and x_word
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>; // [quads], then scales [quads]
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

fn put(row: u32, quad: u32, products: vec4<f32>) {
    if row >= params.rows {
        return;
    }
    var sum = start(row, quad);
    if SCALED {
        sum += products * bias[params.quads + quad];
    } else {
        sum += products;
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

// For the forms that work by tiles, which reach past the edges.

// Four terms of a row of x, zeros past the last.
fn x_part(row: u32, k: u32) -> vec4<f32> {
    if k < params.depth {
        return x_quad(row + k, params.depth - k);
    }
    return vec4<f32>();
}

// Four columns of a term of w, zeros past the last.
fn w_part(k: u32, quad: u32) -> vec4<f32> {
    if k < params.depth {
        return weight(k * params.quads + quad);
    }
    return vec4<f32>();
}

fn put_inside(row: u32, quad: u32, sum: vec4<f32>) {
    if quad < params.quads {
        put(row, quad, sum);
    }
}
