//! Bad input gets a clear error and loses nothing: every item of the list, on the real program.
//!
//! For each case: the exit code of its kind; as the last line on stderr one error that says where and
//! what, and what to do where there is something; no panic; and every file in the folder is byte for byte as it was, none added.

use crate::program::{self, Run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Longest error line, characters: an error that repeats its input must not flood a terminal.
const LONGEST_LINE: usize = 4000;

/// One wrong call and what must be said.
struct Case {
    name: String,
    args: Vec<String>,
    code: i32,
    says: Vec<String>,
}

fn case(name: impl Into<String>, args: &[&str], code: i32, says: &[&str]) -> Case {
    let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
    Case { name: name.into(), args: own(args), code, says: own(says) }
}

/// Runs all cases in `folder` and reports every promise that was broken.
fn walk(folder: &Path, cases: &[Case]) {
    let before = program::snapshot(folder);
    let mut broken = Vec::new();
    for case in cases {
        let args: Vec<String> = case.args.iter().map(|a| a.replace("{}", &folder.to_string_lossy())).collect();
        let run = program::run(&args);
        let mut problems = judge(&run, case);
        let after = program::snapshot(folder);
        if after != before {
            let changed: Vec<&PathBuf> =
                after.iter().filter(|(k, v)| before.get(*k) != Some(*v)).map(|(k, _)| k).collect();
            let lost: Vec<&PathBuf> = before.keys().filter(|k| !after.contains_key(*k)).collect();
            problems.push(format!("the folder changed: new or other {changed:?}, lost {lost:?}"));
        }
        if !problems.is_empty() {
            broken.push(format!("{}: {}\n  {:?} {}", case.name, problems.join("; "), run.code, run.stderr.trim()));
        }
        // A later case must not fail for what an earlier one left.
        assert!(after == before, "{}", broken.join("\n"));
    }
    assert!(broken.is_empty(), "{} of {} cases:\n{}", broken.len(), cases.len(), broken.join("\n"));
}

fn judge(run: &Run, case: &Case) -> Vec<String> {
    let mut problems = Vec::new();
    let line = run.last_line();
    if run.code != Some(case.code) {
        problems.push(format!("exit code {:?}, not {}", run.code, case.code));
    }
    if run.stderr.contains("panicked") || run.stderr.contains("internal:") {
        problems.push("it panicked".into());
    }
    if !run.stdout.is_empty() {
        problems.push(format!("stdout has {:?}", run.stdout));
    }
    let stage = line.split(": ").next().unwrap_or_default();
    if stage.is_empty() || stage.contains(' ') || line.len() > LONGEST_LINE {
        problems.push(format!("not one line of the form `stage: what`: {line}"));
    }
    for word in &case.says {
        if !line.to_lowercase().contains(&word.to_lowercase()) {
            problems.push(format!("does not say `{word}`"));
        }
    }
    problems
}

/// A folder with a good small picture `good.png` in it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("good.png"), program::png(20, 16)).expect("written");
    folder
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) {
    std::fs::write(folder.path().join(name), bytes).expect("written");
}

/// PNG bytes with other sides in the header, its checksum made right.
fn png_of_sides(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = program::png(8, 8);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, b: &u8| (0..8).fold(crc ^ u32::from(*b), |c, _| (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg()));
    !bytes.iter().fold(!0, step)
}

/// JPEG bytes with other sides in the frame header.
fn jpeg_of_sides(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = program::jpeg(8, 8);
    let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0] || w == [0xFF, 0xC2]).expect("a frame header");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// TIFF bytes (little endian) with another value in the tag's entry of the first folder.
fn tiff_with(tag: u16, value: u32) -> Vec<u8> {
    let mut bytes = program::tiff(8, 8);
    let at = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
    let count = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let entry = (0..count).map(|i| at + 2 + 12 * i).find(|&e| bytes[e..e + 2] == tag.to_le_bytes()).expect("the tag");
    bytes[entry + 2..entry + 4].copy_from_slice(&4u16.to_le_bytes());
    bytes[entry + 8..entry + 12].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn pictures() {
    let folder = folder();
    let (png, jpeg, tiff) = (program::png(64, 64), program::jpeg(64, 64), program::tiff(64, 64));
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("empty.png".into(), Vec::new()),
        ("one_byte.jpg".into(), vec![0xFF]),
        ("text.png".into(), b"this is not a picture, whatever its name says\n".to_vec()),
        ("gif.png".into(), b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x01D\0;".to_vec()),
        ("zero_width.png".into(), png_of_sides(0, 8)),
        ("zero_height.png".into(), png_of_sides(8, 0)),
        ("zero_width.jpg".into(), jpeg_of_sides(0, 8)),
        ("zero_height.jpg".into(), jpeg_of_sides(8, 0)),
        ("zero_width.tif".into(), tiff_with(256, 0)),
        ("zero_height.tif".into(), tiff_with(257, 0)),
        ("absurd.png".into(), png_of_sides(i32::MAX as u32, i32::MAX as u32)),
        ("absurd_width.png".into(), png_of_sides(u32::MAX, 1)),
        ("absurd.jpg".into(), jpeg_of_sides(u16::MAX, u16::MAX)),
        ("absurd.tif".into(), tiff_with(256, u32::MAX)),
        ("too_many_pixels.png".into(), png_of_sides(1 << 23, 1 << 23)),
    ];
    for (name, bytes) in [("png", &png), ("jpg", &jpeg), ("tif", &tiff)] {
        for cut in [4, bytes.len() / 2, bytes.len() * 9 / 10, bytes.len() - 20] {
            files.push((format!("cut_at_{cut}.{name}"), bytes[..cut].to_vec()));
        }
    }
    // Damage in the middle of the data, which PNG has checksums against; and a JPEG whose tables are gone.
    let mut damaged = png.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    files.push(("damaged.png".into(), damaged));
    let mut damaged = jpeg.clone();
    let tables = damaged.windows(2).position(|w| w == [0xFF, 0xC4]).expect("Huffman tables");
    damaged[tables + 4..tables + 24].fill(0xFF);
    files.push(("damaged.jpg".into(), damaged));

    let mut cases = Vec::new();
    for (name, bytes) in &files {
        write(&folder, name, bytes);
        cases.push(case(
            name,
            &["upscale", "-i", &format!("{{}}/{name}"), "-o", "{}/out.png", "-s", "2", "-g", "cpu"],
            6,
            &[name],
        ));
    }
    cases.push(case("missing", &["upscale", "-i", "{}/none.png", "-s", "2"], 6, &["none.png"]));
    cases.push(case("a folder", &["upscale", "-i", "{}", "-s", "2"], 2, &["folder"]));
    if cfg!(unix) {
        cases.push(case("a device", &["upscale", "-i", "/dev/zero", "-o", "{}/out.png", "-s", "2"], 6, &["/dev/zero"]));
    }
    walk(folder.path(), &cases);
}

/// The bytes decide, not the name: a JPEG called `.png` is a good picture.
#[test]
fn a_good_picture_with_another_formats_name_is_read() {
    let folder = folder();
    write(&folder, "really_a_jpeg.png", &program::jpeg(16, 16));
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let run =
        program::run(&["upscale", "-i", &path("really_a_jpeg.png"), "-o", &path("out.png"), "-s", "2", "-g", "cpu"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let made = image::open(path("out.png")).expect("a picture");
    assert_eq!((made.width(), made.height()), (32, 32));
}

#[test]
fn sizes() {
    let folder = folder();
    let call = |option: &str, value: &str, code, says: &[&str]| {
        let args = ["upscale", "-i", "{}/good.png", "-o", "{}/out.png", "-g", "cpu", option, value];
        case(format!("{option} {value}"), &args, code, says)
    };
    let mut cases = Vec::new();
    for value in ["0", "-0", "-1", "-2.5", "nan", "NaN", "inf", "-inf", "0.5", "0.999", "1e-300", "1e300", "65"] {
        cases.push(call("-s", value, 2, &["scale"]));
    }
    cases.push(call("-s", "", 2, &["scale"]));
    cases.push(call("-s", "4x", 2, &["4x"]));
    cases.extend(["0", "19", "100000"].map(|w| call("--width", w, 2, &["width"])));
    cases.extend(["0", "15", "100000"].map(|h| call("--height", h, 2, &["height"])));
    cases.extend(["0", "-1", "nan", "inf", "0.0001"].map(|m| call("--megapixels", m, 2, &["megapixels"])));
    cases.push(call("--tile", "0", 2, &["window"]));
    cases.push(call("--batch", "0", 2, &["batch"]));
    cases.push(call("--noise", "nan", 2, &["noise"]));
    cases.push(call("--jpeg", "2", 2, &["jpeg"]));
    cases.push(call("--threads", "0", 2, &["thread"]));
    walk(folder.path(), &cases);
}

#[test]
fn outputs() {
    let folder = folder();
    write(&folder, "old.png", b"the old file, which must survive");
    write(&folder, "a_file", b"");
    std::fs::create_dir(folder.path().join("sub")).expect("made");
    let call = |name: &str, output: &str, extra: &[&str], code, says: &[&str]| {
        let args = [&["upscale", "-i", "{}/good.png", "-s", "2", "-g", "cpu", "-o", output][..], extra].concat();
        case(name, &args, code, says)
    };
    let mut cases = vec![
        call("the input", "{}/good.png", &[], 6, &["good.png"]),
        call("the input, to be overwritten", "{}/good.png", &["--overwrite"], 6, &["good.png", "input"]),
        call("the input by another spelling", "{}/sub/../good.png", &["--overwrite"], 6, &["input"]),
        call("a folder", "{}/sub", &[], 6, &["sub"]),
        call("a folder, to be overwritten", "{}/sub", &["--overwrite"], 6, &["sub"]),
        call("a picture's name, but a folder", "{}/sub/", &["--overwrite"], 6, &["sub"]),
        call("exists", "{}/old.png", &[], 6, &["old.png", "--overwrite"]),
        call("no such folder", "{}/none/out.png", &[], 6, &["none"]),
        call("below a file", "{}/a_file/out.png", &[], 6, &["a_file"]),
        call("no such format", "{}/out.xyz", &[], 2, &["xyz"]),
        call("no format", "{}/out", &[], 2, &["out"]),
        call("an empty name", "", &[], 2, &["output"]),
    ];
    // Where even root may not write.
    if Path::new("/proc/self").exists() {
        cases.push(call("unwritable", "/proc/out.png", &[], 6, &["/proc"]));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("good.png", folder.path().join("link.png")).expect("linked");
        std::fs::hard_link(folder.path().join("good.png"), folder.path().join("hard.png")).expect("linked");
        cases.push(call("a link to the input", "{}/link.png", &["--overwrite"], 6, &["input"]));
        cases.push(call("a hard link to the input", "{}/hard.png", &["--overwrite"], 6, &["input"]));
    }
    // A late failure must not cost the old file either.
    write(&folder, "cut.png", &program::png(64, 64)[..900]);
    let late = ["upscale", "-i", "{}/cut.png", "-s", "2", "-g", "cpu", "-o", "{}/old.png", "--overwrite"];
    cases.push(case("the old file survives a failure", &late, 6, &["cut.png"]));
    walk(folder.path(), &cases);
}

#[test]
fn devices() {
    let folder = folder();
    let call = |device: &str, code| {
        let says = device.trim_start_matches("wgpu:");
        case(device, &["upscale", "-i", "{}/good.png", "-o", "{}/out.png", "-s", "2", "-g", device], code, &[says])
    };
    // Where there is no driver at all, and where the number is too high.
    walk(folder.path(), &[call("cuda:99", 4), call("wgpu:99", 4), call("cpu:7", 4), call("toaster", 4), call("", 4)]);
}

/// A budget too small is refused with the smallest that works, and that one does work.
#[test]
fn budgets() {
    let folder = folder();
    write(&folder, "wide.png", &program::png(96, 64));
    let base = ["upscale", "-i", "{}/wide.png", "-o", "{}/out.png", "-s", "4", "-g", "cpu"];
    let small = |size: &str| case(format!("--ram {size}"), &[&base[..], &["--ram", size]].concat(), 5, &["ram", "B"]);
    walk(folder.path(), &[small("1"), small("64KiB"), small("1MiB")]);

    let with_ram = |size: &str| -> Vec<String> {
        let args = [&base[..], &["--ram", size]].concat();
        args.iter().map(|a| a.replace("{}", &folder.path().to_string_lossy())).collect()
    };
    let refused = program::run(&with_ram("1MiB"));
    let smallest = size_in(refused.last_line()).unwrap_or_else(|| panic!("no size in: {}", refused.last_line()));
    let granted = program::run(&with_ram(&smallest));
    assert_eq!(granted.code, Some(0), "--ram {smallest}, which was offered: {granted:?}");
}

/// The last size (`12.3 MiB`, `4GiB`) that a sentence names, other than the one asked for.
fn size_in(text: &str) -> Option<String> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || "[]();,`'".contains(c)).filter(|w| !w.is_empty()).collect();
    let unit = |w: &str| ["B", "KiB", "MiB", "GiB", "bytes"].contains(&w);
    let mut found = None;
    for (i, word) in words.iter().enumerate() {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number = digits.parse::<f64>().is_ok();
        if number && digits.len() < word.len() && unit(&word[digits.len()..]) {
            found = Some(word.to_string());
        } else if number && digits == *word && words.get(i + 1).is_some_and(|w| unit(w)) {
            found = Some(format!("{word}{}", words[i + 1].replace("bytes", "B")));
        }
    }
    found.filter(|f| f != "1MiB" && f != "1.0MiB")
}

/// A copy of the model that ships, to be damaged.
fn model_copy(folder: &TempDir, name: &str) -> PathBuf {
    let (from, to) = (crate::source::root().join("weights/onestep"), folder.path().join(name));
    copy_folder(&from, &to);
    to
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("the model that ships").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The files below `folder` whose name ends so, sorted.
fn below(folder: &Path, end: &str) -> Vec<PathBuf> {
    let names = program::snapshot(folder).into_keys().filter(|p| p.to_string_lossy().ends_with(end));
    names.map(|p| folder.join(p)).collect()
}

/// Edits the header and the data of a safetensors file.
fn edit_tensors(path: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<u8>)) {
    let bytes = std::fs::read(path).expect("read");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("a JSON header");
    let mut data = bytes[8 + length..].to_vec();
    edit(&mut header, &mut data);
    let text = serde_json::to_vec(&header).expect("JSON");
    let new = [&(text.len() as u64).to_le_bytes()[..], &text, &data].concat();
    std::fs::write(path, new).expect("written");
}

/// The name of a tensor, the first in the alphabet, and its byte range.
fn first_tensor(header: &serde_json::Map<String, serde_json::Value>) -> (String, usize, usize) {
    let name = header.keys().filter(|k| *k != "__metadata__").min().expect("a tensor").clone();
    let at = |i: usize| header[&name]["data_offsets"][i].as_u64().expect("an offset") as usize;
    (name.clone(), at(0), at(1))
}

#[test]
fn models() {
    let folder = folder();
    let mut cases = Vec::new();
    let mut add = |name: &str, says: &[&str]| {
        let model = format!("{{}}/{name}");
        let args = ["upscale", "-i", "{}/good.png", "-o", "{}/out.png", "-s", "2", "-g", "cpu", "-m", &model];
        cases.push(case(name, &args, 3, says));
    };
    let configs = |m: &Path| below(m, "/config.json");
    let tensors = |m: &Path| below(m, ".safetensors");

    add("no_such_folder", &["no_such_folder"]);
    std::fs::create_dir(folder.path().join("empty_folder")).expect("made");
    add("empty_folder", &["empty_folder", "json"]);
    write(&folder, "a_file", b"not a folder");
    add("a_file", &["a_file"]);

    let m = model_copy(&folder, "no_config");
    configs(&m).iter().for_each(|c| std::fs::remove_file(c).expect("removed"));
    add("no_config", &["config.json"]);

    let m = model_copy(&folder, "no_index");
    below(&m, "model_index.json").iter().for_each(|c| std::fs::remove_file(c).expect("removed"));
    add("no_index", &["model_index.json"]);

    let m = model_copy(&folder, "index_of_something_else");
    std::fs::write(m.join("model_index.json"), b"{\"_class_name\": \"ToasterPipeline\"}").expect("written");
    add("index_of_something_else", &["ToasterPipeline"]);

    let m = model_copy(&folder, "config_is_no_json");
    std::fs::write(&configs(&m)[0], b"{\"half\": ").expect("written");
    add("config_is_no_json", &["config.json"]);

    let m = model_copy(&folder, "config_of_something_else");
    std::fs::write(&configs(&m)[0], b"{\"_class_name\": \"ToasterModel\"}").expect("written");
    add("config_of_something_else", &["ToasterModel"]);

    let m = model_copy(&folder, "config_with_unknown_field");
    edit_json(&configs(&m)[0], |map| drop(map.insert("flux_capacitor".into(), true.into())));
    add("config_with_unknown_field", &["flux_capacitor"]);

    let m = model_copy(&folder, "config_with_wrong_type");
    edit_json(&configs(&m)[0], |map| drop(map.insert("block_out_channels".into(), "many".into())));
    add("config_with_wrong_type", &["block_out_channels"]);

    let m = model_copy(&folder, "config_of_other_widths");
    edit_json(&configs(&m)[0], |map| {
        let widths = map["block_out_channels"].as_array_mut().expect("widths");
        let doubled: Vec<_> = widths.iter().map(|w| (w.as_u64().expect("a width") * 2).into()).collect();
        *widths = doubled;
    });
    add("config_of_other_widths", &["config asks for"]);

    let m = model_copy(&folder, "no_tensors");
    tensors(&m).iter().for_each(|t| std::fs::remove_file(t).expect("removed"));
    add("no_tensors", &["safetensors"]);

    let m = model_copy(&folder, "truncated_tensors");
    let file = &tensors(&m)[0];
    let bytes = std::fs::read(file).expect("read");
    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
    add("truncated_tensors", &["safetensors"]);

    let m = model_copy(&folder, "empty_tensors");
    std::fs::write(&tensors(&m)[0], b"").expect("written");
    add("empty_tensors", &["safetensors"]);

    let m = model_copy(&folder, "huge_header");
    let mut bytes = std::fs::read(&tensors(&m)[0]).expect("read");
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    std::fs::write(&tensors(&m)[0], bytes).expect("written");
    add("huge_header", &["header"]);

    // A missing tensor leaves a hole in the data, which is an error of its own: its bytes go to another name.
    let (mut name, m) = (String::new(), model_copy(&folder, "missing_tensor"));
    edit_tensors(&tensors(&m)[0], |header, _| {
        name = first_tensor(header).0;
        let entry = header.remove(&name).expect("there");
        header.insert("stranger.weight".into(), entry);
    });
    add("missing_tensor", &[&name, "stranger.weight"]);

    let m = model_copy(&folder, "extra_tensor");
    edit_tensors(&tensors(&m)[0], |header, data| {
        let entry = serde_json::json!({"dtype": "F32", "shape": [2], "data_offsets": [data.len(), data.len() + 8]});
        data.extend([0; 8]);
        header.insert("stranger.weight".into(), entry);
    });
    add("extra_tensor", &["stranger.weight"]);

    let m = model_copy(&folder, "hole");
    edit_tensors(&tensors(&m)[0], |header, _| {
        let name = first_tensor(header).0;
        header.remove(&name);
    });
    add("hole", &["safetensors"]);

    let m = model_copy(&folder, "other_shape");
    edit_tensors(&tensors(&m)[0], |header, _| {
        name = first_tensor(header).0;
        let shape = header.get_mut(&name).expect("there")["shape"].as_array_mut().expect("a shape");
        shape.push(1.into());
        shape.push(1.into());
    });
    add("other_shape", &[&name]);

    for (folder_name, half, single) in
        [("nan_tensor", 0x7E00u16, f32::NAN), ("infinite_tensor", 0xFC00, f32::NEG_INFINITY)]
    {
        let m = model_copy(&folder, folder_name);
        edit_tensors(&tensors(&m)[0], |header, data| {
            let (tensor, from, _) = first_tensor(header);
            match header[&tensor]["dtype"].as_str() {
                Some("F16") => data[from..from + 2].copy_from_slice(&half.to_le_bytes()),
                Some("F32") => data[from..from + 4].copy_from_slice(&single.to_le_bytes()),
                other => panic!("{tensor} is stored as {other:?}"),
            }
            name = tensor;
        });
        add(folder_name, &[&name]);
    }

    let args = ["upscale", "-i", "{}/good.png", "-o", "{}/out.png", "-s", "2", "-g", "cpu", "--system", "toaster"];
    cases.push(case("no such system", &args, 2, &["toaster"]));
    walk(folder.path(), &cases);
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let mut map = serde_json::from_slice(&std::fs::read(path).expect("read")).expect("a JSON object");
    edit(&mut map);
    std::fs::write(path, serde_json::to_vec(&map).expect("JSON")).expect("written");
}
