// y = activation(conv(x, weights) + bias): one invocation a result.

override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;

struct Params {
    count: u32, // N · out_h · out_w · O
    in_h: u32,
    in_w: u32,
    depth: u32, // I / groups
    out_h: u32,
    out_w: u32,
    filters: u32, // O
    kernel_h: u32,
    kernel_w: u32,
    stride_h: u32,
    stride_w: u32,
    dilation_h: u32,
    dilation_w: u32,
    pad_top: u32,
    pad_left: u32,
    group_filters: u32, // O / groups
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, in_h, in_w, I]
@group(0) @binding(1) var<storage, read> weights: array<f32>; // [O, kernel_h, kernel_w, I / groups]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [N, out_h, out_w, O]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let filter_index = i % params.filters;
    let column = (i / params.filters) % params.out_w;
    let row = (i / (params.filters * params.out_w)) % params.out_h;
    let image = i / (params.filters * params.out_w * params.out_h);
    let first = filter_index / params.group_filters * params.depth;
    let channels = params.filters / params.group_filters * params.depth;
    var sum = bias[filter_index];
    for (var p = 0u; p < params.kernel_h; p++) {
        // Above the image the difference wraps to a huge number, so one comparison finds both
        // sides.
        let from_row = row * params.stride_h + p * params.dilation_h - params.pad_top;
        if from_row >= params.in_h {
            continue;
        }
        for (var q = 0u; q < params.kernel_w; q++) {
            let from_column = column * params.stride_w + q * params.dilation_w - params.pad_left;
            if from_column >= params.in_w {
                continue;
            }
            let at_x = ((image * params.in_h + from_row) * params.in_w + from_column) * channels + first;
            let at_w = ((filter_index * params.kernel_h + p) * params.kernel_w + q) * params.depth;
            for (var c = 0u; c < params.depth; c++) {
                sum += x[at_x + c] * weights[at_w + c];
            }
        }
    }
    y[i] = activate(ACTIVATION, sum, ALPHA, BETA);
}
