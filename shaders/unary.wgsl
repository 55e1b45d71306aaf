// y = f(x), element by element: functions of one argument that are no activation, and conversions
// of type.

override FUNCTION: u32 = 0u; // 0..=18: see ops::unary
override TYPE: u32 = 0u; // 0..=1: f32, i32

struct Params {
    count: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]

fn float(v: f32) -> f32 {
    switch FUNCTION {
        case 0u: { return -v; }
        case 1u: { return abs(v); }
        case 2u: { return exp(v); }
        case 3u: { return log(v); }
        case 4u: { return sqrt(v); }
        case 5u: { return 1.0 / sqrt(v); }
        case 6u: { return v * v; }
        case 7u: { return sin(v); }
        case 8u: { return cos(v); }
        case 9u: { return floor(v); }
        case 10u: { return ceil(v); }
        case 11u: { return round(v); }
        default: { return select(select(0.0, -1.0, v < 0.0), 1.0, v > 0.0); }
    }
}

fn integer(v: i32) -> i32 {
    switch FUNCTION {
        case 0u: { return -v; }
        case 1u: { return abs(v); }
        case 6u: { return v * v; }
        default: { return sign(v); }
    }
}

fn apply(word: u32) -> u32 {
    switch FUNCTION {
        case 13u: { return 1u - word; } // not
        case 14u: { return bitcast<u32>(f32(bitcast<i32>(word))); } // integer (or bool) to float
        case 15u: { return bitcast<u32>(i32(trunc(bitcast<f32>(word)))); } // float to integer
        case 16u: { return u32(bitcast<f32>(word) != 0.0); } // float to bool
        case 17u: { return u32(word != 0u); } // integer to bool
        case 18u: { return word; } // bool to integer, integer to a wider one
        default: {}
    }
    if TYPE == 1u {
        return bitcast<u32>(integer(bitcast<i32>(word)));
    }
    return bitcast<u32>(float(bitcast<f32>(word)));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i < params.count {
        y[i] = apply(x[i]);
    }
}
