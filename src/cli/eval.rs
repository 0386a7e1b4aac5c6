//! `tessera eval`: quality tables over a folder of pictures.

use super::progress::Display;
use super::{out, upscale::UpscaleArgs};
use clap::{Args, Parser};
use std::path::PathBuf;
use tessera::run::Cancel;
use tessera::run::eval::{self, EvalOptions, How, Method, PROTOCOLS};
use tessera::{Error, Kind, Result};

/// Shown below the options.
pub(super) const HELP: &str = "\
A method is `bicubic`, `liif` (the base picture of a casarbi model, in one jump), or a system with options of `tessera upscale`;
NAME= before it names its row, `cascade:` runs the system stage by stage, at most x4 each, and `A then B` lets the system B work on
what A enlarged, at that size (`A+B OPTIONS` is the same with equal options for both). Every picture made stays in the output folder: reference/, input/ and
one folder for each method, by scale, under the names of the originals, so that other programs can measure them (FID, LPIPS,
MUSIQ, NIQE and PI need weights that do not ship). Frechet distances are between features that need no weights, or with
--inception SIFID: between those of Inception v3 before its first pooling layer, as SinGAN's code has them.

Examples:
  tessera eval photos -o out --scales 2,4 --method bicubic --method onestep
  tessera eval photos -o out --scales 8,18 --method onestep --method 'stages=cascade:onestep --noise 0.1'
  tessera eval photos -o out --scales 4,8 --method liif --method liif+onestep --method casarbi
  tessera eval photos -o out --method casr --ablate
  tessera eval photos -o out --scales 8 --method cascade:onestep --inception inception_v3.safetensors
  tessera eval div8k -o out --protocol casr-div8k --method bicubic --method onestep";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// A folder of originals, which are reduced by exactly the scale
    pictures: PathBuf,
    /// A new folder for tables and pictures
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Factors, separated by commas [default: 4, or the protocol's]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scales: Vec<f64>,
    /// A row of the table; may be given several times [default: bicubic and onestep]
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// Split and scales of a paper: casr-div8k, casr-realsr, casr-celeba, casarbi-celeba or casarbi-div2k
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// The pictures are small ones without originals
    #[arg(long)]
    inputs_only: bool,
    /// Only the first so many pictures by name
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// Only the middle of each original, at most so many pixels a side
    #[arg(long, value_name = "PIXELS")]
    crop: Option<u32>,
    /// Also runs each system with each part left out that it can do without, and says how far the result is from the whole
    #[arg(long)]
    ablate: bool,
    /// Also compares each method's results of one input over the scales
    #[arg(long)]
    self_ssim: bool,
    /// Inception v3 as safetensors, by torchvision's names: Frechet distances are SIFID
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,
    /// Prints one JSON object for each result instead of the tables
    #[arg(long)]
    pub(super) json: bool,
}

/// One method's options, parsed as those of `tessera upscale`.
#[derive(Debug, Parser)]
struct Row {
    #[command(flatten)]
    upscale: UpscaleArgs,
}

/// Runs the evaluation and prints its tables.
pub(super) fn run(args: &EvalArgs, cancel: &Cancel) -> Result<()> {
    let protocol = args.protocol.as_deref().map(find).transpose()?;
    let mut scales = args.scales.clone();
    if scales.is_empty() {
        scales = protocol.map_or_else(|| vec![4.0], |p| p.scales.to_vec());
    }
    let given: &[String] = if args.method.is_empty() { &["bicubic".into(), "onestep".into()] } else { &args.method };
    let mut methods = given.iter().map(|m| method(m)).collect::<Result<Vec<_>>>()?;
    if args.ablate {
        let without: Vec<Method> = methods.iter().enumerate().flat_map(|(i, m)| m.ablated(i)).collect();
        methods.extend(without);
    }
    let options = EvalOptions {
        pictures: args.pictures.clone(),
        inputs_only: args.inputs_only || protocol.is_some_and(|p| p.inputs_only),
        output: args.output.clone(),
        scales,
        methods,
        last: protocol.map(|p| p.last).filter(|&last| last > 0),
        first: args.first,
        crop: args.crop,
        self_ssim: args.self_ssim,
        inception: args.inception.clone(),
    };
    let mut display = Display::new(None);
    let outcome = eval::eval(&options, &mut display, cancel);
    display.finish();
    let evaluation = outcome?;
    let text = if args.json { eval::json_lines(&evaluation) } else { eval::markdown(&evaluation) };
    out(text.trim_end())
}

fn find(name: &str) -> Result<&'static eval::Protocol> {
    eval::protocol(name).ok_or_else(|| {
        let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name).collect();
        Error::new(Kind::Usage, "usage", format!("there is no protocol `{name}`"))
            .advise(format!("use one of {}", names.join(", ")))
    })
}

/// `[NAME=]HOW`.
fn method(text: &str) -> Result<Method> {
    let refuse = |why: String| Error::new(Kind::Usage, "usage", format!("the method `{text}`: {why}"));
    let head = text.split_whitespace().next().unwrap_or_default();
    let (name, rest) = match head.split_once('=') {
        Some((name, _)) => (name, text.split_once('=').map_or("", |(_, rest)| rest)),
        None => (text, text),
    };
    if name.is_empty() {
        return Err(refuse("it has no name".into()));
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let how = how(&words).map_err(refuse)?;
    Ok(Method { name: name.to_owned(), how, of: None })
}

/// `bicubic`, `liif [options]`, `[cascade:]SYSTEM [options]`, `HOW then SYSTEM [options]` or `A+B [options]`; an error says why not.
fn how(words: &[&str]) -> std::result::Result<How, String> {
    if let Some(at) = words.iter().rposition(|w| *w == "then") {
        return then(&words[..at], &words[at + 1..]);
    }
    let Some((&head, options)) = words.split_first() else { return Err("it names no system".into()) };
    if let Some((a, b)) = head.rsplit_once('+') {
        let both = |head| [&[head], options].concat();
        return then(&if a == "bicubic" { vec![a] } else { both(a) }, &both(b));
    }
    let job = |system: &str| {
        let words = ["method", "-i", ".", "--system", system].into_iter().chain(options.iter().copied());
        let row = Row::try_parse_from(words).map_err(|e| super::usage_error(&e).message().to_owned())?;
        Ok::<_, String>(row.upscale.options())
    };
    match (head, head.strip_prefix("cascade:")) {
        ("bicubic", _) if options.is_empty() => Ok(How::Bicubic),
        ("bicubic", _) => Err("bicubic has no options".into()),
        ("liif", _) => Ok(How::liif(job("casarbi")?)),
        ("", _) | (_, Some("")) => Err("it names no system".into()),
        (_, Some(system)) => Ok(How::Cascade(Box::new(job(system)?))),
        (system, None) => Ok(How::Job(Box::new(job(system)?))),
    }
}

/// `first`, then a plain job.
fn then(first: &[&str], job: &[&str]) -> std::result::Result<How, String> {
    match how(job)? {
        How::Job(options) => Ok(How::Then(Box::new(how(first)?), options)),
        How::Bicubic | How::Cascade(_) | How::Then(..) => Err("what follows `then` is one system".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera::run::{Cascade, Off};

    #[test]
    fn methods_are_systems_with_options() {
        assert_eq!(method("bicubic").unwrap().how, How::Bicubic);
        let m = method("quick=cascade:onestep --seed 7").unwrap();
        let How::Cascade(options) = &m.how else { panic!("{m:?}") };
        assert_eq!((m.name.as_str(), options.system.as_deref(), options.seed), ("quick", Some("onestep"), 7));
        let How::Job(liif) = method("liif --tile 64").unwrap().how else { panic!("a job") };
        assert_eq!((liif.system.as_deref(), liif.tile), (Some("casarbi"), Some(64)));
        assert_eq!((liif.sampler.off, liif.sampler.cascade), (vec![Off::Denoiser], Some(Cascade::Single)));
        let both = method("liif+onestep --seed 7").unwrap();
        assert_eq!(both.name, "liif+onestep --seed 7");
        assert_eq!(both.how, method("x=liif --seed 7 then onestep --seed 7").unwrap().how);
        assert!(
            matches!(method("x=bicubic+onestep -t 64").unwrap().how, How::Then(first, _) if *first == How::Bicubic)
        );
        for bad in [
            "",
            "=onestep",
            "onestep --no-such-option",
            "x=cascade:",
            "x=",
            "bicubic --seed 1",
            "then onestep",
            "onestep then bicubic",
            "bicubic+",
        ] {
            assert_eq!(method(bad).err().map(|e| e.kind()), Some(Kind::Usage), "{bad}");
        }
    }
}
