//! Pictures of any size: the output has exactly the size asked for, and every pixel of it is written.

use tessera::image::{self, Colour, Depth, Format, Header};
use tessera::noise::{Key, below};
use tessera::run::{Cancel, Engine, Silent, Size, UpscaleOptions, upscale_with};

/// How many; `tools/nightly` does five hundred.
const COUNT: u32 = 60;
/// Largest sides, pixels.
const SIDES: [u32; 2] = [3000, 17];

/// A side up to `most`, short ones as often as long ones.
fn side(most: u32, i: u32, which: u32) -> u64 {
    let key = Key { seed: 20, stage: 0, purpose: 0, step: which };
    let span = below(key, i, 1 + most.ilog2() + 1);
    u64::from(1 + below(Key { purpose: 1, ..key }, i, (1 << span).min(most)))
}

#[test]
fn outputs_have_exactly_their_size_and_no_pixel_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.png"), folder.path().join("out.png"));
    let mut engine = Engine::open("cpu", None).expect("cpu");
    for i in 0..COUNT {
        let (mut w, mut h) = (side(SIDES[0], i, 0), side(SIDES[1], i, 1));
        match i {
            0 => (w, h) = (1, 1),
            1 => (w, h) = (3000, 17),
            _ if i % 2 == 1 => (w, h) = (h, w),
            _ => {}
        }
        let header = Header {
            width: w,
            height: h,
            colour: Colour::Rgb,
            depth: Depth::Eight,
            icc: None,
            format: Format::Png,
            notes: Vec::new(),
        };
        let mut sink = image::create(&input, &header, true).expect("created");
        // Bright, so that what nobody wrote (0) stands out.
        let row = vec![0.8; header.row_len()];
        (0..h).for_each(|_| sink.write_row(&row).expect("row"));
        sink.finish().expect("finished");
        let scale = 1.0 + f64::from(below(Key { seed: 20, stage: 1, purpose: 0, step: 0 }, i, 140)) / 100.0;
        let mut options = UpscaleOptions::new(&input, Size::Scale(scale));
        // Another size is never the picture itself: with noise to remove even scale 1 goes through the network.
        (options.noise, options.overwrite, options.output) = (0.1, true, Some(output.clone()));
        options.device = "cpu".into();
        upscale_with(&mut engine, &options, &mut Silent, &Cancel::new()).unwrap_or_else(|e| panic!("{w}x{h}: {e}"));
        let mut made = image::open(&output).expect("made");
        let expected = [w, h].map(|side| ((side as f64 * scale).round() as u64).max(1));
        assert_eq!([made.header().width, made.header().height], expected, "{w}x{h} by {scale}");
        let mut row = vec![0.0; made.header().row_len()];
        for y in 0..expected[1] {
            made.read_row(&mut row).expect("row");
            let dark = row.iter().position(|&v| v < 0.4);
            assert!(dark.is_none(), "{w}x{h} by {scale}: value {dark:?} of row {y} is missing");
        }
    }
}
