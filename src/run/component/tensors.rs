//! Tensor files: what a network wants, held against what a file has. Every problem of a file is named at
//! once, with what was expected.

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::weights::header::StoredType;
use crate::weights::json::quoted;
use crate::weights::{Checkpoint, names};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One extent of a tensor that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Exactly this.
    Is(u64),
    /// Anything from 1; the first tensor that has it fixes it for the others. `N` is the batch.
    Free(&'static str),
    /// This or more, fixed like a free one.
    AtLeast(&'static str, u64),
    /// So many times a free one.
    Times(u64, &'static str),
}

/// What a tensor's elements may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// F32, F16, BF16.
    Floats,
    /// I64, I32.
    Integers,
    /// Either: integers become floats.
    Numbers,
}

/// One tensor a network takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Its name, then others under which it is accepted.
    pub(super) names: Vec<String>,
    /// Shapes it may have.
    pub(super) shapes: Vec<Vec<Axis>>,
    /// Its type.
    pub(super) elements: Elements,
    /// The network runs without it.
    pub(super) optional: bool,
}

impl Wanted {
    /// Floats that must be there.
    pub(super) fn floats(name: impl Into<String>, shape: &[Axis]) -> Wanted {
        Wanted { names: vec![name.into()], shapes: vec![shape.to_vec()], elements: Elements::Floats, optional: false }
    }

    fn expected(&self, bound: &Bound) -> String {
        let shapes: Vec<String> = self.shapes.iter().map(|s| shape_text(s, bound)).collect();
        shapes.join(" or ")
    }
}

type Bound = BTreeMap<&'static str, u64>;

fn shape_text(shape: &[Axis], bound: &Bound) -> String {
    let axis = |a: &Axis| match *a {
        Axis::Is(n) => n.to_string(),
        Axis::Free(name) => bound.get(name).map_or_else(|| name.to_owned(), u64::to_string),
        Axis::AtLeast(name, least) => match bound.get(name) {
            Some(n) => n.to_string(),
            None => format!("{name} ({least} or more)"),
        },
        Axis::Times(factor, name) => match bound.get(name) {
            Some(n) => n.saturating_mul(factor).to_string(),
            None => format!("{factor}*{name}"),
        },
    };
    format!("[{}]", shape.iter().map(axis).collect::<Vec<_>>().join(", "))
}

/// Whether `have` is the shape `wanted`; what was free before is bound then.
fn fits(have: &[u64], wanted: &[Axis], bound: &mut Bound) -> bool {
    let mut now = bound.clone();
    let good = have.len() == wanted.len()
        && have.iter().zip(wanted).all(|(&n, axis)| match *axis {
            Axis::Is(m) => n == m,
            Axis::Free(name) => n > 0 && *now.entry(name).or_insert(n) == n,
            Axis::AtLeast(name, least) => n > 0 && n >= least && *now.entry(name).or_insert(n) == n,
            Axis::Times(f, name) => now.get(name).and_then(|m| m.checked_mul(f)) == Some(n),
        });
    if good {
        *bound = now;
    }
    good
}

/// Values of one tensor, outermost extent first.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    /// Finite floats.
    Floats(Vec<f32>),
    /// Whole numbers.
    Integers(Vec<i64>),
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    /// Its extents.
    pub(super) shape: Vec<u64>,
    /// Its values.
    pub(super) values: Values,
}

impl Given {
    /// The values as floats.
    pub(super) fn floats(&self) -> Vec<f32> {
        match &self.values {
            Values::Floats(v) => v.clone(),
            Values::Integers(v) => v.iter().map(|&i| i as f32).collect(),
        }
    }
}

/// The tensors of a file that a network takes, by their first name.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    by_name: HashMap<String, Given>,
}

impl Tensors {
    /// The tensor `name`, if the file has it.
    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.by_name.get(name)
    }

    /// The tensor `name`, which the caller declared as wanted and not optional.
    pub(super) fn need(&self, name: &str) -> Result<&Given> {
        self.get(name).ok_or_else(|| Error::new(Kind::Internal, "tensors", format!("`{name}` was never asked for")))
    }
}

/// Opens a file of tensors; its header is checked as a whole.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    if path.is_dir() {
        let why = format!("{} is a folder", path.display());
        return Err(Error::new(Kind::BadInput, "tensors", why).advise("name a .safetensors file"));
    }
    Checkpoint::open(path).map_err(as_input)
}

/// An error about a file of weights, said of a file of inputs.
fn as_input(e: Error) -> Error {
    if e.kind() != Kind::Weights {
        return e;
    }
    let again = Error::new(Kind::BadInput, "tensors", e.message());
    match e.advice() {
        Some(advice) => again.advise(advice),
        None => again,
    }
}

/// The extents of the tensor called exactly `name`.
pub(super) fn shape_of<'a>(file: &'a Checkpoint, name: &str) -> Option<&'a [u64]> {
    file.tensors().iter().find(|t| t.name == name).map(|t| t.shape.as_slice())
}

/// Reads what `network` wants from `file`; tensors called as in `ignored` may be there and are not read.
pub(super) fn read(file: &Checkpoint, network: &str, wanted: &[Wanted], ignored: &[&str]) -> Result<Tensors> {
    let (mut tensors, mut bound, mut problems) = (Tensors::default(), Bound::new(), Vec::new());
    let known = |name: &str| ignored.contains(&name) || wanted.iter().any(|w| w.names.iter().any(|n| n == name));
    for w in wanted {
        let found: Vec<_> = file.tensors().iter().filter(|t| w.names.contains(&t.name)).collect();
        let Some(t) = found.first() else {
            if !w.optional {
                let others = file.tensors().iter().map(|t| t.name.as_str()).filter(|n| !known(n));
                let near = names::nearest(&w.names[0], others).map(|n| format!(" (nearest: `{}`)", quoted(n)));
                let near = near.unwrap_or_default();
                problems.push(format!("`{}` is missing{near}, expected {}", w.names[0], w.expected(&bound)));
            }
            continue;
        };
        let name = t.name.as_str();
        if found.len() > 1 {
            problems.push(format!("`{}` and `{name}` are the same input", w.names[0]));
            continue;
        }
        if !w.shapes.iter().any(|s| fits(&t.shape, s, &mut bound)) {
            problems.push(format!("`{name}` is {:?}, expected {}", t.shape, w.expected(&bound)));
            continue;
        }
        let (integers, floats) = match t.dtype {
            StoredType::Other("I64" | "I32", _) => (w.elements != Elements::Floats, false),
            StoredType::Other(..) => (false, false),
            StoredType::F32 | StoredType::F16 | StoredType::Bf16 => (false, w.elements != Elements::Integers),
        };
        if !integers && !floats {
            let types = match w.elements {
                Elements::Floats => "F32, F16 or BF16",
                Elements::Integers => "I64 or I32",
                Elements::Numbers => "F32, F16, BF16, I64 or I32",
            };
            problems.push(format!("`{name}` is stored as {}, expected {types}", t.dtype.name()));
            continue;
        }
        let values = match integers {
            true => file.read_i64(name).map(Values::Integers),
            false => file.read_f32(name).map(Values::Floats),
        };
        match values {
            Ok(values) => {
                tensors.by_name.insert(w.names[0].clone(), Given { shape: t.shape.clone(), values });
            }
            // What is wrong with a tensor's values is one problem among others; the path comes first once.
            Err(e) if e.kind() == Kind::Weights => {
                let path = format!("{}: ", file.path().display());
                problems.push(e.message().strip_prefix(&path).unwrap_or(e.message()).to_owned());
            }
            Err(e) => return Err(e),
        }
    }
    for t in file.tensors().iter().filter(|t| !known(&t.name)) {
        problems.push(format!("`{}` is no input of a {network}", quoted(&t.name)));
    }
    if problems.is_empty() {
        if let Some(n) = bound.get("N").filter(|&&n| n > u64::from(limits::MAX_BATCH)) {
            let why = format!("{}: a batch of {n}, the limit is {}", file.path().display(), limits::MAX_BATCH);
            return Err(Error::new(Kind::Limit, "tensors", why).advise("split the file"));
        }
        return Ok(tensors);
    }
    let count = problems.len();
    let more =
        if count > limits::MAX_LISTED { format!("; and {} more", count - limits::MAX_LISTED) } else { String::new() };
    problems.truncate(limits::MAX_LISTED);
    let why = format!("{}: {count} problem(s): {}{more}", file.path().display(), problems.join("; "));
    let takes: Vec<String> = wanted.iter().take(limits::MAX_LISTED).map(|w| w.names[0].clone()).collect();
    Err(Error::new(Kind::BadInput, "tensors", why).advise(format!("a {network} takes {}", takes.join(", "))))
}

/// NCHW to NHWC: `n` items of `c` channels and `pixels` pixels.
pub(super) fn to_nhwc(values: &[f32], [n, c, pixels]: [usize; 3]) -> Vec<f32> {
    swap(values, [n, c, pixels])
}

/// NHWC to NCHW.
pub(super) fn to_nchw(values: &[f32], [n, pixels, c]: [usize; 3]) -> Vec<f32> {
    swap(values, [n, pixels, c])
}

/// The inner two of three extents exchanged.
fn swap(values: &[f32], [n, a, b]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let item = a * b;
    if item == 0 {
        return out;
    }
    for (from, to) in values.chunks_exact(item).zip(out.chunks_exact_mut(item)).take(n) {
        for i in 0..a {
            for j in 0..b {
                to[j * a + i] = from[i * b + j];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_turned_both_ways() {
        let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let nhwc = to_nhwc(&x, [2, 3, 4]);
        assert_eq!(&nhwc[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        assert_eq!(to_nchw(&nhwc, [2, 4, 3]), x);
    }

    #[test]
    fn free_extents_are_fixed_by_the_first_tensor_that_has_them() {
        let mut bound = Bound::new();
        let sample = [Axis::Free("N"), Axis::Is(4), Axis::Free("H")];
        assert!(!fits(&[2, 3, 8], &sample, &mut bound) && bound.is_empty());
        assert!(!fits(&[0, 4, 8], &sample, &mut bound));
        assert!(fits(&[2, 4, 8], &sample, &mut bound));
        let cond = [Axis::Free("N"), Axis::Times(8, "H")];
        assert!(fits(&[2, 64], &cond, &mut bound) && !fits(&[2, 63], &cond, &mut bound));
        assert!(!fits(&[1, 64], &cond, &mut bound));
        assert_eq!(shape_text(&cond, &bound), "[2, 64]");
        assert_eq!(shape_text(&cond, &Bound::new()), "[N, 8*H]");
        let sides = [Axis::AtLeast("H", 8)];
        assert!(!fits(&[7], &sides, &mut Bound::new()) && fits(&[9], &sides, &mut Bound::new()));
        assert_eq!(shape_text(&sides, &Bound::new()), "[H (8 or more)]");
    }
}
