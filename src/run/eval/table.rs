//! The figures as text: one JSON object a line, and tables in Markdown of means over pictures.

use super::{Evaluation, Measured};
use serde_json::json;
use std::fmt::Write;

/// Means over the pictures of one method and scale.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Means {
    pub(super) pictures: usize,
    /// Means of PSNR (dB), SSIM, GMSD, HaarPSI, where there are originals.
    pub(super) scores: Option<[f64; 4]>,
    pub(super) similarity: Option<f64>,
    pub(super) frechet: Option<f64>,
    /// See [`Measured::apart`].
    pub(super) apart: Option<f64>,
    /// Seconds per million pixels of output.
    pub(super) seconds: f64,
    pub(super) device_peak: u64,
    pub(super) parameters: u64,
    /// See [`Measured::outside`].
    pub(super) outside: Option<[f64; 2]>,
}

/// Methods and scales in the order they were measured.
pub(super) fn rows(evaluation: &Evaluation) -> Vec<(f64, &str)> {
    let mut rows: Vec<(f64, &str)> = Vec::new();
    for m in &evaluation.measured {
        if !rows.contains(&(m.scale, m.method.as_str())) {
            rows.push((m.scale, &m.method));
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows
}

pub(super) fn means(evaluation: &Evaluation, scale: f64, method: &str) -> Means {
    let all: Vec<&Measured> = evaluation.measured.iter().filter(|m| m.scale == scale && m.method == method).collect();
    let mean = |of: &dyn Fn(&Measured) -> Option<f64>| {
        let values: Vec<f64> = all.iter().filter_map(|m| of(m)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let scores = [
        mean(&|m| m.scores.map(|s| s.psnr)),
        mean(&|m| m.scores.map(|s| s.ssim)),
        mean(&|m| m.scores.map(|s| s.gmsd)),
        mean(&|m| m.scores.map(|s| s.haarpsi)),
    ];
    let pixels: u64 = all.iter().map(|m| m.pixels).sum();
    Means {
        pictures: all.len(),
        scores: scores[0].map(|_| scores.map(Option::unwrap_or_default)),
        similarity: mean(&|m| m.similarity),
        frechet: mean(&|m| m.frechet),
        apart: mean(&|m| m.apart),
        seconds: all.iter().map(|m| m.seconds).sum::<f64>() / (pixels as f64 / 1e6).max(1e-9),
        device_peak: all.iter().map(|m| m.device_peak).max().unwrap_or(0),
        parameters: all.iter().map(|m| m.parameters).max().unwrap_or(0),
        outside: all.iter().find_map(|m| m.outside),
    }
}

/// Headings of the columns of [`markdown`].
pub(super) fn headings(evaluation: &Evaluation) -> [&'static str; 13] {
    let frechet = match (evaluation.sifid, evaluation.inputs_only) {
        (false, false) => "Frechet",
        (false, true) => "Frechet to the input",
        (true, false) => "SIFID",
        (true, true) => "SIFID to the input",
    };
    [
        "scale",
        "method",
        "pictures",
        "PSNR dB",
        "SSIM",
        "GMSD",
        "HaarPSI",
        "self-similarity error",
        frechet,
        "levels from the whole",
        "parameters",
        "s / megapixel",
        "device MiB",
    ]
}

/// A figure, or a dash where there is none.
fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

/// A scale, with a mark where it is outside the training.
fn shown_scale(scale: f64, outside: Option<[f64; 2]>) -> String {
    format!("x{scale}{}", if outside.is_some() { " *" } else { "" })
}

/// What the mark says: each method's range.
pub(super) fn footnote(evaluation: &Evaluation) -> Option<String> {
    let mut ranges: Vec<String> = Vec::new();
    for m in &evaluation.measured {
        if let Some([low, high]) = m.outside {
            let range = format!("{} x{low} to x{high}", m.method);
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
    let of = "* a factor, of a stage where there are stages, outside those that the model was trained for";
    (!ranges.is_empty()).then(|| format!("{of}: {}", ranges.join(", ")))
}

/// The cells of one row.
pub(super) fn cells(scale: f64, method: &str, m: &Means) -> Vec<String> {
    let score = |i: usize, digits: usize| shown(m.scores.map(|s| s[i]), digits);
    let peak = if m.device_peak == 0 { "-".into() } else { format!("{:.1}", m.device_peak as f64 / 1048576.0) };
    vec![
        shown_scale(scale, m.outside),
        method.to_owned(),
        m.pictures.to_string(),
        score(0, 3),
        score(1, 4),
        score(2, 5),
        score(3, 4),
        shown(m.similarity, 4),
        shown(m.frechet, 6),
        shown(m.apart, 2),
        m.parameters.to_string(),
        format!("{:.2}", m.seconds),
        peak,
    ]
}

/// All tables in Markdown.
pub fn markdown(evaluation: &Evaluation) -> String {
    let headings = headings(evaluation);
    let mut text = line(&headings.map(String::from));
    text += &line(&headings.map(|_| "---".to_owned()));
    for (scale, method) in rows(evaluation) {
        text += &line(&cells(scale, method, &means(evaluation, scale, method)));
    }
    text += &footnote(evaluation).map(|note| format!("\n\\{note}\n")).unwrap_or_default();
    text += &drift(evaluation);
    let mut scales: Vec<f64> = evaluation.measured.iter().map(|m| m.scale).collect();
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    for (method, matrix) in &evaluation.self_ssim {
        let _ = writeln!(text, "\nSelfSSIM of {method} (row: from, column: to; in the order the scales were given):\n");
        for row in matrix {
            text += &line(&row.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>());
        }
    }
    if !evaluation.left_out.is_empty() {
        text += "\nLeft out:\n\n";
        for (path, why) in &evaluation.left_out {
            let _ = writeln!(text, "- {}: {why}", path.display());
        }
    }
    text
}

/// The table of drift: means after each stage over the pictures that have it; empty where nothing went by stages.
fn drift(evaluation: &Evaluation) -> String {
    let mut lines = String::new();
    for (scale, method) in rows(evaluation) {
        let all = evaluation.measured.iter().filter(|m| m.scale == scale && m.method == method);
        let of: Vec<&Measured> = all.filter(|m| !m.drift.is_empty()).collect();
        let means = drift_means(&of.iter().map(|m| &*m.drift).collect::<Vec<_>>());
        if means.is_empty() {
            continue;
        }
        let means: Vec<String> = means.into_iter().map(|mean| shown(mean, 6)).collect();
        let scale = shown_scale(scale, of.iter().find_map(|m| m.outside));
        let _ = writeln!(lines, "| {scale} | {method} | {} |", means.join(", "));
    }
    if lines.is_empty() {
        return lines;
    }
    let what = if evaluation.sifid { "SIFID (features of Inception v3)" } else { "Frechet distance" };
    let beside = if evaluation.inputs_only { "input" } else { "original" };
    format!("\n{what} to the {beside} after each stage:\n\n| scale | method | stages |\n|---|---|---|\n{lines}")
}

/// Means of each stage over the lists that have a figure for it. Every list ends with the result: lists of different lengths
/// are aligned there.
fn drift_means(lists: &[&[Option<f64>]]) -> Vec<Option<f64>> {
    let stages = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    let mean = |before_last: usize| {
        let at = |list: &&[Option<f64>]| *list.iter().rev().nth(before_last)?;
        let values: Vec<f64> = lists.iter().filter_map(at).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    (0..stages).rev().map(mean).collect()
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// One JSON object a line: every measurement, then every matrix.
pub fn json_lines(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    let features = if evaluation.sifid { "inception" } else { "fixed" };
    let against = if evaluation.inputs_only { "input" } else { "original" };
    for m in &evaluation.measured {
        // JSON has no infinity: equal pictures have no PSNR.
        let psnr = m.scores.map(|s| s.psnr).filter(|v| v.is_finite());
        let object = json!({
            "method": m.method, "scale": m.scale, "picture": m.picture, "path": m.path.to_string_lossy(),
            "psnr": psnr, "ssim": m.scores.map(|s| s.ssim), "gmsd": m.scores.map(|s| s.gmsd),
            "haarpsi": m.scores.map(|s| s.haarpsi), "self_similarity_error": m.similarity, "frechet": m.frechet, "apart": m.apart,
            "seconds": m.seconds, "pixels": m.pixels, "device_peak": m.device_peak, "parameters": m.parameters,
            "outside_trained_scales": m.outside, "drift": m.drift,
            "frechet_features": features, "frechet_against": against,
        });
        let _ = writeln!(text, "{object}");
    }
    for (method, matrix) in &evaluation.self_ssim {
        let _ = writeln!(text, "{}", json!({"method": method, "self_ssim": matrix}));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_averaged_with_the_same_stage() {
        let (a, b) = ([Some(1.0), Some(2.0), Some(4.0)], [None, None, Some(8.0)]);
        assert_eq!(drift_means(&[&a, &b]), [Some(1.0), Some(2.0), Some(6.0)]);
        assert_eq!(drift_means(&[&b]), [None, None, Some(8.0)]);
        // Fewer stages: the last ones.
        assert_eq!(drift_means(&[&a, &[Some(4.0), Some(8.0)]]), [Some(1.0), Some(3.0), Some(6.0)]);
        assert!(drift_means(&[]).is_empty() && drift_means(&[&[]]).is_empty());
    }
}
