// x in vectors, for rows whose length and start are multiples of four words.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

fn x_word(at: u32) -> f32 {
    return x[at / 4u][at % 4u];
}

fn x_quad(at: u32, left: u32) -> vec4<f32> {
    return x[at / 4u];
}
