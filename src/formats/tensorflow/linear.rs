//! Matrix products and convolutions.

use super::step::{Step, Val};
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::graph::op::{Conv2d, MatMul, Padding};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "MatMul" => product(step, "transpose_a", "transpose_b"),
        "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" => product(step, "adj_x", "adj_y"),
        "Conv2D" => conv2d(step),
        "Einsum" => einsum(step),
        _ => Ok(None),
    }
}

fn product(
    step: &mut Step<'_, '_>,
    transpose_a: &str,
    transpose_b: &str,
) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let (a, b) = (step.tensor(0)?, step.tensor(1)?);
    let op = MatMul {
        transpose_a: step.node.is(transpose_a)?,
        transpose_b: step.node.is(transpose_b)?,
        asymmetric_inputs: false,
    };
    step.one(Op::MatMul(op), &[a, b])
}

/// TensorFlow's filter is `[kh, kw, I, O]`, ours `[O, kh, kw, I]`.
fn conv2d(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let (x, filter) = (step.tensor(0)?, step.tensor(1)?);
    let format = step.node.text("data_format")?.unwrap_or("NHWC");
    if format != "NHWC" {
        return Err(Error::unsupported(format!(
            "the data format {format}: channels must stand last"
        )));
    }
    let padding = match step.node.text("padding")? {
        Some("SAME") => Padding::Same,
        Some("VALID") => Padding::Valid,
        other => {
            return Err(Error::unsupported(format!("the padding {other:?}: only SAME and VALID")));
        }
    };
    let conv = Conv2d {
        padding,
        strides: window(step, "strides")?,
        dilations: window(step, "dilations")?,
        ..Conv2d::default()
    };
    let order = step.vector(&[3, 0, 1, 2])?;
    let filter = step.add(Op::Transpose, &[filter, order])?;
    step.one(Op::Conv2d(conv), &[x, filter])
}

/// Height and width of a four-entry attribute, 1 when it is absent.
fn window(step: &Step<'_, '_>, attr: &str) -> Result<[usize; 2]> {
    let list = step.node.list(attr)?.map_or(&[][..], |list| list.i.as_slice());
    let size = |size: i64| {
        usize::try_from(size)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| Error::malformed(format!("attribute '{attr}' has the entry {size}")))
    };
    match *list {
        [] => Ok([1, 1]),
        [1, height, width, 1] => Ok([size(height)?, size(width)?]),
        _ => Err(Error::unsupported(format!(
            "attribute '{attr}' is {list:?}: only height and width may differ from 1"
        ))),
    }
}

/// The forms of a dense layer: the last axis of `x` against one axis of a matrix.
fn einsum(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let (x, y) = (step.tensor(0)?, step.tensor(1)?);
    let equation = step.node.text("equation")?.unwrap_or_default().replace(' ', "");
    let dense = || -> Option<bool> {
        let (operands, result) = equation.split_once("->")?;
        let (left, right) = operands.split_once(',')?;
        let contracted = left.chars().last()?;
        let kept = &left[..left.len() - contracted.len_utf8()];
        let mut axes = right.chars();
        let (first, second) = (axes.next()?, axes.next()?);
        let plain = axes.next().is_none()
            && first != second
            && !kept.contains([first, second])
            && kept.is_ascii();
        let (free, transposed) = if first == contracted { (second, false) } else { (first, true) };
        let fits =
            plain && (!transposed || second == contracted) && result == format!("{kept}{free}");
        fits.then_some(transposed)
    };
    let Some(transpose_b) = dense() else {
        return Err(Error::unsupported(format!(
            "the einsum '{equation}': only forms of a dense layer, as abc,cd->abd"
        )));
    };
    let op = MatMul { transpose_a: false, transpose_b, asymmetric_inputs: false };
    step.one(Op::MatMul(op), &[x, y])
}
