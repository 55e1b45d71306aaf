//! Choices that a caller has among devices, instructions and precisions.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::text::by_name;

/// Storage and multiplication of the weights of float models. Sums are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// As the file has them: f32, f16, or int8 of hybrid and integer models dequantized.
    #[default]
    Full,
    /// Rounded to IEEE half precision.
    F16,
    /// Rounded to bfloat16 (cpu only).
    Bf16,
    /// Int8 with a scale for each row.
    Int8,
}

by_name!(Precision, "precision", Full => "full", F16 => "f16", Bf16 => "bf16", Int8 => "int8");

impl Precision {
    /// How far outputs of the order of 1 may be from the reference: the bar of the project.
    /// Measured on layers of 64 to 512 units: f16 3e-5 to 2e-4, bf16 up to 4e-3, int8 up to 3e-2.
    pub const fn allowed(self) -> f64 {
        match self {
            Precision::Full => 1e-5,
            Precision::F16 => 5e-3,
            Precision::Bf16 => 4e-2,
            Precision::Int8 => 5e-2,
        }
    }

    /// Size of a stored weight, bytes; that of the file's f32 for [`Precision::Full`].
    pub const fn bytes(self) -> usize {
        match self {
            Precision::Full => 4,
            Precision::F16 | Precision::Bf16 => 2,
            Precision::Int8 => 1,
        }
    }
}

/// The vector instructions of the cpu backend's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX-512 with bytes, words and short vectors, with VNNI where there is that.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// NEON of 64-bit ARM.
    Neon,
    /// Plain Rust, on any processor.
    Portable,
}

by_name!(
    InstructionSet, "instruction set",
    Avx512 => "avx512", Avx2 => "avx2", Neon => "neon", Portable => "portable",
);

/// How the gpu backend runs the steps of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Strategy {
    /// A chunk of steps in a dispatch, an invocation for each unit.
    Loop,
    /// A chunk of steps in a dispatch, several invocations for each unit.
    LoopSplit,
    /// A dispatch for each step, an invocation for each unit.
    Step,
    /// A dispatch for each step, several invocations for each unit.
    StepSplit,
    /// Stacked layers on a diagonal: a dispatch makes a step of every layer.
    Wavefront,
    /// A chunk of steps in a dispatch of workgroups that wait for one another.
    Persistent,
}

by_name!(
    Strategy, "recurrent strategy",
    Loop => "loop", LoopSplit => "loop-split", Step => "step", StepSplit => "step-split",
    Wavefront => "wavefront", Persistent => "persistent",
);

/// How the gpu backend computes a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub enum Product {
    /// An invocation makes up to eight rows and four columns.
    #[cfg_attr(feature = "serde", serde(rename = "direct"))]
    Direct,
    /// A workgroup makes 64 rows and columns.
    #[cfg_attr(feature = "serde", serde(rename = "tiled-64"))]
    Tiled64,
    /// A workgroup makes 128 rows and columns.
    #[cfg_attr(feature = "serde", serde(rename = "tiled-128"))]
    Tiled128,
    /// On the matrix units, where the adapter lists what it needs: with precision f16 or int8, x is
    /// rounded to half precision and must stay below 65,504.
    #[cfg_attr(feature = "serde", serde(rename = "cooperative"))]
    Cooperative,
}

by_name!(
    Product, "matrix product",
    Direct => "direct", Tiled64 => "tiled-64", Tiled128 => "tiled-128",
    Cooperative => "cooperative",
);

/// Which GPU adapter.
///
/// As text: nothing for any of them, a number, a part of a name; `name=` in front of a name that
/// would be read as something else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdapterSelector {
    /// The best one.
    #[default]
    Any,
    /// The one of this number, as `fuselstm devices` counts them.
    Index(usize),
    /// The first one whose name contains this, whatever the case.
    Name(String),
}

/// Marks what follows as a name.
const NAME: &str = "name=";

impl FromStr for AdapterSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match (text.strip_prefix(NAME), text.parse()) {
            (Some(name), _) => AdapterSelector::Name(name.to_owned()),
            (None, Ok(index)) => AdapterSelector::Index(index),
            (None, Err(_)) if text.is_empty() => AdapterSelector::Any,
            (None, Err(_)) => AdapterSelector::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for AdapterSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterSelector::Any => Ok(()),
            AdapterSelector::Index(index) => write!(f, "{index}"),
            AdapterSelector::Name(name) => {
                let is_plain =
                    name.parse::<usize>().is_err() && !name.is_empty() && !name.starts_with(NAME);
                write!(f, "{}{name}", if is_plain { "" } else { NAME })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_choices_are_each_others_inverse() {
        for &precision in Precision::ALL {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        for &set in InstructionSet::ALL {
            assert_eq!(set.to_string().parse::<InstructionSet>().unwrap(), set);
        }
        for &strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse::<Strategy>().unwrap(), strategy);
        }
        for &product in Product::ALL {
            assert_eq!(product.to_string().parse::<Product>().unwrap(), product);
        }
        let error = "f32".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("full, f16, bf16, int8"), "{error}");
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn names_in_files_are_those_of_the_command_line() {
        for &strategy in Strategy::ALL {
            assert_eq!(serde_json::to_value(strategy).unwrap(), strategy.name());
        }
        for &product in Product::ALL {
            assert_eq!(serde_json::to_value(product).unwrap(), product.name());
        }
    }

    #[test]
    fn a_name_of_digits_is_not_a_number() {
        let names = ["4090", "Radeon RX", "", "name=x", "7"].map(str::to_owned);
        let selectors = names.map(AdapterSelector::Name);
        for selector in
            selectors.into_iter().chain([AdapterSelector::Any, AdapterSelector::Index(7)])
        {
            assert_eq!(selector.to_string().parse::<AdapterSelector>().unwrap(), selector);
        }
    }
}
