// Multiply-adds in registers, eight chains of vectors that do not wait for each other: what the
// arithmetic can do.

struct Params {
    rounds: u32,
    factor: f32, // immediates, so that no compiler can work the sums out
    term: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<f32>; // [invocations]

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4<f32>(params.factor);
    let t = vec4<f32>(params.term);
    var a = vec4<f32>(f32(id.x));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    var e = a + 4.0;
    var f = a + 5.0;
    var g = a + 6.0;
    var h = a + 7.0;
    for (var i = 0u; i < params.rounds; i++) {
        a = fma(a, m, t);
        b = fma(b, m, t);
        c = fma(c, m, t);
        d = fma(d, m, t);
        e = fma(e, m, t);
        f = fma(f, m, t);
        g = fma(g, m, t);
        h = fma(h, m, t);
    }
    let sum = a + b + c + d + e + f + g + h;
    y[id.x] = sum.x + sum.y + sum.z + sum.w;
}
