//! The header of a safetensors file, read strictly and checked against the file's length.
//!
//! Layout: 8 bytes little-endian header length, the header (one JSON object: tensor name to dtype, shape
//! and byte range), then the data, which the ranges must cover exactly once.

use super::json::quoted;
use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::limits;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use std::fmt;
use std::io::{Read, Seek, SeekFrom};

/// Element types that a safetensors file may name. Those that a network may be stored in are read;
/// the others are known so that their sizes can be checked, and refused when a network asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Any other: its name, and the bits of one element.
    Other(&'static str, u64),
}

/// Types that are only known by size.
const OTHERS: [(&str, u64); 13] = [
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("I16", 16),
    ("U16", 16),
    ("I32", 32),
    ("U32", 32),
    ("I64", 64),
    ("U64", 64),
    ("F64", 64),
];

impl StoredType {
    fn parse(name: &str) -> Option<StoredType> {
        match name {
            "F32" => Some(StoredType::F32),
            "F16" => Some(StoredType::F16),
            "BF16" => Some(StoredType::Bf16),
            _ => OTHERS.iter().find(|(n, _)| *n == name).map(|&(n, bits)| StoredType::Other(n, bits)),
        }
    }

    /// Bits of one element.
    pub fn bits(self) -> u64 {
        match self {
            StoredType::F32 => 32,
            StoredType::F16 | StoredType::Bf16 => 16,
            StoredType::Other(_, bits) => bits,
        }
    }

    /// Name as the file spells it.
    pub fn name(self) -> &'static str {
        match self {
            StoredType::F32 => "F32",
            StoredType::F16 => "F16",
            StoredType::Bf16 => "BF16",
            StoredType::Other(name, _) => name,
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name; diffusers' where the file's layout is another one.
    pub name: String,
    /// The file's own name, where it differs.
    pub stored_as: Option<String>,
    /// Element type.
    pub dtype: StoredType,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Index of the file in a sharded checkpoint.
    pub file: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The name the file has it under.
    pub fn stored(&self) -> &str {
        self.stored_as.as_deref().unwrap_or(&self.name)
    }

    /// The same bytes under another name.
    pub(super) fn renamed(&self, name: String) -> TensorInfo {
        let stored_as = (name != self.stored()).then(|| self.stored().to_owned());
        TensorInfo { name, stored_as, ..self.clone() }
    }

    /// How errors name it.
    pub(super) fn shown(&self) -> String {
        match &self.stored_as {
            None => format!("`{}`", quoted(&self.name)),
            Some(stored) => format!("`{}` (stored as `{}`)", quoted(&self.name), quoted(stored)),
        }
    }
}

/// What a header says.
pub(super) struct Header {
    /// The tensors, in the order of their bytes.
    pub(super) tensors: Vec<TensorInfo>,
    /// What its metadata says about an adapter, unchecked: diffusers keeps ranks and alphas there.
    pub(super) adapter_text: Option<String>,
}

/// Key of the metadata under which diffusers keeps an adapter's ranks and alphas.
const ADAPTER_TEXT: &str = "lora_adapter_metadata";

/// Reads and checks the header of `file`.
pub(super) fn read(file: &mut File, index: usize) -> Result<Header> {
    let path = file.path().display().to_string();
    let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{path}: {why}"));
    let length = file.len()?;
    if length < 8 {
        return Err(bad(format!("{length} bytes: too short for a safetensors file")));
    }
    let io = |e: std::io::Error, path: &str| Error::new(Kind::Io, "weights", format!("{path}: cannot read: {e}"));
    let mut head = [0u8; 8];
    file.seek(SeekFrom::Start(0)).map_err(|e| io(e, &path))?;
    file.read_exact(&mut head).map_err(|e| io(e, &path))?;
    let header_bytes = u64::from_le_bytes(head);
    if header_bytes > limits::MAX_SAFETENSORS_HEADER {
        // Only now: a good header's length may begin with any byte. Read as a length, the first bytes of a
        // pickle (or of a zip archive of them) are far above the limit.
        if head.starts_with(b"PK\x03\x04") || head[0] == 0x80 {
            return Err(pickle(&path));
        }
        let limit = limits::MAX_SAFETENSORS_HEADER;
        return Err(bad(format!(
            "not a safetensors file, or its header has {header_bytes} bytes, the limit is {limit}"
        )));
    }
    let data_start = 8 + header_bytes;
    if data_start > length {
        return Err(bad(format!("the header has {header_bytes} bytes, the file only {length}: truncated")));
    }
    let mut text = vec![0u8; crate::extent::to_usize("header", header_bytes)?];
    file.read_exact(&mut text).map_err(|e| io(e, &path))?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    let header = json.deserialize_map(HeaderVisitor).and_then(|h| json.end().map(|()| h));
    let (header, adapter_text) = header.map_err(|e| bad(format!("damaged header: {e}")))?;
    let mut tensors = Vec::with_capacity(header.len());
    for (name, entry) in header {
        tensors.push(entry.check(name, data_start, index).map_err(&bad)?);
    }
    // Sorted by first byte; empty tensors before the one that begins at the same byte.
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    let mut next = data_start;
    for t in &tensors {
        let name = quoted(&t.name);
        if t.offset < next {
            return Err(bad(format!("`{name}` overlaps the tensor before it by {} bytes", next - t.offset)));
        }
        if t.offset > next {
            return Err(bad(format!("a hole of {} bytes in front of `{name}`", t.offset - next)));
        }
        next = t.offset + t.bytes;
    }
    if next != length {
        let (data, have) = (next - data_start, length - data_start);
        let what = if next > length { "truncated" } else { "bytes after the last tensor" };
        return Err(bad(format!("the tensors take {data} bytes, the file holds {have}: {what}"))
            .advise("copy or download the file again"));
    }
    Ok(Header { tensors, adapter_text })
}

/// The error for files that only Python can read, by running what is in them.
pub(super) fn pickle(path: &str) -> Error {
    Error::new(Kind::Weights, "weights", format!("{path}: a pickle; reading one runs the code in it"))
        .advise("convert it with tools/convert, or take the .safetensors file of the same checkpoint")
}

struct Entry {
    dtype: StoredType,
    shape: Vec<u64>,
    range: [u64; 2],
}

impl Entry {
    fn check(self, name: String, data_start: u64, file: usize) -> Result<TensorInfo, String> {
        let shown = quoted(&name);
        let dtype = self.dtype;
        let bits = self.shape.iter().try_fold(dtype.bits(), |acc, &d| acc.checked_mul(d));
        let bytes = bits.ok_or_else(|| format!("`{shown}`: the shape {:?} overflows", self.shape))? / 8;
        let [begin, end] = self.range;
        if end.checked_sub(begin) != Some(bytes) {
            let (t, s) = (dtype.name(), &self.shape);
            return Err(format!("`{shown}` is {t} {s:?}, {bytes} bytes, but its range is {begin}..{end}"));
        }
        let offset = data_start.checked_add(begin).filter(|o| o.checked_add(bytes).is_some());
        let offset = offset.ok_or_else(|| format!("`{shown}`: the range {begin}..{end} overflows"))?;
        Ok(TensorInfo { name, stored_as: None, dtype, shape: self.shape, offset, bytes, file })
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = (Vec<(String, Entry)>, Option<String>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out: Vec<(String, Entry)> = Vec::new();
        let mut adapter_text = None;
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > limits::MAX_TENSOR_NAME {
                let why = format!("a name of {} bytes, the limit is {}", name.len(), limits::MAX_TENSOR_NAME);
                return Err(A::Error::custom(why));
            }
            if name == "__metadata__" {
                if adapter_text.replace(map.next_value::<Metadata>()?.0).is_some() {
                    return Err(A::Error::custom("`__metadata__` occurs twice"));
                }
                continue;
            }
            if out.len() == limits::MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {} tensors", limits::MAX_TENSORS)));
            }
            let entry = map.next_value::<Entry>().map_err(|e| A::Error::custom(format!("`{}`: {e}", quoted(&name))))?;
            out.push((name, entry));
        }
        // Names are looked at again only here: a set of their copies costs as much as reading the header.
        let mut names: Vec<&str> = out.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => Err(A::Error::custom(format!("`{}` occurs twice", quoted(twice[0])))),
            None => Ok((out, adapter_text.flatten())),
        }
    }
}

/// Free text about the file, of which only what an adapter says about itself is used.
struct Metadata(Option<String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Metadata, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut text = None;
                while let Some(key) = map.next_key::<String>()? {
                    // texts only, as the format says: nesting ends here
                    let value = map.next_value::<String>()?;
                    if key == ADAPTER_TEXT {
                        text = Some(value);
                    }
                }
                Ok(Metadata(text))
            }
        }
        d.deserialize_map(V)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Entry, D::Error> {
        d.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut range) = (None, None, None);
        while let Some(key) = map.next_key::<Key>()? {
            let (again, name) = match key {
                Key::DType => (dtype.replace(map.next_value::<StoredType>()?).is_some(), "dtype"),
                Key::Shape => (shape.replace(map.next_value::<Extents>()?.0).is_some(), "shape"),
                Key::Range => (range.replace(map.next_value::<[u64; 2]>()?).is_some(), "data_offsets"),
            };
            if again {
                return Err(A::Error::custom(format!("`{name}` occurs twice")));
            }
        }
        let missing = |key| A::Error::missing_field(key);
        Ok(Entry {
            dtype: dtype.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            range: range.ok_or_else(|| missing("data_offsets"))?,
        })
    }
}

/// Keys of an entry. Read as texts where they stand, like types: a header has hundreds of thousands of them.
enum Key {
    DType,
    Shape,
    Range,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Key, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("dtype, shape or data_offsets")
            }
            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
                match key {
                    "dtype" => Ok(Key::DType),
                    "shape" => Ok(Key::Shape),
                    "data_offsets" => Ok(Key::Range),
                    _ => Err(E::custom(format!("unknown key `{}`", quoted(key)))),
                }
            }
        }
        d.deserialize_identifier(V)
    }
}

impl<'de> Deserialize<'de> for StoredType {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<StoredType, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = StoredType;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an element type")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<StoredType, E> {
                StoredType::parse(name).ok_or_else(|| E::custom(format!("the unknown type `{}`", quoted(name))))
            }
        }
        d.deserialize_str(V)
    }
}

/// A shape whose rank is checked while it is read, so that a long list costs nothing.
struct Extents(Vec<u64>);

impl<'de> Deserialize<'de> for Extents {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Extents, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Extents;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of extents")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Extents, A::Error> {
                let mut out = Vec::new();
                while let Some(v) = seq.next_element::<u64>()? {
                    if out.len() == limits::MAX_TENSOR_RANK {
                        let why = format!("a rank above {}", limits::MAX_TENSOR_RANK);
                        return Err(de::Error::custom(why));
                    }
                    out.push(v);
                }
                Ok(Extents(out))
            }
        }
        d.deserialize_seq(V)
    }
}
