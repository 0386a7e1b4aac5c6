//! Checkpoints: safetensors files, checked as a whole before any tensor is used, read with positioned
//! reads. Files are never mapped: one that shrinks while it is read must be an error, not a signal.

use super::fold::Fold;
use super::header::{self, StoredType, TensorInfo};
use super::json::{self, quoted};
use super::lora::Merge;
use super::{names, recipe};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs::File;
use crate::graph::dtype::DType;
use crate::graph::layout::Packing;
use crate::limits;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// File names that a component folder of a published checkpoint may hold, best first.
const IN_FOLDER: [&str; 10] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    // so does diffusers name the index of a variant: the variant goes in front of the last suffix
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "model.fp16.safetensors.index.json",
];
/// What pickles are called in such a folder.
const PICKLED: [&str; 6] = [
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.fp16.bin",
    "pytorch_model.bin.index.json",
];
/// Suffixes of files that only hold pickles.
const PICKLES: [&str; 5] = ["bin", "ckpt", "pkl", "pt", "pth"];
/// Halves converted at a time: what is read must not cost another copy of the tensor.
const HALVES: usize = 1 << 18;

/// The tensors of one network, in one file or several.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mutex<File>>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    /// What adapters add to a tensor, by its index, in the order they were given.
    merges: HashMap<usize, Vec<Merge>>,
    /// What a tensor's neighbours make of it, by its index.
    folds: HashMap<usize, Fold>,
    /// The text that the files' metadata holds about an adapter in them.
    adapter_text: Option<String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `.safetensors.index.json` with its shards, or a component folder
    /// that holds either under its usual name.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if path.is_dir() {
            return Checkpoint::open_folder(path);
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if PICKLES.iter().any(|p| extension.eq_ignore_ascii_case(p)) {
            return Err(header::pickle(&path.display().to_string()));
        }
        if extension == "json" { Checkpoint::open_index(path) } else { Checkpoint::open_files(path, &[path.into()]) }
    }

    fn open_folder(folder: &Path) -> Result<Checkpoint> {
        let none = match in_folder(folder, &IN_FOLDER) {
            Ok(path) => return Checkpoint::open(&path),
            Err(none) => none,
        };
        Err(match in_folder(folder, &PICKLED) {
            Ok(path) => header::pickle(&path.display().to_string()),
            Err(_) => none,
        })
    }

    /// The shards an index names, which must hold exactly the tensors it says they hold.
    fn open_index(path: &Path) -> Result<Checkpoint> {
        let shown = path.display().to_string();
        let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{shown}: {why}"));
        let index = json::object(&shown, &File::open(path)?.read_all(limits::MAX_SAFETENSORS_HEADER)?)?;
        let map = index.get("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| bad("no object `weight_map`: not an index of a sharded checkpoint".into()))?;
        let mut shards: Vec<&str> = Vec::new();
        for (tensor, file) in map {
            let file = file.as_str().ok_or_else(|| bad(format!("`{}` names no file", quoted(tensor))))?;
            // A plain name only: an index must not reach outside its folder.
            let plain = Path::new(file).file_name().is_some_and(|n| n == file) && file.ends_with(".safetensors");
            if !plain {
                return Err(bad(format!("`{}` is not the plain name of a .safetensors file", quoted(file))));
            }
            if !shards.contains(&file) {
                shards.push(file);
            }
            if shards.len() > limits::MAX_SHARDS {
                return Err(bad(format!("more than {} shards", limits::MAX_SHARDS)));
            }
        }
        let folder = crate::fs::parent(path);
        let paths: Vec<PathBuf> = shards.iter().map(|s| folder.join(s)).collect();
        let checkpoint = Checkpoint::open_files(path, &paths)?;
        for (tensor, file) in map {
            let stored = checkpoint.exact(tensor).map(|t| shards[t.file]);
            let file = file.as_str().unwrap_or_default();
            if stored != Some(file) {
                let found = stored.map_or_else(|| "nowhere".into(), |s| format!("in {s}"));
                return Err(bad(format!("`{}` should be in {file} but is {found}", quoted(tensor))));
            }
        }
        Ok(checkpoint)
    }

    fn open_files(path: &Path, paths: &[PathBuf]) -> Result<Checkpoint> {
        let mut files = Vec::with_capacity(paths.len());
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut by_name = HashMap::new();
        let mut adapter_text = None;
        for (i, p) in paths.iter().enumerate() {
            let mut file = File::open(p)?;
            let header = header::read(&mut file, i)?;
            adapter_text = adapter_text.or(header.adapter_text);
            for t in header.tensors {
                if by_name.insert(t.name.clone(), tensors.len()).is_some() {
                    let why = format!("{}: `{}` is in another shard too", p.display(), quoted(&t.name));
                    return Err(Error::new(Kind::Weights, "weights", why));
                }
                tensors.push(t);
            }
            files.push(Mutex::new(file));
        }
        let (merges, folds) = (HashMap::new(), HashMap::new());
        Ok(Checkpoint { path: path.to_owned(), files, tensors, by_name, merges, folds, adapter_text })
    }

    /// The same files with other tensors: views of those that are in them. Names must differ.
    pub(super) fn with_views(self, tensors: Vec<TensorInfo>) -> Checkpoint {
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Checkpoint { tensors, by_name, merges: HashMap::new(), folds: HashMap::new(), ..self }
    }

    /// Folds layers into tensors, by index, whenever these are read.
    pub(super) fn with_folds(self, folds: Vec<(usize, Fold)>) -> Checkpoint {
        Checkpoint { folds: folds.into_iter().collect(), ..self }
    }

    /// Adds low-rank changes to tensors, by index; they are merged when a tensor is read.
    pub(super) fn with_merges(mut self, merges: Vec<(usize, Merge)>) -> Checkpoint {
        for (index, merge) in merges {
            self.merges.entry(index).or_default().push(merge);
        }
        self
    }

    /// What the metadata says about an adapter: a JSON text, unchecked.
    pub(super) fn adapter_text(&self) -> Option<&str> {
        self.adapter_text.as_deref()
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn exact(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// Index of the tensor called `name`, or by another name of the same tensor.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        let exact = |name: &str| self.by_name.get(name).copied();
        exact(name).or_else(|| names::aliases(name).iter().find_map(|alias| exact(alias)))
    }

    /// The tensor called `name`, or by another name of the same tensor.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.index(name).map(|i| &self.tensors[i])
    }

    pub(super) fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Weights, "weights", format!("{}: {why}", self.path.display()))
    }

    /// Holds the tensors a network wants, name and shape each, against those that are here. Every missing
    /// and mis-shaped one is in the error; those that nobody wants come back, as a warning.
    pub fn check<'a>(&self, wanted: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Result<Vec<String>> {
        let mut used = HashSet::new();
        let (mut missing, mut problems) = (Vec::new(), Vec::new());
        for (name, shape) in wanted {
            let Some(t) = self.find(name) else {
                missing.push(name);
                continue;
            };
            used.insert(t.name.as_str());
            if !names::same_shape(&t.shape, shape) {
                problems.push(format!("{} is {:?} here, the config asks for {shape:?}", t.shown(), t.shape));
            } else if let StoredType::Other(dtype, _) = t.dtype {
                problems.push(format!("{} has the type {dtype}; F32, F16 and BF16 are read", t.shown()));
            }
        }
        let mut extra: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        extra.retain(|n| !used.contains(n) && !names::is_buffer(n));
        extra.sort_unstable();
        let total = missing.len() + problems.len();
        if total == 0 {
            return Ok(extra.into_iter().map(str::to_owned).collect());
        }
        let listed = |name: &&str| match names::nearest(name, extra.iter().copied()) {
            Some(near) => format!("`{name}` is missing (nearest: `{}`)", quoted(near)),
            None => format!("`{name}` is missing"),
        };
        let text: Vec<String> = missing.iter().map(listed).chain(problems).take(limits::MAX_LISTED).collect();
        let more = if total > text.len() { format!("; and {} more", total - text.len()) } else { String::new() };
        let unused: Vec<String> = extra.iter().take(limits::MAX_LISTED).map(|n| format!("`{}`", quoted(n))).collect();
        let rest = match extra.len() {
            0 => String::new(),
            n => format!("; {n} tensor(s) are not asked for: {}", unused.join(", ")),
        };
        Err(self
            .error(format!("{total} tensor(s) do not fit the config: {}{more}{rest}", text.join("; ")))
            .advise("use the config.json and the weights of one and the same checkpoint"))
    }

    /// The tensor `name` as f32, in the file's element order. A value that is not finite is an error that
    /// names the tensor and the element.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let index = self.index(name).ok_or_else(|| {
            let near = names::nearest(name, self.tensors.iter().map(|t| t.name.as_str()));
            let near = near.map_or_else(String::new, |n| format!(" (nearest: `{}`)", quoted(n)));
            self.error(format!("no tensor `{name}`{near}"))
        })?;
        let t = &self.tensors[index];
        let mut values = self.stored(t)?;
        let merges = self.merges.get(&index).map_or(&[][..], Vec::as_slice);
        for merge in merges {
            merge.add_to(&mut values, &t.shown())?;
        }
        if let Some(fold) = self.folds.get(&index) {
            fold.apply(self, t, &mut values)?;
        }
        match recipe::first_beyond(&values, f32::MAX) {
            None => Ok(values),
            Some(i) => Err(self.error(format!(
                "{} element {i} (at {:?}) is {}{}",
                t.shown(),
                position(&t.shape, i as u64),
                values[i],
                if merges.is_empty() { "" } else { ", with its adapters" },
            ))),
        }
    }

    /// The whole numbers of the tensor called exactly `name`, stored as I64 or I32, in the file's element order.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let t = self.exact(name).ok_or_else(|| self.error(format!("no tensor `{name}`")))?;
        let shown = quoted(&t.name);
        let size = match t.dtype {
            StoredType::Other("I64", _) => 8,
            StoredType::Other("I32", _) => 4,
            other => return Err(self.error(format!("`{shown}` is stored as {}, not I64 or I32", other.name()))),
        };
        let count = extent::to_usize(&shown, t.bytes)?;
        let mut bytes: Vec<u8> = Vec::new();
        let full = |_| Error::new(Kind::Memory, "weights", format!("no memory for `{shown}`, {count} bytes"));
        bytes.try_reserve_exact(count).map_err(full)?;
        bytes.resize(count, 0);
        self.fill(t, 0, &mut bytes)?;
        let word = |b: &[u8]| match b {
            [a, b, c, d] => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
            [a, b, c, d, e, f, g, h] => i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            _ => 0,
        };
        Ok(bytes.chunks_exact(size).map(word).collect())
    }

    /// The one value of the tensor `name`, which may be a whole number.
    pub(super) fn scalar(&self, name: &str) -> Result<f32> {
        let t = self.find(name).ok_or_else(|| self.error(format!("no tensor `{}`", quoted(name))))?;
        if t.elements() != 1 {
            return Err(self.error(format!("{} is {:?}, not one number", t.shown(), t.shape)));
        }
        match t.dtype.name() {
            "I64" | "I32" => Ok(self.read_i64(&t.name)?[0] as f32),
            "F64" => {
                let mut bytes = [0; 8];
                self.fill(t, 0, &mut bytes)?;
                Ok(f64::from_le_bytes(bytes) as f32)
            }
            _ => Ok(self.stored(t)?[0]),
        }
    }

    /// The values of `t` as the file has them, all finite.
    pub(super) fn plain(&self, t: &TensorInfo) -> Result<Vec<f32>> {
        let values = self.stored(t)?;
        match recipe::first_beyond(&values, f32::MAX) {
            None => Ok(values),
            Some(i) => Err(self.error(format!("{} element {i} is {}", t.shown(), values[i]))),
        }
    }

    /// The values of `t` as the file has them.
    fn stored(&self, t: &TensorInfo) -> Result<Vec<f32>> {
        let shown = t.shown();
        if let StoredType::Other(dtype, _) = t.dtype {
            return Err(self.error(format!("{shown} has the type {dtype}; F32, F16 and BF16 are read")));
        }
        let count = extent::to_usize(&shown, t.elements())?;
        let mut values: Vec<f32> = Vec::new();
        values.try_reserve_exact(count).map_err(|_| {
            Error::new(Kind::Memory, "weights", format!("no memory for {shown}, {count} values as f32"))
        })?;
        values.resize(count, 0.0);
        match t.dtype {
            StoredType::F32 => {
                self.fill(t, 0, bytemuck::cast_slice_mut(&mut values))?;
                if cfg!(target_endian = "big") {
                    values.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits().swap_bytes()));
                }
            }
            StoredType::F16 => {
                self.halves(t, &mut values, |bits, out| {
                    bytemuck::cast_slice::<u16, f16>(bits).convert_to_f32_slice(out)
                })?;
            }
            StoredType::Bf16 => {
                self.halves(t, &mut values, |bits, out| {
                    bytemuck::cast_slice::<u16, bf16>(bits).convert_to_f32_slice(out)
                })?;
            }
            StoredType::Other(..) => {}
        }
        Ok(values)
    }

    /// The packed bytes of a recipe: its tensors read, renamed and packed.
    pub fn packed(&self, tensors: &[Option<String>], packing: &Packing, dtype: DType) -> Result<Vec<u8>> {
        let mut data = Vec::with_capacity(tensors.len());
        for name in tensors {
            data.push(match name {
                Some(n) => Some((n.as_str(), self.read_f32(n)?)),
                None => None,
            });
        }
        let sources: Vec<Option<recipe::Tensor<'_>>> =
            data.iter().map(|d| d.as_ref().map(|(name, v)| recipe::Tensor { name, values: v })).collect();
        recipe::pack(&sources, packing, dtype).map_err(|e| e.at(self.path.display()))
    }

    /// Reads a tensor of 16-bit elements and converts it, a piece at a time.
    fn halves(&self, t: &TensorInfo, values: &mut [f32], convert: impl Fn(&[u16], &mut [f32])) -> Result<()> {
        let mut bits = vec![0u16; HALVES.min(values.len())];
        for (i, out) in values.chunks_mut(HALVES).enumerate() {
            let bits = &mut bits[..out.len()];
            self.fill(t, (i * HALVES * size_of::<u16>()) as u64, bytemuck::cast_slice_mut(bits))?;
            if cfg!(target_endian = "big") {
                bits.iter_mut().for_each(|b| *b = b.swap_bytes());
            }
            convert(bits, out);
        }
        Ok(())
    }

    /// Reads the tensor's bytes from byte `from` of it.
    fn fill(&self, t: &TensorInfo, from: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.files[t.file].lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(t.offset + from)).and_then(|_| file.read_exact(bytes));
        read.map_err(|e| {
            let what = format!("{}: {}: cannot read: {e}", file.path().display(), t.shown());
            Error::new(Kind::Io, "weights", what)
        })
    }
}

/// `path`, or the first of `names` that is in the folder `path`.
pub(super) fn in_folder(path: &Path, names: &[&str]) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = names.iter().map(|n| path.join(n)).find(|p| p.exists());
    found.ok_or_else(|| {
        Error::new(Kind::Weights, "weights", format!("{} holds none of {}", path.display(), names.join(", ")))
    })
}

/// Where element `index` of a tensor of `shape` lies.
fn position(shape: &[u64], mut index: u64) -> Vec<u64> {
    let mut at = vec![0; shape.len()];
    for (i, &extent) in shape.iter().enumerate().rev() {
        at[i] = index % extent.max(1);
        index /= extent.max(1);
    }
    at
}
