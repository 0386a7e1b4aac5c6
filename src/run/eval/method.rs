//! The rows of a table: how each enlarges, what it is an ablation of, and what its models were trained for.

use crate::error::Result;
use crate::run::options::UpscaleOptions;
use crate::run::shipped::model_folder;
use crate::system::job::{Cascade, Off, Reference, Sampler};
use crate::system::{casarbi, cascade, casr, registry};

/// By how much a factor may miss a range and still lie in it: what dividing leaves.
const NEAR: f64 = 1e-9;

/// How pictures are enlarged.
#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// Bicubic interpolation.
    Bicubic,
    /// One job of the engine.
    Job(Box<UpscaleOptions>),
    /// A job for each stage of a cascade, at most 4 times as large each and the largest first; the pictures in between have 16 bits.
    Cascade(Box<UpscaleOptions>),
    /// One way to the whole size, then a job that enlarges no more and is told what the picture has behind it: the whole
    /// factor, unless it says another. In between there are 16 bits.
    Then(Box<How>, Box<UpscaleOptions>),
}

impl How {
    /// LIIF: the base picture of a casarbi model in one jump, unless the job says how to share the scale out.
    pub fn liif(mut options: UpscaleOptions) -> How {
        options.system = Some(casarbi::SYSTEM.into());
        options.sampler.off.push(Off::Denoiser);
        options.sampler.cascade.get_or_insert(Cascade::Single);
        How::Job(Box::new(options))
    }

    /// The jobs it runs, in order.
    pub(super) fn jobs(&self) -> Vec<&UpscaleOptions> {
        match self {
            How::Bicubic => Vec::new(),
            How::Job(options) | How::Cascade(options) => vec![options],
            How::Then(first, options) => first.jobs().into_iter().chain([&**options]).collect(),
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// Its name, which also names a folder.
    pub name: String,
    /// What it does; input, output and size of its job are set for each picture.
    pub how: How,
    /// The row that it is with a part left out: how far the results are apart is measured too.
    pub of: Option<usize>,
}

impl Method {
    /// The rows with each part left out that this row's system can do without; it is row `index`.
    pub fn ablated(&self, index: usize) -> Vec<Method> {
        let (How::Job(options) | How::Cascade(options)) = &self.how else { return Vec::new() };
        let without = |off: &Off| {
            let mut sampler = options.sampler.clone();
            sampler.off.push(*off);
            (off.name(), sampler)
        };
        let mut parts: Vec<(&str, Sampler)> = Vec::new();
        let system = options.system.as_deref();
        if system == Some(casr::SYSTEM) {
            parts.extend(casr::OFF.iter().map(without));
        }
        // Where nothing is sampled, nothing of it is left to leave out.
        if system == Some(casarbi::SYSTEM) && !options.sampler.off.contains(&Off::Denoiser) {
            parts.extend(casarbi::OFF.iter().map(without));
            parts.push(("adapter", Sampler { no_adapter: true, ..options.sampler.clone() }));
            parts.push(("guidance", Sampler { reference: Some(Reference::Off), ..options.sampler.clone() }));
        }
        let row = |(part, sampler): (&str, Sampler)| {
            let options = Box::new(UpscaleOptions { sampler, ..(**options).clone() });
            let how = match self.how {
                How::Cascade(_) => How::Cascade(options),
                How::Job(_) | How::Bicubic | How::Then(..) => How::Job(options),
            };
            Method { name: format!("{} without {part}", self.name), how, of: Some(index) }
        };
        parts.into_iter().map(row).collect()
    }
}

/// What the model of a job says of itself.
#[derive(Debug)]
struct Model {
    trained: Option<[f64; 2]>,
    /// What it is told instead of the row's scale.
    told: Option<f64>,
    /// How a scale is shared out over jobs, then each job's over its stages.
    orders: Vec<Cascade>,
}

/// What a method's models say of themselves.
#[derive(Debug)]
pub(super) struct Models {
    models: Vec<Model>,
    /// Whether the method is one job whose system goes by stages.
    pub(super) own_stages: bool,
}

impl Models {
    /// Opens the method's models.
    pub(super) fn of(method: &Method) -> Result<Models> {
        let outer = matches!(method.how, How::Cascade(_)).then_some(Cascade::LargestFirst);
        let open = |options: &UpscaleOptions| {
            let model = registry::open(&model_folder(options)?, options.system.as_deref())?;
            let orders = outer.into_iter().chain(model.cascade(&options.sampler)).collect();
            let told = options.sampler.enlarged.filter(|_| matches!(method.how, How::Then(..)));
            Ok(Model { trained: model.trained_scales(&options.sampler), told, orders })
        };
        let models: Vec<Model> = method.how.jobs().into_iter().map(open).collect::<Result<_>>()?;
        let own_stages = match method.how {
            How::Job(_) => models.iter().flat_map(|m| &m.orders).any(|order| *order != Cascade::Single),
            How::Bicubic | How::Cascade(_) | How::Then(..) => false,
        };
        Ok(Models { models, own_stages })
    }

    /// The range of training, where a factor at this scale lies outside of it.
    pub(super) fn outside(&self, scale: f64) -> Result<Option<[f64; 2]>> {
        let ranges = self.models.iter().map(|model| model.outside(scale)).collect::<Result<Vec<_>>>()?;
        Ok(ranges.into_iter().flatten().next())
    }
}

impl Model {
    /// The factors that the networks are told at this scale.
    fn factors(&self, scale: f64) -> Result<Vec<f64>> {
        let mut factors = vec![self.told.unwrap_or(scale)];
        for &order in &self.orders {
            let each = factors.into_iter().map(|f| cascade::factors(f, order)).collect::<Result<Vec<_>>>()?;
            factors = each.concat();
        }
        Ok(factors)
    }

    fn outside(&self, scale: f64) -> Result<Option<[f64; 2]>> {
        let Some([low, high]) = self.trained else { return Ok(None) };
        let within = |f: &f64| (low - NEAR..=high + NEAR).contains(f);
        Ok((!self.factors(scale)?.iter().all(within)).then_some([low, high]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_outside_where_a_stage_is() {
        let outside = |trained, orders: &[Cascade], scale| {
            Model { trained, told: None, orders: orders.to_vec() }.outside(scale).expect("factors").is_some()
        };
        let (trained, stages) = (Some([1.15, 4.0]), [Cascade::LargestFirst]);
        // 18 = 4 x 3 x 1.5, and 4.2 = 4 x 1.05.
        assert_eq!([18.0, 4.0, 4.2, 1.1].map(|s| outside(trained, &stages, s)), [false, false, true, true]);
        assert!(outside(trained, &[], 18.0) && outside(trained, &[Cascade::Single], 18.0));
        // Stages within stages: 4 x 2 of at most 2 each.
        assert!(!outside(Some([1.15, 2.0]), &[Cascade::LargestFirst, Cascade::RemainderLast], 8.0));
        assert!(!outside(None, &[], 64.0), "a model that says nothing");
    }
}
