// y = a b with any strides of the last two axes and broadcast batch axes: one invocation a result.
// For products whose second factor is computed; constant weights take the dense kernels.

struct Params {
    count: u32, // batch · rows · columns
    rows: u32,
    columns: u32,
    depth: u32,
    a_row: u32, // steps in words
    a_depth: u32,
    b_depth: u32,
    b_column: u32,
    rank: u32, // number of batch axes
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> axes: array<u32>; // [3, rank]: batch sizes, steps in a, steps in b; innermost axis first
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [batch.., rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let column = i % params.columns;
    let row = (i / params.columns) % params.rows;
    var rest = i / (params.columns * params.rows);
    var at_a = row * params.a_row;
    var at_b = column * params.b_column;
    for (var k = 0u; k < params.rank; k++) {
        let size = axes[k];
        at_a += (rest % size) * axes[params.rank + k];
        at_b += (rest % size) * axes[2u * params.rank + k];
        rest /= size;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.depth; k++) {
        sum += a[at_a + k * params.a_depth] * b[at_b + k * params.b_depth];
    }
    y[i] = sum;
}
