//! AVX2 with FMA and F16C: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use super::vector::{Dot, Int8Layout, Vector};

/// Eight f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx2(__m256);

// SAFETY of every method: the trait's contract (AVX2, FMA and F16C present, pointers valid).
impl Vector for Avx2 {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx2(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_min_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn scale_exponent(self, n: Self) -> Self {
        unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.0));
            Avx2(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), shifted)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Avx2(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_to_second_level(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
}

/// Eight sums.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Dot(__m256i);

// SAFETY of every method: as above.
impl Dot for Avx2Dot {
    type Float = Avx2;
    const LAYOUT: Int8Layout = Int8Layout::Split;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Avx2Dot(unsafe { _mm256_setzero_si256() })
    }
    /// |h| times the weights, those where h is negative with all bits flipped: as `!w` is `−w − 1`, that takes off |h| once more,
    /// which [`Dot::settle`] gives back. One instruction that any port takes, where a change of
    /// sign costs a multiplier's turn. Two products of at most 127 · 128 fit 16 bits, so the
    /// pairwise sum never saturates.
    #[inline(always)]
    unsafe fn dot4(self, h: i32, signs: i32, weights: *const i8) -> Self {
        unsafe {
            let flipped =
                _mm256_xor_si256(_mm256_loadu_si256(weights.cast()), _mm256_set1_epi32(signs));
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(h), flipped);
            Avx2Dot(_mm256_add_epi32(self.0, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
        }
    }
    #[inline(always)]
    unsafe fn settle(self, _: *const i32, negatives: i32) -> Self {
        Avx2Dot(unsafe { _mm256_add_epi32(self.0, _mm256_set1_epi32(negatives)) })
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Avx2 {
        Avx2(unsafe { _mm256_cvtepi32_ps(self.0) })
    }
}

super::kernels::instantiate!(
    AVX2, "avx2", [#[target_feature(enable = "avx2,fma,f16c")]], Avx2, Avx2Dot, matrix: 2, tall: 6, tall_int8: 4, many_int8: 8
);
