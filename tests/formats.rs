//! Streaming formats and pipes: PGM, PPM and PAM in and out, standard input and standard output.

use crate::program::command;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tessera::image::{Colour, Depth, Format, Header, WriteOptions, create, create_with, open, output_notes, probe};
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
    let mut source = open(path)?;
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
    let options = |format| WriteOptions { format: Some(format), overwrite: true };
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
