// The heart of every matrix product here: for rows r = 0 .. ROWS - 1,
//
//     s_r += sum over k of weight(at + k stride) * x(o_r + k)
//
// The weights are zero from `depth` to the next multiple of eight.

// Four terms of a row's sum.
fn terms(w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return w0 * x.x + w1 * x.y + w2 * x.z + w3 * x.w;
}

fn products(first: u32, stride: u32, depth: u32, lane: u32, o0: u32, o1: u32, o2: u32, o3: u32, o4: u32, o5: u32, o6: u32, o7: u32) {
    var at = first;
    for (var k = 0u; k < depth; k += 4u) {
        let left = depth - k;
        let w0 = weight(at);
        let w1 = weight(at + stride);
        let w2 = weight(at + 2u * stride);
        let w3 = weight(at + 3u * stride);
        at += 4u * stride;
        s0 += terms(w0, w1, w2, w3, x_quad(o0 + k, left));
        if ROWS > 1u {
            s1 += terms(w0, w1, w2, w3, x_quad(o1 + k, left));
        }
        if ROWS > 2u {
            s2 += terms(w0, w1, w2, w3, x_quad(o2 + k, left));
            s3 += terms(w0, w1, w2, w3, x_quad(o3 + k, left));
        }
        if ROWS > 4u {
            s4 += terms(w0, w1, w2, w3, x_quad(o4 + k, left));
            s5 += terms(w0, w1, w2, w3, x_quad(o5 + k, left));
            s6 += terms(w0, w1, w2, w3, x_quad(o6 + k, left));
            s7 += terms(w0, w1, w2, w3, x_quad(o7 + k, left));
        }
    }
}

fn prepare(first: u32, stride: u32, term: u32) {
}
