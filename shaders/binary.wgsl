// y = activation(a ∘ b) with broadcasting. Comparisons and logic yield words 0 and 1.

override FUNCTION: u32 = 0u; // 0..=17: the order of BinaryFunction
override TYPE: u32 = 0u; // 0..=2: f32, i32, bool
override ACTIVATION: u32 = 0u; // 0..=17: see functions.wgsl; f32 arithmetic only
override ALPHA: f32 = 0.0;
override BETA: f32 = 0.0;

struct Params {
    count: u32,
    rank: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read> axes: array<u32>; // [3, rank]: sizes, steps in a, steps in b; innermost axis first
@group(0) @binding(3) var<storage, read_write> y: array<u32>; // [count]

// x^n by the rules of the C library where WGSL leaves pow undefined: a negative base needs a whole
// exponent.
fn power(x: f32, n: f32) -> f32 {
    let whole = n == floor(n);
    let magnitude = select(pow(abs(x), n), 1.0, n == 0.0);
    let odd = whole && abs(n - 2.0 * floor(n * 0.5)) == 1.0;
    let nan = bitcast<f32>(0x7fc00000u | (params.count & 0u));
    return select(select(select(magnitude, -magnitude, odd), nan, !whole), magnitude, x >= 0.0 || n == 0.0);
}

fn arithmetic(p: f32, q: f32) -> f32 {
    switch FUNCTION {
        case 0u: { return p + q; }
        case 1u: { return p - q; }
        case 2u: { return p * q; }
        case 3u: { return p / q; }
        case 4u: { return floor(p / q); }
        case 5u: { return p - q * floor(p / q); }
        case 6u: { return power(p, q); }
        // Written so that NaN of either side comes through, whatever the driver's min and max do.
        case 7u: { return select(select(q, p, p < q), p, p != p); }
        case 8u: { return select(select(q, p, p > q), p, p != p); }
        default: { return (p - q) * (p - q); }
    }
}

fn floor_div(p: i32, q: i32) -> i32 {
    let d = p / q;
    return d - select(0, 1, d * q != p && ((p < 0) != (q < 0)));
}

fn integer(p: i32, q: i32) -> i32 {
    switch FUNCTION {
        case 0u: { return p + q; }
        case 1u: { return p - q; }
        case 2u: { return p * q; }
        case 3u: { return p / q; }
        case 4u: { return floor_div(p, q); }
        case 5u: { return p - q * floor_div(p, q); }
        case 7u: { return min(p, q); }
        case 8u: { return max(p, q); }
        default: { return (p - q) * (p - q); }
    }
}

fn compare(less: bool, equal: bool, greater: bool) -> bool {
    switch FUNCTION {
        case 10u: { return equal; }
        case 11u: { return !equal; }
        case 12u: { return less; }
        case 13u: { return less || equal; }
        case 14u: { return greater; }
        default: { return greater || equal; }
    }
}

fn apply(p: u32, q: u32) -> u32 {
    if TYPE == 2u {
        switch FUNCTION {
            case 10u: { return u32(p == q); }
            case 11u: { return u32(p != q); }
            case 16u: { return p & q; }
            default: { return p | q; }
        }
    }
    if TYPE == 1u {
        let s = bitcast<i32>(p);
        let t = bitcast<i32>(q);
        if FUNCTION >= 10u {
            return u32(compare((s < t), (s == t), (s > t)));
        }
        return bitcast<u32>(integer(s, t));
    }
    let s = bitcast<f32>(p);
    let t = bitcast<f32>(q);
    if FUNCTION >= 10u {
        return u32(compare((s < t), (s == t), (s > t)));
    }
    return bitcast<u32>(activate(ACTIVATION, arithmetic(s, t), ALPHA, BETA));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.x + id.y * groups.x * 64u;
    if i >= params.count {
        return;
    }
    var rest = i;
    var at_a = 0u;
    var at_b = 0u;
    for (var k = 0u; k < params.rank; k++) {
        let size = axes[k];
        let index = rest % size;
        rest /= size;
        at_a += index * axes[params.rank + k];
        at_b += index * axes[2u * params.rank + k];
    }
    y[i] = apply(a[at_a], b[at_b]);
}
