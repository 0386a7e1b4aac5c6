//! Layers that only scale or shift what the layer before them gives, folded into that layer's tensors when they
//! are read: a batch norm (its statistics are fixed) and DINOv2's layer scale. The graph has no node for them.

use super::Checkpoint;
use super::header::TensorInfo;
use super::json::quoted;
use crate::error::Result;
use std::collections::HashMap;

/// Added to a batch norm's variance: PyTorch's default, which no published network changes.
const NORM_EPS: f64 = 1e-5;

/// What a tensor is multiplied by, one factor for each of its rows.
#[derive(Debug, Clone, PartialEq)]
enum Factor {
    /// The tensor's values.
    Vector(TensorInfo),
    /// `weight / sqrt(variance + eps)`.
    Norm { weight: TensorInfo, variance: TensorInfo },
}

/// What is done to a tensor's values after adapters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fold {
    factor: Factor,
    /// Given for a batch norm's bias, which becomes the convolution's: `bias - mean * factor`.
    mean: Option<TensorInfo>,
}

impl Factor {
    fn values(&self, checkpoint: &Checkpoint) -> Result<Vec<f64>> {
        match self {
            Factor::Vector(t) => Ok(checkpoint.plain(t)?.into_iter().map(f64::from).collect()),
            Factor::Norm { weight, variance } => {
                let (w, v) = (checkpoint.plain(weight)?, checkpoint.plain(variance)?);
                if let Some(i) = v.iter().position(|&v| v < 0.0) {
                    return Err(checkpoint.error(format!("{} element {i} is {}, no variance", variance.shown(), v[i])));
                }
                if w.len() != v.len() {
                    return Err(checkpoint.error(misfit(weight, variance)));
                }
                Ok(w.iter().zip(&v).map(|(&w, &v)| f64::from(w) / (f64::from(v) + NORM_EPS).sqrt()).collect())
            }
        }
    }

    fn tensor(&self) -> &TensorInfo {
        match self {
            Factor::Vector(t) => t,
            Factor::Norm { weight, .. } => weight,
        }
    }
}

fn misfit(a: &TensorInfo, b: &TensorInfo) -> String {
    format!("{} is {:?}, {} is {:?}: they are not of one layer", a.shown(), a.shape, b.shown(), b.shape)
}

impl Fold {
    /// Changes `values`, those of tensor `t`.
    pub(super) fn apply(&self, checkpoint: &Checkpoint, t: &TensorInfo, values: &mut [f32]) -> Result<()> {
        let factor = self.factor.values(checkpoint)?;
        let rows = t.shape.first().copied().unwrap_or(0);
        if factor.is_empty() || rows != factor.len() as u64 {
            return Err(checkpoint.error(misfit(t, self.factor.tensor())));
        }
        if let Some(mean) = &self.mean {
            let means = checkpoint.plain(mean)?;
            if means.len() != values.len() || values.len() != factor.len() {
                return Err(checkpoint.error(misfit(t, mean)));
            }
            for ((v, m), f) in values.iter_mut().zip(means).zip(factor) {
                *v = (f64::from(*v) - f64::from(m) * f) as f32;
            }
            return Ok(());
        }
        let row = values.len() / factor.len();
        for (row, f) in values.chunks_exact_mut(row.max(1)).zip(factor) {
            row.iter_mut().for_each(|v| *v = (f64::from(*v) * f) as f32);
        }
        Ok(())
    }
}

/// Tensors as graphs ask for them, and what is folded into which, by index.
pub(super) type Folded = (Vec<TensorInfo>, Vec<(usize, Fold)>);

/// Folds the batch norm `{module}.1` behind every convolution `{module}.0`: the norm's bias becomes the
/// convolution's, and the norm's other tensors are gone. What is wrong with a norm is said of its first tensor that is.
pub(super) fn batch_norms(tensors: Vec<TensorInfo>) -> std::result::Result<Folded, String> {
    let by_name: HashMap<String, TensorInfo> = tensors.iter().map(|t| (t.name.clone(), t.clone())).collect();
    let is_norm = |module: &str| {
        let has = |leaf: &str| by_name.contains_key(&format!("{module}.1.{leaf}"));
        by_name.contains_key(&format!("{module}.0.weight")) && (has("running_var") || has("weight"))
    };
    let (mut out, mut folds) = (Vec::with_capacity(tensors.len()), Vec::new());
    for t in tensors {
        let split = t.name.rsplit_once('.').and_then(|(path, leaf)| Some((path.rsplit_once('.')?, leaf)));
        let Some(((module, place), leaf)) = split.filter(|((module, _), _)| is_norm(module)) else {
            out.push(t);
            continue;
        };
        let part = |leaf: &str| {
            let name = format!("{module}.1.{leaf}");
            by_name.get(&name).cloned().ok_or_else(|| format!("no tensor `{}`, but others of its norm", quoted(&name)))
        };
        let factor = || Ok::<_, String>(Factor::Norm { weight: part("weight")?, variance: part("running_var")? });
        match (place, leaf) {
            ("0", "weight") => {
                part("bias")?;
                folds.push((out.len(), Fold { factor: factor()?, mean: None }));
                out.push(t);
            }
            ("1", "bias") => {
                let name = format!("{module}.0.bias");
                if by_name.contains_key(&name) {
                    return Err(format!("two tensors are `{}`: one is the norm's behind it", quoted(&name)));
                }
                folds.push((out.len(), Fold { factor: factor()?, mean: Some(part("running_mean")?) }));
                out.push(t.renamed(name));
            }
            ("1", "weight" | "running_mean" | "running_var") => {}
            _ => out.push(t),
        }
    }
    Ok((out, folds))
}

/// Folds `{layer}.layer_scale1` and `2` into the linear layers whose outputs they scale, which end a block's two
/// branches. The scales stay among the tensors, so that one that is missing is missed.
pub(super) fn layer_scales(tensors: Vec<TensorInfo>) -> Folded {
    const ENDS: [(&str, &str); 2] =
        [(".attention.output.dense", ".layer_scale1.lambda1"), (".mlp.fc2", ".layer_scale2.lambda1")];
    let scales: HashMap<&str, &TensorInfo> =
        tensors.iter().filter(|t| t.name.ends_with(".lambda1")).map(|t| (t.name.as_str(), t)).collect();
    let mut folds = Vec::new();
    for (i, t) in tensors.iter().enumerate() {
        let module = t.name.strip_suffix(".weight").or_else(|| t.name.strip_suffix(".bias"));
        let end = module.and_then(|m| ENDS.iter().find_map(|(end, scale)| Some((m.strip_suffix(end)?, *scale))));
        let Some((layer, scale)) = end else { continue };
        if let Some(&vector) = scales.get(format!("{layer}{scale}").as_str()) {
            folds.push((i, Fold { factor: Factor::Vector(vector.clone()), mean: None }));
        }
    }
    (tensors, folds)
}
