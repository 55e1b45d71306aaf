// Functions that several shaders use.

// Neither form overflows, and NaN stays NaN.
fn sigmoid(x: f32) -> f32 {
    let t = exp(-abs(x));
    return select(t, 1.0, x >= 0.0) / (1.0 + t);
}

// Near 0 the quotient loses its relative accuracy to the subtraction: a Taylor polynomial (error
// 2e-9 at 0.25) takes over. The built-in tanh overflows on some drivers.
fn tanh_safe(x: f32) -> f32 {
    let t = exp(-2.0 * abs(x));
    let far = (1.0 - t) / (1.0 + t);
    let s = x * x;
    let near = x * (1.0 + s * (-0.33333333 + s * (0.13333333 + s * (-0.053968254 + s * 0.021869488))));
    return select(select(-far, far, x >= 0.0), near, abs(x) < 0.25);
}

// Abramowitz and Stegun 7.1.26: error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let y = 1.0 - p * exp(-x * x);
    return select(-y, y, x >= 0.0);
}

// The codes are those of `ops::activation::code`; `kind` is an override, so that one case is left
// in the pipeline.
fn activate(kind: u32, x: f32, alpha: f32, beta: f32) -> f32 {
    switch kind {
        case 1u: { return max(x, 0.0); }
        case 2u: { return clamp(x, -1.0, 1.0); }
        case 3u: { return clamp(x, 0.0, 6.0); }
        case 4u: { return tanh_safe(x); }
        case 5u: { return sigmoid(x); }
        case 6u: { return clamp(alpha * x + beta, 0.0, 1.0); }
        case 7u: { return select(0.0, 1.0, x < 0.0); }
        case 8u: { return select(alpha * (exp(min(x, 0.0)) - 1.0), x, x > 0.0); }
        case 9u: { return select(alpha * x, x, x > 0.0); }
        case 10u: { return 1.0507009873554805 * select(1.6732632423543772 * (exp(min(x, 0.0)) - 1.0), x, x > 0.0); }
        case 11u: { return max(x, 0.0) + log(1.0 + exp(-abs(x))); }
        case 12u: { return x / (1.0 + abs(x)); }
        case 13u: { return x * sigmoid(x); }
        case 14u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 15u: { return 0.5 * x * (1.0 + tanh_safe(0.7978845608 * (x + 0.044715 * x * x * x))); }
        case 16u: { return x * clamp(x + 3.0, 0.0, 6.0) / 6.0; }
        case 17u: { return exp(x); }
        default: { return x; }
    }
}
