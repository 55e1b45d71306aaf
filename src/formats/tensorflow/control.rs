//! Constants, calls, conditionals and loops.

use std::collections::HashMap;
use std::rc::Rc;

use super::build::Builder;
use super::conditionals::CHOICE;
use super::growth;
use super::library::Library;
use super::lists;
use super::lower;
use super::messages::Attr;
use super::prune::prune;
use super::scope::{Scope, Source};
use super::step::{Context, Growth, Items, List, Step, Val};
use super::tensor::{self, STRING};
use crate::error::{Error, Place, Result};
use crate::graph::op::While;
use crate::graph::{Dim, Op, Port, ValueId, ValueType};
use crate::tensor::Tensor;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "Const" => constant(step).map(Some),
        "Placeholder" | "PlaceholderV2" => Err(Error::unsupported(
            "an input of the whole model is used where it cannot be: inside a function",
        )),
        "PlaceholderWithDefault" => {
            Ok(Some(vec![step.inputs.first().cloned().ok_or_else(no_input)?]))
        }
        "NoOp" | "Assert" => Ok(Some(Vec::new())),
        "Print" => Ok(Some(vec![step.inputs.first().cloned().ok_or_else(no_input)?])),
        "PartitionedCall" | "StatefulPartitionedCall" => {
            let name = function_name(step, "f")?;
            call(step, &name).map(Some)
        }
        "If" | "StatelessIf" => conditional(step).map(Some),
        "While" | "StatelessWhile" => {
            let (cond, body) = match &step.node.frame {
                Some((cond, body)) => (cond.clone(), body.clone()),
                None => {
                    let (cond, body) = (function_name(step, "cond")?, function_name(step, "body")?);
                    (step.context.library.get(&cond)?, step.context.library.get(&body)?)
                }
            };
            while_loop(step, &cond, &body).map(Some)
        }
        CHOICE => choice(step).map(Some),
        "Switch" | "Merge" => Err(Error::unsupported(
            "old-style control flow that is neither a loop nor a conditional",
        )),
        // Old graphs call a function by using its name as the op.
        op if step.context.library.has(op) => {
            let name = op.to_owned();
            call(step, &name).map(Some)
        }
        _ => Ok(None),
    }
}

fn no_input() -> Error {
    Error::malformed("the node has no input")
}

fn constant(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let proto = match step.node.attr("value") {
        Some(Attr::Tensor(proto)) => proto,
        Some(_) => return Err(Error::malformed("attribute 'value' is no tensor")),
        None => return Err(Error::malformed("attribute 'value' is missing")),
    };
    let &number = step
        .node
        .type_number("dtype")?
        .ok_or_else(|| Error::malformed("attribute 'dtype' is missing"))?;
    if number != proto.dtype {
        return Err(Error::malformed(format!(
            "attribute 'dtype' says type {number}, the value has {}",
            proto.dtype
        )));
    }
    if number == STRING {
        return Ok(vec![Val::Opaque("a constant string is used as a tensor".into())]);
    }
    let tensor = tensor::tensor(proto, &mut step.context.derived)?;
    Ok(vec![Val::Tensor(step.builder.constant_value(&step.node.name, tensor))])
}

fn function_name(step: &Step<'_, '_>, attr: &str) -> Result<String> {
    let function = step
        .node
        .function(attr)?
        .ok_or_else(|| Error::malformed(format!("attribute '{attr}' is missing")))?;
    Ok(function.name.clone())
}

/// Reads a function's body in the place of its call.
fn call(step: &mut Step<'_, '_>, name: &str) -> Result<Vec<Val>> {
    let scope = step.context.library.get(name)?;
    let args = std::mem::take(&mut step.inputs);
    inline(step.context, step.builder, &scope, &args)
}

/// Reads a function's body into the graph, and what it writes to variables.
fn inline(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    args: &[Val],
) -> Result<Vec<Val>> {
    check_args(scope, args)?;
    context.enter(&scope.name)?;
    let outputs = lower::function(context, builder, scope, args)
        .within(|| format!("function '{}'", scope.name));
    context.calls.pop();
    outputs
}

fn check_args(scope: &Scope, args: &[Val]) -> Result<()> {
    if scope.args.len() == args.len() {
        return Ok(());
    }
    let (name, takes) = (&scope.name, scope.args.len());
    Err(Error::malformed(format!(
        "the function '{name}' takes {takes} arguments, {} are given",
        args.len()
    )))
}

/// A conditional: the taken branch when the condition is constant, otherwise both branches and a
/// choice of their results, which is the same because no op here has side effects.
fn conditional(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let condition = step.tensor(0)?;
    let (yes, no) = (function_name(step, "then_branch")?, function_name(step, "else_branch")?);
    let args: Vec<Val> = step.inputs.drain(..).skip(1).collect();
    if let Some(known) = step.builder.constant(condition) {
        let holds = truth(known)?;
        let scope = step.context.library.get(if holds { &yes } else { &no })?;
        return inline(step.context, step.builder, &scope, &args);
    }
    let rank = step.builder.ty(condition)?.rank();
    if rank != Some(0) || step.builder.ty(condition)?.dtype != crate::tensor::DType::Bool {
        return Err(Error::unsupported("the condition is no scalar of type bool"));
    }
    let (yes, no) = (step.context.library.get(&yes)?, step.context.library.get(&no)?);
    step.context.states.conditional += 1;
    step.context.branches += 1;
    let yes = inline(step.context, step.builder, &yes, &args);
    let no = inline(step.context, step.builder, &no, &args);
    step.context.branches -= 1;
    step.context.states.conditional -= 1;
    let (yes, no) = (yes?, no?);
    if yes.len() != no.len() {
        return Err(Error::malformed(format!(
            "the branches have {} and {} results",
            yes.len(),
            no.len()
        )));
    }
    yes.into_iter().zip(no).map(|(yes, no)| choose(step, condition, yes, no)).collect()
}

/// `yes` where the scalar `condition` holds, else `no`.
fn choose(step: &mut Step<'_, '_>, condition: ValueId, yes: Val, no: Val) -> Result<Val> {
    match (yes, no) {
        (Val::Tensor(yes), Val::Tensor(no)) if yes == no => Ok(Val::Tensor(yes)),
        (Val::Tensor(yes), Val::Tensor(no)) => {
            Ok(Val::Tensor(step.add(Op::Select, &[condition, yes, no])?))
        }
        (Val::Resource(yes), Val::Resource(no)) if yes == no => Ok(Val::Resource(yes)),
        _ => Ok(Val::Opaque("a conditional yields something that is no tensor".into())),
    }
}

/// TensorFlow's truth: a bool, or a number other than zero.
fn truth(tensor: &Tensor) -> Result<bool> {
    match tensor.to_f32().first() {
        Some(&value) if tensor.shape().is_empty() => Ok(value != 0.0),
        _ => Err(Error::unsupported("the condition is no scalar")),
    }
}

/// The end of an old-style conditional.
fn choice(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    step.expect_inputs(3)?;
    let condition = step.tensor(0)?;
    let (yes, no) = (step.inputs[1].clone(), step.inputs[2].clone());
    let value = match step.builder.constant(condition) {
        Some(known) if truth(known)? => yes,
        Some(_) => no,
        None => choose(step, condition, yes, no)?,
    };
    Ok(vec![value, Val::Opaque("the index of the branch that was taken is used".into())])
}

/// What a loop variable of TensorFlow is in the structured loop.
enum Variable {
    /// The same in every turn: a constant of condition and body.
    Constant(Tensor),
    /// The same in every turn, and no tensor.
    Token(Val),
    /// A loop variable: its position.
    Loop(usize),
}

/// A loop variable of the structured loop.
struct LoopVariable {
    /// Position among TensorFlow's.
    position: usize,
    /// The body returns it as it is.
    invariant: bool,
    /// The type that holds in every turn.
    ty: ValueType,
    /// It is a list of tensors.
    list: Option<List>,
}

/// A loop being read.
struct Loop<'a> {
    name: String,
    cond: &'a Rc<Scope>,
    body: &'a Rc<Scope>,
    variables: Vec<Variable>,
    loops: Vec<LoopVariable>,
}

fn while_loop(step: &mut Step<'_, '_>, cond: &Rc<Scope>, body: &Rc<Scope>) -> Result<Vec<Val>> {
    let mut init = std::mem::take(&mut step.inputs);
    check_args(cond, &init).within(|| "condition")?;
    check_args(body, &init).within(|| "body")?;
    if body.results.len() != init.len() {
        return Err(Error::malformed(format!(
            "the body has {} results for {} variables",
            body.results.len(),
            init.len()
        )));
    }
    if cond.results.len() != 1 {
        return Err(Error::malformed(format!("the condition has {} results", cond.results.len())));
    }
    growth::preset_lengths(step, cond, body, &mut init)?;
    let mut this =
        Loop { name: step.node.name.clone(), cond, body, variables: Vec::new(), loops: Vec::new() };
    this.sort_variables(step.context.library, step.builder, &init)?;
    step.context.enter(&body.name)?;
    step.context.states.conditional += 1;
    let outputs = this.lower(step, &init);
    step.context.states.conditional -= 1;
    step.context.calls.pop();
    outputs
}

impl Loop<'_> {
    /// Tells what changes from turn to turn from what does not.
    fn sort_variables(&mut self, library: &Library, builder: &Builder, init: &[Val]) -> Result<()> {
        for (position, value) in init.iter().enumerate() {
            let result =
                self.body.results.get(position).map(|(_, source)| self.body.resolve(*source));
            let invariant = result == Some(Source::Arg(position));
            let variable = match value {
                Val::Tensor(id) => match builder.constant(*id) {
                    Some(tensor) if invariant => Variable::Constant(tensor.clone()),
                    _ => self.add(position, invariant, builder.ty(*id)?.clone(), None),
                },
                Val::List(list) => {
                    let mut ty = lists::ty(builder, list)?;
                    if growth::may_grow(library, self.body, list.growth)
                        && let Some(first) = ty.shape.as_mut().and_then(|shape| shape.first_mut())
                    {
                        *first = Dim::Unknown;
                    }
                    self.add(position, invariant, ty, Some(list.clone()))
                }
                token if invariant => Variable::Token(token.clone()),
                _ => {
                    return Err(Error::unsupported(format!(
                        "loop variable {position} is no tensor and changes"
                    )));
                }
            };
            self.variables.push(variable);
        }
        Ok(())
    }

    fn add(
        &mut self,
        position: usize,
        invariant: bool,
        mut ty: ValueType,
        list: Option<List>,
    ) -> Variable {
        ty.quantization = None;
        self.loops.push(LoopVariable { position, invariant, ty, list });
        Variable::Loop(self.loops.len() - 1)
    }

    fn lower(&mut self, step: &mut Step<'_, '_>, init: &[Val]) -> Result<Vec<Val>> {
        // A size that the body changes is open. Each round opens sizes or a rank, so few are
        // needed.
        let mut body = None;
        for _ in 0..8 {
            let built = self.build(step, true).within(|| "body")?;
            if !self.widen(&built)? {
                body = Some(built);
                break;
            }
        }
        let body = body
            .ok_or_else(|| Error::unsupported("the shapes of the loop variables do not settle"))?;
        let condition = self.build(step, false).within(|| "condition")?;
        let mut operands = Vec::with_capacity(self.loops.len());
        for variable in &self.loops {
            operands.push(match (&init[variable.position], &variable.list) {
                (Val::Tensor(id), _) => *id,
                (Val::List(list), _) => self.list_operand(step, init, variable, list, &body)?,
                _ => return Err(Error::internal("a loop variable that is no tensor")),
            });
        }
        self.emit(step, init, condition, body, &operands)
    }

    /// Adds the loop's node; what does not change keeps its value from before.
    fn emit(
        &self,
        step: &mut Step<'_, '_>,
        init: &[Val],
        condition: Builder,
        body: Builder,
        operands: &[ValueId],
    ) -> Result<Vec<Val>> {
        let op = Op::While(Box::new(While {
            condition: prune(condition.graph),
            body: prune(body.graph),
        }));
        let inputs = operands.iter().copied().map(Some).collect();
        let ids =
            step.builder.add(&mut step.context.derived, &self.name, op, inputs, operands.len())?;
        if let Some(node) = step.builder.graph.nodes.last_mut() {
            for (output, variable) in node.outputs.iter_mut().zip(&self.loops) {
                if variable.invariant {
                    *output = None;
                }
            }
        }
        let mut outputs = init.to_vec();
        for ((variable, &id), &operand) in self.loops.iter().zip(&ids).zip(operands) {
            let tensor = if variable.invariant { operand } else { id };
            outputs[variable.position] = match &variable.list {
                Some(list) => {
                    let grown = growth::may_grow(step.context.library, self.body, list.growth);
                    let length = list.length.filter(|_| variable.invariant || !grown);
                    // Behind the loop the list may grow on.
                    let growth = match list.growth {
                        Growth::Preset => Growth::Grows,
                        other => other,
                    };
                    let items = Items::Tensor(tensor);
                    Val::List(List { items, length, growth, ..list.clone() })
                }
                None => Val::Tensor(tensor),
            };
        }
        Ok(outputs)
    }

    /// Reads condition or body with the variables' types as they are now.
    fn build(&self, step: &mut Step<'_, '_>, is_body: bool) -> Result<Builder> {
        let scope: &Scope = if is_body { self.body } else { self.cond };
        let roots: Vec<Source> = scope.results.iter().map(|(_, source)| *source).collect();
        let mut inner = Builder::inside(&step.builder.graph, &scope.name);
        let mut args = Vec::with_capacity(self.variables.len());
        for (position, variable) in self.variables.iter().enumerate() {
            let name = scope.args.get(position).map_or("", |(name, _)| name.as_str());
            args.push(match variable {
                Variable::Constant(tensor) => {
                    Val::Tensor(inner.constant_value(name, tensor.clone()))
                }
                Variable::Token(val) => val.clone(),
                Variable::Loop(index) => {
                    let variable = &self.loops[*index];
                    let id = inner.graph.add_value(name, variable.ty.clone());
                    inner.graph.inputs.push(Port { name: name.to_owned(), value: id });
                    match &variable.list {
                        Some(list) => Val::List(List {
                            items: Items::Tensor(id),
                            length: None,
                            ..list.clone()
                        }),
                        None => Val::Tensor(id),
                    }
                }
            });
        }
        let results = lower::scope(step.context, &mut inner, scope, &args, &roots, HashMap::new())?;
        lower::note_writes(step.context, &mut inner, scope, &args)?;
        for (position, result) in results.into_iter().enumerate() {
            if is_body && !matches!(self.variables.get(position), Some(Variable::Loop(_))) {
                continue;
            }
            let id = match result {
                Val::Tensor(id) | Val::List(List { items: Items::Tensor(id), .. }) => id,
                Val::Opaque(why) => return Err(Error::unsupported(why)),
                _ => return Err(Error::unsupported(format!("result {position} is no tensor"))),
            };
            let name = scope.results.get(position).map_or("", |(name, _)| name.as_str());
            inner.graph.outputs.push(Port { name: name.to_owned(), value: id });
        }
        Ok(inner)
    }

    /// Opens the sizes that come out of the body other than they went in; whether there were any.
    fn widen(&mut self, body: &Builder) -> Result<bool> {
        let mut changed = false;
        for (variable, output) in self.loops.iter_mut().zip(&body.graph.outputs) {
            let after = body.ty(output.value)?;
            if after.dtype != variable.ty.dtype {
                return Err(Error::malformed(format!(
                    "loop variable {} is {} before the body and {} after it",
                    variable.position, variable.ty.dtype, after.dtype
                )));
            }
            let shape = match (&variable.ty.shape, &after.shape) {
                // A list whose items were not known before they were written.
                (None, Some(after)) if variable.list.is_some() => {
                    let mut dims = after.clone();
                    if let Some(first) = dims.first_mut() {
                        *first = Dim::Unknown;
                    }
                    Some(dims)
                }
                (None, _) => None,
                (Some(before), Some(after)) if before.len() == after.len() => Some(
                    before.iter().zip(after).map(|(&before, &after)| join(before, after)).collect(),
                ),
                (Some(before), None) => Some(before.clone()),
                (Some(_), Some(_)) => None,
            };
            if shape != variable.ty.shape {
                variable.ty.shape = shape;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// The tensor behind a list when the loop begins. A list that was only reserved is zeros; the
    /// shape of its items is found from what the body writes.
    fn list_operand(
        &self,
        step: &mut Step<'_, '_>,
        init: &[Val],
        variable: &LoopVariable,
        list: &List,
        body: &Builder,
    ) -> Result<ValueId> {
        if let Items::Tensor(id) = list.items {
            return Ok(id);
        }
        let items = variable.ty.shape.as_ref().and_then(|shape| shape.get(1..));
        if let Some(dims) =
            items.and_then(|dims| dims.iter().map(|dim| dim.known()).collect::<Option<Vec<_>>>())
        {
            return lists::zeros(step, list, &dims);
        }
        let unknown = || {
            Error::unsupported("the shape of the items of a list that the loop fills is not known")
        };
        let item = self.written_item(variable.position).ok_or_else(unknown)?;
        let shape_of = match self.same_shape(step.builder, init, item, body)? {
            Some(id) => id,
            // Read the item as the first turn would make it. Only its shape is used, so the plan
            // never computes it.
            None => match lower::scope(
                step.context,
                step.builder,
                self.body,
                init,
                &[item],
                HashMap::new(),
            )?
            .pop()
            {
                Some(Val::Tensor(id)) => id,
                _ => return Err(unknown()),
            },
        };
        lists::zeros_like(step, list, shape_of)
    }

    /// What the body writes into the list at `position`.
    fn written_item(&self, position: usize) -> Option<Source> {
        let (_, result) = self.body.results.get(position)?;
        let Source::Node(index, _) = self.body.resolve(*result) else { return None };
        let node = self.body.nodes.get(index)?;
        match node.op.as_str() {
            "TensorListSetItem" | "TensorArrayWriteV3" => node.inputs.get(2).copied(),
            _ => None,
        }
    }

    /// The initial value of a loop variable that has the shape of `item`: one whose next value the
    /// item is, or which the body chooses rows of the item from (the zeros past the length of a
    /// sequence).
    fn same_shape(
        &self,
        builder: &Builder,
        init: &[Val],
        item: Source,
        body: &Builder,
    ) -> Result<Option<ValueId>> {
        let mut candidates = vec![self.body.resolve(item)];
        // The body's own choices, outermost first; more than a handful is no layer.
        for _ in 0..8 {
            let Some(Source::Node(index, 0)) = candidates.last().copied() else { break };
            let Some(node) = self.body.nodes.get(index).filter(|node| node.op == "Select") else {
                break;
            };
            candidates.pop();
            candidates.extend(node.inputs.iter().skip(1).map(|&input| self.body.resolve(input)));
        }
        for (variable, output) in self.loops.iter().zip(&body.graph.outputs) {
            let Some(Val::Tensor(id)) = init.get(variable.position) else { continue };
            let result = self
                .body
                .results
                .get(variable.position)
                .map(|(_, source)| self.body.resolve(*source));
            let after = &body.ty(output.value)?.shape;
            let is_next = result.is_some_and(|result| candidates.contains(&result));
            let keeps_shape =
                variable.invariant || after.is_some() && builder.ty(*id)?.shape == *after;
            if is_next && keeps_shape {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }
}

/// A size that holds before and after the body.
fn join(before: Dim, after: Dim) -> Dim {
    match (before, after) {
        (Dim::Known(a), Dim::Known(b)) if a != b => Dim::Unknown,
        (Dim::Known(1), Dim::Symbol(_)) => Dim::Unknown,
        _ => before,
    }
}
