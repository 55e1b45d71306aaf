//! The vector trait that every kernel is written against, and its portable form.

/// A register of `LANES` f32. The kernels are generic over it, so each instruction set runs the
/// same code.
///
/// `min` and `max` return the *second* operand when either is NaN (the rule of x86), so a clamp
/// written `lo.max(x)` keeps the NaN of `x`.
///
/// # Safety
/// Every method may only be called on a processor that has the instruction set; pointers must be
/// valid for `LANES` elements.
pub(crate) trait Vector: Copy {
    /// Elements of a register.
    const LANES: usize;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    /// `self · b + c`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn min(self, b: Self) -> Self;
    unsafe fn max(self, b: Self) -> Self;
    /// `self · 2^n`, where the lowest nine bits of `n` hold the exponent in two's complement, as
    /// they do after 1.5·2²³ was added to an integral float. The result must be a normal number.
    unsafe fn scale_exponent(self, n: Self) -> Self;
    /// Widens IEEE halves.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Widens bfloat16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Asks for a cache line that is read soon; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    /// The same, to leave the first level to what is in use.
    #[inline(always)]
    unsafe fn prefetch_to_second_level(_: *const u8) {}
}

/// Layout of an int8 row for the products with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int8Layout {
    /// As it is.
    Signed,
    /// Every byte 128 higher, as an unsigned one.
    Offset,
    /// Magnitudes, and beside them for each byte its sign: 0, or −1 where it is negative.
    Split,
}

/// Sums of products of signed bytes, `LANES` of them as 32-bit integers.
///
/// # Safety
/// As for [`Vector`].
pub(crate) trait Dot: Copy {
    /// The float register with as many lanes.
    type Float: Vector;
    unsafe fn zero() -> Self;
    /// What [`Dot::dot4`] is given.
    const LAYOUT: Int8Layout;
    /// Adds to each lane the products of four bytes `h` (the same for all lanes, from −127 to 127)
    /// with its four weights. `signs` are those of `h` in the form [`Int8Layout::Split`], else nothing.
    unsafe fn dot4(self, h: i32, signs: i32, weights: *const i8) -> Self;
    /// Corrects the sums for what the form changed: [`Int8Layout::Offset`] takes off `128 · sums`, the
    /// sums of the lanes' weights; [`Int8Layout::Split`] adds `negatives`, the sum of the magnitudes of
    /// what is negative in the row.
    unsafe fn settle(self, sums: *const i32, negatives: i32) -> Self;
    unsafe fn to_float(self) -> Self::Float;
}

/// Four sums.
#[derive(Clone, Copy)]
pub(crate) struct PortableDot([i32; 4]);

impl Dot for PortableDot {
    type Float = Portable;
    const LAYOUT: Int8Layout = Int8Layout::Signed;
    #[inline(always)]
    unsafe fn zero() -> Self {
        PortableDot([0; 4])
    }
    #[inline(always)]
    unsafe fn dot4(self, h: i32, _: i32, weights: *const i8) -> Self {
        // SAFETY: the caller vouches for sixteen readable bytes.
        let w = unsafe { weights.cast::<[[i8; 4]; 4]>().read_unaligned() };
        let mut out = self;
        for (sum, w) in out.0.iter_mut().zip(w) {
            for (w, h) in w.into_iter().zip(h.to_le_bytes()) {
                *sum += i32::from(w) * i32::from(h as i8);
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn settle(self, _: *const i32, _: i32) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Portable {
        Portable(self.0.map(|x| x as f32))
    }
}

/// Four f32 as the compiler likes them: works everywhere.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Portable([f32; 4]);

macro_rules! lanes {
    ($($f:ident: |$a:ident, $b:ident| $e:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $f(self, b: Self) -> Self {
            let mut out = self;
            for i in 0..4 {
                let ($a, $b) = (self.0[i], b.0[i]);
                out.0[i] = $e;
            }
            out
        }
    )*};
}

impl Vector for Portable {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for four readable elements.
        Portable(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for four writable elements.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 4])
    }
    /// Rounds twice: a fused multiply-add without the instruction is a library call.
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let mut out = c;
        for i in 0..4 {
            out.0[i] += self.0[i] * b.0[i];
        }
        out
    }
    lanes! {
        add: |a, b| a + b;
        sub: |a, b| a - b;
        mul: |a, b| a * b;
        div: |a, b| a / b;
        min: |a, b| if a < b { a } else { b };
        max: |a, b| if a > b { a } else { b };
        scale_exponent: |a, b| f32::from_bits(a.to_bits().wrapping_add(b.to_bits() << 23));
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: the caller vouches for four readable elements.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Portable(bits.map(|b| half::f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: the caller vouches for four readable elements.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Portable(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
}
