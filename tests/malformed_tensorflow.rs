//! GraphDefs that are wrong, each with the error that says how; graphs that are odd and right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "malformed_tensorflow/hints.rs"]
mod hints;
#[path = "malformed_tensorflow/limits.rs"]
mod limits;
#[path = "malformed_tensorflow/ops.rs"]
mod ops;
#[path = "malformed_tensorflow/saved_model.rs"]
mod saved_model;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fuselstm::internal::formats;
use fuselstm::{Device, Error, ErrorKind, Model, Session, Tensor};

/// A float placeholder `x` with two elements.
const X: &str = r#"node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } }
                          attr { key: "shape" value { shape { dim { size: 2 } } } } }"#;

fn node(name: &str, op: &str, inputs: &[&str], attrs: &str) -> String {
    let inputs: String = inputs.iter().map(|input| format!("input: \"{input}\" ")).collect();
    format!("node {{ name: \"{name}\" op: \"{op}\" {inputs}{attrs} }}\n")
}

fn attr(key: &str, value: &str) -> String {
    format!("attr {{ key: \"{key}\" value {{ {value} }} }} ")
}

fn int32(name: &str, value: i32) -> String {
    let tensor = format!("tensor {{ dtype: DT_INT32 tensor_shape {{ }} int_val: {value} }}");
    node(name, "Const", &[], &(attr("dtype", "type: DT_INT32") + &attr("value", &tensor)))
}

fn read(text: &str) -> Result<Model, Error> {
    Model::from_graph(formats::read(text.as_bytes())?.graph)
}

/// The error of a graph: its kind, and words that its text must have.
fn refused(text: &str, kind: ErrorKind, words: &[&str]) {
    let error = match read(text) {
        Ok(_) => panic!("the graph was read: {text}"),
        Err(error) => error,
    };
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

fn malformed(text: &str, words: &[&str]) {
    refused(text, ErrorKind::Malformed, words);
}

fn run(text: &str, inputs: &[(&str, &Tensor)]) -> Vec<f32> {
    let model = read(text).unwrap_or_else(|error| panic!("{error:?}"));
    let session = Session::new(&model, Device::reference()).unwrap();
    let outputs = session.run(inputs).unwrap_or_else(|error| panic!("{error:?}"));
    outputs.get("out").or_else(|_| outputs.get("result")).unwrap().to_f32().into_owned()
}

fn x() -> Tensor {
    Tensor::from_vec(&[2], vec![1.0f32, -2.0]).unwrap()
}

// Names and wiring.

#[test]
fn nodes_may_stand_in_any_order() {
    let text = node("out", "Neg", &["mid"], "") + &node("mid", "Abs", &["x"], "") + X;
    assert_eq!(run(&text, &[("x", &x())]), [-1.0, -2.0]);
}

#[test]
fn two_nodes_of_one_name() {
    malformed(
        &(X.to_owned() + &node("a", "Neg", &["x"], "") + &node("a", "Abs", &["x"], "")),
        &["two nodes", "'a'"],
    );
}

#[test]
fn node_without_a_name() {
    malformed(&(X.to_owned() + &node("", "Neg", &["x"], "")), &["no name"]);
}

#[test]
fn node_that_is_its_own_input() {
    malformed(
        &(X.to_owned() + &node("a", "Add", &["x", "a"], "") + &node("out", "Neg", &["a"], "")),
        &["'a'", "itself"],
    );
}

#[test]
fn cycle_without_next_iteration() {
    let text = X.to_owned()
        + &node("a", "Add", &["x", "b"], "")
        + &node("b", "Neg", &["a"], "")
        + &node("out", "Neg", &["b"], "");
    malformed(&text, &["itself"]);
}

#[test]
fn cycle_alone_has_no_result() {
    malformed(
        &(X.to_owned() + &node("a", "Neg", &["b"], "") + &node("b", "Neg", &["a"], "")),
        &["result"],
    );
}

#[test]
fn input_that_does_not_exist() {
    malformed(&(X.to_owned() + &node("out", "Neg", &["y"], "")), &["'out'", "'y'"]);
}

#[test]
fn control_input_that_does_not_exist() {
    malformed(&(X.to_owned() + &node("out", "Neg", &["x", "^y"], "")), &["'out'", "'y'"]);
}

#[test]
fn node_with_nothing_but_a_control_input() {
    malformed(&(X.to_owned() + &node("out", "Neg", &["^x"], "")), &["'out'", "inputs"]);
}

#[test]
fn control_inputs_are_dropped() {
    let text = X.to_owned()
        + &node("check", "Assert", &["x"], "")
        + &node("out", "Neg", &["x", "^check"], "");
    assert_eq!(run(&text, &[("x", &x())]), [-1.0, 2.0]);
}

#[test]
fn output_99_of_a_node_with_one() {
    malformed(
        &(X.to_owned() + &node("a", "Neg", &["x"], "") + &node("out", "Neg", &["a:99"], "")),
        &["output 99", "'a'"],
    );
    malformed(&(X.to_owned() + &node("out", "Neg", &["x:-1"], "")), &["x:-1"]);
    malformed(
        &(X.to_owned() + &node("out", "Neg", &["x:18446744073709551616"], "")),
        &["tensor name"],
    );
}

#[test]
fn graph_without_nodes() {
    refused("versions { producer: 1 }", ErrorKind::Malformed, &["no nodes"]);
}

#[test]
fn unknown_op_is_named() {
    refused(
        &(X.to_owned() + &node("out", "Bucketize", &["x"], "")),
        ErrorKind::Unsupported,
        &["'out'", "Bucketize"],
    );
}

// Attributes and constants.

#[test]
fn attribute_missing() {
    malformed(
        &(node("x", "Placeholder", &[], "") + &node("out", "Neg", &["x"], "")),
        &["'x'", "'dtype'", "missing"],
    );
    malformed(
        &(X.to_owned() + &node("c", "Const", &[], "") + &node("out", "Add", &["x", "c"], "")),
        &["'c'", "'value'"],
    );
    malformed(
        &(X.to_owned() + &node("u", "Unpack", &["x"], "") + &node("out", "Neg", &["u"], "")),
        &["'u'", "'num'"],
    );
}

#[test]
fn attribute_of_the_wrong_kind() {
    let axis = attr("axis", "s: \"0\"") + &attr("num", "i: 2");
    malformed(
        &(X.to_owned() + &node("u", "Unpack", &["x"], &axis) + &node("out", "Neg", &["u"], "")),
        &["'u'", "'axis'"],
    );
    let dtype = attr("dtype", "i: 1");
    malformed(
        &(node("x", "Placeholder", &[], &dtype) + &node("out", "Neg", &["x"], "")),
        &["'x'", "'dtype'"],
    );
}

fn constant(tensor: &str) -> String {
    let attrs = attr("dtype", "type: DT_FLOAT")
        + &attr("value", &format!("tensor {{ dtype: DT_FLOAT {tensor} }}"));
    X.to_owned() + &node("c", "Const", &[], &attrs) + &node("out", "Add", &["x", "c"], "")
}

#[test]
fn constant_with_too_few_bytes() {
    malformed(
        &constant(r#"tensor_shape { dim { size: 2 } } tensor_content: "\000\000\200?""#),
        &["'c'", "4 bytes"],
    );
}

#[test]
fn constant_with_too_many_values() {
    malformed(
        &constant("tensor_shape { dim { size: 2 } } float_val: [1, 2, 3]"),
        &["'c'", "3 values"],
    );
}

#[test]
fn constant_splatted_beyond_all_memory() {
    let text =
        constant("tensor_shape { dim { size: 1048576 } dim { size: 1048576 } } float_val: 1");
    refused(&text, ErrorKind::Limit, &["'c'"]);
    let text =
        constant("tensor_shape { dim { size: 4294967296 } dim { size: 4294967296 } } float_val: 1");
    refused(&text, ErrorKind::Limit, &["'c'"]);
}

#[test]
fn constants_splatted_beyond_the_limit_together() {
    let mut text = X.to_owned();
    for index in 0..40 {
        let tensor =
            "tensor { dtype: DT_FLOAT tensor_shape { dim { size: 4194304 } } float_val: 1 }";
        let attrs = attr("dtype", "type: DT_FLOAT") + &attr("value", tensor);
        text += &node(&format!("c{index}"), "Const", &[], &attrs);
    }
    let names: Vec<String> = (0..40).map(|index| format!("c{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    refused(&(text + &node("out", "AddN", &names, "")), ErrorKind::Limit, &["limit"]);
}

#[test]
fn constant_of_negative_size() {
    malformed(&constant("tensor_shape { dim { size: -1 } } float_val: 1"), &["'c'", "open"]);
    malformed(&constant("tensor_shape { dim { size: -7 } } float_val: 1"), &["'c'", "-7"]);
}

#[test]
fn constant_repeats_its_last_value() {
    assert_eq!(
        run(&constant("tensor_shape { dim { size: 2 } } float_val: 0.5"), &[("x", &x())]),
        [1.5, -1.5]
    );
}

#[test]
fn huge_results_of_constants_are_not_computed_while_reading() {
    let dims = "tensor { dtype: DT_INT32 tensor_shape { dim { size: 2 } } int_val: 1000000 }";
    let fill =
        node("dims", "Const", &[], &(attr("dtype", "type: DT_INT32") + &attr("value", dims)));
    let zero = "tensor { dtype: DT_FLOAT tensor_shape { } float_val: 0 }";
    let zero =
        node("zero", "Const", &[], &(attr("dtype", "type: DT_FLOAT") + &attr("value", zero)));
    let text = X.to_owned()
        + &fill
        + &zero
        + &node("big", "Fill", &["dims", "zero"], "")
        + &node("out", "Neg", &["big"], "");
    let before = Instant::now();
    let _ = read(&text);
    assert!(before.elapsed() < Duration::from_secs(5));
}

// Loops.

/// `while i < 3: x = 2 x` in a frame; `change` may spoil a line.
fn frame(change: impl Fn(&str) -> String) -> String {
    let enter = |name: &str, input: &str, frame: &str| {
        node(
            name,
            "Enter",
            &[input],
            &(attr("T", "type: DT_FLOAT") + &attr("frame_name", &format!("s: \"{frame}\""))),
        )
    };
    let lines = [
        X.to_owned(),
        int32("zero", 0),
        int32("three", 3),
        int32("one", 1),
        enter("ei", "zero", "loop"),
        enter("ex", "x", "loop"),
        enter("et", "three", "loop"),
        node("mi", "Merge", &["ei", "ni"], ""),
        node("mx", "Merge", &["ex", "nx"], ""),
        node("test", "Less", &["mi", "et"], ""),
        node("cond", "LoopCond", &["test"], ""),
        node("si", "Switch", &["mi", "cond"], ""),
        node("sx", "Switch", &["mx", "cond"], ""),
        node("ai", "Add", &["si:1", "one"], ""),
        node("ax", "Add", &["sx:1", "sx:1"], ""),
        node("ni", "NextIteration", &["ai"], ""),
        node("nx", "NextIteration", &["ax"], ""),
        node("leave", "Exit", &["sx"], ""),
        node("out", "Neg", &["leave"], ""),
    ];
    lines.iter().map(|line| change(line)).collect()
}

#[test]
fn a_frame_runs() {
    assert_eq!(run(&frame(str::to_owned), &[("x", &x())]), [-8.0, 16.0]);
}

#[test]
fn frame_without_a_condition() {
    let text = frame(|line| line.replace("LoopCond", "Identity"));
    assert!(read(&text).is_err());
}

#[test]
fn frame_whose_merge_misses_its_next_value() {
    malformed(
        &frame(|line| line.replace(r#"input: "ex" input: "nx""#, r#"input: "ex" input: "ex""#)),
        &["'mx'", "Merge"],
    );
}

#[test]
fn next_iteration_that_no_merge_takes() {
    malformed(&(frame(str::to_owned) + &node("lost", "NextIteration", &["x"], "")), &["'lost'"]);
}

#[test]
fn exit_without_a_loop() {
    malformed(&(frame(str::to_owned) + &node("lost", "Exit", &["x"], "")), &["'lost'"]);
}

#[test]
fn loop_that_uses_a_value_which_does_not_enter_it() {
    malformed(
        &frame(|line| {
            line.replace(r#"input: "sx:1" input: "sx:1""#, r#"input: "sx:1" input: "x""#)
        }),
        &["'x'", "loop"],
    );
}

#[test]
fn loop_that_uses_its_own_result() {
    malformed(
        &frame(|line| {
            line.replace(r#"input: "sx:1" input: "sx:1""#, r#"input: "sx:1" input: "leave""#)
        }),
        &["'leave'"],
    );
    assert!(
        read(&frame(
            |line| line.replace(r#"input: "sx:1" input: "sx:1""#, r#"input: "sx:1" input: "sx""#)
        ))
        .is_err()
    );
}

#[test]
fn loops_that_mix() {
    // The second variable enters another frame than the first, and both share the condition.
    let text = frame(|line| match line.contains(r#"name: "ex""#) {
        true => line.replace("s: \"loop\"", "s: \"other\""),
        false => line.to_owned(),
    });
    assert!(read(&text).is_err());
}

#[test]
fn enter_without_a_frame() {
    malformed(
        &frame(|line| line.replace("frame_name", "name_of_frame")),
        &["'ei'", "'frame_name'"],
    );
}

#[test]
fn loop_body_with_a_side_effect() {
    let functions = |effect: &str| {
        let arg =
            |name: &str, dtype: &str| format!("input_arg {{ name: \"{name}\" type: {dtype} }}");
        let args = arg("v", "DT_RESOURCE") + &arg("a", "DT_FLOAT");
        let outputs = r#"output_arg { name: "v_out" type: DT_RESOURCE } output_arg { name: "a_out" type: DT_FLOAT }"#;
        let body = format!(
            "function {{ signature {{ name: \"body\" {args} {outputs} }} {effect}
             ret {{ key: \"v_out\" value: \"v\" }} ret {{ key: \"a_out\" value: \"n:y:0\" }}
             node_def {{ name: \"n\" op: \"Neg\" input: \"a\" }} }}"
        );
        let cond = format!(
            "function {{ signature {{ name: \"cond\" {args} output_arg {{ name: \"t\" type: DT_BOOL }} }}
             node_def {{ name: \"l\" op: \"Less\" input: \"a\" input: \"a\" }} ret {{ key: \"t\" value: \"r:output:0\" }}
             node_def {{ name: \"axis\" op: \"Const\" attr {{ key: \"dtype\" value {{ type: DT_INT32 }} }}
             attr {{ key: \"value\" value {{ tensor {{ dtype: DT_INT32 tensor_shape {{ dim {{ size: 1 }} }} int_val: 0 }} }} }} }}
             node_def {{ name: \"r\" op: \"Any\" input: \"l:z:0\" input: \"axis:output:0\" }} }}"
        );
        let call =
            attr("cond", "func { name: \"cond\" }") + &attr("body", "func { name: \"body\" }");
        let variable = node("var", "VarHandleOp", &[], &attr("dtype", "type: DT_FLOAT"));
        let text = X.to_owned()
            + &variable
            + &node("w", "While", &["var", "x"], &call)
            + &node("out", "Neg", &["w:1"], "");
        format!("{text} library {{ {body} {cond} }}")
    };
    assert_eq!(run(&functions(""), &[("x", &x())]), [-1.0, 2.0]);
    let effect = r#"node_def { name: "set" op: "AssignVariableOp" input: "v" input: "a" }"#;
    // No result depends on the variable: the write changes nothing that anybody gets.
    assert_eq!(run(&functions(effect), &[("x", &x())]), [-1.0, 2.0]);
    let effect = r#"node_def { name: "set" op: "AssignVariableOp" input: "a" input: "a" }"#;
    refused(&functions(effect), ErrorKind::Unsupported, &["'set'", "no variable is written"]);
}

#[test]
fn array_sized_at_run_time() {
    let int = attr("dtype", "type: DT_INT32") + &attr("shape", "shape { }");
    let text = X.to_owned()
        + &node("n", "Placeholder", &[], &int)
        + &int32("one", 1)
        + &node("array", "TensorArrayV3", &["n"], &attr("dtype", "type: DT_FLOAT"))
        + &node("write", "TensorArrayWriteV3", &["array", "one", "x", "array:1"], "")
        + &int32("zero", 0)
        + &node("all", "Range", &["zero", "n", "one"], "")
        + &node("out", "TensorArrayGatherV3", &["array", "all", "write"], "");
    let n = Tensor::scalar(3i32);
    assert_eq!(run(&text, &[("x", &x()), ("n", &n)]), [0.0, 0.0, 1.0, -2.0, 0.0, 0.0]);
}

#[test]
fn array_that_grows_is_as_long_as_its_last_write() {
    let grows = attr("dtype", "type: DT_FLOAT") + &attr("dynamic_size", "b: true");
    let text = X.to_owned()
        + &int32("n", 0)
        + &node("array", "TensorArrayV3", &["n"], &grows)
        + &int32("two", 2)
        + &node("write", "TensorArrayWriteV3", &["array", "two", "x", "array:1"], "")
        + &node("again", "TensorArrayWriteV3", &["array", "n", "x", "write"], "")
        + &node("size", "TensorArraySizeV3", &["array", "again"], "")
        + &node("delta", "Sub", &["size", "two"], "")
        + &node("all", "Range", &["n", "size", "delta"], "")
        + &node("out", "TensorArrayGatherV3", &["array", "all", "again"], "");
    assert_eq!(run(&text, &[("x", &x())]), [1.0, -2.0, 0.0, 0.0, 1.0, -2.0]);
}

// Functions.

fn function(name: &str, calls: &str) -> String {
    format!(
        "function {{ signature {{ name: \"{name}\" input_arg {{ name: \"a\" type: DT_FLOAT }}
         output_arg {{ name: \"b\" type: DT_FLOAT }} }} ret {{ key: \"b\" value: \"r:output:0\" }}
         node_def {{ name: \"c\" op: \"PartitionedCall\" input: \"a\"
         attr {{ key: \"f\" value {{ func {{ name: \"{calls}\" }} }} }} }}
         node_def {{ name: \"d\" op: \"PartitionedCall\" input: \"c:output:0\"
         attr {{ key: \"f\" value {{ func {{ name: \"{calls}\" }} }} }} }}
         node_def {{ name: \"r\" op: \"Identity\" input: \"d:output:0\" }} }}\n"
    )
}

fn call(name: &str) -> String {
    let f = attr("f", &format!("func {{ name: \"{name}\" }}"));
    X.to_owned() + &node("call", "PartitionedCall", &["x"], &f) + &node("out", "Neg", &["call"], "")
}

#[test]
fn function_that_does_not_exist() {
    malformed(&call("nothing"), &["'nothing'"]);
}

#[test]
fn function_that_calls_itself() {
    refused(
        &format!("{} library {{ {} }}", call("f"), function("f", "f")),
        ErrorKind::Unsupported,
        &["'f'", "itself"],
    );
}

#[test]
fn functions_that_call_each_other() {
    let library = function("f", "g") + &function("g", "f");
    refused(&format!("{} library {{ {library} }}", call("f")), ErrorKind::Unsupported, &["itself"]);
}

#[test]
fn functions_that_double_at_every_level() {
    let mut library = String::new();
    for level in 0..30 {
        library += &function(&format!("f{level}"), &format!("f{}", level + 1));
    }
    let last = r#"function { signature { name: "f30" input_arg { name: "a" type: DT_FLOAT } output_arg { name: "b" type: DT_FLOAT } }
                  node_def { name: "n" op: "Neg" input: "a" } ret { key: "b" value: "n:y:0" } }"#;
    refused(
        &format!("{} library {{ {library} {last} }}", call("f0")),
        ErrorKind::Limit,
        &["limit"],
    );
}

#[test]
fn two_functions_of_one_name() {
    malformed(
        &format!("{} library {{ {} {} }}", call("f"), function("f", "g"), function("f", "g")),
        &["two functions"],
    );
}

// Bytes.

#[test]
fn bytes_that_are_no_graph() {
    for bytes in [
        &b""[..],
        b"\n",
        b"node",
        b"node {",
        b"\x0a\x02\x0a\x00",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x0a",
    ] {
        assert!(formats::read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn text_says_the_line_of_a_mistake() {
    malformed("node {\n name: \"x\"\n op: 3\n}", &["line 3"]);
    malformed("node {\n name: \"x\n", &["not closed"]);
    malformed(&format!("node {{ {} ", "a { ".repeat(50)), &["closed"]);
}

#[test]
fn text_nested_too_deeply() {
    let text = format!("node {{ {} }}", "a { ".repeat(100_000));
    refused(&text, ErrorKind::Limit, &["nested"]);
}

#[test]
fn every_prefix_of_a_text_graph() {
    let text = frame(str::to_owned);
    for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
        let _ = formats::read(&text.as_bytes()[..end]);
    }
}

#[test]
fn every_prefix_and_every_flipped_bit_of_a_binary_graph() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tensorflow/nested_v2.pb");
    let mut bytes = std::fs::read(path).unwrap();
    for end in 0..bytes.len() {
        let _ = formats::read(&bytes[..end]);
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let _ = formats::read(&bytes);
            bytes[at] ^= 1 << bit;
        }
    }
}

// Size.

fn chain(length: usize) -> String {
    let mut text = X.to_owned();
    text += &node("n0", "Tanh", &["x"], "");
    for index in 1..length {
        let _ =
            writeln!(text, "node {{ name: \"n{index}\" op: \"Tanh\" input: \"n{}\" }}", index - 1);
    }
    text
}

#[test]
fn a_hundred_thousand_nodes_in_linear_time() {
    let time = |length: usize| {
        let text = chain(length);
        let before = Instant::now();
        let graph = formats::read(text.as_bytes()).unwrap().graph;
        assert_eq!(graph.nodes.len(), length);
        before.elapsed()
    };
    let (small, large) = (time(25_000), time(100_000));
    println!("25,000 nodes {small:?}, 100,000 nodes {large:?}");
    assert!(large < Duration::from_secs(20), "{large:?}");
    // Four times as many nodes; three times that is left for a busy machine.
    assert!(large < small * 12, "{small:?} for a quarter of the nodes, {large:?} for all");
}
