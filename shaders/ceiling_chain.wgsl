// y += 1 by one workgroup: nothing but what lies between two dispatches that depend on each other.

@group(0) @binding(0) var<storage, read_write> y: array<u32>; // [64]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    y[lane] = y[lane] + 1u;
}
