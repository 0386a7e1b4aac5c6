//! An inspection as people read it.

use super::{Inspection, NetworkInfo};
use std::fmt;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.class {
            Some(class) => writeln!(f, "{}: {class}", self.path.display())?,
            None => writeln!(f, "{}", self.path.display())?,
        }
        if let Some(a) = &self.adapter {
            let ranks: Vec<String> = a.ranks.iter().map(u64::to_string).collect();
            let parts = if a.parts.is_empty() { "a network its names do not tell".into() } else { a.parts.join(", ") };
            let ranks = ranks.join(", ");
            return writeln!(
                f,
                "  adapter (LoRA) of {} modules of {parts}, rank {ranks}, {}",
                a.modules,
                size(a.bytes)
            );
        }
        for network in &self.networks {
            write_network(network, f)?;
        }
        let all: u64 = self.networks.iter().filter_map(|n| n.parameters).sum();
        if self.networks.len() > 1 {
            let bytes: u64 = self.networks.iter().map(|n| n.bytes).sum();
            writeln!(f, "  {:13} {all} parameters, {}", "in all", size(bytes))?;
        }
        for system in &self.systems {
            match system.missing.as_slice() {
                [] => writeln!(f, "  system {}: runs", system.system)?,
                missing => writeln!(f, "  system {}: lacks {}", system.system, missing.join("; "))?,
            }
        }
        for line in &self.details {
            writeln!(f, "    {line}")?;
        }
        let components: Vec<&str> = self.networks.iter().flat_map(|n| &n.components).map(String::as_str).collect();
        match components.as_slice() {
            [] if self.networks.is_empty() => writeln!(f, "  tessera run: nothing here")?,
            [] => writeln!(f, "  tessera run: none of them, only the system runs them")?,
            names => writeln!(f, "  tessera run: {}", names.join(", "))?,
        }
        match &self.plan {
            Some(plan) => write!(f, "{plan}"),
            None => Ok(()),
        }
    }
}

fn write_network(n: &NetworkInfo, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut facts = vec![n.class.clone()];
    if let Some(parameters) = n.parameters {
        facts.push(format!("{parameters} parameters"));
    }
    if n.tensors > 0 {
        let files = if n.files == 1 { String::new() } else { format!(" in {} files", n.files) };
        facts.push(format!("{} tensors as {}, {}{files}", n.tensors, n.types.join(" and "), size(n.bytes)));
    }
    writeln!(f, "  {:13} {}", n.part, facts.join(", "))?;
    for (what, count) in &n.multiply_adds {
        writeln!(f, "  {:13} {} multiply-adds: {what}", "", counted(*count))?;
    }
    if let Some(first) = n.unused.first() {
        writeln!(f, "  {:13} {} tensor(s) are not used, the first is `{first}`", "", n.unused.len())?;
    }
    for problem in &n.problems {
        writeln!(f, "  {:13} does not run: {problem}", "")?;
    }
    Ok(())
}

/// A count in decimal units.
fn counted(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} G", n as f64 / 1e9),
    }
}

/// Bytes in the decimal units that downloads are listed in.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
