// x word by word, for rows of any length.

@group(0) @binding(1) var<storage, read> x: array<f32>;

fn x_word(at: u32) -> f32 {
    return x[at];
}

// The `left` words from word `at` on, at most four, then zeros.
fn x_quad(at: u32, left: u32) -> vec4<f32> {
    var quad = vec4<f32>(x[at], 0.0, 0.0, 0.0);
    if left > 1u {
        quad.y = x[at + 1u];
    }
    if left > 2u {
        quad.z = x[at + 2u];
    }
    if left > 3u {
        quad.w = x[at + 3u];
    }
    return quad;
}
