//! The parameters of the ops that move, weigh and scale pixels.

use super::{Context, act_code, product};
use crate::abi::Params;
use crate::abi::params::{
    MOVE_DEPTH_TO_SPACE, MOVE_PIXELS, MOVE_SPACE_TO_DEPTH, MOVE_SPLIT_CHANNELS, MOVE_UNWINDOWS, MOVE_WINDOWS,
    ModulateParams, RearrangeParams, ResampleParams,
};
use crate::error::Result;
use crate::graph::Lifetime;
use crate::graph::op::{Axis, Modulate, Node, Rearrange, Resample};

impl Context<'_> {
    pub(super) fn resample(&mut self, node: &Node, p: &Resample) -> Result<()> {
        let [x, table] = [0, 1].map(|i| node.inputs[i]);
        let (xs, ts) = (self.shape(x), self.shape(table));
        let per_item = self.graph.value(table).lifetime == Lifetime::Window;
        let params = ResampleParams {
            n: xs.n,
            h: xs.h,
            w: xs.w,
            pitch: xs.pitch(),
            out: ts.w,
            axis: match p.axis {
                Axis::Rows => 0,
                Axis::Columns => 1,
            },
            taps: p.taps,
            pitch_table: ts.pitch(),
            parts: u32::from(per_item),
            ..ResampleParams::default()
        };
        self.simple(node, Params::Resample(params), &[Some(x), Some(table)])
    }

    pub(super) fn rearrange(&mut self, node: &Node, p: &Rearrange) -> Result<()> {
        let (xs, ys) = (self.shape(node.inputs[0]), self.shape(node.output));
        let (kind, size, across) = match *p {
            Rearrange::DepthToSpace { factor } => (MOVE_DEPTH_TO_SPACE, factor, 0),
            Rearrange::SpaceToDepth { factor } => (MOVE_SPACE_TO_DEPTH, factor, 0),
            Rearrange::Windows { size } => (MOVE_WINDOWS, size, xs.w.div_ceil(size)),
            Rearrange::Unwindows { size, to: [_, w] } => (MOVE_UNWINDOWS, size, w.div_ceil(size)),
            Rearrange::Pixels { begin, .. } => (MOVE_PIXELS, begin, 0),
            Rearrange::SplitChannels { parts } => (MOVE_SPLIT_CHANNELS, parts, 0),
        };
        let params = RearrangeParams {
            n: xs.n,
            h: xs.h,
            w: xs.w,
            c_x: xs.c,
            pitch_x: xs.pitch(),
            oh: ys.h,
            ow: ys.w,
            c: ys.c,
            pitch_y: ys.pitch(),
            kind,
            size,
            across,
        };
        self.simple(node, Params::Rearrange(params), &[Some(node.inputs[0])])
    }

    pub(super) fn modulate(&mut self, node: &Node, p: &Modulate) -> Result<()> {
        let [x, gb] = [0, 1].map(|i| node.inputs[i]);
        let s = self.shape(x);
        let params = ModulateParams {
            pixels: product("pixels", &[s.n, s.h, s.w])?,
            c: s.c,
            pitch: s.pitch(),
            pitch_gb: self.shape(gb).pitch(),
            act: act_code(p.act),
            ..ModulateParams::default()
        };
        self.simple(node, Params::Modulate(params), &[Some(x), Some(gb)])
    }
}
