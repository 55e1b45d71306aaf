// y = activation(x w + b) without workgroup memory: each invocation makes a tile of ROWS rows and
// four columns.
//
// On the software driver this is three times faster than a tiled kernel (barriers and workgroup
// memory cost there and save nothing); on real devices it serves few rows. Eight rows were the best
// of 4, 8 and 16.

override ROWS: u32 = 8u; // 1 2 4 8: rows of a tile

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let i = id.x + id.y * groups.x * 64u;
    // Eight neighbors have the same rows.
    let wide = (params.quads + 7u) / 8u * 8u;
    let quad = min(i % wide, params.quads - 1u);
    let first = (i / wide) * ROWS;
    if first >= params.rows {
        return;
    }
    // Rows past the end repeat the last one and are not stored.
    let last = params.rows - 1u;
    clear_sums();
    products(
        quad,
        params.quads,
        params.depth,
        index % 8u,
        x_at(first),
        x_at(min(first + 1u, last)),
        x_at(min(first + 2u, last)),
        x_at(min(first + 3u, last)),
        x_at(min(first + 4u, last)),
        x_at(min(first + 5u, last)),
        x_at(min(first + 6u, last)),
        x_at(min(first + 7u, last)),
    );
    if i % wide != quad {
        return;
    }
    put(first, quad, s0);
    if ROWS > 1u {
        put(first + 1u, quad, s1);
    }
    if ROWS > 2u {
        put(first + 2u, quad, s2);
        put(first + 3u, quad, s3);
    }
    if ROWS > 4u {
        put(first + 4u, quad, s4);
        put(first + 5u, quad, s5);
        put(first + 6u, quad, s6);
        put(first + 7u, quad, s7);
    }
}
