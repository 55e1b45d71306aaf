//! Which strategy runs a layer, and why.

use super::{Layer, loop_, loop_split, persistent, step};
use crate::backend::gpu::device::Device;
use crate::error::{Error, Result};

/// A strategy made ready for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Strategy {
    /// A chunk of steps in one dispatch.
    Loop(loop_::Form),
    /// One dispatch a step.
    Step(step::Form),
    /// A chunk of steps in one dispatch, several workgroups that wait for one another.
    Persistent(persistent::Form),
}

/// The names by which a strategy can be asked for.
const NAMES: &str = "loop, loop-split, step, step-split, wave and persistent";

impl Strategy {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Strategy::Loop(_) => "loop",
            Strategy::Step(_) => "step",
            Strategy::Persistent(_) => "persistent",
        }
    }
}

/// Widest layer that one workgroup runs faster than a dispatch a step.
///
/// Software driver: with the weights in registers one core does more than two without (processor time at T = 128, B = 1: 16 against
/// 66 ms at H = 128, 63 against 274 at 256), but a kernel of 256 terms takes seconds to compile, which short sequences do not pay.
/// Real devices: a step of 4 H² multiply-adds on one multiprocessor stays below a dispatch of 4 to 6 us up to about 160.
pub(super) fn widest_loop(layer: &Layer<'_>, device: &Device) -> usize {
    match (device.software, layer.time >= 64) {
        (true, true) => 256,
        (true, false) => 96,
        (false, _) => 160,
    }
}

/// The strategy for a layer with the reason, or the forced one with an error when it does not apply.
pub(super) fn choose(layer: &Layer<'_>, device: &Device, forced: Option<&str>) -> Result<(Strategy, String)> {
    let loop_form = || loop_::form(layer, device).map(Strategy::Loop);
    let asked = |form: step::Form, why: &str| match step::refusal(layer) {
        None => Ok((Strategy::Step(form), why.to_owned())),
        Some(reason) => {
            Err(Error::input(format!("the strategy {} does not apply: {reason}", forced.unwrap_or("step"))))
        }
    };
    match forced {
        None => {}
        Some("loop") => return Ok((loop_form()?, "asked for".into())),
        Some("loop-split") => {
            let form = loop_split::form(layer, device)?;
            return Ok((Strategy::Loop(loop_::Form::Split(form)), "terms shared out, asked for".into()));
        }
        Some("step") => return asked(step::Form::tiled(layer), "asked for"),
        Some("step-split") => return asked(step::Form::split(layer, device), "asked for"),
        Some("wave") => return asked(step::Form::of(layer, device), "a wave of one layer"),
        Some(other) => return Err(Error::input(format!("no recurrent strategy {other:?}: there are {NAMES}"))),
    }
    if let Some(reason) = step::refusal(layer) {
        return Ok((loop_form()?, reason.into()));
    }
    let widest = widest_loop(layer, device);
    let form = step::Form::of(layer, device);
    if layer.units.max(layer.width) > widest {
        return Ok((Strategy::Step(form), format!("over {widest} units")));
    }
    match loop_form() {
        Ok(strategy) => Ok((strategy, format!("at most {widest} units"))),
        Err(error) => Ok((Strategy::Step(form), error.to_string())),
    }
}
