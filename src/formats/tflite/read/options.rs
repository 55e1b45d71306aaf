//! Options of operators: a table that must be of the operator's own type, and the numbers in it.

use super::super::schema::Options;
use super::function::Call;
use crate::error::{Error, Result};
use crate::graph::op::Activation;

impl<'m> Call<'m> {
    /// The operator's options, which it needs.
    pub(super) fn options<T: Options<'m>>(&self) -> Result<T> {
        self.maybe_options()?.ok_or_else(|| {
            Error::malformed(format!("the operator has no options, expected {}", T::NAME))
        })
    }

    /// The operator's options, `None` when it has none; those of another operator are an error.
    pub(super) fn maybe_options<T: Options<'m>>(&self) -> Result<Option<T>> {
        let found = self.table.options_type();
        if found != 0 && !T::NUMBERS.contains(&found) {
            return Err(Error::malformed(format!(
                "the options are those of another operator: type {found}, expected {} ({:?})",
                T::NAME,
                T::NUMBERS
            )));
        }
        let options: Option<T> = self.table.options();
        if let Some(field) = options.as_ref().and_then(T::unknown_field) {
            return Err(Error::unsupported(format!(
                "field {field} of the options {} is set, and this reader does not know it",
                T::NAME
            )));
        }
        Ok(options)
    }

    /// Checks the number of operands and results.
    pub(super) fn expect_arity(
        &self,
        inputs: std::ops::RangeInclusive<usize>,
        outputs: usize,
    ) -> Result<()> {
        if !inputs.contains(&self.inputs.len()) {
            let expected = if inputs.start() == inputs.end() {
                inputs.start().to_string()
            } else {
                format!("{} to {}", inputs.start(), inputs.end())
            };
            return Err(Error::malformed(format!(
                "{} inputs, expected {expected}",
                self.inputs.len()
            )));
        }
        if self.outputs.len() != outputs {
            return Err(Error::malformed(format!(
                "{} outputs, expected {outputs}",
                self.outputs.len()
            )));
        }
        Ok(())
    }
}

/// The fused activation with this number.
pub(super) fn activation(number: i8) -> Result<Activation> {
    match number {
        0 => Ok(Activation::Linear),
        1 => Ok(Activation::Relu),
        2 => Ok(Activation::ReluN1To1),
        3 => Ok(Activation::Relu6),
        4 => Ok(Activation::Tanh),
        5 => Ok(Activation::SignBit),
        _ => Err(Error::malformed(format!("fused activation number {number}, expected 0 to 5"))),
    }
}

/// A clip: 0 is off, a positive number the bound.
pub(super) fn clip(name: &str, value: f32) -> Result<Option<f32>> {
    if value == 0.0 {
        Ok(None)
    } else if value > 0.0 && value.is_finite() {
        Ok(Some(value))
    } else {
        Err(Error::malformed(format!("{name} is {value}, expected 0 (off) or a positive number")))
    }
}

/// A count, stride or mask that must not be negative.
pub(super) fn natural(name: &str, value: i32) -> Result<usize> {
    usize::try_from(value).map_err(|_| {
        Error::malformed(format!("{name} is {value}, a number from 0 on was expected"))
    })
}
