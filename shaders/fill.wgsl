// y = one word.

struct Params {
    count: u32,
    value: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<u32>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i < params.count {
        y[i] = params.value;
    }
}
