//! Every tolerance of the integration tests, with its reason.

use tessera::abi::Stem;
use tessera::graph::DType;

/// Relative L2 error of a network evaluated in f64 against PyTorch in f64. What differs is the time
/// embedding: PyTorch computes its frequencies and angles in f32 (one unit in the last place of an angle
/// near 1000 is 6e-5, and a network passes on a hundredth of it), and the reference outputs are stored in
/// f32 (6e-8).
pub(crate) const NETWORK_F64: f64 = 2e-6;

/// Relative L2 error of a network on the cpu backend in f32 against PyTorch in f64: the above, and the f32
/// roundings of some fifty layers. Measured: 9e-7 at most.
pub(crate) const NETWORK_F32: f64 = 3e-6;

/// Largest difference of a few ops in a row in f32 from f64, as a part of the largest value: sums of up to 200
/// products, twice in a row.
pub(crate) const OPS_F32: f64 = 1e-5;

/// The same stored in f16: a rounding of 2^-11 after each of some five ops.
pub(crate) const OPS_F16: f64 = 8e-3;

/// Relative L2 difference of a network in f32 whose input was rounded to f16: 2^-11 of each value, passed on.
pub(crate) const NETWORK_F16_INPUT: f64 = 2.5e-3;

/// Relative L2 error of a network with activations and weights stored in f16, as a part of the error that
/// PyTorch makes when it runs the same network in bf16: f16 keeps three bits more, so an eighth for equal
/// roundings, and the engine rounds less often, since what is fused is not stored.
pub(crate) const NETWORK_F16_OF_BF16: f64 = 0.35;

/// The same stored in bf16: no worse than PyTorch, up to the chance that lies in so few roundings.
pub(crate) const NETWORK_BF16_OF_BF16: f64 = 1.25;

/// Relative L2 error of CLIP's towers evaluated in f64 against transformers in f64: there is no time embedding,
/// so only the outputs' storage in f32 (6e-8) and the embeddings' sum in f32 are left.
pub(crate) const CLIP_F64: f64 = 2e-7;

/// Difference of a scheduler's coefficients in f64 from those of diffusers' own code run in f64, relative or
/// absolute, whichever is larger: both multiply a thousand factors, in another order of operations, and the
/// coefficients are differences that cancel two digits at most.
pub(crate) const SCHEDULE: f64 = 1e-12;

/// Largest difference, relative to the largest value, of a fused graph from the plain one, both in f64: a few
/// roundings of 1e-16, which normalisations of nearly constant values may amplify a thousandfold.
pub(crate) const FUSION_F64: f64 = 1e-11;
/// Difference of a function in f64 from a table that prints 12 digits, of values up to 1.
pub(crate) const TABLE_OF_12_DIGITS: f64 = 1e-11;

/// Allowed error of one value: `relative * |expected| + absolute * (largest |expected| of the output)`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Part that scales with the value.
    pub relative: f64,
    /// Part that scales with the output's largest value: sums cancel, so small results of large terms
    /// carry the error of the terms.
    pub absolute: f64,
}

/// What a kernel of `stem` may differ from the f64 reference when it stores `y`.
pub fn kernel(stem: Stem, y: DType) -> Tolerance {
    // Rounding of the store: half a unit in the last place, doubled for a value next to a tie.
    let store = match y {
        DType::F32 => 2f64.powi(-23),
        DType::F16 => 2f64.powi(-10),
        DType::Bf16 => 2f64.powi(-7),
    };
    // f32 arithmetic inside.
    let inside = match stem {
        // Sums of up to 3,000 products in f32, in any order, or through a Winograd transform.
        Stem::Conv2d | Stem::Gemm => 1e-5,
        // Two products and an exponential whose argument is a sum of up to 512 products; a score of 40
        // carries 40 times the rounding of a score of 1.
        Stem::Attention => 5e-5,
        // Sums of 256 values; `far from zero` cancels two digits of the mean in M2.
        Stem::GroupNormStats => 2e-5,
        // Merges hundreds of partials; b = bias - mean * a cancels.
        Stem::NormFinalize => 2e-5,
        // One multiply-add and an exponential of at most a few units in the last place.
        Stem::NormApply | Stem::Pointwise | Stem::Modulate => 2e-6,
        // Sums of up to 40 weighted neighbours in f32.
        Stem::Resample => 5e-6,
        // A move rounds nothing but at the store, below 2^-14 to f16's multiples of 6e-8.
        Stem::Rearrange => 1e-7,
        // Values near 60 with spread 1: the mean's rounding is 60 * 2^-24 times the factor 1 / spread.
        Stem::LayerNorm => 2e-5,
        // sin and cos of arguments near 1000: one unit in the last place of the argument is 6e-5, and the
        // frequency itself is an exponential rounded to f32.
        Stem::TimeEmbedding => 5e-4,
    };
    Tolerance { relative: store + inside, absolute: inside }
}

/// What attention on tensor cores may differ beyond [`kernel`], as a part of the largest value: the exponentials
/// are rounded to the half type `x` (up to 2^-11 or 2^-8 of each) before they meet the values, and so is a sum of
/// values of either sign, whose own size is that of such a random sum.
pub fn rounded_exponentials(x: DType) -> f64 {
    match x {
        DType::F32 => 0.0,
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

/// What a product of f32 through tf32 may differ beyond [`kernel`], as a part of the largest value: both factors of each
/// product are rounded by up to 2^-11, by 0.4 of that on average. In a sum of products of either sign the errors are 0.6 * 2^-11
/// of such a sum's size, the largest four times that, and the largest sum is three times its size. Factors cut off, not
/// rounded, all err towards zero: 1.4 times this for the largest sum.
pub const TF32: f64 = 1.0 / 2048.0;

/// Levels by which a flat picture of any size may leave its colour in the stages that ship: what a network of this size leaves
/// of a constant, over three stages.
pub const FLAT_LEVELS: u8 = 4;

/// JPEG samples of two decoders, in steps of 255: their inverse transforms round differently by one
/// step, the conversion from YCbCr adds one, and chroma is interpolated by other filters.
pub const JPEG_DECODERS: u64 = 6;

/// Lossy WebP samples of two decoders, in steps of 255: the format fixes the planes bit for bit, chroma is
/// interpolated and converted with rounding of at most one step each.
pub const WEBP_DECODERS: u64 = 2;

/// RMS error, in [0, 1], of a smooth picture through JPEG at quality 95: the quantiser's steps there
/// are 1 to 10 of 255, uniform errors of a third of that.
pub const JPEG_95_RMS: f64 = 0.012;

/// Largest difference of an upscaled picture (values 0 to 1, stored in 16 bits) from the graph evaluated in
/// f64: half a step of 1/65535, and the f32 roundings of twenty layers on values around 1.
pub(crate) const UPSCALE_F32: f64 = 2e-5;

/// Largest difference of a toy program computed in f32 by windows from a plain loop over the whole picture
/// in f64, values around 1: sums of up to 72 products, a blend of up to 4 windows, 3 steps that amplify.
pub(crate) const TOYS: f64 = 1e-4;

/// The same, relative to the largest value, where the plain loop divides by sums of exact Gaussian weights:
/// ours are multiples of 1/4096 on each axis, in error by up to 1/8192 of the difference of two windows.
pub(crate) const TOYS_BLEND: f64 = 1e-3;

/// PSNR of the shipped model in f32 against PyTorch in f32, dB: sums in another order over some forty
/// layers leave a few 1e-6 of the range.
pub(crate) const ONESTEP_F32_DB: f64 = 90.0;

/// The same with activations and weights stored as f16: forty roundings of 5e-4 of values near 1, of which
/// the picture sees the residual's share.
pub(crate) const ONESTEP_F16_DB: f64 = 55.0;

/// Least mean difference of an upscaled picture from bicubic that shows the network ran: random weights give
/// several hundredths.
pub(crate) const UPSCALE_CHANGE: f64 = 0.01;

/// Largest difference, in steps of the stored type, of a rounded value: a half, and what f32 adds at 16 bits.
pub(crate) const STORED_STEPS: f32 = 0.51;

/// Least difference that shows that one toy program is not another.
pub(crate) const TOYS_CHANGE: f32 = 1e-3;

/// PSNR between the 8-bit pictures of cpu in f32 and wgpu in f16, dB: values that differ by the f16 error
/// (see above) round to neighbouring levels at a few pixels in a thousand. One level off at every pixel is 48.
pub(crate) const DEVICES_DB: f64 = 65.0;

/// Largest difference, relative to a tensor's largest value, of an adapter merged in f32 from f64: a sum of
/// three products and two roundings of 6e-8 each, of terms a few times the largest value.
pub(crate) const ADAPTER_MERGE: f32 = 1e-6;

/// Relative L2 difference of an encoder or decoder in windows with pooled statistics from the same network over
/// the whole picture, f32: sums in another order. The bar is 1e-4; measured: 3e-6 at most.
pub(crate) const VAE_EXACT: f64 = 1e-4;

/// Mean step across borders of windows over the mean step beside them: that of `exact` over that of `whole` at the same places
/// differs from 1 by no more than this. `whole` has no borders, and values differ by less than [`VAE_EXACT`].
pub(crate) const VAE_EXACT_BORDER: f64 = 1e-4;

/// Two steps of guided MultiDiffusion in f32 on wgpu against cpu, relative L2: the network's own tolerance
/// ([`NETWORK_F32`]) times the steps and the gain of guidance (3), with room for what the steps amplify.
pub(crate) const MULTIDIFFUSION_WGPU_F32: f64 = 3e-5;

/// Relative L2 difference of the shipped decoder with statistics of a sample from the whole picture's. Measured in
/// `docs/vae-modes.md`: a part in 300 at worst. The picture of the test is small and so is its sample: 2.1e-2.
pub(crate) const VAE_SHARED: f64 = 4e-2;

/// Mean step of that difference across borders of windows over the mean step beside them: one, but for the pattern
/// of even and odd rows that doublings leave, and the few borders of a small picture.
pub(crate) const VAE_BORDER: f64 = 1.25;
/// A picture whose windows were all computed again in f32 on wgpu, against cpu, in values of 0 to 1: the sums run in
/// another order, and 16-bit samples round.
pub(crate) const REDONE: f32 = 1e-4;

/// A window computed in f32 instead of f16, in values of 0 to 1: what f16 rounds in a small network.
pub(crate) const ONE_WINDOW_WIDER: f32 = 0.01;

/// Relative L2 difference of a small decoder stored in f16, its windows beyond f16 computed in f32, from f32 throughout:
/// what f16 rounds in some twenty layers ([`NETWORK_F16_OF_BF16`] allows a network as much).
pub(crate) const VAE_WIDER: f64 = 5e-3;

/// PSNR of CasArbi's small sampler in f32 against PyTorch's, dB on [0, 1]: the bar of every sampler. This one repeats a
/// network twelve times, each within [`NETWORK_F32`], on pictures that its noise keeps far from constant.
pub(crate) const CASARBI_F32_DB: f64 = 60.0;

/// The same stored in f16, whose roundings four steps carry on.
pub(crate) const CASARBI_F16_DB: f64 = 35.0;

/// Relative L2 of a CASR job whose autoencoder works on canvases from the same function computed otherwise: f32 sums in
/// another order. Measured 1.2e-7 to 1.6e-7 over one stage and two; windows with statistics of their own are 2e-2 away.
pub(crate) const CASR_LATENT: f64 = 2e-6;
/// PSNR of CASR's small model in f32 against PyTorch's, dB on [0, 1]: the bar of every sampler. The reference is stored in
/// f16, which alone would give 80 dB.
pub(crate) const CASR_F32_DB: f64 = 60.0;

/// What a switch changes lies below this PSNR, dB: a fifth of a grey level, 5 dB from what the reference's f16 hides.
pub(crate) const SWITCHED_DB: f64 = 65.0;

/// The same stored in f16: a label of a superpixel may change where two cells are as likely.
pub(crate) const CASR_F16_DB: f64 = 35.0;

/// Difference of a normalised picture value from (x - mean) / deviation: f32 roundings of a factor and a shift of at most 5.
pub(crate) const PREPARED: f64 = 2e-6;

/// Relative L2 error of a network of a published size in f32, of a hundred layers and more: the bar of `full`.
pub(crate) const NETWORK_FULL_SIZE: f64 = 5e-5;

/// Relative L2 difference that a part of CasArbi (its adapter, another seed) makes at least: far above rounding.
pub(crate) const CASARBI_PART: f64 = 1e-2;

/// PSNR between two samples that differ by a switch, dB: at most this near, or the switch does nothing.
pub(crate) const CASARBI_APART_DB: f64 = 45.0;

/// RMS difference, grey levels, of a result from the same with the enlargement handed over in 16 bits: one of the two is
/// rounded to 8 bits (0.29), and what the enlargement overshoots is cut off.
pub(crate) const SAME_BASE_LEVELS: f64 = 0.5;

/// RMS difference, grey levels, that another way to enlarge makes at least: far above rounding.
pub(crate) const OTHER_BASE_LEVELS: f64 = 2.0;

/// Largest difference of Inception's features in f32 from PyTorch's in f64, as a part of the largest one: sums of up to 288
/// products, three times in a row, and batch norms that were folded into f32 weights.
pub(crate) const INCEPTION_F32: f64 = 2e-6;

/// Relative difference of a SIFID of such features from numpy's of PyTorch's: positions' errors are of either sign and leave the
/// moments nearly as they are; eigenvalues that are zero but for rounding add the root of 1e-16 each.
pub(crate) const SIFID: f64 = 1e-6;

/// The largest step from row to row (or column) at a picture's border over the usual one inside, with one level besides: 0.4 to 1.8 with
/// weights that draw no line there, 13 with some that did.
pub(crate) const BORDER_STEPS: f64 = 3.0;
