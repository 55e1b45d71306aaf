//! Einsum as transposes, reshapes and batched products, for every reader.
//!
//! Operands are taken two at a time. Of two, an index that stands in both and in the result is a
//! batch axis, one that stands in both and not in the result is summed by the product, one that
//! stands in one and nowhere else is summed before it:
//!
//! ```text
//! a [batch…, rows…, sum…] · b [batch…, sum…, columns…] → [batch…, rows…, columns…]
//! ```

use crate::error::{Error, Result};
use crate::graph::op::{Activation, Concat, MatMul, Reduce, ReduceFunction, Squeeze, StridedSlice};
use crate::graph::{Dim, Op, ValueId, ValueType};
use crate::tensor::DType;

/// Where the nodes of an einsum go: the builder of a reader.
pub trait Sink {
    /// What is known of a value.
    ///
    /// # Errors
    /// When there is no such value.
    fn ty(&self, id: ValueId) -> Result<ValueType>;

    /// Adds a node with one result.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId>;

    /// Adds an i32 vector.
    ///
    /// # Errors
    /// When it is too long.
    fn vector(&mut self, values: &[i32]) -> Result<ValueId>;
}

/// Index of an axis: a letter of the equation, or an axis of the ellipsis, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Letter(char),
    Ellipsis(usize),
}

/// A value and the index of each of its axes.
#[derive(Clone, Debug)]
struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

/// Adds the nodes of `equation` (`ab,bc->ac`; spaces do not count, the result may be left out) over
/// `operands`, and returns the result.
///
/// # Errors
/// Malformed for an equation that does not fit the operands, Unsupported for one index twice in an
/// operand (a diagonal) and for operands whose rank is not known.
pub fn lower(sink: &mut impl Sink, equation: &str, operands: &[ValueId]) -> Result<ValueId> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let bad = |why: &str| Error::malformed(format!("the einsum '{equation}': {why}"));
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != operands.len() || operands.is_empty() {
        return Err(bad(&format!("{} operands for {} terms", operands.len(), texts.len())));
    }
    let mut terms = Vec::with_capacity(operands.len());
    for (&text, &value) in texts.iter().zip(operands) {
        let rank = sink.ty(value)?.rank().ok_or_else(|| {
            Error::unsupported(format!(
                "the einsum '{equation}': the rank of an operand is not known"
            ))
        })?;
        let labels = labels(text, Some(rank)).ok_or_else(|| {
            bad(&format!("the term '{text}' does not fit an operand with {rank} axes"))
        })?;
        if has_twice(&labels) {
            return Err(Error::unsupported(format!(
                "the einsum '{equation}': an index stands twice in '{text}' (a diagonal)"
            )));
        }
        terms.push(Term { value, labels });
    }
    let result = match right {
        Some(text) => with_ellipsis(text, &terms).ok_or_else(|| bad("its result is no term"))?,
        None => implied(&terms),
    };
    let known = |label: &Label| terms.iter().any(|term| term.labels.contains(label));
    if has_twice(&result) || !result.iter().all(known) {
        return Err(bad("its result has an index twice, or one that no operand has"));
    }
    contract(sink, terms, &result)
}

/// The index of each axis; `rank` tells how many axes an ellipsis stands for.
fn labels(text: &str, rank: Option<usize>) -> Option<Vec<Label>> {
    let (before, after) = text.split_once("...").map_or((text, None), |(a, b)| (a, Some(b)));
    let letters = |text: &str| -> Option<Vec<Label>> {
        text.chars().map(|c| c.is_alphabetic().then_some(Label::Letter(c))).collect()
    };
    let mut all = letters(before)?;
    if let Some(after) = after {
        let after = letters(after)?;
        let open = rank?.checked_sub(all.len() + after.len())?;
        all.extend((0..open).rev().map(Label::Ellipsis));
        all.extend(after);
    }
    rank.is_none_or(|rank| rank == all.len()).then_some(all)
}

/// The labels of the result, whose ellipsis has all axes that the operands' have.
fn with_ellipsis(text: &str, terms: &[Term]) -> Option<Vec<Label>> {
    let open = ellipsis(terms);
    let letters = text.replacen("...", "", 1).chars().count();
    labels(text, text.contains("...").then_some(letters + open))
}

fn ellipsis(terms: &[Term]) -> usize {
    let axes = |term: &Term| {
        term.labels.iter().filter(|label| matches!(label, Label::Ellipsis(_))).count()
    };
    terms.iter().map(axes).max().unwrap_or(0)
}

/// The result of an equation that does not say it: the ellipsis, then the letters that stand once,
/// in the order of the alphabet.
fn implied(terms: &[Term]) -> Vec<Label> {
    let all: Vec<Label> = terms.iter().flat_map(|term| &term.labels).copied().collect();
    let mut letters: Vec<Label> = all
        .iter()
        .filter(|label| matches!(label, Label::Letter(_)))
        .filter(|label| all.iter().filter(|other| other == label).count() == 1)
        .copied()
        .collect();
    letters.sort_unstable();
    (0..ellipsis(terms)).rev().map(Label::Ellipsis).chain(letters).collect()
}

fn has_twice(labels: &[Label]) -> bool {
    labels.iter().enumerate().any(|(at, label)| labels.iter().skip(at + 1).any(|l| l == label))
}

fn contract(sink: &mut impl Sink, terms: Vec<Term>, result: &[Label]) -> Result<ValueId> {
    let mut terms = std::collections::VecDeque::from(terms);
    let mut first = terms.pop_front().ok_or_else(|| Error::malformed("an einsum of nothing"))?;
    while let Some(second) = terms.pop_front() {
        let wanted = |label: &Label| {
            result.contains(label) || terms.iter().any(|term| term.labels.contains(label))
        };
        first = product(sink, first, second, wanted)?;
    }
    let first = sum_alone(sink, first, |label| result.contains(label))?;
    ordered(sink, first, result)
}

/// Sums over the axes that nobody wants.
fn sum_alone(sink: &mut impl Sink, term: Term, wanted: impl Fn(&Label) -> bool) -> Result<Term> {
    let axes: Vec<i32> =
        (0..).zip(&term.labels).filter(|(_, label)| !wanted(label)).map(|(axis, _)| axis).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let axes = sink.vector(&axes)?;
    let sum = Reduce { function: ReduceFunction::Sum, keep_dims: false };
    let value = sink.add(Op::Reduce(sum), &[term.value, axes])?;
    Ok(Term { value, labels: term.labels.into_iter().filter(wanted).collect() })
}

/// The value with its axes in this order.
fn ordered(sink: &mut impl Sink, term: Term, order: &[Label]) -> Result<ValueId> {
    if term.labels == order {
        return Ok(term.value);
    }
    let place = |label: &Label| term.labels.iter().position(|other| other == label);
    let order: Option<Vec<i32>> =
        order.iter().map(|label| i32::try_from(place(label)?).ok()).collect();
    let order = order.filter(|order| order.len() == term.labels.len());
    let order = order.ok_or_else(|| Error::internal("an einsum lost an index"))?;
    let order = sink.vector(&order)?;
    sink.add(Op::Transpose, &[term.value, order])
}

/// The product of two terms over the indices that are in both and that nobody wants afterwards.
fn product(
    sink: &mut impl Sink,
    a: Term,
    b: Term,
    wanted: impl Fn(&Label) -> bool,
) -> Result<Term> {
    let a = sum_alone(sink, a, |label| wanted(label) || b.labels.contains(label))?;
    let b = sum_alone(sink, b, |label| wanted(label) || a.labels.contains(label))?;
    let of = |term: &Term, keep: &dyn Fn(&Label) -> bool| -> Vec<Label> {
        term.labels.iter().copied().filter(keep).collect()
    };
    let batch = of(&a, &|label| b.labels.contains(label) && wanted(label));
    let sums = of(&a, &|label| b.labels.contains(label) && !wanted(label));
    let rows = of(&a, &|label| !b.labels.contains(label));
    let columns = of(&b, &|label| !a.labels.contains(label));
    // Without batch axes the rows need not be one axis: the product takes leading axes as they are.
    let (lead, rows) = if batch.is_empty() && rows.len() > 1 {
        let (lead, last) = rows.split_at(rows.len() - 1);
        (lead.to_vec(), last.to_vec())
    } else {
        (batch.clone(), rows)
    };
    let sides =
        [matrix(sink, &a, &lead, &rows, &sums)?, matrix(sink, &b, &batch, &sums, &columns)?];
    let [(left, transpose_a), (right, transpose_b)] = sides;
    let op = MatMul { transpose_a, transpose_b, asymmetric_inputs: false };
    let value = sink.add(Op::MatMul(op), &[left, right])?;
    let value = unmerged(sink, value, (&a, &b), (&lead, &rows, &columns))?;
    let labels = lead.into_iter().chain(rows).chain(columns).collect();
    Ok(Term { value, labels })
}

/// A term as `[lead…, first, second]`, each of the two merged to one axis (of size 1 when it has no
/// index), and whether the two stand the other way round.
fn matrix(
    sink: &mut impl Sink,
    term: &Term,
    lead: &[Label],
    first: &[Label],
    second: &[Label],
) -> Result<(ValueId, bool)> {
    let straight: Vec<Label> = [lead, first, second].concat();
    let swapped: Vec<Label> = [lead, second, first].concat();
    // A term that stands the other way round needs no transpose.
    let is_swapped = term.labels == swapped && term.labels != straight;
    let (order, parts) =
        if is_swapped { (swapped, [second, first]) } else { (straight, [first, second]) };
    let mut value = ordered(sink, term.clone(), &order)?;
    if parts.iter().any(|part| part.len() != 1) {
        let groups: Vec<usize> =
            std::iter::repeat_n(1, lead.len()).chain(parts.map(<[Label]>::len)).collect();
        value = regrouped(sink, value, &groups)?;
    }
    Ok((value, is_swapped))
}

/// Merges runs of axes: `groups` says how many axes each axis of the result stands for; none is an
/// axis of size 1.
fn regrouped(sink: &mut impl Sink, value: ValueId, groups: &[usize]) -> Result<ValueId> {
    let dims = dims(sink, value)?;
    let mut entries = Vec::with_capacity(groups.len());
    let mut at = 0;
    for &count in groups {
        entries.push(Entry {
            of: value,
            dims: dims.iter().copied().skip(at).take(count).collect(),
            at,
        });
        at += count;
    }
    let shape = shape(sink, &entries)?;
    sink.add(Op::Reshape, &[value, shape])
}

/// Gives a product `[lead…, rows, columns]` one axis for each index of the rows and columns.
fn unmerged(
    sink: &mut impl Sink,
    value: ValueId,
    (a, b): (&Term, &Term),
    (lead, rows, columns): (&[Label], &[Label], &[Label]),
) -> Result<ValueId> {
    if rows.len() == 1 && columns.len() == 1 {
        return Ok(value);
    }
    if rows.len() <= 1 && columns.len() <= 1 {
        // Axes of size 1 that stand for no index go.
        let first = lead.len() as i64;
        let axes = [(rows, first), (columns, first + 1)];
        let axes = axes.iter().filter(|(labels, _)| labels.is_empty()).map(|(_, axis)| *axis);
        return sink.add(Op::Squeeze(Squeeze { axes: axes.collect() }), &[value]);
    }
    let mut entries = Vec::new();
    let product = dims(sink, value)?;
    for (at, _) in lead.iter().enumerate() {
        entries.push(Entry {
            of: value,
            dims: product.iter().copied().skip(at).take(1).collect(),
            at,
        });
    }
    for (term, labels) in [(a, rows), (b, columns)] {
        let dims = dims(sink, term.value)?;
        for label in labels {
            let at = term.labels.iter().position(|other| other == label).unwrap_or(0);
            entries.push(Entry {
                of: term.value,
                dims: dims.iter().copied().skip(at).take(1).collect(),
                at,
            });
        }
    }
    let shape = shape(sink, &entries)?;
    sink.add(Op::Reshape, &[value, shape])
}

/// One size of a target shape: the product of some axes of a value, from axis `at` on.
struct Entry {
    of: ValueId,
    dims: Vec<Dim>,
    at: usize,
}

impl Entry {
    fn known(&self) -> Option<i32> {
        let size = self.dims.iter().try_fold(1usize, |n, dim| n.checked_mul(dim.known()?))?;
        i32::try_from(size).ok()
    }
}

fn dims(sink: &impl Sink, value: ValueId) -> Result<Vec<Dim>> {
    sink.ty(value)?.shape.ok_or_else(|| Error::unsupported("an einsum of a value without a rank"))
}

/// A target shape; sizes that are not known are taken from the values when the model runs.
fn shape(sink: &mut impl Sink, entries: &[Entry]) -> Result<ValueId> {
    let open = entries.iter().filter(|entry| entry.known().is_none()).count();
    // A size of 0 elsewhere would leave the −1 undefined.
    let is_empty = entries.iter().any(|entry| entry.known() == Some(0));
    if open == 0 || open == 1 && !is_empty {
        let sizes: Vec<i32> = entries.iter().map(|entry| entry.known().unwrap_or(-1)).collect();
        return sink.vector(&sizes);
    }
    let mut parts = Vec::with_capacity(entries.len());
    for entry in entries {
        parts.push(match entry.known() {
            Some(size) => sink.vector(&[size])?,
            None => size_of(sink, entry)?,
        });
    }
    let concat = Concat { axis: 0, activation: Activation::Linear };
    sink.add(Op::Concat(concat), &parts)
}

/// The size of an entry, `[1]`, when the model runs.
fn size_of(sink: &mut impl Sink, entry: &Entry) -> Result<ValueId> {
    let shape = sink.add(Op::Shape(DType::I32), &[entry.of])?;
    let end = i32::try_from(entry.at + entry.dims.len()).unwrap_or(i32::MAX);
    let begin = sink.vector(&[i32::try_from(entry.at).unwrap_or(i32::MAX)])?;
    let (end, stride) = (sink.vector(&[end])?, sink.vector(&[1])?);
    let sizes =
        sink.add(Op::StridedSlice(StridedSlice::default()), &[shape, begin, end, stride])?;
    if entry.dims.len() == 1 {
        return Ok(sizes);
    }
    let axis = sink.vector(&[0])?;
    let product = Reduce { function: ReduceFunction::Product, keep_dims: true };
    sink.add(Op::Reduce(product), &[sizes, axis])
}
