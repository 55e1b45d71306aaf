//! Lists of tensors (TensorArray of old graphs, TensorList of new ones) as dense tensors
//! `[n, item…]`.
//!
//! A TensorArray is a handle and a *flow*; every write takes the flow and returns the next one, so
//! the flow is what carries the contents here. A list that is only reserved becomes zeros as soon
//! as the shape of its items is known.

use super::step::{Growth, Items, List, Step, Val};
use super::tensor;
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction, Concat, Gather, Pack, StridedSlice};
use crate::graph::{Dim, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    Ok(Some(match step.node.op.as_str() {
        "TensorListReserve" => reserve(step)?,
        "EmptyTensorList" => empty(step)?,
        "TensorListPushBack" => push(step)?,
        "TensorListFromTensor" => {
            let items = step.tensor(0)?;
            vec![from_tensor(step, items, None)?]
        }
        "TensorListStack" => {
            let list = list(step, 0)?;
            let items = tensor_of(step, &list)?;
            let dims = item_dims(step, 1)?;
            vec![Val::Tensor(refine_items(step, items, dims)?)]
        }
        "TensorListGetItem" => read(step, 0, 1, 2)?,
        "TensorListGather" => {
            let list = list(step, 0)?;
            vec![gather(step, &list, 1)?]
        }
        "TensorListSetItem" => {
            let grows = step.node.is(super::growth::RESIZE)?;
            write(step, (0, 1, 2), grows)?
        }
        "TensorListLength" => vec![Val::Tensor(length(step, 0)?)],
        "TensorListScatter" | "TensorListScatterV2" => {
            let items = step.tensor(0)?;
            vec![scatter(step, items, 1)?]
        }
        "TensorListScatterIntoExistingList" => {
            let items = step.tensor(1)?;
            vec![scatter(step, items, 2)?]
        }
        "TensorArrayV3" => array(step)?,
        "TensorArrayReadV3" => read(step, 2, 1, 3)?,
        "TensorArrayWriteV3" => write(step, (3, 1, 2), false)?,
        "TensorArrayGatherV3" => {
            let list = list(step, 2)?;
            vec![gather(step, &list, 1)?]
        }
        "TensorArrayScatterV3" => {
            let items = step.tensor(2)?;
            vec![scatter(step, items, 1)?]
        }
        "TensorArraySizeV3" => vec![Val::Tensor(length(step, 1)?)],
        _ => return Ok(None),
    }))
}

/// The type of the tensor behind a list.
pub fn ty(builder: &super::build::Builder, list: &List) -> Result<ValueType> {
    if let Items::Tensor(id) = list.items {
        return Ok(builder.ty(id)?.clone());
    }
    let Some(item) = &list.item else { return Ok(ValueType::unranked(list.dtype)) };
    let first = match list.length.and_then(|id| builder.sizes(id)).as_deref() {
        Some([super::build::Size::Known(n)]) => {
            usize::try_from(*n).map_or(Dim::Unknown, Dim::Known)
        }
        Some([super::build::Size::Axis(dim)]) => *dim,
        _ => Dim::Unknown,
    };
    let dims = item.iter().map(|dim| dim.map_or(Dim::Unknown, Dim::Known));
    Ok(ValueType::symbolic(list.dtype, std::iter::once(first).chain(dims).collect()))
}

/// `[n, dims…]` of zeros.
pub fn zeros(step: &mut Step<'_, '_>, list: &List, dims: &[usize]) -> Result<ValueId> {
    let dims: Vec<i32> = dims.iter().map(|&n| i32::try_from(n).unwrap_or(i32::MAX)).collect();
    let item = step.vector(&dims)?;
    fill(step, list, item)
}

/// `[n, item…]` of zeros, items shaped as `like`.
pub fn zeros_like(step: &mut Step<'_, '_>, list: &List, like: ValueId) -> Result<ValueId> {
    let item = step.add(Op::Shape(DType::I32), &[like])?;
    fill(step, list, item)
}

fn fill(step: &mut Step<'_, '_>, list: &List, item: ValueId) -> Result<ValueId> {
    let length = list
        .length
        .ok_or_else(|| Error::unsupported("the length of a reserved list is not known"))?;
    let length = step.as_i32(length)?;
    let axis = step.scalar(0);
    let length = step.add(Op::ExpandDims, &[length, axis])?;
    let concat = Concat { axis: 0, activation: crate::graph::op::Activation::Linear };
    let shape = step.add(Op::Concat(concat), &[length, item])?;
    let zero = Tensor::zeros(list.dtype, &[])?;
    let zero = step.builder.constant_value(&step.node.name, zero);
    step.add(Op::Fill, &[shape, zero])
}

fn reserve(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let item = item_dims(step, 0)?;
    let length = step.tensor(1)?;
    let dtype = step.node.dtype("element_dtype")?;
    Ok(vec![Val::List(List {
        items: Items::Reserved,
        length: Some(length),
        dtype,
        item,
        growth: Growth::ByWrite,
    })])
}

fn array(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let growth = if step.node.is("dynamic_size")? { Growth::Grows } else { Growth::ByWrite };
    let item = match step.node.shape("element_shape")? {
        Some(shape) => tensor::dims(shape)?,
        None => None,
    };
    let length = step.tensor(0)?;
    let dtype = step.node.dtype("dtype")?;
    Ok(vec![
        Val::Handle,
        Val::List(List { items: Items::Reserved, length: Some(length), dtype, item, growth }),
    ])
}

/// An operand that must be a list.
fn list(step: &Step<'_, '_>, position: usize) -> Result<List> {
    match step.inputs.get(position) {
        Some(Val::List(list)) => Ok(list.clone()),
        Some(Val::Opaque(why)) => Err(Error::unsupported(why.clone())),
        Some(_) => Err(Error::malformed(format!("input {position} is no list of tensors"))),
        None => Err(Error::malformed(format!(
            "input {position} is missing: the node has {}",
            step.inputs.len()
        ))),
    }
}

/// Item shape from an operand: a vector, or the scalar −1 for an unknown rank.
fn item_dims(step: &Step<'_, '_>, position: usize) -> Result<Option<Vec<Option<usize>>>> {
    let id = step.tensor(position)?;
    if step.builder.ty(id)?.rank() != Some(1) {
        return Ok(None);
    }
    let Some(sizes) = step.builder.sizes(id) else { return Ok(None) };
    let size = |size| match size {
        super::build::Size::Known(n) => usize::try_from(n).ok(),
        super::build::Size::Axis(dim) => dim.known(),
    };
    Ok(Some(sizes.into_iter().map(size).collect()))
}

/// The tensor behind a list.
fn tensor_of(step: &mut Step<'_, '_>, list: &List) -> Result<ValueId> {
    if let Items::Tensor(id) = list.items {
        return Ok(id);
    }
    match list.item.as_ref().and_then(|item| item.iter().copied().collect::<Option<Vec<_>>>()) {
        Some(dims) => zeros(step, list, &dims),
        None => Err(Error::unsupported(
            "a list is read that was never written, and the shape of its items is open",
        )),
    }
}

fn from_tensor(step: &mut Step<'_, '_>, items: ValueId, length: Option<ValueId>) -> Result<Val> {
    let dtype = step.builder.ty(items)?.dtype;
    Ok(Val::List(List {
        items: Items::Tensor(items),
        length,
        dtype,
        item: None,
        growth: Growth::ByWrite,
    }))
}

/// One item; `shape`: position of the operand that declares its shape, when there is one.
fn read(step: &mut Step<'_, '_>, from: usize, index: usize, shape: usize) -> Result<Vec<Val>> {
    let list = list(step, from)?;
    let mut index = step.tensor(index)?;
    let items = tensor_of(step, &list)?;
    if step.node.branch || step.context.branches > 0 {
        index = inside(step, items, index)?;
    }
    let item = step.add(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[items, index])?;
    if shape < step.inputs.len()
        && let Some(dims) = item_dims(step, shape)?
    {
        step.builder.refine(item, &dims)?;
    }
    Ok(vec![Val::Tensor(item)])
}

/// The index, or the nearest one that the list has: both branches of a conditional are computed,
/// and the one that is not taken may read past the end.
fn inside(step: &mut Step<'_, '_>, items: ValueId, index: ValueId) -> Result<ValueId> {
    let count = length_of(step, items)?;
    let (zero, one) = (step.scalar(0), step.scalar(1));
    let index = step.as_i32(index)?;
    let function = super::elementwise::function_op;
    let last = step.add(function(BinaryFunction::Sub), &[count, one])?;
    let index = step.add(function(BinaryFunction::Minimum), &[index, last])?;
    step.add(function(BinaryFunction::Maximum), &[index, zero])
}

/// An empty list; it grows by items at its end.
fn empty(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let item = item_dims(step, 0)?;
    let length = step.scalar(0);
    let dtype = step.node.dtype("element_dtype")?;
    Ok(vec![Val::List(List {
        items: Items::Reserved,
        length: Some(length),
        dtype,
        item,
        growth: Growth::ByWrite,
    })])
}

/// The list with one more item.
fn push(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let list = list(step, 0)?;
    let item = step.tensor(1)?;
    let items = match list.items {
        Items::Tensor(id) => id,
        Items::Reserved => zeros_like(step, &list, item)?,
    };
    let axis = step.scalar(0);
    let item = step.add(Op::ExpandDims, &[item, axis])?;
    let concat = Concat { axis: 0, activation: crate::graph::op::Activation::Linear };
    let items = step.add(Op::Concat(concat), &[items, item])?;
    Ok(vec![Val::List(List { items: Items::Tensor(items), length: None, ..list })])
}

/// Writes an item; `into`, `index` and `item` are positions of operands.
fn write(
    step: &mut Step<'_, '_>,
    (into, index, item): (usize, usize, usize),
    grows: bool,
) -> Result<Vec<Val>> {
    let list = list(step, into)?;
    let (index, item) = (step.tensor(index)?, step.tensor(item)?);
    let grows = match list.growth {
        Growth::ByWrite => grows,
        Growth::Grows => true,
        Growth::Preset => false,
    };
    let mut items = match list.items {
        Items::Tensor(id) => id,
        Items::Reserved => zeros_like(step, &list, item)?,
    };
    let mut length = list.length;
    if grows && !is_inside(step, items, index)? {
        items = longer(step, items, index, item)?;
        length = None;
    }
    let items = step.add(Op::SetItem, &[items, index, item])?;
    Ok(vec![Val::List(List { items: Items::Tensor(items), length, ..list })])
}

/// Whether a constant index certainly lies in the list.
fn is_inside(step: &Step<'_, '_>, items: ValueId, index: ValueId) -> Result<bool> {
    let first = step.builder.ty(items)?.shape.as_ref().and_then(|shape| shape.first()?.known());
    Ok(match (first, step.builder.integers(index)?.as_deref()) {
        (Some(count), Some(&[index])) => usize::try_from(index).is_ok_and(|index| index < count),
        _ => false,
    })
}

/// The list with zeros behind its end, up to `index`.
fn longer(
    step: &mut Step<'_, '_>,
    items: ValueId,
    index: ValueId,
    item: ValueId,
) -> Result<ValueId> {
    let rank = step.rank(item)? + 1;
    let count = length_of(step, items)?;
    let (zero, one) = (step.scalar(0), step.scalar(1));
    let index = step.as_i32(index)?;
    let function = super::elementwise::function_op;
    let needed = step.add(function(BinaryFunction::Add), &[index, one])?;
    let missing = step.add(function(BinaryFunction::Sub), &[needed, count])?;
    let missing = step.add(function(BinaryFunction::Maximum), &[missing, zero])?;
    let behind = step.add(Op::Pack(Pack { axis: 0 }), &[zero, missing])?;
    let rest = Tensor::zeros(DType::I32, &[rank - 1, 2])?;
    let rest = step.builder.constant_value(&step.node.name, rest);
    let axis = step.scalar(0);
    let behind = step.add(Op::ExpandDims, &[behind, axis])?;
    let concat = Concat { axis: 0, activation: crate::graph::op::Activation::Linear };
    let padding = step.add(Op::Concat(concat), &[behind, rest])?;
    step.add(Op::Pad, &[items, padding])
}

/// Items by indices; the whole list as it is when the indices are all of its own.
fn gather(step: &mut Step<'_, '_>, list: &List, indices: usize) -> Result<Val> {
    let indices = step.tensor(indices)?;
    let items = tensor_of(step, list)?;
    let whole = match step.builder.counts.get(&indices) {
        Some(limit) => list.length == Some(*limit) || step.builder.has_length(items, *limit),
        None => match (step.builder.integers(indices)?, step.builder.ty(items)?.shape.as_deref()) {
            (Some(indices), Some([Dim::Known(n), ..])) => indices.iter().copied().eq(0..*n as i64),
            _ => false,
        },
    };
    if whole {
        return Ok(Val::Tensor(items));
    }
    Ok(Val::Tensor(step.add(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[items, indices])?))
}

/// A list from all of its items in order. (TensorFlow checks that there are as many indices as
/// items.)
fn scatter(step: &mut Step<'_, '_>, items: ValueId, indices: usize) -> Result<Val> {
    let indices = step.tensor(indices)?;
    let in_order = step.builder.counts.contains_key(&indices)
        || step
            .builder
            .integers(indices)?
            .is_some_and(|indices| indices.iter().copied().eq(0..indices.len() as i64));
    if !in_order {
        return Err(Error::unsupported(
            "items are put into a list in another order than 0, 1, 2, …",
        ));
    }
    from_tensor(step, items, None)
}

fn length(step: &mut Step<'_, '_>, position: usize) -> Result<ValueId> {
    let list = list(step, position)?;
    if let Some(length) = list.length {
        return step.as_i32(length);
    }
    let items = tensor_of(step, &list)?;
    length_of(step, items)
}

/// The size of the first axis, a scalar.
fn length_of(step: &mut Step<'_, '_>, items: ValueId) -> Result<ValueId> {
    let shape = step.add(Op::Shape(DType::I32), &[items])?;
    let (begin, end, stride) = (step.vector(&[0])?, step.vector(&[1])?, step.vector(&[1])?);
    let slice = StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() };
    step.add(Op::StridedSlice(slice), &[shape, begin, end, stride])
}

/// Says what is declared of the items of a list.
fn refine_items(
    step: &mut Step<'_, '_>,
    items: ValueId,
    dims: Option<Vec<Option<usize>>>,
) -> Result<ValueId> {
    if let Some(dims) = dims {
        let all: Vec<Option<usize>> = std::iter::once(None).chain(dims).collect();
        step.builder.refine(items, &all)?;
    }
    Ok(items)
}
