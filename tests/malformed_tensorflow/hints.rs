//! OpHint marks that are broken.

use super::*;

/// A marked call: `inputs` and `outputs` are the attributes of its marks.
fn hinted(inputs: &[String], outputs: &[String]) -> String {
    let mut text = X.to_owned();
    for (index, attrs) in inputs.iter().enumerate() {
        text += &node(&format!("in{index}"), "Identity", &["x"], attrs);
    }
    text += &node("inside", "Tanh", &["in0"], "");
    for (index, attrs) in outputs.iter().enumerate() {
        text += &node(&format!("out{index}"), "Identity", &["inside"], attrs);
    }
    text + &node("result", "Neg", &["out0"], "")
}

fn mark(side: &str, index: i64, more: &str) -> String {
    attr("_tflite_function_name", "s: \"call\"")
        + &attr("_tflite_function_uuid", "s: \"0123\"")
        + &attr(&format!("_tflite_function_{side}_index"), &format!("i: {index}"))
        + more
}

fn tag(aggregate: &str, sort: i64) -> String {
    attr("_tflite_function_aggregate", &format!("s: \"{aggregate}\""))
        + &attr("_tflite_function_sort_index", &format!("i: {sort}"))
}

fn input(more: &str) -> String {
    mark("input", 0, more)
}

fn output() -> [String; 1] {
    [mark("output", 0, "")]
}

#[test]
fn marks_are_identities() {
    let out = run(&hinted(&[input("")], &output()), &[("x", &x())]);
    assert!((out[0] + 1f32.tanh()).abs() < 1e-6);
}

#[test]
fn hint_of_unknown_level() {
    for level in [-1, 0, 3, 1i64 << 40] {
        malformed(
            &hinted(&[input(&attr("_tflite_ophint_level", &format!("i: {level}")))], &output()),
            &["in0", "level"],
        );
    }
}

#[test]
fn hint_of_unknown_aggregate() {
    malformed(&hinted(&[input(&tag("middle", 0))], &output()), &["in0", "middle"]);
}

#[test]
fn hint_with_half_a_tag() {
    malformed(
        &hinted(&[input(&attr("_tflite_function_sort_index", "i: 0"))], &output()),
        &["aggregate"],
    );
    malformed(
        &hinted(&[input(&attr("_tflite_function_aggregate", "s: \"stack\""))], &output()),
        &["sort index"],
    );
}

#[test]
fn hints_with_a_gap() {
    malformed(&hinted(&[input(&tag("stack", 0)), input(&tag("stack", 2))], &output()), &["gap"]);
}

#[test]
fn hints_that_repeat_an_index() {
    malformed(&hinted(&[input(""), input("")], &output()), &["share one index"]);
    malformed(
        &hinted(&[input(&tag("stack", 0)), input(&tag("stack", 0))], &output()),
        &["same sort index"],
    );
    malformed(
        &hinted(&[input(&tag("stack", 0)), input(&tag("first", 1))], &output()),
        &["different aggregates"],
    );
}

#[test]
fn hint_index_out_of_range() {
    malformed(&hinted(&[mark("input", 1 << 31, "")], &output()), &["in0", "2147483648"]);
    malformed(&hinted(&[mark("input", -1, "")], &output()), &["in0", "-1"]);
    malformed(&hinted(&[input(&tag("stack", 1 << 31))], &output()), &["in0", "sort index"]);
}

#[test]
fn hints_of_two_calls_share_an_identifier() {
    let other = mark("output", 0, "").replace("s: \"call\"", "s: \"another\"");
    malformed(&hinted(&[input("")], &[other]), &["0123", "'call'", "'another'"]);
}

#[test]
fn hints_with_inputs_and_no_outputs() {
    let text = X.to_owned()
        + &node("in0", "Identity", &["x"], &input(""))
        + &node("result", "Neg", &["in0"], "");
    malformed(&text, &["0123", "no outputs"]);
}

#[test]
fn hint_on_an_op_that_computes() {
    let text = X.to_owned()
        + &node("in0", "Tanh", &["x"], &input(""))
        + &node("result", "Neg", &["in0"], "");
    malformed(&text, &["in0", "Identity"]);
}

#[test]
fn hint_that_is_input_and_output() {
    malformed(
        &hinted(&[input(&attr("_tflite_function_output_index", "i: 0"))], &output()),
        &["in0", "either"],
    );
}

#[test]
fn hint_attributes_of_the_wrong_kind() {
    let wrong = input("").replace("s: \"0123\"", "i: 3");
    malformed(&hinted(&[wrong], &output()), &["in0", "_tflite_function_uuid"]);
    let wrong = input("").replace("s: \"call\"", "s: \"\\377\"");
    malformed(&hinted(&[wrong], &output()), &["in0", "UTF-8"]);
}

#[test]
fn hint_mapping_that_is_no_json() {
    let mapping =
        |json: &str| attr("_tflite_children_ophint_inputs_mapping", &format!("s: '{json}'"));
    malformed(&hinted(&[input(&mapping("{not json"))], &output()), &["in0", "JSON"]);
    malformed(&hinted(&[input(&mapping("[1, 2]"))], &output()), &["in0", "JSON object"]);
    malformed(
        &hinted(&[input(&mapping(r#"{"parent_first_child_input": 3}"#))], &output()),
        &["parent_first_child_input"],
    );
    let deep = "[".repeat(100_000);
    malformed(&hinted(&[input(&mapping(&deep))], &output()), &["in0", "JSON"]);
}

#[test]
fn hinted_calls_in_each_other() {
    let inner = |side: &str| mark(side, 0, "").replace("0123", "4567");
    let text = X.to_owned()
        + &node("in0", "Identity", &["x"], &input(""))
        + &node("in1", "Identity", &["in0"], &inner("input"))
        + &node("inside", "Tanh", &["in1"], "")
        + &node("out1", "Identity", &["inside"], &inner("output"))
        + &node("out0", "Identity", &["out1"], &output()[0])
        + &node("result", "Neg", &["out0"], "");
    let out = run(&text, &[("x", &x())]);
    assert!((out[0] + 1f32.tanh()).abs() < 1e-6);
}
