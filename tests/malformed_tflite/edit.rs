//! Changes fields of a valid file in place, found by their path through its tables.

use flatbuffers::FlatBufferBuilder;

use crate::common;

/// The bytes of a file.
pub struct Edit {
    pub bytes: Vec<u8>,
}

/// The model of a corpus folder; says so when the corpus is absent.
pub fn corpus(name: &str) -> Option<Edit> {
    let folder = common::model(name)?;
    let file = ["model.tflite", "model_float.tflite"]
        .map(|file| folder.join(file))
        .into_iter()
        .find(|file| file.is_file());
    let Some(file) = file else {
        eprintln!("NOT TESTED: {} is absent", folder.display());
        return None;
    };
    Some(Edit { bytes: std::fs::read(file).unwrap() })
}

/// A number that is written little-endian.
pub trait Number {
    fn bytes(self) -> Vec<u8>;
}

macro_rules! numbers {
    ($($ty:ty)*) => {$(impl Number for $ty {
        fn bytes(self) -> Vec<u8> {
            self.to_le_bytes().to_vec()
        }
    })*};
}

numbers! { u8 i8 u32 i32 i64 f32 }

/// A step through the tables: slot of a field, and index in its vector (`usize::MAX`: the field is
/// a table itself).
type Step = (usize, usize);

impl Edit {
    pub fn get(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub fn put(&mut self, at: usize, number: impl Number) {
        let bytes = number.bytes();
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    pub fn root(&self) -> usize {
        self.get(0) as usize
    }

    fn slot(&self, table: usize, slot: usize) -> Option<usize> {
        let vtable = (table as i64 - i64::from(self.get(table) as i32)) as usize;
        let half =
            |at: usize| usize::from(u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap()));
        let entry = 4 + 2 * slot;
        if entry >= half(vtable) || half(vtable + entry) == 0 {
            None
        } else {
            Some(table + half(vtable + entry))
        }
    }

    fn follow(&self, at: usize) -> usize {
        at + self.get(at) as usize
    }

    fn table(&self, path: &[Step]) -> usize {
        path.iter().fold(self.root(), |table, (slot, index)| {
            let field = self.slot(table, *slot).expect("a field of the path is absent");
            let target = self.follow(field);
            if *index == usize::MAX { target } else { self.follow(target + 4 + 4 * index) }
        })
    }

    /// Position of a field, when it is there.
    pub fn field(&self, path: &[Step], slot: usize) -> Option<usize> {
        self.slot(self.table(path), slot)
    }

    /// Position of a vector's (or string's) length.
    pub fn vector(&self, path: &[Step], slot: usize) -> usize {
        self.follow(self.field(path, slot).expect("the vector is absent"))
    }

    pub fn set_scalar(&mut self, path: &[Step], slot: usize, number: impl Number) {
        let at = self.field(path, slot).expect("the field is absent");
        self.put(at, number);
    }

    pub fn element(&self, path: &[Step], slot: usize, index: usize) -> i32 {
        self.get(self.vector(path, slot) + 4 + 4 * index) as i32
    }

    pub fn set_element(&mut self, path: &[Step], slot: usize, index: usize, value: i32) {
        let at = self.vector(path, slot) + 4 + 4 * index;
        self.put(at, value);
    }

    /// Operand `index` of the first operator.
    pub fn input(&self, index: usize) -> i32 {
        self.element(&[(2, 0), (3, 0)], 1, index)
    }

    pub fn set_input(&mut self, index: usize, tensor: i32) {
        self.set_element(&[(2, 0), (3, 0)], 1, index, tensor);
    }

    pub fn set_inputs_len(&mut self, count: u32) {
        let at = self.vector(&[(2, 0), (3, 0)], 1);
        self.put(at, count);
    }

    /// The code of the first operator: the field is absent where it is 0, and then the list of
    /// codes is emptied.
    pub fn put_operator_code(&mut self, code: u32) {
        match self.field(&[(2, 0), (3, 0)], 0) {
            Some(at) => self.put(at, code),
            None => {
                let at = self.vector(&[], 1);
                self.put(at, 0u32);
            }
        }
    }

    /// A field of a tensor of the first subgraph.
    pub fn set_tensor(&mut self, tensor: usize, slot: usize, number: impl Number) {
        self.set_scalar(&[(2, 0), (0, tensor)], slot, number);
    }

    pub fn get_tensor_buffer(&self, tensor: usize) -> usize {
        self.get(self.field(&[(2, 0), (0, tensor)], 2).unwrap()) as usize
    }

    /// Makes the sparsity of a tensor of what was its quantization.
    pub fn set_sparse(&mut self, tensor: usize) {
        let table = self.table(&[(2, 0), (0, tensor)]);
        let vtable = (table as i64 - i64::from(self.get(table) as i32)) as usize;
        let (quantization, sparsity) = (vtable + 4 + 2 * 4, vtable + 4 + 2 * 6);
        assert!(
            self.bytes[vtable] as usize > sparsity - vtable,
            "the table has no field for the sparsity"
        );
        self.bytes.copy_within(quantization..quantization + 2, sparsity);
        self.bytes[quantization..quantization + 2].fill(0);
    }

    pub fn set_rank(&mut self, tensor: usize, rank: u32) {
        let at = self.vector(&[(2, 0), (0, tensor)], 0);
        self.put(at, rank);
    }

    pub fn set_size(&mut self, tensor: usize, axis: usize, size: i32) {
        self.set_element(&[(2, 0), (0, tensor)], 0, axis, size);
    }

    /// The scale of tensor 2, a weight.
    pub fn set_scale(&mut self, scale: f32) {
        let at = self.vector(&[(2, 0), (0, 2), (4, usize::MAX)], 2) + 4;
        self.put(at, scale);
    }

    pub fn set_zero_point(&mut self, zero: i64) {
        let at = self.vector(&[(2, 0), (0, 2), (4, usize::MAX)], 3) + 4;
        self.put(at, zero);
    }

    /// An option of the first operator.
    pub fn set_option(&mut self, slot: usize, number: impl Number) {
        self.set_scalar(&[(2, 0), (3, 0), (4, usize::MAX)], slot, number);
    }

    pub fn set_option_of(&mut self, operator: usize, slot: usize, value: i32) {
        self.set_scalar(&[(2, 0), (3, operator), (4, usize::MAX)], slot, value);
    }

    pub fn option_of(&self, operator: usize, slot: usize) -> i32 {
        self.get(self.field(&[(2, 0), (3, operator), (4, usize::MAX)], slot).unwrap()) as i32
    }
}

/// A small file in which `subgraphs` entries are one subgraph, whose `tensors` entries are one
/// tensor.
pub fn shared_tables(subgraphs: usize, tensors: usize) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let name = builder.create_string("t");
    let start = builder.start_table();
    builder.push_slot_always(10, name);
    let tensor = builder.end_table(start);
    let list = builder.create_vector(&vec![tensor; tensors]);
    let start = builder.start_table();
    builder.push_slot_always(4, list);
    let subgraph = builder.end_table(start);
    let list = builder.create_vector(&vec![subgraph; subgraphs]);
    let start = builder.start_table();
    builder.push_slot_always(4, 3u32);
    builder.push_slot_always(8, list);
    let root = builder.end_table(start);
    builder.finish(root, Some("TFL3"));
    builder.finished_data().to_vec()
}
