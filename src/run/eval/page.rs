//! The written results: `results.jsonl`, `table.md`, and `index.html` with the table and every picture.

use super::{EvalOptions, Evaluation, place, sheet, table};
use crate::error::Result;
use crate::fs;
use std::fmt::Write as _;

/// Writes the three files into the output folder.
pub(super) fn write(options: &EvalOptions, evaluation: &Evaluation) -> Result<()> {
    fs::write(&options.output.join("results.jsonl"), false, table::json_lines(evaluation).as_bytes())?;
    fs::write(&options.output.join("table.md"), false, table::markdown(evaluation).as_bytes())?;
    fs::write(&options.output.join("index.html"), false, page(options, evaluation).as_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(options: &EvalOptions, evaluation: &Evaluation) -> String {
    let mut text = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>tessera eval</title><style>body{font:14px sans-serif;margin:2em}\
         table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:3px 8px;text-align:right}\
         td:nth-child(2){text-align:left}figure{display:inline-block;margin:4px}img{max-width:320px}\
         figcaption{font-size:12px}</style><h1>Quality</h1><table><tr>",
    );
    for heading in table::headings(evaluation) {
        let _ = write!(text, "<th>{heading}</th>");
    }
    text += "</tr>";
    for (scale, method) in table::rows(evaluation) {
        text += "<tr>";
        for cell in table::cells(scale, method, &table::means(evaluation, scale, method)) {
            let _ = write!(text, "<td>{}</td>", escaped(&cell));
        }
        text += "</tr>";
    }
    text += "</table>";
    text += &table::footnote(evaluation).map(|note| format!("<p>{}", escaped(&note))).unwrap_or_default();
    let _ = write!(text, "<p><a href=\"{}\">sheet</a>", sheet::NAME);
    let mut last = ("", 0.0);
    for m in &evaluation.measured {
        if last != (m.picture.as_str(), m.scale) {
            last = (&m.picture, m.scale);
            let _ = write!(text, "<h2>{} x{}</h2>", escaped(&m.picture), m.scale);
            if !options.inputs_only {
                text += &figure("reference", m.scale, &m.picture, "original");
            }
        }
        let psnr = m.scores.map(|s| format!(", {:.2} dB", s.psnr)).unwrap_or_default();
        text += &figure(&m.method, m.scale, &m.picture, &format!("{}{psnr}", m.method));
    }
    text
}

fn figure(method: &str, scale: f64, picture: &str, caption: &str) -> String {
    let path = place(method, scale).join(format!("{picture}.png"));
    let parts: Vec<String> = path.components().map(|c| encoded(&c.as_os_str().to_string_lossy())).collect();
    let (path, caption) = (parts.join("/"), escaped(caption));
    format!(
        "<figure><a href=\"{path}\"><img src=\"{path}\" alt=\"{caption}\"></a><figcaption>{caption}</figcaption></figure>"
    )
}

/// A path's part in a link.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
