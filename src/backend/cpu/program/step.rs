//! One step of a program: which kernel computes a node.

use super::dense::{self, Dense};
use super::elementwise::{self, Elementwise};
use super::indexed::{self, Indexed};
use super::movement::{self, Movement};
use super::recurrent::RecurrentStep;
use super::slots::Slots;
use super::windowed::{self, Windowed};
use super::with_shape;
use crate::backend::cpu::Resources;
use crate::backend::cpu::simd::Pool;
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::graph::recurrent::Arithmetic;
use crate::graph::{Node, Op, ValueId, ValueType};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// A node with the kernel that computes it.
pub(super) enum Step {
    /// A recurrent layer.
    Recurrent(Box<RecurrentStep>),
    /// A product with constant weights.
    Dense(Box<Dense>),
    /// Copies between strided regions.
    Movement(Movement),
    /// Element-wise, softmax, sums.
    Elementwise(Elementwise),
    /// Elements that are picked at run time.
    Indexed(Indexed),
    /// Pools and convolutions in groups.
    Windowed(Box<Windowed>),
    /// By the equations as written: rare ops, types other than f32, shapes that depend on data.
    Evaluate(Box<Evaluate>),
}

impl Step {
    /// The step of a node; `None` when there is nothing to do at run time.
    pub fn new(
        plan: &Plan,
        node: &Node,
        slots: &mut Slots,
        resources: &Resources<'_>,
    ) -> Result<Option<Step>> {
        let wanted = |id: &ValueId| {
            plan.values
                .get(id.index())
                .is_some_and(|v| v.kept || v.last_use.is_some() || v.shape.is_some())
        };
        let node = &Node {
            outputs: node.outputs.iter().map(|id| id.filter(wanted)).collect(),
            ..node.clone()
        };
        let planned =
            node.inputs.iter().chain(&node.outputs).flatten().all(|&id| plan.shape(id).is_some());
        if planned
            && is_view(&node.op)
            && let (Some(Some(from)), [Some(to)]) = (node.inputs.first(), node.outputs.as_slice())
        {
            slots.alias(*to, *from);
            return Ok(None);
        }
        for id in node.outputs.iter().flatten() {
            slots.allocate(*id, plan)?;
        }
        let native = if planned { Step::native(plan, node, resources)? } else { None };
        if native.is_some() {
            return Ok(native);
        }
        if let Op::Custom(custom) = &node.op {
            return Err(Error::unsupported(format!(
                "the op `{}` is known by name only",
                custom.name
            )));
        }
        Ok(Some(Step::Evaluate(Box::new(Evaluate::new(plan, node)?))))
    }

    /// The kernel of this backend for a node of known shapes; `None` when it has none.
    fn native(plan: &Plan, node: &Node, resources: &Resources<'_>) -> Result<Option<Step>> {
        let dense = |kind: dense::Kind<'_>| {
            Ok(Dense::new(&kind, plan, node, resources)?.map(|dense| Step::Dense(Box::new(dense))))
        };
        let movement =
            |kind: movement::Kind<'_>| Ok(Movement::new(&kind, plan, node).map(Step::Movement));
        let elementwise = |kind: elementwise::Kind<'_>| {
            Ok(Elementwise::new(&kind, plan, node, resources.kernels).map(Step::Elementwise))
        };
        let indexed =
            |kind: indexed::Kind<'_>| Ok(Indexed::new(&kind, plan, node).map(Step::Indexed));
        let windowed = |kind: windowed::Kind<'_>| {
            let step = Windowed::new(&kind, plan, node, resources.kernels)?;
            Ok(step.map(|step| Step::Windowed(Box::new(step))))
        };
        match &node.op {
            Op::Recurrent(op) => match op.arithmetic {
                Arithmetic::Float | Arithmetic::Hybrid { .. } => Ok(Some(Step::Recurrent(
                    Box::new(RecurrentStep::new(op, plan, node, resources)?),
                ))),
                Arithmetic::Integer(_) | Arithmetic::IntegerBasic { .. } => Ok(None),
            },
            Op::FullyConnected(options) => dense(dense::Kind::FullyConnected(options)),
            Op::MatMul(options) => dense(dense::Kind::MatMul(options)),
            Op::Conv2d(options) if options.groups == 1 => dense(dense::Kind::Conv2d(options)),
            Op::Conv2d(options) => windowed(windowed::Kind::Conv2d(options)),
            Op::Pool2d(options) => windowed(windowed::Kind::Pool2d(options)),
            Op::Transpose => movement(movement::Kind::Transpose),
            Op::Slice => movement(movement::Kind::Slice),
            Op::StridedSlice(options) => movement(movement::Kind::StridedSlice(options)),
            Op::Reverse => movement(movement::Kind::Reverse),
            Op::Concat(concat) => movement(movement::Kind::Concat(concat)),
            Op::Pack(pack) => movement(movement::Kind::Pack(pack.axis)),
            Op::Unpack(unpack) => movement(movement::Kind::Unpack(unpack.axis)),
            Op::Split => movement(movement::Kind::Split),
            Op::Pad => movement(movement::Kind::Pad),
            Op::Gather(options) => indexed(indexed::Kind::Gather(options)),
            Op::ReverseSequence(options) => indexed(indexed::Kind::ReverseSequence(options)),
            Op::Select => indexed(indexed::Kind::Select),
            Op::Activation(activation) => elementwise(elementwise::Kind::Activation(*activation)),
            Op::Unary(function) => elementwise(elementwise::Kind::Unary(*function)),
            Op::Binary(binary) => elementwise(elementwise::Kind::Binary(binary)),
            Op::Softmax(options) => elementwise(elementwise::Kind::Softmax(*options)),
            Op::Reduce(reduce) => elementwise(elementwise::Kind::Reduce(reduce)),
            Op::Reshape
            | Op::Squeeze(_)
            | Op::ExpandDims
            | Op::Svdf(_)
            | Op::ArgMax(_)
            | Op::Cast(_)
            | Op::Quantize
            | Op::Dequantize
            | Op::Shape(_)
            | Op::Fill
            | Op::Range
            | Op::Tile
            | Op::BroadcastTo
            | Op::SetItem
            | Op::While(_)
            | Op::Custom(_) => Ok(None),
        }
    }

    /// Computes the node.
    pub fn run(
        &mut self,
        slots: &mut Slots,
        pool: Option<&Pool>,
        inputs: &[Tensor],
        states: &[Tensor],
    ) -> Result<()> {
        match self {
            Step::Recurrent(step) => step.run(slots, pool, inputs, states),
            Step::Dense(step) => step.run(slots, inputs, states),
            Step::Movement(step) => step.run(slots, inputs, states),
            Step::Elementwise(step) => step.run(slots, inputs, states),
            Step::Indexed(step) => step.run(slots, inputs, states),
            Step::Windowed(step) => step.run(slots, inputs, states),
            Step::Evaluate(step) => step.run(slots, inputs, states),
        }
    }

    /// Whether there is work for more than one thread.
    pub fn is_shared_out(&self) -> bool {
        match self {
            Step::Recurrent(step) => step.is_shared_out(),
            Step::Dense(_)
            | Step::Movement(_)
            | Step::Elementwise(_)
            | Step::Indexed(_)
            | Step::Windowed(_)
            | Step::Evaluate(_) => false,
        }
    }

    /// What a user may want to know about the choice.
    pub fn note(&self) -> Option<String> {
        match self {
            Step::Recurrent(step) => Some(step.note()),
            Step::Dense(_)
            | Step::Movement(_)
            | Step::Elementwise(_)
            | Step::Indexed(_)
            | Step::Windowed(_) => None,
            Step::Evaluate(step) => step.note(),
        }
    }
}

/// Ops that only see the same elements under another shape.
fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape | Op::Squeeze(_) | Op::ExpandDims)
}

/// A node computed by [`evaluate`].
pub(super) struct Evaluate {
    op: Op,
    inputs: Vec<Option<(ValueId, ValueType)>>,
    outputs: Vec<Option<(ValueId, ValueType)>>,
}

impl Evaluate {
    fn new(plan: &Plan, node: &Node) -> Result<Evaluate> {
        let typed = |ids: &[Option<ValueId>]| -> Result<Vec<Option<(ValueId, ValueType)>>> {
            ids.iter()
                .map(|id| {
                    id.map(|id| match plan.graph.get(id) {
                        Some(value) => Ok((id, value.ty.clone())),
                        None => Err(Error::internal("a node speaks of a value that is not there")),
                    })
                    .transpose()
                })
                .collect()
        };
        Ok(Evaluate {
            op: node.op.clone(),
            inputs: typed(&node.inputs)?,
            outputs: typed(&node.outputs)?,
        })
    }

    fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let read = |(id, _): &(ValueId, ValueType)| {
            with_shape(slots.read(*id, inputs, states)?, slots.shape(*id))
        };
        let tensors: Vec<Option<Tensor>> = self
            .inputs
            .iter()
            .map(|slot| slot.as_ref().map(read).transpose())
            .collect::<Result<_>>()?;
        let operands: Vec<Option<(&Tensor, &ValueType)>> = tensors
            .iter()
            .zip(&self.inputs)
            .map(|(tensor, slot)| Some((tensor.as_ref()?, &slot.as_ref()?.1)))
            .collect();
        let wanted: Vec<Option<&ValueType>> =
            self.outputs.iter().map(|slot| slot.as_ref().map(|(_, ty)| ty)).collect();
        let results = evaluate(&self.op, &operands, &wanted)?;
        for (slot, result) in self.outputs.iter().zip(results) {
            if let (Some((id, _)), Some(tensor)) = (slot, result) {
                slots.put(*id, tensor);
                crate::limits::check_live(slots.live())?;
            }
        }
        Ok(())
    }

    fn note(&self) -> Option<String> {
        matches!(self.op, Op::While(_) | Op::Recurrent(_))
            .then(|| "computed by the reference equations".to_owned())
    }
}
