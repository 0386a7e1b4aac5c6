//! The computing of a job: the networks of a choice are loaded, and its program runs between the picture's rows and
//! their delivery.

use super::budget::{Choice, Residency};
use super::clock::Clock;
use super::control::Control;
use super::delivery::Delivery;
use super::engine::Engine;
use super::executor::SharedWeights;
use super::interpreter::Interpreter;
use super::loader::Loader;
use super::options::{Report, Target, UpscaleOptions};
use super::{rows, stages};
use crate::error::Result;
use crate::image::{Colour, Header, ReadOptions};
use std::path::Path;

/// What computing takes beside the choice.
pub(super) struct Work<'a> {
    /// What was asked for.
    pub(super) options: &'a UpscaleOptions,
    /// How the picture is read.
    pub(super) reading: &'a ReadOptions,
    /// The picture's channels.
    pub(super) colour: Colour,
    /// The size it gets.
    pub(super) target: &'a Target,
    /// Where the output goes, and its header: stages are written beside it.
    pub(super) output: (&'a Path, &'a Header),
    /// Whose weights they are.
    pub(super) scope: String,
    /// Packs them.
    pub(super) weights: SharedWeights,
}

impl Work<'_> {
    /// Loads and runs. What had to be given up goes into the report. Returns the seconds of its phases.
    pub(super) fn run(
        &self,
        engine: &mut Engine,
        choice: &Choice,
        delivery: &mut Delivery,
        report: &mut Report,
        clock: &mut Clock,
        control: &mut Control<'_>,
    ) -> Result<Vec<(String, f64)>> {
        engine.limit(choice.cap);
        // What is loaded stays warm in the engine.
        let mut loader = Loader::new(engine, choice, &self.scope, self.weights.clone())?;
        loader.notes().iter().for_each(|n| control.observer.note(n));
        clock.lap("load");

        let device = loader.device();
        // What is loaded in turn differs from moment to moment: held beside it.
        let beside = |loader: &Loader<'_>| match choice.taken.residency {
            Residency::All | Residency::OneArena => device.allocated(),
            Residency::Networks => device.allocated().saturating_sub(loader.device_bytes()),
        };
        report.allocations.device_before = beside(&loader);
        delivery.begin();
        let done = {
            let mut interpreter = Interpreter::new(&choice.taken.program, &mut loader)?;
            if let Some(folder) = delivery.folder() {
                interpreter.set_spool(folder);
            }
            let (options, reading, colour, target) = (self.options, self.reading, self.colour, self.target);
            let done = rows::run(&mut interpreter, control, options, reading, colour, target, delivery);
            report.notes.extend(interpreter.told().iter().cloned());
            if done.is_ok() && options.save_stages {
                let (output, header) = self.output;
                let path =
                    options.stage_folder.as_ref().map(|folder| folder.join(output.file_name().unwrap_or_default()));
                let path = path.as_deref().unwrap_or(output);
                report.stages = stages::write(&interpreter, path, header, options.overwrite)?;
                for path in &report.stages {
                    report.notes.push(format!("stage picture {}", path.display()));
                }
            }
            done
        };
        report.allocations.device_after = beside(&loader);
        report.device_peak = device.peak();
        report.notes.extend(loader.notes().iter().cloned());
        drop(loader);
        let (stats, spent) = done?;
        report.redone = stats.redone;
        if stats.redone > 0 {
            let why = "values left the range of the storage type";
            let note = format!("{} windows were computed again in a wider type: {why}", stats.redone);
            control.observer.note(&note);
            report.notes.push(note);
        }
        report.allocations.host_growths = stats.growths;
        Ok(vec![
            ("read".to_owned(), spent.read),
            ("windows".to_owned(), (stats.gather - spent.read).max(0.0)),
            ("network".to_owned(), stats.compute),
            ("blend".to_owned(), (stats.scatter - spent.write).max(0.0)),
            ("write".to_owned(), spent.write),
        ])
    }
}
