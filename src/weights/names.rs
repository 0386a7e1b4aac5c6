//! THE tensor names: what else a tensor may be called, which stored shapes are the same tensor, and which
//! name was probably meant.
//!
//! Graphs ask for diffusers' current names. Checkpoints written by its early versions name the
//! autoencoder's attention projections differently.

use crate::limits;

/// Module names of the attention block before and after diffusers unified its attention classes.
const ATTENTION: [(&str, &str); 4] = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// Other names of the tensor `name`, in the order to try them.
pub fn aliases(name: &str) -> Vec<String> {
    let Some((module, leaf)) = name.rsplit_once('.') else { return Vec::new() };
    // Inside transformer blocks the names were always the current ones.
    if module.contains("transformer_blocks") {
        return Vec::new();
    }
    let renamed = |from: &str, to: &str| {
        let head = module.strip_suffix(from)?;
        (head.is_empty() || head.ends_with('.')).then(|| format!("{head}{to}.{leaf}"))
    };
    ATTENTION.iter().filter_map(|(new, old)| renamed(new, old)).collect()
}

/// Whether a tensor is a buffer that transformers saves beside the weights: row numbers, which nothing reads.
pub fn is_buffer(name: &str) -> bool {
    name == "position_ids" || name.ends_with(".position_ids")
}

/// Whether a tensor stored as `stored` is the one declared as `wanted`: the same shape, or a 1x1
/// convolution and a linear layer with the same numbers.
pub fn same_shape(stored: &[u64], wanted: &[u64]) -> bool {
    fn matrix(shape: &[u64]) -> &[u64] {
        match shape {
            [_, _, 1, 1] => &shape[..2],
            _ => shape,
        }
    }
    stored == wanted || (matrix(stored) == matrix(wanted) && matrix(wanted).len() == 2)
}

/// The name among `candidates` with the smallest edit distance to `name`, if any is near. Names that only
/// differ by a known prefix are near whatever the prefix's length.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(limits::MAX_NAME_CANDIDATES) {
        let bound = best.map_or(limits::MAX_NAME_DISTANCE.min(name.len() / 2), |(d, _)| d.saturating_sub(1));
        let distance = if candidate.strip_suffix(name).is_some_and(|p| p.ends_with('.')) {
            Some(1)
        } else {
            distance(name, candidate, bound)
        };
        if let Some(d) = distance.filter(|&d| best.is_none_or(|(b, _)| d < b)) {
            best = Some((d, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// Levenshtein distance of two names in bytes, `None` above `bound`.
fn distance(a: &str, b: &str, bound: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > bound {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        let mut least = row[0];
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
            least = least.min(row[j + 1]);
        }
        if least > bound {
            return None;
        }
    }
    Some(row[b.len()]).filter(|&d| d <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_attention_names_are_aliases_outside_transformers_only() {
        let old = |n: &str| aliases(n).pop();
        let prefix = "decoder.mid_block.attentions.0";
        for (new, name) in ATTENTION {
            assert_eq!(old(&format!("{prefix}.{new}.weight")), Some(format!("{prefix}.{name}.weight")));
        }
        assert_eq!(old("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"), None);
        assert_eq!(old("xto_q.weight"), None);
        assert_eq!(old("conv_in.weight"), None);
    }

    #[test]
    fn one_by_one_convolutions_are_matrices() {
        assert!(same_shape(&[8, 4, 1, 1], &[8, 4]) && same_shape(&[8, 4], &[8, 4, 1, 1]));
        assert!(same_shape(&[8, 4, 3, 3], &[8, 4, 3, 3]) && same_shape(&[8], &[8]));
        assert!(!same_shape(&[8, 4, 3, 3], &[8, 4]) && !same_shape(&[4, 8], &[8, 4]));
        assert!(!same_shape(&[8, 1, 1], &[8]) && !same_shape(&[8, 4, 1], &[8, 4]));
    }

    #[test]
    fn the_nearest_name_is_suggested_and_far_ones_are_not() {
        let have = ["conv_in.weight", "conv_in.bias", "down_blocks.0.resnets.0.conv1.weight", "unet.mid.norm.bias"];
        let near = |n| nearest(n, have);
        assert_eq!(near("conv_im.weight"), Some("conv_in.weight"));
        assert_eq!(near("down_blocks.0.resnets.0.conv_1.weight"), Some(have[2]));
        assert_eq!(near("mid.norm.bias"), Some("unet.mid.norm.bias"));
        assert_eq!(near("zzzz"), None);
        assert_eq!(distance("kitten", "sitting", 5), Some(3));
        assert_eq!(distance("kitten", "sitting", 2), None);
        assert_eq!(distance("", "abc", 3), Some(3));
    }
}
