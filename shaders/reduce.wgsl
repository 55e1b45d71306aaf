// y = a function of the elements along some axes: one invocation a result.

override FUNCTION: u32 = 0u; // 0..=8: the order of ReduceFunction, then index of the maximum, of the minimum
override TYPE: u32 = 0u; // 0..=2: f32, i32, bool

struct Params {
    count: u32, // results
    outer: u32, // number of kept axes
    terms: u32, // elements of one result
    inner: u32, // number of reduced axes
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> axes: array<u32>; // [2, outer] then [2, inner]: sizes, steps in x; innermost axis first
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [count]

// Word of x of an index over `rank` axes whose table begins at `base`.
fn locate(index: u32, base: u32, rank: u32) -> u32 {
    var rest = index;
    var at = 0u;
    for (var k = 0u; k < rank; k++) {
        let size = axes[base + k];
        at += (rest % size) * axes[base + rank + k];
        rest /= size;
    }
    return at;
}

// The sum carries what rounding lost (Kahan), so that long sums stay within one rounding of the
// exact one.
fn floats(first: u32) -> f32 {
    var best = select(select(0.0, 1.0, FUNCTION == 2u), bitcast<f32>(x[first]), FUNCTION >= 3u);
    var lost = 0.0;
    var index = 0u;
    for (var j = 0u; j < params.terms; j++) {
        let v = bitcast<f32>(x[first + locate(j, 2u * params.outer, params.inner)]);
        switch FUNCTION {
            case 0u, 1u: {
                let corrected = v - lost;
                let sum = best + corrected;
                lost = (sum - best) - corrected;
                best = sum;
            }
            case 2u: { best *= v; }
            case 3u: { best = select(best, v, v > best || v != v); }
            case 4u: { best = select(best, v, v < best || v != v); }
            case 7u: {
                if v > best {
                    best = v;
                    index = j;
                }
            }
            default: {
                if v < best {
                    best = v;
                    index = j;
                }
            }
        }
    }
    if FUNCTION >= 7u {
        return bitcast<f32>(index);
    }
    return select(best, best / f32(params.terms), FUNCTION == 1u);
}

fn integers(first: u32) -> i32 {
    var best = select(select(0, 1, FUNCTION == 2u), bitcast<i32>(x[first]), FUNCTION >= 3u);
    var index = 0;
    for (var j = 0u; j < params.terms; j++) {
        let v = bitcast<i32>(x[first + locate(j, 2u * params.outer, params.inner)]);
        switch FUNCTION {
            case 0u, 1u: { best += v; }
            case 2u: { best *= v; }
            case 3u: { best = max(best, v); }
            case 4u: { best = min(best, v); }
            case 7u: {
                if v > best {
                    best = v;
                    index = i32(j);
                }
            }
            default: {
                if v < best {
                    best = v;
                    index = i32(j);
                }
            }
        }
    }
    if FUNCTION >= 7u {
        return index;
    }
    return select(best, best / i32(params.terms), FUNCTION == 1u);
}

fn bools(first: u32) -> u32 {
    var any = 0u;
    var all = 1u;
    for (var j = 0u; j < params.terms; j++) {
        let v = x[first + locate(j, 2u * params.outer, params.inner)];
        any |= v;
        all &= v;
    }
    return select(all, any, FUNCTION == 5u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    let first = locate(i, 0u, params.outer);
    if TYPE == 0u {
        y[i] = bitcast<u32>(floats(first));
    } else if TYPE == 1u {
        y[i] = bitcast<u32>(integers(first));
    } else {
        y[i] = bools(first);
    }
}
