//! From a scope to a graph: the nodes that the results need, in order, each by the table of its
//! kind.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::build::{Builder, port};
use super::limits::{Budget, DEEPEST_CALLS, MOST_DERIVED_BYTES, most_expanded};
use super::messages::{FunctionDef, FunctionDefLibrary};
use super::scope::{Scope, ScopeNode, Source, is_identity};
use super::{
    conditionals, control, elementwise, frames, hints, linear, lists, movement, state, stub,
};
use crate::error::{Error, Place, Result};
use crate::graph::{Op, ValueId};
use crate::tensor::Tensor;

/// What an output of a TensorFlow node is here.
#[derive(Clone, Debug)]
pub enum Val {
    /// A tensor of the graph under construction.
    Tensor(ValueId),
    /// A list of tensors of one shape, as one dense tensor.
    List(lists::List),
    /// A variable, by name.
    Resource(String),
    /// The handle of a TensorArray; its contents travel in the flow.
    Handle,
    /// Uniform random numbers, good only where they do not matter.
    Random(elementwise::Random),
    /// Something that must not be used, and why.
    Opaque(String),
}

/// The values of a model's variables.
pub trait Variables {
    /// The value of a variable, by the name of its `VarHandleOp`.
    fn read(&self, name: &str) -> Result<Tensor>;
}

/// A graph without variables.
pub struct NoVariables;

impl Variables for NoVariables {
    fn read(&self, name: &str) -> Result<Tensor> {
        Err(Error::unsupported(format!(
            "the variable '{name}' has no value: freeze the graph, or read the SavedModel folder with its variables"
        )))
    }
}

/// The functions of a model, resolved when they are first called.
pub struct Library {
    functions: HashMap<String, FunctionDef>,
    scopes: RefCell<HashMap<String, Rc<Scope>>>,
    /// Make custom ops of hinted calls that are no recurrent layers.
    custom_ops: bool,
}

impl Library {
    /// Takes the library of a graph.
    pub fn new(library: Option<FunctionDefLibrary>, custom_ops: bool) -> Result<Self> {
        let mut functions = HashMap::new();
        for function in library.map(|library| library.function).unwrap_or_default() {
            let name = match &function.signature {
                Some(signature) if !signature.name.is_empty() => signature.name.clone(),
                _ => return Err(Error::malformed("a function has no name")),
            };
            hints::check(&function.node_def).within(|| format!("function '{name}'"))?;
            if functions.insert(name.clone(), function).is_some() {
                return Err(Error::malformed(format!("two functions are named '{name}'")));
            }
        }
        Ok(Library { functions, scopes: RefCell::default(), custom_ops })
    }

    /// Whether there is such a function.
    pub fn has(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// The stored definitions.
    pub fn functions(&self) -> impl Iterator<Item = (&String, &FunctionDef)> {
        self.functions.iter()
    }

    /// Brings what a scope may hold in older forms to the form that is read.
    pub fn prepare(&self, scope: &mut Scope) -> Result<()> {
        if self.custom_ops {
            hints::make_custom(scope)?;
        }
        conditionals::to_choices(scope)?;
        frames::to_loops(scope)
    }

    /// A function's body.
    pub fn get(&self, name: &str) -> Result<Rc<Scope>> {
        if let Some(scope) = self.scopes.borrow().get(name) {
            return Ok(scope.clone());
        }
        let function = self
            .functions
            .get(name)
            .ok_or_else(|| Error::malformed(format!("there is no function '{name}'")))?;
        let results_of = |name: &str| {
            let outputs = &self.functions.get(name)?.signature.as_ref()?.output_arg;
            Some(outputs.iter().map(|output| output.name.clone()).collect())
        };
        let mut scope = Scope::from_function(function, &results_of)?;
        self.prepare(&mut scope).within(|| format!("function '{name}'"))?;
        let scope = Rc::new(scope);
        self.scopes.borrow_mut().insert(name.to_owned(), scope.clone());
        Ok(scope)
    }
}

/// What is the same for every scope of a model.
pub struct Context<'a> {
    pub library: &'a Library,
    pub variables: &'a dyn Variables,
    /// Bytes that constants may still take beyond what the file holds.
    pub derived: Budget,
    /// Nodes that may still be read, each time a function is called.
    pub expanded: Budget,
    pub warnings: Vec<String>,
    /// Names of the functions that are being read, outermost first.
    pub calls: Vec<String>,
    /// Variables that are written, and by what.
    pub states: state::States,
}

impl<'a> Context<'a> {
    /// `nodes`: how many the file has, functions included.
    pub fn new(library: &'a Library, variables: &'a dyn Variables, nodes: usize) -> Self {
        Context {
            library,
            variables,
            derived: Budget::new(
                "constants that the file does not hold in full",
                MOST_DERIVED_BYTES,
            ),
            expanded: Budget::new("nodes with all functions expanded", most_expanded(nodes)),
            warnings: Vec::new(),
            calls: Vec::new(),
            states: state::States::default(),
        }
    }

    /// Goes into a function or a loop.
    pub fn enter(&mut self, name: &str) -> Result<()> {
        if self.calls.len() >= DEEPEST_CALLS {
            return Err(Error::limit(format!(
                "functions and loops are nested more than {DEEPEST_CALLS} deep"
            )));
        }
        if !name.is_empty() && self.calls.iter().any(|call| call == name) {
            return Err(Error::unsupported(format!("the function '{name}' calls itself")));
        }
        self.calls.push(name.to_owned());
        Ok(())
    }
}

/// Reads the part of `scope` that `roots` need into `builder`; `args` are the values of the scope's
/// arguments, `given` the outputs of nodes that are not to be read but taken as they are.
pub fn scope(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    args: &[Val],
    roots: &[Source],
    given: HashMap<usize, Vec<Val>>,
) -> Result<Vec<Val>> {
    let mut done = given;
    let nodes = roots.iter().filter_map(|root| match root {
        Source::Node(index, _) => Some(*index),
        Source::Arg(_) => None,
    });
    let order = scope.order(nodes, |index| done.contains_key(&index))?;
    for index in order {
        context.expanded.take(1)?;
        let node = scope.node(index)?;
        let outputs =
            lower(context, builder, scope, node, args, &done).within(|| scope.place(index))?;
        done.insert(index, outputs);
    }
    roots.iter().map(|&root| value(scope, args, &done, root)).collect()
}

/// The value behind a reference.
fn value(
    scope: &Scope,
    args: &[Val],
    done: &HashMap<usize, Vec<Val>>,
    source: Source,
) -> Result<Val> {
    match source {
        Source::Arg(position) => args.get(position).cloned().ok_or_else(|| {
            Error::malformed(format!(
                "argument {position} is used, and the call has {}",
                args.len()
            ))
        }),
        Source::Node(index, output) => {
            let outputs = done.get(&index).map_or(&[][..], Vec::as_slice);
            outputs.get(output).cloned().ok_or_else(|| {
                Error::malformed(format!(
                    "output {output} of {} is used, which has {}",
                    scope.place(index),
                    outputs.len()
                ))
            })
        }
    }
}

fn lower(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    node: &ScopeNode,
    args: &[Val],
    done: &HashMap<usize, Vec<Val>>,
) -> Result<Vec<Val>> {
    let inputs = node
        .inputs
        .iter()
        .map(|&source| value(scope, args, done, source))
        .collect::<Result<Vec<_>>>()?;
    let mut step = Step { context, builder, node, inputs };
    if is_identity(&node.op) {
        return step.identity();
    }
    for table in [
        control::lower,
        lists::lower,
        state::lower,
        elementwise::lower,
        linear::lower,
        movement::lower,
        stub::lower,
    ] {
        if let Some(outputs) = table(&mut step)? {
            return Ok(outputs);
        }
    }
    Err(Error::unsupported(format!(
        "the op '{}' is not supported: a graph without it, or an equivalent of basic ops, is needed",
        node.op
    )))
}

/// One node on its way into the graph.
pub struct Step<'s, 'c> {
    pub context: &'s mut Context<'c>,
    pub builder: &'s mut Builder,
    pub node: &'s ScopeNode,
    pub inputs: Vec<Val>,
}

impl Step<'_, '_> {
    fn identity(&mut self) -> Result<Vec<Val>> {
        if self.node.inputs.is_empty() {
            return Err(Error::malformed("the node has no input"));
        }
        if let (Some(shape), Some(Val::Tensor(id))) =
            (self.node.shape("shape")?, self.inputs.first())
            && let Some(dims) = super::tensor::dims(shape)?
        {
            self.builder.refine(*id, &dims)?;
        }
        Ok(std::mem::take(&mut self.inputs))
    }

    /// An input that must be a tensor.
    pub fn tensor(&self, position: usize) -> Result<ValueId> {
        match self.inputs.get(position) {
            Some(Val::Tensor(id)) => Ok(*id),
            Some(Val::Opaque(why)) => Err(Error::unsupported(format!("input {position}: {why}"))),
            Some(Val::Resource(name)) => Err(Error::malformed(format!(
                "input {position} is the variable '{name}', not its value"
            ))),
            Some(Val::Random(_)) => Err(Error::unsupported(format!(
                "input {position} is random: the graph is one for training, not for inference"
            ))),
            Some(Val::List(_) | Val::Handle) => Err(Error::malformed(format!(
                "input {position} is a list of tensors, not a tensor"
            ))),
            None => Err(Error::malformed(format!(
                "input {position} is missing: the node has {}",
                self.inputs.len()
            ))),
        }
    }

    /// All inputs as tensors.
    pub fn tensors(&self) -> Result<Vec<ValueId>> {
        (0..self.inputs.len()).map(|position| self.tensor(position)).collect()
    }

    /// Refuses a node that has not as many inputs as its op takes.
    pub fn expect_inputs(&self, count: usize) -> Result<()> {
        if self.inputs.len() == count {
            return Ok(());
        }
        Err(Error::malformed(format!(
            "the op takes {count} inputs, the node has {}",
            self.inputs.len()
        )))
    }

    /// Adds a node of the same name with one result.
    pub fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.builder.add_one(&mut self.context.derived, &self.node.name, op, inputs)
    }

    /// Adds a node of the same name with one result, as the outputs of the TensorFlow node.
    pub fn one(&mut self, op: Op, inputs: &[ValueId]) -> Result<Option<Vec<Val>>> {
        Ok(Some(vec![Val::Tensor(self.add(op, inputs)?)]))
    }

    /// Adds a node of the same name with several results.
    pub fn many(&mut self, op: Op, inputs: &[ValueId], outputs: usize) -> Result<Option<Vec<Val>>> {
        let inputs = inputs.iter().copied().map(Some).collect();
        let ids =
            self.builder.add(&mut self.context.derived, &self.node.name, op, inputs, outputs)?;
        Ok(Some(ids.into_iter().map(Val::Tensor).collect()))
    }

    /// Adds a helper constant.
    pub fn scalar(&mut self, value: i32) -> ValueId {
        self.builder.scalar(&port(&self.node.name, 0), value)
    }

    /// Adds a helper constant.
    pub fn vector(&mut self, values: &[i32]) -> Result<ValueId> {
        self.builder.vector(&port(&self.node.name, 0), values)
    }

    /// The same numbers as i32.
    pub fn as_i32(&mut self, id: ValueId) -> Result<ValueId> {
        match self.builder.ty(id)?.dtype {
            crate::tensor::DType::I32 => Ok(id),
            _ => self.add(Op::Cast(crate::tensor::DType::I32), &[id]),
        }
    }

    /// The rank of a tensor, which must be known.
    pub fn rank(&self, id: ValueId) -> Result<usize> {
        self.builder
            .ty(id)?
            .rank()
            .ok_or_else(|| Error::unsupported("the rank of an operand is not known"))
    }

    /// The elements of an integer operand that must be constant.
    pub fn integers(&self, position: usize, what: &str) -> Result<Vec<i64>> {
        let id = self.tensor(position)?;
        self.builder
            .integers(id)?
            .ok_or_else(|| Error::unsupported(format!("{what} (input {position}) is no constant")))
    }
}
