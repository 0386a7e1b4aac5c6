//! The program killed without warning: the output is never torn, and what is resumed has the bytes of an undisturbed
//! run. `tools/nightly` does the same a hundred times.
#![cfg(unix)]

use crate::program;
use crate::upscale::{Bench, picture};
use std::path::Path;
use std::process::Child;
use std::time::Duration;
use tessera::image::{Colour, Depth};

/// Rows that a journal has.
fn rows(journal: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(journal).ok()?;
    let bands = text.lines().filter_map(|l| l.split_once(" rows "));
    Some(bands.filter_map(|(_, b)| b.split(' ').nth(1)?.parse::<u64>().ok()).sum())
}

/// A job of a few hundred windows, some bands, and its arguments.
fn job(bench: &Bench, out: &str) -> Vec<String> {
    if !bench.at("in.png").exists() {
        picture(&bench.at("in.png"), 150, 500, Colour::Rgba, Depth::Sixteen);
    }
    let text = |p: &Path| p.to_str().expect("a plain name").to_owned();
    let (input, output, model) = (text(&bench.at("in.png")), text(&bench.at(out)), text(&bench.at("model")));
    let args = ["upscale", "-i", &input, "-o", &output, "-m", &model, "-s", "2.5", "-t", "64", "-g", "cpu", "--resume"];
    args.map(str::to_owned).to_vec()
}

/// Whether `done` became true before the program ended.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) -> bool {
    while child.try_wait().expect("asked").is_none() {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_killed_job_is_resumed_to_equal_bytes() {
    let bench = Bench::new();
    let r = program::run(&job(&bench, "whole.png"));
    assert_eq!(r.code, Some(0), "{r:?}");
    let expected = std::fs::read(bench.at("whole.png")).expect("made");
    let before = program::snapshot(bench.folder.path()).len();
    let journal = bench.at("out.png.tessera/journal");
    let mut caught = 0;
    for (i, done) in [0, 1, 300, 600, 1000].into_iter().enumerate() {
        // Every other time over an old output, which stays until the new one is complete.
        let old = (i % 2 == 1).then(|| b"the old picture".to_vec());
        let mut args = job(&bench, "out.png");
        if let Some(old) = &old {
            std::fs::write(bench.at("out.png"), old).expect("written");
            args.push("--overwrite".into());
        }
        let mut child = program::command(&args).spawn().expect("started");
        wait_until(&mut child, || rows(&journal).is_some_and(|r| r >= done));
        // Somewhere in the windows after that.
        std::thread::sleep(Duration::from_millis(i as u64 * 29 % 70));
        caught += u32::from(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        child.wait().expect("ended");
        let now = std::fs::read(bench.at("out.png")).ok();
        assert!(now == old || now.as_ref() == Some(&expected), "torn after {done} rows");
        let r = program::run(&args);
        // A job that was complete is not begun again without --overwrite.
        assert!(r.code == Some(0) || now.as_ref() == Some(&expected) && r.stderr.contains("exists"), "{r:?}");
        assert!(std::fs::read(bench.at("out.png")).expect("made") == expected, "resumed after {done} rows");
        std::fs::remove_file(bench.at("out.png")).expect("removed");
        assert_eq!(program::snapshot(bench.folder.path()).len(), before, "something was left");
    }
    assert!(caught >= 3, "only {caught} of 5 runs were still at work");
}

/// Modes of several passes: killed between passes, where states of the whole picture are saved, and in the last one.
#[test]
fn a_killed_job_of_several_passes_is_resumed_to_equal_bytes() {
    for mode in ["exact", "shared"] {
        let bench = Bench::new();
        let job = |out: &str| -> Vec<String> {
            let mut args = job(&bench, out);
            args.extend(["--vae".to_owned(), mode.to_owned()]);
            args
        };
        let r = program::run(&job("whole.png"));
        assert_eq!(r.code, Some(0), "{r:?}");
        let expected = std::fs::read(bench.at("whole.png")).expect("made");
        let before = program::snapshot(bench.folder.path()).len();
        let journal = bench.at("out.png.tessera/journal");
        let points = || std::fs::read_to_string(&journal).is_ok_and(|t| t.lines().any(|l| l.contains(" point ")));
        let mut caught = 0;
        for done in [None, Some(1), Some(600)] {
            let args = job("out.png");
            let mut child = program::command(&args).spawn().expect("started");
            wait_until(&mut child, || done.map_or_else(points, |done| rows(&journal).is_some_and(|r| r >= done)));
            caught += u32::from(child.try_wait().expect("asked").is_none());
            child.kill().expect("killed");
            child.wait().expect("ended");
            let now = std::fs::read(bench.at("out.png")).ok();
            assert!(now.is_none() || now.as_ref() == Some(&expected), "{mode}: torn after {done:?} rows");
            let r = program::run(&args);
            assert!(r.code == Some(0) || now.is_some() && r.stderr.contains("exists"), "{mode}: {r:?}");
            assert!(std::fs::read(bench.at("out.png")).expect("made") == expected, "{mode}: resumed after {done:?}");
            std::fs::remove_file(bench.at("out.png")).expect("removed");
            assert_eq!(program::snapshot(bench.folder.path()).len(), before, "{mode}: something was left");
        }
        assert!(caught >= 2, "{mode}: only {caught} of 3 runs were still at work");
    }
}

#[test]
fn a_job_killed_while_it_encodes_is_encoded_again() {
    let bench = Bench::new();
    let r = program::run(&job(&bench, "whole.png"));
    assert_eq!(r.code, Some(0), "{r:?}");
    let expected = std::fs::read(bench.at("whole.png")).expect("made");
    let journal = bench.at("out.png.tessera/journal");
    let complete = || rows(&journal) == Some(1250);
    let mut caught = 0;
    for wait in [0, 20, 60] {
        let args = job(&bench, "out.png");
        let mut child = program::command(&args).spawn().expect("started");
        wait_until(&mut child, complete);
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().expect("killed");
        child.wait().expect("ended");
        caught += u32::from(journal.exists());
        let now = std::fs::read(bench.at("out.png")).ok();
        assert!(now.is_none() || now.as_ref() == Some(&expected), "torn");
        let r = program::run(&args);
        // Killed between the move to its place and the end, the job is found done.
        let done = !journal.exists() && now.is_some() && r.stderr.contains("exists");
        assert!(r.code == Some(0) || done, "{r:?}");
        assert!(std::fs::read(bench.at("out.png")).expect("made") == expected);
        std::fs::remove_file(bench.at("out.png")).expect("removed");
        assert!(!journal.exists());
    }
    assert!(caught > 0, "no run was killed while it encoded");
}
