//! Every tolerance of the integration tests, with its reason.

/// JPEG samples of two decoders, in steps of 255: their inverse transforms round differently by one
/// step, the conversion from YCbCr adds one, and chroma is interpolated by other filters.
pub const JPEG_DECODERS: u64 = 6;

/// RMS error, in [0, 1], of a smooth picture through JPEG at quality 95: the quantiser's steps there
/// are 1 to 10 of 255, uniform errors of a third of that.
pub const JPEG_95_RMS: f64 = 0.012;
