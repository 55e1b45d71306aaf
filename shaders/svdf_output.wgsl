// The output of a rank-factorized layer: y = activation(bias + Σ over rank and slots of time ·
// memory).

override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;

struct Params {
    count: u32, // B · units
    units: u32,
    terms: u32, // rank · M: the filters of a unit lie side by side
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> memory: array<f32>; // [B, units, rank, M]
@group(0) @binding(1) var<storage, read> time: array<f32>; // [units, rank, M]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [units]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [B, units]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let unit = i % params.units;
    var sum = bias[unit];
    for (var k = 0u; k < params.terms; k++) {
        sum += memory[i * params.terms + k] * time[unit * params.terms + k];
    }
    y[i] = activate(ACTIVATION, sum, ALPHA, BETA);
}
