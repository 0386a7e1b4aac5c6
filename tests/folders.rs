//! Folders in and out, what is listed of them, and what is cleaned up.

use crate::program::{self, run};
use std::path::Path;

/// A folder of inputs with two pictures of one stem, one in a folder of its own, and two files that are none.
fn inputs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("written");
    std::fs::create_dir_all(folder.path().join("in/inner")).expect("made");
    write("in/b.png", &program::png(24, 20));
    write("in/a.png", &program::png(20, 24));
    write("in/a.jpg", &program::jpeg(30, 16));
    write("in/notes.txt", b"bread, milk\n");
    write("in/broken.png", &program::png(16, 16)[..60]);
    write("in/.hidden.png", b"not looked at");
    write("in/inner/c.png", &program::png(17, 17));
    folder
}

fn args(folder: &Path, more: &[&str]) -> Vec<String> {
    let text = |name: &str| folder.join(name).to_str().expect("a plain name").to_owned();
    let mut all = vec!["upscale".to_owned(), "-i".into(), text("in"), "-o".into(), text("out")];
    all.extend(["-s", "2", "-g", "cpu"].iter().chain(more).map(|a| a.to_string()));
    all
}

fn outputs(folder: &Path) -> Vec<String> {
    let all = program::snapshot(&folder.join("out"));
    all.keys().map(|p| p.to_string_lossy().replace('\\', "/")).filter(|n| n != "tessera-manifest.jsonl").collect()
}

fn manifest(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("out/tessera-manifest.jsonl")).expect("a manifest");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn a_folder_is_done_and_what_is_no_picture_reported() {
    let folder = inputs();
    let r = run(&args(folder.path(), &["-f", "png"]));
    assert_eq!(r.code, Some(1), "{r:?}");
    assert_eq!(outputs(folder.path()), ["a.jpg.png", "a.png.png", "b.png"]);
    assert_eq!(r.stdout.lines().count(), 3, "{r:?}");
    assert!(r.stderr.contains("notes.txt") && r.stderr.contains("broken.png"), "{}", r.stderr);
    assert!(r.last_line().contains("3 done") && r.last_line().contains("2 failed"), "{}", r.last_line());
    let made = image::open(folder.path().join("out/a.jpg.png")).expect("a picture");
    assert_eq!((made.width(), made.height()), (60, 32));

    let lines = manifest(folder.path());
    let of = |status: &str| lines.iter().filter(|l| l["status"] == status).count();
    assert_eq!((of("started"), of("done"), of("failed")), (3, 3, 2));
    let done = lines.iter().find(|l| l["status"] == "done" && l["input"] == "a.jpg").expect("listed");
    assert_eq!(
        (&done["output"], &done["to"], &done["seed"]),
        (&"a.jpg.png".into(), &serde_json::json!([60, 32]), &0.into())
    );
    assert!(
        done["seconds"].as_f64().is_some_and(|s| s > 0.0) && done["device"].is_string() && done["model"].is_string()
    );
    let failed = lines.iter().find(|l| l["input"] == "notes.txt").expect("listed");
    assert_eq!(failed["error"]["kind"], "bad_input");

    // Again: what is there is left, by either option; without one it is in the way.
    let before = program::snapshot(&folder.path().join("out"));
    for option in ["--skip-existing", "--resume"] {
        let r = run(&args(folder.path(), &["-f", "png", option, "--json"]));
        let report = r.json();
        assert_eq!((r.code, &report["skipped"], &report["failed"]), (Some(1), &3.into(), &2.into()), "{report}");
    }
    let r = run(&args(folder.path(), &["-f", "png"]));
    assert!(r.last_line().contains("0 done") && r.last_line().contains("5 failed"), "{}", r.last_line());
    for (name, bytes) in program::snapshot(&folder.path().join("out")) {
        assert!(name.ends_with("tessera-manifest.jsonl") || before.get(&name) == Some(&bytes), "{name:?} changed");
    }
    // Made with other options: --resume does not take them for its own.
    let r = run(&args(folder.path(), &["-f", "png", "--resume", "--noise", "0.5"]));
    assert!(r.last_line().contains("0 skipped") && r.last_line().contains("5 failed"), "{}", r.last_line());
}

#[test]
fn folders_in_folders_and_dry_runs() {
    let folder = inputs();
    for name in ["in/notes.txt", "in/broken.png"] {
        std::fs::remove_file(folder.path().join(name)).expect("removed");
    }
    let before = program::snapshot(folder.path());
    let r = run(&args(folder.path(), &["--recursive", "--dry-run", "--json"]));
    assert_eq!((r.code, &r.json()["done"]), (Some(0), &4.into()), "{r:?}");
    assert!(program::snapshot(folder.path()) == before, "a dry run changes nothing");
    let r = run(&args(folder.path(), &["--recursive"]));
    assert_eq!(r.code, Some(0), "{r:?}");
    assert_eq!(outputs(folder.path()), ["a.jpg", "a.png", "b.png", "inner", "inner/c.png"]);
    // Sorted, and a killed line at the end of the manifest is no harm.
    let path = folder.path().join("out/tessera-manifest.jsonl");
    let mut text = std::fs::read_to_string(&path).expect("a manifest");
    text.push_str("{\"status\": \"do");
    std::fs::write(&path, text).expect("written");
    std::fs::remove_file(folder.path().join("out/b.png")).expect("removed");
    let r = run(&args(folder.path(), &["--recursive", "--resume"]));
    assert!(r.code == Some(0) && r.last_line().contains("1 done, 3 skipped"), "{r:?}");
    let order: Vec<String> =
        manifest(folder.path()).iter().filter(|l| l["status"] == "done").map(|l| l["input"].to_string()).collect();
    assert_eq!(order.len(), 5);
    assert!(order[..4].is_sorted(), "{order:?}");
}

#[test]
fn senseless_folders_are_refused_before_anything_is_done() {
    let folder = inputs();
    let before = program::snapshot(folder.path());
    let text = |name: &str| folder.path().join(name).to_str().expect("a plain name").to_owned();
    for (input, output, says) in [("in", None, "-o"), ("in", Some("in"), "another"), ("in", Some("in/b.png"), "folder")]
    {
        let mut args = vec!["upscale".to_owned(), "-i".into(), text(input)];
        args.extend(output.iter().flat_map(|o| ["-o".to_owned(), text(o)]));
        let r = run(&args);
        assert_eq!(r.code, Some(2), "{r:?}");
        assert!(r.last_line().contains(says), "{r:?}");
    }
    assert!(program::snapshot(folder.path()) == before);
}

#[test]
fn clean_removes_what_is_left_behind_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["a.png.tessera", "mine.tessera", "inner/b.png.tessera", "holiday"] {
        std::fs::create_dir_all(at(name)).expect("made");
    }
    for (name, bytes) in [
        ("a.png.tessera/journal", 100),
        ("a.png.tessera/output.rows", 900),
        ("a.png.tessera/lock", 0),
        ("inner/b.png.tessera/journal", 50),
        ("mine.tessera/diary.txt", 10),
        ("holiday/.out.png.tessera-part", 30),
        (".out.png.tessera-part", 24),
        ("out.png", 70),
    ] {
        std::fs::write(at(name), vec![b'x'; bytes]).expect("written");
    }
    let folder_text = folder.path().to_str().expect("a plain name");
    let before = program::snapshot(folder.path());
    let r = run(&["clean", folder_text, "--dry-run", "--recursive"]);
    assert_eq!((r.code, r.stdout.lines().count()), (Some(0), 4), "{r:?}");
    assert!(r.last_line().contains("4 would be removed"), "{r:?}");
    let mut now = program::snapshot(folder.path());
    now.retain(|name, _| !name.ends_with("lock"));
    assert!(now.len() + 1 == before.len(), "a dry run removes nothing");
    let r = run(&["clean", folder_text]);
    assert_eq!((r.code, r.stdout.lines().count()), (Some(0), 2), "{r:?}");
    assert!(!at("a.png.tessera").exists() && !at(".out.png.tessera-part").exists());
    assert!(at("inner/b.png.tessera").exists() && at("holiday/.out.png.tessera-part").exists());
    // A spool may be named itself.
    let r = run(&[
        "clean",
        at("inner/b.png.tessera").to_str().expect("a plain name"),
        at("holiday").to_str().expect("plain"),
    ]);
    assert_eq!((r.code, r.stdout.lines().count()), (Some(0), 2), "{r:?}");
    let left: Vec<String> =
        program::snapshot(folder.path()).keys().map(|p| p.to_string_lossy().replace('\\', "/")).collect();
    assert_eq!(left, ["holiday", "inner", "mine.tessera", "mine.tessera/diary.txt", "out.png"]);
    assert_eq!(run(&["clean", at("none").to_str().expect("plain")]).code, Some(6));
}
