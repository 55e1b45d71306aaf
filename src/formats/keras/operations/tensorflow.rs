//! `TFOpLambda` and `SlicingOpLambda` of Keras 2: TensorFlow functions by name, with the names that
//! TensorFlow gives their arguments.

use super::{Operation, find, run};
use crate::error::{Error, Result};
use crate::formats::keras::arguments::{Arg, Bound, Call};
use crate::formats::keras::axis;
use crate::formats::keras::builder::{Builder, Flow};
use crate::formats::keras::config::Config;
use crate::graph::ValueId;

/// A TensorFlow function, the operation that it is, and the operation's name of each argument in
/// the function's order.
struct Function {
    names: &'static [&'static str],
    operation: &'static str,
    arguments: &'static [(&'static str, &'static str)],
}

const XY: &[(&str, &str)] = &[("x", "x1"), ("y", "x2")];
const X: &[(&str, &str)] = &[("x", "x")];
const FEATURES: &[(&str, &str)] = &[("features", "x")];
const REDUCED: &[(&str, &str)] =
    &[("input_tensor", "x"), ("axis", "axis"), ("keepdims", "keepdims")];

const fn function(
    names: &'static [&'static str],
    operation: &'static str,
    arguments: &'static [(&'static str, &'static str)],
) -> Function {
    Function { names, operation, arguments }
}

const FUNCTIONS: &[Function] = &[
    function(&["math.add", "__operators__.add"], "Add", XY),
    function(&["math.subtract", "__operators__.sub"], "Subtract", XY),
    function(&["math.multiply", "__operators__.mul"], "Multiply", XY),
    function(&["math.divide", "math.truediv", "realdiv"], "Divide", XY),
    function(&["math.divide_no_nan"], "DivideNoNan", XY),
    function(&["math.floordiv"], "FloorDivide", XY),
    function(&["math.floormod"], "Mod", XY),
    function(&["math.pow"], "Power", XY),
    function(&["math.maximum"], "Maximum", XY),
    function(&["math.minimum"], "Minimum", XY),
    function(&["math.squared_difference"], "SquaredDifference", XY),
    function(&["math.equal", "__operators__.eq"], "Equal", XY),
    function(&["math.not_equal", "__operators__.ne"], "NotEqual", XY),
    function(&["math.less"], "Less", XY),
    function(&["math.less_equal"], "LessEqual", XY),
    function(&["math.greater"], "Greater", XY),
    function(&["math.greater_equal"], "GreaterEqual", XY),
    function(&["math.logical_and"], "LogicalAnd", XY),
    function(&["math.logical_or"], "LogicalOr", XY),
    function(&["math.logical_not"], "LogicalNot", X),
    function(&["math.negative"], "Negative", X),
    function(&["math.abs"], "Abs", X),
    function(&["math.exp"], "Exp", X),
    function(&["math.expm1"], "Expm1", X),
    function(&["math.log"], "Log", X),
    function(&["math.log1p"], "Log1p", X),
    function(&["math.sqrt"], "Sqrt", X),
    function(&["math.rsqrt"], "Rsqrt", X),
    function(&["math.square"], "Square", X),
    function(&["math.sin"], "Sin", X),
    function(&["math.cos"], "Cos", X),
    function(&["math.floor"], "Floor", X),
    function(&["math.ceil"], "Ceil", X),
    function(&["math.round"], "Round", X),
    function(&["math.sign"], "Sign", X),
    function(&["math.reciprocal"], "Reciprocal", X),
    function(&["math.tanh", "nn.tanh"], "Tanh", X),
    function(&["math.sigmoid", "nn.sigmoid"], "Sigmoid", X),
    function(&["nn.relu"], "Relu", FEATURES),
    function(&["nn.relu6"], "Relu6", FEATURES),
    function(&["nn.elu"], "Elu", FEATURES),
    function(&["nn.selu"], "Selu", FEATURES),
    function(&["nn.silu", "nn.swish"], "Silu", FEATURES),
    function(&["math.softplus", "nn.softplus"], "Softplus", FEATURES),
    function(&["nn.softsign"], "Softsign", FEATURES),
    function(&["nn.softmax"], "Softmax", &[("logits", "x"), ("axis", "axis")]),
    function(&["nn.log_softmax"], "LogSoftmax", &[("logits", "x"), ("axis", "axis")]),
    function(
        &["clip_by_value"],
        "Clip",
        &[("t", "x"), ("clip_value_min", "x_min"), ("clip_value_max", "x_max")],
    ),
    function(&["where"], "Where", &[("condition", "condition"), ("x", "x1"), ("y", "x2")]),
    function(&["cast"], "Cast", &[("x", "x"), ("dtype", "dtype")]),
    function(&["math.reduce_sum", "reduce_sum"], "Sum", REDUCED),
    function(&["math.reduce_mean", "reduce_mean"], "Mean", REDUCED),
    function(&["math.reduce_max", "reduce_max"], "Max", REDUCED),
    function(&["math.reduce_min", "reduce_min"], "Min", REDUCED),
    function(&["math.reduce_prod", "reduce_prod"], "Prod", REDUCED),
    function(&["math.reduce_any"], "Any", REDUCED),
    function(&["math.reduce_all"], "All", REDUCED),
    function(&["math.reduce_variance"], "Var", REDUCED),
    function(&["math.reduce_std"], "Std", REDUCED),
    function(&["math.reduce_logsumexp"], "Logsumexp", REDUCED),
    function(&["expand_dims"], "ExpandDims", &[("input", "x"), ("axis", "axis")]),
    function(&["squeeze"], "Squeeze", &[("input", "x"), ("axis", "axis")]),
    function(&["reshape"], "Reshape", &[("tensor", "x"), ("shape", "newshape")]),
    function(&["transpose"], "Transpose", &[("a", "x"), ("perm", "axes")]),
    function(&["concat"], "Concatenate", &[("values", "xs"), ("axis", "axis")]),
    function(&["stack"], "Stack", &[("values", "x"), ("axis", "axis")]),
    function(&["unstack"], "Unstack", &[("value", "x"), ("num", "num"), ("axis", "axis")]),
    function(&["tile"], "Tile", &[("input", "x"), ("multiples", "repeats")]),
    function(&["reverse"], "Flip", &[("tensor", "x"), ("axis", "axis")]),
    function(&["repeat"], "Repeat", &[("input", "x"), ("repeats", "repeats"), ("axis", "axis")]),
    function(
        &["compat.v1.gather", "gather"],
        "Take",
        &[("params", "x"), ("indices", "indices"), ("axis", "axis")],
    ),
    function(&["zeros_like"], "ZerosLike", &[("input", "x"), ("dtype", "dtype")]),
    function(&["ones_like"], "OnesLike", &[("input", "x"), ("dtype", "dtype")]),
    function(&["identity"], "Identity", &[("input", "x")]),
    function(&["stop_gradient"], "StopGradient", &[("input", "variable")]),
    function(
        &["pad"],
        "Pad",
        &[
            ("tensor", "x"),
            ("paddings", "pad_width"),
            ("mode", "mode"),
            ("constant_values", "constant_values"),
        ],
    ),
    function(&["math.cumsum"], "Cumsum", &[("x", "x"), ("axis", "axis")]),
    function(&["roll"], "Roll", &[("input", "x"), ("shift", "shift"), ("axis", "axis")]),
    function(&["math.argmax", "argmax"], "Argmax", &[("input", "x"), ("axis", "axis")]),
    function(&["one_hot"], "OneHot", &[("indices", "x"), ("depth", "num_classes")]),
];

/// Functions whose arguments fit no operation of the table.
const OWN: &[(&[&str], Operation)] = &[
    (
        &["linalg.matmul"],
        Operation {
            name: "matmul",
            arguments: &["a", "b", "transpose_a", "transpose_b", "name"],
            apply: |b, bound| {
                let [x, y] = super::pair(b, bound, ["a", "b"])?;
                let transpose_a = super::flag(bound, "transpose_a", false)?;
                let transpose_b = super::flag(bound, "transpose_b", false)?;
                Ok(vec![super::shape::product(b, x, y, transpose_a, transpose_b)?])
            },
        },
    ),
    (
        &["split"],
        Operation {
            name: "split",
            arguments: &["value", "num_or_size_splits", "axis", "num", "name"],
            apply: split,
        },
    ),
    (
        &["nn.leaky_relu"],
        Operation {
            name: "leaky_relu",
            arguments: &["features", "alpha", "name"],
            apply: |b, bound| {
                let alpha = super::number(bound, "alpha")?.unwrap_or(0.2);
                let x = super::one(b, bound, "features")?;
                let function = crate::graph::op::Activation::LeakyRelu { alpha };
                Ok(vec![b.activation(function, x)?])
            },
        },
    ),
    (
        &["nn.gelu"],
        Operation {
            name: "gelu",
            arguments: &["features", "approximate", "name"],
            apply: |b, bound| {
                let approximate = super::flag(bound, "approximate", false)?;
                let x = super::one(b, bound, "features")?;
                Ok(vec![b.activation(crate::graph::op::Activation::Gelu { approximate }, x)?])
            },
        },
    ),
    (
        &["math.l2_normalize", "linalg.l2_normalize", "nn.l2_normalize"],
        Operation {
            name: "l2_normalize",
            arguments: &["x", "axis", "epsilon", "name"],
            apply: |b, bound| {
                let x = super::one(b, bound, "x")?;
                let rank = b.rank(x)?;
                if super::number(bound, "epsilon")?.is_some_and(|epsilon| epsilon != 1e-12) {
                    return Err(Error::unsupported("an epsilon of its own"));
                }
                let axes = super::integers(bound, "axis")?.unwrap_or_default();
                let axes: Vec<i32> =
                    axes.into_iter().map(|at| axis(at, rank)).collect::<Result<_>>()?;
                Ok(vec![crate::formats::keras::layers::unit_length(b, x, &axes)?])
            },
        },
    ),
];

/// Parts of equal or of given sizes.
fn split(b: &mut Builder, bound: &Bound<'_>) -> Result<Vec<ValueId>> {
    let x = super::one(b, bound, "value")?;
    let at = axis(super::integer(bound, "axis")?.unwrap_or(0), b.rank(x)?)?;
    let sizes = super::integers(bound, "num_or_size_splits")?.unwrap_or_default();
    let sizes: Vec<i32> = sizes.into_iter().map(super::to_i32).collect::<Result<_>>()?;
    let is_count = matches!(bound.get("num_or_size_splits"), Some(Arg::Plain(_)));
    match sizes.as_slice() {
        &[count] if is_count => {
            let size = b.dims(x)?.get(at as usize).and_then(|dim| dim.known());
            let count = usize::try_from(count).unwrap_or(0);
            match size {
                Some(size) if count != 0 && size % count == 0 && count <= 4096 => {
                    let part = super::to_i32((size / count) as i64)?;
                    super::shape::split_sizes(b, x, at, &vec![part; count])
                }
                _ => Err(Error::unsupported(format!("{count} parts of an axis of size {size:?}"))),
            }
        }
        sizes => super::shape::split_sizes(b, x, at, sizes),
    }
}

/// Calls the function that a `TFOpLambda` names.
pub(in crate::formats::keras) fn lambda<'a>(
    b: &mut Builder,
    config: &Config<'a>,
    call: Call<'a, Flow>,
) -> Result<Vec<Flow>> {
    let name = config.string("function")?;
    if let Some((_, operation)) = OWN.iter().find(|(names, _)| names.contains(&name)) {
        let bound = Bound::new(call, operation.arguments)?;
        // The name of an op says nothing of its value.
        bound.get("name");
        return run(b, operation, &bound);
    }
    let unknown = || Error::unsupported(format!("the function {name} is not supported"));
    let function =
        FUNCTIONS.iter().find(|function| function.names.contains(&name)).ok_or_else(unknown)?;
    let operation = find(function.operation).ok_or_else(unknown)?;
    let mut positional = call.positional.into_iter();
    let mut named = Vec::new();
    for (arg, (_, to)) in positional.by_ref().zip(function.arguments) {
        named.push((*to, arg));
    }
    if let Some(arg) = positional.next() {
        return Err(Error::unsupported(format!("{name} with the argument {}", arg.shown())));
    }
    for (from, arg) in call.named.into_iter().filter(|(from, _)| *from != "name") {
        let to = function.arguments.iter().find(|(known, _)| *known == from);
        match to {
            Some((_, to)) => named.push((*to, arg)),
            // Other defaults do nothing.
            None if matches!(arg, Arg::Null) => {}
            None => {
                return Err(Error::unsupported(format!("{name} with {from} = {}", arg.shown())));
            }
        }
    }
    let bound = Bound::new(Call { positional: Vec::new(), named }, operation.arguments)?;
    run(b, operation, &bound)
}

/// `x[slice_spec]`.
pub(in crate::formats::keras) fn slicing<'a>(
    b: &mut Builder,
    config: &Config<'a>,
    call: Call<'a, Flow>,
) -> Result<Vec<Flow>> {
    let name = config.string("function")?;
    if name != "__operators__.getitem" {
        return Err(Error::unsupported(format!("the function {name} is not supported")));
    }
    let operation = find("GetItem").ok_or_else(|| Error::internal("no GetItem"))?;
    let named = call.named.into_iter().map(|(from, arg)| match from {
        "slice_spec" => ("key", arg),
        other => (other, arg),
    });
    let call = Call { positional: call.positional, named: named.collect() };
    let bound = Bound::new(call, operation.arguments)?;
    run(b, operation, &bound)
}
