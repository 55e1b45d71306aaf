//! Broken .tflite files: each defect a named test, then every prefix and every single-byte change
//! of small files, and noise. Whatever the bytes are: a value or an error, no panic, and no large
//! allocation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "malformed_tflite/edit.rs"]
mod edit;
#[path = "malformed_tflite/memory.rs"]
mod memory;

use edit::{Edit, corpus};
use fuselstm::internal::formats::read;
use fuselstm::types::npz;
use fuselstm::{Device, ErrorKind, Model, Session, Tensor};

/// What one load may hold at a time: what the issue of this reader asks for.
const MOST_MEMORY: usize = 64 << 20;

/// Reads, and runs one step of what can be read and is small.
fn survives(bytes: &[u8], run: bool) -> fuselstm::Result<()> {
    let (result, peak) = memory::peak(|| read(bytes));
    assert!(peak <= MOST_MEMORY, "reading {} bytes held {peak} bytes", bytes.len());
    let loaded = result?;
    if run {
        let model = Model::from_graph(loaded.graph)?;
        let inputs: Vec<(String, Tensor)> = model
            .graph()
            .inputs
            .iter()
            .map(|port| {
                let ty = &model.graph().get(port.value).unwrap().ty;
                let shape = ty.shape.clone().unwrap_or_default();
                let shape: Vec<usize> = shape.iter().map(|dim| dim.known().unwrap_or(2)).collect();
                Ok((port.name.clone(), small_zeros(ty.dtype, &shape)?))
            })
            .collect::<fuselstm::Result<_>>()?;
        let named: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for device in [Device::reference(), Device::cpu()] {
            Session::new(&model, device)?.run(&named)?;
        }
    }
    Ok(())
}

/// Zeros, unless they are many: a changed size is not worth hours.
fn small_zeros(dtype: fuselstm::DType, shape: &[usize]) -> fuselstm::Result<Tensor> {
    let count =
        shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).unwrap_or(usize::MAX);
    if count > 10_000 {
        // As many as no tensor has: the library's own refusal of too much.
        return Tensor::zeros(dtype, &[usize::MAX, 2]);
    }
    Tensor::zeros(dtype, shape)
}

/// The error of a changed file: its text must have every one of the words.
fn expect_error(bytes: &[u8], kinds: &[ErrorKind], words: &[&str]) {
    let error = survives(bytes, true).expect_err("the defect was not noticed");
    let text = error.to_string();
    assert!(kinds.contains(&error.kind()), "{:?} is none of {kinds:?}: {text}", error.kind());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

const MALFORMED: &[ErrorKind] = &[ErrorKind::Malformed];
const INVALID: &[ErrorKind] =
    &[ErrorKind::Malformed, ErrorKind::InvalidGraph, ErrorKind::InvalidInput];

/// A test of one defect: the file, what is changed in it, the kinds that the error may have, and
/// words of its text.
macro_rules! defects {
    ($($name:ident: $file:literal, $kinds:expr, $words:expr, $change:expr;)*) => {$(
        #[test]
        fn $name() {
            let Some(mut edit) = corpus($file) else { return };
            let change: fn(&mut Edit) = $change;
            change(&mut edit);
            expect_error(&edit.bytes, $kinds, &$words);
        }
    )*};
}

defects! {
    // The flatbuffer.
    identifier_wrong: "usl_basic", &[ErrorKind::UnknownFormat], ["no known model format"], |e| e.bytes[4] = b'X';
    schema_version_4: "usl_basic", &[ErrorKind::Unsupported], ["schema version 4"], |e| e.set_scalar(&[], 0, 4u32);
    vtable_pointing_back_on_itself: "usl_basic", &[ErrorKind::Malformed, ErrorKind::Unsupported], [], |e| { let root = e.root(); e.put(root, 0i32); };
    root_outside_the_file: "usl_basic", MALFORMED, ["not a valid flatbuffer"], |e| e.put(0, u32::MAX);
    vector_length_that_wraps: "usl_basic", MALFORMED, ["not a valid flatbuffer"], |e| {
        let tensors = e.vector(&[(2, 0)], 0);
        e.put(tensors, 0x4000_0001u32);
    };
    subgraph_list_empty: "usl_basic", MALFORMED, ["no subgraph"], |e| { let at = e.vector(&[], 2); e.put(at, 0u32); };
    name_not_utf8: "usl_basic", MALFORMED, ["Utf8"], |e| {
        let name = e.vector(&[(2, 0), (0, 0)], 3);
        e.bytes[name + 4] = 0xff;
    };
    name_unterminated: "usl_basic", MALFORMED, ["null terminator"], |e| {
        let name = e.vector(&[(2, 0), (0, 0)], 3);
        let length = e.get(name) as usize;
        e.bytes[name + 4 + length] = b'x';
    };
    operator_code_out_of_range: "usl_basic", MALFORMED, ["operator 0", "operator code"], |e| e.put_operator_code(77);
    options_of_another_operator: "usl_basic", MALFORMED, ["operator 0 (UNIDIRECTIONAL_SEQUENCE_LSTM)", "another operator"],
        |e| e.set_scalar(&[(2, 0), (3, 0)], 3, 27u8);
    options_missing: "usl_basic", MALFORMED, ["no options"], |e| e.set_scalar(&[(2, 0), (3, 0)], 3, 0u8);
    subgraph_input_listed_twice: "bsl_aux_cross", MALFORMED, ["listed twice"], |e| {
        let first = e.element(&[(2, 0)], 1, 0);
        e.set_element(&[(2, 0)], 1, 1, first);
    };
    output_index_out_of_range: "usl_basic", MALFORMED, ["output 0", "tensor 999"], |e| e.set_element(&[(2, 0)], 2, 0, 999);
    operand_index_out_of_range: "usl_basic", MALFORMED, ["input 2", "tensor 999"], |e| e.set_input(2, 999);
    operand_index_very_negative: "usl_basic", MALFORMED, ["input 2", "tensor -7"], |e| e.set_input(2, -7);
    buffer_index_out_of_range: "usl_basic", MALFORMED, ["buffer 9999"], |e| e.set_tensor(2, 2, 9999u32);

    // Tensors.
    rank_0_where_3_is_needed: "usl_basic", INVALID, ["rank 3"], |e| e.set_rank(0, 0);
    rank_2_where_3_is_needed: "usl_basic", INVALID, ["rank 3, found 2"], |e| e.set_rank(0, 2);
    rank_9: "usl_basic", INVALID, [], |e| e.set_rank(0, 9);
    sparse_weights: "usl_hybrid", &[ErrorKind::Unsupported], ["spars"], |e| { let weights = e.input(2); e.set_sparse(weights as usize); };
    time_major_swapped: "usl_basic", INVALID, [], |e| { let layout = e.bytes[e.field(&[(2, 0), (3, 0), (4, usize::MAX)], 3).unwrap()]; e.set_option(3, 1 - layout); };
    size_negative: "usl_basic", MALFORMED, ["axis 0", "-5"], |e| e.set_size(0, 0, -5);
    sizes_whose_product_overflows: "usl_basic", &[ErrorKind::Limit], ["2^40"], |e| {
        for axis in 0..3 { e.set_size(0, axis, i32::MAX); }
    };
    weights_larger_than_their_buffer: "usl_basic", MALFORMED, ["input 2", "bytes, the buffer has"], |e| e.set_size(2, 0, 1 << 20);
    weights_smaller_than_their_buffer: "usl_basic", MALFORMED, ["bytes, the buffer has"], |e| e.set_size(2, 0, 1);
    tensor_type_unknown: "usl_int8", MALFORMED, ["unknown tensor type 99"], |e| e.set_tensor(2, 1, 99i8);
    scale_zero: "usl_int8", MALFORMED, ["quantization scale 0"], |e| e.set_scale(0.0);
    scale_nan: "usl_int8", MALFORMED, ["quantization scale NaN"], |e| e.set_scale(f32::NAN);
    scale_negative: "usl_int8", MALFORMED, ["quantization scale -1"], |e| e.set_scale(-1.0);
    zero_point_out_of_range: "usl_int8", MALFORMED, ["zero point 1000"], |e| e.set_zero_point(1000);
    quantized_without_scale: "usl_int8", INVALID, ["scale"], |e| {
        for slot in [2, 3] { let at = e.vector(&[(2, 0), (0, 2), (4, usize::MAX)], slot); e.put(at, 0u32); }
    };
    constant_whose_data_is_gone: "usl_basic", MALFORMED, ["input 2", "no data"], |e| e.set_tensor(2, 2, 0u32);

    // Recurrent operators.
    nineteen_operands: "usl_basic", MALFORMED, ["19 inputs, expected 20 or 24"], |e| e.set_inputs_len(19);
    twenty_five_operands: "usl_basic", MALFORMED, ["25 inputs, expected 20 or 24"], |e| e.set_inputs_len(25);
    input_gate_half_absent: "usl_basic", MALFORMED, ["input 5", "coupled"], |e| e.set_input(1, -1);
    forget_gate_absent: "usl_basic", MALFORMED, ["input 2", "absent"], |e| e.set_input(2, -1);
    one_peephole_of_three: "usl_peephole", MALFORMED, ["peephole", "[10, 11] are absent"], |e| { e.set_input(10, -1); e.set_input(11, -1); };
    projection_bias_without_projection: "usl_projection_bias", INVALID, ["projection"], |e| e.set_input(16, -1);
    layer_norm_of_some_gates: "usl_layer_norm", MALFORMED, ["layer-norm", "[22] are absent"], |e| e.set_input(22, -1);
    bias_of_wrong_length: "usl_projection", INVALID, ["input 13 (bias)", "expected shape"], |e| {
        let state = e.input(2);
        e.set_input(13, state);
    };
    state_not_variable: "usl_basic", MALFORMED, ["input 18"], |e| { let state = e.input(18); e.set_tensor(state as usize, 5, 0u8); };
    state_of_wrong_size: "usl_basic", INVALID, [], |e| { let state = e.input(18); e.set_size(state as usize, 1, 1); };
    cell_clip_negative: "usl_clip", MALFORMED, ["cell_clip is -1"], |e| e.set_option(1, -1.0f32);
    cell_clip_nan: "usl_clip", MALFORMED, ["cell_clip is NaN"], |e| e.set_option(1, f32::NAN);
    projection_clip_negative: "usl_clip", MALFORMED, ["proj_clip is -2"], |e| e.set_option(2, -2.0f32);
    activation_unknown: "usl_basic", MALFORMED, ["fused activation number 17"], |e| e.set_option(0, 17i8);
    activation_negative: "usl_basic", MALFORMED, ["fused activation number -1"], |e| e.set_option(0, -1i8);
    merged_outputs_with_two_outputs: "bsl_merged", MALFORMED, ["outputs"], |e| {
        let at = e.vector(&[(2, 0), (3, 0)], 2);
        e.put(at, 2u32);
    };
    auxiliary_weights_without_input: "bsl_aux_cross", MALFORMED, ["input 39", "auxiliary"], |e| e.set_input(39, -1);
    kernel_type_unknown: "lstm_basic_kernel", MALFORMED, ["kernel type 5"], |e| e.set_option(3, 5i8);
    memory_rank_zero: "svdf_rank2_relu", MALFORMED, ["rank"], |e| e.set_option(0, 0i32);
    svdf_state_not_variable: "svdf_rank1", MALFORMED, ["input 4"], |e| { let state = e.input(4); e.set_tensor(state as usize, 5, 0u8); };

    // Files with a CVE.
    cve_2020_15211_absent_operand: "usl_basic", MALFORMED, ["input 0", "absent"], |e| e.set_input(0, -1);
    cve_2020_15211_absent_result: "usl_basic", MALFORMED, ["tensor -1"], |e| e.set_element(&[(2, 0), (3, 0)], 2, 0, -1);
    cve_2020_15210_input_is_output: "usl_basic", MALFORMED, ["both an input and an output"], |e| {
        let x = e.input(0);
        e.set_element(&[(2, 0), (3, 0)], 2, 0, x);
    };
    cve_2021_29591_condition_is_body: "k3_lstm_seq", INVALID, ["WHILE"], |e| { let body = e.option_of(1, 1); e.set_option_of(1, 0, body); };
    cve_2021_29591_loop_of_itself: "k3_lstm_seq", INVALID, ["recursion"], |e| e.set_option_of(1, 1, 0);
    while_of_a_missing_subgraph: "k3_lstm_seq", MALFORMED, ["subgraph 77"], |e| e.set_option_of(1, 1, 77);
}

#[test]
fn activations_none_and_sign_are_read() {
    for number in [0i8, 2, 5] {
        let Some(mut edit) = corpus("usl_basic") else { return };
        edit.set_option(0, number);
        survives(&edit.bytes, true).unwrap();
    }
}

/// Both layers of the digit model on the state tensors of the first. The second layer then starts
/// from where the first one ended, and the first one, at the next call, from where the second did.
/// Expected: what TensorFlow Lite 2.21's reference kernels answer for the file with this change, to
/// the first two digits in turn.
#[test]
fn a_state_that_two_operators_share_goes_through_both() {
    const EXPECTED: [[f32; 10]; 2] = [
        [
            -0.717_551_23,
            0.680_464_15,
            -1.238_004_8,
            0.414_031_74,
            6.351_476_7,
            -1.431_606_8,
            -3.689_007_8,
            3.791_570_4,
            1.729_345_4,
            11.336_981,
        ],
        [
            -5.215_275,
            0.511_889_6,
            -1.544_470_9,
            12.667_278,
            -4.120_107,
            2.441_530_2,
            -6.234_737,
            0.212_435_63,
            0.181_924_18,
            0.831_511_4,
        ],
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/");
    let mut edit = Edit { bytes: std::fs::read(format!("{folder}digits.tflite")).unwrap() };
    for slot in [18, 19] {
        let state = edit.element(&[(2, 0), (3, 1)], 1, slot);
        edit.set_element(&[(2, 0), (3, 2)], 1, slot, state);
    }
    let model = Model::from_graph(read(&edit.bytes).unwrap().graph).unwrap();
    let digits = npz::load(format!("{folder}digits.npz")).unwrap();
    let (_, images) = digits.iter().find(|(name, _)| name == "images").unwrap();
    let images = images.as_slice::<u8>().unwrap();
    for device in [Device::reference(), Device::cpu()] {
        let session = Session::new(&model, device).unwrap();
        let mut stream = session.stream();
        for (image, expected) in images.chunks_exact(28 * 28).zip(EXPECTED) {
            let pixels: Vec<f32> = image.iter().map(|&p| f32::from(p) / 255.0).collect();
            let x = Tensor::from_vec(&[1, 28, 28], pixels).unwrap();
            let outputs = stream.run(&[("INPUT", &x)]).unwrap();
            let logits = outputs.tensors()[0].to_f32();
            for (found, wanted) in logits.iter().zip(expected) {
                assert!((found - wanted).abs() < 2e-5, "{logits:?}");
            }
        }
    }
}

#[test]
fn larger_of_two_operator_numbers_counts() {
    let Some(mut edit) = corpus("usl_basic") else { return };
    // The eight-bit field alone, and a smaller number beside the right one.
    if edit.field(&[(1, 0)], 0).is_some() && edit.field(&[(1, 0)], 3).is_some() {
        edit.set_scalar(&[(1, 0)], 0, 3i8);
        survives(&edit.bytes, false).unwrap();
    }
}

#[test]
fn garbage_behind_the_file_is_ignored() {
    let Some(mut edit) = corpus("usl_basic") else { return };
    edit.bytes.extend_from_slice(&[0xab; 1000]);
    survives(&edit.bytes, true).unwrap();
}

#[test]
fn weights_of_nan_and_infinity_are_values() {
    let Some(mut edit) = corpus("usl_basic") else { return };
    let buffer = edit.get_tensor_buffer(2);
    let data = edit.vector(&[(4, buffer)], 0);
    edit.put(data + 4, f32::NAN);
    edit.put(data + 8, f32::INFINITY);
    edit.put(data + 12, 1e-42f32);
    survives(&edit.bytes, true).unwrap();
}

#[test]
fn tables_that_expand_without_end_are_a_limit() {
    let bytes = edit::shared_tables(1000, 2000);
    assert!(bytes.len() < 20_000);
    expect_error(&bytes, &[ErrorKind::Limit], &["flatbuffer"]);
}

#[test]
fn files_over_two_gibibytes_are_a_limit() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("sparse.tflite");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(3 << 30).unwrap();
    let (result, peak) = memory::peak(|| fuselstm::internal::formats::open(&path));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Limit);
    assert!(peak < 1 << 20);
}

#[test]
fn a_few_bytes_are_no_model() {
    for bytes in [
        &b""[..],
        b"\x1c",
        b"\x1c\0\0\0TFL3",
        b"TFL3",
        b"\0\0\0\0TFL3",
        b"PK\x03\x04",
        b"\x89HDF\r\n\x1a\n",
    ] {
        survives(bytes, false).unwrap_err();
    }
}

/// Small files of every family.
const SMALL: [&str; 6] = [
    "svdf_rank1",
    "rnn_hybrid",
    "lstm_basic_uint8",
    "bsr_merged",
    "usl_int8_projection",
    "bsl_aux_cross",
];

#[test]
fn every_prefix() {
    for name in SMALL {
        let Some(edit) = corpus(name) else { return };
        for length in 0..edit.bytes.len() {
            let _ = survives(&edit.bytes[..length], false);
        }
    }
}

#[test]
fn every_single_byte_change_of_a_small_file() {
    let Some(edit) = corpus("svdf_rank1") else { return };
    assert!(edit.bytes.len() < 4096);
    let mut bytes = edit.bytes.clone();
    for at in 0..bytes.len() {
        let own = bytes[at];
        for value in 0..=u8::MAX {
            bytes[at] = value;
            let _ = survives(&bytes, false);
        }
        bytes[at] = own;
    }
}

#[test]
fn single_byte_changes_of_every_small_file_are_run_too() {
    for name in SMALL.into_iter().chain(["k3_lstm_seq"]) {
        let Some(edit) = corpus(name) else { return };
        let mut bytes = edit.bytes.clone();
        for at in 0..bytes.len() {
            let own = bytes[at];
            // A value that depends on the position, so that many kinds of change are made without
            // making all.
            for value in [own ^ 0x80, own.wrapping_add(1), (at as u8).wrapping_mul(37)] {
                bytes[at] = value;
                let _ = survives(&bytes, at % 5 == 0);
            }
            bytes[at] = own;
        }
    }
}

#[test]
fn noise_behind_the_identifier() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let length = (next() % 400) as usize + 8;
        // Small numbers, as offsets and lengths are, among the noise.
        let mut bytes: Vec<u8> =
            (0..length).map(|_| if next() % 3 == 0 { 0 } else { (next() % 64) as u8 }).collect();
        bytes[4..8].copy_from_slice(b"TFL3");
        let _ = survives(&bytes, false);
    }
}

/// Twelve subgraphs, each with loops over the next one: few bytes that stand for very many operators.
#[test]
fn loops_that_name_each_other_at_every_level_end_at_the_budget() {
    let bytes = include_bytes!("data/faults/while_laughs.tflite");
    let since = std::time::Instant::now();
    let error = read(bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(since.elapsed().as_secs() < 10, "{:?}", since.elapsed());
}
