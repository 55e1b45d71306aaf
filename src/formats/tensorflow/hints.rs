//! OpHint marks: identities whose attributes say that what lies between them is one call of a fused
//! op.
//!
//! The marks are checked, and otherwise left what they are, identities: the fusion passes look at
//! what is really computed, so clips, activations and initial states that no mark speaks of are
//! honored. On request a call whose name is no recurrent layer becomes one custom op, as the
//! retired converter made of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::messages::{Attr, AttrValue, NodeDef};
use super::scope::{Reads, Scope, ScopeNode, Source};
use crate::error::{Error, Place, Result};

/// Start of every attribute of a mark.
const PREFIX: &str = "_tflite_";

/// Indices above this are refused; the ops that hints were made for have up to 48 operands, static
/// ones up to some thousand steps.
const MOST_INDEX: i64 = 1 << 20;

/// The calls that are recurrent layers; the passes find these by themselves.
const RECURRENT: [&str; 3] =
    ["UnidirectionalSequenceLstm", "UnidirectionalSequenceRnn", "TfLiteDynamicRnn"];

/// Prefix of the op names that [`make_custom`] makes.
pub const CUSTOM: &str = "custom call ";

/// How several marks with one index become one operand or result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Stack,
    First,
    Last,
}

/// One mark.
#[derive(Clone, Debug)]
struct Hint {
    node: usize,
    function: String,
    uuid: String,
    is_input: bool,
    index: i64,
    sort: Option<(i64, Aggregate)>,
    level: i64,
}

/// The marks of one call.
#[derive(Debug, Default)]
struct Call {
    function: String,
    level: i64,
    inputs: BTreeMap<i64, Vec<Hint>>,
    outputs: BTreeMap<i64, Vec<Hint>>,
}

/// Checks the marks of a graph or a function: `nodes` are all of its nodes.
pub fn check(nodes: &[NodeDef]) -> Result<()> {
    let marks =
        nodes.iter().enumerate().filter(|(_, node)| is_mark(&node.attr)).map(|(index, node)| {
            let place = || super::scope::place(&node.name, &node.op);
            if node.op != "Identity" {
                return Err(Error::malformed("an OpHint mark stands on an op that is no Identity")
                    .within(place()));
            }
            Ok((index, place(), &node.attr))
        });
    let stubs: HashSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    calls(marks, |uuid| stubs.contains(uuid)).map(|_| ())
}

/// Whether a node carries a mark. (`_tflite_input_indices` is written by the stub pass on the fused
/// op.)
fn is_mark(attrs: &HashMap<String, AttrValue>) -> bool {
    attrs.contains_key("_tflite_function_uuid")
        || attrs.contains_key("_tflite_function_input_index")
        || attrs.contains_key("_tflite_function_output_index")
}

/// Whether a node carries a mark.
pub fn is_marked(node: &ScopeNode) -> bool {
    is_mark(&node.attrs)
}

fn calls<'a>(
    marks: impl Iterator<Item = Result<(usize, String, &'a HashMap<String, AttrValue>)>>,
    is_stub: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Call>> {
    let mut calls: BTreeMap<String, Call> = BTreeMap::new();
    for mark in marks {
        let (node, place, attrs) = mark?;
        add(&mut calls, node, attrs).within(|| place)?;
    }
    for (uuid, call) in &calls {
        // The stub pass names the fused node by the call's identifier and may drop the marks of its
        // results.
        if call.outputs.is_empty() && !is_stub(uuid) {
            let place = format!("OpHint call {uuid} ({})", call.function);
            return Err(Error::malformed("the call has inputs and no outputs").within(place));
        }
        call.check().within(|| format!("OpHint call {uuid} ({})", call.function))?;
    }
    Ok(calls)
}

/// Reads a mark and puts it to its call.
fn add(
    calls: &mut BTreeMap<String, Call>,
    node: usize,
    attrs: &HashMap<String, AttrValue>,
) -> Result<()> {
    let hint = Hint::read(node, attrs)?;
    let call = calls.entry(hint.uuid.clone()).or_insert_with(|| Call {
        function: hint.function.clone(),
        level: hint.level,
        ..Call::default()
    });
    if call.function != hint.function || call.level != hint.level {
        return Err(Error::malformed(format!(
            "two calls share the identifier {}: '{}' level {} and '{}' level {}",
            hint.uuid, call.function, call.level, hint.function, hint.level
        )));
    }
    let side = if hint.is_input { &mut call.inputs } else { &mut call.outputs };
    side.entry(hint.index).or_default().push(hint);
    Ok(())
}

impl Hint {
    fn read(node: usize, attrs: &HashMap<String, AttrValue>) -> Result<Hint> {
        let attr =
            |name: &str| attrs.get(&format!("{PREFIX}{name}")).and_then(|attr| attr.value.as_ref());
        let int = |name: &str| match attr(name) {
            None => Ok(None),
            Some(Attr::I(value)) => Ok(Some(*value)),
            Some(_) => Err(Error::malformed(format!("attribute '{PREFIX}{name}' is no number"))),
        };
        let text = |name: &str| match attr(name) {
            None => Ok(None),
            Some(Attr::S(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.is_empty() => Ok(Some(text.to_owned())),
                _ => Err(Error::malformed(format!(
                    "attribute '{PREFIX}{name}' is empty or no UTF-8 text"
                ))),
            },
            Some(_) => Err(Error::malformed(format!("attribute '{PREFIX}{name}' is no string"))),
        };
        let needed = |name: &str| {
            text(name)?
                .ok_or_else(|| Error::malformed(format!("attribute '{PREFIX}{name}' is missing")))
        };
        let (function, uuid) = (needed("function_name")?, needed("function_uuid")?);
        let (is_input, index) = match (int("function_input_index")?, int("function_output_index")?)
        {
            (Some(index), None) => (true, index),
            (None, Some(index)) => (false, index),
            _ => return Err(Error::malformed("an OpHint mark is either an input or an output")),
        };
        if !(0..=MOST_INDEX).contains(&index) {
            return Err(Error::malformed(format!("the OpHint index {index} is out of range")));
        }
        let level = int("ophint_level")?.unwrap_or(1);
        if !(1..=2).contains(&level) {
            return Err(Error::malformed(format!(
                "OpHint level {level} is unknown: 1 is a plain call, 2 encloses others"
            )));
        }
        let aggregate = match text("function_aggregate")?.as_deref() {
            None => None,
            Some("stack") => Some(Aggregate::Stack),
            Some("first") => Some(Aggregate::First),
            Some("last") => Some(Aggregate::Last),
            Some(other) => {
                return Err(Error::malformed(format!("OpHint aggregate '{other}' is unknown")));
            }
        };
        let sort = match (int("function_sort_index")?.filter(|&sort| sort != -1), aggregate) {
            (None, None) => None,
            (Some(sort), Some(aggregate)) if (0..=MOST_INDEX).contains(&sort) => {
                Some((sort, aggregate))
            }
            (Some(sort), Some(_)) => {
                return Err(Error::malformed(format!(
                    "the OpHint sort index {sort} is out of range"
                )));
            }
            _ => {
                return Err(Error::malformed(
                    "an OpHint mark has a sort index and an aggregate, or neither",
                ));
            }
        };
        if let Some(json) = text("children_ophint_inputs_mapping")? {
            check_mapping(&json)?;
        }
        Ok(Hint { node, function, uuid, is_input, index, sort, level })
    }
}

impl Call {
    fn check(&self) -> Result<()> {
        for (what, side) in [("input", &self.inputs), ("output", &self.outputs)] {
            for (index, hints) in side {
                check_aggregate(what == "input", hints).within(|| format!("{what} {index}"))?;
            }
        }
        Ok(())
    }
}

/// One untagged mark, or tagged ones of one kind with different sort indices; a stacked input has
/// all from 0 on. (Outputs that nobody used may have been cut off when the graph was frozen.)
fn check_aggregate(is_input: bool, hints: &[Hint]) -> Result<()> {
    let Some(first) = hints.first().and_then(|hint| hint.sort) else {
        return match hints {
            [_] => Ok(()),
            _ => Err(Error::malformed("several marks without a tag share one index")),
        };
    };
    let mut sorts = Vec::with_capacity(hints.len());
    for hint in hints {
        match hint.sort {
            Some((sort, aggregate)) if aggregate == first.1 => sorts.push(sort),
            _ => return Err(Error::malformed("marks with different aggregates share one index")),
        }
    }
    sorts.sort_unstable();
    if sorts.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::malformed("two marks have the same sort index"));
    }
    if is_input && first.1 == Aggregate::Stack && sorts.last() != Some(&(sorts.len() as i64 - 1)) {
        return Err(Error::malformed("the sort indices of a stacked input have a gap"));
    }
    Ok(())
}

/// The mapping between a call and those inside it: three lists of pairs of numbers.
fn check_mapping(json: &str) -> Result<()> {
    let lists = [
        (
            "parent_first_child_input",
            ["parent_ophint_input_index", "first_child_ophint_input_index"],
        ),
        ("internal_children_input_output", ["child_input_index", "child_output_index"]),
        ("parent_last_child_output", ["parent_output_index", "child_output_index"]),
    ];
    let mapping: serde_json::Value = serde_json::from_str(json).map_err(|error| {
        Error::malformed("the OpHint children mapping is no JSON").with_source(error)
    })?;
    for (list, keys) in lists {
        let Some(entries) = mapping.get(list) else { continue };
        let fits = entries.as_array().is_some_and(|entries| {
            entries.iter().all(|entry| {
                keys.iter().all(|key| entry.get(key).is_some_and(serde_json::Value::is_i64))
            })
        });
        if !fits {
            return Err(Error::malformed(format!(
                "'{list}' of the OpHint children mapping is no list of index pairs"
            )));
        }
    }
    if !mapping.is_object() {
        return Err(Error::malformed("the OpHint children mapping is no JSON object"));
    }
    Ok(())
}

/// Makes one custom op of every call whose name is no recurrent layer.
///
/// Operands stand in index order, a missing index is left out of the node (its input names itself);
/// results are read back by the output marks. A stacked operand becomes a `Pack`, a stacked result
/// an `Unpack`, both on axis 0; of `first` and `last` only the first and the last mark count.
pub fn make_custom(scope: &mut Scope) -> Result<()> {
    let marks: Vec<_> = scope
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| is_mark(&node.attrs))
        .map(|(index, node)| (index, scope.place(index), node.attrs.clone()))
        .collect();
    let calls = calls(
        marks.iter().map(|(index, place, attrs)| Ok((*index, place.clone(), &**attrs))),
        |_| true,
    )?;
    for (uuid, call) in calls {
        if RECURRENT.contains(&call.function.as_str()) {
            continue;
        }
        if call.inputs.is_empty() || call.outputs.is_empty() {
            continue;
        }
        call.replace(scope, &uuid)?;
    }
    Ok(())
}

impl Call {
    fn replace(&self, scope: &mut Scope, uuid: &str) -> Result<()> {
        let mut inputs = Vec::new();
        for (position, (&index, hints)) in self.inputs.iter().enumerate() {
            if index != position as i64 {
                return Err(Error::unsupported(format!(
                    "custom op '{}' leaves out operand {position}",
                    self.function
                )));
            }
            inputs.push(operand(scope, hints)?);
        }
        let call = scope.nodes.len();
        scope.nodes.push(node(
            uuid,
            &format!("{CUSTOM}{}", self.function),
            inputs,
            [self.output_count()],
        ));
        for (&index, hints) in &self.outputs {
            let output = usize::try_from(index).unwrap_or(0);
            let mut hints: Vec<&Hint> = hints.iter().collect();
            hints.sort_by_key(|hint| hint.sort.map(|(sort, _)| sort));
            let targets: Vec<(usize, Source)> = match hints.first().and_then(|hint| hint.sort) {
                None => hints.iter().map(|hint| (hint.node, Source::Node(call, output))).collect(),
                Some((_, Aggregate::First)) => hints
                    .first()
                    .map(|hint| (hint.node, Source::Node(call, output)))
                    .into_iter()
                    .collect(),
                Some((_, Aggregate::Last)) => hints
                    .last()
                    .map(|hint| (hint.node, Source::Node(call, output)))
                    .into_iter()
                    .collect(),
                Some((_, Aggregate::Stack)) => {
                    let unpack = scope.nodes.len();
                    let count =
                        hints.last().and_then(|hint| hint.sort).map_or(0, |(sort, _)| sort + 1);
                    let name = format!("{uuid}/unstack_{index}");
                    scope.nodes.push(node(
                        &name,
                        "Unpack",
                        vec![Source::Node(call, output)],
                        [count],
                    ));
                    let place = |hint: &&Hint| {
                        hint.sort.and_then(|(sort, _)| usize::try_from(sort).ok()).unwrap_or(0)
                    };
                    hints
                        .iter()
                        .map(|hint| (hint.node, Source::Node(unpack, place(hint))))
                        .collect()
                }
            };
            for (mark, source) in targets {
                if let Some(mark) = scope.nodes.get_mut(mark) {
                    mark.inputs = vec![source];
                }
            }
        }
        Ok(())
    }

    fn output_count(&self) -> i64 {
        self.outputs.keys().last().map_or(0, |last| last + 1)
    }
}

/// The operand that the marks of one index stand for.
fn operand(scope: &mut Scope, hints: &[Hint]) -> Result<Source> {
    let mut hints: Vec<&Hint> = hints.iter().collect();
    hints.sort_by_key(|hint| hint.sort.map(|(sort, _)| sort));
    let source = |hint: &&Hint| scope.node(hint.node).and_then(|node| node.input(0));
    let missing = || Error::internal("an OpHint index without marks");
    match hints.first().and_then(|hint| hint.sort) {
        None | Some((_, Aggregate::First)) => source(hints.first().ok_or_else(missing)?),
        Some((_, Aggregate::Last)) => source(hints.last().ok_or_else(missing)?),
        Some((_, Aggregate::Stack)) => {
            let inputs = hints.iter().map(source).collect::<Result<Vec<_>>>()?;
            let name = format!("{}/stack_{}", hints[0].uuid, hints[0].index);
            let pack = scope.nodes.len();
            scope.nodes.push(node(&name, "Pack", inputs, []));
            Ok(Source::Node(pack, 0))
        }
    }
}

/// A node of our own making; `num`: the number of its outputs, where the op does not say it.
fn node<const N: usize>(name: &str, op: &str, inputs: Vec<Source>, num: [i64; N]) -> ScopeNode {
    let attrs = num.map(|num| ("num".to_owned(), AttrValue { value: Some(Attr::I(num)) }));
    ScopeNode {
        name: name.into(),
        op: op.into(),
        inputs,
        controls: Vec::new(),
        attrs: Rc::new(HashMap::from_iter(attrs)),
        read: Reads::default(),
        branch: false,
        frame: None,
    }
}
