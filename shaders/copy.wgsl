// Every op that moves elements without computing: y[to] = x[source], both indices a sum of steps
// over the axes.

struct Params {
    count: u32, // elements to move
    rank: u32,
    x_offset: u32, // word of x where index 0 of every axis lies
    y_offset: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> axes: array<u32>; // [3, rank]: sizes, steps in x, steps in y; innermost axis first
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    var rest = i;
    // Steps may be negative: the sums wrap, and the result is in range.
    var source = params.x_offset;
    var to = params.y_offset;
    for (var k = 0u; k < params.rank; k++) {
        let size = axes[k];
        let index = rest % size;
        rest /= size;
        source += index * axes[params.rank + k];
        to += index * axes[2u * params.rank + k];
    }
    y[to] = x[source];
}
