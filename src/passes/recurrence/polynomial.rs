//! Sums of products of atoms with constant factors: the normal form of a cell's equations.

use std::collections::BTreeMap;

use crate::graph::ValueId;

/// Columns of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Columns {
    pub value: ValueId,
    pub start: usize,
    pub len: usize,
}

/// The kind of an atom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The value itself: a state, an input, or something that is not understood.
    Leaf,
    /// The matrix product of a node with constant weights, without its bias.
    Product,
    /// The result of an activation.
    Activated,
    /// The result of a clip to constant bounds.
    Clipped,
    /// The result of a clip from 0 on, times the constant that makes its upper bound 1.
    Scaled,
}

/// A factor of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Atom {
    pub role: Role,
    pub part: Columns,
}

/// A constant factor: one for all columns, or one for each.
#[derive(Clone, Debug, PartialEq)]
pub enum Coefficient {
    Scalar(f64),
    Vector(Vec<f64>),
}

impl Coefficient {
    pub fn of(values: Vec<f64>) -> Coefficient {
        match values.as_slice() {
            [first, rest @ ..] if rest.iter().all(|x| x == first) => Coefficient::Scalar(*first),
            _ => Coefficient::Vector(values),
        }
    }

    pub fn zip(&self, other: &Coefficient, f: impl Fn(f64, f64) -> f64) -> Coefficient {
        match (self, other) {
            (Coefficient::Scalar(a), Coefficient::Scalar(b)) => Coefficient::Scalar(f(*a, *b)),
            (Coefficient::Scalar(a), Coefficient::Vector(b)) => {
                Coefficient::of(b.iter().map(|b| f(*a, *b)).collect())
            }
            (Coefficient::Vector(a), Coefficient::Scalar(b)) => {
                Coefficient::of(a.iter().map(|a| f(*a, *b)).collect())
            }
            (Coefficient::Vector(a), Coefficient::Vector(b)) => {
                Coefficient::of(a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect())
            }
        }
    }

    pub fn add(&self, other: &Coefficient) -> Coefficient {
        self.zip(other, |a, b| a + b)
    }

    pub fn mul(&self, other: &Coefficient) -> Coefficient {
        self.zip(other, |a, b| a * b)
    }

    pub fn is(&self, value: f64) -> bool {
        matches!(self, Coefficient::Scalar(x) if *x == value)
    }

    /// The factor of column `k`.
    pub fn at(&self, k: usize) -> f64 {
        match self {
            Coefficient::Scalar(x) => *x,
            Coefficient::Vector(x) => x.get(k).copied().unwrap_or(0.0),
        }
    }

    /// Equal up to the rounding of sums that were folded in another order.
    pub fn close_to(&self, other: &Coefficient, width: usize) -> bool {
        (0..width).all(|k| (self.at(k) - other.at(k)).abs() <= 1e-6 * (1.0 + self.at(k).abs()))
    }
}

/// A sum of terms: the product of the atoms times the constant.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Polynomial {
    pub terms: BTreeMap<Vec<Atom>, Coefficient>,
}

impl Polynomial {
    pub fn constant(coef: Coefficient) -> Polynomial {
        let mut sum = Polynomial::default();
        sum.add_term(Vec::new(), coef);
        sum
    }

    pub fn atom(role: Role, part: Columns) -> Polynomial {
        let mut sum = Polynomial::default();
        sum.add_term(vec![Atom { role, part }], Coefficient::Scalar(1.0));
        sum
    }

    pub fn add_term(&mut self, atoms: Vec<Atom>, coef: Coefficient) {
        let total = match self.terms.get(&atoms) {
            Some(old) => old.add(&coef),
            None => coef,
        };
        if total.is(0.0) {
            self.terms.remove(&atoms);
        } else {
            self.terms.insert(atoms, total);
        }
    }

    pub fn scaled(&self, factor: &Coefficient) -> Polynomial {
        let mut sum = Polynomial::default();
        for (atoms, coef) in &self.terms {
            sum.add_term(atoms.clone(), coef.mul(factor));
        }
        sum
    }

    pub fn plus(mut self, other: &Polynomial) -> Polynomial {
        for (atoms, coef) in &other.terms {
            self.add_term(atoms.clone(), coef.clone());
        }
        self
    }

    pub fn times(&self, other: &Polynomial) -> Polynomial {
        let mut sum = Polynomial::default();
        for (a, p) in &self.terms {
            for (b, q) in &other.terms {
                let mut atoms = a.clone();
                atoms.extend(b);
                atoms.sort_unstable();
                sum.add_term(atoms, p.mul(q));
            }
        }
        sum
    }

    /// The atom, when the sum is one atom and nothing else.
    pub fn as_atom(&self) -> Option<Atom> {
        let mut terms = self.terms.iter();
        match (terms.next(), terms.next()) {
            (Some((atoms, coef)), None) if coef.is(1.0) => match atoms.as_slice() {
                [atom] => Some(*atom),
                _ => None,
            },
            _ => None,
        }
    }
}
