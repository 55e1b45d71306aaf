// y[b, o, i, n] = x[b, o, indices[b, i], n]. The host has checked the indices.

struct Params {
    count: u32,
    outer: u32, // O
    size: u32, // of the axis that the indices run over
    indices: u32, // I
    inner: u32, // N
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>; // [B, O, size, N]
@group(0) @binding(1) var<storage, read> indices: array<u32>; // [B, I]
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [B, O, I, N]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    if at >= params.count {
        return;
    }
    let n = at % params.inner;
    let i = (at / params.inner) % params.indices;
    let slice = at / (params.inner * params.indices); // b O + o
    let index = indices[(slice / params.outer) * params.indices + i];
    y[at] = x[(slice * params.size + index) * params.inner + n];
}
