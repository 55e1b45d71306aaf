//! Which strategy runs a layer, and why.

use super::loop_::LoopVariant;
use super::persistent::PersistentVariant;
use super::step::StepVariant;
use super::{Layer, loop_, loop_split, persistent, step};
use crate::backend::Strategy;
use crate::backend::gpu::device::Device;
use crate::backend::gpu::record::Recorder;
use crate::error::{Error, Result};

/// A strategy made ready for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Prepared {
    /// A chunk of steps in one dispatch.
    Loop(LoopVariant),
    /// One dispatch a step.
    Step(StepVariant),
    /// Two or three dispatches a step.
    Stages,
    /// A chunk of steps in one dispatch, several workgroups that wait for one another.
    Persistent(PersistentVariant),
}

impl Prepared {
    /// The strategy by its public name.
    pub(super) fn strategy(&self) -> Strategy {
        match self {
            Prepared::Loop(LoopVariant::Whole(_)) => Strategy::Loop,
            Prepared::Loop(LoopVariant::Split(_)) => Strategy::LoopSplit,
            Prepared::Step(variant) if variant.is_split() => Strategy::StepSplit,
            Prepared::Step(_) | Prepared::Stages => Strategy::Step,
            Prepared::Persistent(_) => Strategy::Persistent,
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

/// The strategy for a layer with the reason: the forced one, or an error when it does not apply.
pub(super) fn choose(ctx: &Recorder<'_>, layer: &Layer<'_>) -> Result<(Prepared, String)> {
    let device = &ctx.shared.device;
    match ctx.shared.options.strategy {
        None => planned(layer, device),
        Some(Strategy::Persistent) => {
            match ctx.trial.map_or_else(|| ctx.shared.persistent.look(), Ok) {
                Ok(look) => {
                    let (variant, reason) = persistent::prepare(layer, device, look)?;
                    Ok((Prepared::Persistent(variant), reason))
                }
                Err(reason) => Ok((forced(layer, device, Strategy::Step)?.0, reason)),
            }
        }
        Some(strategy) => forced(layer, device, strategy),
    }
}

/// A strategy that was asked for.
fn forced(layer: &Layer<'_>, device: &Device, strategy: Strategy) -> Result<(Prepared, String)> {
    let asked = |variant: StepVariant, why: &str| match step::refusal(layer) {
        None => Ok((Prepared::Step(variant), why.to_owned())),
        Some(reason) => {
            Err(Error::input(format!("the strategy {strategy} does not apply: {reason}")))
        }
    };
    match strategy {
        Strategy::Loop => Ok((Prepared::Loop(loop_::form(layer, device)?), "asked for".into())),
        Strategy::LoopSplit => {
            let variant = loop_split::form(layer, device).map_err(|error| {
                Error::input(format!("the strategy loop-split does not apply: {error}"))
            })?;
            Ok((Prepared::Loop(LoopVariant::Split(variant)), "terms shared out, asked for".into()))
        }
        Strategy::Step if step::refusal(layer).is_some() => {
            Ok((Prepared::Stages, "asked for".into()))
        }
        Strategy::Step => asked(StepVariant::tiled(layer), "asked for"),
        Strategy::StepSplit => asked(StepVariant::split(layer, device), "asked for"),
        Strategy::Wavefront => {
            let alone = match layer.op.directions.len() {
                2.. => {
                    "asked for, a wavefront of one layer: both directions of the layer below end where one of this begins"
                }
                _ => "asked for, a wavefront of one layer",
            };
            asked(StepVariant::of(layer, device), alone)
        }
        Strategy::Persistent => Err(Error::internal("the persistent strategy needs its probe")),
    }
}

/// The fastest strategy, by the sizes of the layer and the device.
fn planned(layer: &Layer<'_>, device: &Device) -> Result<(Prepared, String)> {
    let widest = widest_loop(layer, device);
    let step = match step::refusal(layer) {
        Some(_) => Prepared::Stages,
        None => Prepared::Step(StepVariant::of(layer, device)),
    };
    if layer.units.max(layer.width) > widest {
        return Ok((step, format!("over {widest} units")));
    }
    match loop_::form(layer, device) {
        Ok(variant) => Ok((Prepared::Loop(variant), format!("at most {widest} units"))),
        Err(error) => Ok((step, error.to_string())),
    }
}
