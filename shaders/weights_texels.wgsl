// Weights as they are, in a texture of 2048 texels a row: one vector of four columns at index i.
// For the software driver, which fetches a texel at once and loads every word of a buffer in a loop
// over the lanes.

@group(0) @binding(0) var weights: texture_2d<f32>;

fn weight(i: u32) -> vec4<f32> {
    return textureLoad(weights, vec2<u32>(i % 2048u, i / 2048u), 0);
}
