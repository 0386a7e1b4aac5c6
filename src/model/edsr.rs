//! EDSR-baseline (Lim et al. 2017) as a feature encoder: without the upsampling tail and the mean shift.

use super::config::Fields;
use crate::error::Result;
use crate::graph::op::{Lifetime, Padding, Pointwise};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;

/// An encoder as its config describes it: `h = head(x)`, features `h + body(h)`, the body being residual blocks
/// `x + res_scale * conv(relu(conv(x)))` and a last convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Edsr {
    colours: u32,
    blocks: u32,
    feats: u32,
    res_scale: f32,
}

impl Edsr {
    /// Reads `config.json`; published names of fields and tensors.
    pub fn from_config(text: &str) -> Result<Edsr> {
        let mut f = Fields::new("EDSR", text)?;
        let net = Edsr::read(&mut f)?;
        f.finish()?;
        Ok(net)
    }

    /// Its fields of a config that has others too.
    pub(super) fn read(f: &mut Fields) -> Result<Edsr> {
        Ok(Edsr {
            colours: f.u32("n_colors", 3, limits::MAX_CHANNELS)?,
            blocks: f.u32("n_resblocks", 16, u64::from(limits::MAX_LEVEL_LAYERS))?,
            feats: f.u32("n_feats", 64, limits::MAX_CHANNELS)?,
            res_scale: f.f32("res_scale", 1.0)?,
        })
    }

    /// Channels of the picture.
    pub fn in_channels(&self) -> u32 {
        self.colours
    }

    /// Channels of the features.
    pub fn feats(&self) -> u32 {
        self.feats
    }

    /// Pixels around one on which its features depend.
    pub fn reach(&self) -> u32 {
        2 * self.blocks + 2
    }

    /// The graph: `sample` `[n, h, w, colours]` to `features` `[n, h, w, n_feats]`.
    pub fn build(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let mut b = Builder::new(format!("edsr {height}x{width} b{batch} {}", dtype.name()), dtype);
        let x = b.input("sample", Shape::new(batch, height, width, self.colours), dtype, Lifetime::Window);
        let y = self.apply(&mut b, x)?;
        b.output("features", y);
        Ok(b.finish())
    }

    /// Adds the network to `b`: the features of `x`.
    pub(crate) fn apply(&self, b: &mut Builder, x: ValueId) -> Result<ValueId> {
        let head = b.conv("head.0", x, self.feats, 3, 1, Padding::all(1))?;
        let body = b.module("body", |b| {
            let mut x = head;
            for i in 0..self.blocks {
                x = b.module(&format!("{i}"), |b| {
                    let h = b.conv("body.0", x, self.feats, 3, 1, Padding::all(1))?;
                    let h = b.activation("body.1", h, Act::Relu)?;
                    let h = b.conv("body.2", h, self.feats, 3, 1, Padding::all(1))?;
                    self.sum(b, x, h)
                })?;
            }
            b.conv(&self.blocks.to_string(), x, self.feats, 3, 1, Padding::all(1))
        })?;
        b.add("features", head, body)
    }

    /// `x + res_scale * h`.
    fn sum(&self, b: &mut Builder, x: ValueId, h: ValueId) -> Result<ValueId> {
        if self.res_scale == 1.0 {
            return b.add("", h, x);
        }
        let beta = Some(self.res_scale);
        let op = Pointwise { alpha: 1.0, beta, gamma: 0.0, act: Act::None, clamp: None, table: false };
        b.push("", Op::Pointwise(op), &[x, h])
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::*;

    #[test]
    fn the_published_encoder_has_the_published_number_of_parameters() {
        let net = Edsr::from_config("{}").expect("defaults are the baseline's");
        let g = net.build(1, 48, 48, DType::F32).expect("graph");
        // 1,369,859 with the tail for x2, which has 149,443 of them.
        assert_eq!(parameters(&g), 1_369_859 - 149_443);
        assert_eq!((net.feats(), net.reach()), (64, 34));
    }
}
