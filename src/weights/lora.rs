//! Low-rank adapters: W + strength * alpha / rank * up x down, merged in f32 when a tensor is read, so that
//! every recipe sees merged values and an adapter can be swapped without planning again.
//!
//! Where nothing gives an alpha (no tensor, no adapter_config.json beside the file, no metadata), it equals
//! the rank, as diffusers takes it.

use super::Checkpoint;
use super::checkpoint::in_folder;
use super::header::StoredType;
use super::json::{self, quoted};
use super::lora_names::{self, Module, Role};
use super::{Part, ldm, names};
use crate::error::{Error, Kind, Result};
use crate::fs::{self, File};
use crate::limits;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Files that an adapter's folder may hold, best first; the last ones are refused as pickles.
const IN_FOLDER: [&str; 4] =
    ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin"];

/// Channels of the contexts of SDXL, which is not run.
const SDXL_CONTEXT: u64 = 2048;
/// Channels of contexts and whose they are.
const CONTEXTS: [(u64, &str); 2] = [(768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x")];

/// The change of one module.
#[derive(Debug, Clone)]
struct Change {
    /// How the file calls it.
    base: String,
    part: Option<Part>,
    module: Module,
    down: String,
    up: String,
    rank: u64,
    /// alpha / rank (or what stands for it).
    scale: f32,
}

/// An adapter: a file of low-rank changes.
#[derive(Debug, Clone)]
pub struct Adapter {
    file: Arc<Checkpoint>,
    changes: Vec<Change>,
}

impl Adapter {
    /// Opens a `.safetensors` file in peft's, diffusers' or kohya's naming, or a folder with one under its
    /// usual name. Kinds other than LoRA are refused by name, and so are factors that do not fit together.
    pub fn open(path: &Path) -> Result<Adapter> {
        let path = in_folder(path, &IN_FOLDER)?;
        let file = Checkpoint::open(&path)?;
        let own = Settings::read(&path, &file)?;
        let list = |names: &[&str]| {
            let shown: Vec<String> =
                names.iter().take(limits::MAX_LISTED).map(|n| format!("`{}`", quoted(n))).collect();
            let more = if names.len() > shown.len() {
                format!(", and {} more", names.len() - shown.len())
            } else {
                String::new()
            };
            shown.join(", ") + &more
        };
        let (mut modules, mut unknown) = (BTreeMap::<String, Found>::new(), Vec::new());
        for t in file.tensors() {
            if let Some(kind) = lora_names::other_kind(&t.name) {
                let why =
                    format!("this is {kind} (it has `{}`), not a LoRA of Stable Diffusion 1.x or 2.x", quoted(&t.name));
                return Err(file.error(why));
            }
            let Some(key) = lora_names::parse(&t.name) else {
                unknown.push(t.name.as_str());
                continue;
            };
            let found = modules.entry(key.base).or_insert_with(|| Found {
                part: key.part,
                module: key.module,
                tensors: [None; 3],
            });
            if let Some(before) = found.tensors[key.role as usize].replace(&t.name) {
                return Err(file.error(format!("`{}` and `{}` are the same tensor", quoted(before), quoted(&t.name))));
            }
        }
        if !unknown.is_empty() {
            let why = format!("{} tensor(s) are named in no way that is known: {}", unknown.len(), list(&unknown));
            return Err(file.error(why).advise("known are the namings of peft, diffusers and kohya"));
        }
        if modules.is_empty() {
            return Err(file.error("it has no tensors"));
        }
        let mut changes = Vec::with_capacity(modules.len());
        for (base, found) in modules {
            changes.push(found.change(base, &file, &own)?);
        }
        let adapter = Adapter { file: Arc::new(file), changes };
        match adapter.context() {
            Some((SDXL_CONTEXT, module)) => {
                let why = format!("this is an adapter of SDXL (`{module}` reads contexts of {SDXL_CONTEXT} channels)");
                Err(adapter.file.error(why + ", not a LoRA of Stable Diffusion 1.x or 2.x"))
            }
            _ => Ok(adapter),
        }
    }

    /// Channels of the contexts that the UNet it was trained for reads, where a change tells it, and that module.
    fn context(&self) -> Option<(u64, String)> {
        let reads = |c: &&Change| {
            let (Module::Path(name) | Module::Flat(name)) = &c.module;
            let ends = ["attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v"].iter().any(|end| name.ends_with(end));
            ends && c.part.is_none_or(|p| p == Part::Unet || p == Part::ControlNet)
        };
        let change = self.changes.iter().find(reads)?;
        Some((*self.file.find(&change.down)?.shape.get(1)?, quoted(&change.base)))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The networks that its names say it changes; empty where the names do not say it.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self.changes.iter().filter_map(|c| c.part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// Modules changed.
    pub fn modules(&self) -> usize {
        self.changes.len()
    }

    /// The ranks of its changes, smallest first, each once.
    pub fn ranks(&self) -> Vec<u64> {
        let mut ranks: Vec<u64> = self.changes.iter().map(|c| c.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.file.tensors().iter().map(|t| t.bytes).sum()
    }

    /// Its changes of `checkpoint`, the tensors of `part`. Every change that says it is for this network, or
    /// does not say, must find its tensor, of the right shape.
    fn merges(&self, checkpoint: &Checkpoint, part: Part, strength: f32) -> Result<Vec<(usize, Merge)>> {
        let mine: Vec<&Change> = self.changes.iter().filter(|c| c.part.is_none_or(|p| p == part)).collect();
        if mine.is_empty() {
            let others: Vec<&str> = self.parts().into_iter().map(Part::folder).collect();
            let why = format!("it changes nothing of {}; it changes {}", part.folder(), others.join(", "));
            return Err(self.file.error(why));
        }
        let index = Modules::of(checkpoint);
        let (mut merges, mut problems) = (Vec::with_capacity(mine.len()), Vec::new());
        for change in mine {
            match index.find(checkpoint, &change.module) {
                Ok(at) => match self.fits(change, checkpoint, at) {
                    Ok([rows, columns]) => merges
                        .push((at, Merge { file: self.file.clone(), change: change.clone(), strength, rows, columns })),
                    Err(why) => problems.push(why),
                },
                Err(why) => problems.push(format!("`{}` {why}", quoted(&change.base))),
            }
        }
        if problems.is_empty() {
            return Ok(merges);
        }
        let count = problems.len();
        problems.truncate(limits::MAX_LISTED);
        let more =
            if count > problems.len() { format!("; and {} more", count - problems.len()) } else { String::new() };
        let of = match self.context().and_then(|(width, _)| CONTEXTS.iter().find(|(c, _)| *c == width)) {
            Some((_, family)) => format!("; it reads contexts as {family} has them"),
            None => String::new(),
        };
        let shown = checkpoint.path().display();
        let why = format!("{count} of its modules do not fit {shown}: {}{more}{of}", problems.join("; "));
        Err(self.file.error(why).advise("use an adapter that was trained for this model"))
    }

    /// Rows and columns of the tensor as a matrix, when the factors have them too.
    fn fits(&self, change: &Change, checkpoint: &Checkpoint, at: usize) -> Result<[usize; 2], String> {
        let t = &checkpoint.tensors()[at];
        let shape = |name: &str| self.file.find(name).map_or(&[][..], |t| &t.shape);
        let (down, up) = (shape(&change.down), shape(&change.up));
        let (Some((&rows, inner)), Some((_, down_inner))) = (t.shape.split_first(), down.split_first()) else {
            return Err(format!("`{}` changes {}, a number", quoted(&change.base), t.shown()));
        };
        // 1x1 convolutions and linear layers have the same numbers
        let trimmed = |s: &[u64]| -> Vec<u64> { s[..s.iter().rposition(|&e| e != 1).map_or(0, |i| i + 1)].to_vec() };
        if trimmed(inner) != trimmed(down_inner) || up.first() != Some(&rows) {
            return Err(format!(
                "`{}` has factors {down:?} and {up:?}, but {} is {:?}",
                quoted(&change.base),
                t.shown(),
                t.shape
            ));
        }
        let size = |n: u64| usize::try_from(n).map_err(|_| format!("{} is too large", t.shown()));
        Ok([size(rows)?, size(inner.iter().product())?])
    }
}

impl Checkpoint {
    /// The same checkpoint with adapters merged into the tensors of `part` whenever they are read, each with
    /// its strength, in the order given. An adapter that has nothing for `part`, or whose modules do not all
    /// find a tensor of the right shape, is an error that lists them. [`Adapter::parts`] says what it is for.
    pub fn with_adapters(mut self, part: Part, adapters: &[(&Adapter, f32)]) -> Result<Checkpoint> {
        for (adapter, strength) in adapters {
            if !strength.is_finite() {
                let why = format!("{}: a strength of {strength}", adapter.path().display());
                return Err(
                    Error::new(Kind::Usage, "weights", why).advise("give a number; 1 is the adapter as trained")
                );
            }
            let merges = adapter.merges(&self, part, *strength)?;
            self = self.with_merges(merges);
        }
        Ok(self)
    }
}

/// The tensors of one module while the names are read, by role.
struct Found<'a> {
    part: Option<Part>,
    module: Module,
    tensors: [Option<&'a str>; 3],
}

impl Found<'_> {
    fn change(self, base: String, file: &Checkpoint, own: &[Settings]) -> Result<Change> {
        let shown = quoted(&base);
        let [down, up, alpha] = self.tensors;
        let (Some(down), Some(up)) = (down, up) else {
            let lacks = if self.tensors[Role::Down as usize].is_none() { "down" } else { "up" };
            return Err(file.error(format!("`{shown}` has no {lacks} factor")));
        };
        let shape = |name: &str| file.find(name).map_or(&[][..], |t| &t.shape);
        let (down_shape, up_shape) = (shape(down), shape(up));
        let rank = down_shape.first().copied().unwrap_or(0);
        let pointwise = up_shape.len() >= 2 && up_shape[2..].iter().all(|&e| e == 1);
        if rank == 0 || down_shape.len() < 2 || !pointwise || up_shape[1] != rank {
            return Err(
                file.error(format!("`{shown}`: the ranks of its factors {down_shape:?} and {up_shape:?} disagree"))
            );
        }
        for name in [down, up] {
            if let Some((t, StoredType::Other(dtype, _))) = file.find(name).map(|t| (t, t.dtype)) {
                return Err(file.error(format!("{} has the type {dtype}; F32, F16 and BF16 are read", t.shown())));
            }
        }
        let path = match &self.module {
            Module::Path(path) | Module::Flat(path) => path.as_str(),
        };
        let settings = own.iter().find(|s| s.part.is_none() || self.part.is_none() || s.part == self.part);
        let scale = match (alpha, settings) {
            (Some(name), _) => f64::from(file.scalar(name)?) / rank as f64,
            (None, Some(settings)) => settings.scale(path, rank as f64),
            (None, None) => 1.0,
        };
        if !(scale > 0.0 && (scale as f32).is_finite()) {
            return Err(
                file.error(format!("`{shown}`: alpha is {}; it would change nothing or break", scale * rank as f64))
            );
        }
        let (down, up) = (down.to_owned(), up.to_owned());
        Ok(Change { base, part: self.part, module: self.module, down, up, rank, scale: scale as f32 })
    }
}

/// What peft's config says about scaling.
#[derive(Debug)]
struct Settings {
    part: Option<Part>,
    alpha: f64,
    rank_stabilised: bool,
    /// Alphas of the modules whose path ends so.
    pattern: Vec<(String, f64)>,
}

impl Settings {
    /// From `adapter_config.json` beside the file, or from the file's metadata, where diffusers keeps the
    /// same fields behind the network's name.
    fn read(path: &Path, file: &Checkpoint) -> Result<Vec<Settings>> {
        let beside = fs::parent(path).join("adapter_config.json");
        if beside.is_file() {
            let text = File::open(&beside)?.read_all(limits::MAX_CONFIG_BYTES)?;
            let shown = beside.display().to_string();
            return Ok(vec![Settings::from_fields(&shown, None, &json::object(&shown, &text)?)?]);
        }
        let Some(text) = file.adapter_text() else { return Ok(Vec::new()) };
        let shown = format!("{}: the adapter's metadata", path.display());
        let all = json::object(&shown, text.as_bytes())?;
        let mut out = Vec::new();
        for part in Part::ALL {
            let head = format!("{}.", part.folder());
            let fields: Map<String, Value> =
                all.iter().filter_map(|(k, v)| Some((k.strip_prefix(&head)?.to_owned(), v.clone()))).collect();
            if !fields.is_empty() {
                out.push(Settings::from_fields(&shown, Some(part), &fields)?);
            }
        }
        Ok(out)
    }

    fn from_fields(shown: &str, part: Option<Part>, fields: &Map<String, Value>) -> Result<Settings> {
        let bad = |why: String| Error::new(Kind::Weights, "weights", format!("{shown}: {why}"));
        if let Some(kind) = fields.get("peft_type").filter(|v| *v != "LORA" && !v.is_null()) {
            return Err(bad(format!("peft_type is {}; LORA is read", quoted(&kind.to_string()))));
        }
        for (key, what) in
            [("use_dora", "DoRA"), ("fan_in_fan_out", "transposed factors"), ("lora_bias", "LoRA with biases")]
        {
            if fields.get(key).is_some_and(|v| *v != false && !v.is_null()) {
                return Err(bad(format!("`{key}` is set: {what} is not merged here")));
            }
        }
        let number = |v: &Value| v.as_f64().filter(|a| a.is_finite());
        let alpha = fields.get("lora_alpha").ok_or_else(|| bad("no `lora_alpha`".into()))?;
        let alpha = number(alpha).ok_or_else(|| bad(format!("`lora_alpha` is {}", quoted(&alpha.to_string()))))?;
        let mut pattern = Vec::new();
        for (module, v) in fields.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten() {
            let v = number(v).ok_or_else(|| bad(format!("`alpha_pattern` of `{}` is no number", quoted(module))))?;
            pattern.push((module.clone(), v));
        }
        let rank_stabilised = fields.get("use_rslora").is_some_and(|v| *v == true);
        Ok(Settings { part, alpha, rank_stabilised, pattern })
    }

    fn scale(&self, module: &str, rank: f64) -> f64 {
        let ends = |p: &str| module.strip_suffix(p).is_some_and(|head| head.is_empty() || head.ends_with('.'));
        let alpha = self.pattern.iter().find(|(p, _)| ends(p)).map_or(self.alpha, |(_, alpha)| *alpha);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }
}

/// The modules of a checkpoint by their flat names; `None` where two modules share one.
struct Modules {
    flat: HashMap<String, Option<usize>>,
}

impl Modules {
    fn of(checkpoint: &Checkpoint) -> Modules {
        let modules = || {
            let matrices = checkpoint.tensors().iter().enumerate().filter(|(_, t)| t.shape.len() >= 2);
            matrices.filter_map(|(i, t)| Some((i, t.name.strip_suffix(".weight")?)))
        };
        // kohya's trainer also writes the ldm layout's numbers
        let layers =
            super::layout::count(|n| checkpoint.find(n).is_some(), "down_blocks.0.resnets.", ".conv1.weight").max(1);
        let mut flat: HashMap<String, Option<usize>> = HashMap::new();
        for (i, module) in modules() {
            let ldm = ldm::unet_stored(module, layers);
            for name in ldm.iter().map(String::as_str).chain([module]) {
                let shared = flat.entry(name.replace('.', "_")).or_insert(Some(i));
                *shared = shared.filter(|&other| other == i);
            }
        }
        Modules { flat }
    }

    fn find(&self, checkpoint: &Checkpoint, module: &Module) -> Result<usize, String> {
        let near = |found: Option<&str>| match found {
            Some(name) => format!("has no counterpart (nearest: `{}`)", quoted(name)),
            None => "has no counterpart".to_owned(),
        };
        match module {
            Module::Path(path) => checkpoint.index(&format!("{path}.weight")).ok_or_else(|| {
                let modules = checkpoint.tensors().iter().filter_map(|t| t.name.strip_suffix(".weight"));
                near(names::nearest(path, modules))
            }),
            Module::Flat(flat) => match self.flat.get(flat) {
                Some(Some(at)) => Ok(*at),
                Some(None) => Err("names two modules at once".into()),
                None => {
                    let mut all: Vec<&str> = self.flat.keys().map(String::as_str).collect();
                    all.sort_unstable();
                    Err(near(names::nearest(flat, all)))
                }
            },
        }
    }
}

/// One change of one tensor, carried out when the tensor is read.
#[derive(Debug)]
pub(super) struct Merge {
    file: Arc<Checkpoint>,
    change: Change,
    strength: f32,
    rows: usize,
    columns: usize,
}

impl Merge {
    /// Adds strength * scale * up x down. The product of each row is summed over the rank in order, then
    /// scaled and added, so that the result does not depend on threads.
    pub(super) fn add_to(&self, values: &mut [f32], shown: &str) -> Result<()> {
        let c = &self.change;
        let (down, up) = (self.file.read_f32(&c.down)?, self.file.read_f32(&c.up)?);
        let rank = c.rank as usize;
        let fits =
            [values.len() == self.rows * self.columns, down.len() == rank * self.columns, up.len() == self.rows * rank];
        if fits != [true; 3] {
            let why = format!("{shown}: `{}` no longer fits", quoted(&c.base));
            return Err(Error::new(Kind::Internal, "weights", why));
        }
        if values.is_empty() {
            return Ok(());
        }
        let scale = self.strength * c.scale;
        let rows = values.par_chunks_exact_mut(self.columns).zip(up.par_chunks_exact(rank));
        rows.for_each_init(
            || vec![0.0f32; self.columns],
            |sum, (row, up)| {
                sum.fill(0.0);
                for (down, &u) in down.chunks_exact(self.columns).zip(up) {
                    for (s, &d) in sum.iter_mut().zip(down) {
                        *s += u * d;
                    }
                }
                for (w, &s) in row.iter_mut().zip(sum.iter()) {
                    *w += scale * s;
                }
            },
        );
        Ok(())
    }
}
