//! A branch that is chosen when the model runs, as two loops of one iteration at most: one while
//! the condition holds, one while it does not. Each sets its condition to false, and the results
//! are their states, so that their sizes may differ from branch to branch.

use super::loop_body::Inner;
use super::lower::{self, Scope, Val};
use super::messages::GraphProto;
use super::names;
use super::step::{Outputs, Step};
use crate::error::{Error, Place, Result};
use crate::graph::op::Unary;
use crate::graph::{Dim, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// A branch and its results.
struct Branch {
    inner: Inner,
    results: Vec<ValueId>,
}

impl Branch {
    fn read<'a>(
        step: &mut Step<'_, 'a>,
        graph: &'a GraphProto,
        condition: ValueId,
    ) -> Result<Branch> {
        if !graph.input.is_empty() {
            return Err(Error::malformed(format!(
                "expected no inputs, found {}",
                graph.input.len()
            )));
        }
        if let Some(tensor) = graph.sparse_initializer.first() {
            return Err(super::sparse(tensor));
        }
        let mut inner = Inner::new(step, None)?;
        inner.add_condition(condition);
        let mut scope = Scope::new(step.scope.call.clone(), step.scope.opsets.clone());
        for name in names::free(graph) {
            let Some(val) = step.scope.get(name).cloned() else { continue };
            let val = inner.bring_val(step, &val)?;
            scope.set(name, val);
        }
        let names: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        step.cx.enter()?;
        let values = lower::body(step.cx, &mut inner.builder, &mut scope, graph.into(), &names);
        step.cx.leave();
        let mut results = Vec::with_capacity(names.len());
        for val in values? {
            match val {
                Val::Tensor(id) => results.push(id),
                Val::List(_) => return Err(Error::unsupported("a branch yields a sequence")),
            }
        }
        Ok(Branch { inner, results })
    }

    /// Adds the loop; `before` are the results of the branch before, of these types.
    fn lower(
        mut self,
        step: &mut Step<'_, '_>,
        types: &[ValueType],
        before: &[ValueId],
    ) -> Result<Vec<ValueId>> {
        let mut slots = Vec::with_capacity(types.len());
        for ((ty, &outer), &result) in types.iter().zip(before).zip(&self.results) {
            let slot = self.inner.variables.len();
            self.inner.add_variable("result", loose(ty), outer);
            self.inner.set_next(slot, result);
            slots.push(slot);
        }
        let ids = self.inner.emit(step, None)?;
        let at = |slot: usize| {
            ids.get(slot).copied().ok_or_else(|| Error::internal("a loop without a result"))
        };
        slots.into_iter().map(at).collect()
    }
}

/// The type with sizes that are open where they may change.
fn loose(ty: &ValueType) -> ValueType {
    let open = |dim: &Dim| if dim.known().is_some() { *dim } else { Dim::Unknown };
    let shape = ty.shape.as_ref().map(|dims| dims.iter().map(open).collect());
    ValueType { shape, ..ty.clone() }
}

/// What holds of a result of either branch.
fn joined(yes: &ValueType, no: &ValueType) -> Result<ValueType> {
    let ranks = (yes.rank(), no.rank());
    let (Some(a), Some(b)) = (&yes.shape, &no.shape) else {
        return Err(Error::unsupported("branches whose results have an open rank"));
    };
    if yes.dtype != no.dtype || a.len() != b.len() {
        return Err(Error::unsupported(format!(
            "branches whose results differ: {} of rank {:?} and {} of rank {:?}",
            yes.dtype, ranks.0, no.dtype, ranks.1
        )));
    }
    let dims = a.iter().zip(b).map(|(&a, &b)| if a == b { a } else { Dim::Unknown });
    Ok(ValueType::symbolic(yes.dtype, dims.collect()))
}

/// The results of the branch that the condition chooses.
pub fn choose<'a>(
    step: &mut Step<'_, 'a>,
    condition: ValueId,
    [yes, no]: [&'a GraphProto; 2],
) -> Result<Outputs> {
    if step.dtype(condition)? != DType::Bool {
        return Err(Error::malformed(format!(
            "the condition: expected bool, found {}",
            step.dtype(condition)?
        )));
    }
    let condition = match step.rank(condition)? {
        0 => condition,
        _ => {
            let scalar = step.vector(&[])?;
            step.add(Op::Reshape, &[condition, scalar])?
        }
    };
    let other = step.add(Op::Unary(Unary::Not), &[condition])?;
    let yes = Branch::read(step, yes, condition).within(|| "then_branch")?;
    let no = Branch::read(step, no, other).within(|| "else_branch")?;
    if yes.results.len() != no.results.len() {
        return Err(Error::malformed(format!(
            "the branches have {} and {} results",
            yes.results.len(),
            no.results.len()
        )));
    }
    let mut types = Vec::with_capacity(yes.results.len());
    let mut before = Vec::with_capacity(yes.results.len());
    for (&a, &b) in yes.results.iter().zip(&no.results) {
        let ty = joined(yes.inner.builder.ty(a)?, no.inner.builder.ty(b)?)?;
        let sizes: Vec<usize> =
            ty.shape.iter().flatten().map(|dim| dim.known().unwrap_or(0)).collect();
        before.push(step.constant(Tensor::zeros(ty.dtype, &sizes)?));
        types.push(ty);
    }
    let before = yes.lower(step, &types, &before)?;
    let results = no.lower(step, &types, &before)?;
    for (&id, ty) in results.iter().zip(types) {
        if let Some(value) = step.builder.graph.get_mut(id) {
            value.ty.shape = ty.shape;
        }
    }
    Ok(results.into_iter().map(|id| Some(Val::Tensor(id))).collect())
}
