//! The command line: what people type becomes plain options, what the library reports becomes text or
//! JSON. Results go to stdout, messages to stderr; the exit code is the error's kind.
//!
//! One file for each command; `units` has the sizes they share.

mod again;
mod bench;
mod clean;
mod compare;
mod devices;
mod eval;
mod folder;
mod inspect;
mod on_device;
mod progress;
mod run;
mod signal;
mod units;
mod upscale;

use clap::{Parser, Subcommand};
use progress::say;
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use tessera::run::Cancel;
use tessera::{Error, Kind, Result};

/// Upscales pictures by diffusion, at any scale, inside a memory budget.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = TOP_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Exit code of a job over many files some of which failed.
const SOME_FAILED: u8 = 1;

const TOP_HELP: &str = "\
Results go to stdout, messages to stderr. Exit codes: 0 done, 1 some of many failed, 2 usage, 3 model or weights,
4 device, 5 memory or budget, 6 input or output file, 7 bad numeric result, 130 interrupted, 143 terminated.

Example:
  tessera upscale -i photo.jpg -o large.png -s 4";

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a picture larger
    #[command(after_help = upscale::HELP)]
    Upscale(Box<upscale::UpscaleArgs>),
    /// Lists the devices that --device takes
    Devices(devices::DevicesArgs),
    /// Describes a model: networks, parameters, the systems it can serve
    #[command(after_help = inspect::HELP)]
    Inspect(inspect::InspectArgs),
    /// Runs one network on given tensors: to hold it against another program, or to look inside
    #[command(after_help = run::HELP)]
    Run(run::RunArgs),
    /// Says how alike two pictures of one size are: PSNR, SSIM, GMSD, HaarPSI
    #[command(after_help = compare::HELP)]
    Compare(compare::CompareArgs),
    /// Measures upscalers over a folder of pictures: tables, a picture sheet and a page
    #[command(after_help = eval::HELP)]
    Eval(eval::EvalArgs),
    /// Measures how fast kernels, networks and whole jobs are
    #[command(after_help = bench::HELP)]
    Bench(bench::BenchArgs),
    /// Removes what interrupted jobs left behind
    #[command(after_help = clean::HELP)]
    Clean(clean::CleanArgs),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    // A panic is a bug of ours: it ends as an error of one line and the code of its kind, like every other.
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        say(&format!("internal: {place}: {text} [a bug in this program, please report it]"));
    }));
    match std::panic::catch_unwind(start) {
        Ok(code) => code,
        Err(_) => ExitCode::from(Kind::Internal.exit_code()),
    }
}

fn start() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and the version are results, not errors.
        Err(e) if e.exit_code() == 0 => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(&usage_error(&e), false),
    };
    let cancel = Cancel::new();
    signal::listen(&cancel);
    let (outcome, as_json) = match &cli.command {
        Command::Upscale(args) => (upscale::run(args, &cancel), args.json),
        Command::Run(args) => (run::run(args, &cancel).map(|()| true), args.json),
        Command::Devices(args) => (devices::run(args).map(|()| true), args.json),
        Command::Inspect(args) => (inspect::run(args).map(|()| true), args.json),
        Command::Compare(args) => (compare::run(args).map(|()| true), args.json),
        Command::Eval(args) => (eval::run(args, &cancel).map(|()| true), args.json),
        Command::Bench(args) => (bench::run(args, &cancel).map(|()| true), args.json()),
        Command::Clean(args) => (clean::run(args), false),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        // Each failure was told when it happened.
        Ok(false) => ExitCode::from(SOME_FAILED),
        Err(e) => fail(&e, as_json),
    }
}

/// Prints an error and gives its exit code.
fn fail(e: &Error, as_json: bool) -> ExitCode {
    let code = match (e.kind(), signal::exit_code()) {
        (Kind::Cancelled, Some(code)) => code,
        _ => e.exit_code(),
    };
    // One line, whatever a file name or a library's message contains.
    say(&one_line(&e.to_string()));
    if as_json {
        let error = json!({"kind": e.kind().name(), "stage": e.stage(), "message": e.message(), "advice": e.advice(), "exit_code": code});
        // The error itself has been said; that stdout is gone too changes nothing.
        let _ = out(&json!({"error": error}).to_string());
    }
    ExitCode::from(code)
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What the parser of the command line says, without its usage text.
fn usage_error(e: &clap::Error) -> Error {
    let text = e.render().to_string();
    let before_usage = text.split("\n\nUsage:").next().unwrap_or(&text);
    let before_hint = before_usage.split("\n\nFor more information").next().unwrap_or(before_usage);
    let message = one_line(before_hint.trim_start_matches("error:").trim());
    Error::new(Kind::Usage, "usage", message).advise("see tessera --help, tessera upscale --help")
}

/// Writes a result to stdout. A reader that has gone away (`| head`) is no error.
fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::new(Kind::Io, "stdout", e.to_string())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use tessera::run::Size;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn size_options() {
        let size = |args: &[&str]| {
            let all = ["tessera", "upscale", "-i", "a.png"].iter().chain(args);
            match Cli::try_parse_from(all).map(|c| c.command) {
                Ok(Command::Upscale(args)) => Some(args.size()),
                _ => None,
            }
        };
        assert_eq!(size(&[]), Some(Size::Scale(4.0)));
        assert_eq!(size(&["-s", "2.5"]), Some(Size::Scale(2.5)));
        assert_eq!(size(&["-s", "-2"]), Some(Size::Scale(-2.0)));
        assert_eq!(size(&["--width", "9"]), Some(Size::Width(9)));
        assert_eq!(size(&["--height", "9"]), Some(Size::Height(9)));
        assert_eq!(size(&["--height", "9", "--width", "8"]), Some(Size::Both(8, 9)));
        assert_eq!(size(&["--megapixels", "33"]), Some(Size::Megapixels(33.0)));
        assert_eq!(size(&["-s", "2", "--width", "8"]), None);
        assert_eq!(size(&["--megapixels", "2", "--width", "8"]), None);
    }

    #[test]
    fn errors_take_one_line() {
        let e = Cli::try_parse_from(["tessera", "upscale"]).expect_err("no input");
        let text = usage_error(&e).to_string();
        assert!(text.contains("--input") && !text.contains('\n') && !text.contains("Usage:"), "{text}");
        assert_eq!(one_line("a\n  b\r\n\nc"), "a b c");
    }
}
