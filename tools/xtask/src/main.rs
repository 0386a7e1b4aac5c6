//! Tasks of the repository: `cargo xtask TASK`.

mod kernels;
mod toolchain;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask kernels            builds kernels/ptx/*.ptx and kernels/resources.txt with a pinned compiler
cargo xtask kernels --check    builds them apart and compares, byte for byte";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["kernels"] => kernels::build(),
        ["kernels", "--check"] => kernels::check(),
        _ => Err(format!("what to do?\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            // 3: nothing is wrong with the repository, but this machine lacks what the task needs.
            ExitCode::from(if why.starts_with(toolchain::MISSING) { 3 } else { 1 })
        }
    }
}
