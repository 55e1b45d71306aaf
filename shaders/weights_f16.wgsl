// Weights in half precision, two to a word: no device feature is needed.

@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;

fn weight(i: u32) -> vec4<f32> {
    let halves = weights[i];
    return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
}
