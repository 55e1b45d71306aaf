//! Old-style loops to structured ones.
//!
//! TensorFlow 1 writes a loop as a cycle of plain nodes in a *frame*: `Enter` brings a value in,
//! `Merge` takes it from `Enter` in the first turn and from `NextIteration` later, `Switch` sends
//! it to `Exit` when the condition (`LoopCond`) fails and into the body otherwise. Here every frame
//! becomes one `While` node whose condition and body are scopes of their own, as the functions of
//! newer graphs are; the `Exit` nodes become identities of its outputs.

use std::collections::HashMap;
use std::rc::Rc;

use super::limits::DEEPEST_CALLS;
use super::scope::{Reads, Scope, ScopeNode, Source};
use crate::error::{Error, Place, Result};

/// One loop of the graph.
#[derive(Default)]
struct Frame {
    name: String,
    /// `Enter` nodes whose value is the same in every turn.
    invariants: Vec<usize>,
    /// Loop variables.
    variables: Vec<Variable>,
    /// The node that decides about another turn.
    condition: Option<usize>,
}

#[derive(Clone, Copy)]
struct Variable {
    enter: usize,
    next: usize,
}

/// What a node is to its frame.
#[derive(Clone, Copy)]
enum Role {
    /// `Enter`, `Merge` or true side of `Switch` of loop variable or invariant `n` of a frame.
    Argument(usize, usize),
    /// `Exit` of variable `n` of a frame.
    Exit(usize, usize),
    /// `Switch` of variable `n` of a frame.
    Switch(usize, usize),
    /// `NextIteration`.
    Next,
}

struct Frames<'a> {
    scope: &'a Scope,
    frames: Vec<Frame>,
    roles: HashMap<usize, Role>,
}

/// Replaces every frame of `scope` by a `While` node.
pub fn to_loops(scope: &mut Scope) -> Result<()> {
    if !scope.nodes.iter().any(|node| node.op == "Enter" || node.op == "NextIteration") {
        return Ok(());
    }
    let frames = Frames::find(scope)?;
    // Only the frames that are entered from outside of any frame belong to this scope; the others
    // are part of their bodies.
    let mut exits = Vec::new();
    let mut loops: HashMap<usize, usize> = HashMap::new();
    let mut added: Vec<ScopeNode> = Vec::new();
    for (index, role) in &frames.roles {
        if let Role::Exit(frame, variable) = *role {
            exits.push((*index, frame, variable));
        }
    }
    exits.sort_unstable();
    let levels = frames.levels()?;
    for &(_, frame, _) in &exits {
        let outermost =
            frames.enters(&frames.frames[frame]).iter().all(|enter| levels.get(enter) == Some(&1));
        if !loops.contains_key(&frame) && outermost {
            let node = frames.while_node(frame, &mut |source| Ok(source), DEEPEST_CALLS)?;
            loops.insert(frame, frames.scope.nodes.len() + added.len());
            added.push(node);
        }
    }
    scope.nodes.extend(added);
    for (index, frame, variable) in exits {
        if let (Some(&node), Some(exit)) = (loops.get(&frame), scope.nodes.get_mut(index)) {
            exit.op = "Identity".into();
            exit.inputs = vec![Source::Node(node, variable)];
        }
    }
    Ok(())
}

impl<'a> Frames<'a> {
    /// Finds the loops and checks that each has the form that TensorFlow writes.
    fn find(scope: &'a Scope) -> Result<Self> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let mut enters: HashMap<usize, usize> = HashMap::new();
        let mut roles = HashMap::new();
        for (index, node) in scope.nodes.iter().enumerate().filter(|(_, node)| node.op == "Enter") {
            let name = node.text("frame_name").and_then(|name| {
                name.ok_or_else(|| Error::malformed("attribute 'frame_name' is missing"))
            });
            let name = name.within(|| scope.place(index))?;
            let frame = *by_name.entry(name.to_owned()).or_insert_with(|| {
                frames.push(Frame { name: name.to_owned(), ..Frame::default() });
                frames.len() - 1
            });
            enters.insert(index, frame);
        }
        let mut merged: HashMap<usize, ()> = HashMap::new();
        for (index, node) in scope.nodes.iter().enumerate().filter(|(_, node)| node.op == "Merge") {
            let Some((frame, variable)) =
                merge_of_loop(scope, node, &enters).within(|| scope.place(index))?
            else {
                continue;
            };
            let variables = &mut frames[frame].variables;
            roles.insert(index, Role::Argument(frame, variables.len()));
            roles.insert(variable.next, Role::Next);
            merged.insert(variable.enter, ());
            variables.push(variable);
        }
        for (index, node) in scope.nodes.iter().enumerate() {
            if node.op == "Enter" && !merged.contains_key(&index) {
                let frame = &mut frames[enters[&index]];
                let position = frame.variables.len() + frame.invariants.len();
                frame.invariants.push(index);
                roles.insert(index, Role::Argument(enters[&index], position));
            }
        }
        let mut found = Frames { scope, frames, roles };
        found.find_switches()?;
        for (index, node) in scope.nodes.iter().enumerate() {
            if node.op == "NextIteration" && !found.roles.contains_key(&index) {
                return Err(Error::malformed("no Merge of a loop takes this value")
                    .within(scope.place(index)));
            }
        }
        Ok(found)
    }

    /// Finds the `Switch`, `LoopCond` and `Exit` nodes of the loop variables.
    fn find_switches(&mut self) -> Result<()> {
        for (index, node) in
            self.scope.nodes.iter().enumerate().filter(|(_, node)| node.op == "Switch")
        {
            let (Some(&Source::Node(data, 0)), Some(&Source::Node(condition, 0))) =
                (node.inputs.first(), node.inputs.get(1))
            else {
                continue;
            };
            let Some(Role::Argument(frame, variable)) = self.roles.get(&data).copied() else {
                continue;
            };
            let is_loop = self.scope.nodes.get(condition).is_some_and(|node| node.op == "LoopCond");
            if !is_loop || self.scope.nodes.get(data).is_none_or(|node| node.op != "Merge") {
                continue;
            }
            let known = &mut self.frames[frame].condition;
            if known.is_some_and(|known| known != condition) {
                return Err(
                    Error::malformed("the loop has two conditions").within(self.scope.place(index))
                );
            }
            *known = Some(condition);
            self.roles.insert(index, Role::Switch(frame, variable));
        }
        for (index, node) in
            self.scope.nodes.iter().enumerate().filter(|(_, node)| node.op == "Exit")
        {
            match node.inputs.first() {
                Some(Source::Node(switch, 0)) => match self.roles.get(switch).copied() {
                    Some(Role::Switch(frame, variable)) => {
                        self.roles.insert(index, Role::Exit(frame, variable));
                    }
                    _ => {
                        return Err(
                            Error::malformed("no loop ends here").within(self.scope.place(index))
                        );
                    }
                },
                _ => {
                    return Err(
                        Error::malformed("no loop ends here").within(self.scope.place(index))
                    );
                }
            }
        }
        Ok(())
    }

    /// How many loops each node of the way into a frame stands in, by node; the frames' `Enter`
    /// nodes are all there.
    fn levels(&self) -> Result<HashMap<usize, usize>> {
        let mut levels: HashMap<usize, usize> = HashMap::new();
        let mut open = std::collections::HashSet::new();
        let mut stack: Vec<usize> =
            self.frames.iter().flat_map(|frame| self.enters(frame)).collect();
        while let Some(&index) = stack.last() {
            if levels.contains_key(&index) {
                stack.pop();
                continue;
            }
            let (needs, add) = self.level_needs(index)?;
            let before = stack.len();
            stack.extend(needs.iter().filter(|need| !levels.contains_key(need)));
            if stack.len() == before {
                let level =
                    needs.iter().filter_map(|need| levels.get(need)).max().copied().unwrap_or(0);
                levels.insert(index, level + add);
                stack.pop();
            } else if !open.insert(index) {
                return Err(
                    Error::malformed("the node depends on itself").within(self.scope.place(index))
                );
            }
        }
        Ok(levels)
    }

    /// The nodes whose level decides that of a node, and what the node adds to it.
    fn level_needs(&self, index: usize) -> Result<(Vec<usize>, usize)> {
        let node = self.scope.node(index)?;
        Ok(match self.roles.get(&index) {
            // Of the two inputs of a loop's Merge, NextIteration would lead back here.
            Some(&Role::Argument(frame, position)) if node.op == "Merge" => (
                self.frames[frame]
                    .variables
                    .get(position)
                    .map(|variable| variable.enter)
                    .into_iter()
                    .collect(),
                0,
            ),
            // What a loop yields stands where that which enters it stands.
            Some(&Role::Exit(frame, _)) => {
                let mut needs = Vec::new();
                for enter in self.enters(&self.frames[frame]) {
                    needs.extend(self.scope.node(enter)?.sources());
                }
                (needs, 0)
            }
            _ => (node.sources().collect(), usize::from(node.op == "Enter")),
        })
    }

    fn enters(&self, frame: &Frame) -> Vec<usize> {
        frame
            .variables
            .iter()
            .map(|variable| variable.enter)
            .chain(frame.invariants.iter().copied())
            .collect()
    }

    /// The `While` node of a frame; `outside` maps what enters it.
    fn while_node(
        &self,
        frame: usize,
        outside: &mut dyn FnMut(Source) -> Result<Source>,
        depth: usize,
    ) -> Result<ScopeNode> {
        let this = &self.frames[frame];
        let depth =
            depth.checked_sub(1).ok_or_else(|| Error::limit("loops are nested too deeply"))?;
        let inner = || -> Result<(Scope, Scope)> {
            let condition =
                this.condition.ok_or_else(|| Error::malformed("the loop has no condition"))?;
            let condition = self.scope.node(condition)?.input(0)?;
            let cond = self.extract(frame, &[condition], depth).within(|| "condition")?;
            let mut roots = Vec::new();
            for variable in &this.variables {
                roots.push(self.scope.node(variable.next)?.input(0)?);
            }
            let mut body = self.extract(frame, &roots, depth).within(|| "body")?;
            for (position, &invariant) in this.invariants.iter().enumerate() {
                let name = self.scope.node(invariant)?.name.clone();
                body.results.push((name, Source::Arg(this.variables.len() + position)));
            }
            Ok((cond, body))
        };
        let (cond, body) = inner().within(|| format!("loop '{}'", this.name))?;
        let mut inputs = Vec::new();
        for enter in self.enters(this) {
            inputs.push(outside(self.scope.node(enter)?.input(0)?)?);
        }
        Ok(ScopeNode {
            name: this.name.clone(),
            op: "While".into(),
            inputs,
            controls: Vec::new(),
            attrs: Rc::default(),
            read: Reads::default(),
            branch: false,
            frame: Some((Rc::new(cond), Rc::new(body))),
        })
    }

    /// The part of a frame that `roots` need, as a scope whose arguments are the loop variables,
    /// then the invariants.
    fn extract(&self, frame: usize, roots: &[Source], depth: usize) -> Result<Scope> {
        let this = &self.frames[frame];
        let mut part = Part {
            frames: self,
            frame,
            depth,
            nodes: Vec::new(),
            places: HashMap::new(),
            loops: HashMap::new(),
            open: Vec::new(),
            open_loops: Vec::new(),
        };
        let mut results = Vec::new();
        for &root in roots {
            let source = part.map(root)?;
            results.push((String::new(), source));
        }
        part.copy_open()?;
        let mut args = Vec::new();
        for enter in self.enters(this) {
            let node = self.scope.node(enter)?;
            args.push((node.name.clone(), node.int_or("T", 0).unwrap_or(0) as i32));
        }
        Ok(Scope { name: this.name.clone(), nodes: part.nodes, args, results })
    }
}

/// A part of a frame on its way to a scope of its own.
struct Part<'a> {
    frames: &'a Frames<'a>,
    frame: usize,
    depth: usize,
    nodes: Vec<ScopeNode>,
    /// Where a node of the graph went.
    places: HashMap<usize, usize>,
    /// Where an inner frame went.
    loops: HashMap<usize, usize>,
    /// Copied nodes (index in the graph, index here) whose inputs still point to the graph.
    open: Vec<(usize, usize)>,
    /// Operands of inner loops that still point to the graph, and the place of the loop here.
    open_loops: Vec<(Vec<Source>, usize)>,
}

impl Part<'_> {
    /// What `source` is in the new scope; nodes that are not there yet are added, with their inputs
    /// left open.
    fn map(&mut self, source: Source) -> Result<Source> {
        let scope = self.frames.scope;
        let Source::Node(index, output) = source else { return Ok(source) };
        let mixed = |what: &str| {
            Err(Error::malformed(format!("{what} of another loop is used"))
                .within(scope.place(index)))
        };
        match self.frames.roles.get(&index) {
            Some(&Role::Argument(frame, position)) if frame == self.frame => {
                return Ok(Source::Arg(position));
            }
            Some(&Role::Switch(frame, position)) if frame == self.frame => {
                if output == 1 {
                    return Ok(Source::Arg(position));
                }
                return Err(Error::malformed("the value after the loop is used inside it")
                    .within(scope.place(index)));
            }
            Some(Role::Argument(..)) => return mixed("the variable"),
            Some(Role::Switch(..)) => return mixed("the variable"),
            Some(Role::Next) => return mixed("the next value"),
            Some(&Role::Exit(inner, variable)) => {
                if inner == self.frame {
                    return Err(
                        Error::malformed("the loop uses its own result").within(scope.place(index))
                    );
                }
                if !self.loops.contains_key(&inner) {
                    let mut enters = Vec::new();
                    let node = self.frames.while_node(
                        inner,
                        &mut |source| {
                            enters.push(source);
                            Ok(source)
                        },
                        self.depth,
                    )?;
                    let place = self.nodes.len();
                    self.nodes.push(node);
                    self.loops.insert(inner, place);
                    self.open_loops.push((enters, place));
                }
                return Ok(Source::Node(self.loops[&inner], variable));
            }
            None => {}
        }
        let node = scope.node(index)?;
        if node.op == "Placeholder" {
            return Err(Error::malformed("the value is used in a loop that it does not enter")
                .within(scope.place(index)));
        }
        let place = match self.places.get(&index) {
            Some(&place) => place,
            None => {
                let place = self.nodes.len();
                self.nodes.push(ScopeNode {
                    inputs: Vec::new(),
                    controls: Vec::new(),
                    ..node.clone()
                });
                self.places.insert(index, place);
                self.open.push((index, place));
                place
            }
        };
        Ok(Source::Node(place, output))
    }

    /// Maps the inputs of the copied nodes until none is left open.
    fn copy_open(&mut self) -> Result<()> {
        loop {
            let (inputs, place) = match (self.open.pop(), self.open_loops.pop()) {
                (None, None) => break,
                (Some((index, place)), inner) => {
                    self.open_loops.extend(inner);
                    (self.frames.scope.node(index)?.inputs.clone(), place)
                }
                (None, Some(inner)) => inner,
            };
            let mapped =
                inputs.into_iter().map(|input| self.map(input)).collect::<Result<Vec<_>>>()?;
            if let Some(node) = self.nodes.get_mut(place) {
                node.inputs = mapped;
            }
        }
        Ok(())
    }
}

/// The frame and the variable of a `Merge`, `None` when it joins the branches of a conditional
/// instead.
fn merge_of_loop(
    scope: &Scope,
    node: &ScopeNode,
    enters: &HashMap<usize, usize>,
) -> Result<Option<(usize, Variable)>> {
    let op = |source: &Source| match source {
        Source::Node(index, _) => scope.nodes.get(*index).map(|node| (*index, node.op.as_str())),
        Source::Arg(_) => None,
    };
    let inputs: Vec<_> = node.inputs.iter().map(op).collect();
    let is = |input: &Option<(usize, &str)>, name: &str| input.is_some_and(|(_, op)| op == name);
    if !inputs.iter().any(|input| is(input, "Enter") || is(input, "NextIteration")) {
        return Ok(None);
    }
    match (inputs.first().copied().flatten(), inputs.get(1).copied().flatten(), inputs.len()) {
        (Some((enter, "Enter")), Some((next, "NextIteration")), 2)
        | (Some((next, "NextIteration")), Some((enter, "Enter")), 2) => {
            let &frame =
                enters.get(&enter).ok_or_else(|| Error::internal("an Enter without a frame"))?;
            Ok(Some((frame, Variable { enter, next })))
        }
        _ => Err(Error::malformed("a Merge of a loop joins one Enter and one NextIteration")),
    }
}
