//! The pieces made of convolutions: residual block, down- and upsampling.

use crate::error::Result;
use crate::graph::op::{Conv2d, Modulate, Padding};
use crate::graph::{Act, Builder, Op, ValueId};

/// Group norm parameters shared by the resnets of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    pub(super) groups: u32,
    pub(super) eps: f32,
}

/// `ResnetBlock2D`: norm, SiLU, conv, (+ time row), norm, SiLU, conv, + shortcut. `time` is SiLU of the
/// time embedding, one row per step; its projection depends on nothing that varies per window, so it
/// becomes a table that the convolution's epilogue reads.
pub(super) fn resnet(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    out: u32,
    norm: Norm,
    time: Option<ValueId>,
) -> Result<ValueId> {
    modulated(b, name, x, out, norm, time, None)
}

/// The same, with gamma and beta (side by side, of `x`'s extent) applied between the first norm and its SiLU.
pub(super) fn modulated(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    out: u32,
    norm: Norm,
    time: Option<ValueId>,
    modulation: Option<ValueId>,
) -> Result<ValueId> {
    b.module(name, |b| {
        let same_channels = b.shape(x).c == out;
        let h = match modulation {
            None => b.group_norm("norm1", x, norm.groups, norm.eps, Act::Silu)?,
            Some(gb) => {
                let h = b.group_norm("norm1", x, norm.groups, norm.eps, Act::None)?;
                b.push("norm1.modulated", Op::Modulate(Modulate { act: Act::Silu }), &[h, gb])?
            }
        };
        let h = match time {
            None => b.conv("conv1", h, out, 3, 1, Padding::all(1))?,
            Some(t) => {
                let row = b.linear("time_emb_proj", t, out, true)?;
                conv_with_row(b, "conv1", h, row, out)?
            }
        };
        let h = b.group_norm("norm2", h, norm.groups, norm.eps, Act::Silu)?;
        let h = b.conv("conv2", h, out, 3, 1, Padding::all(1))?;
        let shortcut = if same_channels { x } else { b.conv("conv_shortcut", x, out, 1, 1, Padding::default())? };
        b.add("", h, shortcut)
    })
}

/// A 3x3 convolution whose output gets a row of `table` added per channel.
fn conv_with_row(b: &mut Builder, name: &str, x: ValueId, table: ValueId, out: u32) -> Result<ValueId> {
    let c = u64::from(b.shape(x).c);
    b.module(name, |b| {
        let weight = b.weight("weight", &[u64::from(out), c, 3, 3]);
        let bias = Some(b.weight("bias", &[u64::from(out)]));
        let op = Conv2d {
            weight,
            bias,
            out_channels: out,
            kernel: [3, 3],
            stride: 1,
            padding: Padding::all(1),
            upsample: None,
            second: false,
            row_bias: true,
            residual: false,
            act: Act::None,
        };
        b.push("", Op::Conv2d(op), &[x, table])
    })
}

/// `Downsample2D` with a convolution. Padding 0 means one row and column of zeros after the last ones
/// only, as diffusers pads for its autoencoders.
pub(super) fn downsample(b: &mut Builder, x: ValueId, padding: u32) -> Result<ValueId> {
    let c = b.shape(x).c;
    let padding = match padding {
        0 => Padding { top: 0, left: 0, bottom: 1, right: 1 },
        p => Padding::all(p),
    };
    b.module("downsamplers", |b| b.module("0", |b| b.conv("conv", x, c, 3, 2, padding)))
}

/// `Upsample2D` with a convolution, to exactly `size`.
pub(super) fn upsample(b: &mut Builder, x: ValueId, size: [u32; 2]) -> Result<ValueId> {
    let c = b.shape(x).c;
    b.module("upsamplers", |b| {
        b.module("0", |b| {
            let up = b.push("", Op::Upsample { size }, &[x])?;
            b.conv("conv", up, c, 3, 1, Padding::all(1))
        })
    })
}
