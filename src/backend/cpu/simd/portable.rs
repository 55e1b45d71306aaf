//! No instruction set asked for: what the compiler makes of arrays of four.

use super::vector::{Portable, PortableDot, Vector};

super::kernels::instantiate!(
    PORTABLE, "portable", [], Portable, PortableDot, matrix: 2, tall: 4, tall_int8: 4, many_int8: 2
);
