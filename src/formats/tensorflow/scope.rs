//! A graph or a function body with its names resolved: nodes by index, inputs as references to
//! outputs of other nodes.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::messages::{Attr, AttrValue, FunctionDef, NameAttrList, NodeDef, TensorShapeProto};
use crate::error::{Error, Place, Result};

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Argument of the function.
    Arg(usize),
    /// Node and output.
    Node(usize, usize),
}

/// A node.
#[derive(Clone, Debug)]
pub struct ScopeNode {
    pub name: String,
    pub op: String,
    pub inputs: Vec<Source>,
    /// Nodes that TensorFlow runs before this one.
    pub controls: Vec<usize>,
    pub attrs: Rc<HashMap<String, AttrValue>>,
    /// The attributes that were read.
    pub read: Reads,
    /// It stands in a branch of an old-style conditional: it is computed in any case.
    pub branch: bool,
    /// Condition and body of a loop that was found in old-style control flow.
    pub frame: Option<(Rc<Scope>, Rc<Scope>)>,
}

/// Names of the attributes of a node that were read; a copy of a node begins with none.
#[derive(Debug, Default)]
pub struct Reads(RefCell<BTreeSet<String>>);

impl Clone for Reads {
    fn clone(&self) -> Self {
        Reads::default()
    }
}

impl Reads {
    /// Notes an attribute.
    fn note(&self, name: &str) {
        // Nobody holds the set beyond one of these calls.
        if let Ok(mut names) = self.0.try_borrow_mut()
            && !names.contains(name)
        {
            names.insert(name.to_owned());
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.take();
    }

    fn has(&self, name: &str) -> bool {
        self.0.borrow().contains(name)
    }
}

/// A graph or a function.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub name: String,
    pub nodes: Vec<ScopeNode>,
    /// Name and TensorFlow type of each argument.
    pub args: Vec<(String, i32)>,
    /// Name and origin of each result.
    pub results: Vec<(String, Source)>,
}

impl Scope {
    /// The main graph.
    pub fn from_graph(nodes: Vec<NodeDef>) -> Result<Scope> {
        let mut scope = Scope::default();
        let index = scope.index(&nodes)?;
        for node in nodes {
            let resolved = resolve_inputs(&node, &index, None);
            scope.push(node, resolved)?;
        }
        Ok(scope)
    }

    /// A function of the library. `results_of` gives the names of the results of other functions.
    pub fn from_function(
        function: &FunctionDef,
        results_of: &dyn Fn(&str) -> Option<Vec<String>>,
    ) -> Result<Scope> {
        let signature = function
            .signature
            .as_ref()
            .ok_or_else(|| Error::malformed("a function has no signature"))?;
        let mut scope = Scope { name: signature.name.clone(), ..Scope::default() };
        scope
            .read_function(function, signature, results_of)
            .within(|| format!("function '{}'", signature.name))?;
        Ok(scope)
    }

    fn read_function(
        &mut self,
        function: &FunctionDef,
        signature: &super::messages::OpDef,
        results_of: &dyn Fn(&str) -> Option<Vec<String>>,
    ) -> Result<()> {
        let mut args = HashMap::new();
        for arg in signature.input_arg.iter().chain(&signature.output_arg) {
            if !arg.number_attr.is_empty() || !arg.type_list_attr.is_empty() {
                return Err(Error::unsupported(format!(
                    "the argument '{}' stands for several tensors",
                    arg.name
                )));
            }
        }
        for (position, arg) in signature.input_arg.iter().enumerate() {
            if args.insert(arg.name.as_str(), position).is_some() {
                return Err(Error::malformed(format!(
                    "the argument '{}' is declared twice",
                    arg.name
                )));
            }
            self.args.push((arg.name.clone(), arg.r#type));
        }
        let index = self.index(&function.node_def)?;
        let names = Names { index: &index, args: &args, nodes: &function.node_def, results_of };
        for node in &function.node_def {
            let resolved = resolve_inputs(node, &index, Some(&names));
            self.push(node.clone(), resolved)?;
        }
        for result in &signature.output_arg {
            let from = function.ret.get(&result.name).ok_or_else(|| {
                Error::malformed(format!("the result '{}' comes from nowhere", result.name))
            })?;
            let source = names.resolve(from).within(|| format!("result '{}'", result.name))?;
            self.results.push((result.name.clone(), source));
        }
        Ok(())
    }

    fn index(&self, nodes: &[NodeDef]) -> Result<HashMap<String, usize>> {
        let mut index = HashMap::with_capacity(nodes.len());
        for (position, node) in nodes.iter().enumerate() {
            if node.name.is_empty() {
                return Err(Error::malformed(format!("node {position} ({}) has no name", node.op)));
            }
            if index.insert(node.name.clone(), position).is_some() {
                return Err(Error::malformed(format!("two nodes are named '{}'", node.name)));
            }
        }
        Ok(index)
    }

    fn push(&mut self, node: NodeDef, resolved: Result<(Vec<Source>, Vec<usize>)>) -> Result<()> {
        let (inputs, controls) = resolved.within(|| place(&node.name, &node.op))?;
        self.nodes.push(ScopeNode {
            name: node.name,
            op: node.op,
            inputs,
            controls,
            attrs: Rc::new(node.attr),
            read: Reads::default(),
            branch: false,
            frame: None,
        });
        Ok(())
    }

    /// The node, with an error for an index that no reader should make.
    pub fn node(&self, index: usize) -> Result<&ScopeNode> {
        self.nodes
            .get(index)
            .ok_or_else(|| Error::internal(format!("node {index} of {}", self.nodes.len())))
    }

    /// Follows identities to what they repeat.
    pub fn resolve(&self, mut source: Source) -> Source {
        // A chain of identities is at most as long as the graph; a cycle of them ends here and is
        // reported by `order`.
        for _ in 0..=self.nodes.len() {
            let Source::Node(index, output) = source else { return source };
            match self.nodes.get(index) {
                Some(node) if is_identity(&node.op) => match node.inputs.get(output) {
                    Some(&next) => source = next,
                    None => return source,
                },
                _ => return source,
            }
        }
        source
    }

    /// The nodes that `roots` need, each after the nodes that it needs itself; what lies behind
    /// `known` nodes is left out. `before` names nodes that come before others without being their
    /// inputs.
    pub fn order(
        &self,
        roots: impl IntoIterator<Item = usize>,
        known: impl Fn(usize) -> bool,
        before: &HashMap<usize, Vec<usize>>,
    ) -> Result<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::new();
        for root in roots {
            // Node and the position of its next input: a stack of our own, as chains may have
            // 100,000 nodes.
            let mut stack = vec![(root, 0usize)];
            while let Some((index, position)) = stack.pop() {
                let node = self.node(index)?;
                if position == 0 {
                    if known(index) {
                        continue;
                    }
                    match marks[index] {
                        Mark::Done => continue,
                        Mark::Open => {
                            return Err(Error::malformed("the node depends on itself")
                                .within(self.place(index)));
                        }
                        Mark::New => marks[index] = Mark::Open,
                    }
                }
                let earlier = || {
                    let position = position.checked_sub(node.inputs.len())?;
                    before.get(&index)?.get(position).map(|&node| Source::Node(node, 0))
                };
                match node.inputs.get(position).copied().or_else(earlier) {
                    Some(source) => {
                        stack.push((index, position + 1));
                        if let Source::Node(next, _) = source
                            && marks.get(next) != Some(&Mark::Done)
                        {
                            stack.push((next, 0));
                        }
                    }
                    None => {
                        marks[index] = Mark::Done;
                        order.push(index);
                    }
                }
            }
        }
        Ok(order)
    }

    /// How errors name a node.
    pub fn place(&self, index: usize) -> String {
        self.nodes.get(index).map_or_else(String::new, |node| place(&node.name, &node.op))
    }
}

/// How errors name a node.
pub fn place(name: &str, op: &str) -> String {
    format!("node '{name}' ({op})")
}

/// Ops whose outputs are their inputs.
pub fn is_identity(op: &str) -> bool {
    matches!(
        op,
        "Identity"
            | "IdentityN"
            | "StopGradient"
            | "PreventGradient"
            | "CheckNumerics"
            | "Snapshot"
            | "DeepCopy"
            | "EnsureShape"
    )
}

/// The names of a function body.
struct Names<'a> {
    index: &'a HashMap<String, usize>,
    args: &'a HashMap<&'a str, usize>,
    nodes: &'a [NodeDef],
    results_of: &'a dyn Fn(&str) -> Option<Vec<String>>,
}

impl Names<'_> {
    /// `argument`, `node:output_name:index` or `node:output_name`.
    fn resolve(&self, text: &str) -> Result<Source> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let (output, number) = (parts.next(), parts.next());
        if output.is_none()
            && let Some(&arg) = self.args.get(name)
        {
            return Ok(Source::Arg(arg));
        }
        let &node = self.index.get(name).ok_or_else(|| missing(name))?;
        let number = match number {
            Some(number) => number
                .parse::<usize>()
                .map_err(|_| Error::malformed(format!("'{text}' is no tensor name")))?,
            None => 0,
        };
        let op = self.nodes.get(node).map_or("", |node| node.op.as_str());
        let base = output.map_or(Ok(0), |output| self.base(op, output))?;
        Ok(Source::Node(node, base.saturating_add(number)))
    }

    /// Position of the first output that is called `output`.
    fn base(&self, op: &str, output: &str) -> Result<usize> {
        if let Some(names) = (self.results_of)(op) {
            return names.iter().position(|name| name == output).ok_or_else(|| {
                Error::malformed(format!("the function '{op}' has no result '{output}'"))
            });
        }
        let names = outputs(op);
        if names.is_empty() {
            // Every other op that is read here has one output, or several under one name.
            return Ok(0);
        }
        names
            .iter()
            .position(|name| *name == output)
            .ok_or_else(|| Error::malformed(format!("the op '{op}' has no output '{output}'")))
    }
}

/// Names of the outputs of the ops that have more than one.
pub fn outputs(op: &str) -> &'static [&'static str] {
    match op {
        "Switch" => &["output_false", "output_true"],
        "Merge" => &["output", "value_index"],
        "TensorArrayV3" => &["handle", "flow"],
        "TensorListPopBack" => &["output_handle", "tensor"],
        "TopKV2" => &["values", "indices"],
        "Unique" => &["y", "idx"],
        "CudnnRNN" | "CudnnRNNV2" | "CudnnRNNV3" => {
            &["output", "output_h", "output_c", "reserve_space", "host_reserved"]
        }
        "LSTMBlockCell" | "BlockLSTM" | "BlockLSTMV2" => &["i", "cs", "f", "o", "ci", "co", "h"],
        "GRUBlockCell" => &["r", "u", "c", "h"],
        "FusedBatchNorm" | "FusedBatchNormV2" => {
            &["y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"]
        }
        "FusedBatchNormV3" => &[
            "y",
            "batch_mean",
            "batch_variance",
            "reserve_space_1",
            "reserve_space_2",
            "reserve_space_3",
        ],
        _ => &[],
    }
}

fn missing(name: &str) -> Error {
    Error::malformed(format!("there is no node '{name}'"))
}

/// Data inputs and control inputs of a node.
fn resolve_inputs(
    node: &NodeDef,
    index: &HashMap<String, usize>,
    function: Option<&Names<'_>>,
) -> Result<(Vec<Source>, Vec<usize>)> {
    let mut inputs = Vec::with_capacity(node.input.len());
    let mut controls = Vec::new();
    for text in &node.input {
        if let Some(name) = text.strip_prefix('^') {
            match index.get(name) {
                Some(&node) => controls.push(node),
                // A function's argument may stand here; it is there before any node runs.
                None if function.is_some_and(|names| names.args.contains_key(name)) => {}
                None => return Err(missing(name)),
            }
        } else if let Some(names) = function {
            inputs.push(names.resolve(text)?);
        } else {
            inputs.push(tensor_name(text, index)?);
        }
    }
    Ok((inputs, controls))
}

/// `node` or `node:output` of the main graph.
pub fn tensor_name(text: &str, index: &HashMap<String, usize>) -> Result<Source> {
    let (name, output) = match text.rsplit_once(':') {
        Some((name, output)) => {
            let output = output
                .parse()
                .map_err(|_| Error::malformed(format!("'{text}' is no tensor name")))?;
            (name, output)
        }
        None => (text, 0),
    };
    let &node = index.get(name).ok_or_else(|| missing(name))?;
    Ok(Source::Node(node, output))
}

macro_rules! attr_getters {
    ($($(#[$doc:meta])* $name:ident: $variant:ident => $ty:ty, $kind:literal;)*) => {
        impl ScopeNode {
            $($(#[$doc])*
            pub fn $name(&self, name: &str) -> Result<Option<&$ty>> {
                match self.attr(name) {
                    None => Ok(None),
                    Some(Attr::$variant(value)) => Ok(Some(value)),
                    Some(_) => Err(Error::malformed(format!("attribute '{name}' is no {}", $kind))),
                }
            })*
        }
    };
}

attr_getters! {
    /// A number, `None` when the attribute is absent.
    int: I => i64, "number";
    /// A float, `None` when the attribute is absent.
    float: F => f32, "float";
    /// A flag, `None` when the attribute is absent.
    flag: B => bool, "flag";
    /// A string, `None` when the attribute is absent.
    bytes: S => Vec<u8>, "string";
    /// An element type, `None` when the attribute is absent.
    type_number: Type => i32, "type";
    /// A shape, `None` when the attribute is absent.
    shape: Shape => TensorShapeProto, "shape";
    /// A list, `None` when the attribute is absent.
    list: List => super::messages::ListValue, "list";
    /// A function's name, `None` when the attribute is absent.
    function: Func => NameAttrList, "function";
}

impl ScopeNode {
    /// Whether an attribute was read.
    pub fn was_read(&self, name: &str) -> bool {
        self.read.has(name)
    }

    /// An attribute's value; it counts as read.
    pub fn attr(&self, name: &str) -> Option<&Attr> {
        self.read.note(name);
        self.attrs.get(name)?.value.as_ref()
    }

    /// A number, or what TensorFlow takes when the attribute is absent.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.copied().unwrap_or(default))
    }

    /// A flag, false when the attribute is absent.
    pub fn is(&self, name: &str) -> Result<bool> {
        Ok(self.flag(name)?.copied().unwrap_or(false))
    }

    /// An element type that must be there.
    pub fn dtype(&self, name: &str) -> Result<crate::tensor::DType> {
        let &number = self
            .type_number(name)?
            .ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))?;
        super::tensor::dtype(number)
    }

    /// A string as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.bytes(name)?
            .map(|bytes| std::str::from_utf8(bytes))
            .transpose()
            .map_err(|_| Error::malformed(format!("attribute '{name}' is no UTF-8 text")))
    }

    /// TensorFlow's type number of an output, as far as the attributes say it: a list of types for
    /// calls, one type for all outputs otherwise.
    pub fn output_type(&self, output: usize) -> Option<i32> {
        let listed = |name: &str| match self.attr(name)? {
            Attr::List(list) => list.r#type.get(output).copied(),
            Attr::Type(number) => Some(*number),
            _ => None,
        };
        ["Tout", "DstT", "dtype", "out_type", "output_type", "element_dtype", "T"]
            .into_iter()
            .find_map(listed)
    }

    /// The nodes that its inputs come from.
    pub fn sources(&self) -> impl Iterator<Item = usize> {
        self.inputs.iter().filter_map(|source| match source {
            Source::Node(index, _) => Some(*index),
            Source::Arg(_) => None,
        })
    }

    /// An input that must be there.
    pub fn input(&self, position: usize) -> Result<Source> {
        self.inputs.get(position).copied().ok_or_else(|| {
            Error::malformed(format!(
                "input {position} is missing: the node has {}",
                self.inputs.len()
            ))
        })
    }
}
