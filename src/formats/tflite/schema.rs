//! The tables of a `.tflite` file: which field stands in which slot, and the verification of a
//! whole file.

use flatbuffers::{
    ForwardsUOffset, InvalidFlatbuffer, Vector, Verifiable, Verifier, VerifierOptions,
};

use super::wire::{Table, access, accessed, tables, verified};
use crate::error::{Error, ErrorKind, Result as Checked};

/// The bytes 4 to 7 of every file.
pub(super) const IDENTIFIER: &[u8; 4] = b"TFL3";

/// The only schema version there is.
pub(super) const VERSION: u32 = 3;

/// Largest file that is read: offsets of the format are 32 bits, and no tool writes more than this.
const MOST_BYTES: usize = 1 << 31;

/// Model, vector of subgraphs, subgraph, operator, options: the format nests five tables; nothing
/// deeper is declared.
const MOST_DEPTH: usize = 8;

/// Tables of a file. The largest unrolled models have some ten thousand operators of two to three
/// tables each.
const MOST_TABLES: usize = 1_000_000;

/// What the file may grow to when every shared part is counted each time it is referred to: this
/// many times its size (vtables are shared by design, a table of 20 bytes with a vtable of 30 is
/// usual) and a little more for tiny files.
const MOST_EXPANSION: usize = 16;

tables! {
    /// The root.
    Model {
        0 version: (u32 = 0);
        1 operator_codes: (tables OperatorCode);
        2 subgraphs: (tables SubGraph);
        3 description: (text);
        4 buffers: (tables Buffer);
        6 metadata: (tables Metadata);
        7 signatures: (tables Signature);
    }
    /// Which operator an index of [`Operator::opcode_index`] means.
    OperatorCode {
        // Eight bits, all that old files have; the real number is the larger one of the two.
        0 deprecated_builtin_code: (i8 = 0);
        1 custom_code: (text);
        2 version: (i32 = 1);
        3 builtin_code: (i32 = 0);
    }
    /// Bytes of constants, by index.
    Buffer {
        0 data: (bytes);
        // For files over 2 GiB: the bytes stand behind the flatbuffer. 0 and 1 mean that they do
        // not.
        1 offset: (u64 = 0);
        2 size: (u64 = 0);
    }
    /// A named buffer.
    Metadata {
        0 name: (text);
        1 buffer: (u32 = 0);
    }
    /// A named way to call a subgraph.
    Signature {
        0 inputs: (tables TensorMap);
        1 outputs: (tables TensorMap);
        2 key: (text);
        4 subgraph: (u32 = 0);
    }
    /// A name of a signature's input or output.
    TensorMap {
        0 name: (text);
        1 tensor: (u32 = 0);
    }
    /// A function: tensors and the operators on them.
    SubGraph {
        0 tensors: (tables Tensor);
        1 inputs: (list i32);
        2 outputs: (list i32);
        3 operators: (tables Operator);
        4 name: (text);
    }
    /// A tensor's type; its data stands in a buffer when it is constant.
    Tensor {
        0 shape: (list i32);
        1 dtype: (i8 = 0);
        2 buffer: (u32 = 0);
        3 name: (text);
        4 quantization: (table Quantization);
        5 is_variable: (bool = false);
        6 sparsity: (table Opaque);
        7 shape_signature: (list i32);
        8 has_rank: (bool = false);
        10 external_buffer: (u32 = 0);
    }
    /// How stored numbers map to real ones.
    Quantization {
        2 scale: (list f32);
        3 zero_point: (list i64);
        4 details_type: (u8 = 0);
        6 dimension: (i32 = 0);
    }
    /// A table whose presence is all that matters.
    Opaque {}

    /// AddOptions, MulOptions, SubOptions, DivOptions: one fused activation.
    ArithmeticOptions {
        0 activation: (i8 = 0);
        // How a kernel for int16 scales its operands, not what it computes.
        1 pot_scale_int16: (bool = true);
    }
    /// Of ARG_MAX and ARG_MIN.
    ArgMaxOptions { 0 output_type: (i8 = 0); }
    /// Of BATCH_MATMUL.
    BatchMatMulOptions { 0 adjoint_x: (bool = false); 1 adjoint_y: (bool = false); 2 asymmetric: (bool = false); }
    /// Of BIDIRECTIONAL_SEQUENCE_LSTM.
    BidirectionalLstmOptions {
        0 activation: (i8 = 0);
        1 cell_clip: (f32 = 0.0);
        2 projection_clip: (f32 = 0.0);
        3 merge_outputs: (bool = false);
        // The only one whose default is true.
        4 time_major: (bool = true);
        5 asymmetric: (bool = false);
    }
    /// Of BIDIRECTIONAL_SEQUENCE_RNN.
    BidirectionalRnnOptions {
        0 time_major: (bool = false);
        1 activation: (i8 = 0);
        2 merge_outputs: (bool = false);
        3 asymmetric: (bool = false);
    }
    /// Of CALL_ONCE.
    CallOnceOptions { 0 subgraph: (i32 = 0); }
    /// Of VAR_HANDLE.
    VarHandleOptions { 0 container: (text); 1 shared_name: (text); }
    /// Of CONCATENATION.
    ConcatenationOptions { 0 axis: (i32 = 0); 1 activation: (i8 = 0); }
    /// Of CONV_2D.
    Conv2dOptions {
        0 padding: (i8 = 0);
        1 stride_w: (i32 = 0);
        2 stride_h: (i32 = 0);
        3 activation: (i8 = 0);
        4 dilation_w: (i32 = 1);
        5 dilation_h: (i32 = 1);
        // The bias tensor has it too.
        6 quantized_bias_type: (i8 = 0);
    }
    /// Of DEPTHWISE_CONV_2D.
    DepthwiseConv2dOptions {
        0 padding: (i8 = 0);
        1 stride_w: (i32 = 0);
        2 stride_h: (i32 = 0);
        3 multiplier: (i32 = 0);
        4 activation: (i8 = 0);
        5 dilation_w: (i32 = 1);
        6 dilation_h: (i32 = 1);
    }
    /// Of MAX_POOL_2D and AVERAGE_POOL_2D.
    Pool2dOptions {
        0 padding: (i8 = 0);
        1 stride_w: (i32 = 0);
        2 stride_h: (i32 = 0);
        3 filter_width: (i32 = 0);
        4 filter_height: (i32 = 0);
        5 activation: (i8 = 0);
    }
    /// Of FULLY_CONNECTED.
    FullyConnectedOptions {
        0 activation: (i8 = 0);
        1 weights_format: (i8 = 0);
        2 keep_num_dims: (bool = false);
        3 asymmetric: (bool = false);
        // The bias tensor has it too.
        4 quantized_bias_type: (i8 = 0);
    }
    /// Of GATHER.
    GatherOptions { 0 axis: (i32 = 0); 1 batch_dims: (i32 = 0); }
    /// Of GELU.
    GeluOptions { 0 approximate: (bool = false); }
    /// Of LEAKY_RELU.
    LeakyReluOptions { 0 alpha: (f32 = 0.0); }
    /// Of LSTM.
    LstmOptions {
        0 activation: (i8 = 0);
        1 cell_clip: (f32 = 0.0);
        2 projection_clip: (f32 = 0.0);
        3 kernel_type: (i8 = 0);
        4 asymmetric: (bool = false);
    }
    /// Of PACK.
    PackOptions { 0 count: (i32 = 0); 1 axis: (i32 = 0); }
    /// Of every reduction.
    ReducerOptions { 0 keep_dims: (bool = false); }
    /// Of RESHAPE, when it has no second operand.
    ReshapeOptions { 0 new_shape: (list i32); }
    /// Of REVERSE_SEQUENCE.
    ReverseSequenceOptions { 0 sequence_axis: (i32 = 0); 1 batch_axis: (i32 = 0); }
    /// Of RNN.
    RnnOptions { 0 activation: (i8 = 0); 1 asymmetric: (bool = false); }
    /// Of UNIDIRECTIONAL_SEQUENCE_RNN.
    SequenceRnnOptions { 0 time_major: (bool = false); 1 activation: (i8 = 0); 2 asymmetric: (bool = false); }
    /// Of SHAPE.
    ShapeOptions { 0 output_type: (i8 = 0); }
    /// Of SOFTMAX.
    SoftmaxOptions { 0 beta: (f32 = 0.0); }
    /// Of SPLIT and SPLIT_V.
    SplitOptions { 0 count: (i32 = 0); }
    /// Of SQUEEZE.
    SqueezeOptions { 0 axes: (list i32); }
    /// Of STRIDED_SLICE.
    StridedSliceOptions {
        0 begin_mask: (i32 = 0);
        1 end_mask: (i32 = 0);
        2 ellipsis_mask: (i32 = 0);
        3 new_axis_mask: (i32 = 0);
        4 shrink_axis_mask: (i32 = 0);
        5 offset: (bool = false);
    }
    /// Of SVDF.
    SvdfOptions { 0 rank: (i32 = 0); 1 activation: (i8 = 0); 2 asymmetric: (bool = false); }
    /// Of UNIDIRECTIONAL_SEQUENCE_LSTM.
    SequenceLstmOptions {
        0 activation: (i8 = 0);
        1 cell_clip: (f32 = 0.0);
        2 projection_clip: (f32 = 0.0);
        3 time_major: (bool = false);
        4 asymmetric: (bool = false);
        5 diagonal: (bool = false);
    }
    /// Of UNPACK.
    UnpackOptions { 0 count: (i32 = 0); 1 axis: (i32 = 0); }
    /// Of WHILE.
    WhileOptions { 0 condition: (i32 = 0); 1 body: (i32 = 0); }
}

/// An operator: inputs and outputs are indices of tensors, −1 for an absent one.
#[derive(Clone, Copy)]
pub(super) struct Operator<'a>(Table<'a>);

impl<'a> From<Table<'a>> for Operator<'a> {
    fn from(table: Table<'a>) -> Self {
        Operator(table)
    }
}

impl<'a> Operator<'a> {
    pub(super) fn opcode_index(self) -> u32 {
        self.0.scalar(0).unwrap_or(0)
    }

    pub(super) fn inputs(self) -> Vec<i32> {
        self.0.scalars(1)
    }

    pub(super) fn outputs(self) -> Vec<i32> {
        self.0.scalars(2)
    }

    pub(super) fn custom_options(self) -> &'a [u8] {
        self.0.bytes(5)
    }

    pub(super) fn intermediates(self) -> Vec<i32> {
        self.0.scalars(8)
    }

    /// Custom options that stand behind the flatbuffer: not read.
    pub(super) fn has_large_custom_options(self) -> bool {
        self.0.scalar::<u64>(9).unwrap_or(0) > 1
    }

    /// Number of the options' type, 0 for none.
    pub(super) fn options_type(self) -> u8 {
        self.0.scalar(3).unwrap_or(0)
    }

    /// The options when they are there and of the type `T`.
    pub(super) fn options<T: Options<'a>>(self) -> Option<T> {
        T::NUMBERS.contains(&self.options_type()).then(|| self.0.table(4).map(T::from)).flatten()
    }
}

impl Verifiable for Operator<'_> {
    fn run_verifier(verifier: &mut Verifier, at: usize) -> Result<(), InvalidFlatbuffer> {
        let mut table = verifier
            .visit_table(at)?
            .visit_field::<u32>("opcode_index", 4, false)?
            .visit_field::<ForwardsUOffset<Vector<i32>>>("inputs", 6, false)?
            .visit_field::<ForwardsUOffset<Vector<i32>>>("outputs", 8, false)?
            .visit_field::<u8>("builtin_options_type", 10, false)?
            .visit_field::<ForwardsUOffset<Vector<u8>>>("custom_options", 14, false)?
            .visit_field::<ForwardsUOffset<Vector<i32>>>("intermediates", 20, false)?
            .visit_field::<u64>("large_custom_options_offset", 22, false)?;
        // Writers leave the type behind without a table, so that the two need not be there
        // together.
        if let (Some(kind), Some(options)) = (table.deref(10)?, table.deref(12)?) {
            let kind = table.verifier().get_u8(kind)?;
            verify_options(kind, table.verifier(), options)?;
        }
        table.finish();
        Ok(())
    }
}

/// A table of options; several operators may have tables of the same fields under several numbers.
pub(super) trait Options<'a>: From<Table<'a>> {
    /// Its numbers in the union of all options.
    const NUMBERS: &'static [u8];
    /// Its name in messages.
    const NAME: &'static str;
    /// A field that the file sets and no operator here knows.
    fn unknown_field(&self) -> Option<usize>;
}

macro_rules! options {
    ($($($number:literal)|+ $ty:ident;)*) => {
        $(impl<'a> Options<'a> for $ty<'a> {
            const NUMBERS: &'static [u8] = &[$($number),+];
            const NAME: &'static str = stringify!($ty);
            fn unknown_field(&self) -> Option<usize> {
                self.unknown_slot()
            }
        })*

        /// Verifies options by their number; those that no operator here reads are not looked into.
        fn verify_options(number: u8, verifier: &mut Verifier, at: usize) -> Result<(), InvalidFlatbuffer> {
            match number {
                $($($number)|+ => <ForwardsUOffset<$ty>>::run_verifier(verifier, at),)*
                _ => <ForwardsUOffset<Opaque>>::run_verifier(verifier, at),
            }
        }
    };
}

options! {
    1 Conv2dOptions;
    2 DepthwiseConv2dOptions;
    5 Pool2dOptions;
    6 SvdfOptions;
    7 RnnOptions;
    8 FullyConnectedOptions;
    9 SoftmaxOptions;
    10 ConcatenationOptions;
    11 | 21 | 28 | 29 ArithmeticOptions;
    14 LstmOptions;
    17 ReshapeOptions;
    23 GatherOptions;
    27 ReducerOptions;
    30 SqueezeOptions;
    31 SequenceRnnOptions;
    32 StridedSliceOptions;
    35 | 79 SplitOptions;
    40 | 57 ArgMaxOptions;
    55 ShapeOptions;
    59 PackOptions;
    64 UnpackOptions;
    69 BidirectionalLstmOptions;
    70 BidirectionalRnnOptions;
    71 SequenceLstmOptions;
    75 LeakyReluOptions;
    87 ReverseSequenceOptions;
    93 WhileOptions;
    101 BatchMatMulOptions;
    103 CallOnceOptions;
    111 VarHandleOptions;
    116 GeluOptions;
}

/// Whether the bytes begin as a `.tflite` file does.
pub(super) fn has_identifier(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(IDENTIFIER)
}

/// Verifies the whole file: every offset, vector, string and table that is declared here lies in
/// it, within the limits above.
pub(super) fn verify(bytes: &[u8]) -> Checked<Model<'_>> {
    if bytes.len() > MOST_BYTES {
        return Err(Error::limit(format!(
            "the file has {} bytes, over the limit of {MOST_BYTES}",
            bytes.len()
        )));
    }
    if !has_identifier(bytes) {
        return Err(Error::malformed("the file does not carry the identifier TFL3 at byte 4"));
    }
    let limits = VerifierOptions {
        max_depth: MOST_DEPTH,
        max_tables: MOST_TABLES,
        max_apparent_size: bytes.len().saturating_mul(MOST_EXPANSION).saturating_add(1 << 16),
        ignore_missing_null_terminator: false,
    };
    let mut verifier = Verifier::new(&limits, bytes);
    <ForwardsUOffset<Model>>::run_verifier(&mut verifier, 0).map_err(invalid)?;
    Table::root(bytes)
        .map(Model::from)
        .ok_or_else(|| Error::malformed("the file has no root table"))
}

/// The verifier's finding as this crate's error.
fn invalid(error: InvalidFlatbuffer) -> Error {
    let (kind, what) = match &error {
        InvalidFlatbuffer::TooManyTables => {
            (ErrorKind::Limit, format!("more than {MOST_TABLES} tables"))
        }
        InvalidFlatbuffer::ApparentSizeTooLarge => (
            ErrorKind::Limit,
            format!(
                "parts shared so often that they expand to over {MOST_EXPANSION} times the file"
            ),
        ),
        InvalidFlatbuffer::DepthLimitReached => {
            (ErrorKind::Limit, format!("tables nested deeper than {MOST_DEPTH}"))
        }
        _ => {
            let text = error.to_string();
            (ErrorKind::Malformed, text.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    };
    Error::new(kind, format!("not a valid flatbuffer: {what}"))
}

#[cfg(test)]
mod tests {
    use flatbuffers::FlatBufferBuilder;

    use super::*;

    /// Sources of the reader, in which every field of an operator's options has to be asked for.
    const READERS: [&str; 8] = [
        include_str!("read/basic.rs"),
        include_str!("read/control.rs"),
        include_str!("read/lstm.rs"),
        include_str!("read/plain.rs"),
        include_str!("read/rnn.rs"),
        include_str!("read/variables.rs"),
        include_str!("read/window.rs"),
        include_str!("read/function.rs"),
    ];

    /// Fields that do not change what is computed; the reason stands at their declaration.
    const IRRELEVANT: [&str; 2] = ["pot_scale_int16", "quantized_bias_type"];

    #[test]
    fn every_field_of_the_options_is_read_or_listed() {
        let source = include_str!("schema.rs");
        let tables = source.split("    /// A table whose presence is all that matters.").nth(1);
        let tables =
            tables.and_then(|rest| rest.split("/// An operator: inputs and outputs").next());
        let mut fields = 0;
        for declared in tables.unwrap_or_default().split([';', '{']) {
            let Some((number, name)) =
                declared.split(':').next().and_then(|d| d.trim().split_once(' '))
            else {
                continue;
            };
            let name = name.trim();
            let is_field = number.parse::<usize>().is_ok() && !name.contains(' ');
            if !is_field {
                continue;
            }
            fields += 1;
            let calls = [format!(".{name}()"), format!("Options::{name})")];
            let is_read = READERS.iter().any(|read| calls.iter().any(|call| read.contains(call)));
            assert!(is_read != IRRELEVANT.contains(&name), "{name}: read {is_read}");
        }
        assert!(fields > 60, "only {fields} fields were found");
    }

    #[test]
    fn a_field_that_nobody_declared_is_seen() {
        let table = |slots: &[u16]| {
            let mut builder = FlatBufferBuilder::new();
            let start = builder.start_table();
            for slot in slots {
                builder.push_slot_always::<i32>(slot * 2 + 4, 7);
            }
            let root = builder.end_table(start);
            builder.finish_minimal(root);
            builder.finished_data().to_vec()
        };
        let unknown = |slots: &[u16]| {
            let bytes = table(slots);
            Table::root(&bytes).and_then(|table| SoftmaxOptions::from(table).unknown_field())
        };
        assert_eq!(unknown(&[0]), None);
        assert_eq!(unknown(&[]), None);
        assert_eq!(unknown(&[0, 9]), Some(9));
    }
}
