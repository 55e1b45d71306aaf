//! Convolutions: plain and in groups, depthwise, separable. One over time is one over images of
//! height 1.

use serde_json::json;

use super::reshaping::padded;
use super::{KERNEL, Layer, Masks, PassedOver, Use};
use crate::error::{Error, Result};
use crate::formats::keras::activation;
use crate::formats::keras::builder::{Builder, Flow, transposed};
use crate::formats::keras::config::Config;
use crate::graph::ValueId;
use crate::graph::op::{Conv2d, Op, Padding, Squeeze};
use crate::tensor::{DType, Tensor};

/// What Keras keeps of the parts of a separable kernel beside their values.
const PARTS: PassedOver = PassedOver {
    fields: &[
        "depthwise_initializer",
        "pointwise_initializer",
        "depthwise_regularizer",
        "pointwise_regularizer",
        "depthwise_constraint",
        "pointwise_constraint",
    ],
    reason: "says how weights begin and how training holds them; the file has their values",
};

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &["Conv1D", "Conv2D", "Convolution1D", "Convolution2D"],
        arguments: &["inputs"],
        passed_over: &[&KERNEL],
        masks: Masks::Drop,
        apply: convolution,
    },
    Layer {
        classes: &["DepthwiseConv1D", "DepthwiseConv2D"],
        arguments: &["inputs"],
        passed_over: &[&KERNEL, &PARTS],
        masks: Masks::Drop,
        apply: depthwise,
    },
    Layer {
        classes: &["SeparableConv1D", "SeparableConv2D"],
        arguments: &["inputs"],
        passed_over: &[&KERNEL, &PARTS],
        masks: Masks::Drop,
        apply: separable,
    },
];

/// The sizes that all convolutions share, over one or two axes.
pub(super) struct Window {
    pub axes: usize,
    /// As the weight file has it.
    pub kernel: Vec<usize>,
    /// Vertical, horizontal.
    pub size: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    pub padding: Padding,
    pub causal: bool,
}

impl Window {
    pub fn read(class: &str, config: &Config<'_>) -> Result<Self> {
        config.must_be("data_format", &json!("channels_last"))?;
        let axes = if class.ends_with("1D") { 1 } else { 2 };
        let kernel = config.sizes("kernel_size", axes, 1)?;
        let strides = config.sizes("strides", axes, 1)?;
        let dilations = config.sizes("dilation_rate", axes, 1)?;
        let causal = config.string_or("padding", "valid")? == "causal";
        let padding = match config.string_or("padding", "valid")? {
            "valid" => Padding::Valid,
            "same" => Padding::Same,
            "causal" if axes == 1 => Padding::Valid,
            other => return Err(Error::unsupported(format!("padding {other:?}"))),
        };
        Ok(Window {
            axes,
            size: over_two(&kernel)?,
            strides: over_two(&strides)?,
            dilations: over_two(&dilations)?,
            kernel,
            padding,
            causal,
        })
    }

    /// The shape of a weight: the window, and these sizes.
    pub fn shape(&self, rest: [usize; 2]) -> Vec<usize> {
        self.kernel.iter().copied().chain(rest).collect()
    }

    /// A kernel `[window…, I, O]` as `[O, kh, kw, I]`; depthwise, `[window…, I, m]` as
    /// `[I·m, kh, kw, 1]`.
    pub fn turned(&self, kernel: &Tensor, outputs: usize, inputs: usize) -> Result<Tensor> {
        let [height, width] = self.size;
        let rows = height.checked_mul(width).and_then(|n| n.checked_mul(inputs));
        let rows = rows.ok_or_else(|| Error::limit("the kernel's size overflows"))?;
        transposed(&kernel.reshaped(&[rows, outputs])?)?.reshaped(&[outputs, height, width, inputs])
    }

    /// The convolution of `x` with these weights.
    pub fn run(
        &self,
        b: &mut Builder,
        x: ValueId,
        weights: Tensor,
        bias: Tensor,
        groups: usize,
    ) -> Result<ValueId> {
        let x = if self.causal {
            let before = self.size[1].saturating_sub(1).saturating_mul(self.dilations[1]);
            let before = i32::try_from(before).map_err(|_| Error::limit("padding overflows"))?;
            padded(b, x, &[0, 0, before, 0, 0, 0])?
        } else {
            x
        };
        let options = Conv2d {
            padding: self.padding,
            strides: self.strides,
            dilations: self.dilations,
            groups,
            ..Conv2d::default()
        };
        let (weights, bias) = (b.constant(weights), b.constant(bias));
        over_images(b, x, self.axes, |b, x| b.op(Op::Conv2d(options), &[x, weights, bias]))
    }
}

/// Sizes over time as sizes over images of height 1.
pub(super) fn over_two(sizes: &[usize]) -> Result<[usize; 2]> {
    match *sizes {
        [width] => Ok([1, width]),
        [height, width] => Ok([height, width]),
        _ => Err(Error::internal("a window of neither one nor two axes")),
    }
}

fn bias(b: &mut Builder, used: &Use<'_, '_>, index: usize, outputs: usize) -> Result<Tensor> {
    match used.config.flag("use_bias", true)? {
        true => b.weight(used.scope, index, &[outputs], "bias"),
        false => Tensor::zeros(DType::F32, &[outputs]),
    }
}

fn activated(b: &mut Builder, used: &Use<'_, '_>, y: ValueId) -> Result<Vec<Flow>> {
    let function = activation::read(used.config, "activation", b.major)?;
    Ok(vec![Flow::plain(function.apply(b, y)?)])
}

fn convolution(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let window = Window::read(used.class, used.config)?;
    let x = used.input()?.value;
    let (filters, width) = (used.config.size("filters")?, b.width(x)?);
    let groups = match used.config.get("groups") {
        None => 1,
        Some(_) => used.config.size("groups")?,
    };
    if width % groups != 0 || filters % groups != 0 {
        return Err(Error::malformed(format!("{groups} groups of {width} and {filters} channels")));
    }
    let inputs = width / groups;
    let kernel = b.weight(used.scope, 0, &window.shape([inputs, filters]), "kernel")?;
    let bias = bias(b, used, 1, filters)?;
    let weights = window.turned(&kernel, filters, inputs)?;
    let y = window.run(b, x, weights, bias, groups)?;
    activated(b, used, y)
}

/// Each channel with `depth_multiplier` kernels of its own.
fn depthwise_weights(
    b: &mut Builder,
    used: &Use<'_, '_>,
    window: &Window,
    width: usize,
) -> Result<Tensor> {
    let multiplier = match used.config.get("depth_multiplier") {
        None => 1,
        Some(_) => used.config.size("depth_multiplier")?,
    };
    let outputs = width.checked_mul(multiplier).ok_or_else(|| Error::limit("channels overflow"))?;
    let shape = window.shape([width, multiplier]);
    let kernel = b.weight(used.scope, 0, &shape, "depthwise kernel")?;
    window.turned(&kernel, outputs, 1)
}

fn depthwise(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let window = Window::read(used.class, used.config)?;
    used.config.must_be("filters", &json!(null))?;
    used.config.must_be("groups", &json!(1))?;
    let x = used.input()?.value;
    let width = b.width(x)?;
    let weights = depthwise_weights(b, used, &window, width)?;
    let outputs = weights.shape().first().copied().unwrap_or(0);
    let bias = bias(b, used, 1, outputs)?;
    let y = window.run(b, x, weights, bias, width)?;
    activated(b, used, y)
}

/// A depthwise convolution, and one of single entries over its channels.
fn separable(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let window = Window::read(used.class, used.config)?;
    used.config.must_be("groups", &json!(1))?;
    let x = used.input()?.value;
    let (filters, width) = (used.config.size("filters")?, b.width(x)?);
    let weights = depthwise_weights(b, used, &window, width)?;
    let between = weights.shape().first().copied().unwrap_or(0);
    let point = Window {
        kernel: vec![1; window.axes],
        size: [1, 1],
        strides: [1, 1],
        dilations: [1, 1],
        padding: Padding::Valid,
        causal: false,
        axes: window.axes,
    };
    let shape = point.shape([between, filters]);
    let kernel = b.weight(used.scope, 1, &shape, "pointwise kernel")?;
    let bias = bias(b, used, 2, filters)?;
    let none = Tensor::zeros(DType::F32, &[between])?;
    let deep = window.run(b, x, weights, none, width)?;
    let weights = point.turned(&kernel, filters, between)?;
    let y = point.run(b, deep, weights, bias, 1)?;
    activated(b, used, y)
}

/// Runs an op over images on `[B, T, I]` too: `[B, 1, T, I]` → `[B, 1, T', O]` → `[B, T', O]`.
pub(super) fn over_images(
    b: &mut Builder,
    x: ValueId,
    axes: usize,
    op: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    if axes == 2 {
        return op(b, x);
    }
    let tall = b.expand(x, 1)?;
    let y = op(b, tall)?;
    b.op(Op::Squeeze(Squeeze { axes: vec![1] }), &[y])
}
