// Weights as they are: one vector of four columns at index i.

@group(0) @binding(0) var<storage, read> weights: array<vec4<f32>>;

fn weight(i: u32) -> vec4<f32> {
    return weights[i];
}
