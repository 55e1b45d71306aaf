// The layer norm of one step of one batch row, by one workgroup. The kernel that includes this has
// the sums in `inputs` and says where a row's cell states and outputs are: cell_of, put_cell,
// put_normed.

var<workgroup> partial: array<vec4<f32>, THREADS>;

// The sum of a value over all invocations.
fn total(value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    partial[lane] = value;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

// b + coef (s - mean) / sqrt(var + 1e-8)
fn normalized(unit: u32, s: vec4<f32>, mean: vec4<f32>, scale: vec4<f32>) -> vec4<f32> {
    let at = d * params.extras_direction + params.norm + 8u * unit;
    let coefficient = vec4<f32>(extras[at], extras[at + 1u], extras[at + 2u], extras[at + 3u]);
    let bias = vec4<f32>(extras[at + 4u], extras[at + 5u], extras[at + 6u], extras[at + 7u]);
    return bias + coefficient * (s - mean) * scale;
}

// The scale 1 / sqrt(var + 1e-8) of the sums that `inputs` holds for this step.
fn norm_scale(step: u32, mean: vec4<f32>) -> vec4<f32> {
    var squares = vec4<f32>();
    for (var unit = lane; unit < params.units; unit += THREADS) {
        let s = inputs[input_at(step, first, unit)] - mean;
        squares += s * s;
    }
    return inverseSqrt(total(squares) / f32(params.units) + 1e-8);
}

// What follows the sums; `share`: this invocation's part of their total.
fn normed(step: u32, share: vec4<f32>) {
    var mean = total(share) / f32(params.units);
    var scale = norm_scale(step, mean);
    let on = is_on(time_of(step, d), first);
    if PEEPHOLE {
        // The output gate sees the new cell state, so its mean and variance come after it.
        var sum = vec4<f32>();
        for (var unit = lane; unit < params.units; unit += THREADS) {
            let at = input_at(step, first, unit);
            var s = inputs[at];
            s.w += peephole(d, unit).z * next_cell(normalized(unit, s, mean, scale), cell_of(unit));
            sum += s;
            inputs[at] = s;
        }
        let new_mean = total(sum) / f32(params.units);
        let new_scale = norm_scale(step, new_mean);
        mean.w = new_mean.w;
        scale.w = new_scale.w;
    }
    for (var unit = lane; unit < params.units; unit += THREADS) {
        let s = normalized(unit, inputs[input_at(step, first, unit)], mean, scale);
        var output_value = 0.0;
        if on {
            let cell = next_cell(s, cell_of(unit));
            put_cell(unit, cell);
            output_value = gate(s.w) * output(cell);
        }
        put_normed(step, unit, on, output_value);
    }
}
