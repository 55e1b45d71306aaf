//! No instruction set asked for: what the compiler makes of arrays of four.

use super::vector::{Portable, Vector};

super::kernels::instantiate!(PORTABLE, "portable", [], Portable, matrix: 2, tall: 4);
