//! One node on its way from TensorFlow to the graph, and what is known around it.

use std::collections::{BTreeMap, BTreeSet};

use super::build::{Builder, port};
use super::library::Library;
use super::limits::{Budget, DEEPEST_CALLS, MOST_DERIVED_BYTES, most_expanded};
use super::scope::ScopeNode;
use super::tensor;
use crate::error::{Error, Result};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

/// What an output of a TensorFlow node is here.
#[derive(Clone, Debug)]
pub enum Val {
    /// A tensor of the graph under construction.
    Tensor(ValueId),
    /// A list of tensors of one shape, as one dense tensor.
    List(List),
    /// A variable, by name.
    Resource(String),
    /// The handle of a TensorArray; its contents travel in the flow.
    Handle,
    /// Uniform random numbers, good only where they do not matter.
    Random(Random),
    /// Something that must not be used, and why.
    Opaque(String),
}

/// A list of tensors of one shape.
#[derive(Clone, Debug)]
pub struct List {
    pub items: Items,
    /// Number of items, when a value says it.
    pub length: Option<ValueId>,
    pub dtype: DType,
    /// Sizes of an item as declared, `None` for an open one; `None` as a whole when the rank is
    /// open.
    pub item: Option<Vec<Option<usize>>>,
    /// What a write past its end does.
    pub growth: Growth,
}

/// What a write past the end of a list does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// What the op that writes says.
    ByWrite,
    /// It makes the list longer.
    Grows,
    /// There is none: the list already has the length that it will have.
    Preset,
}

/// What a list holds.
#[derive(Clone, Debug)]
pub enum Items {
    /// `[n, item…]`.
    Tensor(ValueId),
    /// Nothing yet.
    Reserved,
}

/// Uniform random numbers of some shape. Dropout adds them to its keep probability, rounds down,
/// and multiplies; with a keep probability of 1 the factor is 1 whatever the numbers are.
#[derive(Clone, Debug)]
pub struct Random {
    /// The shape, as an integer tensor.
    pub shape: ValueId,
    pub dtype: DType,
    /// Every number is at least this …
    pub low: f64,
    /// … and less than this.
    pub high: f64,
    /// A scalar that is known only when the model runs was added to them.
    pub shift: Option<ValueId>,
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

/// What is known of the variables that a model writes.
#[derive(Debug, Default)]
pub struct States {
    /// Variables that are states: known from readings of the model before this one.
    pub names: BTreeSet<String>,
    /// The states that a result depends on: their writes are read.
    pub live: BTreeSet<String>,
    /// Every variable that is written somewhere.
    pub written: BTreeSet<String>,
    /// Variables that are written where that cannot be followed, and why.
    pub refused: BTreeMap<String, String>,
    /// What the model writes, by variable.
    pub writes: BTreeMap<String, ValueId>,
    /// Loops and branches around what is being read: nothing may be written there.
    pub conditional: usize,
}

impl States {
    /// Notes a write; whether what is written has to be read.
    pub fn note(&mut self, name: &str) -> bool {
        self.written.insert(name.to_owned());
        if self.conditional > 0 {
            self.refused
                .insert(name.to_owned(), "it is written inside a loop or a branch".to_owned());
            return false;
        }
        self.live.contains(name)
    }
}

/// Reads the nodes whose ops it knows: their outputs, or `None` for an op that it does not know.
pub type Table = fn(&mut Step<'_, '_>) -> Result<Option<Vec<Val>>>;

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
    pub states: States,
    /// Conditionals around what is being read, of which both branches are computed.
    pub branches: usize,
    /// The ops that are read, by kind.
    pub tables: &'a [Table],
}

impl<'a> Context<'a> {
    /// `nodes`: how many the file has, functions included; `tables`: the ops that are read.
    pub fn new(
        library: &'a Library,
        variables: &'a dyn Variables,
        tables: &'a [Table],
        nodes: usize,
    ) -> Self {
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
            states: States::default(),
            branches: 0,
            tables,
        }
    }

    /// Says once of each narrow float type of the file how it is computed.
    pub fn note_type(&mut self, number: i32) {
        let name = match tensor::base(number) {
            tensor::HALF => "float16",
            tensor::BFLOAT16 => "bfloat16",
            _ => return,
        };
        self.warn(&format!(
            "{name} is computed as float32: results differ from TensorFlow's by its roundings, and where they would overflow"
        ));
    }

    /// Adds a warning that is not there yet.
    pub fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
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

/// One node on its way into the graph.
pub struct Step<'s, 'c> {
    pub context: &'s mut Context<'c>,
    pub builder: &'s mut Builder,
    pub node: &'s ScopeNode,
    pub inputs: Vec<Val>,
}

impl Step<'_, '_> {
    /// The inputs, as the outputs of an op that repeats them.
    pub fn identity(&mut self) -> Result<Vec<Val>> {
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
            DType::I32 => Ok(id),
            _ => self.add(Op::Cast(DType::I32), &[id]),
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
