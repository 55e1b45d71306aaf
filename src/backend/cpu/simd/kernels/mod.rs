//! The kernels, written once over [`Vector`](super::vector::Vector) and compiled for every
//! instruction set by [`instantiate`].

mod activations;
mod cells;
mod functions;
mod int8;
mod product;

pub(super) use activations::{activate, softmax_row};
pub(super) use cells::{GruRows, LstmRows, gru_rows, lstm_rows};
pub(super) use int8::{Int8Row, ProductI8, product_i8, quantize_row};
pub(crate) use product::Storage;
pub(super) use product::{Product, Start, WIDEST_PANEL, product};

/// Units of a block in the packed gate layout: per block the gates follow each other, sixteen units
/// each.
pub(crate) const UNITS: usize = 16;

/// Makes the functions of one instruction set and the kernels that lists them.
macro_rules! instantiate {
    ($kernels:ident, $name:literal, [$(#[$features:meta])?], $vector:ty, $dot:ty,
     matrix: $matrix:literal, tall: $tall:literal, tall_int8: $tall_int8:literal, many_int8: $many_int8:literal) => {
        mod compiled {
            use super::*;
            use crate::backend::cpu::simd::kernels::{self, GruRows, LstmRows, Product, ProductI8, Int8Row};
            use crate::graph::op::Activation;
            // SAFETY of each: called through the kernels only, which is handed out after the features
            // were found present.
            $(#[$features])?
            pub(super) unsafe fn product(p: &Product) {
                unsafe { kernels::product::<$vector, $matrix, $tall>(p) }
            }
            $(#[$features])?
            pub(super) unsafe fn product_i8(p: &ProductI8) {
                unsafe { kernels::product_i8::<$dot, $matrix, $tall_int8>(p) }
            }
            $(#[$features])?
            pub(super) unsafe fn quantize_row(x: *const f32, to: Int8Row, count: usize, least: f32) -> (f32, i32) {
                unsafe { kernels::quantize_row::<$dot>(x, to, count, least) }
            }
            $(#[$features])?
            pub(super) unsafe fn lstm_rows(s: &LstmRows) {
                unsafe { kernels::lstm_rows::<$vector>(s) }
            }
            $(#[$features])?
            pub(super) unsafe fn gru_rows(s: &GruRows) {
                unsafe { kernels::gru_rows::<$vector>(s) }
            }
            $(#[$features])?
            pub(super) unsafe fn activate(activation: Activation, x: *mut f32, count: usize) {
                unsafe { kernels::activate::<$vector>(activation, x, count) }
            }
            $(#[$features])?
            pub(super) unsafe fn softmax_row(beta: f32, log: bool, x: *mut f32, count: usize) {
                unsafe { kernels::softmax_row::<$vector>(beta, log, x, count) }
            }
        }

        /// The kernels of this instruction set.
        pub(crate) static $kernels: crate::backend::cpu::simd::KernelSet = crate::backend::cpu::simd::KernelSet {
            name: $name,
            matrix_width: $matrix * <$vector as Vector>::LANES,
            vector_width: 8 * <$vector as Vector>::LANES,
            int8_width: $many_int8 * <$vector as Vector>::LANES,
            product: compiled::product,
            product_i8: compiled::product_i8,
            quantize_row: compiled::quantize_row,
            lstm_rows: compiled::lstm_rows,
            gru_rows: compiled::gru_rows,
            activate: compiled::activate,
            softmax_row: compiled::softmax_row,
        };
    };
}
pub(super) use instantiate;
