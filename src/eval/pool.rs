//! Pools over windows of an image.

use super::elementwise::activate;
use super::movement;
use super::operands::{Operands, checked_count};
use super::quantized;
use crate::error::{Error, Result};
use crate::graph::WindowAxis;
use crate::graph::op::{Pool2d, PoolFunction};
use crate::tensor::{DType, Tensor};

/// Sizes of a pool over `[N, h, w, C]`.
pub(super) struct Pool {
    images: usize,
    channels: usize,
    vertical: WindowAxis,
    horizontal: WindowAxis,
    /// Shape of y.
    pub shape: Vec<usize>,
}

impl Pool {
    fn new(options: &Pool2d, x: &Tensor) -> Result<Pool> {
        let &[images, height, width, channels] = x.shape() else {
            return Err(Error::input(format!("x of shape {:?}, [N, h, w, C] expected", x.shape())));
        };
        let axis = |axis: usize, size| {
            let (window, stride) = (options.window[axis], options.strides[axis]);
            WindowAxis::new(options.padding, axis, size, window, stride, options.dilations[axis])
        };
        let (vertical, horizontal) = (axis(0, height)?, axis(1, width)?);
        let shape = vec![images, vertical.count, horizontal.count, channels];
        checked_count(DType::F64, &shape)?;
        Ok(Pool { images, channels, vertical, horizontal, shape })
    }

    /// Calls `finish` for every element of the result in order: the fold of the entries of its
    /// window by `add`, the number of entries of x, and that of x and its padding.
    pub fn fold<S: Copy>(
        &self,
        first: S,
        add: impl Fn(S, usize) -> S,
        mut finish: impl FnMut(S, usize, usize),
    ) {
        let (height, width) = (self.vertical.size, self.horizontal.size);
        for image in 0..self.images {
            for row in 0..self.vertical.count {
                for column in 0..self.horizontal.count {
                    let padded = self.vertical.taps_with_padding(row)
                        * self.horizontal.taps_with_padding(column);
                    for channel in 0..self.channels {
                        let (mut state, mut count) = (first, 0);
                        for (_, y) in self.vertical.taps(row) {
                            for (_, x) in self.horizontal.taps(column) {
                                let pixel = (image * height + y) * width + x;
                                state = add(state, pixel * self.channels + channel);
                                count += 1;
                            }
                        }
                        finish(state, count, padded);
                    }
                }
            }
        }
    }
}

/// Op [`Op::Pool2d`](crate::graph::Op::Pool2d), over the taps `(i, j)` of the window that lie on x:
/// `y[n, r, c, k] = activation(max_{i, j} x[n, r·s + i·d − pad, c·s + j·d − pad, k])`, or the sum of
/// the same divided by their number (that of all taps on x and its padding, where padding counts).
pub(super) fn pool2d(options: &Pool2d, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    let pool = Pool::new(options, x)?;
    if operands.is_quantized(0) {
        return quantized::pool2d(options, &pool, operands);
    }
    if !x.dtype().is_float() {
        return Err(Error::graph(format!("x is {}, a float type was expected", x.dtype())));
    }
    let values = movement::floats(x);
    let mut out = Vec::with_capacity(pool.shape.iter().product());
    match options.function {
        PoolFunction::Maximum => {
            let lowest = match x.dtype() {
                DType::F16 => -65_504.0,
                DType::F32 => f64::from(f32::MIN),
                _ => f64::MIN,
            };
            // NaN wins, as in a reduction.
            let larger = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
            pool.fold(
                lowest,
                |most, at| larger(most, values[at]),
                |most, _, _| out.push(activate(options.activation, most)),
            );
        }
        PoolFunction::Average { count_padding } => pool.fold(
            0.0,
            |sum, at| sum + values[at],
            |sum: f64, on_x, padded| {
                let count = if count_padding { padded } else { on_x };
                out.push(activate(options.activation, sum / count.max(1) as f64));
            },
        ),
    }
    movement::from_floats(x.dtype(), &pool.shape, out)
}
