// A chunk of steps in one dispatch by several workgroups, which exchange h word by word: no barrier
// between them, no counter. Each word of the exchange is written once and is its own flag: it is 0
// until its invocation stores the output with all bits inverted, a pattern that no output has but
// one NaN, which is replaced by another. So relaxed atomics are enough. Grid: groups of units, 1,
// directions.
//
// What is assumed beyond WGSL is that every workgroup of the dispatch makes progress. Where that
// does not hold the polls run out, word 0 of the exchange says so, and the host runs the sequence
// by steps.
//
// SLICES invocations share a unit: each holds the recurrent weights of every SLICES-th vector of h
// in registers over all steps. A barrier after h is there, one after the partial sums of a row; the
// first slice adds them up and finishes the unit.

override THREADS: u32 = 128u; // 32 64 128 256: invocations of a workgroup
override SLICES: u32 = 2u; // 1 2 4 8 16 32
override HELD: u32 = 64u; // 16 32 48 64: weights that an invocation holds, at least P / SLICES
override H_WORDS: u32 = 128u; // any: B SLICES HELD
override C_WORDS: u32 = 64u; // any: B THREADS / SLICES
override POLLS: u32 = 4096u; // any: looks that an invocation may take, each at up to four words
override EXCHANGE: bool = false; // look by a read-modify-write that changes nothing, where the driver moves a load out of its loop

// Words of the exchange before the first output: word 0 is set when polls ran out.
const FIRST: u32 = 64u;
const MOST_THREADS: u32 = 256u;

@group(0) @binding(1) var<storage, read> inputs: array<vec4<f32>>; // [d, chunk_steps, B, H] quads: x W + b
@group(0) @binding(7) var<storage, read_write> words: array<atomic<u32>>; // FIRST, then [chunk_steps, d, B, H]: outputs inverted, or 0

var<workgroup> hs: array<f32, H_WORDS>; // [B, SLICES HELD], zero past P; words, as neighboring invocations store neighbors
var<workgroup> cs: array<f32, C_WORDS>; // [B, units of this workgroup]
var<workgroup> partial: array<vec4<f32>, 2u * MOST_THREADS>; // [parity of the row, invocation]

var<private> d: u32;
var<private> directions: u32;
var<private> lane: u32;
var<private> local: u32; // unit of this workgroup
var<private> slice: u32;
var<private> unit: u32;
var<private> polls: u32; // that are left
var<private> w0: vec4<f32>;
var<private> w1: vec4<f32>;
var<private> w2: vec4<f32>;
var<private> w3: vec4<f32>;
var<private> w4: vec4<f32>;
var<private> w5: vec4<f32>;
var<private> w6: vec4<f32>;
var<private> w7: vec4<f32>;
var<private> w8: vec4<f32>;
var<private> w9: vec4<f32>;
var<private> w10: vec4<f32>;
var<private> w11: vec4<f32>;
var<private> w12: vec4<f32>;
var<private> w13: vec4<f32>;
var<private> w14: vec4<f32>;
var<private> w15: vec4<f32>;
var<private> w16: vec4<f32>;
var<private> w17: vec4<f32>;
var<private> w18: vec4<f32>;
var<private> w19: vec4<f32>;
var<private> w20: vec4<f32>;
var<private> w21: vec4<f32>;
var<private> w22: vec4<f32>;
var<private> w23: vec4<f32>;
var<private> w24: vec4<f32>;
var<private> w25: vec4<f32>;
var<private> w26: vec4<f32>;
var<private> w27: vec4<f32>;
var<private> w28: vec4<f32>;
var<private> w29: vec4<f32>;
var<private> w30: vec4<f32>;
var<private> w31: vec4<f32>;
var<private> w32: vec4<f32>;
var<private> w33: vec4<f32>;
var<private> w34: vec4<f32>;
var<private> w35: vec4<f32>;
var<private> w36: vec4<f32>;
var<private> w37: vec4<f32>;
var<private> w38: vec4<f32>;
var<private> w39: vec4<f32>;
var<private> w40: vec4<f32>;
var<private> w41: vec4<f32>;
var<private> w42: vec4<f32>;
var<private> w43: vec4<f32>;
var<private> w44: vec4<f32>;
var<private> w45: vec4<f32>;
var<private> w46: vec4<f32>;
var<private> w47: vec4<f32>;
var<private> w48: vec4<f32>;
var<private> w49: vec4<f32>;
var<private> w50: vec4<f32>;
var<private> w51: vec4<f32>;
var<private> w52: vec4<f32>;
var<private> w53: vec4<f32>;
var<private> w54: vec4<f32>;
var<private> w55: vec4<f32>;
var<private> w56: vec4<f32>;
var<private> w57: vec4<f32>;
var<private> w58: vec4<f32>;
var<private> w59: vec4<f32>;
var<private> w60: vec4<f32>;
var<private> w61: vec4<f32>;
var<private> w62: vec4<f32>;
var<private> w63: vec4<f32>;

// Weight k of this slice: that of term k % 4 of its vector k / 4; zero past the last row.
fn held(k: u32) -> vec4<f32> {
    let row = 4u * (slice + k / 4u * SLICES) + k % 4u;
    if row < weight_rows() {
        return weight(weight_at(d, unit) + row * WEIGHT_STRIDE);
    }
    return vec4<f32>();
}

fn hold() {
    w0 = held(0u);
    w1 = held(1u);
    w2 = held(2u);
    w3 = held(3u);
    w4 = held(4u);
    w5 = held(5u);
    w6 = held(6u);
    w7 = held(7u);
    w8 = held(8u);
    w9 = held(9u);
    w10 = held(10u);
    w11 = held(11u);
    w12 = held(12u);
    w13 = held(13u);
    w14 = held(14u);
    w15 = held(15u);
    if HELD > 16u {
        w16 = held(16u);
        w17 = held(17u);
        w18 = held(18u);
        w19 = held(19u);
        w20 = held(20u);
        w21 = held(21u);
        w22 = held(22u);
        w23 = held(23u);
        w24 = held(24u);
        w25 = held(25u);
        w26 = held(26u);
        w27 = held(27u);
        w28 = held(28u);
        w29 = held(29u);
        w30 = held(30u);
        w31 = held(31u);
    }
    if HELD > 32u {
        w32 = held(32u);
        w33 = held(33u);
        w34 = held(34u);
        w35 = held(35u);
        w36 = held(36u);
        w37 = held(37u);
        w38 = held(38u);
        w39 = held(39u);
        w40 = held(40u);
        w41 = held(41u);
        w42 = held(42u);
        w43 = held(43u);
        w44 = held(44u);
        w45 = held(45u);
        w46 = held(46u);
        w47 = held(47u);
    }
    if HELD > 48u {
        w48 = held(48u);
        w49 = held(49u);
        w50 = held(50u);
        w51 = held(51u);
        w52 = held(52u);
        w53 = held(53u);
        w54 = held(54u);
        w55 = held(55u);
        w56 = held(56u);
        w57 = held(57u);
        w58 = held(58u);
        w59 = held(59u);
        w60 = held(60u);
        w61 = held(61u);
        w62 = held(62u);
        w63 = held(63u);
    }
}

// Vector j of this slice, and its four terms of the unit's sums.
fn four(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, e: vec4<f32>, at: u32, j: u32) -> vec4<f32> {
    let i = at + j * 4u * SLICES;
    let x = vec4<f32>(hs[i], hs[i + 1u], hs[i + 2u], hs[i + 3u]);
    return a * x.x + b * x.y + c * x.z + e * x.w;
}

// The terms of this slice for one row.
fn slice_sum(row: u32) -> vec4<f32> {
    let at = row * SLICES * HELD + 4u * slice;
    var sum = vec4<f32>();
    sum += four(w0, w1, w2, w3, at, 0u);
    sum += four(w4, w5, w6, w7, at, 1u);
    sum += four(w8, w9, w10, w11, at, 2u);
    sum += four(w12, w13, w14, w15, at, 3u);
    if HELD > 16u {
        sum += four(w16, w17, w18, w19, at, 4u);
        sum += four(w20, w21, w22, w23, at, 5u);
        sum += four(w24, w25, w26, w27, at, 6u);
        sum += four(w28, w29, w30, w31, at, 7u);
    }
    if HELD > 32u {
        sum += four(w32, w33, w34, w35, at, 8u);
        sum += four(w36, w37, w38, w39, at, 9u);
        sum += four(w40, w41, w42, w43, at, 10u);
        sum += four(w44, w45, w46, w47, at, 11u);
    }
    if HELD > 48u {
        sum += four(w48, w49, w50, w51, at, 12u);
        sum += four(w52, w53, w54, w55, at, 13u);
        sum += four(w56, w57, w58, w59, at, 14u);
        sum += four(w60, w61, w62, w63, at, 15u);
    }
    return sum;
}

// Where output `i` of a step, row by row, lies in the exchange.
fn word_at(step: u32, i: u32) -> u32 {
    return FIRST + ((step - params.chunk_first) * directions + d) * params.batch * params.units + i;
}

// An output, inverted; 0 as long as it is not there. Invocations past the last look at nothing.
fn look(step: u32, i: u32) -> u32 {
    if i >= params.batch * params.units {
        return 1u;
    }
    if EXCHANGE {
        return atomicOr(&words[word_at(step, i)], 0u);
    }
    return atomicLoad(&words[word_at(step, i)]);
}

fn publish(step: u32, i: u32, value: f32) {
    let bits = bitcast<u32>(value);
    atomicStore(&words[word_at(step, i)], ~select(bits, 0x7fc00000u, bits == 0xffffffffu));
}

fn keep_h(i: u32, value: f32) {
    if i < params.batch * params.units {
        hs[i / params.units * (SLICES * HELD) + i % params.units] = value;
    }
}

// The outputs that a step starts from into workgroup memory: those of the step before, as soon as
// they are there.
fn gather(step: u32) {
    let total = params.batch * params.units;
    if step == params.chunk_first {
        for (var i = lane; i < total; i += THREADS) {
            let at = params.h_slot + d * params.h_direction + i / params.units * 4u * params.quads;
            keep_h(i, h[at + i % params.units]);
        }
        return;
    }
    for (var i = lane; i < total; i += 4u * THREADS) {
        var found = vec4<u32>();
        while polls > 0u {
            polls -= 1u;
            found.x = look(step - 1u, i);
            found.y = look(step - 1u, i + THREADS);
            found.z = look(step - 1u, i + 2u * THREADS);
            found.w = look(step - 1u, i + 3u * THREADS);
            if all(found != vec4<u32>()) {
                break;
            }
        }
        if any(found == vec4<u32>()) {
            atomicStore(&words[0], 1u);
        }
        keep_h(i, bitcast<f32>(~found.x));
        keep_h(i + THREADS, bitcast<f32>(~found.y));
        keep_h(i + 2u * THREADS, bitcast<f32>(~found.z));
        keep_h(i + 3u * THREADS, bitcast<f32>(~found.w));
    }
}

fn start(step: u32, row: u32) -> vec4<f32> {
    return inputs[((d * params.chunk_steps + step - params.chunk_first) * params.batch + row) * params.units + unit];
}

// One unit of one row from its sums: the first slice's work.
fn finish(step: u32, row: u32, sums: vec4<f32>, old_h: f32, is_last: bool) {
    let on = is_on(time_of(step, d), row);
    let cell = row * (THREADS / SLICES) + local;
    var new_h = old_h;
    if on {
        let next = unit_step(d, unit, sums, cs[cell], old_h);
        new_h = next.x;
        cs[cell] = next.y;
    }
    publish(step, row * params.units + unit, new_h);
    put_y(step, row, d, on, unit, new_h);
    if is_last {
        // The other slot than the one that workgroups may still read.
        let slot = directions * params.h_direction - params.h_slot;
        h[slot + d * params.h_direction + row * 4u * params.quads + unit] = new_h;
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    d = group.z;
    directions = groups.z;
    lane = index;
    polls = POLLS;
    let units_here = THREADS / SLICES;
    let row_words = SLICES * HELD;
    local = lane % units_here;
    slice = lane / units_here;
    unit = min(group.x * units_here + local, params.units - 1u);
    let finishes = slice == 0u && group.x * units_here + local < params.units;
    for (var i = lane; i < params.batch * row_words; i += THREADS) {
        hs[i] = 0.0;
    }
    if finishes {
        for (var row = 0u; row < params.batch; row++) {
            var old_c = 0.0;
            if CELL == 0u {
                old_c = c[d * params.c_direction + row * params.units + unit];
            }
            cs[row * units_here + local] = old_c;
        }
    }
    hold();
    workgroupBarrier();
    for (var n = 0u; n < params.count; n++) {
        let step = params.step + n;
        // Loaded before they are needed, so that memory answers meanwhile.
        var next = vec4<f32>();
        if finishes {
            next = start(step, 0u);
        }
        gather(step);
        workgroupBarrier();
        for (var row = 0u; row < params.batch; row++) {
            let side = (row & 1u) * MOST_THREADS;
            var sums = slice_sum(row);
            let old_h = hs[row * row_words + unit];
            if SLICES > 1u {
                partial[side + lane] = sums;
            }
            workgroupBarrier();
            if finishes {
                for (var s = 1u; s < SLICES; s++) {
                    sums += partial[side + s * units_here + local];
                }
                finish(step, row, next + scaled(d, unit, sums), old_h, n + 1u == params.count);
                next = start(step, min(row + 1u, params.batch - 1u));
            }
        }
    }
    if CELL == 0u && finishes {
        for (var row = 0u; row < params.batch; row++) {
            c[d * params.c_direction + row * params.units + unit] = cs[row * units_here + local];
        }
    }
}
