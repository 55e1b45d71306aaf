//! The results of a graph that names none.

use super::hints;
use super::scope::{Scope, ScopeNode, Source};

/// The nodes that look like results: those that no other node uses, and those with a name of their
/// own that only such nodes use (logits before a softmax).
///
/// Marks of hinted calls, parts of loops, variables and side effects are no results.
pub fn guess(main: &Scope) -> Vec<(String, Source)> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); main.nodes.len()];
    for (user, node) in main.nodes.iter().enumerate() {
        for input in &node.inputs {
            if let Source::Node(index, _) = input
                && let Some(users) = users.get_mut(*index)
            {
                users.push(user);
            }
        }
    }
    let in_loop = in_loops(main, &users);
    let flags = main.nodes.iter().zip(&users).zip(in_loop);
    let last: Vec<bool> = flags
        .map(|((node, users), in_loop)| !in_loop && users.is_empty() && is_result(node))
        .collect();
    let is_last = |index: &usize| last.get(*index) == Some(&true);
    let nodes = main.nodes.iter().zip(&users).enumerate();
    let results = nodes.filter(|(index, (node, users))| {
        let before_last = !users.is_empty() && users.iter().all(is_last);
        is_last(index) || before_last && is_result(node) && has_own_name(node)
    });
    results.map(|(index, (node, _))| (node.name.clone(), Source::Node(index, 0))).collect()
}

/// Which nodes stand in an old-style loop: those that an `Enter` leads to before an `Exit`.
fn in_loops(main: &Scope, users: &[Vec<usize>]) -> Vec<bool> {
    let mut inside = vec![false; main.nodes.len()];
    let is = |index: usize, op: &str| main.nodes.get(index).is_some_and(|node| node.op == op);
    let mut open: Vec<usize> = (0..main.nodes.len()).filter(|&index| is(index, "Enter")).collect();
    while let Some(index) = open.pop() {
        match inside.get_mut(index) {
            Some(inside) if !*inside && !is(index, "Exit") => *inside = true,
            _ => continue,
        }
        open.extend(users.get(index).into_iter().flatten());
    }
    inside
}

/// Whether a node computes something that may be a result.
fn is_result(node: &ScopeNode) -> bool {
    let silent = [
        "Const",
        "Placeholder",
        "PlaceholderV2",
        "PlaceholderWithDefault",
        "NoOp",
        "Assert",
        "Enter",
        "Exit",
        "Merge",
        "Switch",
        "NextIteration",
        "LoopCond",
        "While",
        "StatelessWhile",
        "VarHandleOp",
        "ReadVariableOp",
        "VarIsInitializedOp",
        "TensorArrayV3",
        "TensorListReserve",
        "TensorListFromTensor",
        "Shape",
        "SaveV2",
        "RestoreV2",
        "MergeV2Checkpoints",
        "ShardedFilename",
        "StringJoin",
        "Unpack",
        "Split",
        "SplitV",
    ];
    let op = node.op.as_str();
    !silent.contains(&op)
        && !op.starts_with("Assign")
        && !op.contains("Variable")
        && !hints::is_marked(node)
}

/// Whether the author gave the node a name: at the top level, and not the one that TensorFlow makes
/// from the op.
fn has_own_name(node: &ScopeNode) -> bool {
    let plain = |name: &str| {
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    // Names that the Python functions give, where they differ from the op's.
    let made = [
        "add",
        "sub",
        "mul",
        "truediv",
        "div",
        "stack",
        "unstack",
        "concat",
        "reverse",
        "lstm",
        "gru",
        "rnn",
        "onehot",
        "gather",
        "transpose",
        "reduce",
        "mean",
        "sum",
        "identity",
        "cond",
        "while",
        "select",
        "where",
        "cast",
        "tofloat",
        "tofloat32",
        "todouble",
        "toint32",
        "toint64",
        "logicaland",
        "zeros",
        "ones",
        "embeddinglookup",
        "expanddims",
        "squeeze",
    ];
    let is_list = node.op.starts_with("TensorArray") || node.op.starts_with("TensorList");
    if node.name.contains('/') || is_uuid(&node.name) || node.name.starts_with("OpHint") || is_list
    {
        return false;
    }
    let base = node.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    let base = plain(base);
    let op = plain(node.op.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('V'));
    let numbered = node.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    base != op && numbered != node.op && node.name != node.op && !made.contains(&base.as_str())
}

/// The stub pass names fused nodes by the call's identifier.
fn is_uuid(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
