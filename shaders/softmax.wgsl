// y = e^(beta x) / Σ e^(beta x) over rows, or its logarithm: one invocation a row.

override LOG: bool = false;

struct Params {
    rows: u32,
    width: u32,
    beta: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [rows, width]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = id.x + id.y * groups.x * 64u;
    if row >= params.rows {
        return;
    }
    let first = row * params.width;
    var highest = params.beta * x[first];
    for (var j = 1u; j < params.width; j++) {
        highest = max(highest, params.beta * x[first + j]);
    }
    var sum = 0.0;
    for (var j = 0u; j < params.width; j++) {
        sum += exp(params.beta * x[first + j] - highest);
    }
    let shift = highest + log(sum);
    for (var j = 0u; j < params.width; j++) {
        let v = params.beta * x[first + j];
        if LOG {
            y[first + j] = v - shift;
        } else {
            y[first + j] = exp(v - highest) / sum;
        }
    }
}
