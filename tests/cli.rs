//! The program from outside: what its help says, what it prints where, its exit codes, its signals.

use crate::program::{self, run};
use crate::source;
use std::collections::BTreeSet;
use std::path::Path;

/// The long options that a help text lists.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|l| l.starts_with('-'));
    lines.filter_map(|l| l.split([' ', ',']).find(|w| w.starts_with("--"))).map(str::to_string).collect()
}

#[test]
fn help_lists_commands_that_all_explain_themselves() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    let list = help.stdout.split("Commands:").nth(1).and_then(|t| t.split("\n\n").next()).expect("a list of commands");
    let names: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(names.contains(&"upscale") && names.contains(&"devices") && names.contains(&"inspect"), "{names:?}");
    for name in names.into_iter().filter(|n| *n != "help") {
        let own = run(&[name, "--help"]);
        assert_eq!(own.code, Some(0), "{name}");
        assert!(own.stdout.contains(&format!("tessera {name}")), "{}", own.stdout);
    }
}

#[test]
fn readme_lists_exactly_the_options_there_are() {
    let readme = source::read(Path::new("README.md"));
    let rows = readme.lines().filter(|l| l.starts_with("| `-"));
    let cells = rows.filter_map(|l| l.split('|').nth(1));
    let words = cells.flat_map(|c| c.split(['`', ' ', ',']));
    let listed: BTreeSet<String> = words.filter(|w| w.starts_with("--")).map(str::to_string).collect();
    let mut there = options(&run(&["upscale", "--help"]).stdout);
    assert!(there.remove("--help"));
    assert_eq!(listed, there, "left: README.md, right: tessera upscale --help");
}

#[test]
fn version_is_the_packages() {
    let v = run(&["--version"]);
    assert_eq!((v.code, v.stdout.trim()), (Some(0), concat!("tessera ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn devices_start_with_the_host() {
    let text = run(&["devices"]);
    assert_eq!(text.code, Some(0));
    assert!(text.stdout.starts_with("cpu "), "{text:?}");
    let list = run(&["devices", "--json"]).json();
    let list = list.as_array().expect("an array");
    assert_eq!(list[0]["id"], "cpu");
    assert_eq!(list.len(), text.stdout.lines().filter(|l| !l.starts_with(' ')).count());
    for device in list {
        for key in ["id", "name", "interface", "driver", "hardware", "memory", "notes"] {
            assert!(device.get(key).is_some(), "{device} lacks {key}");
        }
    }
}

#[test]
fn usage_errors_are_one_line_and_code_2() {
    let cases: [&[&str]; 7] = [
        &[],
        &["sharpen"],
        &["upscale"],
        &["upscale", "-i", "a.png", "--no-such-option"],
        &["upscale", "-i", "a.png", "-s", "two"],
        &["upscale", "-i", "a.png", "-s", "2", "--width", "9"],
        &["upscale", "-i", "a.png", "--ram", "4 apples"],
    ];
    for args in cases {
        let r = run(args);
        assert_eq!(r.code, Some(2), "{args:?}: {r:?}");
        assert_eq!(r.stdout, "", "{args:?}");
        assert_eq!(r.stderr.lines().count(), 1, "{args:?}: {}", r.stderr);
        assert!(r.stderr.starts_with("usage: ") && r.stderr.contains("--help"), "{args:?}: {}", r.stderr);
    }
}

#[test]
fn errors_are_json_too() {
    let r = run(&["upscale", "-i", "/no/such/picture.png", "--json"]);
    assert_eq!(r.code, Some(6), "{r:?}");
    let error = &r.json()["error"];
    assert_eq!(error["exit_code"], 6);
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("picture.png"), "{message}");
    assert!(r.last_line().contains(message), "{r:?}");
}

#[test]
fn a_picture_comes_out_and_the_report_is_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("small.png");
    std::fs::write(&input, program::png(33, 21)).expect("written");
    let input = input.to_str().expect("a plain name");
    let r = run(&["upscale", "-i", input, "-s", "2.5", "--device", "cpu", "--json", "--progress", "json"]);
    assert_eq!(r.code, Some(0), "{r:?}");
    let report = r.json();
    assert_eq!((&report["output"]["width"], &report["output"]["height"]), (&83.into(), &53.into()));
    // Without -o: beside the input, with the scale in its name.
    let path = Path::new(report["output"]["path"].as_str().expect("a path")).to_path_buf();
    assert_eq!(path, folder.path().join("small_2.5x.png"));
    let made = image::open(&path).expect("a picture");
    assert_eq!((made.width(), made.height()), (83, 53));
    for line in r.stderr.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|v| v.is_object()), "not JSON: {line}");
    }
    // It says which device it took.
    assert!(report["device"]["name"].as_str().is_some_and(|w| !w.is_empty()), "{report}");
    assert!(report["device"]["why"].as_str().is_some_and(|w| !w.is_empty()), "{report}");
}

#[test]
fn results_go_to_stdout_and_messages_to_stderr() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("small.png"), folder.path().join("large.png"));
    std::fs::write(&input, program::png(24, 20)).expect("written");
    let paths = [&input, &output].map(|p| p.to_str().expect("a plain name"));
    let args = ["upscale", "-i", paths[0], "-o", paths[1], "-s", "2", "-g", "cpu"];
    let dry = run(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stdout.contains("48x40") && !output.exists(), "{dry:?}");
    let r = run(&args);
    assert_eq!((r.code, r.stdout.trim()), (Some(0), paths[1]), "{r:?}");
    assert!(r.stderr.contains("cpu") && r.stderr.contains("48x40"), "{}", r.stderr);
}

#[test]
fn compare_prints_figures_and_json() {
    let example = |name: &str| source::root().join("docs/example").join(name).to_string_lossy().into_owned();
    let (small, large) = (example("astronaut_128.png"), example("astronaut_512.png"));
    let text = run(&["compare", "--bicubic", &small, &large]);
    assert_eq!(text.code, Some(0), "{text:?}");
    let names: Vec<&str> = text.stdout.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, ["psnr", "ssim", "gmsd", "haarpsi"]);
    let scores = run(&["compare", "--bicubic", &small, &large, "--json"]).json();
    for (line, name) in text.stdout.lines().zip(names) {
        let printed = line.split_whitespace().nth(1).expect("a value");
        let exact = scores[name].as_f64().expect("a number");
        let decimals = printed.split('.').nth(1).map_or(0, str::len);
        assert_eq!(format!("{exact:.decimals$}"), printed, "{name}");
    }
    // Equal pictures: no finite PSNR, and the best of every other figure.
    let equal = run(&["compare", &small, &small, "--json"]).json();
    assert!(equal["psnr"].is_null() && equal["gmsd"] == 0.0, "{equal}");
    let other_sizes = run(&["compare", &small, &large]);
    assert_eq!(other_sizes.code, Some(2), "{other_sizes:?}");
}

/// A job that takes minutes must end within two seconds of a signal, and at once after a second one, say by its
/// exit code which signal it was, and leave nothing, or what `--resume` goes on with.
#[cfg(unix)]
#[test]
fn signals_end_a_job_and_leave_nothing_but_what_can_be_resumed() {
    use std::time::{Duration, Instant};
    for (signal, code, times, keep) in
        [("INT", 130, 1, "--no-resume"), ("TERM", 143, 1, "--resume"), ("INT", 130, 2, "--resume")]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let (input, output) = (folder.path().join("in.png"), folder.path().join("out.png"));
        std::fs::write(&input, program::png(1600, 1200)).expect("written");
        let before = program::snapshot(folder.path());
        let paths = [&input, &output].map(|p| p.to_str().expect("a plain name"));
        let mut child = program::command(&["upscale", "-i", paths[0], "-o", paths[1], "-s", "4", "-g", "cpu", keep])
            .spawn()
            .expect("started");
        std::thread::sleep(Duration::from_secs(3));
        assert!(child.try_wait().expect("asked").is_none(), "the job ended before it could be interrupted");
        let began = Instant::now();
        for _ in 0..times {
            let mut kill = std::process::Command::new("kill");
            let sent = kill.args([&format!("-{signal}"), &child.id().to_string()]).status();
            assert!(sent.expect("kill runs").success());
            // Two pending signals of one kind are one: the first must have been taken.
            std::thread::sleep(Duration::from_millis(50));
        }
        let out = child.wait_with_output().expect("ended");
        let took = began.elapsed();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{signal}: {stderr}");
        assert!(took < Duration::from_secs(2) + Duration::from_millis(500), "{signal}: took {took:?}");
        let spool = folder.path().join("out.png.tessera");
        if spool.exists() {
            assert!(
                keep == "--resume" && stderr.contains("--resume") && stderr.contains("out.png.tessera"),
                "{stderr}"
            );
            std::fs::remove_dir_all(&spool).expect("removed");
        }
        assert!(program::snapshot(folder.path()) == before, "{signal}: something was left in {:?}", folder.path());
    }
}
