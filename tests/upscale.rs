//! The main job end to end, with a tiny model of random weights that is made on the spot.

use crate::{interpreter, tolerance};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tessera::Kind;
use tessera::graph::DType;
use tessera::image::{self, Colour, Depth, Format, Header};
use tessera::run::{
    Cancel, Engine, Observer, Progress, Report, Silent, Size, TileOrder, UpscaleOptions, upscale, upscale_with,
};
use tessera::system::onestep::{Conditioning, OneStep, Shaping};

const INDEX: &str = r#"{"_class_name":"OneStepSuperResolution","timestep":999,"prediction_type":"v_prediction",
    "num_inference_steps":1,"add_noise":false,"latent":"mean * scaling_factor","residual":{"base":"bicubic","gain":1.0},
    "conditioning":{"planes":["noise_strength","jpeg_strength","inverse_scale"]},
    "vae_modes":{"tile_psnr":{"1":60}}}"#;
const VAE: &str = r#"{"_class_name":"AutoencoderKL","block_out_channels":[8,16],"down_block_types":["DownEncoderBlock2D",
    "DownEncoderBlock2D"],"up_block_types":["UpDecoderBlock2D","UpDecoderBlock2D"],"latent_channels":5,
    "norm_num_groups":2,"layers_per_block":1,"mid_block_add_attention":false,"scaling_factor":0.7,"act_fn":"silu"}"#;
const UNET: &str = r#"{"_class_name":"UNet2DConditionModel","in_channels":8,"out_channels":5,"block_out_channels":[16],
    "down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"],"mid_block_type":null,"layers_per_block":1,
    "norm_num_groups":2,"cross_attention_dim":8,"attention_head_dim":8,"act_fn":"silu"}"#;
const SCHEDULER: &str = r#"{"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",
    "num_train_timesteps":1000,"prediction_type":"v_prediction","clip_sample":false}"#;

/// A value for element `i` of the tensor `name`: small around zero, norms' weights around one.
fn element(name: &str, i: usize, fan: u64) -> f32 {
    let mut h = name.bytes().fold(i as u32 ^ 0x51ed, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 12;
    let v = (h & 0xffff) as f32 / 32_768.0 - 1.0;
    let norm = name.contains("norm") && name.ends_with(".weight");
    if norm { 1.0 + 0.2 * v } else { v * (3.0 / fan as f32).sqrt() }
}

/// Writes the model's folder; tensors whose name contains the text of `blown` are multiplied by its factor.
pub(crate) fn model(folder: &Path, blown: Option<(&str, f32)>) -> OneStep {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("folder");
        std::fs::write(path, text).expect("written");
    };
    put("model_index.json", INDEX);
    put("vae/config.json", VAE);
    put("unet/config.json", UNET);
    put("scheduler/scheduler_config.json", SCHEDULER);
    let model = OneStep::open(folder).expect("configs");
    let graph = model.graph(1, 64, 64, 1, DType::F32).expect("graph");
    for part in ["vae", "unet"] {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for w in &graph.weights {
            let Some(name) = w.name.strip_prefix(part).and_then(|n| n.strip_prefix('.')) else { continue };
            let fan = w.shape.iter().skip(1).product::<u64>().max(1);
            let gain = blown.filter(|(b, _)| name.contains(b)).map_or(1.0, |b| b.1);
            let values = (0..w.shape.iter().product::<u64>() as usize).map(|i| gain * element(&w.name, i, fan));
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            tensors.push((name.to_owned(), w.shape.iter().map(|&d| d as usize).collect(), bytes));
        }
        let views: Vec<(&str, safetensors::tensor::TensorView<'_>)> = tensors
            .iter()
            .map(|(n, s, b)| {
                (n.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), b).expect("view"))
            })
            .collect();
        let path = folder.join(part).join("diffusion_pytorch_model.safetensors");
        safetensors::serialize_to_file(views, None, &path).expect("weights");
    }
    model
}

/// Writes a picture whose samples are smooth with an edge and some texture.
pub(crate) fn picture(path: &Path, width: u64, height: u64, colour: Colour, depth: Depth) {
    let header = Header { width, height, colour, depth, icc: None, format: Format::Png, notes: Vec::new() };
    let mut sink = image::create(path, &header, true).expect("sink");
    let mut row = vec![0.0f32; header.row_len()];
    for y in 0..height {
        for (i, v) in row.iter_mut().enumerate() {
            let (x, c) = ((i / colour.channels()) as f32, (i % colour.channels()) as f32);
            let y = y as f32;
            let edge = if (x - 20.0).hypot(y - 15.0) < 11.0 { 0.4 } else { 0.0 };
            *v = (0.2 + 0.3 * x / width as f32 + 0.1 * (y * (0.4 + 0.1 * c)).sin().abs() + edge).clamp(0.0, 1.0);
        }
        sink.write_row(&row).expect("row");
    }
    sink.finish().expect("finished");
}

fn read(path: &Path) -> (Header, Vec<f32>) {
    let mut source = image::open(path).expect("opens");
    let header = source.header().clone();
    let mut all = vec![0.0f32; header.row_len() * header.height as usize];
    all.chunks_exact_mut(header.row_len()).for_each(|row| source.read_row(row).expect("row"));
    (header, all)
}

/// A folder with a model and a picture, and an engine.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    model: OneStep,
    pub(crate) engine: Engine,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let folder = tempfile::tempdir().expect("folder");
        let model = model(&folder.path().join("model"), None);
        Bench { folder, model, engine: Engine::open("cpu", None).expect("cpu") }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn options(&self, input: &str, size: Size) -> UpscaleOptions {
        let mut options = UpscaleOptions::new(self.at(input), size);
        options.model = Some(self.at("model"));
        options.output = Some(self.at("out.png"));
        options.overwrite = true;
        options.device = "cpu".into();
        options
    }

    pub(crate) fn run(&mut self, options: &UpscaleOptions) -> Report {
        upscale_with(&mut self.engine, options, &mut Silent, &Cancel::new()).expect("upscaled")
    }
}

#[test]
fn the_job_computes_what_the_model_says() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 23, 17, Colour::Rgb, Depth::Sixteen);
    let mut options = bench.options("in.png", Size::Scale(2.5));
    (options.noise, options.jpeg) = (0.3, 0.1);
    let report = bench.run(&options);
    assert_eq!((report.output, report.windows, report.tile), ((58, 43), 1, (64, 64)));

    // The same by hand: bicubic, mirrored to 64 x 64, the graph evaluated naively in f64, cropped, clamped.
    let (_, small) = read(&bench.at("in.png"));
    let large = image::resample::resize(&small, (23, 17), (58, 43), 3).expect("resized");
    let mirror = |i: usize, n: usize| if i < n { i } else { 2 * (n - 1) - i };
    let mut window = Vec::new();
    for (y, x) in (0..64).flat_map(|y| (0..64).map(move |x| (y, x))) {
        let at = (mirror(y, 43) * 58 + mirror(x, 58)) * 3;
        window.extend(large[at..at + 3].iter().map(|v| 2.0 * v - 1.0));
    }
    let planes: Vec<f32> = [0.3, 0.1, (1.0 / report.scale) as f32].repeat(32 * 32);
    let graph = bench.model.graph(1, 64, 64, 1, DType::F32).expect("graph");
    let inputs = HashMap::from([
        ("window".to_owned(), window),
        ("planes".to_owned(), planes),
        ("unet.timestep".to_owned(), vec![999.0]),
    ]);
    let weights = |name: &str| -> Vec<f32> {
        let w = graph.weights.iter().find(|w| w.name == name).expect("declared");
        let fan = w.shape.iter().skip(1).product::<u64>().max(1);
        (0..w.shape.iter().product::<u64>() as usize).map(|i| element(name, i, fan)).collect()
    };
    let values = interpreter::run(&graph, &weights, &inputs, &[interpreter::Rows::default()]);
    let result = &values["result"];
    let (header, got) = read(&bench.at("out.png"));
    assert_eq!((header.width, header.height, header.depth), (58, 43, Depth::Sixteen));
    let mut worst = 0.0f64;
    for (i, v) in got.iter().enumerate() {
        let (y, x, c) = (i / 3 / 58, i / 3 % 58, i % 3);
        let want = result[(y * 64 + x) * 3 + c].clamp(0.0, 1.0);
        worst = worst.max((want - f64::from(*v)).abs());
    }
    assert!(worst < tolerance::UPSCALE_F32, "{worst}");
    let bicubic: f64 = got.iter().zip(&large).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / got.len() as f64;
    assert!(bicubic > tolerance::UPSCALE_CHANGE, "the network changes the picture: {bicubic}");
}

#[test]
fn bytes_depend_neither_on_batch_nor_on_order() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 100, 61, Colour::Rgb, Depth::Eight);
    let mut options = bench.options("in.png", Size::Scale(2.2));
    (options.tile, options.overlap) = (Some(64), Some(16));
    let first = bench.run(&options);
    assert_eq!(first.output, (220, 134));
    assert_eq!(first.windows, 5 * 3);
    let want = std::fs::read(bench.at("out.png")).expect("written");
    for (batch, order) in [
        (1, TileOrder::Natural),
        (1, TileOrder::Reversed),
        (2, TileOrder::Natural),
        (2, TileOrder::Shuffled(9)),
        (4, TileOrder::Natural),
        (4, TileOrder::Shuffled(2)),
        (7, TileOrder::Reversed),
    ] {
        (options.batch, options.tile_order) = (Some(batch), order);
        let report = bench.run(&options);
        let got = std::fs::read(bench.at("out.png")).expect("written");
        assert!(got == want, "batch {batch}, {order:?}");
        assert_eq!(report.allocations.device_before, report.allocations.device_after);
        if order == TileOrder::Natural {
            assert_eq!(report.allocations.host_growths, 0);
        }
    }
}

#[test]
fn a_second_picture_finds_everything_warm() {
    let mut bench = Bench::new();
    picture(&bench.at("a.png"), 90, 80, Colour::Rgb, Depth::Eight);
    picture(&bench.at("b.png"), 70, 85, Colour::Gray, Depth::Eight);
    for name in ["a.png", "b.png", "a.png"] {
        let mut options = bench.options(name, Size::Scale(2.0));
        options.tile = Some(128);
        bench.run(&options);
    }
    assert_eq!(bench.engine.executors_made(), 1, "one plan and one set of weights serve all three");
}

#[test]
fn nothing_of_a_picture_is_lost() {
    let mut bench = Bench::new();
    for (colour, depth, size, want) in [
        (Colour::Gray, Depth::Eight, Size::Scale(1.0), (37, 29)),
        (Colour::GrayAlpha, Depth::Sixteen, Size::Width(100), (100, 78)),
        (Colour::Rgba, Depth::Eight, Size::Height(91), (116, 91)),
        (Colour::Rgba, Depth::Sixteen, Size::Both(60, 61), (60, 61)),
    ] {
        picture(&bench.at("in.png"), 37, 29, colour, depth);
        let options = bench.options("in.png", size);
        let report = bench.run(&options);
        assert_eq!(report.output, want);
        let (header, got) = read(&bench.at("out.png"));
        assert_eq!((header.width, header.height, header.colour, header.depth), (want.0, want.1, colour, depth));
        if colour.has_alpha() {
            // Alpha is the bicubic enlargement of alpha, rounded.
            let (_, small) = read(&bench.at("in.png"));
            let large = image::resample::resize(&small, (37, 29), want, colour.channels()).expect("resized");
            let n = colour.channels();
            for (g, w) in got.iter().zip(&large).skip(n - 1).step_by(n) {
                assert!((g - w.clamp(0.0, 1.0)).abs() <= tolerance::STORED_STEPS / depth.max(), "{g} {w}");
            }
        }
    }
}

#[test]
fn the_same_size_is_a_copy_unless_something_is_to_be_removed() {
    let mut bench = Bench::new();
    for (colour, depth) in [(Colour::Gray, Depth::Eight), (Colour::Rgb, Depth::Eight), (Colour::Rgba, Depth::Sixteen)] {
        picture(&bench.at("in.png"), 37, 29, colour, depth);
        let mut options = bench.options("in.png", Size::Scale(1.0));
        let report = bench.run(&options);
        assert_eq!((report.output, report.windows), ((37, 29), 0));
        assert!(read(&bench.at("out.png")).1 == read(&bench.at("in.png")).1, "{colour:?} is not its own copy");
        options.noise = 0.5;
        assert!(bench.run(&options).windows > 0);
        assert!(
            read(&bench.at("out.png")).1 != read(&bench.at("in.png")).1,
            "{colour:?}: the network changes something"
        );
    }
}

#[test]
fn tiny_pictures_work() {
    let mut bench = Bench::new();
    for (w, h) in [(1, 1), (1, 70), (3, 2)] {
        picture(&bench.at("in.png"), w, h, Colour::Rgb, Depth::Eight);
        let mut options = bench.options("in.png", Size::Scale(3.0));
        options.tile = Some(64);
        let report = bench.run(&options);
        assert_eq!(report.output, (3 * w, 3 * h));
    }
}

/// Cancels after some launches.
struct Stopper {
    cancel: Cancel,
    after: u64,
    last: u64,
}

impl Observer for Stopper {
    fn progress(&mut self, p: &Progress<'_>) {
        if p.total > 0 {
            assert!(p.done > self.last && p.done <= p.total && p.left.is_some());
            self.last = p.done;
            if p.done == self.after {
                self.cancel.cancel();
            }
        }
    }

    fn note(&mut self, _: &str) {}
}

#[test]
fn a_cancelled_job_ends_at_the_next_launch_and_leaves_nothing() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 90, 80, Colour::Rgb, Depth::Eight);
    let mut options = bench.options("in.png", Size::Scale(2.0));
    options.tile = Some(64);
    let cancel = Cancel::new();
    let mut stopper = Stopper { cancel: cancel.clone(), after: 3, last: 0 };
    let e = upscale_with(&mut bench.engine, &options, &mut stopper, &cancel).expect_err("cancelled");
    assert_eq!((e.kind(), stopper.last), (Kind::Cancelled, 3));
    assert!(!bench.at("out.png").exists());
    let left: Vec<_> =
        std::fs::read_dir(bench.folder.path()).expect("folder").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 2, "only the model and the picture: {left:?}");
}

#[test]
fn a_dry_run_only_says_what_it_would_do() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 300, 200, Colour::Rgb, Depth::Eight);
    let mut options = bench.options("in.png", Size::Scale(4.0));
    options.dry_run = true;
    let report = bench.run(&options);
    assert!(report.dry_run && report.windows > 1 && report.flops > 0 && report.device_bytes > 0);
    assert!(!bench.at("out.png").exists());
}

#[test]
fn a_budget_holds_and_one_too_small_names_the_smallest_that_works() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 300, 200, Colour::Rgb, Depth::Eight);
    let mut options = bench.options("in.png", Size::Scale(4.0));
    options.dry_run = true;
    let free = bench.run(&options);
    options.vram = Some(free.device_bytes - 1);
    let less = bench.run(&options);
    assert!(less.tile.0 < free.tile.0 && less.device_bytes < free.device_bytes);
    assert!(less.notes.iter().any(|n| n.contains("memory allowed")), "{:?}", less.notes);
    options.vram = Some(1000);
    let e = upscale_with(&mut bench.engine, &options, &mut Silent, &Cancel::new()).expect_err("too small");
    assert_eq!(e.kind(), Kind::Memory);
    let advice = e.advice().expect("advice");
    let smallest: u64 = advice
        .split("--vram ")
        .nth(1)
        .and_then(|s| s.split("MiB").next())
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("{advice}"));
    options.vram = Some(smallest << 20);
    assert!(bench.run(&options).device_bytes <= smallest << 20);
}

#[test]
fn values_that_are_not_finite_are_an_error_with_a_position() {
    let mut bench = Bench::new();
    model(&bench.at("model"), Some(("decoder.conv_", 1e30)));
    picture(&bench.at("in.png"), 40, 40, Colour::Rgb, Depth::Eight);
    let options = bench.options("in.png", Size::Scale(2.0));
    let e = upscale_with(&mut bench.engine, &options, &mut Silent, &Cancel::new()).expect_err("overflows");
    assert_eq!(e.kind(), Kind::NonFinite, "{e}");
    assert!(e.message().contains("window 1 of 1 (row 0, column 0)"), "{e}");
    assert!(!bench.at("out.png").exists());
}

#[test]
fn senseless_jobs_are_refused_by_kind() {
    let bench = Bench::new();
    picture(&bench.at("in.png"), 40, 40, Colour::Rgb, Depth::Eight);
    let fine = bench.options("in.png", Size::Scale(2.0));
    let check = |change: &dyn Fn(&mut UpscaleOptions), kind: Kind| {
        let mut options = fine.clone();
        change(&mut options);
        let e = upscale(&options, &mut Silent, &Cancel::new()).expect_err("refused");
        assert_eq!(e.kind(), kind, "{e}");
    };
    check(&|o| o.size = Size::Scale(0.5), Kind::Usage);
    check(&|o| o.size = Size::Scale(f64::NAN), Kind::Usage);
    check(&|o| o.noise = 2.0, Kind::Usage);
    check(&|o| o.system = Some("nosuch".into()), Kind::Usage);
    check(&|o| o.device = "cuda:99".into(), Kind::Device);
    check(&|o| o.device = "wgpu:99".into(), Kind::Device);
    check(&|o| o.tile = Some(33), Kind::Usage);
    check(&|o| (o.tile, o.overlap) = (Some(64), Some(64)), Kind::Usage);
    check(&|o| o.batch = Some(0), Kind::Usage);
    check(&|o| o.input = "no/such/file.png".into(), Kind::BadInput);
    check(&|o| o.model = Some("no/such/model".into()), Kind::Weights);
    check(&|o| o.threads = Some(0), Kind::Usage);
    let mut same = fine.clone();
    same.output = Some(bench.at("in.png"));
    assert!(upscale(&same, &mut Silent, &Cancel::new()).is_err());
}

#[test]
fn networks_of_the_published_size_go_the_same_way() {
    let folder = tempfile::tempdir().expect("folder");
    model(folder.path(), None);
    let wide = |text: &str| text.replace('\n', "");
    let vae = r#"{"_class_name":"AutoencoderKL","act_fn":"silu","block_out_channels":[128,256,512,512],
        "down_block_types":["DownEncoderBlock2D","DownEncoderBlock2D","DownEncoderBlock2D","DownEncoderBlock2D"],
        "in_channels":3,"latent_channels":4,"layers_per_block":2,"norm_num_groups":32,"out_channels":3,"sample_size":768,
        "up_block_types":["UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D"]}"#;
    let unet = r#"{"_class_name":"UNet2DConditionModel","act_fn":"silu","attention_head_dim":[5,10,20,20],
        "block_out_channels":[320,640,1280,1280],"center_input_sample":false,"cross_attention_dim":1024,
        "down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D","DownBlock2D"],
        "downsample_padding":1,"flip_sin_to_cos":true,"freq_shift":0,"in_channels":4,"layers_per_block":2,
        "mid_block_scale_factor":1,"norm_eps":1e-05,"norm_num_groups":32,"out_channels":4,"sample_size":64,
        "up_block_types":["UpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D"],
        "use_linear_projection":true}"#;
    let index = r#"{"_class_name":"OneStepSuperResolution","timestep":999}"#;
    for (name, text) in [
        ("vae/config.json", wide(vae)),
        ("unet/config.json", wide(unet)),
        ("model_index.json", index.to_owned()),
        ("scheduler/scheduler_config.json", SCHEDULER.replace("v_prediction", "epsilon")),
    ] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let prompt = folder.path().join("prompt");
    std::fs::create_dir(&prompt).expect("folder");
    let bytes = vec![0u8; 77 * 1024 * 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 77, 1024], &bytes).expect("view");
    safetensors::serialize_to_file([("encoder_hidden_states", view)], None, &prompt.join("embeddings.safetensors"))
        .expect("prompt");
    let model = OneStep::open(folder.path()).expect("configs");
    assert_eq!((model.stride(), model.residual), (64, false));
    let shaping = Shaping { tile: 512, fitted: false, overlap: 64, batch: 1, dtype: DType::F16 };
    let conditioning = Conditioning { noise: 0.0, jpeg: 0.0, scale: 4.0, cascaded: false };
    let program = model.program([1024, 1536], &conditioning, &shaping).expect("program");
    let caps = tessera::abi::Caps::wgpu_default();
    let plan = tessera::plan::compile(program.graphs[0].clone(), &caps).expect("plan");
    // Encoder, UNet and decoder at 512 x 512: 1117 + 804 + 2515 GFLOP, less what the folded upsampling saves.
    let giga = plan.cost.flops as f64 / 1e9;
    assert!((3500.0..4500.0).contains(&giga), "{giga} GFLOP");
    let parameters = tessera::model::parameters(&program.graphs[0]);
    assert_eq!(parameters, 865_910_724 + 83_653_863);
}
