//! Choices that a caller has among devices, instructions and precisions.

use std::fmt;
use std::str::FromStr;

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
        let error = "f32".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("full, f16, bf16, int8"), "{error}");
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
