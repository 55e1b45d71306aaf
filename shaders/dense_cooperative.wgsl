// y = activation(x w + b) on the matrix units: a workgroup makes 4 SIDE rows and as many columns,
// four subgroups of it a quarter each, which is 2 by 2 matrices of SIDE by SIDE. For each 2 SIDE
// terms the workgroup lays x and w out as Elements in workgroup memory, zeros past the last term;
// the sums go through workgroup memory to where the bias and the activation meet them. 14.5 KiB in
// all.
//
// Such a module follows the Vulkan memory model without naga saying so at every access: between
// invocations it exchanges data through workgroup memory and barriers only, and nothing in it may
// be marked coherent.

override LANES: u32 = 32u; // 32 64: at least as many as the largest subgroup has

// No powers of two, so that the rows of a matrix lie in different banks; every matrix starts on 16
// bytes, as Vulkan asks.
const X_STRIDE = 2u * SIDE + 8u;
const W_STRIDE = 4u * SIDE + 8u;
const MATRIX = SIDE * SIDE;

var<workgroup> x_tile: array<Element, 4u * SIDE * X_STRIDE>; // [4 SIDE rows, 2 SIDE terms]
var<workgroup> w_tile: array<Element, 2u * SIDE * W_STRIDE>; // [2 SIDE terms, 4 SIDE columns]
var<workgroup> sums: array<f32, 5u * MATRIX>; // a matrix of each quarter, and one that nothing reads

fn lay_out(index: u32, first_row: u32, first_quad: u32, k0: u32) {
    for (var i = index; i < 2u * MATRIX; i += 4u * LANES) {
        let row = i / (SIDE / 2u);
        let term = 4u * (i % (SIDE / 2u));
        let x4 = x_part(x_at(min(first_row + row, params.rows - 1u)), k0 + term);
        let x_to = row * X_STRIDE + term;
        x_tile[x_to] = Element(x4.x);
        x_tile[x_to + 1u] = Element(x4.y);
        x_tile[x_to + 2u] = Element(x4.z);
        x_tile[x_to + 3u] = Element(x4.w);
        let k = i / SIDE;
        let quad = i % SIDE;
        let w4 = w_part(k0 + k, min(first_quad + quad, params.quads - 1u));
        let w_to = k * W_STRIDE + 4u * quad;
        w_tile[w_to] = Element(w4.x);
        w_tile[w_to + 1u] = Element(w4.y);
        w_tile[w_to + 2u] = Element(w4.z);
        w_tile[w_to + 3u] = Element(w4.w);
    }
}

// Stores what `sums` holds: of each subgroup the matrix whose place within its quarter starts at
// this row and quad.
fn put_sums(index: u32, first_row: u32, first_quad: u32) {
    for (var i = index; i < MATRIX; i += 4u * LANES) {
        let quarter = i / (MATRIX / 4u);
        let row = i % (MATRIX / 4u) / (SIDE / 4u);
        let quad = i % (SIDE / 4u);
        let at = 4u * i;
        let sum = vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
        put_inside(first_row + quarter / 2u * 2u * SIDE + row, first_quad + quarter % 2u * (SIDE / 2u) + quad, sum);
    }
}

@compute @workgroup_size(4u * LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let across = (params.quads + SIDE - 1u) / SIDE;
    let tile = group.x + group.y * groups.x;
    let first_row = tile / across * 4u * SIDE;
    let first_quad = tile % across * SIDE;
    if first_row >= params.rows {
        return;
    }
    // Where subgroups are smaller than LANES there are more than four. The others repeat a quarter,
    // as all have to multiply, and their sums go where nothing reads.
    let quarter = subgroup % 4u;
    let down = quarter / 2u * 2u * SIDE;
    let right = quarter % 2u * 2u * SIDE;
    let mine = min(subgroup, 4u) * MATRIX;
    for (var i = index; i < 5u * MATRIX; i += 4u * LANES) {
        sums[i] = 0.0;
    }
    workgroupBarrier();
    var s00 = coopLoadT<Sums>(&sums[mine], SIDE);
    var s01 = s00;
    var s10 = s00;
    var s11 = s00;
    for (var k0 = 0u; k0 < params.depth; k0 += 2u * SIDE) {
        workgroupBarrier();
        lay_out(index, first_row, first_quad, k0);
        workgroupBarrier();
        for (var k = 0u; k < 2u * SIDE; k += SIDE) {
            let x0 = coopLoadT<Left>(&x_tile[down * X_STRIDE + k], X_STRIDE);
            let x1 = coopLoadT<Left>(&x_tile[(down + SIDE) * X_STRIDE + k], X_STRIDE);
            let w0 = coopLoadT<Right>(&w_tile[k * W_STRIDE + right], W_STRIDE);
            let w1 = coopLoadT<Right>(&w_tile[k * W_STRIDE + right + SIDE], W_STRIDE);
            s00 = coopMultiplyAdd(x0, w0, s00);
            s01 = coopMultiplyAdd(x0, w1, s01);
            s10 = coopMultiplyAdd(x1, w0, s10);
            s11 = coopMultiplyAdd(x1, w1, s11);
        }
    }
    coopStoreT(s00, &sums[mine], SIDE);
    workgroupBarrier();
    put_sums(index, first_row, first_quad);
    workgroupBarrier();
    coopStoreT(s01, &sums[mine], SIDE);
    workgroupBarrier();
    put_sums(index, first_row, first_quad + SIDE / 4u);
    workgroupBarrier();
    coopStoreT(s10, &sums[mine], SIDE);
    workgroupBarrier();
    put_sums(index, first_row + SIDE, first_quad);
    workgroupBarrier();
    coopStoreT(s11, &sums[mine], SIDE);
    workgroupBarrier();
    put_sums(index, first_row + SIDE, first_quad + SIDE / 4u);
}
