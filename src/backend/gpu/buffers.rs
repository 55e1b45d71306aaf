//! Device memory: the values of a program in blocks that are used again, and the constants of a
//! session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{Device, Meter};
use crate::error::{Error, Result};
use crate::tensor::{DType, Storage, Tensor};

/// Offsets of views are multiples of this: what WebGPU asks of bindings.
pub(super) const ALIGNMENT: u64 = 256;

/// A range of a device buffer.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    /// Bytes; a multiple of 4, and never 0, so that it can be bound.
    pub(super) size: u64,
    /// The block that holds it, when it is not a constant.
    block: Option<usize>,
    /// What is bound instead of the buffer, for weights that are held as a texture; see
    /// [`create_texels`].
    texels: Option<wgpu::TextureView>,
}

impl View {
    /// All of a buffer that is not a block of values.
    pub(super) fn whole(buffer: wgpu::Buffer, size: u64) -> View {
        View { buffer, offset: 0, size, block: None, texels: None }
    }

    /// `size` bytes of this view from `offset` on.
    pub(super) fn part(&self, offset: u64, size: u64) -> Result<View> {
        let end = offset
            .checked_add(size)
            .filter(|&end| end <= self.size && offset.is_multiple_of(ALIGNMENT) && size > 0);
        match end {
            Some(_) => Ok(View { offset: self.offset + offset, size, ..self.clone() }),
            None => {
                Err(Error::internal(format!("bytes {offset}+{size} of a view of {}", self.size)))
            }
        }
    }

    /// Whether it holds weights as a texture.
    pub(super) fn is_texels(&self) -> bool {
        self.texels.is_some()
    }

    pub(super) fn binding(&self) -> wgpu::BindingResource<'_> {
        if let Some(texels) = &self.texels {
            return wgpu::BindingResource::TextureView(texels);
        }
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: wgpu::BufferSize::new(self.size),
        })
    }
}

/// Bytes that a value of `count` elements takes on the device, where every element is a word of 32
/// bits.
pub(super) fn bytes(count: usize) -> u64 {
    (count as u64).max(1).saturating_mul(4)
}

/// `bytes` rounded up to where the next view may begin.
pub(super) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// The blocks of one program. A block is a buffer; it is given out again when no value lives in it.
///
/// wgpu tracks whole buffers and forbids a buffer that is read-only and writable in one dispatch,
/// so a block holds one value, or several that one node writes together.
#[derive(Default)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
}

struct Block {
    buffer: wgpu::Buffer,
    size: u64,
    users: u32,
}

impl Blocks {
    /// A view of `size` bytes with one user. `fresh`: of a new buffer, which no earlier command of
    /// the program touches.
    pub(super) fn take(
        &mut self,
        device: &Device,
        meter: &Meter,
        size: u64,
        fresh: bool,
    ) -> Result<View> {
        // Sizes in steps of an eighth of their power of two waste little and match often.
        let step = (size.next_power_of_two() / 8).max(ALIGNMENT);
        let class = size
            .checked_next_multiple_of(step)
            .ok_or_else(|| Error::limit("a value of over 2^64 bytes"))?;
        let free = |b: &Block| b.users == 0 && b.size == class;
        let index = match self.blocks.iter().position(free).filter(|_| !fresh) {
            Some(index) => index,
            None => {
                let usage = wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST;
                let buffer = create(device, meter, "value", class, usage)?;
                self.blocks.push(Block { buffer, size: class, users: 0 });
                self.blocks.len() - 1
            }
        };
        let block = self
            .blocks
            .get_mut(index)
            .ok_or_else(|| Error::internal("a block that does not exist"))?;
        block.users += 1;
        Ok(View { buffer: block.buffer.clone(), offset: 0, size, block: Some(index), texels: None })
    }

    /// One more value lives in the view's block.
    pub(super) fn share(&mut self, view: &View) {
        if let Some(block) = view.block.and_then(|index| self.blocks.get_mut(index)) {
            block.users += 1;
        }
    }

    /// A value that lived in the view's block is no longer needed.
    pub(super) fn release(&mut self, view: &View) {
        if let Some(block) = view.block.and_then(|index| self.blocks.get_mut(index)) {
            block.users = block.users.saturating_sub(1);
        }
    }

    /// Bytes of all blocks.
    pub(super) fn total(&self) -> u64 {
        self.blocks.iter().map(|b| b.size).sum()
    }
}

/// Makes a buffer.
pub(super) fn create(
    device: &Device,
    meter: &Meter,
    label: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    if size > device.limits.max_buffer_size {
        let most = device.limits.max_buffer_size;
        return Err(Error::limit(format!(
            "a buffer of {size} bytes is needed, the adapter allows {most}"
        )));
    }
    meter.buffer();
    device.guarded(|| {
        device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    })
}

/// Makes a buffer that holds `words`.
pub(super) fn create_with(device: &Device, meter: &Meter, words: &[u32]) -> Result<View> {
    let size = bytes(words.len());
    let usage =
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = create(device, meter, "constant", size, usage)?;
    device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    Ok(View { buffer, offset: 0, size, block: None, texels: None })
}

/// Texels in a row of a texture of weights; `weights_texels.wgsl` counts on it.
const TEXELS: u32 = 2048;

/// Makes a texture that holds `words`, four to a texel, for `weights_texels.wgsl`; a buffer when it
/// has too many rows.
///
/// The software driver runs a loop over the lanes for every word that a kernel loads from a buffer,
/// while it fetches whole texels: at 512 units and one row a step is seven times faster.
fn create_texels(device: &Device, meter: &Meter, words: &[u32]) -> Result<View> {
    let rows = words.len().div_ceil(4 * TEXELS as usize).max(1);
    if rows > device.limits.max_texture_dimension_2d as usize {
        return create_with(device, meter, words);
    }
    let mut padded = words.to_vec();
    padded.resize(rows * 4 * TEXELS as usize, 0);
    let size = wgpu::Extent3d { width: TEXELS, height: rows as u32, depth_or_array_layers: 1 };
    meter.buffer();
    let texture = device.guarded(|| {
        device.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("weights"),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        })
    })?;
    let layout = wgpu::TexelCopyBufferLayout {
        offset: 0,
        bytes_per_row: Some(16 * TEXELS),
        rows_per_image: None,
    };
    device.queue.write_texture(
        texture.as_image_copy(),
        bytemuck::cast_slice(&padded),
        layout,
        size,
    );
    let texels = Some(texture.create_view(&wgpu::TextureViewDescriptor::default()));
    Ok(View { texels, ..create_with(device, meter, &[])? })
}

/// Names a constant on the device: where its elements lie on the host, and how they were arranged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ConstantKey {
    addresses: Vec<usize>,
    layout: String,
}

struct Constant {
    view: View,
    /// Keeps the elements alive, so that their addresses name nothing else.
    _owners: Vec<Arc<dyn std::any::Any + Send + Sync>>,
}

/// Weights and constants that were uploaded, once for all programs of a session.
#[derive(Default)]
pub(super) struct Constants {
    entries: Mutex<HashMap<ConstantKey, Constant>>,
}

impl Constants {
    /// The elements of `owner` arranged as `layout` says; `words` makes them when they are not on
    /// the device yet.
    pub(super) fn get<T: std::any::Any + Send + Sync>(
        &self,
        device: &Device,
        meter: &Meter,
        owner: &Arc<T>,
        layout: String,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        self.get_joined(device, meter, std::slice::from_ref(owner), &layout, words)
    }

    /// The elements of several owners in one buffer.
    pub(super) fn get_joined<T: std::any::Any + Send + Sync>(
        &self,
        device: &Device,
        meter: &Meter,
        owners: &[Arc<T>],
        layout: &str,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        self.get_made(owners, layout, || create_with(device, meter, &words()?))
    }

    /// The same as a texture, see [`create_texels`].
    pub(super) fn get_texels<T: std::any::Any + Send + Sync>(
        &self,
        device: &Device,
        meter: &Meter,
        owners: &[Arc<T>],
        layout: &str,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        self.get_made(owners, layout, || create_texels(device, meter, &words()?))
    }

    fn get_made<T: std::any::Any + Send + Sync>(
        &self,
        owners: &[Arc<T>],
        layout: &str,
        make: impl FnOnce() -> Result<View>,
    ) -> Result<View> {
        let addresses =
            owners.iter().map(|owner| Arc::as_ptr(owner).cast::<u8>() as usize).collect();
        let key = ConstantKey { addresses, layout: layout.to_owned() };
        if let Some(constant) =
            self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        {
            return Ok(constant.view.clone());
        }
        let view = make()?;
        let owners = owners.iter().map(|owner| Arc::clone(owner) as _).collect();
        let constant = Constant { view: view.clone(), _owners: owners };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(key, constant);
        Ok(view)
    }

    /// A constant tensor as it is, one word an element.
    pub(super) fn tensor(&self, device: &Device, meter: &Meter, tensor: &Tensor) -> Result<View> {
        crate::tensor::with_storage!(tensor.storage(), owner => self.get(device, meter, owner, "tensor".into(), || to_words(tensor)))
    }
}

/// Type of the words that hold a value on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// f32, and f16 widened.
    F32,
    /// Every integer type.
    I32,
    /// bool: 0 or 1.
    Bool,
}

impl Word {
    /// How a type is held; `None` for f64, which WGSL does not have.
    pub(super) fn of(dtype: DType) -> Option<Word> {
        match dtype {
            DType::F32 | DType::F16 => Some(Word::F32),
            DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 => Some(Word::I32),
            DType::Bool => Some(Word::Bool),
            DType::F64 => None,
        }
    }
}

/// The elements of a tensor as words.
pub(super) fn to_words(tensor: &Tensor) -> Result<Vec<u32>> {
    let narrow = |x: i64| {
        i32::try_from(x).map(|x| x as u32).map_err(|_| {
            Error::input(format!(
                "{x} does not fit in 32 bits, in which the gpu backend computes integers"
            ))
        })
    };
    Ok(match tensor.storage() {
        Storage::F32(v) => v.iter().map(|x| x.to_bits()).collect(),
        Storage::F16(v) => v.iter().map(|x| x.to_f32().to_bits()).collect(),
        Storage::I8(v) => v.iter().map(|&x| i32::from(x) as u32).collect(),
        Storage::U8(v) => v.iter().map(|&x| u32::from(x)).collect(),
        Storage::I16(v) => v.iter().map(|&x| i32::from(x) as u32).collect(),
        Storage::I32(v) => v.iter().map(|&x| x as u32).collect(),
        Storage::I64(v) => v.iter().map(|&x| narrow(x)).collect::<Result<_>>()?,
        Storage::Bool(v) => v.iter().map(|&x| u32::from(x)).collect(),
        Storage::F64(_) => return Err(Error::unsupported("the gpu backend does not hold float64")),
    })
}

/// The elements of a tensor as the bytes of their words, written into `scratch` when they have to
/// be converted.
pub(super) fn to_bytes<'a>(tensor: &'a Tensor, scratch: &'a mut Vec<u32>) -> Result<&'a [u8]> {
    match tensor.storage() {
        Storage::F32(v) => Ok(bytemuck::cast_slice(v)),
        Storage::I32(v) => Ok(bytemuck::cast_slice(v)),
        Storage::F16(_)
        | Storage::F64(_)
        | Storage::I8(_)
        | Storage::U8(_)
        | Storage::I16(_)
        | Storage::I64(_)
        | Storage::Bool(_) => {
            *scratch = to_words(tensor)?;
            Ok(bytemuck::cast_slice(scratch))
        }
    }
}

/// Puts the elements that came from the device into `tensor`: in place when its type and shape are
/// right.
pub(super) fn read_into(
    tensor: &mut Tensor,
    dtype: DType,
    shape: &[usize],
    bytes: &[u8],
) -> Result<()> {
    if tensor.dtype() != dtype || tensor.shape() != shape {
        *tensor = Tensor::zeros(dtype, shape)?;
    }
    let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    macro_rules! fill {
        ($ty:ty, $convert:expr) => {
            for (to, from) in tensor.as_mut_slice::<$ty>()?.iter_mut().zip(words) {
                *to = $convert(from);
            }
        };
    }
    match dtype {
        DType::F32 => {
            let to: &mut [u8] = bytemuck::cast_slice_mut(tensor.as_mut_slice::<f32>()?);
            let n = to.len().min(bytes.len());
            to[..n].copy_from_slice(&bytes[..n]);
        }
        DType::F16 => fill!(half::f16, |w| half::f16::from_f32(f32::from_bits(w))),
        DType::F64 => fill!(f64, |w| f64::from(f32::from_bits(w))),
        DType::I8 => fill!(i8, |w| w as i8),
        DType::U8 => fill!(u8, |w| w as u8),
        DType::I16 => fill!(i16, |w| w as i16),
        DType::I32 => fill!(i32, |w| w as i32),
        DType::I64 => fill!(i64, |w| i64::from(w as i32)),
        DType::Bool => fill!(bool, |w| w != 0),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_there_and_back() {
        let cases = [
            Tensor::from_vec(&[3], vec![1.5f32, -0.0, f32::INFINITY]).unwrap(),
            Tensor::from_vec(&[2], vec![half::f16::from_f32(0.1), half::f16::from_f32(-7.0)])
                .unwrap(),
            Tensor::from_vec(&[3], vec![-128i8, 0, 127]).unwrap(),
            Tensor::from_vec(&[2], vec![255u8, 1]).unwrap(),
            Tensor::from_vec(&[2], vec![i16::MIN, 5]).unwrap(),
            Tensor::from_vec(&[2], vec![i32::MIN, i32::MAX]).unwrap(),
            Tensor::from_vec(&[2], vec![-1i64, 1 << 30]).unwrap(),
            Tensor::from_vec(&[2], vec![true, false]).unwrap(),
        ];
        for tensor in cases {
            let mut scratch = Vec::new();
            let bytes = to_bytes(&tensor, &mut scratch).unwrap().to_vec();
            let mut back = Tensor::scalar(0.0f32);
            read_into(&mut back, tensor.dtype(), tensor.shape(), &bytes).unwrap();
            assert_eq!(back, tensor);
        }
        let wide = Tensor::from_vec(&[1], vec![1i64 << 40]).unwrap();
        assert!(to_words(&wide).is_err_and(|e| e.kind() == crate::ErrorKind::InvalidInput));
    }
}
