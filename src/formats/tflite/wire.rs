//! Access to the tables of a flatbuffer, without unsafe code.
//!
//! The crate `flatbuffers` verifies a buffer and then reads it through `unsafe` accessors that
//! trust their caller to ask for the type that was verified. Here a field is declared once
//! ([`tables!`]), and both its verification and its accessor come from that declaration; the
//! accessor itself checks every index again, so that a mistake here can give a wrong value but
//! never a read outside the file. A field that is absent (or that does not lie in the buffer, which
//! the verification excludes) reads as its default.

/// A table inside a buffer.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A fixed-size number of the wire format.
pub(super) trait Scalar: Sized {
    /// Its size in bytes.
    const SIZE: usize;
    /// The number that starts at `at`, little-endian.
    fn read(bytes: &[u8], at: usize) -> Option<Self>;
}

macro_rules! scalars {
    ($($ty:ty)*) => {$(
        impl Scalar for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn read(bytes: &[u8], at: usize) -> Option<Self> {
                let end = at.checked_add(Self::SIZE)?;
                Some(<$ty>::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
            }
        }
    )*};
}

scalars! { i8 u8 u16 i32 u32 i64 u64 f32 }

impl Scalar for bool {
    const SIZE: usize = 1;
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        bytes.get(at).map(|&byte| byte != 0)
    }
}

impl<'a> Table<'a> {
    /// The root table of a buffer.
    pub(super) fn root(bytes: &'a [u8]) -> Option<Self> {
        Some(Table { bytes, at: follow(bytes, 0)? })
    }

    /// Position of the field in a slot; `None` when the field is absent.
    fn field(self, slot: usize) -> Option<usize> {
        // A table begins with the distance back to its vtable: u16 size of the vtable, u16 size of
        // the table, then one u16 per slot, the field's distance from the table's start, 0 for
        // absent.
        let back = i64::from(i32::read(self.bytes, self.at)?);
        let vtable = usize::try_from(i64::try_from(self.at).ok()?.checked_sub(back)?).ok()?;
        let size = usize::from(u16::read(self.bytes, vtable)?);
        let entry = slot.checked_mul(2)?.checked_add(4)?;
        if entry >= size {
            return None;
        }
        match u16::read(self.bytes, vtable.checked_add(entry)?)? {
            0 => None,
            offset => self.at.checked_add(usize::from(offset)),
        }
    }

    /// The first slot that the table has a field in and `known` lacks.
    pub(super) fn unknown_slot(self, known: &[usize]) -> Option<usize> {
        // A vtable has at most this many slots: its size is 16 bits of bytes, two a slot.
        let most = usize::from(u16::MAX) / 2;
        let slots = (0..most).take_while(|&slot| self.has_slot(slot));
        slots.filter(|slot| !known.contains(slot)).find(|&slot| self.field(slot).is_some())
    }

    /// Whether the vtable reaches as far as a slot.
    fn has_slot(self, slot: usize) -> bool {
        let size = || {
            let back = i64::from(i32::read(self.bytes, self.at)?);
            let vtable = usize::try_from(i64::try_from(self.at).ok()?.checked_sub(back)?).ok()?;
            u16::read(self.bytes, vtable)
        };
        size().is_some_and(|size| slot * 2 + 4 < usize::from(size))
    }

    pub(super) fn scalar<T: Scalar>(self, slot: usize) -> Option<T> {
        T::read(self.bytes, self.field(slot)?)
    }

    /// First element and length of a vector of elements of `size` bytes.
    fn vector(self, slot: usize, size: usize) -> Option<(usize, usize)> {
        let at = follow(self.bytes, self.field(slot)?)?;
        let count = u32::read(self.bytes, at)? as usize;
        let first = at.checked_add(4)?;
        let end = first.checked_add(count.checked_mul(size)?)?;
        (end <= self.bytes.len()).then_some((first, count))
    }

    pub(super) fn scalars<T: Scalar>(self, slot: usize) -> Vec<T> {
        let Some((first, count)) = self.vector(slot, T::SIZE) else { return Vec::new() };
        (0..count).map_while(|index| T::read(self.bytes, first + index * T::SIZE)).collect()
    }

    pub(super) fn bytes(self, slot: usize) -> &'a [u8] {
        self.vector(slot, 1)
            .and_then(|(first, count)| self.bytes.get(first..first + count))
            .unwrap_or_default()
    }

    pub(super) fn text(self, slot: usize) -> &'a str {
        std::str::from_utf8(self.bytes(slot)).unwrap_or_default()
    }

    pub(super) fn table(self, slot: usize) -> Option<Table<'a>> {
        Some(Table { bytes: self.bytes, at: follow(self.bytes, self.field(slot)?)? })
    }

    pub(super) fn tables(self, slot: usize) -> Vec<Table<'a>> {
        let Some((first, count)) = self.vector(slot, 4) else { return Vec::new() };
        (0..count)
            .map_while(|index| follow(self.bytes, first + index * 4))
            .map(|at| Table { bytes: self.bytes, at })
            .collect()
    }
}

/// The position that the offset at `at` points to.
fn follow(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(u32::read(bytes, at)? as usize)
}

/// Declares tables: `slot name: kind;` for each field that is read, in any order of slots.
///
/// | kind | accessor returns | verified as |
/// |---|---|---|
/// | `(i32 = 0)` | `i32`, the default when absent | a number in the buffer |
/// | `(list i32)` | `Vec<i32>` | a vector of numbers |
/// | `(bytes)` | `&[u8]` | a vector of bytes |
/// | `(text)` | `&str` | a UTF-8 string |
/// | `(table X)` | `Option<X>` | a table `X` |
/// | `(tables X)` | `Vec<X>` | a vector of tables `X` |
macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident { $($slot:literal $field:ident: $kind:tt;)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(super) struct $name<'a>(#[allow(dead_code)] Table<'a>);

        impl<'a> From<Table<'a>> for $name<'a> {
            fn from(table: Table<'a>) -> Self {
                $name(table)
            }
        }

        #[allow(dead_code)]
        impl<'a> $name<'a> {
            /// The slots that are declared.
            pub(super) const SLOTS: &'static [usize] = &[$($slot),*];

            /// A slot that is set in the file and not declared here.
            pub(super) fn unknown_slot(self) -> Option<usize> {
                self.0.unknown_slot(Self::SLOTS)
            }

            $(pub(super) fn $field(self) -> accessed!($kind) {
                access!(self.0, $slot, $kind)
            })*
        }

        impl Verifiable for $name<'_> {
            fn run_verifier(verifier: &mut Verifier, at: usize) -> Result<(), InvalidFlatbuffer> {
                let table = verifier.visit_table(at)?;
                $(let table = table.visit_field::<verified!($kind)>(stringify!($field), $slot * 2 + 4, false)?;)*
                table.finish();
                Ok(())
            }
        }
    )*};
}

macro_rules! accessed {
    ((list $ty:ty)) => { Vec<$ty> };
    ((bytes)) => { &'a [u8] };
    ((text)) => { &'a str };
    ((table $ty:ident)) => { Option<$ty<'a>> };
    ((tables $ty:ident)) => { Vec<$ty<'a>> };
    (($ty:ident = $default:expr)) => { $ty };
}

macro_rules! access {
    ($table:expr, $slot:literal, (list $ty:ty)) => {
        $table.scalars::<$ty>($slot)
    };
    ($table:expr, $slot:literal, (bytes)) => {
        $table.bytes($slot)
    };
    ($table:expr, $slot:literal, (text)) => {
        $table.text($slot)
    };
    ($table:expr, $slot:literal, (table $ty:ident)) => {
        $table.table($slot).map($ty::from)
    };
    ($table:expr, $slot:literal, (tables $ty:ident)) => {
        $table.tables($slot).into_iter().map($ty::from).collect()
    };
    ($table:expr, $slot:literal, ($ty:ident = $default:expr)) => {
        $table.scalar::<$ty>($slot).unwrap_or($default)
    };
}

macro_rules! verified {
    ((list $ty:ty)) => { ForwardsUOffset<Vector<'_, $ty>> };
    ((bytes)) => { ForwardsUOffset<Vector<'_, u8>> };
    ((text)) => { ForwardsUOffset<&str> };
    ((table $ty:ident)) => { ForwardsUOffset<$ty<'_>> };
    ((tables $ty:ident)) => { ForwardsUOffset<Vector<'_, ForwardsUOffset<$ty<'_>>>> };
    (($ty:ident = $default:expr)) => { $ty };
}

pub(super) use {access, accessed, tables, verified};
