// The first `length` entries of the time axis reversed, for each batch index. The host has checked
// the lengths.

struct Params {
    count: u32,
    time_step: u32, // words from one entry of the time axis to the next
    time: u32, // size of the time axis
    batch_step: u32,
    batch: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> lengths: array<u32>; // [batch]
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let t = (i / params.time_step) % params.time;
    let length = lengths[(i / params.batch_step) % params.batch];
    let source = select(t, length - 1u - t, t < length);
    y[i] = x[i + (source - t) * params.time_step];
}
