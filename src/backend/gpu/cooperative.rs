//! Which matrices the subgroups of an adapter multiply together: what `--product cooperative`
//! needs, see `dense_cooperative.wgsl`.
//!
//! Compiled and validated, but never run: no adapter that lists a configuration was at hand. Hence
//! it is chosen by no planner and no search, only by name, and the experimental feature is asked
//! for with the name only.
//!
//! With halves, x and the weights are rounded to 11 bits on the way in: an operand over 65,504
//! overflows to infinity. Sums are f32.

use wgpu::CooperativeScalarType as Scalar;

use super::device::AdapterReport;
use super::pipeline::Part;
use crate::backend::Precision;
use crate::error::{Error, Result};

/// What an adapter has to grant beside a configuration.
pub(super) const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SUBGROUP);

/// The configuration in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cooperative {
    /// Rows and columns of a matrix.
    side: u32,
    /// The file with its types.
    pub(super) part: Part,
    /// At least as many as the largest subgroup has; four times as many make a workgroup.
    pub(super) lanes: u32,
}

impl Cooperative {
    /// The configuration for weights of this precision: 16 by 16 halves where weights are rounded
    /// anyhow, else 8 by 8 floats.
    ///
    /// # Errors
    /// Unsupported when the adapter does not list it; the message says what it lists.
    pub(super) fn choose(
        report: &AdapterReport,
        features: wgpu::Features,
        listed: &[wgpu::CooperativeMatrixProperties],
        precision: Precision,
    ) -> Result<Cooperative> {
        let has = |side, ab_type, cr_type| {
            listed.iter().any(|p| {
                [p.m_size, p.n_size, p.k_size] == [side; 3]
                    && p.ab_type == ab_type
                    && p.cr_type == cr_type
            })
        };
        let (halves, floats) =
            (has(16, Scalar::F16, Scalar::F32), has(8, Scalar::F32, Scalar::F32));
        let lanes = [32, 64].into_iter().find(|&lanes| lanes >= report.subgroup_lanes.1);
        let refuse = |why: &str| {
            let listed: Vec<String> = listed.iter().map(describe).collect();
            let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
            Error::unsupported(format!(
                "no cooperative product on {report}: {why}; cooperative matrices it lists: {listed}"
            ))
        };
        let (side, part) = match (halves && precision != Precision::Full, floats) {
            (true, _) => (16, Part::CooperativeHalves),
            (_, true) => (8, Part::CooperativeFloats),
            _ if halves => {
                return Err(refuse(
                    "in full precision it needs 8x8x8 of f32 (16x16x16 of f16 needs precision f16 or int8)",
                ));
            }
            _ => return Err(refuse("it needs 16x16x16 of f16 with sums in f32, or 8x8x8 of f32")),
        };
        if !features.contains(FEATURES) {
            return Err(refuse("it needs shaders with f16 and subgroups"));
        }
        let lanes = lanes.ok_or_else(|| refuse("its subgroups have more than 64 lanes"))?;
        Ok(Cooperative { side, part, lanes })
    }

    /// Workgroups for a product of `rows` by `columns`: see `dense_cooperative.wgsl`.
    pub(super) fn groups(self, rows: u32, columns: u32) -> u32 {
        rows.div_ceil(4 * self.side) * columns.div_ceil(4 * self.side)
    }
}

fn describe(p: &wgpu::CooperativeMatrixProperties) -> String {
    let name = |scalar| match scalar {
        Scalar::F32 => "f32",
        Scalar::F16 => "f16",
        Scalar::I32 => "i32",
        Scalar::U32 => "u32",
    };
    format!(
        "{}x{}x{} of {} with sums in {}",
        p.m_size,
        p.n_size,
        p.k_size,
        name(p.ab_type),
        name(p.cr_type)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(lanes: u32) -> AdapterReport {
        AdapterReport {
            index: 0,
            name: "one".into(),
            driver: String::new(),
            kind: "discrete",
            api: "vulkan",
            refused: None,
            features: Vec::new(),
            max_binding_bytes: 0,
            workgroup_bytes: 0,
            workgroup_invocations: 0,
            subgroup_lanes: (lanes, lanes),
        }
    }

    fn configuration(
        sizes: [u32; 3],
        ab_type: Scalar,
        cr_type: Scalar,
    ) -> wgpu::CooperativeMatrixProperties {
        let [m_size, n_size, k_size] = sizes;
        wgpu::CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        }
    }

    #[test]
    fn only_what_is_listed_is_chosen() {
        let halves = configuration([16; 3], Scalar::F16, Scalar::F32);
        let floats = configuration([8; 3], Scalar::F32, Scalar::F32);
        // Half sums, and a matrix that is no square.
        let others = [
            configuration([16; 3], Scalar::F16, Scalar::F16),
            configuration([8, 16, 16], Scalar::F16, Scalar::F32),
        ];
        let choose =
            |listed: &[_], precision| Cooperative::choose(&report(32), FEATURES, listed, precision);
        assert_eq!(
            choose(&[floats, halves], Precision::F16).unwrap().part,
            Part::CooperativeHalves
        );
        assert_eq!(
            choose(&[floats, halves], Precision::Full).unwrap().part,
            Part::CooperativeFloats
        );
        assert_eq!(choose(&[floats], Precision::Int8).unwrap().groups(33, 64), 4);
        let refused = choose(&others, Precision::F16).unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Unsupported);
        assert!(refused.to_string().contains("8x16x16 of f16 with sums in f32"), "{refused}");
        assert!(
            choose(&[halves], Precision::Full).unwrap_err().to_string().contains("precision f16")
        );
        assert!(choose(&[], Precision::F16).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn subgroups_and_features_are_looked_at() {
        let halves = [configuration([16; 3], Scalar::F16, Scalar::F32)];
        let lanes = |lanes| {
            Cooperative::choose(&report(lanes), FEATURES, &halves, Precision::F16).map(|c| c.lanes)
        };
        assert_eq!([lanes(16).unwrap(), lanes(32).unwrap(), lanes(64).unwrap()], [32, 32, 64]);
        assert!(lanes(128).is_err());
        let without = FEATURES.difference(wgpu::Features::SHADER_F16);
        assert!(Cooperative::choose(&report(32), without, &halves, Precision::F16).is_err());
    }
}
