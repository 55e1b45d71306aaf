//! Checked arithmetic on shapes.

use crate::error::{Error, Result};

/// Number of elements of a tensor of this shape; 1 for a scalar.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) when the product of the non-zero sizes passes 2⁴⁰, far over any real model.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    const MOST: usize = 1 << 40;
    let mut count: usize = 1;
    for &size in shape {
        if size == 0 {
            return Ok(0);
        }
    }
    for &size in shape {
        count = count
            .checked_mul(size)
            .filter(|&n| n <= MOST)
            .ok_or_else(|| Error::limit(format!("shape {shape:?} has more than 2^40 elements")))?;
    }
    Ok(count)
}
