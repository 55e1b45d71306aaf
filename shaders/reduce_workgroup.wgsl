// Sums over the slices of a unit go through workgroup memory alone: LANES = 1.

fn across(sum: vec4<f32>) -> vec4<f32> {
    return sum;
}
