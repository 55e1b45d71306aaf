// y = a where the condition holds, else b, with broadcasting.

struct Params {
    count: u32,
    rank: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> condition: array<u32>;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> axes: array<u32>; // [4, rank]: sizes, steps of the three; innermost axis first
@group(0) @binding(4) var<storage, read_write> y: array<u32>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    var rest = i;
    var at_c = 0u;
    var at_a = 0u;
    var at_b = 0u;
    for (var k = 0u; k < params.rank; k++) {
        let size = axes[k];
        let index = rest % size;
        rest /= size;
        at_c += index * axes[params.rank + k];
        at_a += index * axes[2u * params.rank + k];
        at_b += index * axes[3u * params.rank + k];
    }
    y[i] = select(b[at_b], a[at_a], condition[at_c] != 0u);
}
