//! What stands in a file, as plain records, and the flatbuffer that is made of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Push, UOffsetT, Vector, WIPOffset};

use crate::tensor::{DType, Quantization, Tensor};

/// Alignment of every constant in the file: what the format's own writers use, so that kernels may
/// load whole vectors.
const ALIGNMENT: usize = 16;

/// A whole file.
#[derive(Default)]
pub(super) struct File {
    pub(super) description: String,
    pub(super) codes: Vec<Code>,
    pub(super) subgraphs: Vec<SubGraph>,
    pub(super) metadata: Vec<(String, u32)>,
    /// Constants; the first is empty, as readers expect.
    buffers: Vec<Vec<u8>>,
    /// Buffers with the same hash of their bytes.
    known: HashMap<u64, Vec<u32>>,
}

/// An operator that the file uses.
#[derive(Clone, PartialEq)]
pub(super) struct Code {
    pub(super) number: i32,
    pub(super) custom: String,
    pub(super) version: i32,
}

#[derive(Default)]
pub(super) struct SubGraph {
    pub(super) name: String,
    pub(super) tensors: Vec<TensorRecord>,
    pub(super) inputs: Vec<i32>,
    pub(super) outputs: Vec<i32>,
    pub(super) operators: Vec<OperatorRecord>,
}

#[derive(Clone)]
pub(super) struct TensorRecord {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<i32>,
    /// As the shape, with −1 where the caller may choose; empty when the caller may choose nothing.
    pub(super) signature: Vec<i32>,
    pub(super) buffer: u32,
    pub(super) quantization: Option<Quantization>,
    pub(super) variable: bool,
    /// Without it an empty shape may be that of a tensor of any rank.
    pub(super) has_rank: bool,
}

pub(super) struct OperatorRecord {
    /// Index into [`File::codes`].
    pub(super) code: u32,
    pub(super) inputs: Vec<i32>,
    pub(super) outputs: Vec<i32>,
    pub(super) options: Options,
    pub(super) custom_options: Vec<u8>,
    pub(super) intermediates: Vec<i32>,
}

/// An options table: its number in the union of all options, and its fields by slot.
#[derive(Clone, Default)]
pub(super) struct Options {
    pub(super) number: u8,
    pub(super) fields: Vec<(usize, Field)>,
}

#[derive(Clone)]
pub(super) enum Field {
    Byte(i8),
    Int(i32),
    Float(f32),
    Bool(bool),
    Ints(Vec<i32>),
}

impl Options {
    pub(super) fn new(number: u8, fields: Vec<(usize, Field)>) -> Self {
        Options { number, fields }
    }
}

impl File {
    pub(super) fn new(description: String) -> Self {
        File { description, buffers: vec![Vec::new()], ..File::default() }
    }

    /// Index of an operator and version.
    pub(super) fn code(&mut self, code: Code) -> u32 {
        let found = self.codes.iter().position(|known| *known == code).unwrap_or_else(|| {
            self.codes.push(code);
            self.codes.len() - 1
        });
        found as u32
    }

    /// Index of a buffer with these bytes, shared by everything that has the same.
    pub(super) fn buffer(&mut self, bytes: Vec<u8>) -> u32 {
        if bytes.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let same_hash = self.known.entry(hasher.finish()).or_default();
        if let Some(index) =
            same_hash.iter().find(|index| self.buffers.get(**index as usize) == Some(&bytes))
        {
            return *index;
        }
        let index = self.buffers.len() as u32;
        same_hash.push(index);
        self.buffers.push(bytes);
        index
    }

    /// A buffer's equal `rows` in reverse order.
    pub(super) fn turned(&mut self, buffer: u32, rows: usize) -> u32 {
        let bytes = self.buffers.get(buffer as usize).cloned().unwrap_or_default();
        let row = (bytes.len() / rows.max(1)).max(1);
        self.buffer(bytes.chunks(row).rev().flatten().copied().collect())
    }

    /// The bytes of the file.
    pub(super) fn serialize(&self) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::with_capacity(
            1024 + self.buffers.iter().map(|bytes| bytes.len() + 64).sum::<usize>(),
        );
        let fbb = &mut builder;
        let buffers: Vec<_> = self.buffers.iter().map(|bytes| buffer(fbb, bytes)).collect();
        let buffers = fbb.create_vector(&buffers);
        let subgraphs: Vec<_> =
            self.subgraphs.iter().map(|subgraph| subgraph.serialize(fbb)).collect();
        let subgraphs = fbb.create_vector(&subgraphs);
        let codes: Vec<_> = self.codes.iter().map(|code| code.serialize(fbb)).collect();
        let codes = fbb.create_vector(&codes);
        let metadata: Vec<_> = self.metadata.iter().map(|entry| named_buffer(fbb, entry)).collect();
        let metadata = fbb.create_vector(&metadata);
        let signatures: Vec<_> =
            self.subgraphs.first().map(|main| signature(fbb, main)).into_iter().collect();
        let signatures = fbb.create_vector(&signatures);
        let description = fbb.create_string(&self.description);
        let start = fbb.start_table();
        fbb.push_slot_always(slot(0), super::super::schema::VERSION);
        fbb.push_slot_always(slot(1), codes);
        fbb.push_slot_always(slot(2), subgraphs);
        fbb.push_slot_always(slot(3), description);
        fbb.push_slot_always(slot(4), buffers);
        fbb.push_slot_always(slot(6), metadata);
        fbb.push_slot_always(slot(7), signatures);
        let root = fbb.end_table(start);
        // The root offset and the identifier, eight bytes, come last; the constants were aligned
        // from the file's end.
        pad(fbb, 8);
        fbb.finish(root, std::str::from_utf8(super::super::schema::IDENTIFIER).ok());
        let (bytes, head) = builder.collapse();
        bytes.get(head..).map(<[u8]>::to_vec).unwrap_or_default()
    }
}

type Builder<'b> = FlatBufferBuilder<'b>;
/// An offset to a table.
type Table = WIPOffset<flatbuffers::TableFinishedWIPOffset>;
type Tables<'b> = WIPOffset<Vector<'b, ForwardsUOffset<flatbuffers::TableFinishedWIPOffset>>>;

/// Byte position of a field's slot in a vtable.
fn slot(number: usize) -> u16 {
    (4 + 2 * number) as u16
}

/// Puts zeros before what comes next, so that `length` bytes from now on the buffer's end is
/// aligned.
fn pad(fbb: &mut Builder<'_>, length: usize) {
    while !(fbb.unfinished_data().len() + length).is_multiple_of(ALIGNMENT) {
        fbb.push(0u8);
    }
}

fn buffer(fbb: &mut Builder<'_>, bytes: &[u8]) -> Table {
    let data = (!bytes.is_empty()).then(|| {
        pad(fbb, bytes.len());
        fbb.create_vector(bytes)
    });
    let start = fbb.start_table();
    push_some(fbb, 0, data);
    fbb.end_table(start)
}

fn push_some<T: Push>(fbb: &mut Builder<'_>, number: usize, value: Option<T>) {
    if let Some(value) = value {
        fbb.push_slot_always(slot(number), value);
    }
}

fn named_buffer(fbb: &mut Builder<'_>, (name, buffer): &(String, u32)) -> Table {
    let name = fbb.create_string(name);
    let start = fbb.start_table();
    fbb.push_slot_always(slot(0), name);
    fbb.push_slot_always(slot(1), *buffer);
    fbb.end_table(start)
}

/// The one signature: every input and output by its name.
fn signature(fbb: &mut Builder<'_>, main: &SubGraph) -> Table {
    let inputs = tensor_maps(fbb, main, &main.inputs);
    let outputs = tensor_maps(fbb, main, &main.outputs);
    let key = fbb.create_string("serving_default");
    let start = fbb.start_table();
    fbb.push_slot_always(slot(0), inputs);
    fbb.push_slot_always(slot(1), outputs);
    fbb.push_slot_always(slot(2), key);
    fbb.push_slot_always(slot(4), 0u32);
    fbb.end_table(start)
}

fn tensor_maps<'b>(fbb: &mut Builder<'b>, main: &SubGraph, indices: &[i32]) -> Tables<'b> {
    let maps: Vec<_> = indices
        .iter()
        .map(|index| {
            let index = index.unsigned_abs();
            let name = main.tensors.get(index as usize).map_or("", |tensor| tensor.name.as_str());
            named_buffer(fbb, &(name.to_owned(), index))
        })
        .collect();
    fbb.create_vector(&maps)
}

impl Code {
    fn serialize(&self, fbb: &mut Builder<'_>) -> Table {
        let custom = (!self.custom.is_empty()).then(|| fbb.create_string(&self.custom));
        let start = fbb.start_table();
        // Readers before 2020 know the eight-bit field only; numbers that do not fit stand there as
        // 127.
        fbb.push_slot_always(slot(0), i8::try_from(self.number).unwrap_or(127));
        push_some(fbb, 1, custom);
        fbb.push_slot_always(slot(2), self.version);
        fbb.push_slot_always(slot(3), self.number);
        fbb.end_table(start)
    }
}

impl SubGraph {
    fn serialize(&self, fbb: &mut Builder<'_>) -> Table {
        let tensors: Vec<_> = self.tensors.iter().map(|tensor| tensor.serialize(fbb)).collect();
        let tensors = fbb.create_vector(&tensors);
        let operators: Vec<_> =
            self.operators.iter().map(|operator| operator.serialize(fbb)).collect();
        let operators = fbb.create_vector(&operators);
        let inputs = fbb.create_vector(&self.inputs);
        let outputs = fbb.create_vector(&self.outputs);
        let name = fbb.create_string(&self.name);
        let start = fbb.start_table();
        fbb.push_slot_always(slot(0), tensors);
        fbb.push_slot_always(slot(1), inputs);
        fbb.push_slot_always(slot(2), outputs);
        fbb.push_slot_always(slot(3), operators);
        fbb.push_slot_always(slot(4), name);
        fbb.end_table(start)
    }
}

impl TensorRecord {
    fn serialize(&self, fbb: &mut Builder<'_>) -> Table {
        let name = fbb.create_string(&self.name);
        let shape = fbb.create_vector(&self.shape);
        let signature = (!self.signature.is_empty()).then(|| fbb.create_vector(&self.signature));
        let quantization = self.quantization.as_ref().map(|quantization| {
            let scales = fbb.create_vector(&quantization.scales);
            let zero_points = fbb.create_vector(&quantization.zero_points);
            let start = fbb.start_table();
            fbb.push_slot_always(slot(2), scales);
            fbb.push_slot_always(slot(3), zero_points);
            fbb.push_slot(slot(6), quantization.axis as i32, 0);
            fbb.end_table(start)
        });
        let start = fbb.start_table();
        fbb.push_slot_always(slot(0), shape);
        fbb.push_slot_always(slot(1), dtype_number(self.dtype));
        fbb.push_slot_always(slot(2), self.buffer);
        fbb.push_slot_always(slot(3), name);
        push_some(fbb, 4, quantization);
        fbb.push_slot(slot(5), self.variable, false);
        push_some(fbb, 7, signature);
        fbb.push_slot(slot(8), self.has_rank, false);
        fbb.end_table(start)
    }
}

impl OperatorRecord {
    fn serialize(&self, fbb: &mut Builder<'_>) -> Table {
        let inputs = fbb.create_vector(&self.inputs);
        let outputs = fbb.create_vector(&self.outputs);
        let options = (self.options.number != 0).then(|| self.options.serialize(fbb));
        let custom =
            (!self.custom_options.is_empty()).then(|| fbb.create_vector(&self.custom_options));
        let intermediates =
            (!self.intermediates.is_empty()).then(|| fbb.create_vector(&self.intermediates));
        let start = fbb.start_table();
        fbb.push_slot_always(slot(0), self.code);
        fbb.push_slot_always(slot(1), inputs);
        fbb.push_slot_always(slot(2), outputs);
        fbb.push_slot(slot(3), self.options.number, 0);
        push_some(fbb, 4, options);
        push_some(fbb, 5, custom);
        push_some(fbb, 8, intermediates);
        fbb.end_table(start)
    }
}

impl Options {
    fn serialize(&self, fbb: &mut Builder<'_>) -> Table {
        let lists: Vec<_> = self
            .fields
            .iter()
            .filter_map(|(number, field)| match field {
                Field::Ints(list) => Some((*number, fbb.create_vector(list))),
                Field::Byte(_) | Field::Int(_) | Field::Float(_) | Field::Bool(_) => None,
            })
            .collect();
        let start = fbb.start_table();
        for (number, list) in lists {
            fbb.push_slot_always(slot(number), list);
        }
        for (number, field) in &self.fields {
            match field {
                Field::Byte(value) => fbb.push_slot_always(slot(*number), *value),
                Field::Int(value) => fbb.push_slot_always(slot(*number), *value),
                Field::Float(value) => fbb.push_slot_always(slot(*number), *value),
                Field::Bool(value) => fbb.push_slot_always(slot(*number), *value),
                Field::Ints(_) => {}
            }
        }
        fbb.end_table(start)
    }
}

/// The number of an element type.
pub(super) fn dtype_number(dtype: DType) -> i8 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::I32 => 2,
        DType::U8 => 3,
        DType::I64 => 4,
        DType::Bool => 6,
        DType::I16 => 7,
        DType::I8 => 9,
        DType::F64 => 10,
    }
}

/// The bytes of a constant, little-endian.
pub(super) fn bytes(tensor: &Tensor) -> Vec<u8> {
    macro_rules! numbers {
        ($data:expr) => {
            $data.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
    }
    match tensor.storage() {
        crate::tensor::Storage::F32(data) => numbers!(data),
        crate::tensor::Storage::F64(data) => numbers!(data),
        crate::tensor::Storage::F16(data) => numbers!(data),
        crate::tensor::Storage::I8(data) => numbers!(data),
        crate::tensor::Storage::U8(data) => data.to_vec(),
        crate::tensor::Storage::I16(data) => numbers!(data),
        crate::tensor::Storage::I32(data) => numbers!(data),
        crate::tensor::Storage::I64(data) => numbers!(data),
        crate::tensor::Storage::Bool(data) => data.iter().map(|flag| u8::from(*flag)).collect(),
    }
}

/// Largest offset of the format.
pub(super) const MOST_BYTES: usize = UOffsetT::MAX as usize / 2;
