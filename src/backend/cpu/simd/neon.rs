//! NEON of AArch64: four lanes, thirty-two registers.

use std::arch::aarch64::*;

use super::vector::{Dot, Int8Layout, Vector};

/// Four f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Neon(float32x4_t);

// SAFETY of every method: NEON is part of AArch64; the pointers are valid by the trait's contract.
impl Vector for Neon {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Neon(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Neon(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Neon(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Neon(unsafe { vaddq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Neon(unsafe { vsubq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Neon(unsafe { vmulq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Neon(unsafe { vdivq_f32(self.0, b.0) })
    }
    /// NaN in either operand gives NaN here, which keeps what the trait promises of a clamp.
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        Neon(unsafe { vminq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Neon(unsafe { vmaxq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn scale_exponent(self, n: Self) -> Self {
        unsafe {
            let shifted = vshlq_n_s32::<23>(vreinterpretq_s32_f32(n.0));
            Neon(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), shifted)))
        }
    }
    /// Through the exponent: halves shifted into place and multiplied by 2¹¹², which is exact for
    /// every finite half.
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe {
            let wide = vmovl_u16(vld1_u16(from));
            let sign = vshlq_n_u32::<16>(vandq_u32(wide, vdupq_n_u32(0x8000)));
            let magnitude = vshlq_n_u32::<13>(vandq_u32(wide, vdupq_n_u32(0x7fff)));
            let scaled = vmulq_f32(
                vreinterpretq_f32_u32(magnitude),
                vdupq_n_f32(f32::from_bits(0x7780_0000)),
            );
            Neon(vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), sign)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe { Neon(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from))))) }
    }
}

/// Four sums.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot(int32x4_t);

// SAFETY of every method: as above.
impl Dot for NeonDot {
    type Float = Neon;
    const LAYOUT: Int8Layout = Int8Layout::Signed;
    #[inline(always)]
    unsafe fn zero() -> Self {
        NeonDot(unsafe { vdupq_n_s32(0) })
    }
    #[inline(always)]
    unsafe fn dot4(self, h: i32, _: i32, weights: *const i8) -> Self {
        unsafe {
            let (h, w) = (vreinterpretq_s8_s32(vdupq_n_s32(h)), vld1q_s8(weights));
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(h), vget_low_s8(w)));
            let high = vpaddlq_s16(vmull_high_s8(h, w));
            NeonDot(vaddq_s32(self.0, vpaddq_s32(low, high)))
        }
    }
    #[inline(always)]
    unsafe fn settle(self, _: *const i32, _: i32) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Neon {
        Neon(unsafe { vcvtq_f32_s32(self.0) })
    }
}

super::kernels::instantiate!(
    NEON, "neon", [#[target_feature(enable = "neon")]], Neon, NeonDot, matrix: 4, tall: 6, tall_int8: 4, many_int8: 4
);
