//! Ops that are written with others: what they compute, and what of them is refused.

use super::*;

/// A placeholder of these sizes; `None` is open.
fn input(name: &str, sizes: &[Option<usize>]) -> String {
    let dim =
        |size: &Option<usize>| format!("dim {{ size: {} }} ", size.map_or(-1, |size| size as i64));
    let shape: String = sizes.iter().map(dim).collect();
    let shape = attr("shape", &format!("shape {{ {shape} }}"));
    node(name, "Placeholder", &[], &(attr("dtype", "type: DT_FLOAT") + &shape))
}

fn filled(sizes: &[usize], seed: usize) -> Tensor {
    let value = |index: usize| ((index * 7 + seed * 5) % 11) as f32 / 4.0 - 1.0;
    let count = sizes.iter().product();
    Tensor::from_vec(sizes, (0..count).map(value).collect()).unwrap()
}

/// The sum over every index that the result has not, by its definition.
fn einsum(left: &[&str], right: &str, size: &dyn Fn(char) -> usize, xs: &[Tensor]) -> Vec<f32> {
    let mut letters: Vec<char> = right.chars().collect();
    let kept = letters.len();
    for letter in left.iter().flat_map(|term| term.chars()) {
        if !letters.contains(&letter) {
            letters.push(letter);
        }
    }
    let place = |term: &str, at: &[usize]| {
        term.chars().fold(0, |place, letter| {
            place * size(letter) + at[letters.iter().position(|other| *other == letter).unwrap()]
        })
    };
    let mut result = vec![0.0; right.chars().map(size).product()];
    let count: usize = letters.iter().map(|&letter| size(letter)).product();
    for mut index in 0..count {
        let mut at = vec![0; letters.len()];
        for (slot, &letter) in at.iter_mut().zip(&letters).rev() {
            (*slot, index) = (index % size(letter), index / size(letter));
        }
        let product: f32 =
            left.iter().zip(xs).map(|(term, x)| x.to_f32()[place(term, &at)]).product();
        result[place(&letters[..kept].iter().collect::<String>(), &at)] += product;
    }
    result
}

#[test]
fn einsum_of_any_indices_is_the_sum_over_those_that_the_result_has_not() {
    let equations = [
        "ab,bc->ac",
        "bd,btd->bt",
        "bt,btd->bd",
        "abc,cde->abde",
        "aecd,abcd->acbe",
        "ba->ab",
        "acbe,aecd->abcd",
        "abcd,cde->abe",
        "ab,ab->a",
        "ab,cd->acbd",
        "abc->cb",
        "ab,bc,cd->ad",
        "i,j->ij",
        "bij,kj->bik",
        "abc,adc,ae->bde",
        "bhqd,bhkd->bhqk",
        "bhqk,bkhd->bqhd",
    ];
    let size = |letter: char| letter as usize % 4 + 2;
    for (equation, open) in
        equations.iter().flat_map(|equation| [(equation, false), (equation, true)])
    {
        let (left, right) = equation.split_once("->").unwrap();
        let left: Vec<&str> = left.split(',').collect();
        let names: Vec<String> = (0..left.len()).map(|index| format!("x{index}")).collect();
        let mut text = String::new();
        let mut xs = Vec::new();
        for (index, (term, name)) in left.iter().zip(&names).enumerate() {
            let sizes: Vec<usize> = term.chars().map(size).collect();
            let declared: Vec<_> = sizes.iter().map(|&size| (!open).then_some(size)).collect();
            text += &input(name, &declared);
            xs.push(filled(&sizes, index));
        }
        let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        text += &node("out", "Einsum", &inputs, &attr("equation", &format!("s: \"{equation}\"")));
        let given: Vec<(&str, &Tensor)> = inputs.iter().copied().zip(&xs).collect();
        let found = run(&text, &given);
        let expected = einsum(&left, right, &size, &xs);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4;
        assert!(
            found.len() == expected.len() && found.iter().zip(&expected).all(near),
            "{equation}: {found:?}, expected {expected:?}"
        );
    }
}

#[test]
fn einsum_over_a_diagonal_is_refused_and_one_that_fits_nothing_is_malformed() {
    let with = |equation: &str| {
        let equation = attr("equation", &format!("s: \"{equation}\""));
        input("x", &[Some(2), Some(2)]) + &node("out", "Einsum", &["x"], &equation)
    };
    refused(&with("aa->a"), ErrorKind::Unsupported, &["aa->a", "diagonal"]);
    malformed(&with("abc->a"), &["'abc'", "2 axes"]);
    malformed(&with("ab->ac"), &["result"]);
    malformed(&with("ab,b->a"), &["1 operands for 2 terms"]);
}

#[test]
fn attribute_that_no_op_of_this_name_has_is_refused_by_name() {
    let text = X.to_owned() + &node("out", "Neg", &["x"], &attr("approximate", "b: true"));
    refused(&text, ErrorKind::Unsupported, &["'out'", "'approximate'", "'Neg'"]);
}

#[test]
fn float16_is_read_exactly_and_given_and_taken_as_float16() {
    let half = "tensor { dtype: DT_HALF tensor_shape { dim { size: 2 } } half_val: 15360 half_val: 49152 }";
    let constant =
        node("c", "Const", &[], &(attr("dtype", "type: DT_HALF") + &attr("value", half)));
    let x = X.replace("DT_FLOAT", "DT_HALF");
    let text = x + &constant + &node("out", "Mul", &["x", "c"], &attr("T", "type: DT_HALF"));
    let loaded = formats::read(text.as_bytes()).unwrap();
    assert!(loaded.warnings.iter().any(|warning| warning.contains("float16")));
    let model = Model::from_graph(loaded.graph).unwrap();
    let session = Session::new(&model, Device::reference()).unwrap();
    let values: Vec<half::f16> = [0.5, 3.0].map(half::f16::from_f32).to_vec();
    let x = Tensor::from_vec(&[2], values).unwrap();
    let outputs = session.run(&[("x", &x)]).unwrap();
    let out = outputs.get("out").unwrap();
    assert_eq!(out.dtype(), fuselstm::DType::F16);
    assert_eq!(out.to_f32().as_ref(), [0.5, -6.0]);
}

#[test]
fn images_with_channels_first_are_those_with_channels_last_transposed() {
    let (h, w, c) = (5, 4, 3);
    let pool = |format: &str, list: &str| {
        attr("ksize", &format!("list {{ {list} }}"))
            + &attr("strides", &format!("list {{ {list} }}"))
            + &attr("padding", "s: \"SAME\"")
            + &attr("data_format", &format!("s: \"{format}\""))
    };
    let last = input("x", &[Some(1), Some(h), Some(w), Some(c)])
        + &node("out", "MaxPool", &["x"], &pool("NHWC", "i: 1 i: 2 i: 2 i: 1"));
    let first = input("x", &[Some(1), Some(c), Some(h), Some(w)])
        + &node("out", "MaxPool", &["x"], &pool("NCHW", "i: 1 i: 1 i: 2 i: 2"));
    let x = filled(&[1, h, w, c], 3);
    let values = x.to_f32();
    let moved: Vec<f32> =
        (0..c).flat_map(|ch| (0..h * w).map(move |at| at * c + ch)).map(|at| values[at]).collect();
    let by_last = run(&last, &[("x", &x)]);
    let by_first = run(&first, &[("x", &Tensor::from_vec(&[1, c, h, w], moved).unwrap())]);
    let (h, w) = (h.div_ceil(2), w.div_ceil(2));
    let expected: Vec<f32> =
        (0..c).flat_map(|ch| (0..h * w).map(move |at| at * c + ch)).map(|at| by_last[at]).collect();
    assert_eq!(by_first, expected);
    let odd = input("x", &[Some(1), Some(2), Some(2), Some(2)])
        + &node("out", "MaxPool", &["x"], &pool("NHWC", "i: 1 i: 2 i: 2 i: 2"));
    refused(&odd, ErrorKind::Unsupported, &["'ksize'", "[1, 2, 2, 2]"]);
}
