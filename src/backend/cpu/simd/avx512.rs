//! AVX-512 (F, BW, VL, DQ): sixteen lanes, thirty-two registers.

use std::arch::x86_64::*;

use super::vector::{Dot, Int8Layout, Vector};

/// Sixteen f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx512(__m512);

// SAFETY of every method: the trait's contract (AVX-512 F, BW, VL, DQ present, pointers valid).
impl Vector for Avx512 {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_min_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn scale_exponent(self, n: Self) -> Self {
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(n.0));
            Avx512(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), shifted)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
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

/// Sixteen sums.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Dot(__m512i);

// SAFETY of every method: as above.
impl Dot for Avx512Dot {
    type Float = Avx512;
    const LAYOUT: Int8Layout = Int8Layout::Split;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Avx512Dot(unsafe { _mm512_setzero_si512() })
    }
    /// As with AVX2.
    #[inline(always)]
    unsafe fn dot4(self, h: i32, signs: i32, weights: *const i8) -> Self {
        unsafe {
            let flipped =
                _mm512_xor_si512(_mm512_loadu_si512(weights.cast()), _mm512_set1_epi32(signs));
            let pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(h), flipped);
            Avx512Dot(_mm512_add_epi32(self.0, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))))
        }
    }
    #[inline(always)]
    unsafe fn settle(self, _: *const i32, negatives: i32) -> Self {
        Avx512Dot(unsafe { _mm512_add_epi32(self.0, _mm512_set1_epi32(negatives)) })
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
    }
}

/// Sixteen sums by the dot-product instruction of AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512VnniDot(__m512i);

// SAFETY of every method: as above, and VNNI present.
impl Dot for Avx512VnniDot {
    type Float = Avx512;
    const LAYOUT: Int8Layout = Int8Layout::Offset;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Avx512VnniDot(unsafe { _mm512_setzero_si512() })
    }
    #[inline(always)]
    unsafe fn dot4(self, h: i32, _: i32, weights: *const i8) -> Self {
        unsafe {
            let h = _mm512_set1_epi32(h);
            Avx512VnniDot(_mm512_dpbusd_epi32(self.0, h, _mm512_loadu_si512(weights.cast())))
        }
    }
    #[inline(always)]
    unsafe fn settle(self, sums: *const i32, _: i32) -> Self {
        unsafe {
            let sums = _mm512_slli_epi32::<7>(_mm512_loadu_si512(sums.cast()));
            Avx512VnniDot(_mm512_sub_epi32(self.0, sums))
        }
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
    }
}

super::kernels::instantiate!(
    AVX512, "avx512", [#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]],
    Avx512, Avx512Dot, matrix: 4, tall: 6, tall_int8: 6, many_int8: 4
);

/// The same with the dot-product instruction.
pub(crate) mod vnni {
    use super::{Avx512, Avx512VnniDot, Vector};

    crate::backend::cpu::simd::kernels::instantiate!(
        AVX512_VNNI, "avx512", [#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]],
        Avx512, Avx512VnniDot, matrix: 4, tall: 6, tall_int8: 6, many_int8: 4
    );
}
