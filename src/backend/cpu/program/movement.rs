//! Ops that only move elements: each is a list of copies between strided regions, worked out once.

use super::slots::Slots;
use crate::error::{Error, Result};
use crate::graph::infer::{AxisRange, resolve};
use crate::graph::op::{Activation, Concat, StridedSlice};
use crate::graph::{Node, ValueId};
use crate::plan::Plan;
use crate::tensor::{DType, Element, Tensor};

/// The ops that only move elements.
pub(super) enum Kind<'a> {
    Transpose,
    Slice,
    StridedSlice(&'a StridedSlice),
    Reverse,
    Concat(&'a Concat),
    /// The new axis.
    Pack(i64),
    /// The axis that is taken apart.
    Unpack(i64),
    Split,
    /// Of f32.
    Pad,
}

/// A node as copies.
pub(super) struct Movement {
    outputs: Vec<(ValueId, DType)>,
    copies: Vec<Copy>,
    /// What is where nothing is copied to.
    background: Option<f32>,
}

/// One region of a source to one region of a result.
struct Copy {
    from: ValueId,
    /// Index into the node's results.
    to: usize,
    region: Region,
}

/// Elements `offset + Σ index·stride` of both sides.
struct Region {
    sizes: Vec<usize>,
    from: (isize, Vec<isize>),
    to: (isize, Vec<isize>),
    /// The running index, kept so that a run allocates nothing.
    index: Vec<usize>,
}

/// Row-major strides.
fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1] as isize;
    }
    strides
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

impl Region {
    fn new(sizes: &[usize], from: (isize, Vec<isize>), to: (isize, Vec<isize>)) -> Region {
        // Neighboring axes that lie as one on both sides become one.
        let mut region = Region {
            sizes: Vec::new(),
            from: (from.0, Vec::new()),
            to: (to.0, Vec::new()),
            index: Vec::new(),
        };
        for (axis, &size) in sizes.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let (f, t) = (from.1[axis], to.1[axis]);
            if let (Some(last), Some(lf), Some(lt)) =
                (region.sizes.last_mut(), region.from.1.last_mut(), region.to.1.last_mut())
                && *lf == f * size as isize
                && *lt == t * size as isize
            {
                (*last, *lf, *lt) = (*last * size, f, t);
            } else {
                region.sizes.push(size);
                region.from.1.push(f);
                region.to.1.push(t);
            }
        }
        region.index = vec![0; region.sizes.len()];
        region
    }

    fn copy<E: Element>(&mut self, source: &[E], result: &mut [E]) -> Result<()> {
        if self.sizes.contains(&0) {
            return Ok(());
        }
        let outside = || Error::internal("a copy past the end of a tensor");
        let inner = self.sizes.len().checked_sub(1);
        let (count, step_from, step_to) =
            inner.map_or((1, 1, 1), |i| (self.sizes[i], self.from.1[i], self.to.1[i]));
        let (mut from, mut to) = (self.from.0, self.to.0);
        self.index.fill(0);
        loop {
            if step_from == 1 && step_to == 1 {
                let source =
                    source.get(from as usize..from as usize + count).ok_or_else(outside)?;
                result
                    .get_mut(to as usize..to as usize + count)
                    .ok_or_else(outside)?
                    .copy_from_slice(source);
            } else {
                for k in 0..count as isize {
                    let element =
                        source.get((from + k * step_from) as usize).ok_or_else(outside)?;
                    *result.get_mut((to + k * step_to) as usize).ok_or_else(outside)? = *element;
                }
            }
            // The next index of the outer axes.
            let mut axis = inner.unwrap_or(0);
            loop {
                if axis == 0 {
                    return Ok(());
                }
                axis -= 1;
                self.index[axis] += 1;
                from += self.from.1[axis];
                to += self.to.1[axis];
                if self.index[axis] < self.sizes[axis] {
                    break;
                }
                self.index[axis] = 0;
                from -= self.from.1[axis] * self.sizes[axis] as isize;
                to -= self.to.1[axis] * self.sizes[axis] as isize;
            }
        }
    }
}

/// What the copies of a node are made from.
struct Shapes<'a> {
    plan: &'a Plan,
    node: &'a Node,
}

impl<'a> Shapes<'a> {
    fn input(&self, slot: usize) -> Option<(ValueId, &'a [usize])> {
        let id = self.node.input(slot)?;
        Some((id, self.plan.shape(id)?))
    }

    fn output(&self, slot: usize) -> Option<&'a [usize]> {
        self.plan.shape(self.node.output(slot)?)
    }

    fn known(&self, slot: usize) -> Option<Vec<i64>> {
        self.plan.known(self.node.input(slot)?)?.to_i64().ok()
    }

    /// The whole result from x seen with other strides.
    fn seen_as(&self, offset: isize, view: Vec<isize>) -> Option<Vec<Copy>> {
        let ((from, _), shape) = (self.input(0)?, self.output(0)?);
        let region = Region::new(shape, (offset, view), (0, strides(shape)));
        Some(vec![Copy { from, to: 0, region }])
    }

    fn transpose(&self) -> Option<Vec<Copy>> {
        let (_, shape) = self.input(0)?;
        let all = strides(shape);
        let view = self
            .known(1)?
            .iter()
            .map(|&axis| all.get(axis_of(axis, shape.len())?).copied())
            .collect::<Option<_>>()?;
        self.seen_as(0, view)
    }

    fn slice(&self) -> Option<Vec<Copy>> {
        let (_, shape) = self.input(0)?;
        let all = strides(shape);
        let offset =
            self.known(1)?.iter().zip(&all).map(|(&begin, stride)| begin as isize * stride).sum();
        self.seen_as(offset, all)
    }

    fn strided_slice(&self, options: &StridedSlice) -> Option<Vec<Copy>> {
        let (_, shape) = self.input(0)?;
        let (begin, end, steps) = (self.known(1)?, self.known(2)?, self.known(3)?);
        let ranges = resolve(options, shape, &begin, &end, &steps).ok()?;
        let all = strides(shape);
        let (mut offset, mut view, mut axis) = (0, Vec::new(), 0);
        for range in ranges {
            match range {
                AxisRange::New => view.push(0),
                AxisRange::Keep { start, stride, .. } => {
                    offset += start as isize * all.get(axis)?;
                    view.push(stride as isize * all.get(axis)?);
                    axis += 1;
                }
                AxisRange::Take { index } => {
                    offset += index as isize * all.get(axis)?;
                    axis += 1;
                }
            }
        }
        self.seen_as(offset, view)
    }

    fn reverse(&self) -> Option<Vec<Copy>> {
        let (_, shape) = self.input(0)?;
        let (mut view, mut offset) = (strides(shape), 0);
        for axis in self.known(1)? {
            let axis = axis_of(axis, shape.len())?;
            offset += view[axis] * (shape[axis] as isize - 1).max(0);
            view[axis] = -view[axis];
        }
        self.seen_as(offset, view)
    }

    fn concat(&self, concat: &Concat) -> Option<Vec<Copy>> {
        if concat.activation != Activation::Linear {
            return None;
        }
        let shape = self.output(0)?;
        let axis = axis_of(concat.axis, shape.len())?;
        let to = strides(shape);
        let mut at = 0;
        (0..self.node.inputs.len())
            .map(|slot| {
                let (from, part) = self.input(slot)?;
                let region = Region::new(part, (0, strides(part)), (at * to[axis], to.clone()));
                at += *part.get(axis)? as isize;
                Some(Copy { from, to: 0, region })
            })
            .collect()
    }

    fn pack(&self, axis: i64) -> Option<Vec<Copy>> {
        let shape = self.output(0)?;
        let axis = axis_of(axis, shape.len())?;
        let mut to = strides(shape);
        let step = to.remove(axis);
        (0..self.node.inputs.len())
            .map(|slot| {
                let (from, part) = self.input(slot)?;
                let region =
                    Region::new(part, (0, strides(part)), (slot as isize * step, to.clone()));
                Some(Copy { from, to: 0, region })
            })
            .collect()
    }

    /// x in the middle of the result.
    fn pad(&self) -> Option<Vec<Copy>> {
        let ((from, part), shape) = (self.input(0)?, self.output(0)?);
        let to = strides(shape);
        let before = self.known(1)?;
        let offset =
            before.iter().step_by(2).zip(&to).map(|(&n, stride)| n as isize * stride).sum();
        let region = Region::new(part, (0, strides(part)), (offset, to));
        Some(vec![Copy { from, to: 0, region }])
    }

    /// What a padding consists of: the third operand, or zero; of f32 only, because other types may
    /// have a zero point.
    fn padding(&self) -> Option<f32> {
        let (x, _) = self.input(0)?;
        if self.plan.graph.get(x)?.ty.dtype != DType::F32 {
            return None;
        }
        match self.node.input(2) {
            None => Some(0.0),
            Some(value) => self.plan.known(value)?.to_f32().first().copied(),
        }
    }

    /// A copy for each result, of `size(slot)` entries of the axis each; unpack drops the axis.
    fn parts(&self, axis: i64, drop: bool) -> Option<Vec<Copy>> {
        let (from, shape) = self.input(0)?;
        let axis = axis_of(axis, shape.len())?;
        let mut view = strides(shape);
        let step = view[axis];
        if drop {
            view.remove(axis);
        }
        let mut at = 0;
        let mut copies = Vec::new();
        for slot in 0..self.node.outputs.len() {
            // A part that nobody wants still has to be known in size.
            let part = self.output(slot)?;
            let region = Region::new(part, (at * step, view.clone()), (0, strides(part)));
            at += if drop { 1 } else { part[axis] as isize };
            copies.push(Copy { from, to: slot, region });
        }
        Some(copies)
    }
}

impl Movement {
    /// The copies of a node whose shapes and parameters are all known; `None` for other nodes.
    pub fn new(kind: &Kind<'_>, plan: &Plan, node: &Node) -> Option<Movement> {
        let shapes = Shapes { plan, node };
        let copies = match *kind {
            Kind::Transpose => shapes.transpose()?,
            Kind::Slice => shapes.slice()?,
            Kind::StridedSlice(options) => shapes.strided_slice(options)?,
            Kind::Reverse => shapes.reverse()?,
            Kind::Concat(concat) => shapes.concat(concat)?,
            Kind::Pack(axis) => shapes.pack(axis)?,
            Kind::Unpack(axis) => shapes.parts(axis, true)?,
            Kind::Split => shapes.parts(*shapes.known(1)?.first()?, false)?,
            Kind::Pad => shapes.pad()?,
        };
        let background = match *kind {
            Kind::Pad => Some(shapes.padding()?),
            Kind::Transpose
            | Kind::Slice
            | Kind::StridedSlice(_)
            | Kind::Reverse
            | Kind::Concat(_)
            | Kind::Pack(_)
            | Kind::Unpack(_)
            | Kind::Split => None,
        };
        let typed = |id: ValueId| Some((id, plan.graph.get(id)?.ty.dtype));
        let outputs: Vec<(ValueId, DType)> =
            node.outputs.iter().map(|id| id.and_then(typed)).collect::<Option<_>>()?;
        let same = copies
            .iter()
            .all(|copy| typed(copy.from).map(|t| t.1) == outputs.get(copy.to).map(|t| t.1));
        same.then_some(Movement { outputs, copies, background })
    }

    pub fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        for copy in &mut self.copies {
            let Some((id, dtype)) = self.outputs.get(copy.to).copied() else { continue };
            let background = self.background;
            slots.with_taken(id, |slots, to| {
                if let Some(background) = background {
                    to.as_mut_slice::<f32>()?.fill(background);
                }
                let from = slots.read(copy.from, inputs, states)?;
                macro_rules! copy {
                    ($($dtype:ident $ty:ty),*) => {
                        match dtype { $(DType::$dtype => copy.region.copy::<$ty>(from.as_slice()?, to.as_mut_slice()?),)* }
                    };
                }
                copy!(F32 f32, F64 f64, F16 half::f16, I8 i8, U8 u8, I16 i16, I32 i32, I64 i64, Bool bool)
            })?;
        }
        Ok(())
    }
}
