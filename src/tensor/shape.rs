//! Checked arithmetic on shapes.

use crate::error::{Error, Result};

/// Number of elements of a tensor of this shape; 1 for a scalar.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) when the product of the non-zero sizes passes 2⁴⁰, far over
/// any real model. A size of 0 does not lift the limit, so that the product of any part of a
/// tensor's shape is safe to compute.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    const MOST: usize = 1 << 40;
    let mut count: usize = 1;
    for &size in shape {
        count = count
            .checked_mul(size.max(1))
            .filter(|&n| n <= MOST)
            .ok_or_else(|| Error::limit(format!("shape {shape:?} has more than 2^40 elements")))?;
    }
    Ok(if shape.contains(&0) { 0 } else { count })
}
