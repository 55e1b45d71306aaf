//! `einsum` of one or two operands, as transposes, reshapes and one batched product.

use serde_json::Value as Json;

use super::Operation;
use crate::error::{Error, Result};
use crate::formats::keras::arguments::Arg;
use crate::formats::keras::builder::Builder;
use crate::graph::op::{MatMul, Op, ReduceFunction};
use crate::graph::{Dim, ValueId};

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "Einsum",
    arguments: &["x1", "x2", "subscripts"],
    apply: |b, bound| {
        let Some(Arg::Plain(Json::String(subscripts))) = bound.get("subscripts") else {
            return Err(Error::malformed("no subscripts"));
        };
        let mut values = vec![bound.flow("x1")?.value];
        values.extend(bound.flow_if("x2")?.map(|flow| flow.value));
        Ok(vec![einsum(b, subscripts, &values)?])
    },
}];

/// A value with a letter for each axis.
struct Lettered {
    value: ValueId,
    letters: Vec<char>,
}

/// The product that `subscripts` (`bij,bjk->bik`) names.
pub(in crate::formats::keras) fn einsum(
    b: &mut Builder,
    subscripts: &str,
    values: &[ValueId],
) -> Result<ValueId> {
    let refuse = || Error::unsupported(format!("the subscripts {subscripts:?}"));
    let text: String = subscripts.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = text.split_once("->").ok_or_else(refuse)?;
    let inputs: Vec<Vec<char>> = inputs.split(',').map(|part| part.chars().collect()).collect();
    let output: Vec<char> = output.chars().collect();
    if inputs.len() != values.len() || inputs.len() > 2 {
        return Err(refuse());
    }
    let mut sides = Vec::new();
    for (letters, &value) in inputs.iter().zip(values) {
        let distinct =
            letters.iter().enumerate().all(|(k, c)| !letters.iter().take(k).any(|d| d == c));
        if !distinct || !letters.iter().all(char::is_ascii_alphabetic) {
            return Err(refuse());
        }
        if b.rank(value)? != letters.len() {
            return Err(Error::malformed(format!("{subscripts:?} of another rank")));
        }
        sides.push(Lettered { value, letters: letters.clone() });
    }
    // Letters of one operand that the output lacks are summed over at once.
    for k in 0..sides.len() {
        let others: Vec<char> = inputs
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != k)
            .flat_map(|(_, letters)| letters.clone())
            .collect();
        let Some(side) = sides.get_mut(k) else { continue };
        sum_lone(b, side, |c| output.contains(&c) || others.contains(&c))?;
    }
    let mut sides = sides.into_iter();
    let joined = match (sides.next(), sides.next()) {
        (Some(one), None) => one,
        (Some(x), Some(y)) => product(b, x, y, &output)?,
        _ => return Err(refuse()),
    };
    if joined.letters.len() != output.len() {
        return Err(refuse());
    }
    arranged(b, &joined, &output)
}

fn sum_lone(b: &mut Builder, side: &mut Lettered, stays: impl Fn(char) -> bool) -> Result<()> {
    let mut axes = Vec::new();
    for (k, &letter) in side.letters.iter().enumerate() {
        if !stays(letter) {
            axes.push(i32::try_from(k).map_err(|_| Error::limit("too many axes"))?);
        }
    }
    if !axes.is_empty() {
        side.value = b.reduce(ReduceFunction::Sum, side.value, &axes, false)?;
        side.letters.retain(|&letter| stays(letter));
    }
    Ok(())
}

/// The value with its axes in the order of `letters`.
fn arranged(b: &mut Builder, side: &Lettered, letters: &[char]) -> Result<ValueId> {
    if side.letters == letters {
        return Ok(side.value);
    }
    let mut permutation = Vec::with_capacity(letters.len());
    for letter in letters {
        let at = side.letters.iter().position(|c| c == letter);
        let at = at
            .ok_or_else(|| Error::unsupported(format!("the letter {letter} comes from nowhere")))?;
        permutation.push(i32::try_from(at).map_err(|_| Error::limit("too many axes"))?);
    }
    b.transpose(side.value, &permutation)
}

/// Both operands as `[batch…, M, K]` and `[batch…, K, N]`, multiplied, and taken apart again.
fn product(b: &mut Builder, x: Lettered, y: Lettered, output: &[char]) -> Result<Lettered> {
    let in_y = |c: &char| y.letters.contains(c);
    let batch: Vec<char> =
        x.letters.iter().copied().filter(|c| in_y(c) && output.contains(c)).collect();
    let shared: Vec<char> =
        x.letters.iter().copied().filter(|c| in_y(c) && !output.contains(c)).collect();
    let rows: Vec<char> = x.letters.iter().copied().filter(|c| !in_y(c)).collect();
    let columns: Vec<char> = y.letters.iter().copied().filter(|c| !x.letters.contains(c)).collect();
    let sizes: Vec<(char, ValueId, usize, Dim)> = sizes(b, &[&x, &y])?;
    let left: Vec<char> = [&batch[..], &rows, &shared].concat();
    let right: Vec<char> = [&batch[..], &shared, &columns].concat();
    let a = arranged(b, &x, &left)?;
    let z = arranged(b, &y, &right)?;
    let a = grouped(b, a, &sizes, &batch, [&rows, &shared])?;
    let z = grouped(b, z, &sizes, &batch, [&shared, &columns])?;
    let op = MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false };
    let out = b.op(Op::MatMul(op), &[a, z])?;
    let letters: Vec<char> = [&batch[..], &rows, &columns].concat();
    let value = if rows.len() == 1 && columns.len() == 1 {
        out
    } else {
        let (dims, open) = shape_of(&sizes, &letters);
        b.reshape_to(out, &dims, &open)?
    };
    Ok(Lettered { value, letters })
}

/// Each letter's size, and a value and axis that have it.
fn sizes(b: &Builder, sides: &[&Lettered]) -> Result<Vec<(char, ValueId, usize, Dim)>> {
    let mut out: Vec<(char, ValueId, usize, Dim)> = Vec::new();
    for side in sides {
        for (axis, (&letter, &dim)) in side.letters.iter().zip(b.dims(side.value)?).enumerate() {
            match out.iter_mut().find(|(known, ..)| *known == letter) {
                Some(entry) if entry.3.known().is_none() => {
                    *entry = (letter, side.value, axis, dim);
                }
                Some(_) => {}
                None => out.push((letter, side.value, axis, dim)),
            }
        }
    }
    Ok(out)
}

fn shape_of(
    sizes: &[(char, ValueId, usize, Dim)],
    letters: &[char],
) -> (Vec<Dim>, Vec<(ValueId, usize)>) {
    let found = letters.iter().filter_map(|c| sizes.iter().find(|(letter, ..)| letter == c));
    let (mut dims, mut open) = (Vec::new(), Vec::new());
    for &(_, value, axis, dim) in found {
        dims.push(dim);
        if dim.known().is_none() {
            open.push((value, axis));
        }
    }
    (dims, open)
}

/// `[batch…, group…, group…]` with each group as one axis.
fn grouped(
    b: &mut Builder,
    x: ValueId,
    sizes: &[(char, ValueId, usize, Dim)],
    batch: &[char],
    groups: [&[char]; 2],
) -> Result<ValueId> {
    if groups.iter().all(|group| group.len() == 1) {
        return Ok(x);
    }
    let (batch_dims, batch_open) = shape_of(sizes, batch);
    let (mut dims, mut parts) = (Vec::new(), Vec::new());
    let mut open = batch_open.iter();
    for dim in batch_dims {
        parts.push(match dim.known() {
            Some(size) => b.integers(&[to_i32(size)?])?,
            None => {
                let &(of, axis) = open.next().ok_or_else(|| Error::internal("no such size"))?;
                b.size_of(of, axis)?
            }
        });
        dims.push(dim);
    }
    let mut rest = 0;
    for group in groups {
        let (sizes, _) = shape_of(sizes, group);
        let product = sizes.iter().try_fold(1usize, |n, dim| n.checked_mul(dim.known()?));
        rest += usize::from(product.is_none());
        // The rest of the value is one size that may be open.
        parts.push(match product {
            Some(size) => b.integers(&[to_i32(size)?])?,
            None => b.integers(&[-1])?,
        });
        dims.push(product.map_or(Dim::Unknown, Dim::Known));
    }
    if rest > 1 {
        return Err(Error::unsupported("einsum over several groups of axes of open sizes"));
    }
    let target = b.concat(&parts, 0)?;
    let y = b.op(Op::Reshape, &[x, target])?;
    b.declare(y, dims);
    Ok(y)
}

fn to_i32(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| Error::limit("a size overflows"))
}
