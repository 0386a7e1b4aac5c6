//! Interrupted jobs: what is finished is kept, and what is resumed has the bytes of an undisturbed run.

use crate::upscale::{Bench, picture};
use std::path::Path;
use tessera::fs::fault::{Fault, arm};
use tessera::image::{Colour, Depth};
use tessera::run::{Cancel, Observer, Progress, Resume, Silent, Size, UpscaleOptions, upscale_with};
use tessera::{Error, Kind};

/// Cancels after so many windows.
struct Stopper {
    cancel: Cancel,
    after: u64,
    notes: Vec<String>,
}

impl Observer for Stopper {
    fn progress(&mut self, p: &Progress<'_>) {
        if p.total > 0 && p.done >= self.after {
            self.cancel.cancel();
        }
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

/// Runs a job until `after` windows are done.
fn interrupt(bench: &mut Bench, options: &UpscaleOptions, after: u64) -> Error {
    let cancel = Cancel::new();
    let mut stopper = Stopper { cancel: cancel.clone(), after, notes: Vec::new() };
    upscale_with(&mut bench.engine, options, &mut stopper, &cancel).expect_err("cancelled")
}

/// A job of 6 rows of 3 windows, kept, and what it makes undisturbed.
fn job(bench: &mut Bench, colour: Colour, depth: Depth, name: &str) -> (UpscaleOptions, Vec<u8>) {
    picture(&bench.at("in.png"), 60, 120, colour, depth);
    let mut options = bench.options("in.png", Size::Scale(2.5));
    (options.tile, options.overlap) = (Some(64), Some(16));
    options.output = Some(bench.at(name));
    options.resume = Resume::Never;
    bench.run(&options);
    let expected = std::fs::read(bench.at(name)).expect("made");
    std::fs::remove_file(bench.at(name)).expect("removed");
    options.resume = Resume::Always;
    (options, expected)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut all: Vec<String> = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[test]
fn a_resumed_job_has_the_bytes_of_an_undisturbed_one() {
    let mut bench = Bench::new();
    let kinds = [
        (Colour::Rgb, Depth::Eight, "out.png"),
        (Colour::GrayAlpha, Depth::Sixteen, "out.png"),
        (Colour::Rgba, Depth::Sixteen, "out.tif"),
        (Colour::Rgb, Depth::Sixteen, "out.jpg"),
    ];
    for (colour, depth, name) in kinds {
        let (mut options, expected) = job(&mut bench, colour, depth, name);
        let spool = bench.at(&format!("{name}.tessera"));
        // Undisturbed through the spool.
        bench.run(&options);
        assert!(std::fs::read(bench.at(name)).expect("made") == expected, "{name}: through the spool");
        std::fs::remove_file(bench.at(name)).expect("removed");
        let mut resumed = 0;
        for after in [1, 4, 8, 11, 17] {
            let e = interrupt(&mut bench, &options, after);
            assert_eq!(e.kind(), Kind::Cancelled);
            assert!(!bench.at(name).exists());
            // The bands that were finished are kept; before the first there is nothing to keep.
            assert_eq!(spool.exists(), resumed > 0 || after > 3, "after {after} windows");
            if spool.exists() {
                assert!(e.advice().is_some_and(|a| a.contains("--resume")), "{e}");
            }
            // Neither the order of the windows nor the batch nor the memory allowed decides any bytes.
            options.batch = Some(if after % 2 == 0 { 2 } else { 1 });
            // The job goes on from wherever it was, and is interrupted again.
            resumed = u64::from(spool.exists());
        }
        let report = bench.run(&options);
        assert!(report.resumed_rows > 0, "{name}");
        assert!(std::fs::read(bench.at(name)).expect("made") == expected, "{name}: resumed");
        assert!(!spool.exists());
        std::fs::remove_file(bench.at(name)).expect("removed");
    }
}

#[test]
fn an_unfinished_job_is_neither_used_nor_lost_unasked() {
    let mut bench = Bench::new();
    let (mut options, expected) = job(&mut bench, Colour::Rgb, Depth::Eight, "out.png");
    options.overwrite = false;
    interrupt(&mut bench, &options, 9);
    let before = names(&bench.at("out.png.tessera"));
    assert_eq!(before, ["journal", "lock", "output.rows"]);
    options.resume = Resume::Auto;
    let e = upscale_with(&mut bench.engine, &options, &mut Silent, &Cancel::new()).expect_err("refused");
    assert_eq!(e.kind(), Kind::Io);
    assert!(e.advice().is_some_and(|a| a.contains("--resume") && a.contains("tessera clean")), "{e}");
    options.dry_run = true;
    bench.run(&options);
    options.dry_run = false;
    assert_eq!(names(&bench.at("out.png.tessera")), before);
    options.overwrite = true;
    assert_eq!(bench.run(&options).resumed_rows, 0);
    assert!(std::fs::read(bench.at("out.png")).expect("made") == expected);
    assert_eq!(names(bench.folder.path()), ["in.png", "model", "out.png"]);
}

#[test]
fn a_spool_elsewhere_is_used_and_a_missing_folder_refused_first() {
    let mut bench = Bench::new();
    let (mut options, expected) = job(&mut bench, Colour::Rgb, Depth::Eight, "out.png");
    options.spool_dir = Some(bench.at("spools"));
    let e = upscale_with(&mut bench.engine, &options, &mut Silent, &Cancel::new()).expect_err("no folder");
    assert!(e.kind() == Kind::Io && e.message().contains("spools"), "{e}");
    std::fs::create_dir(bench.at("spools")).expect("made");
    interrupt(&mut bench, &options, 9);
    assert_eq!(names(&bench.at("spools")).len(), 1);
    assert!(!bench.at("out.png.tessera").exists());
    assert!(bench.run(&options).resumed_rows > 0);
    assert!(std::fs::read(bench.at("out.png")).expect("made") == expected);
    assert!(names(&bench.at("spools")).is_empty());
}

/// What must not be trusted: another input, other options, another model.
#[test]
fn what_another_job_left_is_done_again() {
    let mut bench = Bench::new();
    let (options, expected) = job(&mut bench, Colour::Rgb, Depth::Eight, "out.png");
    type Change = fn(&mut Bench, &mut UpscaleOptions);
    let changes: [(&str, Change); 5] = [
        ("input", |b, _| picture(&b.at("in.png"), 60, 120, Colour::Rgb, Depth::Sixteen)),
        ("options", |_, o| o.noise = 0.5),
        ("rows", |_, o| o.size = Size::Scale(2.4)),
        ("windows", |_, o| o.tile = Some(96)),
        ("model", |b, _| {
            let index = b.at("model/model_index.json");
            let text = std::fs::read_to_string(&index).expect("an index");
            std::fs::write(&index, text + "\n").expect("written");
        }),
    ];
    for (part, change) in changes {
        picture(&bench.at("in.png"), 60, 120, Colour::Rgb, Depth::Eight);
        interrupt(&mut bench, &options, 9);
        let mut other = options.clone();
        change(&mut bench, &mut other);
        let report = bench.run(&other);
        assert_eq!(report.resumed_rows, 0, "{part}");
        assert!(report.notes.iter().any(|n| n.contains(part) && n.contains("again")), "{part}: {:?}", report.notes);
        let made = std::fs::read(bench.at("out.png")).expect("made");
        assert_eq!(made == expected, part == "model", "{part}");
        assert!(!bench.at("out.png.tessera").exists());
    }
}

/// Thirty ways to spoil a journal, and the rows it speaks of: detected, done again, the bytes right.
#[test]
fn corrupted_journals_are_never_trusted() {
    let mut bench = Bench::new();
    let (options, expected) = job(&mut bench, Colour::Rgb, Depth::Eight, "out.png");
    let spool = bench.at("out.png.tessera");
    let mut kept = Vec::new();
    for case in 0..36u64 {
        interrupt(&mut bench, &options, 14);
        let journal = spool.join("journal");
        let mut bytes = std::fs::read(&journal).expect("a journal");
        let whole = bytes.clone();
        // A place that differs from case to case.
        let at = (case as usize * 7919 + 13) % bytes.len();
        let mut rows_too = false;
        match case % 9 {
            0 => bytes[at] ^= 1 << (case / 9),
            1 => bytes.truncate(at),
            2 => bytes.truncate(bytes.len() - 1 - case as usize / 9),
            3 => bytes.extend_from_slice(b"5e1f0c2a rows 0 300 0000"),
            4 => bytes = vec![0; bytes.len()],
            5 => bytes.clear(),
            6 => {
                // A line lost from the middle.
                let text = String::from_utf8(bytes).expect("text");
                let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
                lines.remove(1);
                bytes = lines.concat().into_bytes();
            }
            7 => {
                // The rows change, the journal does not.
                let path = spool.join("output.rows");
                let mut rows = std::fs::read(&path).expect("rows");
                rows[case as usize * 37] ^= 0x10;
                std::fs::write(&path, rows).expect("written");
                rows_too = true;
            }
            _ => {
                let path = spool.join("output.rows");
                let rows = std::fs::read(&path).expect("rows");
                std::fs::write(&path, &rows[..rows.len() / 2]).expect("written");
                rows_too = true;
            }
        }
        std::fs::write(&journal, &bytes).expect("written");
        let report = bench.run(&options);
        // Told, unless the cut left whole lines only.
        let told = report.notes.iter().any(|n| n.contains("again"));
        assert!(
            told || whole.starts_with(&bytes) && bytes.ends_with(b"\n") || bytes.is_empty(),
            "{case}: {:?}",
            report.notes
        );
        assert!(bytes != whole || rows_too, "case {case} spoils nothing");
        assert!(std::fs::read(bench.at("out.png")).expect("made") == expected, "case {case}");
        assert!(!spool.exists(), "case {case}");
        kept.push(report.resumed_rows);
    }
    // Some of it is proved all the same, some is not.
    assert!(kept.iter().any(|&r| r > 0) && kept.contains(&0), "{kept:?}");
}

/// Every file call of a job with a spool fails once or for good: an error that says so, the output absent or
/// right, and what is kept is good enough to go on from.
#[test]
fn a_failure_at_any_file_call_of_a_kept_job_loses_nothing() {
    let mut bench = Bench::new();
    picture(&bench.at("in.png"), 12, 36, Colour::Rgb, Depth::Eight);
    let mut options = bench.options("in.png", Size::Scale(2.0));
    (options.tile, options.overlap) = (Some(64), Some(16));
    options.resume = Resume::Always;
    bench.run(&options);
    let expected = std::fs::read(bench.at("out.png")).expect("made");
    let expected_names = names(bench.folder.path());
    let mut kept = 0;
    for (fault, modes) in
        [(Fault::NoSpace, &[false, true][..]), (Fault::Device, &[false][..]), (Fault::Denied, &[true][..])]
    {
        for &persistent in modes {
            for n in 0.. {
                std::fs::remove_file(bench.at("out.png")).expect("removed");
                let armed = arm(n, fault, persistent);
                let done = upscale_with(&mut bench.engine, &options, &mut Silent, &Cancel::new());
                let hits = armed.hits();
                drop(armed);
                let now = std::fs::read(bench.at("out.png")).ok();
                match &done {
                    Ok(_) => assert!(now.as_ref() == Some(&expected), "{fault:?} at {n}"),
                    Err(e) => {
                        assert!(now.is_none() || now.as_ref() == Some(&expected), "{fault:?} at {n}: {e}");
                        assert!([Kind::Io, Kind::BadInput, Kind::Weights].contains(&e.kind()), "{fault:?} at {n}: {e}");
                    }
                }
                kept += u64::from(bench.at("out.png.tessera").exists());
                // With the disk in order again.
                if done.is_err() {
                    let again = bench.run(&options);
                    assert!(
                        std::fs::read(bench.at("out.png")).expect("made") == expected,
                        "{fault:?} at {n}: {again:?}"
                    );
                }
                // A spool that could not be removed is told of; nothing else may lie around.
                if bench.at("out.png.tessera").exists() {
                    assert!(
                        done.as_ref().is_ok_and(|r| r.notes.iter().any(|t| t.contains("spool"))),
                        "{fault:?} at {n}"
                    );
                    std::fs::remove_dir_all(bench.at("out.png.tessera")).expect("removed");
                }
                assert_eq!(names(bench.folder.path()), expected_names, "{fault:?} at {n}");
                if hits == 0 {
                    assert!(n > 40, "the gate must have seen the calls: {n}");
                    break;
                }
            }
        }
    }
    assert!(kept > 10, "failures that keep what is finished: {kept}");
}
