// y = activation(maximum or average of x over a window): one invocation a result.

override FUNCTION: u32 = 0u; // 0..=2: maximum, average over x, average over x and its padding
override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;

struct Params {
    count: u32, // N · out_h · out_w · C
    in_h: u32,
    in_w: u32,
    channels: u32, // C
    out_h: u32,
    out_w: u32,
    window_h: u32,
    window_w: u32,
    stride_h: u32,
    stride_w: u32,
    dilation_h: u32,
    dilation_w: u32,
    pad_top: u32,
    pad_left: u32,
    pad_bottom: u32,
    pad_right: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, in_h, in_w, C]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [N, out_h, out_w, C]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let channel = i % params.channels;
    let column = (i / params.channels) % params.out_w;
    let row = (i / (params.channels * params.out_w)) % params.out_h;
    let image = i / (params.channels * params.out_w * params.out_h);
    var most = -0x1.fffffep+127f; // the lowest f32
    var sum = 0.0;
    var on_x = 0u;
    var padded = 0u;
    for (var p = 0u; p < params.window_h; p++) {
        let at_row = row * params.stride_h + p * params.dilation_h;
        if at_row >= params.in_h + params.pad_top + params.pad_bottom {
            continue;
        }
        for (var q = 0u; q < params.window_w; q++) {
            let at_column = column * params.stride_w + q * params.dilation_w;
            if at_column >= params.in_w + params.pad_left + params.pad_right {
                continue;
            }
            padded++;
            // Before the image the difference wraps to a huge number, so one comparison finds both
            // sides.
            let from_row = at_row - params.pad_top;
            let from_column = at_column - params.pad_left;
            if from_row >= params.in_h || from_column >= params.in_w {
                continue;
            }
            on_x++;
            let value = x[((image * params.in_h + from_row) * params.in_w + from_column)
                * params.channels + channel];
            sum += value;
            // NaN wins, as in a reduction.
            if !(value <= most) {
                most = value;
            }
        }
    }
    var result = most;
    if FUNCTION == 1u {
        result = sum / f32(max(on_x, 1u));
    } else if FUNCTION == 2u {
        result = sum / f32(max(padded, 1u));
    }
    y[i] = activate(ACTIVATION, result, ALPHA, BETA);
}
