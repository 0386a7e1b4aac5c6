//! Streaming formats and pipes: PGM, PPM and PAM in and out, standard input and standard output.

use crate::program::command;
use crate::tolerance;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tessera::image::{
    Colour, Depth, Format, Header, ReadOptions, WriteOptions, check_output, create, create_with, open_with,
    output_notes, output_resident_bytes, probe, probe_with,
};
use tessera::{Kind, Result};

/// A temporary folder; in memory where the system has such a place.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Sample `i`, in 0..=top: no two neighbours alike.
fn sample(i: usize, top: u32) -> u32 {
    ((i * 2749 + i * i % 1009 * 4513) % 65_536) as u32 * top / 65_535
}

fn samples(n: usize, top: u32) -> Vec<u32> {
    (0..n).map(|i| sample(i, top)).collect()
}

fn bytes(samples: &[u32], wide: bool) -> Vec<u8> {
    let be = |v: &u32| if wide { (*v as u16).to_be_bytes().to_vec() } else { vec![*v as u8] };
    samples.iter().flat_map(be).collect()
}

fn read(path: &Path) -> Result<(Header, Vec<f32>)> {
    read_held(path, &ReadOptions::default())
}

fn read_held(path: &Path, options: &ReadOptions) -> Result<(Header, Vec<f32>)> {
    let mut source = open_with(path, options)?;
    let header = source.header().clone();
    let mut all = vec![0.0; header.row_len() * header.height as usize];
    for row in all.chunks_exact_mut(header.row_len()) {
        source.read_row(row)?;
    }
    Ok((header, all))
}

fn decode(dir: &Path, bytes: &[u8]) -> Result<(Header, Vec<f32>)> {
    let path = dir.join("case.bin");
    std::fs::write(&path, bytes).unwrap();
    read(&path)
}

fn header(w: u64, h: u64, colour: Colour, depth: Depth) -> Header {
    Header { width: w, height: h, colour, depth, icc: None, format: Format::Png, notes: Vec::new() }
}

fn write(path: &Path, header: &Header, values: &[f32], options: &WriteOptions) -> Result<()> {
    let mut sink = create_with(path, header, options)?;
    for row in values.chunks_exact(header.row_len()) {
        sink.write_row(row)?;
    }
    sink.finish()
}

#[test]
fn headers_of_every_style_are_read() {
    let dir = scratch();
    let n = 5 * 3;
    for (text, colour, top) in [
        ("P5 5 3 255\n", Colour::Gray, 255),
        ("P5\n5\t3\r\n65535 ", Colour::Gray, 65_535),
        ("P6#one\n# two, three\n5 # four\n3\n#five\n255\n", Colour::Rgb, 255),
        ("P6 5 3 255#six\n", Colour::Rgb, 255),
        ("P6 0005 3 1023\n", Colour::Rgb, 1023),
        ("P5 5 3 7\n", Colour::Gray, 7),
        ("P7\nWIDTH 5\nHEIGHT 3\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n", Colour::Gray, 1),
        ("P7\n# a comment\n\nHEIGHT 3\nMAXVAL 65535\nDEPTH 4\nWIDTH 5\nENDHDR\n", Colour::Rgba, 65_535),
        ("P7\nWIDTH 5 \nHEIGHT  3\nDEPTH 2\nMAXVAL 255\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n", Colour::GrayAlpha, 255),
        ("P7\r\nWIDTH 5\r\nHEIGHT 3\r\nDEPTH 3\r\nMAXVAL 255\r\nTUPLTYPE RGB\r\nENDHDR\r\n", Colour::Rgb, 255),
    ] {
        let wanted = samples(n * colour.channels(), top);
        let file = [text.as_bytes(), &bytes(&wanted, top > 255)].concat();
        let (head, got) = decode(dir.path(), &file).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!((head.width, head.height, head.colour), (5, 3, colour), "{text:?}");
        assert_eq!(head.depth, if top > 255 { Depth::Sixteen } else { Depth::Eight });
        assert_eq!(head.format, if text.starts_with("P7") { Format::Pam } else { Format::Ppm });
        let exact: Vec<f32> = wanted.iter().map(|&v| v as f32 / top as f32).collect();
        assert_eq!(got, exact, "{text:?}");
        assert_eq!(head.notes.is_empty(), top == 255 || top == 65_535, "{:?}", head.notes);
        assert_eq!(probe(&dir.path().join("case.bin")).unwrap().width, 5);

        // Every prefix is an error, every byte too many a note.
        for cut in 0..file.len() {
            let e = decode(dir.path(), &file[..cut]).expect_err("cut");
            assert_eq!(e.kind(), Kind::BadInput, "{text:?} cut to {cut}: {e}");
            assert!(!e.message().contains("gave up"), "{e}");
        }
        let (head, again) = decode(dir.path(), &[&file[..], b"P6 and another"].concat()).unwrap();
        assert!(head.notes.iter().any(|n| n.contains("14 bytes after the end")), "{:?}", head.notes);
        assert_eq!(again, got);
    }
}

#[test]
fn headers_that_make_no_sense_are_refused_by_name() {
    let dir = scratch();
    let pam = |rest: &str| format!("P7\n{rest}ENDHDR\n");
    let many = "9".repeat(70);
    for (text, word) in [
        ("P6 x 3 255\n".to_owned(), "width is not a number"),
        ("P6 -5 3 255\n".into(), "width is not a number"),
        ("P6 5 3. 255\n".into(), "height is not a number"),
        ("P6 5 3 0\n".into(), "maxval of 0"),
        ("P6 5 3 65536\n".into(), "maxval of 65536"),
        ("P6 0 3 255\n".into(), "empty: 0 x 3"),
        ("P6 5 0 255\n".into(), "empty: 5 x 0"),
        ("P6 16777217 3 255\n".into(), "no side may exceed"),
        (format!("P6 {many} 3 255\n"), "70 digits"),
        ("P6 16000000 16000000 255\n".into(), "more than the"),
        ("P6 60000 60000 255\n".into(), "truncated"),
        ("P5 1 1 7\n\x08".into(), "above the maxval"),
        (format!("P6 {}", " ".repeat(70_000)), "header takes more than"),
        (format!("P6 # {}", "x".repeat(70_000)), "header takes more than"),
        (pam("WIDTH 1\nHEIGHT 1\nDEPTH 1\n"), "is missing"),
        (pam("WIDTH 1\nWIDTH 1\n"), "two lines WIDTH"),
        (pam("WIDTH one\n"), "WIDTH is not a number"),
        (pam("WIDTH +1\n"), "WIDTH is not a number"),
        (pam("COLOUR red\n"), "COLOUR red"),
        (pam("WIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\n"), "5 channels"),
        (pam("WIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE CMYK\n"), "CMYK"),
        (pam("WIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE GRAYSCALE\n"), "3 channels"),
        ("P3 1 1 255 0 0 0\n".into(), "text form"),
        ("P4 8 1\n\x7f".into(), "one bit a pixel"),
        ("P7 332\n".into(), "text"),
    ] {
        let e = decode(dir.path(), text.as_bytes()).expect_err(&text);
        assert!(matches!(e.kind(), Kind::BadInput | Kind::Limit), "{e:?}");
        let shown: String = text.chars().take(60).collect();
        assert!(e.message().contains(word), "{shown:?}: {e}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let dir = scratch();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let mut refused = 0;
    for (text, n) in [
        ("P6 #c\n5 3 255\n", 45),
        ("P5 5 3 1023\n", 30),
        ("P7\nWIDTH 5\nHEIGHT 3\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n", 60),
    ] {
        let file = [text.as_bytes(), &vec![3; n]].concat();
        for _ in 0..3000 {
            let mut bytes = file.clone();
            for _ in 0..=random(3) {
                bytes[random(text.len())] ^= 1 << random(8);
            }
            if let Err(e) = decode(dir.path(), &bytes) {
                refused += 1;
                assert!(matches!(e.kind(), Kind::BadInput | Kind::Limit | Kind::Memory), "{e:?}");
                assert!(!e.message().contains("gave up"), "a panic: {e}");
            }
        }
    }
    assert!(refused > 1000, "the flips must reach something: {refused}");
}

#[test]
fn what_is_written_reads_back_here_and_elsewhere() {
    let dir = scratch();
    for depth in [Depth::Eight, Depth::Sixteen] {
        for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
            for name in ["a.ppm", "a.pgm", "a.pnm", "a.pam"] {
                let head = header(37, 23, colour, depth);
                let wanted = samples(37 * 23 * colour.channels(), depth.max() as u32);
                let values: Vec<f32> = wanted.iter().map(|&v| v as f32 / depth.max()).collect();
                let path = dir.path().join(name);
                let wrote = write(&path, &head, &values, &WriteOptions::new(true));
                if name != "a.pam" && (colour.has_alpha() || (name == "a.pgm" && colour == Colour::Rgb)) {
                    assert_eq!(wrote.expect_err("cannot be held").kind(), Kind::Usage);
                    continue;
                }
                wrote.unwrap();
                let (back, got) = read(&path).unwrap();
                assert_eq!((back.colour, back.depth, got), (colour, depth, values), "{name}");
                assert!(back.notes.is_empty(), "{:?}", back.notes);
                let other = image::open(&path).unwrap();
                let other: Vec<u32> = match depth {
                    Depth::Eight => other.as_bytes().iter().map(|&v| v.into()).collect(),
                    Depth::Sixteen => {
                        other.as_bytes().chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]).into()).collect()
                    }
                };
                assert_eq!(other, wanted, "{name} {colour:?} {depth:?}");
            }
        }
    }
    let with_profile = Header { icc: Some(Arc::from(&b"profile"[..])), ..header(2, 2, Colour::Rgb, Depth::Eight) };
    assert!(output_notes(Path::new("a.ppm"), &with_profile)[0].contains("no colour profile"));
    assert!(output_notes(Path::new("a.png"), &with_profile).is_empty());
}

#[test]
fn a_format_asked_for_wins_over_the_name() {
    let dir = scratch();
    let path = dir.path().join("picture.of.mine");
    let head = header(2, 1, Colour::Rgb, Depth::Eight);
    assert_eq!(create(&path, &head, true).err().map(|e| e.kind()), Some(Kind::Usage));
    let options = |format| WriteOptions { format: Some(format), ..WriteOptions::new(true) };
    for (format, magic) in [(Format::Ppm, &b"P6\n2 1\n255\n"[..]), (Format::Png, b"\x89PNG"), (Format::Tiff, b"II*\0")]
    {
        write(&path, &head, &[0.5; 6], &options(format)).unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(magic));
        assert_eq!(probe(&path).unwrap().format, format);
    }
    for name in ["jpg", "JPEG", "png", "tif", "tiff", "ppm", "pam"] {
        assert!(Format::from_name(name).is_some(), "{name}");
    }
    assert!(Format::ALL.iter().all(|f| Format::from_name(f.extension()) == Some(*f)));
    assert_eq!(Format::from_name("x.png"), None);
}

/// Runs the program with `input` on its standard input: exit code, standard output, standard error.
fn piped(args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A program that refuses early closes the pipe; that is its right.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let out = child.wait_with_output().expect("an end");
    feeder.join().expect("fed");
    (out.status.code(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
}

fn picture_in(dir: &Path, name: &str, colour: Colour) -> Vec<u8> {
    let head = header(24, 17, colour, Depth::Eight);
    let values: Vec<f32> = samples(24 * 17 * colour.channels(), 255).iter().map(|&v| v as f32 / 255.0).collect();
    let path = dir.join(name);
    write(&path, &head, &values, &WriteOptions::new(true)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn every_format_comes_through_a_pipe_as_from_a_file() {
    let dir = scratch();
    let reference = dir.path().join("reference.pam");
    for (name, colour) in [
        ("a.ppm", Colour::Rgb),
        ("a.pam", Colour::Rgba),
        ("a.png", Colour::Rgba),
        ("a.tif", Colour::Gray),
        ("a.jpg", Colour::Rgb),
    ] {
        let bytes = picture_in(dir.path(), name, colour);
        let from = dir.path().join(name);
        let size = ["-s", "1.5", "-g", "cpu", "--progress", "none"];
        let args =
            [&["upscale", "--overwrite", "-i", from.to_str().unwrap(), "-o", reference.to_str().unwrap()][..], &size]
                .concat();
        let run = crate::program::run(&args);
        assert_eq!(run.code, Some(0), "{run:?}");
        let wanted = std::fs::read(&reference).unwrap();
        assert!(wanted.starts_with(b"P7\nWIDTH 36\nHEIGHT 26\n"));
        let (code, out, err) = piped(&[&["upscale", "-i", "-", "-o", "-"][..], &size].concat(), &bytes);
        assert_eq!((code, out == wanted), (Some(0), true), "{name}: {err}");
        // Cut short anywhere it is an error, not a smaller picture.
        let (code, _, err) =
            piped(&[&["upscale", "-i", "-", "-o", "-"][..], &size].concat(), &bytes[..bytes.len() - 9]);
        assert_eq!(code, Some(6), "{name}: {err}");
        assert!(err.contains("standard input"), "{err}");
    }
}

#[test]
fn png_and_jpeg_go_into_a_pipe_and_tiff_does_not() {
    let dir = scratch();
    let bytes = picture_in(dir.path(), "a.ppm", Colour::Rgb);
    for (format, magic) in [("png", &b"\x89PNG"[..]), ("jpg", b"\xff\xd8"), ("ppm", b"P6\n")] {
        let args = ["upscale", "-i", "-", "-o", "-", "-f", format, "-s", "2", "-g", "cpu", "--progress", "none"];
        let (code, out, err) = piped(&args, &bytes);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.starts_with(magic), "{format}");
        let (back, _) = decode(dir.path(), &out).unwrap();
        assert_eq!((back.width, back.height), (48, 34));
    }
    let refused = |extra: &[&str], word: &str| {
        let (code, out, err) = piped(&[&["upscale", "-i", "-", "-g", "cpu"][..], extra].concat(), &bytes);
        assert_eq!(code, Some(2), "{err}");
        assert!(out.is_empty() || out.starts_with(b"{\"error\""), "no picture comes");
        assert!(err.contains(word), "{err}");
    };
    refused(&["-o", "-", "-f", "tif"], "TIFF can't be written to standard output");
    refused(&["-o", "-", "-f", "gif"], "no format that is written");
    refused(&["-o", "-", "--json"], "--json writes to standard output");
    refused(&[], "no name");
    let (code, _, err) = piped(&["upscale", "-i", "-", "-o", "-"], b"");
    assert!(code == Some(6) && err.contains("standard input is empty"), "{err}");
    let (code, _, err) = piped(&["upscale", "-i", "-", "-o", "-"], b"hello, this is no picture");
    assert!(code == Some(6) && err.contains("text"), "{err}");
}

#[test]
fn a_reader_that_goes_away_is_a_clean_error() {
    let dir = scratch();
    let bytes = picture_in(dir.path(), "a.ppm", Colour::Rgb);
    let args = ["upscale", "-i", "-", "-o", "-", "-s", "20", "-g", "cpu", "--progress", "none"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let mut first = [0u8; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // The pipe is closed here, with most of the picture unread.
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!((first, out.status.code()), (*b"P7", Some(6)), "{err}");
    assert!(err.contains("cannot write standard output") && err.contains("other end"), "{err}");
    assert!(!err.contains("panic"), "{err}");
}

/// The encoder gets rows one by one and must give what it gives for the whole picture.
#[test]
fn jpegs_written_by_rows_are_those_encoded_whole() {
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    let dir = scratch();
    let path = dir.path().join("a.jpg");
    for (w, h) in [(1, 1), (7, 3), (8, 8), (9, 17), (200, 121), (65_535, 9), (3, 65_535)] {
        for (colour, kind) in [(Colour::Gray, ColorType::Luma), (Colour::Rgb, ColorType::Rgb)] {
            let head = header(w, h, colour, Depth::Eight);
            let wanted: Vec<u8> = samples((w * h) as usize * colour.channels(), 255).iter().map(|&v| v as u8).collect();
            let mut whole = Vec::new();
            let mut encoder = Encoder::new(&mut whole, 95);
            encoder.set_sampling_factor(SamplingFactor::F_1_1);
            encoder.encode(&wanted, w as u16, h as u16, kind).unwrap();
            let values: Vec<f32> = wanted.iter().map(|&v| f32::from(v) / 255.0).collect();
            write(&path, &head, &values, &WriteOptions::new(true)).unwrap();
            assert!(std::fs::read(&path).unwrap() == whole, "{w} x {h} {colour:?}");
        }
    }
    assert_eq!(output_resident_bytes(&path, &header(9, 9, Colour::Rgb, Depth::Eight)).unwrap(), 0);
    // Dropped in the middle: nothing is left, and the next one is written all the same.
    for rows in [0, 1, 9, 40] {
        let head = header(3000, 50, Colour::Rgb, Depth::Eight);
        let mut sink = create_with(&path, &head, &WriteOptions::new(true)).unwrap();
        (0..rows).for_each(|_| sink.write_row(&[0.3; 9000]).unwrap());
        drop(sink);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Pictures that can't be read by rows give the same rows from the spool as from memory, and leave nothing there.
#[test]
fn the_spool_gives_what_memory_gives() {
    let (dir, spool) = (scratch(), scratch());
    let data = crate::source::root().join("tests/data/images");
    let mut cases: Vec<PathBuf> = Vec::new();
    for name in [
        "rgb16_interlaced.png",
        "rgb8_interlaced.png",
        "gray1_interlaced.png",
        "progressive_420.jpg",
        "gray.jpg",
        "cmyk.jpg",
    ] {
        cases.push(data.join(name));
    }
    for o in 1..=8 {
        cases.extend(["png", "jpg", "tif"].map(|e| data.join(format!("orientation{o}.{e}"))));
    }
    // A picture of several strips, none of them whole, and of several groups of columns, turned all ways.
    let (w, h) = (3001u64, 2503u64);
    let tall = dir.path().join("plain.tif");
    let values: Vec<f32> = samples((w * h * 3) as usize, 65_535).iter().map(|&v| v as f32 / 65_535.0).collect();
    write(&tall, &header(w, h, Colour::Rgb, Depth::Sixteen), &values, &WriteOptions::new(true)).unwrap();
    let plain = std::fs::read(&tall).unwrap();
    let entry = plain.windows(8).rposition(|b| b == [0x12, 1, 3, 0, 1, 0, 0, 0]).expect("the orientation's entry");
    for o in 3..=8u8 {
        let mut turned = plain.clone();
        turned[entry + 8] = o;
        let path = dir.path().join(format!("turned{o}.tif"));
        std::fs::write(&path, turned).unwrap();
        cases.push(path);
    }
    let options = ReadOptions { spool: Some(spool.path().to_path_buf()), memory: 0 };
    for path in &cases {
        let (head, wanted) = read(path).unwrap();
        let (held, got) = read_held(path, &options).unwrap();
        assert_eq!((head.width, head.height, head.colour), (held.width, held.height, held.colour));
        assert!(wanted == got, "{}", path.display());
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "{}", path.display());
        let (memory, spooled) = (probe(path).unwrap(), probe_with(path, &options).unwrap());
        assert_eq!(memory.width, spooled.header.width);
    }
    let resident = |path: &Path, options: &ReadOptions| probe_with(path, options).unwrap().resident_bytes;
    assert_eq!(resident(&data.join("rgb8_interlaced.png"), &options), 0);
    let turned = dir.path().join("turned6.tif");
    assert!(resident(&turned, &options) < 40 << 20 && resident(&turned, &ReadOptions::default()) == w * h * 6);
    // While it is read, the file has no name: a killed job leaves nothing.
    let mut source = open_with(&turned, &options).unwrap();
    source.read_row(&mut vec![0.0; h as usize * 3]).unwrap();
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), usize::from(!cfg!(unix)));
    drop(source);
    // A folder that has gone is an error before any row.
    let gone = ReadOptions { spool: Some(spool.path().join("none")), memory: 0 };
    for path in [data.join("orientation6.png"), data.join("rgb8_interlaced.png"), data.join("gray.jpg")] {
        assert_eq!(read_held(&path, &gone).expect_err("no folder").kind(), Kind::Io);
    }
}

#[test]
fn a_fault_of_the_spool_is_an_error() {
    use tessera::fs::fault::{Fault, arm};
    let spool = scratch();
    let data = crate::source::root().join("tests/data/images");
    let options = ReadOptions { spool: Some(spool.path().to_path_buf()), memory: 0 };
    for name in ["rgb8_interlaced.png", "orientation3.png", "orientation6.png", "gray.jpg"] {
        let wanted = read(&data.join(name)).unwrap().1;
        for fault in [Fault::Device, Fault::Short] {
            for n in 0.. {
                let armed = arm(n, fault, fault != Fault::Short);
                let got = read_held(&data.join(name), &options);
                let hits = armed.hits();
                drop(armed);
                match got {
                    Ok((_, got)) => assert!(got == wanted && (hits == 0 || fault == Fault::Short), "{name} {n}"),
                    Err(e) => assert!(e.kind() == Kind::Io && fault != Fault::Short, "{name} {fault:?} {n}: {e:?}"),
                }
                assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "{name} {fault:?} at {n}");
                if hits == 0 {
                    break;
                }
            }
        }
    }
}

/// The sample at (x, y) of channel c, in 0..=255: the formula of the generator of the test pictures.
fn made(x: usize, y: usize, c: usize) -> u64 {
    let v = (x * 2749 + y * 4513 + c * 16_411 + (x * y % 11) * 1879) as u64;
    v * 40_503 % 65_536 * 255 / 65_535
}

fn made_picture(channels: usize, w: usize, h: usize) -> Vec<u64> {
    (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..channels).map(move |c| made(x, y, c)))).collect()
}

fn data(name: &str) -> PathBuf {
    crate::source::root().join("tests/data/images").join(name)
}

fn bytes_of(values: &[f32]) -> Vec<u64> {
    values.iter().map(|v| (v * 255.0).round() as u64).collect()
}

const WEBPS: [&str; 9] = [
    "rgb_lossless.webp",
    "rgba_lossless.webp",
    "rgb_lossy.webp",
    "rgba_lossy.webp",
    "icc.webp",
    "orientation1.webp",
    "orientation3.webp",
    "orientation6.webp",
    "animated.webp",
];

#[test]
fn webp_in_is_exact_or_agrees_with_libwebp() {
    for (name, colour) in [
        ("rgb_lossless.webp", Colour::Rgb),
        ("rgba_lossless.webp", Colour::Rgba),
        ("icc.webp", Colour::Rgb),
        ("animated.webp", Colour::Rgb),
    ] {
        let (head, got) = read(&data(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((head.width, head.height, head.colour, head.format), (21, 13, colour, Format::WebP), "{name}");
        assert_eq!(bytes_of(&got), made_picture(colour.channels(), 21, 13), "{name}");
        assert_eq!(head.icc.is_some(), name == "icc.webp");
        assert_eq!(head.notes.iter().any(|n| n.contains("animated")), name == "animated.webp", "{:?}", head.notes);
    }
    for name in ["rgb_lossy", "rgba_lossy"] {
        let (_, got) = read(&data(&format!("{name}.webp"))).unwrap();
        let (_, wanted) = read(&data(&format!("{name}_webp.expect.png"))).unwrap();
        let pairs = bytes_of(&got).into_iter().zip(bytes_of(&wanted));
        let worst = pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(worst <= tolerance::WEBP_DECODERS, "{name}: {worst}");
    }
    let (w, h) = (6, 4);
    let stored = |x: usize, y: usize| [made(x, y, 0), made(x, y, 1), made(x, y, 2)];
    for (o, at) in [(1, (1, 2)), (3, (w - 2, h - 3)), (6, (2, h - 2))] {
        let (head, got) = read(&data(&format!("orientation{o}.webp"))).unwrap();
        let row = head.width as usize * 3;
        assert_eq!(head.width, if o == 6 { 4 } else { 6 });
        assert_eq!(bytes_of(&got[2 * row + 3..2 * row + 6]), stored(at.0, at.1), "{o}");
    }
}

#[test]
fn damaged_webps_are_errors_and_never_panic() {
    let dir = scratch();
    let mut refused = 0;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for name in WEBPS {
        let whole = std::fs::read(data(name)).unwrap();
        for cut in 0..whole.len() {
            let e = decode(dir.path(), &whole[..cut]).expect_err("cut");
            assert!(matches!(e.kind(), Kind::BadInput | Kind::Limit), "{name} cut to {cut}: {e}");
        }
        let (head, _) = decode(dir.path(), &[&whole[..], b"more"].concat()).unwrap();
        assert!(head.notes.iter().any(|n| n.contains("4 bytes after the end")), "{:?}", head.notes);
        for round in 0..600 {
            let mut bytes = whole.clone();
            // The extents stay: a picture of the largest sides takes a second to decode, and is no damage.
            let first = if round % 2 == 0 { 30 } else { 12 };
            for _ in 0..=random(3) {
                bytes[first + random(whole.len() - first)] ^= 1 << random(8);
            }
            if u64::from(bytes[25] | bytes[28] | bytes[27] | bytes[29]) > 64 {
                continue;
            }
            if let Err(e) = decode(dir.path(), &bytes) {
                refused += 1;
                assert!(matches!(e.kind(), Kind::BadInput | Kind::Limit | Kind::Memory), "{name}: {e:?}");
            }
        }
    }
    assert!(refused > 500, "the flips must reach something: {refused}");
}

#[test]
fn webp_out_is_exact_with_alpha_and_profile() {
    let dir = scratch();
    let path = dir.path().join("a.webp");
    for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
        for (w, h) in [(1, 1), (37, 23), (1, 300), (16_383, 1)] {
            let wanted = samples((w * h) as usize * colour.channels(), 255);
            let values: Vec<f32> = wanted.iter().map(|&v| v as f32 / 255.0).collect();
            let icc: Option<Arc<[u8]>> = (w > 1).then(|| Arc::from(&[5u8; 301][..]));
            let head = Header { icc, ..header(w, h, colour, Depth::Eight) };
            write(&path, &head, &values, &WriteOptions::new(true)).unwrap();
            let (back, got) = read(&path).unwrap();
            assert_eq!((back.width, back.height, &back.icc), (w, h, &head.icc));
            // The format has no grey: three equal channels.
            let n = colour.channels();
            let spread: Vec<f32> = match colour {
                Colour::Gray => values.iter().flat_map(|&v| [v; 3]).collect(),
                Colour::GrayAlpha => values.chunks_exact(n).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect(),
                Colour::Rgb | Colour::Rgba => values,
            };
            assert_eq!(back.colour.has_alpha(), colour.has_alpha());
            assert!(got == spread, "{colour:?} {w} x {h}");
        }
    }
    let sixteen = header(9, 9, Colour::Rgb, Depth::Sixteen);
    assert!(output_notes(&path, &sixteen)[0].contains("8 bits a sample"));
    assert_eq!(output_resident_bytes(&path, &sixteen).unwrap(), 81 * (9 + 4));
}

#[test]
fn limits_of_formats_are_refused_before_work() {
    let dir = scratch();
    let refuse = |name: &str, (w, h): (u64, u64), colour: Colour, kind: Kind, word: &str| {
        let head = header(w, h, colour, Depth::Eight);
        let path = dir.path().join(name);
        for e in [check_output(&path, None, &head, false).err(), create(&path, &head, false).err()] {
            let e = e.expect("refused");
            assert!(e.kind() == kind && e.message().contains(word), "{name}: {e}");
            assert!(e.advice().is_some(), "{e}");
        }
    };
    refuse("a.jpg", (65_536, 1), Colour::Rgb, Kind::Limit, "no side of a JPEG exceeds 65535");
    refuse("a.webp", (16_384, 1), Colour::Rgb, Kind::Limit, "no side of a WebP exceeds 16383");
    refuse("a.webp", (1, 16_384), Colour::Rgba, Kind::Limit, "no side of a WebP exceeds 16383");
    refuse("a.avif", (16_385, 1), Colour::Rgb, Kind::Limit, "at most 16384 x 8704");
    refuse("a.avif", (1, 8_705), Colour::Rgb, Kind::Limit, "at most 16384 x 8704");
    refuse("a.avif", (16_384, 8_704), Colour::Rgb, Kind::Limit, "35651584 in all");
    refuse("a.jpg", (8, 8), Colour::GrayAlpha, Kind::Usage, "alpha");
    refuse("a.ppm", (8, 8), Colour::Rgba, Kind::Usage, "alpha");
    refuse("a.pgm", (8, 8), Colour::Rgb, Kind::Usage, "PGM has no colour");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The size of an AVIF, as its `ispe` box says it.
fn avif_size(bytes: &[u8]) -> (u32, u32) {
    let at = bytes.windows(4).position(|w| w == b"ispe").expect("a size") + 8;
    let be = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (be(at), be(at + 4))
}

#[cfg(feature = "avif")]
#[test]
fn avif_out_has_the_picture() {
    let dir = scratch();
    let path = dir.path().join("a.avif");
    for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
        for (w, h) in [(1, 1), (65, 33)] {
            let values: Vec<f32> =
                samples((w * h) as usize * colour.channels(), 255).iter().map(|&v| v as f32 / 255.0).collect();
            let head = header(w, h, colour, Depth::Eight);
            write(&path, &head, &values, &WriteOptions::new(true)).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(&bytes[4..12], b"ftypavif");
            assert_eq!(avif_size(&bytes), (w as u32, h as u32));
            assert_eq!(bytes.windows(4).any(|b| b == b"auxC"), colour.has_alpha(), "{colour:?}");
        }
    }
    let e = read(&path).expect_err("written only");
    assert!(e.kind() == Kind::BadInput && e.message().contains("AVIF"), "{e}");
    let with_profile = Header { icc: Some(Arc::from(&b"profile"[..])), ..header(2, 2, Colour::Rgb, Depth::Sixteen) };
    assert_eq!(output_notes(&path, &with_profile).len(), 2);
}

#[cfg(not(feature = "avif"))]
#[test]
fn a_program_without_avif_says_how_to_get_it() {
    let e = create(Path::new("a.avif"), &header(2, 2, Colour::Rgb, Depth::Eight), false).err().expect("refused");
    assert!(e.kind() == Kind::Usage && e.advice().is_some_and(|a| a.contains("avif")), "{e}");
    assert_eq!(avif_size(b"ispe\0\0\0\0\0\0\0\x01\0\0\0\x02"), (1, 2));
}

#[test]
fn tiled_tiffs_read_back_here_and_elsewhere() {
    let dir = scratch();
    let path = dir.path().join("a.tif");
    for depth in [Depth::Eight, Depth::Sixteen] {
        for colour in [Colour::Gray, Colour::GrayAlpha, Colour::Rgb, Colour::Rgba] {
            for ((w, h), side) in [((1, 1), 16), ((64, 48), 16), ((131, 77), 32), ((20, 300), 256)] {
                let wanted = samples((w * h) as usize * colour.channels(), depth.max() as u32);
                let values: Vec<f32> = wanted.iter().map(|&v| v as f32 / depth.max()).collect();
                let options = WriteOptions { tiles: Some(side), ..WriteOptions::new(true) };
                let head = header(w, h, colour, depth);
                write(&path, &head, &values, &options).unwrap();
                let (back, got) = read(&path).unwrap();
                assert_eq!((back.colour, back.depth), (colour, depth));
                assert!(got == values, "{colour:?} {depth:?} {w} x {h} in tiles of {side}");
                // Read back by rows of tiles, not whole.
                let held = probe_with(&path, &ReadOptions::default()).unwrap().resident_bytes;
                assert!(held <= u64::from(side) * head.row_len() as u64 * depth.bytes() as u64);
                if colour != Colour::GrayAlpha {
                    let other = image::open(&path).unwrap();
                    let other: Vec<u32> = match depth {
                        Depth::Eight => other.as_bytes().iter().map(|&v| v.into()).collect(),
                        Depth::Sixteen => {
                            other.as_bytes().chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]).into()).collect()
                        }
                    };
                    assert!(other == wanted, "{colour:?} {depth:?} {w} x {h} elsewhere");
                }
            }
        }
    }
    for side in [0, 8, 100, 8192] {
        let options = WriteOptions { tiles: Some(side), ..WriteOptions::new(true) };
        let e = create_with(&path, &header(9, 9, Colour::Rgb, Depth::Eight), &options).err().expect("no tiles");
        assert_eq!(e.kind(), Kind::Usage);
    }
}
