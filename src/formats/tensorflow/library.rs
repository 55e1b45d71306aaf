//! The functions of a model.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::messages::{FunctionDef, FunctionDefLibrary};
use super::scope::Scope;
use super::{conditionals, frames, hints};
use crate::error::{Error, Place, Result};

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
