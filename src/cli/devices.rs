//! `tessera devices`: what `--device` takes.

use super::out;
use super::units::mebibytes;
use clap::Args;
use serde_json::{Value, json};
use tessera::Result;
use tessera::run;

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    /// Prints one JSON array
    #[arg(long)]
    pub(super) json: bool,
}

/// Lists the devices.
pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let devices = run::devices();
    if args.json {
        let list: Vec<Value> = devices
            .iter()
            .map(|d| {
                json!({"id": d.id, "name": d.name, "interface": d.interface, "driver": d.driver, "hardware": d.hardware,
                    "memory": d.memory, "notes": d.notes})
            })
            .collect();
        return out(&Value::from(list).to_string());
    }
    let mut lines = Vec::new();
    for d in &devices {
        let memory = d.memory.map(|m| format!(", {}", mebibytes(m))).unwrap_or_default();
        let driver = if d.driver.is_empty() { String::new() } else { format!(", driver {}", d.driver) };
        let kind = if d.hardware { "" } else { ", software" };
        lines.push(format!("{:8} {} ({}{kind}{driver}{memory})", d.id, d.name, d.interface));
        lines.extend(d.notes.iter().map(|n| format!("{:8} - {n}", "")));
    }
    out(&lines.join("\n"))
}
