//! The equations of one step as ordinary ops.

use super::super::build::Build;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Unary};
use crate::graph::recurrent::{Cell, CellWeights, Gru, Lstm, Matrix};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The equations of one step, on products that are there already.
pub(super) struct Step<'s> {
    pub(super) cell: &'s Cell,
    pub(super) gate_clip: Option<f32>,
    pub(super) weights: &'s CellWeights,
    pub(super) asymmetric: bool,
}

impl Step<'_> {
    pub(super) fn units(&self) -> usize {
        self.weights.units(self.cell.gate_blocks())
    }

    pub(super) fn output_width(&self) -> usize {
        self.weights.output_width(self.cell.gate_blocks())
    }

    /// `W x + b` for every step; the bias comes after the layer norm where there is one.
    pub(super) fn input_product(&self, build: &mut Build<'_>, x: ValueId) -> Result<ValueId> {
        let bias = if self.weights.layer_norm.is_some() { None } else { self.bias()? };
        build.dense(x, &self.weights.input, bias, self.asymmetric)
    }

    fn bias(&self) -> Result<Option<Tensor>> {
        self.weights
            .bias
            .as_ref()
            .map(|bias| Tensor::from_vec(bias.shape(), bias.to_f32().into_owned()))
            .transpose()
    }

    /// The new output state and cell state.
    pub(super) fn step(
        &self,
        build: &mut Build<'_>,
        gates: ValueId,
        h: ValueId,
        c: Option<ValueId>,
    ) -> Result<(ValueId, Option<ValueId>)> {
        match (self.cell, c) {
            (Cell::Rnn(rnn), _) => {
                let product = self.recurrent(build, h)?;
                let sum = build.add(gates, product);
                Ok((self.activated(build, sum, rnn.activation), None))
            }
            (Cell::Gru(gru), _) if gru.reset_after => {
                Ok((self.gru_after(build, gru, gates, h)?, None))
            }
            (Cell::Gru(gru), _) => Ok((self.gru_before(build, gru, gates, h)?, None)),
            (Cell::Lstm(lstm), Some(c)) => {
                self.lstm(build, lstm, gates, h, c).map(|(h, c)| (h, Some(c)))
            }
            (Cell::Lstm(_), None) => Err(Error::internal("an LSTM without cell state")),
        }
    }

    /// `activation(clip(s, gate_clip))`.
    fn activated(&self, build: &mut Build<'_>, sum: ValueId, activation: Activation) -> ValueId {
        let sum = build.clip(sum, self.gate_clip);
        build.activation(sum, activation)
    }

    /// `R h`.
    fn recurrent(&self, build: &mut Build<'_>, h: ValueId) -> Result<ValueId> {
        if !self.weights.is_diagonal() {
            return build.dense(h, &self.weights.recurrent, None, self.asymmetric);
        }
        let diagonal = self.weights.recurrent.to_f32();
        let diagonal = build.constant("diagonal", Tensor::from_vec(&[diagonal.len()], diagonal)?);
        let times = build.integers(&[1, self.cell.gate_blocks() as i32])?;
        let repeated = build.op(Op::Tile, &[h, times], DType::F32);
        Ok(build.mul(repeated, diagonal))
    }

    /// `h' = z ∘ h + (1 − z) ∘ n`.
    fn blend(build: &mut Build<'_>, z: ValueId, h: ValueId, n: ValueId) -> ValueId {
        let kept = build.mul(z, h);
        let one = build.number(1.0);
        let rest = build.sub(one, z);
        let new = build.mul(rest, n);
        build.add(kept, new)
    }

    fn gru_after(
        &self,
        build: &mut Build<'_>,
        gru: &Gru,
        gates: ValueId,
        h: ValueId,
    ) -> Result<ValueId> {
        let units = self.units();
        let mut bias = vec![0.0; 2 * units];
        match &self.weights.recurrent_bias {
            Some(candidate) => bias.extend_from_slice(&candidate.to_f32()),
            None => bias.extend(std::iter::repeat_n(0.0, units)),
        }
        let bias = Tensor::from_vec(&[3 * units], bias)?;
        let product = build.dense(h, &self.weights.recurrent, Some(bias), self.asymmetric)?;
        let (x, r) = (build.split(gates, 3), build.split(product, 3));
        let (&[xz, xr, xn], &[rz, rr, rn]) = (x.as_slice(), r.as_slice()) else {
            return Err(Error::internal("three blocks were expected"));
        };
        let z = build.add(xz, rz);
        let z = self.activated(build, z, gru.gate);
        let reset = build.add(xr, rr);
        let reset = self.activated(build, reset, gru.gate);
        let n = build.mul(reset, rn);
        let n = build.add(xn, n);
        let n = self.activated(build, n, gru.candidate);
        Ok(Self::blend(build, z, h, n))
    }

    fn gru_before(
        &self,
        build: &mut Build<'_>,
        gru: &Gru,
        gates: ValueId,
        h: ValueId,
    ) -> Result<ValueId> {
        let units = self.units();
        let (zr, n) = split_rows(&self.weights.recurrent, 2 * units)?;
        let x = build.split(gates, 3);
        let product = build.dense(h, &zr, None, self.asymmetric)?;
        let r = build.split(product, 2);
        let (&[xz, xr, xn], &[rz, rr]) = (x.as_slice(), r.as_slice()) else {
            return Err(Error::internal("three blocks were expected"));
        };
        let z = build.add(xz, rz);
        let z = self.activated(build, z, gru.gate);
        let reset = build.add(xr, rr);
        let reset = self.activated(build, reset, gru.gate);
        let kept = build.mul(reset, h);
        let product = build.dense(kept, &n, None, self.asymmetric)?;
        let n = build.add(xn, product);
        let n = self.activated(build, n, gru.candidate);
        Ok(Self::blend(build, z, h, n))
    }

    fn lstm(
        &self,
        build: &mut Build<'_>,
        lstm: &Lstm,
        gates: ValueId,
        h: ValueId,
        c: ValueId,
    ) -> Result<(ValueId, ValueId)> {
        let product = self.recurrent(build, h)?;
        let sum = build.add(gates, product);
        let blocks = self.cell.gate_blocks();
        let sums = build.split(sum, blocks);
        // Forget, cell, output stand last in both forms.
        let first = blocks - 3;
        let sum = |block: usize| {
            sums.get(block).copied().ok_or_else(|| Error::internal("a gate is missing"))
        };
        let forget = self.gate(build, sum(first)?, first, Some((c, first)))?;
        let forget = self.activated(build, forget, lstm.gate);
        let input = if lstm.coupled_input_forget {
            let one = build.number(1.0);
            build.sub(one, forget)
        } else {
            let input = self.gate(build, sum(0)?, 0, Some((c, 0)))?;
            self.activated(build, input, lstm.gate)
        };
        let candidate = self.gate(build, sum(first + 1)?, first + 1, None)?;
        let candidate = self.activated(build, candidate, lstm.candidate);
        let kept = build.mul(forget, c);
        let new = build.mul(input, candidate);
        let c = build.add(kept, new);
        let c = build.clip(c, lstm.cell_clip);
        let output = self.gate(build, sum(first + 2)?, first + 2, Some((c, first + 1)))?;
        let output = self.activated(build, output, lstm.gate);
        let squashed = build.activation(c, lstm.output);
        let mut h = build.mul(output, squashed);
        if let Some(projection) = &self.weights.projection {
            let bias = projection
                .bias
                .as_ref()
                .map(|bias| Tensor::from_vec(bias.shape(), bias.to_f32().into_owned()));
            h = build.dense(h, &projection.weight, bias.transpose()?, self.asymmetric)?;
            h = build.clip(h, lstm.projection_clip);
        }
        Ok((h, c))
    }

    /// The pre-activation of a gate from its sum: the peephole (a cell state and its block), and
    /// the layer norm.
    fn gate(
        &self,
        build: &mut Build<'_>,
        sum: ValueId,
        block: usize,
        peephole: Option<(ValueId, usize)>,
    ) -> Result<ValueId> {
        let units = self.units();
        let vector = |values: &[f32], block: usize| {
            let run = values
                .get(block * units..(block + 1) * units)
                .ok_or_else(|| Error::internal("a gate is missing"))?;
            Tensor::from_slice(&[units], run)
        };
        let mut sum = sum;
        if let (Some(weights), Some((c, block))) = (&self.weights.peephole, peephole) {
            let weights = build.constant("peephole", vector(&weights.to_f32(), block)?);
            let term = build.mul(weights, c);
            sum = build.add(sum, term);
        }
        if let Some(coefficients) = &self.weights.layer_norm {
            let mean = build.mean(sum)?;
            let centerd = build.sub(sum, mean);
            let square = build.unary(centerd, Unary::Square);
            let variance = build.mean(square)?;
            let small = build.number(1e-8);
            let variance = build.add(variance, small);
            let inverse = build.unary(variance, Unary::Rsqrt);
            let normal = build.mul(centerd, inverse);
            let coefficients = build.constant("layer norm", vector(&coefficients.to_f32(), block)?);
            sum = build.mul(normal, coefficients);
            if let Some(bias) = self.bias()? {
                let bias = build.constant("bias", vector(&bias.to_f32(), block)?);
                sum = build.add(sum, bias);
            }
        }
        Ok(sum)
    }
}

/// The first `rows` rows of a matrix, and the rest.
fn split_rows(matrix: &Matrix, rows: usize) -> Result<(Matrix, Matrix)> {
    let columns = matrix.columns();
    let below = matrix.rows().saturating_sub(rows);
    let outside = || Error::internal("rows outside their matrix");
    macro_rules! cut {
        ($ty:ty) => {{
            let (a, b) = matrix
                .data
                .as_slice::<$ty>()?
                .split_at_checked(rows * columns)
                .ok_or_else(outside)?;
            (Tensor::from_slice(&[rows, columns], a)?, Tensor::from_slice(&[below, columns], b)?)
        }};
    }
    let (a, b) = match matrix.data.dtype() {
        DType::I8 => cut!(i8),
        DType::F16 => cut!(half::f16),
        _ => cut!(f32),
    };
    // The scales divide all rows into equal runs: each row with its own divides both parts.
    let run = matrix.rows().div_ceil(matrix.scales.len().max(1)).max(1);
    let of_rows: Vec<f32> =
        matrix.scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, run)).collect();
    let (first, second) = of_rows.split_at_checked(rows).unwrap_or((&of_rows, &[]));
    Ok((Matrix { data: a, scales: first.to_vec() }, Matrix { data: b, scales: second.to_vec() }))
}
