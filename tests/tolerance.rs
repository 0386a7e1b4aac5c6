//! Every tolerance of the integration tests, with its reason.

/// Relative L2 error of a network evaluated in f64 against PyTorch in f64. What differs is the time
/// embedding: PyTorch computes its frequencies and angles in f32 (one unit in the last place of an angle
/// near 1000 is 6e-5, and a network passes on a hundredth of it), and the reference outputs are stored in
/// f32 (6e-8).
pub(crate) const NETWORK_F64: f64 = 2e-6;

/// Relative L2 error of a network on the cpu backend in f32 against PyTorch in f64: the above, and the f32
/// roundings of some fifty layers.
pub(crate) const NETWORK_F32: f64 = 1e-5;
