//! Every numeric limit of the program, with its reason. No other file holds one.

/// Longest side of a picture in or out, pixels: libvips' coordinate cap is 10^8; ours is lower so
/// that `width * channels * 4` always fits 32 bits.
pub const MAX_SIDE: u64 = 1 << 24;
/// Most pixels of an input picture: 4 gigapixels.
pub const MAX_INPUT_PIXELS: u64 = 1 << 32;
/// Most pixels of an output picture: 64 gigapixels.
pub const MAX_OUTPUT_PIXELS: u64 = 1 << 36;
/// JPEG's own limit for a side, pixels.
pub const MAX_JPEG_SIDE: u64 = 65_535;
/// WebP's own limit for a side, pixels.
pub const MAX_WEBP_SIDE: u64 = 16_383;
/// The picture of the highest level AV1 defines (6.2): most pixels across, down, and in all.
pub const MAX_AVIF: (u64, u64, u64) = (16_384, 8_704, 35_651_584);
/// Bytes the AVIF encoder holds for each pixel at its peak: an allowance, not measured.
pub const AVIF_PIXEL_BYTES: u64 = 64;
/// Largest memory an encoder may take for one picture that can't be written by rows, bytes.
pub const MAX_ENCODE_BYTES: u64 = 4 << 30;
/// Largest ICC profile carried, bytes; larger ones are metadata bombs.
pub const MAX_ICC_BYTES: usize = 4 << 20;
/// Largest EXIF block read, bytes.
pub const MAX_EXIF_BYTES: usize = 1 << 20;
/// Largest memory a decoder may take for one picture that can't be read by rows, bytes.
pub const MAX_DECODE_BYTES: u64 = 16 << 30;
/// Largest decoded picture that stays in memory where there is a spool for larger ones, bytes.
pub const DECODED_IN_MEMORY: u64 = 64 << 20;
/// Most bytes in files at once, beside the picture, of a mode of the autoencoder that nobody asked for by name.
pub const AUTO_FILES: u64 = 16 << 30;
/// Bytes of the buffer in which a part of a picture is turned by 90 degrees.
pub const TURNING_BUFFER: u64 = 16 << 20;
/// Most scans of a progressive JPEG: each walks the whole picture, so many of them are a bomb.
/// Encoders write about ten.
pub const MAX_JPEG_SCANS: usize = 100;
/// Memory the PNG decoder may take beside our rows: some rows of the widest picture allowed.
pub const MAX_PNG_DECODER_BYTES: usize = 1 << 30;
/// Longest header of a PGM, PPM or PAM, bytes; comments are the only reason for more than a hundred.
pub const MAX_PNM_HEADER: u64 = 1 << 16;
/// Most bytes of a pipe that are held because their format needs them in another order.
pub const MAX_PIPE_BYTES: u64 = 1 << 30;
/// Most bytes before the first pixels of a PNG that comes through a pipe: profile and EXIF, and what else may be there.
pub const MAX_PIPE_HEAD: u64 = 16 << 20;
/// Largest scale factor accepted.
pub const MAX_SCALE: f64 = 64.0;

/// Largest safetensors header, bytes.
pub const MAX_SAFETENSORS_HEADER: u64 = 16 << 20;
/// Most tensors in one safetensors file.
pub const MAX_TENSORS: usize = 65_536;
/// Longest tensor name, bytes.
pub const MAX_TENSOR_NAME: usize = 512;
/// Highest tensor rank.
pub const MAX_TENSOR_RANK: usize = 8;
/// Most files of one sharded checkpoint.
pub const MAX_SHARDS: usize = 1024;
/// Most tensor names looked at for the nearest one to a missing name, and the largest edit distance
/// worth suggesting: bounds the work of an error message.
pub const MAX_NAME_CANDIDATES: usize = 4096;
/// See [`MAX_NAME_CANDIDATES`].
pub const MAX_NAME_DISTANCE: usize = 24;
/// Largest manifest of shipped models, bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Most files of a model's folder; published ones have some twenty.
pub const MAX_MODEL_FILES: usize = 4096;
/// Largest journal of an unfinished picture, bytes: a line a row of windows at most, and there are at most
/// [`MAX_SIDE`] of those.
pub const MAX_JOURNAL_BYTES: u64 = 1 << 30;
/// Bytes of a kept run that `tessera bench` reads: some hundred thousand figures.
pub const MAX_BENCH_BYTES: u64 = 64 << 20;
/// Largest config.json, bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Most resolution levels of a network, and most layers of one level: published networks have 4 and 3;
/// the product bounds the graph that a hostile config can ask for.
pub const MAX_NETWORK_LEVELS: usize = 12;
/// See [`MAX_NETWORK_LEVELS`].
pub const MAX_LEVEL_LAYERS: u32 = 64;
/// Most tokens of a text encoder or image tower; published ones have 77 and 257.
pub const MAX_POSITIONS: u64 = 1 << 16;
/// Most tokens a tokenizer and a text encoder may know; published ones know 49,408.
pub const MAX_VOCABULARY: u64 = 1 << 20;
/// Largest vocab.json, and largest merges.txt, of a tokenizer, bytes: published ones have 1 MB and 0.5 MB.
pub const MAX_VOCABULARY_BYTES: u64 = 16 << 20;
/// Most tokens added to a tokenizer's vocabulary: a text is searched for each of them at each place.
pub const MAX_ADDED_TOKENS: usize = 1024;
/// Longest text a tokenizer takes, bytes: a hundred times what 77 tokens can say, and little enough that a text
/// of one endless word is merged in a moment.
pub const MAX_PROMPT_BYTES: usize = 1 << 16;
/// Most problems listed one by one in one error; the rest is counted.
pub const MAX_LISTED: usize = 20;
/// Most bytes of foreign text (a name, a value of a config) repeated in one error.
pub const MAX_QUOTED: usize = 128;

/// Most samples of one picture: their files are open at once while they are compared.
pub const MAX_SAMPLES: u32 = 256;
/// Most windows of one launch.
pub const MAX_BATCH: u32 = 64;
/// Largest window side, pixels: beyond it values pass 2^31 elements in every published network.
pub const MAX_TILE: u32 = 4096;
/// Most host threads.
pub const MAX_THREADS: usize = 1024;
/// Most training steps of a noise schedule; published ones have 1000.
pub const MAX_TRAIN_STEPS: u32 = 1 << 20;

/// Most elements of one graph value: indices stay within i32 on every backend.
pub const MAX_VALUE_ELEMENTS: u64 = (1 << 31) - 1;
/// Most nodes of one graph.
pub const MAX_NODES: usize = 1 << 20;
/// Most channels of one graph value.
pub const MAX_CHANNELS: u64 = 1 << 20;
/// Most workgroups (blocks) per grid dimension; grids fold into two dimensions above it. wgpu grants no more in
/// any, CUDA no more in the second.
pub const MAX_GRID_DIM: u32 = 65_535;
/// Most bindings of one kernel.
pub const MAX_BINDINGS: usize = 9;
/// Most storage bindings of one shader (the WebGPU default limit).
pub const WGPU_BINDINGS: usize = 8;
/// Largest f16, above which a narrowing store sets the status bit.
pub const F16_MAX: f32 = 65_504.0;
/// Floating-point operations of one submission to a wgpu device: 50 ms at 0.4 TFLOP/s, far below the 2 s
/// after which desktop systems reset a graphics card.
pub const WGPU_SEGMENT_FLOPS: u64 = 20_000_000_000;
/// Bytes moved by one submission: 50 ms at 80 GB/s.
pub const WGPU_SEGMENT_BYTES: u64 = 4 << 30;
/// Longest wait for a submission, seconds: a software rasteriser takes minutes for what a card does in
/// milliseconds.
pub const WGPU_WAIT_SECONDS: u64 = 1_800;
/// Share of the memory that a driver grants wgpu, percent, above which allocations are refused: the rest is
/// headroom for other programs.
pub const WGPU_BUDGET_PERCENT: u8 = 95;
/// Bytes of the read-back buffer, and of uploads in flight, of a wgpu device.
pub const WGPU_STAGING_BYTES: u64 = 4 << 20;

/// Oldest CUDA version of a driver that is used, 1000 times the major plus 10 times the minor number: 12.0, the
/// 525 drivers. All functions called are older; earlier drivers were never looked at.
pub const CUDA_MIN_DRIVER: u32 = 12_000;
/// Oldest major compute capability: 8, Ampere, the first with asynchronous copies and bf16.
pub const CUDA_MIN_CAPABILITY: u32 = 8;
/// Most bytes of shared memory a block of a kernel may ask for: what the smallest cards from Ampere on grant
/// (compute capability 8.6, 8.9 and 12.x: 99 KiB).
pub const CUDA_MAX_SHARED: u32 = 99 << 10;
/// The same of kernels for compute capability 9.0 alone.
pub const CUDA_MAX_SHARED_HOPPER: u32 = 227 << 10;
/// Bytes of dynamic shared memory that a kernel may have without asking for them.
pub const CUDA_PLAIN_SHARED: u32 = 48 << 10;
/// Floating-point operations of one segment of a list on a CUDA device: 50 ms at 4 TFLOP/s.
pub const CUDA_SEGMENT_FLOPS: u64 = 200_000_000_000;
/// Bytes moved by one segment: 50 ms at 160 GB/s, the slowest cards from Ampere on.
pub const CUDA_SEGMENT_BYTES: u64 = 8 << 30;
/// Longest wait for two segments, seconds: meant to be 50 ms each, so a kernel that takes this long hangs.
pub const CUDA_WAIT_SECONDS: u64 = 120;
/// Bytes of the pinned memory that transfers go through.
pub const CUDA_STAGING_BYTES: u64 = 16 << 20;
/// Bytes of each of the two pinned buffers through which weights are uploaded while kernels run.
pub const CUDA_BESIDE_BYTES: u64 = 8 << 20;
