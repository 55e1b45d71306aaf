// The heart of every matrix product here: for rows r = 0 .. ROWS - 1,
//
//     s_r += sum over k of weight(at + k stride) * x(o_r + k)
//
// The form for the software driver, whose subgroups are eight consecutive invocations: there a load
// costs as much for each lane, also when all lanes load the same word, so the lanes load eight
// terms of x between them and hand them round.
//
// The weights are zero from `depth` to the next multiple of eight.

fn term(x: f32, depth_left: bool) -> f32 {
    return select(0.0, x, depth_left);
}

fn products(first: u32, stride: u32, depth: u32, lane: u32, o0: u32, o1: u32, o2: u32, o3: u32, o4: u32, o5: u32, o6: u32, o7: u32) {
    var at = first;
    for (var k = 0u; k < depth; k += 8u) {
        let on = k + lane < depth;
        let mine = min(k + lane, depth - 1u);
        var x0 = 0.0;
        var x1 = 0.0;
        var x2 = 0.0;
        var x3 = 0.0;
        var x4 = 0.0;
        var x5 = 0.0;
        var x6 = 0.0;
        var x7 = 0.0;
        x0 = term(x_word(o0 + mine), on);
        if ROWS > 1u {
            x1 = term(x_word(o1 + mine), on);
        }
        if ROWS > 2u {
            x2 = term(x_word(o2 + mine), on);
            x3 = term(x_word(o3 + mine), on);
        }
        if ROWS > 4u {
            x4 = term(x_word(o4 + mine), on);
            x5 = term(x_word(o5 + mine), on);
            x6 = term(x_word(o6 + mine), on);
            x7 = term(x_word(o7 + mine), on);
        }
        let w0 = weight(at);
        s0 += w0 * subgroupBroadcast(x0, 0u);
        if ROWS > 1u {
            s1 += w0 * subgroupBroadcast(x1, 0u);
        }
        if ROWS > 2u {
            s2 += w0 * subgroupBroadcast(x2, 0u);
            s3 += w0 * subgroupBroadcast(x3, 0u);
        }
        if ROWS > 4u {
            s4 += w0 * subgroupBroadcast(x4, 0u);
            s5 += w0 * subgroupBroadcast(x5, 0u);
            s6 += w0 * subgroupBroadcast(x6, 0u);
            s7 += w0 * subgroupBroadcast(x7, 0u);
        }
        let w1 = weight(at + 1u * stride);
        s0 += w1 * subgroupBroadcast(x0, 1u);
        if ROWS > 1u {
            s1 += w1 * subgroupBroadcast(x1, 1u);
        }
        if ROWS > 2u {
            s2 += w1 * subgroupBroadcast(x2, 1u);
            s3 += w1 * subgroupBroadcast(x3, 1u);
        }
        if ROWS > 4u {
            s4 += w1 * subgroupBroadcast(x4, 1u);
            s5 += w1 * subgroupBroadcast(x5, 1u);
            s6 += w1 * subgroupBroadcast(x6, 1u);
            s7 += w1 * subgroupBroadcast(x7, 1u);
        }
        let w2 = weight(at + 2u * stride);
        s0 += w2 * subgroupBroadcast(x0, 2u);
        if ROWS > 1u {
            s1 += w2 * subgroupBroadcast(x1, 2u);
        }
        if ROWS > 2u {
            s2 += w2 * subgroupBroadcast(x2, 2u);
            s3 += w2 * subgroupBroadcast(x3, 2u);
        }
        if ROWS > 4u {
            s4 += w2 * subgroupBroadcast(x4, 2u);
            s5 += w2 * subgroupBroadcast(x5, 2u);
            s6 += w2 * subgroupBroadcast(x6, 2u);
            s7 += w2 * subgroupBroadcast(x7, 2u);
        }
        let w3 = weight(at + 3u * stride);
        s0 += w3 * subgroupBroadcast(x0, 3u);
        if ROWS > 1u {
            s1 += w3 * subgroupBroadcast(x1, 3u);
        }
        if ROWS > 2u {
            s2 += w3 * subgroupBroadcast(x2, 3u);
            s3 += w3 * subgroupBroadcast(x3, 3u);
        }
        if ROWS > 4u {
            s4 += w3 * subgroupBroadcast(x4, 3u);
            s5 += w3 * subgroupBroadcast(x5, 3u);
            s6 += w3 * subgroupBroadcast(x6, 3u);
            s7 += w3 * subgroupBroadcast(x7, 3u);
        }
        let w4 = weight(at + 4u * stride);
        s0 += w4 * subgroupBroadcast(x0, 4u);
        if ROWS > 1u {
            s1 += w4 * subgroupBroadcast(x1, 4u);
        }
        if ROWS > 2u {
            s2 += w4 * subgroupBroadcast(x2, 4u);
            s3 += w4 * subgroupBroadcast(x3, 4u);
        }
        if ROWS > 4u {
            s4 += w4 * subgroupBroadcast(x4, 4u);
            s5 += w4 * subgroupBroadcast(x5, 4u);
            s6 += w4 * subgroupBroadcast(x6, 4u);
            s7 += w4 * subgroupBroadcast(x7, 4u);
        }
        let w5 = weight(at + 5u * stride);
        s0 += w5 * subgroupBroadcast(x0, 5u);
        if ROWS > 1u {
            s1 += w5 * subgroupBroadcast(x1, 5u);
        }
        if ROWS > 2u {
            s2 += w5 * subgroupBroadcast(x2, 5u);
            s3 += w5 * subgroupBroadcast(x3, 5u);
        }
        if ROWS > 4u {
            s4 += w5 * subgroupBroadcast(x4, 5u);
            s5 += w5 * subgroupBroadcast(x5, 5u);
            s6 += w5 * subgroupBroadcast(x6, 5u);
            s7 += w5 * subgroupBroadcast(x7, 5u);
        }
        let w6 = weight(at + 6u * stride);
        s0 += w6 * subgroupBroadcast(x0, 6u);
        if ROWS > 1u {
            s1 += w6 * subgroupBroadcast(x1, 6u);
        }
        if ROWS > 2u {
            s2 += w6 * subgroupBroadcast(x2, 6u);
            s3 += w6 * subgroupBroadcast(x3, 6u);
        }
        if ROWS > 4u {
            s4 += w6 * subgroupBroadcast(x4, 6u);
            s5 += w6 * subgroupBroadcast(x5, 6u);
            s6 += w6 * subgroupBroadcast(x6, 6u);
            s7 += w6 * subgroupBroadcast(x7, 6u);
        }
        let w7 = weight(at + 7u * stride);
        s0 += w7 * subgroupBroadcast(x0, 7u);
        if ROWS > 1u {
            s1 += w7 * subgroupBroadcast(x1, 7u);
        }
        if ROWS > 2u {
            s2 += w7 * subgroupBroadcast(x2, 7u);
            s3 += w7 * subgroupBroadcast(x3, 7u);
        }
        if ROWS > 4u {
            s4 += w7 * subgroupBroadcast(x4, 7u);
            s5 += w7 * subgroupBroadcast(x5, 7u);
            s6 += w7 * subgroupBroadcast(x6, 7u);
            s7 += w7 * subgroupBroadcast(x7, 7u);
        }
        at += 8u * stride;
    }
}

fn prepare(first: u32, stride: u32, term: u32) {
}
