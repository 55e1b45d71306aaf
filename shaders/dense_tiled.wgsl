// y = activation(x w + b) by tiles: a workgroup makes TILE rows and TILE columns, of which an
// invocation keeps 4 by 4 sums (TILE 64) or 8 by 8 (TILE 128) in registers. For each 1024 / TILE
// terms the workgroup lays x and w out in 8.5 KiB of workgroup memory, where an invocation reads
// them as vectors: 2 reads for 16 products, 4 for 64. What comes next is loaded meanwhile.
//
// The sums are named one by one, as no driver is sure to keep an indexed array in registers.

override TILE: u32 = 64u; // 64 128

// x transposed, [1024 / TILE, TILE + 4] rows; the odd four keep writers of a column in different
// banks. Words, as neighboring invocations store neighbors.
var<workgroup> x_tile: array<f32, 1088>;
// w, [1024 / TILE, TILE / 4] vectors of four columns
var<workgroup> w_tile: array<vec4<f32>, 256>;

// Four rows of x_tile from word `at` on.
fn x_rows(at: u32) -> vec4<f32> {
    return vec4<f32>(x_tile[at], x_tile[at + 1u], x_tile[at + 2u], x_tile[at + 3u]);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let terms = 1024u / TILE;
    let x_stride = TILE + 4u;
    let w_stride = TILE / 4u;
    let across = (params.quads + w_stride - 1u) / w_stride;
    let tile = group.x + group.y * groups.x;
    let first_row = tile / across * TILE;
    let first_quad = tile % across * w_stride;
    if first_row >= params.rows {
        return;
    }
    // What this invocation loads: four terms of one row, four columns of one term.
    let load_row = index / (terms / 4u);
    let load_term = 4u * (index % (terms / 4u));
    let x_row = x_at(min(first_row + load_row, params.rows - 1u));
    let load_k = index / w_stride;
    let w_quad = min(first_quad + index % w_stride, params.quads - 1u);
    // What it computes: rows 4 down .. 4 down + 4 (and TILE / 2 further), columns likewise.
    let down = index / 16u;
    let right = index % 16u;
    var s00 = vec4<f32>();
    var s10 = vec4<f32>();
    var s20 = vec4<f32>();
    var s30 = vec4<f32>();
    var s40 = vec4<f32>();
    var s50 = vec4<f32>();
    var s60 = vec4<f32>();
    var s70 = vec4<f32>();
    var s01 = vec4<f32>();
    var s11 = vec4<f32>();
    var s21 = vec4<f32>();
    var s31 = vec4<f32>();
    var s41 = vec4<f32>();
    var s51 = vec4<f32>();
    var s61 = vec4<f32>();
    var s71 = vec4<f32>();
    var x_next = x_part(x_row, load_term);
    var w_next = w_part(load_k, w_quad);
    for (var k0 = 0u; k0 < params.depth; k0 += terms) {
        workgroupBarrier();
        let x_to = load_term * x_stride + load_row;
        x_tile[x_to] = x_next.x;
        x_tile[x_to + x_stride] = x_next.y;
        x_tile[x_to + 2u * x_stride] = x_next.z;
        x_tile[x_to + 3u * x_stride] = x_next.w;
        w_tile[index] = w_next;
        workgroupBarrier();
        x_next = x_part(x_row, k0 + terms + load_term);
        w_next = w_part(k0 + terms + load_k, w_quad);
        for (var k = 0u; k < terms; k++) {
            let x0 = x_rows(k * x_stride + 4u * down);
            let w0 = w_tile[k * w_stride + right];
            s00 += w0 * x0.x;
            s10 += w0 * x0.y;
            s20 += w0 * x0.z;
            s30 += w0 * x0.w;
            if TILE > 64u {
                let x1 = x_rows(k * x_stride + 64u + 4u * down);
                let w1 = w_tile[k * w_stride + 16u + right];
                s01 += w1 * x0.x;
                s11 += w1 * x0.y;
                s21 += w1 * x0.z;
                s31 += w1 * x0.w;
                s40 += w0 * x1.x;
                s50 += w0 * x1.y;
                s60 += w0 * x1.z;
                s70 += w0 * x1.w;
                s41 += w1 * x1.x;
                s51 += w1 * x1.y;
                s61 += w1 * x1.z;
                s71 += w1 * x1.w;
            }
        }
    }
    let row = first_row + 4u * down;
    let quad = first_quad + right;
    put_inside(row, quad, s00);
    put_inside(row + 1u, quad, s10);
    put_inside(row + 2u, quad, s20);
    put_inside(row + 3u, quad, s30);
    if TILE > 64u {
        put_inside(row, quad + 16u, s01);
        put_inside(row + 1u, quad + 16u, s11);
        put_inside(row + 2u, quad + 16u, s21);
        put_inside(row + 3u, quad + 16u, s31);
        put_inside(row + 64u, quad, s40);
        put_inside(row + 64u, quad + 16u, s41);
        put_inside(row + 65u, quad, s50);
        put_inside(row + 65u, quad + 16u, s51);
        put_inside(row + 66u, quad, s60);
        put_inside(row + 66u, quad + 16u, s61);
        put_inside(row + 67u, quad, s70);
        put_inside(row + 67u, quad + 16u, s71);
    }
}
