// y = activation(x), element by element.

override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;

struct Params {
    count: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i < params.count {
        y[i] = activate(ACTIVATION, x[i], ALPHA, BETA);
    }
}
