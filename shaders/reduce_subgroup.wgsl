// Sums over the slices of a unit that lie in one subgroup of LANES consecutive invocations, UNITS
// of them to a slice; the rest goes through workgroup memory.

fn across(sum: vec4<f32>) -> vec4<f32> {
    var folded = sum;
    for (var distance = UNITS; distance < LANES; distance *= 2u) {
        folded += subgroupShuffleXor(folded, distance);
    }
    return folded;
}
