//! The structured loop.

use super::super::op::While;
use super::super::types::{Dim, ValueType};
use super::super::{Graph, Port};
use super::{Operands, dims, ty};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The types of the loop variables after the loop.
///
/// The body is not looked into: a size that the body declares to come out as it went in is that of
/// the operand, any other is unknown, because the number of rounds is. The planner, which knows
/// more, goes through the body itself.
pub(super) fn while_loop(body: &While, operands: &Operands<'_>) -> Result<Vec<ValueType>> {
    let count = body.body.inputs.len();
    if body.condition.inputs.len() != count || body.body.outputs.len() != count {
        return Err(Error::graph(format!(
            "expected as many condition inputs and body outputs as body inputs ({count}), found {} and {}",
            body.condition.inputs.len(),
            body.body.outputs.len()
        )));
    }
    let [test] = body.condition.outputs.as_slice() else {
        return Err(Error::graph(format!(
            "condition: expected one output, found {}",
            body.condition.outputs.len()
        )));
    };
    let test = port_type(&body.condition, test)?;
    let single = test
        .shape
        .as_ref()
        .is_none_or(|dims| dims.iter().all(|dim| dim.agrees_with(Dim::Known(1))));
    if test.dtype != DType::Bool || !single {
        return Err(Error::graph(format!(
            "condition: expected a bool scalar, found {} {}",
            test.dtype,
            dims::show(test.shape.as_deref())
        )));
    }
    (0..count).map(|slot| variable(body, operands, slot)).collect()
}

fn variable(body: &While, operands: &Operands<'_>, slot: usize) -> Result<ValueType> {
    let name = format!("loop variable {slot}");
    let operand = operands.get(slot, &name)?;
    let before = port_type(&body.body, &body.body.inputs[slot])?;
    let after = port_type(&body.body, &body.body.outputs[slot])?;
    let tested = port_type(&body.condition, &body.condition.inputs[slot])?;
    for (part, declared) in
        [("body input", before), ("body output", after), ("condition input", tested)]
    {
        let ranks_agree = declared.rank().zip(operand.ty.rank()).is_none_or(|(a, b)| a == b);
        if declared.dtype != operand.dtype() || !ranks_agree {
            return Err(Error::graph(format!(
                "{name}: expected {} {}, {part} is {} {}",
                operand.dtype(),
                dims::show(operand.dims()),
                declared.dtype,
                dims::show(declared.shape.as_deref())
            )));
        }
    }
    let shape = match (operand.dims(), &before.shape, &after.shape) {
        (Some(given), Some(before), Some(after))
            if given.len() == before.len() && given.len() == after.len() =>
        {
            Some(
                given
                    .iter()
                    .zip(before.iter().zip(after))
                    .map(|(&given, (before, after))| {
                        let same = before == after && *before != Dim::Unknown;
                        if same { given } else { Dim::Unknown }
                    })
                    .collect(),
            )
        }
        _ => None,
    };
    Ok(ty(operand.dtype(), shape))
}

fn port_type<'a>(graph: &'a Graph, port: &Port) -> Result<&'a ValueType> {
    graph.get(port.value).map(|value| &value.ty).ok_or_else(|| {
        Error::graph(format!("{:?}: expected a value, found index {}", port.name, port.value.0))
    })
}
