//! Schedules against diffusers: `tests/data/schedules/expected.json`, which
//! `tools/reference/make_schedules.py` writes by running diffusers' own schedulers in f64.

use crate::source;
use crate::tolerance;
use serde_json::Value;
use tessera::system::schedule::{Method, SchedulerConfig, guidance, trailing};

fn expected() -> Value {
    let path = source::root().join("tests/data/schedules/expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("file")).expect("JSON")
}

fn array(v: &Value) -> &[Value] {
    v.as_array().expect("array")
}

fn number(v: &Value) -> f64 {
    v.as_f64().expect("number")
}

/// Difference, relative or absolute, whichever is smaller.
fn difference(got: f64, expected: f64) -> f64 {
    (got - expected).abs() / expected.abs().max(1.0)
}

#[test]
fn every_coefficient_is_the_one_of_diffusers() {
    let (mut worst, mut compared) = (0.0f64, 0);
    let expected = expected();
    for case in array(&expected["cases"]) {
        let method = match case["method"].as_str().expect("method") {
            "ddpm" => Method::Ddpm,
            "ddim" => Method::Ddim { eta: number(&case["eta"]) },
            "euler" => Method::Euler,
            other => panic!("method {other}"),
        };
        let config = SchedulerConfig::read_as(method, &case["config"].to_string()).expect("config");
        for run in array(&case["runs"]) {
            let count = run["count"].as_u64().expect("count") as u32;
            let what = format!("{}, {count} steps", case["name"]);
            let got = config.sampling(count).expect(&what);
            let mut check = |got: f64, expected: f64, of: &str| {
                let d = difference(got, expected);
                assert!(d <= tolerance::SCHEDULE, "{what}: {of} is {got:e}, diffusers has {expected:e}");
                (worst, compared) = (worst.max(d), compared + 1);
            };
            check(got.initial, number(&run["initial"]), "initial deviation");
            assert_eq!(got.steps.len(), array(&run["steps"]).len(), "{what}");
            for (step, row) in got.steps.iter().zip(array(&run["steps"])) {
                let [a, b] = step.clean;
                let [x, p, n] = step.next;
                let names = ["time step", "input", "clean x", "clean prediction", "x", "prediction", "noise"];
                for ((got, row), name) in [step.timestep, step.input, a, b, x, p, n].iter().zip(array(row)).zip(names) {
                    check(*got, number(row), &format!("{name} at {}", step.timestep));
                }
            }
        }
    }
    println!("{compared} numbers, largest difference {worst:.2e}");
    assert_eq!(compared, 627 * 7 + 59, "every number of the file");
}

#[test]
fn half_time_steps_round_as_in_diffusers() {
    let expected = expected();
    for (count, steps) in expected["trailing"].as_object().expect("counts") {
        let got = trailing(1000, count.parse().expect("count"));
        let steps: Vec<u32> = array(steps).iter().map(|t| t.as_u64().expect("step") as u32).collect();
        let ends = [got[0], got[got.len() - 1]];
        assert!(got == steps || (count == "1000" && steps == ends), "{count}: {got:?}, diffusers has {steps:?}");
    }
    assert_eq!(trailing(1000, 61).len(), 61, "numpy's arange gives one too many here, at step -1");
}

#[test]
fn guidance_moves_from_one_prediction_through_the_other() {
    for scale in [0.0, 1.0, 7.5] {
        let [without, with] = guidance(scale);
        let (u, c) = (0.3, -1.1);
        assert!(difference(without * u + with * c, u + scale * (c - u)) <= tolerance::SCHEDULE);
    }
    assert_eq!(guidance(1.0), [0.0, 1.0]);
}
