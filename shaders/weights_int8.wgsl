// Weights as int8, four columns to a word; the scales of the columns are applied to the sums.

@group(0) @binding(0) var<storage, read> weights: array<u32>;

fn weight(i: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(weights[i]));
}
