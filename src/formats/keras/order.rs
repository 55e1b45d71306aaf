//! The order in which an `.h5` file lists the weights of a layer and of all that is inside it:
//! trainable weights first, then the others, at every level as Keras does it.

use super::version::Major;
use super::weights::Wanted;

/// A weight that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted {
    /// Scope and number.
    pub key: String,
    /// Shape of the configuration.
    pub shape: Vec<usize>,
    /// Name in messages.
    pub what: String,
    trained: bool,
}

#[derive(Debug)]
struct Group {
    scope: String,
    position: usize,
    trained: bool,
    is_model: bool,
    own: Vec<Noted>,
    children: Vec<Group>,
}

impl Group {
    fn new(scope: &str, position: usize, trained: bool, is_model: bool) -> Self {
        let (own, children) = (Vec::new(), Vec::new());
        Group { scope: scope.to_owned(), position, trained, is_model, own, children }
    }

    fn own_where(&self, trained: bool) -> impl Iterator<Item = Noted> {
        self.own.iter().filter(move |weight| weight.trained == trained).cloned()
    }

    fn children(&self) -> Vec<&Group> {
        let mut children: Vec<&Group> = self.children.iter().collect();
        children.sort_by_key(|child| child.position);
        children
    }

    /// `trainable_weights` of Keras 2.
    fn trained_2(&self) -> Vec<Noted> {
        if !self.trained {
            return Vec::new();
        }
        let inner = self.children().into_iter().flat_map(Group::trained_2);
        self.own_where(true).chain(inner).collect()
    }

    /// `non_trainable_weights` of Keras 2. A frozen layer lists each inner layer whole, a frozen
    /// model first what its layers train and then what they do not (`base_layer.py`,
    /// `training.py`).
    fn others_2(&self) -> Vec<Noted> {
        let children = self.children();
        let others = children.iter().flat_map(|child| child.others_2());
        if self.trained {
            return self.own_where(false).chain(others).collect();
        }
        let own = self.own_where(true).chain(self.own_where(false));
        if self.is_model {
            let trained = children.iter().flat_map(|child| child.trained_2());
            return trained.chain(others).chain(own).collect();
        }
        let whole = children.iter().flat_map(|child| {
            child.trained_2().into_iter().chain(child.others_2()).collect::<Vec<_>>()
        });
        own.chain(whole).collect()
    }

    /// `variables` of Keras 3, in the order of making, each with whether it is trained: freezing a
    /// layer freezes all that is inside.
    fn all_3(&self, frozen: bool, out: &mut Vec<(Noted, bool)>) {
        let frozen = frozen || !self.trained;
        let own = self.own_where(true).chain(self.own_where(false));
        out.extend(own.map(|weight| {
            let trained = weight.trained && !frozen;
            (weight, trained)
        }));
        self.children().into_iter().for_each(|child| child.all_3(frozen, out));
    }
}

/// What a layer of the whole model asked for, by the layers inside it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Option<Group>,
    /// The way from the root to the current group.
    path: Vec<usize>,
}

impl Tree {
    fn current(&mut self) -> Option<&mut Group> {
        let mut at = self.root.as_mut()?;
        for &k in &self.path {
            at = at.children.get_mut(k)?;
        }
        Some(at)
    }

    /// Turns to a group inside the current one, which a second call of its layer finds again.
    pub fn enter(&mut self, scope: &str, position: usize, trained: bool, is_model: bool) {
        let Some(at) = self.current() else {
            self.root = Some(Group::new(scope, position, trained, is_model));
            return;
        };
        let found = at.children.iter().position(|child| child.scope == scope);
        let index = found.unwrap_or_else(|| {
            at.children.push(Group::new(scope, position, trained, is_model));
            at.children.len() - 1
        });
        self.path.push(index);
    }

    /// Turns back to the group around the current one.
    pub fn leave(&mut self) {
        self.path.pop();
    }

    /// Notes a weight of the current group.
    pub fn note(&mut self, wanted: Wanted<'_>) {
        let Wanted { scope, index, shape, what, trained } = wanted;
        let key = format!("{scope}/{index}");
        if let Some(group) = self.current()
            && !group.own.iter().any(|weight| weight.key == key)
        {
            let (shape, what) = (shape.to_vec(), what.to_owned());
            group.own.push(Noted { key, shape, what, trained });
        }
    }

    /// All weights in the order of the file.
    pub fn order(&self, major: Major) -> Vec<Noted> {
        let Some(root) = &self.root else { return Vec::new() };
        match major {
            Major::Keras2 => root.trained_2().into_iter().chain(root.others_2()).collect(),
            Major::Keras3 => {
                let mut all = Vec::new();
                root.all_3(false, &mut all);
                let (trained, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, t)| *t);
                trained.into_iter().chain(others).map(|(weight, _)| weight).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(tree: &mut Tree, scope: &str, names: &[(&str, bool)]) {
        for (index, (what, trained)) in names.iter().enumerate() {
            tree.note(Wanted { scope, index, shape: &[1], what, trained: *trained });
        }
    }

    fn names(tree: &Tree, major: Major) -> Vec<String> {
        tree.order(major).into_iter().map(|weight| weight.what).collect()
    }

    #[test]
    fn trained_weights_come_first_whatever_the_order_of_calls() {
        let mut tree = Tree::default();
        tree.enter("m", 0, true, true);
        for (scope, position, trained) in [("m/b", 1, true), ("m/a", 0, false), ("m/b", 1, true)] {
            tree.enter(scope, position, trained, false);
            note(&mut tree, scope, &[("gamma", true), ("mean", false)]);
            tree.leave();
        }
        let expected = ["gamma", "gamma", "mean", "mean"];
        for major in [Major::Keras2, Major::Keras3] {
            assert_eq!(names(&tree, major), expected);
            let first = tree.order(major).first().map(|weight| weight.key.clone());
            assert_eq!(first.as_deref(), Some("m/b/0"));
        }
    }
}
