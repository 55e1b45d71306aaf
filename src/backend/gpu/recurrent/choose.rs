//! Which strategy runs a layer, and why.

use super::{Layer, loop_, loop_split, persistent, step};
use crate::backend::STRATEGIES;
use crate::backend::gpu::device::Device;
use crate::error::{Error, Result};

/// A strategy made ready for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Strategy {
    /// A chunk of steps in one dispatch.
    Loop(loop_::Form),
    /// One dispatch a step.
    Step(step::Form),
    /// Two or three dispatches a step.
    Stages,
    /// A chunk of steps in one dispatch, several workgroups that wait for one another.
    Persistent(persistent::Form),
}

/// Refuses a name that no strategy has.
pub(in crate::backend::gpu) fn known(name: &str) -> Result<()> {
    if STRATEGIES.contains(&name) {
        return Ok(());
    }
    Err(Error::input(format!(
        "no recurrent strategy {name:?}: there are {}",
        STRATEGIES.join(", ")
    )))
}

impl Strategy {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Strategy::Loop(_) => "loop",
            Strategy::Step(_) | Strategy::Stages => "step",
            Strategy::Persistent(_) => "persistent",
        }
    }
}

/// Widest layer that one workgroup runs faster than a dispatch a step.
///
/// Software driver, T = 128: at B = 1 the loop, with the weights in registers, takes 7.4 against
/// 8.4 ms at H = 128 and as long as the steps at 256, whose kernel takes seconds less to compile,
/// which short sequences do not pay either; at B = 16, where a step loads its weights once for
/// eight rows, it takes 72 against 60 ms at H = 128. Real devices: a step of 4 H² multiply-adds on
/// one multiprocessor stays below a dispatch of 4 to 6 us up to about 160.
pub(super) fn widest_loop(layer: &Layer<'_>, device: &Device) -> usize {
    match device.software {
        true if layer.time >= 64 && layer.batch < 8 => 192,
        true => 96,
        false => 160,
    }
}

/// The strategy for a layer with the reason, or the forced one with an error when it does not
/// apply.
pub(super) fn choose(
    layer: &Layer<'_>,
    device: &Device,
    forced: Option<&str>,
) -> Result<(Strategy, String)> {
    let loop_form = || loop_::form(layer, device).map(Strategy::Loop);
    let asked = |form: step::Form, why: &str| match step::refusal(layer) {
        None => Ok((Strategy::Step(form), why.to_owned())),
        Some(reason) => Err(Error::input(format!(
            "the strategy {} does not apply: {reason}",
            forced.unwrap_or("step")
        ))),
    };
    match forced {
        None => {}
        Some("loop") => return Ok((loop_form()?, "asked for".into())),
        Some("loop-split") => {
            let form = loop_split::form(layer, device).map_err(|error| {
                Error::input(format!("the strategy loop-split does not apply: {error}"))
            })?;
            return Ok((
                Strategy::Loop(loop_::Form::Split(form)),
                "terms shared out, asked for".into(),
            ));
        }
        Some("step") if step::refusal(layer).is_some() => {
            return Ok((Strategy::Stages, "asked for".into()));
        }
        Some("step") => return asked(step::Form::tiled(layer), "asked for"),
        Some("step-split") => return asked(step::Form::split(layer, device), "asked for"),
        Some("wave") => {
            let alone = match layer.op.directions.len() {
                2.. => {
                    "asked for, a wave of one layer: both directions of the layer below end where one of this begins"
                }
                _ => "asked for, a wave of one layer",
            };
            return asked(step::Form::of(layer, device), alone);
        }
        Some(other) => {
            known(other)?;
            return Err(Error::internal(format!("the strategy {other} was to be taken before")));
        }
    }
    let widest = widest_loop(layer, device);
    let step = match step::refusal(layer) {
        Some(_) => Strategy::Stages,
        None => Strategy::Step(step::Form::of(layer, device)),
    };
    if layer.units.max(layer.width) > widest {
        return Ok((step, format!("over {widest} units")));
    }
    match loop_form() {
        Ok(strategy) => Ok((strategy, format!("at most {widest} units"))),
        Err(error) => Ok((step, error.to_string())),
    }
}
