//! One file per stem: its parameters, a naive f64 reference written from the stem's meaning alone, and a
//! generator of cases. Every backend is held to these by `twin.rs`; nothing here knows a backend.
//!
//! A case holds logical values that are already rounded to their storage types, so that the reference
//! and a kernel start from equal numbers and only arithmetic can differ.

pub mod attention;
pub mod conv2d;
pub mod gemm;
pub mod group_norm_stats;
pub mod layer_norm;
pub mod modulate;
pub mod norm_apply;
pub mod norm_finalize;
pub mod pointwise;
pub mod rearrange;
pub mod resample;
pub mod time_embedding;

use half::{bf16, f16};
use tessera::abi::params::{ACT_GELU, ACT_LEAKY_RELU, ACT_NONE, ACT_QUICK_GELU, ACT_RELU, ACT_SILU};
use tessera::abi::table::WeightForm;
use tessera::abi::{Access, Item, Params, Stem, Types};
use tessera::graph::DType;

/// Content of one binding.
#[derive(Debug, Clone)]
pub enum Operand {
    /// Values in memory order, padding included, and the type they are stored as.
    Data(Vec<f64>, DType),
    /// The very same range as the binding of this index (q, k and v in one tensor).
    Same(usize),
    /// The output: this many elements of this type, poisoned before the run.
    Output(usize, DType),
}

/// One launch with its expected result.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is special about it, for messages.
    pub name: String,
    /// Parameters.
    pub params: Params,
    /// Types.
    pub types: Types,
    /// One per batch element.
    pub items: Vec<Item>,
    /// One entry per binding, absent ones at the end left out; `control` the harness fills from `items`.
    pub operands: Vec<Option<Operand>>,
    /// The weight packed in other forms than the one in `operands` (which is `Kn`).
    pub other_weights: Vec<(WeightForm, Operand)>,
    /// Every element of the first output, pad channels (zeros) included; statistics are held to what that turned out to be.
    pub expected: Vec<f64>,
    /// The values are small integers: a backend must be exactly right.
    pub exact: bool,
    /// The store must set the narrowing bit; values are then not compared.
    pub narrows: bool,
}

/// How values lie in an output: `[..][kinds][width]`. Kinds differ in size (a block's M2 is hundreds of times its mean), so
/// what one may be off by says nothing of another.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Kinds of rows, one after the other.
    pub kinds: usize,
    /// Values of a row.
    pub width: usize,
}

/// Kinds of rows in statistics: count, mean, M2.
pub const MOMENTS: usize = 3;

impl Case {
    /// The case of its first item, where there are several.
    pub fn first_item(&self) -> Option<Case> {
        let mut alone = self.clone();
        let items = match &mut alone.params {
            Params::Conv2d(p) => std::mem::replace(&mut p.n, 1),
            Params::Attention(p) if p.parts & 2 == 0 => std::mem::replace(&mut p.n, 1),
            Params::Gemm(p) => {
                let items = std::mem::replace(&mut p.items, 1);
                p.m /= items;
                items
            }
            _ => 1,
        } as usize;
        for (operand, binding) in alone.operands.iter_mut().zip(self.params.stem().bindings()) {
            // A table has rows that items name.
            let by_item = binding.access == Access::Read && binding.name != "row_bias";
            match operand {
                Some(Operand::Data(values, _)) if by_item => values.truncate(values.len() / items),
                Some(Operand::Output(len, _)) => *len /= items,
                _ => {}
            }
        }
        alone.items.truncate(1);
        alone.expected.truncate(self.expected.len() / items);
        (items > 1).then_some(alone)
    }

    /// How the expected values lie.
    pub fn rows(&self) -> Rows {
        let width = |pitch_x: u32, pitch_x2: u32| (pitch_x + pitch_x2) as usize;
        match &self.params {
            Params::GroupNormStats(p) => Rows { kinds: MOMENTS, width: width(p.pitch_x, p.pitch_x2) },
            // The factor, and what is added.
            Params::NormFinalize(p) => Rows { kinds: 2, width: width(p.pitch_x, p.pitch_x2) },
            _ => Rows { kinds: 1, width: self.expected.len().max(1) },
        }
    }

    /// The operand of binding `index` for a variant that wants its weight in `form`; `None` where the
    /// part is absent.
    pub fn operand(&self, index: usize, form: WeightForm) -> Option<&Operand> {
        let is_weight = self.params.stem().bindings()[index].name == "weight";
        if is_weight && let Some((_, w)) = self.other_weights.iter().find(|(f, _)| *f == form) {
            return Some(w);
        }
        self.operands.get(index)?.as_ref()
    }
}

/// Every case of one stem.
pub fn cases(stem: Stem) -> Vec<Case> {
    match stem {
        Stem::Conv2d => conv2d::cases(),
        Stem::Gemm => gemm::cases(),
        Stem::Attention => attention::cases(),
        Stem::GroupNormStats => group_norm_stats::cases(),
        Stem::NormFinalize => norm_finalize::cases(),
        Stem::NormApply => norm_apply::cases(),
        Stem::LayerNorm => layer_norm::cases(),
        Stem::TimeEmbedding => time_embedding::cases(),
        Stem::Pointwise => pointwise::cases(),
        Stem::Resample => resample::cases(),
        Stem::Rearrange => rearrange::cases(),
        Stem::Modulate => modulate::cases(),
    }
}

/// `c` rounded up to the channel granularity.
pub fn pitch(c: usize) -> usize {
    c.next_multiple_of(8)
}

/// Types of a launch.
pub const fn types(x: DType, w: DType, y: DType) -> Types {
    Types { x, w, y }
}

/// All f32.
pub const F32: Types = types(DType::F32, DType::F32, DType::F32);
/// All f16.
pub const F16: Types = types(DType::F16, DType::F16, DType::F16);
/// f16 in, f32 out: the last layer of a network.
pub const F16_F32: Types = types(DType::F16, DType::F16, DType::F32);
/// f32 in, f16 out: the first layer after a canvas.
pub const F32_F16: Types = types(DType::F32, DType::F16, DType::F16);
/// All bf16 (cpu only).
pub const BF16: Types = types(DType::Bf16, DType::Bf16, DType::Bf16);
/// The type combinations every stem is tried with; a backend skips those it does not store.
pub const TYPES: [Types; 5] = [F32, F16, F16_F32, F32_F16, BF16];

/// Rounds to a storage type.
pub fn round(v: f64, t: DType) -> f64 {
    match t {
        DType::F32 => f64::from(v as f32),
        DType::F16 => f16::from_f64(v).to_f64(),
        DType::Bf16 => bf16::from_f64(v).to_f64(),
    }
}

/// Bytes of `values` stored as `t`.
pub fn encode(values: &[f64], t: DType) -> Vec<u8> {
    match t {
        DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect(),
    }
}

/// Values of `bytes` stored as `t`.
pub fn decode(bytes: &[u8], t: DType) -> Vec<f64> {
    match t {
        DType::F32 => bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        DType::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
    }
}

/// A small counter-based generator: a case is the same on every machine and every run.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Seeded from the case's name.
    pub fn new(name: &str) -> Rng {
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A small integer, -2..=2.
    pub fn int(&mut self) -> f64 {
        (self.next() % 5) as f64 - 2.0
    }

    /// `rows` rows of `c` values in a pitch of `p`, pad channels zero, rounded to `t`: small integers, or
    /// uniform in -scale..scale.
    pub fn matrix(&mut self, rows: usize, c: usize, p: usize, integers: bool, scale: f64, t: DType) -> Vec<f64> {
        let mut out = vec![0.0; rows * p];
        for row in out.chunks_exact_mut(p) {
            for v in &mut row[..c] {
                *v = if integers { self.int() } else { round(self.unit() * scale, t) };
            }
        }
        out
    }
}

/// Activation code of every activation, by name.
pub const ACTS: [(&str, u32); 6] = [
    ("none", ACT_NONE),
    ("silu", ACT_SILU),
    ("gelu", ACT_GELU),
    ("quick_gelu", ACT_QUICK_GELU),
    ("relu", ACT_RELU),
    ("leaky_relu", ACT_LEAKY_RELU),
];

/// The activations in f64.
pub fn act(code: u32, v: f64) -> f64 {
    match code {
        ACT_NONE => v,
        ACT_SILU => v / (1.0 + (-v).exp()),
        ACT_GELU => v * 0.5 * erfc(-v / std::f64::consts::SQRT_2),
        ACT_QUICK_GELU => v / (1.0 + (-1.702 * v).exp()),
        ACT_RELU => v.max(0.0),
        ACT_LEAKY_RELU => v.max(0.0) + 0.1 * v.min(0.0),
        other => panic!("no activation {other}"),
    }
}

/// Complementary error function: Taylor series of erf near zero, Lentz's continued fraction beyond;
/// about 1e-15 relative.
pub fn erfc(x: f64) -> f64 {
    let z = x.abs();
    let tail = if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..=80).rev().fold(z, |f, k| z + f64::from(k) * 0.5 / f);
        (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    if x < 0.0 { 2.0 - tail } else { tail }
}

/// `n` items with different step and context rows (never the item's own index).
pub fn items(n: usize) -> Vec<Item> {
    (0..n)
        .map(|i| Item { step_row: [2, 0, 3][i % 3], ctx_row: [1, 2, 0][i % 3], out_slot: i as u32, ..Item::default() })
        .collect()
}

/// Rows of every table over steps or contexts in the cases: one more than [`items`] refers to.
pub const TABLE_ROWS: usize = 4;

#[test]
fn references_know_the_activations() {
    // Values of erf and the activations from tables with 12 digits.
    let near = |a: f64, b: f64| assert!((a - b).abs() < crate::tolerance::TABLE_OF_12_DIGITS, "{a} {b}");
    near(1.0 - erfc(0.5), 0.520_499_877_813);
    near(1.0 - erfc(-2.0), -0.995_322_265_019);
    near(erfc(3.0), 2.209_049_699_86e-5);
    near(act(ACT_GELU, 1.0), 0.841_344_746_069);
    near(act(ACT_SILU, 1.0), 0.731_058_578_630);
    near(act(ACT_QUICK_GELU, -1.0), -0.154_204_234_067);
    near(act(ACT_RELU, -1.0), 0.0);
    near(act(ACT_LEAKY_RELU, -1.0), -0.1);
}
