//! MultiDiffusion (Bar-Tal et al. 2023) over a whole latent canvas: in every step the denoiser predicts in
//! overlapping windows, the predictions are averaged where windows meet, and the sampler's step is taken once,
//! on the whole canvas. As a step is linear in the latent, the prediction and noise that windows share, this is the
//! same as averaging the windows' next latents.
//!
//! ```text
//! per step i:   e = sum over windows w of weight_w * (sum over branches of gain * unet(input_i * crop_w(x), t_i, context_w))
//!               x = a_i x + b_i e + c_i noise_i
//! ```

use super::phase::{Block, CanvasOp, Coefficient, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Canvas, CanvasId, GraphId, GridId, Program, Ratio, Residency, Table, TableId};
use super::schedule::{Sampling, guidance};
use super::state::wrong;
use crate::error::Result;
use crate::tile::Ramp;

/// What the denoiser's windows over a latent canvas need.
#[derive(Debug, Clone)]
pub struct MultiDiffusion<'a> {
    /// Name of the window phase, for progress and messages.
    pub name: &'a str,
    /// The latent: a whole canvas, `sampling.initial` times standard normals or whatever the system starts from
    /// when the first step begins; the last step's latent when the block has ended.
    pub latent: CanvasId,
    /// The denoiser: `sample` and `timestep` (a table over steps) in, the output `prediction` out.
    pub graph: GraphId,
    /// Name of the graph's input for the latent.
    pub sample: &'a str,
    /// Name of the graph's input for time steps.
    pub timestep: &'a str,
    /// Name of the graph's output.
    pub prediction: &'a str,
    /// The windows, in latent pixels.
    pub grid: GridId,
    /// Weights of the windows in the average: [`Ramp::Uniform`] or [`Ramp::Gaussian`] as published.
    pub ramp: Ramp,
    /// Scale of classifier-free guidance: two branches a window, the prompt's first. `None`: one branch.
    pub guidance: Option<f64>,
    /// Context rows of the windows and how many of their tokens count.
    pub contexts: Contexts,
    /// The denoiser's other inputs.
    pub sources: Vec<(String, Source)>,
    /// The steps.
    pub sampling: &'a Sampling,
    /// Stage and purpose of the noise that samplers with noise add, see `noise::Key`.
    pub noise: (u16, u16),
}

impl MultiDiffusion<'_> {
    /// Appends the steps to `program`: a canvas for the predictions (and one for the scaled latent where the sampler
    /// scales what the network sees), two tables, and one block.
    pub fn append(self, program: &mut Program) -> Result<()> {
        let steps = &self.sampling.steps;
        let latent = super::state::get(&program.canvases, self.latent.0, "canvas")?.clone();
        if latent.residency != Residency::Whole || steps.is_empty() {
            return Err(wrong(format!("{}: a whole latent and at least one step are needed", self.name)));
        }
        let canvas = |program: &mut Program, what: &str| {
            let name = format!("{}.{what}", self.name);
            program.canvases.push(Canvas { name, ..latent.clone() });
            CanvasId(program.canvases.len() - 1)
        };
        let table = |program: &mut Program, what: &str, width, values: Vec<f32>| {
            let name = format!("{}.{what}", self.name);
            program.tables.push(Table { name, width, values });
            TableId(program.tables.len() - 1)
        };
        let times = table(program, "timestep", 1, steps.iter().map(|s| s.timestep as f32).collect());
        let rows = steps.iter().flat_map(|s| [s.input, s.next[0], s.next[1], s.next[2]]).map(|v| v as f32);
        let coefficients = table(program, "steps", 4, rows.collect());
        let column = |i| Coefficient::Step(coefficients, i);
        let prediction = canvas(program, "prediction");

        let mut phases = Vec::new();
        // One factor for all steps is a factor of the crop; different ones need a canvas, for a crop has one factor.
        let input = steps[0].input;
        let (sample, gain) = if steps.iter().all(|s| s.input == input) {
            (self.latent, input as f32)
        } else {
            let scaled = canvas(program, "scaled");
            phases.push(Phase::Canvas(combine(scaled, vec![(self.latent, column(0))], None)));
            (scaled, 1.0)
        };
        let mut sources = vec![
            (self.sample.to_owned(), Source::Crop { canvas: sample, ratio: Ratio::ONE, gain, shift: 0.0 }),
            (self.timestep.to_owned(), Source::Table(times)),
        ];
        sources.extend(self.sources);
        let gains = match self.guidance {
            // Without the prompt first, as `guidance` gives them; branch 0 is the prompt's.
            Some(scale) => guidance(scale).iter().rev().map(|&g| g as f32).collect(),
            None => vec![1.0],
        };
        phases.push(Phase::Windows(WindowPhase {
            name: self.name.to_owned(),
            graph: self.graph,
            grid: self.grid,
            branches: gains.len() as u32,
            contexts: self.contexts,
            sources,
            sinks: vec![(
                self.prediction.to_owned(),
                Sink::Blend {
                    canvas: prediction,
                    ratio: Ratio::ONE,
                    ramp: self.ramp,
                    halo: 0,
                    gains,
                    last_step_only: false,
                },
            )],
        }));
        let noise = steps.iter().any(|s| s.next[2] != 0.0).then_some((self.noise.0, self.noise.1, column(3)));
        phases.push(Phase::Canvas(combine(
            self.latent,
            vec![(self.latent, column(1)), (prediction, column(2))],
            noise,
        )));
        let steps = crate::extent::to_u32("steps", steps.len() as u64)?;
        program.blocks.push(Block { steps, nesting: Nesting::StepOutside, phases });
        Ok(())
    }
}

fn combine(to: CanvasId, terms: Vec<(CanvasId, Coefficient)>, noise: Option<(u16, u16, Coefficient)>) -> CanvasOp {
    CanvasOp::Combine { to, terms, noise, constant: 0.0, clamp: None }
}
