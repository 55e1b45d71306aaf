// The memory of a rank-factorized layer, one step on: every row shifted by one slot, feature · x in
// the last.

struct Params {
    count: u32, // B · F
    filters: u32, // F
    inputs: u32, // I
    slots: u32, // M
    fresh: u32, // 1: there is no memory before
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // [B, I]
@group(0) @binding(1) var<storage, read> feature: array<f32>; // [F, I]
@group(0) @binding(2) var<storage, read> before: array<f32>; // [B, F, M]
@group(0) @binding(3) var<storage, read_write> after: array<f32>; // [B, F, M]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let row = i / params.filters;
    let at_feature = (i % params.filters) * params.inputs;
    let first = i * params.slots;
    for (var m = 1u; m < params.slots; m++) {
        if params.fresh == 1u {
            after[first + m - 1u] = 0.0;
        } else {
            after[first + m - 1u] = before[first + m];
        }
    }
    var sum = 0.0;
    for (var k = 0u; k < params.inputs; k++) {
        sum += feature[at_feature + k] * x[row * params.inputs + k];
    }
    after[first + params.slots - 1u] = sum;
}
