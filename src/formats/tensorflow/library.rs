//! The functions of a model.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::effects::is_write;
use super::messages::{Attr, FunctionDef, FunctionDefLibrary};
use super::scope::Scope;
use super::{conditionals, frames, hints};
use crate::error::{Error, Place, Result};

/// The functions of a model, resolved when they are first called.
pub struct Library {
    functions: HashMap<String, FunctionDef>,
    scopes: RefCell<HashMap<String, Rc<Scope>>>,
    /// Functions that write variables, by themselves or through functions that they call.
    writers: HashSet<String>,
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
        let writers = writers(&functions);
        Ok(Library { functions, scopes: RefCell::default(), writers, custom_ops })
    }

    /// Whether a function writes variables, by itself or through a function that it calls.
    pub fn writes(&self, name: &str) -> bool {
        self.writers.contains(name)
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

/// The functions that write variables: those with such nodes, then all that lead to them.
fn writers(functions: &HashMap<String, FunctionDef>) -> HashSet<String> {
    let mut callers: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut open: Vec<&str> = Vec::new();
    for (name, function) in functions {
        for node in &function.node_def {
            if is_write(&node.op) {
                open.push(name);
            }
            let called = node.attr.values().filter_map(|attr| match &attr.value {
                Some(Attr::Func(function)) => Some(function.name.as_str()),
                _ => None,
            });
            for called in called.chain(std::iter::once(node.op.as_str())) {
                callers.entry(called).or_default().push(name);
            }
        }
    }
    let mut writers = HashSet::new();
    while let Some(name) = open.pop() {
        if writers.insert(name.to_owned()) {
            open.extend(callers.get(name).into_iter().flatten());
        }
    }
    writers
}
