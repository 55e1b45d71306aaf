//! What the processor's registers and caches can do: chains of multiply-adds, and sums over a
//! slice.

use super::KernelSet;
use super::vector::{Portable, Vector};

/// Chains that do not wait for each other: two multiply-adds a clock at a latency of four need
/// eight; with the two factors, twelve fit sixteen registers.
const CHAINS: usize = 12;

#[inline(always)]
unsafe fn chains<V: Vector>(rounds: usize) -> f32 {
    // SAFETY: the caller vouches for the instruction set; `total` has LANES elements.
    unsafe {
        let (factor, term) = (V::splat(0.999_999), V::splat(1e-7));
        let mut sums = [V::splat(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sum.fma(factor, term);
            }
        }
        total(sums)
    }
}

#[inline(always)]
unsafe fn sums<V: Vector>(x: &[f32]) -> f32 {
    // SAFETY: the caller vouches for the instruction set; every load lies in its chunk.
    unsafe {
        let mut sums = [V::splat(0.0); 8];
        for chunk in x.chunks_exact(8 * V::LANES) {
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(V::load(chunk.as_ptr().add(k * V::LANES)));
            }
        }
        total(sums)
    }
}

/// The sum of all lanes.
#[inline(always)]
unsafe fn total<V: Vector, const N: usize>(sums: [V; N]) -> f32 {
    let mut lanes = [0.0; 16];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: no register has over sixteen lanes.
        unsafe { sum.store(lanes.as_mut_ptr()) };
        total += lanes.iter().take(V::LANES).sum::<f32>();
    }
    total
}

macro_rules! instantiate {
    ($chains:ident, $sums:ident, [$(#[$feature:meta])*], $vector:ty) => {
        $(#[$feature])*
        unsafe fn $chains(rounds: usize) -> f32 {
            // SAFETY: the features above.
            unsafe { chains::<$vector>(rounds) }
        }
        $(#[$feature])*
        unsafe fn $sums(x: &[f32]) -> f32 {
            // SAFETY: the features above.
            unsafe { sums::<$vector>(x) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
instantiate!(chains_avx512, sums_avx512, [#[target_feature(enable = "avx512f")]], super::avx512::Avx512);
#[cfg(target_arch = "x86_64")]
instantiate!(chains_avx2, sums_avx2, [#[target_feature(enable = "avx2,fma,f16c")]], super::avx2::Avx2);
#[cfg(target_arch = "aarch64")]
instantiate!(chains_neon, sums_neon, [#[target_feature(enable = "neon")]], super::neon::Neon);
instantiate!(chains_portable, sums_portable, [], Portable);

impl KernelSet {
    /// Runs `rounds` rounds of multiply-adds in registers; returns their sum, so that none is left
    /// out, and the operations done.
    pub fn multiply_adds(&self, rounds: usize) -> (f32, f64) {
        let operations = |lanes: usize| (2 * CHAINS * lanes) as f64 * rounds as f64;
        // SAFETY: a kernels exists only where the processor has its instruction set.
        unsafe {
            match self.name {
                #[cfg(target_arch = "x86_64")]
                "avx512" => (chains_avx512(rounds), operations(16)),
                #[cfg(target_arch = "x86_64")]
                "avx2" => (chains_avx2(rounds), operations(8)),
                #[cfg(target_arch = "aarch64")]
                "neon" => (chains_neon(rounds), operations(4)),
                _ => (chains_portable(rounds), operations(Portable::LANES)),
            }
        }
    }

    /// Reads every element of `x`, a multiple of 128, and returns their sum.
    pub fn read(&self, x: &[f32]) -> f32 {
        // SAFETY: as in `multiply_adds`.
        unsafe {
            match self.name {
                #[cfg(target_arch = "x86_64")]
                "avx512" => sums_avx512(x),
                #[cfg(target_arch = "x86_64")]
                "avx2" => sums_avx2(x),
                #[cfg(target_arch = "aarch64")]
                "neon" => sums_neon(x),
                _ => sums_portable(x),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_instruction_set_computes_the_same() {
        let x: Vec<f32> = (0..1280).map(|n| (n % 7) as f32).collect();
        let want: f32 = x.iter().sum();
        for kernels in super::super::available() {
            // Small integers: every order of summation is exact.
            assert_eq!(kernels.read(&x), want, "{}", kernels.name);
            let (sum, operations) = kernels.multiply_adds(1000);
            let lanes = operations / 1000.0 / 2.0;
            let mut one = 1.0f64;
            (0..1000).for_each(|_| one = one * 0.999_999 + 1e-7);
            assert!(
                (f64::from(sum) / lanes - one).abs() < 1e-3,
                "{}: {sum} of {lanes} lanes",
                kernels.name
            );
        }
    }
}
