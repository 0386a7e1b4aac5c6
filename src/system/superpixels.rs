//! Superpixels as a program holds them; `run::superpixels` makes them.

use super::state::CanvasId;

/// How the pixels of an enlarged picture get the label of a superpixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelRule {
    /// The probabilities are enlarged, then the first largest wins.
    Probabilities,
    /// The largest wins at the size of the stage input, and labels are enlarged by nearest neighbour.
    Nearest,
}

impl LabelRule {
    /// Every rule with its name.
    pub const ALL: [(&'static str, LabelRule); 2] =
        [("probabilities", LabelRule::Probabilities), ("nearest", LabelRule::Nearest)];

    /// As model folders and `--labels` call it.
    pub fn name(self) -> &'static str {
        LabelRule::ALL.iter().find(|(_, rule)| *rule == self).map_or("", |(name, _)| name)
    }
}

/// The superpixels of a stage input. All three canvases are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superpixels {
    /// Nine probabilities per pixel, of the stage input's size or of another.
    pub probabilities: CanvasId,
    /// The stage input.
    pub picture: CanvasId,
    /// Mean colours: a pixel for each cell of the stage input, `ceil(side / cell)` a side.
    pub colours: CanvasId,
    /// Side of a cell, pixels of the stage input.
    pub cell: u32,
    /// See [`LabelRule`].
    pub rule: LabelRule,
}

impl Superpixels {
    /// The three canvases.
    pub fn canvases(&self) -> [CanvasId; 3] {
        [self.probabilities, self.picture, self.colours]
    }
}
