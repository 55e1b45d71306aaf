// Between real and quantized numbers, one scale and zero point for the whole tensor: real = scale
// (stored - zero).

override TO_REAL: bool = false;

struct Params {
    count: u32,
    scale: f32,
    zero: i32,
    low: i32, // least stored number
    high: i32, // greatest stored number
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    if TO_REAL {
        y[i] = bitcast<u32>(params.scale * f32(bitcast<i32>(x[i]) - params.zero));
        return;
    }
    // Half away from zero, as TFLite; clamped before the conversion, which is undefined outside
    // i32.
    let v = bitcast<f32>(x[i]) / params.scale;
    let rounded = sign(v) * floor(abs(v) + 0.5) + f32(params.zero);
    y[i] = bitcast<u32>(i32(clamp(rounded, f32(params.low), f32(params.high))));
}
