//! GraphDefs whose size, form or number of parts is unusual.

use super::*;

#[test]
fn text_behind_a_byte_order_mark() {
    let text = format!("\u{feff}{X}{}", node("out", "Neg", &["x"], ""));
    assert_eq!(run(&text, &[("x", &x())]), [-1.0, 2.0]);
}

#[test]
fn outputs_of_splits_count_as_nodes_do() {
    let parts = "dim { size: 60000 }";
    let input = X.replace("dim { size: 2 }", parts);
    let split = |name: &str| node(name, "Split", &["axis", "x"], &attr("num_split", "i: 60000"));
    let sum = node("out", "Add", &["a", "b"], "");
    let text = int32("axis", 0) + &input + &split("a") + &split("b") + &sum;
    refused(&text, ErrorKind::Limit, &["nodes", "limit"]);
}

#[test]
fn inputs_of_many_open_axes_are_read_in_linear_time() {
    let seconds = |count: usize| {
        let open = "dim { size: -1 } ".repeat(8);
        let shape =
            attr("dtype", "type: DT_FLOAT") + &attr("shape", &format!("shape {{ {open} }}"));
        let mut text = X.to_owned() + &node("out", "Neg", &["x"], "");
        for index in 0..count {
            text += &node(&format!("p{index}"), "Placeholder", &[], &shape);
        }
        let start = Instant::now();
        assert!(read(&text).is_ok());
        start.elapsed()
    };
    let (some, eight_times) = (seconds(500), seconds(4000));
    // Quadratic would be 64 times; the rest is for a busy machine.
    assert!(eight_times < some * 32 + Duration::from_millis(200), "{some:?}, {eight_times:?}");
}
