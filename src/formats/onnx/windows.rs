//! Convolutions and pools: of one or two axes, brought to `[N, height, width, channels]`.

use super::lower::Val;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::op::{Conv2d, Padding, Pool2d, PoolFunction, Squeeze};
use crate::graph::{Dim, Op, ValueId};

/// Geometry as the node says it, vertical and horizontal.
struct Geometry {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    padding: Padding,
    /// One axis: it is the horizontal one.
    is_line: bool,
}

/// Two entries of which a list of one gives the second.
fn pair(name: &str, list: &[i64], is_line: bool, other: usize) -> Result<[usize; 2]> {
    /// TensorFlow Lite keeps these sizes in 32 bits.
    const MOST: i64 = 1 << 31;
    let size = |value: i64| {
        usize::try_from(value).ok().filter(|_| value <= MOST).ok_or_else(|| {
            Error::malformed(format!("{name}: expected sizes up to 2^31, found {list:?}"))
        })
    };
    match (list, is_line) {
        ([only], true) => Ok([other, size(*only)?]),
        ([first, second], false) => Ok([size(*first)?, size(*second)?]),
        _ => Err(Error::malformed(format!(
            "{name}: expected {} entries, found {list:?}",
            if is_line { 1 } else { 2 }
        ))),
    }
}

impl Geometry {
    fn read(step: &Step<'_, '_>, x: ValueId, kernel: Option<Vec<i64>>) -> Result<Self> {
        let is_line = match step.rank(x)? {
            3 => true,
            4 => false,
            rank => {
                return Err(Error::unsupported(format!(
                    "windows over {} axes: 1 and 2 are read",
                    rank.saturating_sub(2)
                )));
            }
        };
        let count = if is_line { 1 } else { 2 };
        let stated = step.attrs.ints("kernel_shape")?;
        let kernel = match (stated, kernel) {
            (Some(stated), Some(kernel)) if stated != kernel => {
                return Err(Error::malformed(format!(
                    "kernel_shape: expected {kernel:?} as W has, found {stated:?}"
                )));
            }
            (_, Some(kernel)) | (Some(kernel), None) => kernel,
            (None, None) => return Err(Error::malformed("attribute 'kernel_shape' is missing")),
        };
        let strides = step.attrs.ints("strides")?.unwrap_or_else(|| vec![1; count]);
        let dilations = step.attrs.ints("dilations")?.unwrap_or_else(|| vec![1; count]);
        let pads = step.attrs.ints("pads")?;
        let padding = match step.attrs.string("auto_pad")? {
            None | Some("NOTSET") => {
                explicit(&pads.unwrap_or_else(|| vec![0; 2 * count]), is_line)?
            }
            Some("VALID") => Padding::Valid,
            Some("SAME_UPPER") => Padding::Same,
            Some("SAME_LOWER") => Padding::SameLower,
            Some(other) => {
                return Err(Error::malformed(format!(
                    "auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, found '{other}'"
                )));
            }
        };
        Ok(Geometry {
            kernel: pair("kernel_shape", &kernel, is_line, 1)?,
            strides: pair("strides", &strides, is_line, 1)?,
            dilations: pair("dilations", &dilations, is_line, 1)?,
            padding,
            is_line,
        })
    }

    /// With `ceil_mode` a window may begin inside of the image and end outside: as many entries
    /// behind it as the last one needs.
    fn with_ceil(&mut self, step: &Step<'_, '_>, x: ValueId) -> Result<()> {
        let (before, mut after) = match self.padding {
            Padding::Explicit { before, after } => (before, after),
            Padding::Valid => ([0; 2], [0; 2]),
            // The number of windows is that of the strides, whatever the rounding.
            Padding::Same | Padding::SameLower => return Ok(()),
        };
        let dims = step.dims(x)?;
        let sizes = match dims.as_slice() {
            [_, _, width] => [Dim::Known(1), *width],
            [_, _, height, width] => [*height, *width],
            _ => return Err(Error::internal("the rank was checked")),
        };
        for axis in 0..2 {
            if self.strides[axis] <= 1 {
                continue;
            }
            let Dim::Known(size) = sizes[axis] else {
                return Err(Error::unsupported("ceil_mode on an axis whose size is not known"));
            };
            let reach =
                self.kernel[axis].saturating_sub(1).saturating_mul(self.dilations[axis]) + 1;
            let padded = size + before[axis] + after[axis];
            let Some(room) = padded.checked_sub(reach) else { continue };
            let windows = room.div_ceil(self.strides[axis]);
            // The last window begins in the image or in the padding before it.
            let begins_inside = windows * self.strides[axis] < size + before[axis];
            if begins_inside {
                after[axis] += (windows * self.strides[axis]).saturating_sub(room);
            }
        }
        self.padding = Padding::Explicit { before, after };
        Ok(())
    }
}

fn explicit(pads: &[i64], is_line: bool) -> Result<Padding> {
    let (before, after) = pads.split_at(pads.len() / 2);
    Ok(Padding::Explicit {
        before: pair("pads", before, is_line, 0)?,
        after: pair("pads", after, is_line, 0)?,
    })
}

impl Step<'_, '_> {
    /// `[N, C, (h,) w]` to `[N, h, w, C]`.
    fn image(&mut self, x: ValueId, is_line: bool) -> Result<ValueId> {
        if !is_line {
            return self.transpose(x, &[0, 2, 3, 1]);
        }
        let x = self.transpose(x, &[0, 2, 1])?;
        let axis = self.scalar(1);
        self.add(Op::ExpandDims, &[x, axis])
    }

    /// And back.
    fn channels_first(&mut self, x: ValueId, is_line: bool) -> Result<Outputs> {
        let x = if is_line {
            let line = self.add(Op::Squeeze(Squeeze { axes: vec![1] }), &[x])?;
            self.transpose(line, &[0, 2, 1])?
        } else {
            self.transpose(x, &[0, 3, 1, 2])?
        };
        Ok(vec![Some(Val::Tensor(x))])
    }
}

/// X `[N, C, (h,) w]`, W `[M, C/group, (kh,) kw]`, B `[M]`.
pub fn conv(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    let (x, w, b) = (step.tensor(0)?, step.tensor(1)?, step.optional(2)?);
    let dims = step.dims(w)?;
    convolution(step, x, w, &dims, b)
}

/// The convolution of a node; `dims` are those of w.
pub fn convolution(
    step: &mut Step<'_, '_>,
    x: ValueId,
    w: ValueId,
    dims: &[Dim],
    b: Option<ValueId>,
) -> Result<Outputs> {
    let kernel: Option<Vec<i64>> = dims
        .iter()
        .skip(2)
        .map(|dim| dim.known().and_then(|size| i64::try_from(size).ok()))
        .collect();
    let geometry = Geometry::read(step, x, kernel)?;
    let groups = step.attrs.int_or("group", 1)?;
    let groups = usize::try_from(groups)
        .map_err(|_| Error::malformed(format!("group: expected 1 or more, found {groups}")))?;
    let op = Op::Conv2d(Conv2d {
        padding: geometry.padding,
        strides: geometry.strides,
        dilations: geometry.dilations,
        groups,
        ..Conv2d::default()
    });
    let image = step.image(x, geometry.is_line)?;
    let kernel = step.image(w, geometry.is_line)?;
    let mut inputs = vec![Some(image), Some(kernel)];
    inputs.extend(b.map(Some));
    let result = step.add_all(op, inputs, 1)?;
    let result = result.first().copied().ok_or_else(|| Error::internal("no result"))?;
    step.channels_first(result, geometry.is_line)
}

pub fn max_pool(step: &mut Step<'_, '_>) -> Result<Outputs> {
    if step.wants(1) {
        return Err(Error::unsupported("the indices of the largest entries"));
    }
    // It is about the indices.
    step.attrs.int("storage_order")?;
    pool(step, PoolFunction::Maximum)
}

pub fn average_pool(step: &mut Step<'_, '_>) -> Result<Outputs> {
    let count_padding = step.attrs.flag("count_include_pad", false)?;
    pool(step, PoolFunction::Average { count_padding })
}

fn pool(step: &mut Step<'_, '_>, function: PoolFunction) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let mut geometry = Geometry::read(step, x, None)?;
    if step.attrs.flag("ceil_mode", false)? {
        let stated = geometry.padding;
        geometry.with_ceil(step, x)?;
        let counts = function == PoolFunction::Average { count_padding: true };
        if counts && geometry.padding != stated && stated != Padding::Valid {
            return Err(Error::unsupported("ceil_mode with count_include_pad"));
        }
    }
    let op = Op::Pool2d(Pool2d {
        function,
        window: geometry.kernel,
        strides: geometry.strides,
        dilations: geometry.dilations,
        padding: geometry.padding,
        activation: crate::graph::op::Activation::Linear,
    });
    let image = step.image(x, geometry.is_line)?;
    let result = step.add(op, &[image])?;
    step.channels_first(result, geometry.is_line)
}
