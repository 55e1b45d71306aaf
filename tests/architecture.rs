//! The house as its own sources say it: which rooms use which, and how long things are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms, lowest first: each uses rooms before it and no other. `lib`, `types` and `internal`
/// only hand out what is here.
const ROOMS: [&str; 15] = [
    "error", "text", "limits", "files", "tensor", "graph", "eval", "plan", "formats", "passes",
    "backend", "session", "convert", "measure", "cli",
];
const DOORS: [&str; 4] = ["lib", "types", "internal", "bin"];

const MOST_LINES: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 100;

/// Files that are longer for now; a list to shorten.
const LONG_FILES: [&str; 8] = [
    "src/backend/gpu/program.rs",
    "src/backend/gpu/recurrent/tests.rs",
    "src/formats/onnx/movement.rs",
    "src/formats/tflite/read/plain.rs",
    "src/graph/op.rs",
    "src/passes/dequantize.rs",
    "src/passes/recurrence/algebra.rs",
    "tests/eval/recurrent.rs",
];

/// Functions that are longer for now; a list to shorten.
const LONG_FUNCTIONS: [&str; 8] = [
    "src/backend/cpu/recurrent/weights.rs: pack",
    "src/formats/tflite/read/plain.rs: read",
    "src/formats/tflite/write/lower.rs: node",
    "src/formats/tflite/write/plain.rs: plain",
    "src/graph/print.rs: options",
    "src/passes/dequantize.rs: rewrite_node",
    "src/passes/recurrence/cells.rs: lstm",
    "src/passes/recurrence/cells.rs: match_gru",
];

/// Every source file below a folder, with its text; paths from the root of the package.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|kind| kind == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&root.join(folder), &mut paths);
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    paths.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The room of a file: the folder or file below `src`.
fn room(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap();
    below.split('/').next().unwrap().trim_end_matches(".rs")
}

/// What is there before the tests of a file; nothing of a file of tests.
fn production<'t>(path: &str, text: &'t str) -> &'t str {
    let is_test = path.contains("/tests") || path.ends_with("tests.rs") || path.contains("testing");
    if is_test { "" } else { text.split("#[cfg(test)]\n").next().unwrap() }
}

/// The names that stand right behind `crate::`, also in braces: `crate::{a::B, c}`.
fn used(text: &str) -> Vec<String> {
    let first = |path: &str| -> String {
        path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            names.push(first(after));
            continue;
        };
        let (mut depth, mut begin) = (1, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {
                    names.push(first(&list[begin..at]));
                    begin = at + 1;
                }
                _ => {}
            }
            if depth == 0 {
                names.push(first(&list[begin..at]));
                break;
            }
        }
    }
    names
}

/// The rooms behind the names that the crate's root hands out: `Tensor` is of `tensor`.
fn roots() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let mut roots = BTreeMap::new();
    for line in text.unwrap().lines().filter_map(|line| line.strip_prefix("pub use ")) {
        let (module, names) = line.trim_end_matches(';').split_once("::").unwrap();
        for name in names.trim_matches(['{', '}']).split(',') {
            roots.insert(name.trim().to_owned(), module.to_owned());
        }
    }
    assert!(roots.contains_key("Tensor") && roots.contains_key("Model"), "{roots:?}");
    roots
}

/// Every use of one room by another, with a file where it stands.
fn arrows(sources: &[(String, String)]) -> BTreeMap<(String, String), String> {
    let roots = roots();
    let mut arrows = BTreeMap::new();
    for (path, text) in sources {
        let from = room(path);
        if DOORS.contains(&from) {
            continue;
        }
        for name in used(production(path, text)) {
            let to = roots.get(&name).cloned().unwrap_or(name);
            if to != from && (ROOMS.contains(&to.as_str()) || DOORS.contains(&to.as_str())) {
                arrows.entry((from.to_owned(), to)).or_insert_with(|| path.clone());
            }
        }
    }
    arrows
}

/// The arrows that point up, or at a door.
fn upward(arrows: &BTreeMap<(String, String), String>) -> Vec<String> {
    let floor = |room: &str| ROOMS.iter().position(|other| *other == room);
    let mut up = Vec::new();
    for ((from, to), path) in arrows {
        let lower = floor(to).zip(floor(from)).is_some_and(|(to, from)| to < from);
        if !lower {
            up.push(format!("{path}: `{from}` uses `{to}`, which stands above it"));
        }
    }
    up
}

#[test]
fn every_room_is_known_and_uses_lower_ones_only() {
    let sources = sources("src");
    let rooms: BTreeSet<&str> = sources.iter().map(|(path, _)| room(path)).collect();
    let known: BTreeSet<&str> = ROOMS.into_iter().chain(DOORS).collect();
    assert_eq!(rooms, known, "a new room gets its floor in ROOMS");
    let up = upward(&arrows(&sources));
    assert!(up.is_empty(), "{}", up.join("\n"));
}

#[test]
fn an_arrow_upward_would_be_seen() {
    for line in [
        "use crate::session::Session;",
        "use crate::{error::Result, measure::{compare, golden}};",
        "fn f() -> crate::Model { todo!() }",
        "let x = crate::cli::main();",
    ] {
        let sources = [("src/graph/mod.rs".to_owned(), line.to_owned())];
        assert_eq!(upward(&arrows(&sources)).len(), 1, "{line}");
    }
    for line in ["use crate::error::Result;", "// crate::session", "use crate::Tensor;"] {
        let sources = [("src/graph/mod.rs".to_owned(), line.to_owned())];
        assert!(upward(&arrows(&sources)).is_empty(), "{line}");
    }
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let lines = text.lines().count();
        if lines > MOST_LINES && !LONG_FILES.contains(&path.as_str()) {
            wrong.push(format!("{path} has {lines} lines, at most {MOST_LINES} are wanted"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Name and lines of every function: from `fn` to the brace below it.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let mut words = line.split_whitespace();
        let before = words.by_ref().take_while(|word| *word != "fn");
        let is_plain = |word: &str| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(&word)
        };
        let has_fn = line.split_whitespace().any(|word| word == "fn");
        if !has_fn || !before.collect::<Vec<_>>().into_iter().all(is_plain) {
            continue;
        }
        let name = line.split("fn ").nth(1).unwrap_or_default();
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|line| *line == end) {
            found.push((name, length + 1));
        }
    }
    found
}

#[test]
fn no_function_is_longer_than_a_page() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        for (name, lines) in functions(&text) {
            let function = format!("{path}: {name}");
            if lines > MOST_LINES_OF_A_FUNCTION && !LONG_FUNCTIONS.contains(&function.as_str()) {
                wrong.push(format!("{function} has {lines} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let long = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(200));
    assert_eq!(functions(&long), [("f".to_owned(), 202)]);
}
