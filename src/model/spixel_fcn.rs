//! `SpixelNet1l_bn` of SpixelFCN: which of the nine superpixel cells around it each pixel belongs to.
//!
//! A U-Net of 3x3 convolutions. It was published without a config; the `config.json` read here is this program's own:
//!
//! ```json
//! {"_class_name": "SpixelNet1l_bn", "in_channels": 3, "out_channels": 9,
//!  "block_out_channels": [16, 32, 64, 128, 256], "cell_size": 16}
//! ```
//!
//! `block_out_channels` are the widths by level, finest first (pruned or small networks have other widths, or fewer
//! levels); each level halves the sides. `cell_size` is the side of a superpixel cell in pixels of the network's
//! input, by default what the coarsest level's pixel covers: 16 as published. A file without a config implies the
//! rest by its shapes. Tensors have the published names; the batch norm behind each convolution is folded into it when
//! it is read.

use super::config::Fields;
use super::pictures::Normalisation;
use crate::error::{Error, Kind, Result};
use crate::graph::op::{Lifetime, Padding};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;

/// How the network wants its picture.
pub const NORMALISATION: Normalisation = Normalisation { mean: [0.411, 0.432, 0.45], deviation: [1.0; 3] };
/// Cells that a pixel may belong to: its own and those around it, row by row.
pub const NEIGHBOURS: u32 = 9;

/// A superpixel network as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SpixelNet {
    in_channels: u32,
    channels: Vec<u32>,
    cell: u32,
}

impl SpixelNet {
    /// Reads `superpixel/config.json`, see the module.
    pub fn from_config(text: &str) -> Result<SpixelNet> {
        let mut f = Fields::new("SpixelNet1l_bn", text)?;
        let channels = f.channels_list("block_out_channels", &[16, 32, 64, 128, 256])?;
        let out = f.u32("out_channels", NEIGHBOURS, limits::MAX_CHANNELS)?;
        if out != NEIGHBOURS {
            return Err(f.wrong("out_channels", format!("a pixel has {NEIGHBOURS} cells to choose from")));
        }
        let coarsest = 1u32 << (channels.len() - 1);
        let net = SpixelNet {
            in_channels: f.u32("in_channels", 3, limits::MAX_CHANNELS)?,
            cell: f.u32("cell_size", coarsest, u64::from(limits::MAX_TILE))?,
            channels,
        };
        f.finish()?;
        Ok(net)
    }

    /// Channels of the picture.
    pub fn in_channels(&self) -> u32 {
        self.in_channels
    }

    /// Side of a superpixel cell, pixels of the network's input.
    pub fn cell_size(&self) -> u32 {
        self.cell
    }

    /// What the sides of the picture are multiples of: a pixel of the coarsest level.
    pub fn factor(&self) -> u32 {
        1 << (self.channels.len() - 1)
    }

    /// The graph of `batch` pictures of `height` x `width`, both multiples of [`SpixelNet::factor`]: input
    /// `pixel_values`, normalised as [`NORMALISATION`] says; output `logits`, f32 `[batch, height, width, 9]`, whose
    /// softmax over the channels is how likely a pixel belongs to the cell at the top left, top, top right, left, its
    /// own, right, bottom left, bottom and bottom right of the cell it lies in.
    pub fn build(&self, batch: u32, height: u32, width: u32, dtype: DType) -> Result<Graph> {
        let factor = self.factor();
        if height == 0 || width == 0 || !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            let why = format!("superpixels: {height}x{width} pixels are not multiples of {factor}");
            return Err(Error::new(Kind::Usage, "model", why).advise("pad or resize the picture"));
        }
        let mut builder = Builder::new(format!("superpixel {height}x{width} b{batch} {}", dtype.name()), dtype);
        let b = &mut builder;
        let mut x =
            b.input("pixel_values", Shape::new(batch, height, width, self.in_channels), dtype, Lifetime::Window);
        let mut seen = Vec::with_capacity(self.channels.len());
        for (level, &c) in self.channels.iter().enumerate() {
            let stride = if level == 0 { 1 } else { 2 };
            x = conv(b, &format!("conv{level}a"), x, c, stride)?;
            x = conv(b, &format!("conv{level}b"), x, c, 1)?;
            seen.push(x);
        }
        seen.pop();
        for (level, &c) in self.channels.iter().enumerate().rev().skip(1) {
            let up = b.module(&format!("deconv{level}"), |b| {
                let up = b.conv_transpose("0", x, c, 4, 2, 1)?;
                b.activation("", up, Act::LeakyRelu)
            })?;
            if let Some(skip) = seen.pop() {
                let both = b.push(&format!("concat{level}"), Op::Concat, &[skip, up])?;
                x = conv(b, &format!("conv{level}_1"), both, c, 1)?;
            }
        }
        let logits = b.conv_as("pred_mask0", x, NEIGHBOURS, 3, 1, Padding::all(1), DType::F32)?;
        b.output("logits", logits);
        Ok(builder.finish())
    }
}

/// Convolution, batch norm (in the convolution's tensors) and leaky ReLU.
fn conv(b: &mut Builder, name: &str, x: ValueId, out: u32, stride: u32) -> Result<ValueId> {
    b.module(name, |b| {
        let y = b.conv("0", x, out, 3, stride, Padding::all(1))?;
        b.activation("", y, Act::LeakyRelu)
    })
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::*;

    fn net(channels: &str) -> Result<SpixelNet> {
        SpixelNet::from_config(&format!(r#"{{"_class_name":"SpixelNet1l_bn","block_out_channels":{channels}}}"#))
    }

    /// PyTorch's module without the coarse predictions has 2,269,785: 1232 more, the norms' factors, which are folded.
    #[test]
    fn the_published_network_has_the_published_number_of_parameters() {
        let published = net("[16,32,64,128,256]").expect("config");
        assert_eq!((published.factor(), published.cell_size(), published.in_channels()), (16, 16, 3));
        let graph = published.build(1, 64, 48, DType::F16).expect("graph");
        crate::graph::verify::verify(&graph).expect("sound");
        assert_eq!(parameters(&graph), 2_269_785 - 1232);
        assert_eq!(graph.value(graph.outputs[0].1).shape, Shape::new(1, 64, 48, 9));
        assert_eq!(graph.value(graph.outputs[0].1).dtype, DType::F32);
        let flat = net("[8,12,16]").expect("fewer levels");
        assert_eq!((flat.factor(), flat.cell_size()), (4, 4));
        crate::graph::verify::verify(&flat.build(2, 4, 8, DType::F32).expect("graph")).expect("sound");
        net("[8]").expect("one level").build(1, 3, 5, DType::F32).expect("any sides");
    }

    #[test]
    fn sides_off_the_coarsest_level_and_unknown_fields_are_refused() {
        let published = net("[16,32,64,128,256]").expect("config");
        for [h, w] in [[64, 40], [15, 16], [0, 16]] {
            let e = published.build(1, h, w, DType::F32).expect_err("sides");
            assert!(e.kind() == Kind::Usage && e.message().contains("multiples of 16"), "{e}");
        }
        for (field, value) in
            [("out_channels", "4"), ("cell_size", "0"), ("padding", "1"), ("block_out_channels", "[]")]
        {
            let text = format!(r#"{{"_class_name":"SpixelNet1l_bn","{field}":{value}}}"#);
            let e = SpixelNet::from_config(&text).expect_err(field);
            assert!(e.kind() == Kind::Weights && e.message().contains(field), "{e}");
        }
    }
}
