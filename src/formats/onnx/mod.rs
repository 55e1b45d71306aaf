//! ONNX: models of operator sets 1 to 28.
//!
//! A model's nodes become ops one by one, each in the form that its operator has in the model's
//! operator set; functions of the model are inlined. What layers these nodes make up is found
//! later, by the passes.

mod activations;
mod attributes;
mod branches;
mod composed;
mod control;
mod elementwise;
mod functions;
mod limits;
mod linear;
mod loop_body;
mod loop_bounds;
mod loops;
mod lower;
mod messages;
mod movement;
mod names;
mod open;
mod padding;
mod quantized;
mod ranking;
mod recurrent;
mod reduce;
mod sequences;
mod slices;
mod step;
mod tables;
mod tensor;
mod weights;
mod windows;

use std::rc::Rc;

use prost::Message;

use super::tensorflow::build::{Builder, Size};
use super::tensorflow::limits::Budget;
use super::tensorflow::prune::prune;

use self::functions::Functions;
use self::lower::{Context, Opsets, Scope, Val};
use self::messages::{
    DimValue, GraphProto, ModelProto, OperatorSetId, SparseTensorProto, TypeValue, ValueInfoProto,
};
use crate::error::{Error, Place, Result};
use crate::graph::{Dim, Graph, Port, ValueId, ValueType, check};

/// Operator sets of ONNX's own domain that are read. Those after 24 give the operators that are
/// read here more element types, which are refused, and Range an attribute, which is refused.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// Whether the bytes begin as a model does.
pub fn recognizes(bytes: &[u8]) -> bool {
    // The version of the format (field 1, a number) comes first, then names, texts or the graph.
    // Writers that order the fields otherwise begin with the graph (7) or the operator sets (8).
    match bytes {
        [0x08, version, next, ..] => {
            (1..=0x7f).contains(version)
                && matches!(next, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72)
        }
        [0x08, 1..=0x7f] => true,
        [0x3a, ..] | [0x42, _, 0x0a | 0x10, ..] => true,
        _ => false,
    }
}

/// Reads a model; also returns what the user should know.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed), [`Unsupported`](crate::ErrorKind::Unsupported) or
/// [`Limit`](crate::ErrorKind::Limit) with the node that it was found at.
pub fn read(bytes: &[u8]) -> Result<(Graph, Vec<String>)> {
    let nodes = limits::count_nodes(bytes)?;
    let model = ModelProto::decode(bytes)
        .map_err(|error| Error::malformed("the model cannot be decoded").with_source(error))?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::malformed("the model has no graph"))?;
    names::check(graph)?;
    let opsets = opsets(&model.opset_import, model.ir_version)?;
    let functions = Functions::new(&model.functions, model.ir_version)?;
    functions.count(graph, limits::most_expanded(nodes))?;
    let mut cx = Context::new(functions, nodes);
    let graph = main_graph(&mut cx, graph, opsets)?;
    Ok((graph, cx.warnings))
}

/// The versions of the operator sets by domain.
fn opsets(imports: &[OperatorSetId], ir_version: i64) -> Result<Opsets<'_>> {
    /// Format versions before this one do not name operator sets: they use the first.
    const NAMES_OPSETS: i64 = 3;
    let mut opsets = Opsets::new();
    for import in imports {
        let domain = if import.domain == "ai.onnx" { "" } else { &import.domain };
        if domain.is_empty() && !OPSETS.contains(&import.version) {
            return Err(Error::unsupported(format!(
                "operator set {}: {} to {} are read",
                import.version,
                OPSETS.start(),
                OPSETS.end()
            )));
        }
        if opsets.insert(domain, import.version).is_some_and(|other| other != import.version) {
            return Err(Error::malformed(format!(
                "the operator sets of domain '{domain}' are imported in two versions"
            )));
        }
    }
    if ir_version < NAMES_OPSETS {
        opsets.entry("").or_insert(1);
    }
    Ok(opsets)
}

fn sparse(tensor: &SparseTensorProto) -> Error {
    let name = tensor.values.as_ref().map_or("", |values| &values.name);
    Error::unsupported(format!("the sparse initializer '{name}'"))
}

fn main_graph<'a>(
    cx: &mut Context<'a>,
    proto: &'a GraphProto,
    opsets: Opsets<'a>,
) -> Result<Graph> {
    if let Some(tensor) = proto.sparse_initializer.first() {
        return Err(sparse(tensor));
    }
    let mut builder = Builder::default();
    builder.graph.name.clone_from(&proto.name);
    let mut scope = Scope::new(Rc::default(), Rc::new(opsets));
    for input in &proto.input {
        // An input with an initializer is a constant: files up to version 3 list every one.
        if proto.initializer.iter().any(|tensor| tensor.name == input.name) {
            continue;
        }
        let id = add_input(&mut builder, input).within(|| format!("input '{}'", input.name))?;
        scope.set(&input.name, Val::Tensor(id));
    }
    if proto.output.is_empty() {
        return Err(Error::malformed("the graph has no outputs"));
    }
    let results: Vec<&str> = proto.output.iter().map(|output| output.name.as_str()).collect();
    let values = lower::body(cx, &mut builder, &mut scope, proto.into(), &results)?;
    for (output, val) in proto.output.iter().zip(values) {
        let id =
            output_value(&builder, output, &val).within(|| format!("output '{}'", output.name))?;
        builder.graph.outputs.push(Port { name: output.name.clone(), value: id });
    }
    let graph = prune(builder.graph);
    check::check(&graph)?;
    Ok(graph)
}

fn add_input(builder: &mut Builder, input: &ValueInfoProto) -> Result<ValueId> {
    let ty = input_type(builder, input)?;
    let value = builder.graph.add_value(input.name.as_str(), ty);
    builder.graph.inputs.push(Port { name: input.name.clone(), value });
    Ok(value)
}

/// The type of an input: sizes of one name are one size.
fn input_type(builder: &mut Builder, input: &ValueInfoProto) -> Result<ValueType> {
    let ty =
        tensor_type(input)?.ok_or_else(|| Error::malformed("the type of the input is missing"))?;
    let dtype = tensor::dtype(ty.elem_type)?;
    let Some(shape) = &ty.shape else { return Ok(ValueType::unranked(dtype)) };
    if shape.dim.len() > tensor::MOST_AXES {
        return Err(Error::limit(format!(
            "the shape has {} axes, over {}",
            shape.dim.len(),
            tensor::MOST_AXES
        )));
    }
    let mut dims = Vec::with_capacity(shape.dim.len());
    for (axis, dim) in shape.dim.iter().enumerate() {
        dims.push(match &dim.value {
            Some(DimValue::Size(size)) if *size >= 0 => Dim::Known(
                usize::try_from(*size)
                    .map_err(|_| Error::limit(format!("the shape has the size {size}")))?,
            ),
            Some(DimValue::Name(name)) if !name.is_empty() => symbol(&mut builder.graph, name),
            _ => builder.graph.add_symbol(format!("{}.{axis}", input.name)),
        });
    }
    Ok(ValueType::symbolic(dtype, dims))
}

fn symbol(graph: &mut Graph, name: &str) -> Dim {
    match graph.symbols.iter().position(|symbol| symbol == name) {
        Some(position) => Dim::Symbol(crate::graph::Symbol(position as u32)),
        None => graph.add_symbol(name),
    }
}

/// The tensor type of an input or output, when it says one.
fn tensor_type(info: &ValueInfoProto) -> Result<Option<&messages::TensorType>> {
    let other = |what: &str| {
        Err(Error::unsupported(format!("'{}' is of type {what}, not a tensor", info.name)))
    };
    match info.ty.as_ref().and_then(|ty| ty.value.as_ref()) {
        None => Ok(None),
        Some(TypeValue::Tensor(ty)) => Ok(Some(ty)),
        Some(TypeValue::Sequence(_)) => other("sequence"),
        Some(TypeValue::Map(_)) => other("map"),
        Some(TypeValue::SparseTensor(_)) => other("sparse tensor"),
        Some(TypeValue::Optional(_)) => other("optional"),
    }
}

fn output_value(builder: &Builder, output: &ValueInfoProto, val: &Val) -> Result<ValueId> {
    let declared = tensor_type(output)?;
    let Val::Tensor(id) = val else {
        return Err(Error::unsupported("the output is a sequence, not a tensor"));
    };
    if let Some(declared) = declared.filter(|ty| ty.elem_type != 0) {
        let expected = tensor::dtype(declared.elem_type)?;
        let found = builder.ty(*id)?.dtype;
        if found != expected {
            return Err(Error::malformed(format!("expected {expected}, found {found}")));
        }
    }
    Ok(*id)
}
