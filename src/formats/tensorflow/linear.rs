//! Matrix products.

use super::step::{Step, Val};
use crate::error::{Error, Result};
use crate::formats::einsum::{self, Sink};
use crate::graph::op::MatMul;
use crate::graph::{Op, ValueId, ValueType};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "MatMul" => product(step, "transpose_a", "transpose_b"),
        "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" => product(step, "adj_x", "adj_y"),
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
    // Version 3 may widen the type; here a product has the type of its operands.
    if let Some(&number) = step.node.type_number("Tout")?
        && super::tensor::dtype(number)? != step.builder.ty(a)?.dtype
    {
        return Err(Error::unsupported("the attribute 'Tout' is another type than the operands'"));
    }
    step.one(Op::MatMul(op), &[a, b])
}

/// Where an einsum puts its nodes.
struct Nodes<'a, 's, 'c>(&'a mut Step<'s, 'c>);

impl Sink for Nodes<'_, '_, '_> {
    fn ty(&self, id: ValueId) -> Result<ValueType> {
        self.0.builder.ty(id).cloned()
    }

    fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.0.add(op, inputs)
    }

    fn vector(&mut self, values: &[i32]) -> Result<ValueId> {
        self.0.vector(values)
    }
}

fn einsum(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    let equation = step.node.text("equation")?.unwrap_or_default().to_owned();
    let operands = step.tensors()?;
    let y = einsum::lower(&mut Nodes(step), &equation, &operands)?;
    Ok(Some(vec![Val::Tensor(y)]))
}
