// y = x, vector by vector: what the memory can do.

struct Params {
    count: u32, // vectors
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>; // [count]

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 256u;
    if i < params.count {
        y[i] = x[i];
    }
}
