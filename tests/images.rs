//! Pictures in and out: every format, every kind of damage, and what is on disk after a fault.
//!
//! The files are made by `tools/corpus/make.py`; lossless ones hold the picture of [`value`].

use crate::source;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tessera::fs::fault::{Fault, arm};
use tessera::image::{
    Colour, Depth, Format, Header, check_output, create, open, output_notes, output_resident_bytes, probe,
};
use tessera::{Kind, Result};

use crate::tolerance;

const W: usize = 21;
const H: usize = 13;

/// The sample at (x, y) of channel c, in 0..=top: the formula of the generator.
fn value(x: usize, y: usize, c: usize, top: u64) -> u64 {
    let v = (x * 2749 + y * 4513 + c * 16_411 + (x * y % 11) * 1879) as u64;
    v * 40_503 % 65_536 * top / 65_535
}

fn picture(channels: usize, top: u64, w: usize, h: usize) -> Vec<u64> {
    (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..channels).map(move |c| value(x, y, c, top)))).collect()
}

fn data(name: &str) -> PathBuf {
    source::root().join("tests/data/images").join(name)
}

/// A temporary folder; in memory where the system has such a place, since syncs to a disk take long.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn read(path: &Path) -> Result<(Header, Vec<f32>)> {
    let mut source = open(path)?;
    let header = source.header().clone();
    let mut all = vec![0.0; header.row_len() * header.height as usize];
    for row in all.chunks_exact_mut(header.row_len()) {
        source.read_row(row)?;
    }
    Ok((header, all))
}

/// The samples as integers of the file's own depth.
fn samples(header: &Header, values: &[f32]) -> Vec<u64> {
    values.iter().map(|v| (v * header.depth.max()).round() as u64).collect()
}

fn read_samples(name: &str) -> (Header, Vec<u64>) {
    let (header, values) = read(&data(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let s = samples(&header, &values);
    (header, s)
}

fn expect(name: &str, colour: Colour, depth: Depth, wanted: &[u64]) -> Header {
    let (header, got) = read_samples(name);
    assert_eq!((header.colour, header.depth), (colour, depth), "{name}");
    assert_eq!((header.width, header.height), (W as u64, H as u64), "{name}");
    assert_eq!(got, wanted, "{name}");
    let probed = probe(&data(name)).unwrap();
    assert_eq!((probed.width, probed.height, probed.colour), (header.width, header.height, header.colour));
    header
}

fn noted(header: &Header, word: &str) -> bool {
    header.notes.iter().any(|n| n.contains(word))
}

#[test]
fn png_in_every_colour_and_depth_is_exact() {
    for bits in [1u32, 2, 4, 8, 16] {
        let top = (1u64 << bits) - 1;
        let depth = if bits == 16 { Depth::Sixteen } else { Depth::Eight };
        let widen = if bits < 8 { 255 / top } else { 1 };
        let gray: Vec<u64> = picture(1, top, W, H).iter().map(|v| v * widen).collect();
        expect(&format!("gray{bits}.png"), Colour::Gray, depth, &gray);
        if bits == 1 {
            expect("gray1_interlaced.png", Colour::Gray, depth, &gray);
        }
        if bits >= 8 {
            for (name, colour) in [("gray_alpha", Colour::GrayAlpha), ("rgb", Colour::Rgb), ("rgba", Colour::Rgba)] {
                expect(&format!("{name}{bits}.png"), colour, depth, &picture(colour.channels(), top, W, H));
            }
            expect(&format!("rgb{bits}_interlaced.png"), Colour::Rgb, depth, &picture(3, top, W, H));
        }
    }
}

#[test]
fn png_transparency_by_key_and_palette() {
    let gray = picture(1, 255, W, H);
    let key = gray[2 * W + 3];
    let keyed: Vec<u64> = gray.iter().flat_map(|&v| [v, if v == key { 0 } else { 255 }]).collect();
    expect("gray8_key.png", Colour::GrayAlpha, Depth::Eight, &keyed);
    let rgb = picture(3, 65_535, W, H);
    let key = rgb[(2 * W + 3) * 3..][..3].to_vec();
    let keyed: Vec<u64> =
        rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], if p == key { 0 } else { 65_535 }]).collect();
    expect("rgb16_key.png", Colour::Rgba, Depth::Sixteen, &keyed);
    for bits in [1u32, 2, 4, 8] {
        let n = (1usize << bits).min(200);
        let index = picture(1, n as u64 - 1, W, H);
        let rgb = |i: u64| [0, 1, 2].map(|c| value(i as usize, 5, c, 255));
        let plain: Vec<u64> = index.iter().flat_map(|&i| rgb(i)).collect();
        expect(&format!("palette{bits}.png"), Colour::Rgb, Depth::Eight, &plain);
        let alpha = |i: u64| if (i as usize) < n / 2 { value(i as usize, 6, 0, 255) } else { 255 };
        let with: Vec<u64> = index.iter().flat_map(|&i| [rgb(i)[0], rgb(i)[1], rgb(i)[2], alpha(i)]).collect();
        expect(&format!("palette{bits}_alpha.png"), Colour::Rgba, Depth::Eight, &with);
    }
    let e = read(&data("bad_palette_index.png")).expect_err("index 7 of a palette of 7");
    assert!(e.kind() == Kind::BadInput && e.message().contains("colour 7 of a palette of 7"), "{e}");
}

#[test]
fn tiff_in_every_layout_is_exact() {
    let (rgb8, rgb16) = (picture(3, 255, W, H), picture(3, 65_535, W, H));
    for name in ["none", "lzw", "deflate", "packbits"] {
        expect(&format!("rgb8_{name}.tif"), Colour::Rgb, Depth::Eight, &rgb8);
    }
    expect("rgb8_tiled.tif", Colour::Rgb, Depth::Eight, &rgb8);
    for name in ["rgb16_big_endian", "rgb16_bigtiff", "rgb16_planar"] {
        expect(&format!("{name}.tif"), Colour::Rgb, Depth::Sixteen, &rgb16);
    }
    let gray16 = picture(1, 65_535, W, H);
    expect("gray16.tif", Colour::Gray, Depth::Sixteen, &gray16);
    expect("gray16_white_is_zero.tif", Colour::Gray, Depth::Sixteen, &gray16);
    assert!(noted(&expect("gray_u32.tif", Colour::Gray, Depth::Sixteen, &gray16), "32 bits"));
    let bits: Vec<u64> = picture(1, 1, W, H).iter().map(|v| v * 255).collect();
    expect("gray1.tif", Colour::Gray, Depth::Eight, &bits);
    expect("gray_alpha8.tif", Colour::GrayAlpha, Depth::Eight, &picture(2, 255, W, H));
    expect("rgba16.tif", Colour::Rgba, Depth::Sixteen, &picture(4, 65_535, W, H));
    assert!(noted(&expect("two_pages.tif", Colour::Gray, Depth::Eight, &picture(1, 255, W, H)), "only the first"));
    let inks = picture(4, 255, W, H);
    let rgb: Vec<u64> = inks
        .chunks_exact(4)
        .flat_map(|p| [0, 1, 2].map(|c| ((255 - p[c]) as f64 * (255 - p[3]) as f64 / 255.0).round() as u64))
        .collect();
    assert!(noted(&expect("cmyk8.tif", Colour::Rgb, Depth::Eight, &rgb), "CMYK"));
    let clamped = |v: f64| (v.clamp(0.0, 1.0) * 65_535.0).round() as i64;
    for (name, tolerance) in [("rgb_f32.tif", 0), ("rgb_f16.tif", 16)] {
        let (header, got) = read_samples(name);
        assert!(noted(&header, "clamped") && header.depth == Depth::Sixteen);
        for (g, v) in got.iter().zip(&rgb16) {
            // The generator rounds to f32 before us; half a step either way stays the same step.
            let wanted = clamped((*v as f64 / 65_535.0 * 2.0 - 0.5) as f32 as f64);
            assert!((*g as i64 - wanted).abs() <= tolerance.max(1), "{name}: {g} {wanted}");
        }
    }
    let e = read(&data("bad_int16.tif")).expect_err("signed");
    assert!(e.kind() == Kind::BadInput && e.message().contains("16-bit Int"), "{e}");
    let e = read(&data("bad_palette.tif")).expect_err("palette");
    assert!(e.kind() == Kind::BadInput && e.message().contains("palette"), "{e}");
}

#[test]
fn premultiplied_alpha_is_divided_out() {
    let (header, got) = read_samples("rgba8_premultiplied.tif");
    assert!(noted(&header, "premultiplied"));
    let wanted = picture(4, 255, W, H);
    for (i, (g, w)) in got.chunks_exact(4).zip(wanted.chunks_exact(4)).enumerate() {
        let alpha = [255, 128, 0][i % W % 3];
        assert_eq!(g[3], alpha);
        for c in 0..3 {
            // At alpha 128 the file kept every second step.
            let ok = alpha == 0 || g[c].abs_diff(w[c]) <= if alpha == 255 { 0 } else { 1 };
            assert!(ok, "pixel {i}: {g:?} {w:?}");
        }
    }
}

#[test]
fn jpegs_of_every_kind_agree_with_libjpeg() {
    let names = [
        ("gray.jpg", Colour::Gray),
        ("baseline_444.jpg", Colour::Rgb),
        ("baseline_422.jpg", Colour::Rgb),
        ("baseline_420.jpg", Colour::Rgb),
        ("progressive_444.jpg", Colour::Rgb),
        ("progressive_422.jpg", Colour::Rgb),
        ("progressive_420.jpg", Colour::Rgb),
        ("restart.jpg", Colour::Rgb),
        ("plain_rgb.jpg", Colour::Rgb),
        ("icc.jpg", Colour::Rgb),
        ("cmyk.jpg", Colour::Rgb),
        ("tiny.jpg", Colour::Rgb),
        ("jpeg.tif", Colour::Rgb),
    ];
    for (name, colour) in names {
        let (header, got) = read_samples(name);
        assert_eq!((header.colour, header.depth), (colour, Depth::Eight), "{name}");
        let twin = format!("{}.expect.png", name.replace(".jpg", "").replace(".tif", "_tif"));
        let (twin, wanted) = read_samples(&twin);
        assert_eq!((header.width, header.height), (twin.width, twin.height), "{name}");
        let worst = got.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= tolerance::JPEG_DECODERS, "{name}: {worst}");
        assert_eq!(noted(&header, "CMYK"), name == "cmyk.jpg");
        assert_eq!(header.icc.is_some(), name == "icc.jpg", "{name}");
    }
}

/// The upright picture of one stored as `orientation`: EXIF's own words, as a map from upright
/// (x, y) to stored (x, y).
fn stored_at(orientation: usize, x: usize, y: usize, w: usize, h: usize) -> (usize, usize) {
    match orientation {
        1 => (x, y),
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        // Row 0 of the stored picture is the left side, top first; and so on around.
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        8 => (w - 1 - y, x),
        _ => unreachable!(),
    }
}

#[test]
fn orientations_are_applied_in_all_formats() {
    let (w, h) = (6, 4);
    for o in 1..=8 {
        for ext in ["png", "tif"] {
            let (header, got) = read_samples(&format!("orientation{o}.{ext}"));
            let (uw, uh) = if o >= 5 { (h, w) } else { (w, h) };
            assert_eq!((header.width as usize, header.height as usize), (uw, uh));
            assert_eq!(probe(&data(&format!("orientation{o}.{ext}"))).unwrap().width as usize, uw);
            for y in 0..uh {
                for x in 0..uw {
                    let (sx, sy) = stored_at(o, x, y, w, h);
                    for c in 0..3 {
                        assert_eq!(got[(y * uw + x) * 3 + c], value(sx, sy, c, 255), "{o} {ext} ({x}, {y})");
                    }
                }
            }
        }
        let (header, got) = read_samples(&format!("orientation{o}.jpg"));
        let (uw, uh) = if o >= 5 { (16, 24) } else { (24, 16) };
        assert_eq!((header.width as usize, header.height as usize), (uw, uh));
        let corner = |sx: usize, sy: usize| [[40, 90], [150, 210]][usize::from(sy >= 8)][usize::from(sx >= 16)];
        for (x, y) in [(2, 2), (uw - 3, 2), (2, uh - 3), (uw - 3, uh - 3)] {
            let (sx, sy) = stored_at(o, x, y, 24, 16);
            let got = got[(y * uw + x) * 3] as i64;
            assert!((got - corner(sx, sy)).abs() <= 3, "{o} jpg ({x}, {y}): {got} {}", corner(sx, sy));
        }
    }
}

fn header(w: u64, h: u64, colour: Colour, depth: Depth, icc: Option<Vec<u8>>) -> Header {
    Header { width: w, height: h, colour, depth, icc: icc.map(Arc::from), format: Format::Png, notes: Vec::new() }
}

fn write(path: &Path, header: &Header, values: &[f32], overwrite: bool) -> Result<()> {
    let mut sink = create(path, header, overwrite)?;
    for row in values.chunks_exact(header.row_len()) {
        sink.write_row(row)?;
    }
    sink.finish()
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn what_is_written_reads_back_exactly_with_its_profile() {
    let dir = scratch();
    let icc: Vec<u8> = (0..3000u32).map(|i| (i * i % 251) as u8).collect();
    for ext in ["png", "tif", "TIFF"] {
        for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
            for depth in [Depth::Eight, Depth::Sixteen] {
                for (w, h) in [(1, 1), (1, 9), (9, 1), (37, 23), (700, 300)] {
                    let top = depth.max() as u64;
                    let wanted = picture(colour.channels(), top, w, h);
                    let values: Vec<f32> = wanted.iter().map(|&v| v as f32 / depth.max()).collect();
                    let path = dir.path().join(format!("out.{ext}"));
                    let head = header(w as u64, h as u64, colour, depth, (w > 1).then(|| icc.clone()));
                    write(&path, &head, &values, true).unwrap();
                    let (back, got) = read(&path).unwrap();
                    assert_eq!((back.colour, back.depth, &back.icc), (colour, depth, &head.icc));
                    assert!(back.notes.is_empty(), "{:?}", back.notes);
                    assert_eq!(samples(&back, &got), wanted, "{ext} {colour:?} {depth:?} {w}x{h}");
                }
            }
        }
    }
    assert_eq!(names(dir.path()).len(), 3);
}

/// A second opinion on our own writers: the `image` crate reads them to the same samples.
#[test]
fn other_decoders_read_what_is_written() {
    let dir = scratch();
    for ext in ["png", "tif"] {
        for depth in [Depth::Eight, Depth::Sixteen] {
            let wanted = picture(4, depth.max() as u64, 97, 61);
            let values: Vec<f32> = wanted.iter().map(|&v| v as f32 / depth.max()).collect();
            let path = dir.path().join(format!("a.{ext}"));
            write(&path, &header(97, 61, Colour::Rgba, depth, None), &values, true).unwrap();
            let other = image::open(&path).unwrap();
            let got: Vec<u64> = match depth {
                Depth::Eight => other.as_rgba8().unwrap().as_raw().iter().map(|&v| v.into()).collect(),
                Depth::Sixteen => other.as_rgba16().unwrap().as_raw().iter().map(|&v| v.into()).collect(),
            };
            assert_eq!(got, wanted, "{ext} {depth:?}");
        }
    }
}

#[test]
fn jpeg_out_keeps_the_picture_and_the_profile() {
    let dir = scratch();
    let icc: Vec<u8> = (0..70_000u32).map(|i| (i % 253) as u8).collect();
    for colour in [Colour::Gray, Colour::Rgb] {
        let n = colour.channels();
        let values: Vec<f32> = (0..80 * 50)
            .flat_map(|i| (0..n).map(move |c| ((i % 80) as f32 / 9.0 + c as f32).sin() * 0.4 + 0.5))
            .collect();
        let path = dir.path().join("a.jpeg");
        let head = header(80, 50, colour, Depth::Sixteen, Some(icc.clone()));
        assert_eq!(output_notes(&path, &head).len(), 1);
        write(&path, &head, &values, true).unwrap();
        let (back, got) = read(&path).unwrap();
        assert_eq!((back.colour, back.depth, &back.icc), (colour, Depth::Eight, &head.icc));
        let mse = values.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mse.sqrt() < tolerance::JPEG_95_RMS, "{}", mse.sqrt());
    }
}

#[test]
fn samples_are_clamped_and_rounded_half_up() {
    let dir = scratch();
    let path = dir.path().join("a.png");
    let values = [f32::NAN, -1.0, 2.0, f32::INFINITY, f32::NEG_INFINITY, 0.5, 1.5 / 255.0, 2.49 / 255.0];
    write(&path, &header(8, 1, Colour::Gray, Depth::Eight, None), &values, false).unwrap();
    let (h, got) = read(&path).unwrap();
    assert_eq!(samples(&h, &got), [0, 0, 255, 255, 0, 128, 2, 2]);
}

/// Reads `bytes` as a picture; panics reach the test.
fn decode(dir: &Path, bytes: &[u8]) -> Result<(Header, Vec<f32>)> {
    let path = dir.join("case.bin");
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    read(&path)
}

/// Seeds for the damage tests: small, every reader path.
const SEEDS: [&str; 16] = [
    "rgb8.png",
    "rgb16_interlaced.png",
    "palette4_alpha.png",
    "orientation6.png",
    "baseline_420.jpg",
    "progressive_420.jpg",
    "restart.jpg",
    "cmyk.jpg",
    "gray.jpg",
    "rgb8_lzw.tif",
    "rgb8_deflate.tif",
    "rgb16_bigtiff.tif",
    "rgb8_tiled.tif",
    "rgb16_planar.tif",
    "jpeg.tif",
    "orientation7.tif",
];

/// A JPEG that lost its data but kept its end mark would come out grey at the bottom, or coarse.
#[test]
fn jpegs_cut_before_their_end_mark_are_errors() {
    let dir = scratch();
    for name in SEEDS.iter().filter(|n| n.ends_with(".jpg")) {
        let whole = std::fs::read(data(name)).unwrap();
        let scan = whole.windows(2).position(|b| b == [0xff, 0xda]).unwrap() + 14;
        for cut in scan..whole.len() - 2 {
            let bytes = [&whole[..cut], &[0xff, 0xd9]].concat();
            let e = decode(dir.path(), &bytes).expect_err(&format!("{name} cut to {cut}"));
            assert_eq!(e.kind(), Kind::BadInput, "{e}");
        }
    }
}

fn is_damage(kind: Kind) -> bool {
    matches!(kind, Kind::BadInput | Kind::Limit)
}

#[test]
fn every_prefix_of_every_seed_is_an_error() {
    let dir = scratch();
    for name in SEEDS {
        let whole = std::fs::read(data(name)).unwrap();
        let full = read(&data(name)).unwrap().1;
        for n in 0..whole.len() {
            match decode(dir.path(), &whole[..n]) {
                Err(e) => {
                    assert!(is_damage(e.kind()), "{name} cut to {n}: {e:?}");
                    assert!(!e.message().contains("gave up"), "{name} cut to {n}: a panic: {e}");
                }
                // A TIFF may end in bytes that no pixel needs (a resolution, a padding byte).
                Ok((_, got)) => assert!(name.ends_with(".tif") && got == full, "{name} cut to {n} passed"),
            }
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let dir = scratch();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let mut refused = 0;
    for name in SEEDS {
        let whole = std::fs::read(data(name)).unwrap();
        for round in 0..1500 {
            let mut bytes = whole.clone();
            // Half of the flips hit the headers, where one bit decides about sizes.
            let reach = if round % 2 == 0 { whole.len() } else { whole.len().min(200) };
            for _ in 0..=random(3) {
                bytes[random(reach)] ^= 1 << random(8);
            }
            if let Err(e) = decode(dir.path(), &bytes) {
                refused += 1;
                assert!(matches!(e.kind(), Kind::BadInput | Kind::Limit | Kind::Memory), "{name}: {e:?}");
                assert!(!e.message().contains("gave up"), "{name}, round {round}: a panic: {e}");
            }
        }
    }
    assert!(refused > 5000, "the flips must reach something: {refused}");
}

/// Replaces the two sides in a PNG's header, with a right check sum.
fn png_of(w: u32, h: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(data("rgb8.png")).unwrap();
    bytes[16..20].copy_from_slice(&w.to_be_bytes());
    bytes[20..24].copy_from_slice(&h.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

fn jpeg_of(w: u16, h: u16) -> Vec<u8> {
    let mut bytes = std::fs::read(data("baseline_444.jpg")).unwrap();
    let at = bytes.windows(4).position(|b| b == [0xff, 0xc0, 0, 17]).unwrap();
    bytes[at + 5..at + 7].copy_from_slice(&h.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&w.to_be_bytes());
    bytes
}

fn tiff_of(w: u32, h: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(data("rgb8_none.tif")).unwrap();
    for (tag, side) in [(256u16, w), (257, h)] {
        let at = bytes.windows(2).position(|b| b == tag.to_le_bytes()).unwrap();
        // Type LONG, count 1, the value.
        bytes[at + 2..at + 12]
            .copy_from_slice(&[&4u16.to_le_bytes()[..], &1u32.to_le_bytes(), &side.to_le_bytes()].concat());
    }
    bytes
}

#[test]
fn zero_and_absurd_sizes_are_refused_at_once() {
    let dir = scratch();
    let start = std::time::Instant::now();
    let most = tessera::limits::MAX_SIDE as u32;
    for (w, h) in [(0, 5), (5, 0), (0, 0)] {
        for bytes in [png_of(w, h), jpeg_of(w as u16, h as u16), tiff_of(w, h)] {
            let e = decode(dir.path(), &bytes).expect_err("empty");
            assert_eq!(e.kind(), Kind::BadInput, "{e}");
        }
    }
    for (w, h) in
        [(most + 1, 1), (1, most + 1), (most, most), (1 << 31, 1 << 31), ((1 << 31) - 1, 3), (u32::MAX, u32::MAX)]
    {
        for bytes in [png_of(w, h), tiff_of(w, h)] {
            let e = decode(dir.path(), &bytes).expect_err("absurd");
            assert!(is_damage(e.kind()), "{w} x {h}: {e:?}");
        }
    }
    assert!(decode(dir.path(), &tiff_of(60_000, 60_000)).is_err());
    for bytes in [jpeg_of(65_535, 65_535), png_of(60_000, 60_000)] {
        let e = decode(dir.path(), &bytes).expect_err("too few bytes for that");
        assert!(e.message().contains("cannot be in"), "{e}");
    }
    // 20,000 x 20,000 pixels whose data end after 200 rows: read by rows, never held whole.
    let e = read(&data("bad_short_of_rows.png")).expect_err("rows are missing");
    assert_eq!(e.kind(), Kind::BadInput, "{e}");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn metadata_bombs_are_not_inflated() {
    let (header, got) = read_samples("icc_bomb.png");
    assert!(header.icc.is_none() && noted(&header, "inflates"), "{:?}", header.notes);
    assert_eq!(got, picture(1, 255, W, H));
}

/// A profile of four gigabytes in a file of one kilobyte, under every type a tag can have.
#[test]
fn tags_that_claim_more_than_the_file_are_not_allocated() {
    let dir = scratch();
    let whole = std::fs::read(data("gray8_icc.tif")).unwrap();
    let entry = whole.windows(2).position(|b| b == 34_675u16.to_le_bytes()).unwrap();
    let start = std::time::Instant::now();
    for kind in 1..=18u16 {
        let mut bytes = whole.clone();
        bytes[entry + 2..entry + 4].copy_from_slice(&kind.to_le_bytes());
        bytes[entry + 4..entry + 8].copy_from_slice(&0xf000_0000u32.to_le_bytes());
        match decode(dir.path(), &bytes) {
            Ok((header, _)) => assert!(header.icc.is_none(), "type {kind}"),
            Err(e) => assert!(is_damage(e.kind()), "type {kind}: {e}"),
        }
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn trailing_bytes_and_wrong_names_are_tolerated_with_a_note() {
    let dir = scratch();
    for name in ["rgb8.png", "baseline_420.jpg", "progressive_444.jpg"] {
        let mut bytes = std::fs::read(data(name)).unwrap();
        let clean = decode(dir.path(), &bytes).unwrap();
        assert!(clean.0.notes.is_empty(), "{:?}", clean.0.notes);
        bytes.extend(b"\xff\xd8 what a phone appends");
        let (header, got) = decode(dir.path(), &bytes).unwrap();
        assert!(noted(&header, "23 bytes after the end"), "{:?}", header.notes);
        assert_eq!(got, clean.1);
    }
    for (name, other) in [("rgb8.png", "x.jpg"), ("baseline_420.jpg", "x.tif"), ("rgb8_lzw.tif", "x.png")] {
        let path = dir.path().join(other);
        std::fs::copy(data(name), &path).unwrap();
        assert!(noted(&read(&path).unwrap().0, "the name says"));
    }
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let dir = scratch();
    let missing = dir.path().join("none.png");
    let folder = dir.path().join("folder.png");
    std::fs::create_dir(&folder).unwrap();
    let empty = dir.path().join("empty.png");
    std::fs::write(&empty, b"").unwrap();
    let text = dir.path().join("text.png");
    std::fs::write(&text, b"hello, this is no picture at all, it only says so").unwrap();
    let gif = dir.path().join("a.gif");
    std::fs::write(&gif, b"GIF89a\x01\0\x01\0").unwrap();
    for (path, word) in
        [(&missing, "does not exist"), (&folder, "folder"), (&empty, "empty"), (&text, "text"), (&gif, "a GIF")]
    {
        for result in [probe(path).map(drop), open(path).map(drop)] {
            let e = result.expect_err("no picture");
            assert_eq!(e.kind(), Kind::BadInput);
            assert!(e.message().contains(word), "{e}");
            assert!(e.message().contains(&*path.to_string_lossy()), "{e}");
        }
    }
    #[cfg(unix)]
    {
        let fifo = dir.path().join("pipe.png");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is part of every unix");
        assert!(made.success());
        // Must not wait for a writer.
        let e = probe(&fifo).expect_err("a pipe");
        assert!(e.kind() == Kind::BadInput && e.message().contains("not a regular file"), "{e}");
        assert_eq!(probe(Path::new("/dev/zero")).expect_err("a device").kind(), Kind::BadInput);
    }
}

#[test]
fn outputs_are_refused_before_any_work() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let small = header(8, 8, Colour::Rgb, Depth::Eight, None);
    std::fs::copy(data("rgb8.png"), at("in.png")).unwrap();
    std::fs::write(at("old.png"), b"old").unwrap();
    std::fs::create_dir(at("folder.png")).unwrap();
    let refuse = |name: &str, header: &Header, overwrite: bool, word: &str| {
        let e = check_output(&at(name), Some(&at("in.png")), header, overwrite).expect_err(name);
        assert!(e.message().contains(word), "{name}: {e}");
    };
    refuse("folder.png", &small, true, "folder");
    refuse("none/a.png", &small, false, "does not exist");
    std::fs::create_dir(at("plain")).unwrap();
    refuse("plain", &small, true, "folder");
    refuse("new.png/", &small, true, "folder");
    refuse("old.png", &small, false, "exists");
    refuse("a.gif", &small, false, ".gif");
    refuse("a", &small, false, "no extension");
    refuse("a.jpg", &header(70_000, 8, Colour::Rgb, Depth::Eight, None), false, "65535");
    refuse("a.jpg", &header(8, 8, Colour::Rgba, Depth::Eight, None), false, "alpha");
    refuse("a.png", &header(0, 8, Colour::Rgb, Depth::Eight, None), false, "0 x 8");
    refuse("a.tif", &header(1 << 24, 1 << 24, Colour::Rgb, Depth::Eight, None), false, "pixels");
    let e = check_output(&at("in.png"), Some(&at("in.png")), &small, true).expect_err("the input");
    assert!(e.message().contains("input itself"), "{e}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(at("in.png"), at("link.png")).unwrap();
        std::fs::hard_link(at("in.png"), at("link2.png")).unwrap();
        refuse("link.png", &small, true, "input itself");
        refuse("link2.png", &small, true, "input itself");
        let e = check_output(Path::new("/proc/nowhere.png"), None, &small, false).expect_err("unwritable");
        assert_eq!(e.kind(), Kind::Io, "{e}");
    }
    // Larger than any disk, within the limits: 64 gigapixels of 8 bytes.
    let huge = header(1 << 18, 1 << 18, Colour::Rgba, Depth::Sixteen, None);
    if tessera::fs::free_space(dir.path()).is_some_and(|free| free < 100 << 30) {
        refuse("a.tif", &huge, false, "bytes are free");
    }
    for (name, header) in [("old.png", &small), ("folder.png", &small), ("a.gif", &small), ("none/a.png", &small)] {
        assert!(create(&at(name), header, false).is_err(), "{name}");
    }
    check_output(&at("a.png"), Some(&at("in.png")), &small, false).unwrap();
    check_output(&at("old.png"), Some(&at("in.png")), &small, true).unwrap();
    assert_eq!(std::fs::read(at("old.png")).unwrap(), b"old");
    assert!(names(dir.path()).iter().all(|n| !n.contains("part")), "{:?}", names(dir.path()));
}

#[test]
fn dropped_unfinished_or_short_of_rows_leaves_nothing() {
    let dir = scratch();
    for ext in ["png", "tif", "jpg"] {
        let path = dir.path().join(format!("a.{ext}"));
        let head = header(5, 3, Colour::Rgb, Depth::Eight, None);
        let mut sink = create(&path, &head, false).unwrap();
        sink.write_row(&[0.5; 15]).unwrap();
        assert_eq!(sink.write_row(&[0.5; 14]).expect_err("length").kind(), Kind::Internal);
        drop(sink);
        let mut sink = create(&path, &head, false).unwrap();
        sink.write_row(&[0.5; 15]).unwrap();
        assert_eq!(sink.finish().expect_err("rows are missing").kind(), Kind::Internal);
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}

#[test]
fn a_file_fault_anywhere_leaves_the_old_or_the_new_picture() {
    let values: Vec<f32> = picture(3, 255, 64, 48).iter().map(|&v| v as f32 / 255.0).collect();
    let head = header(64, 48, Colour::Rgb, Depth::Eight, Some(vec![7; 500]));
    let mut runs = 0;
    for ext in ["png", "tif", "jpg"] {
        let reference = {
            let dir = scratch();
            write(&dir.path().join(format!("a.{ext}")), &head, &values, false).unwrap();
            std::fs::read(dir.path().join(format!("a.{ext}"))).unwrap()
        };
        for (fault, persistent) in [
            (Fault::NoSpace, false),
            (Fault::NoSpace, true),
            (Fault::Device, false),
            (Fault::Device, true),
            (Fault::Denied, true),
            (Fault::Interrupted, false),
            (Fault::Short, false),
        ] {
            for old in [None, Some(&b"the old picture"[..])] {
                for n in 0.. {
                    let dir = scratch();
                    let path = dir.path().join(format!("a.{ext}"));
                    if let Some(old) = old {
                        std::fs::write(&path, old).unwrap();
                    }
                    let armed = arm(n, fault, persistent);
                    let done = check_output(&path, None, &head, true).and_then(|()| write(&path, &head, &values, true));
                    let hits = armed.hits();
                    drop(armed);
                    runs += 1;
                    let now = std::fs::read(&path).ok();
                    match &done {
                        Ok(()) => assert_eq!(now.as_deref(), Some(&reference[..]), "{ext} {fault:?} at {n}"),
                        Err(e) => {
                            assert_eq!(e.kind(), Kind::Io, "{e}");
                            assert!(
                                now.as_deref() == old || now.as_deref() == Some(&reference[..]),
                                "{ext} {fault:?} at {n}"
                            );
                        }
                    }
                    assert_eq!(names(dir.path()).len(), usize::from(now.is_some()), "{ext} {fault:?} at {n}: strays");
                    if hits == 0 {
                        assert!(done.is_ok() && n >= 8, "the calls must have been seen");
                        break;
                    }
                }
            }
        }
    }
    assert!(runs >= 300, "{runs}");
}

#[test]
fn a_file_fault_while_reading_is_an_error() {
    for name in ["rgb8.png", "rgb16_interlaced.png", "baseline_420.jpg", "rgb16_bigtiff.tif"] {
        let wanted = read(&data(name)).unwrap().1;
        for fault in [Fault::Device, Fault::Interrupted, Fault::Short] {
            for n in 0.. {
                let armed = arm(n, fault, fault == Fault::Device);
                let got = read(&data(name));
                let hits = armed.hits();
                drop(armed);
                match got {
                    Ok((_, got)) => {
                        assert!(got == wanted && (hits == 0 || fault != Fault::Device), "{name} {fault:?} {n}")
                    }
                    Err(e) => assert!(fault == Fault::Device && e.kind() == Kind::Io, "{name} {n}: {e}"),
                }
                if hits == 0 {
                    break;
                }
            }
        }
    }
}

/// Writes pictures of three sizes over one another until it is killed; the path comes on stdin.
#[test]
#[ignore = "the child of killed_while_writing_never_leaves_half_a_picture"]
fn writes_for_ever() {
    let mut path = String::new();
    std::io::stdin().read_line(&mut path).unwrap();
    for i in 0.. {
        let (head, values) = numbered(i % 3);
        write(Path::new(path.trim_end()), &head, &values, true).unwrap();
    }
}

fn numbered(i: usize) -> (Header, Vec<f32>) {
    let (w, h) = (200 + 10 * i, 150 + 10 * i);
    let values = picture(3, 255, w, h).iter().map(|&v| v as f32 / 255.0).collect();
    (header(w as u64, h as u64, Colour::Rgb, Depth::Eight, None), values)
}

#[test]
fn killed_while_writing_never_leaves_half_a_picture() {
    let dir = scratch();
    for ext in ["png", "tif", "jpg"] {
        let path = dir.path().join(format!("a.{ext}"));
        let (head, values) = numbered(0);
        write(&path, &head, &values, true).unwrap();
        for round in 0..30u64 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "images::writes_for_ever", "--ignored", "--nocapture"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            writeln!(child.stdin.take().unwrap(), "{}", path.display()).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(4000 + round * 7919 % 20_000));
            child.kill().unwrap();
            child.wait().unwrap();
            let (header, _) = read(&path).unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert!((0..3).any(|i| numbered(i).0.width == header.width));
            assert!(names(dir.path()).len() <= 2, "{:?}", names(dir.path()));
        }
        // What a killed run left is taken over by the next one.
        write(&path, &head, &values, true).unwrap();
        assert_eq!(names(dir.path()).len(), 1, "{:?}", names(dir.path()));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_held_whole_is_said() {
    for (name, bytes) in
        [("rgb8.png", 0), ("rgb16_interlaced.png", W * H * 6), ("rgb8_tiled.tif", W * H * 3), ("orientation6.png", 72)]
    {
        assert_eq!(open(&data(name)).unwrap().resident_bytes(), bytes as u64, "{name}");
    }
    assert!(open(&data("progressive_420.jpg")).unwrap().resident_bytes() > 40 * 28 * 9);
    let head = header(100, 10, Colour::Rgb, Depth::Sixteen, None);
    for (name, bytes) in [("a.png", 0), ("a.tif", 0), ("a.jpg", 0)] {
        assert_eq!(output_resident_bytes(Path::new(name), &head).unwrap(), bytes);
    }
}
