//! The CUDA compiler, pinned by version, from the Python package index: no toolkit on the system is needed or used.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages and their exact versions. Another version writes other bytes: change it together with all of kernels/ptx.
const PACKAGES: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// How an error begins where the compiler cannot be installed.
pub const MISSING: &str = "no CUDA compiler";

/// Where the programs are.
pub struct Toolchain {
    bin: PathBuf,
}

impl Toolchain {
    /// Finds the compiler in `target/nvcc`, or installs it there.
    pub fn open(root: &Path) -> Result<Toolchain, String> {
        let home = root.join("target/nvcc");
        let marker = home.join("packages.txt");
        let wanted = PACKAGES.join("\n");
        if std::fs::read_to_string(&marker).is_ok_and(|t| t == wanted)
            && let Some(bin) = programs(&home)
        {
            return Ok(Toolchain { bin });
        }
        println!("installing the CUDA compiler into target/nvcc");
        let _ = std::fs::remove_dir_all(&home);
        let missing = |why| format!("{MISSING}: {why}");
        run(Command::new("python3").args(["-m", "venv"]).arg(&home)).map_err(missing)?;
        let pip = home.join("bin/pip");
        let install = ["install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(pip).args(install).args(PACKAGES)).map_err(missing)?;
        let bin = programs(&home).ok_or("the packages hold no nvcc")?;
        std::fs::write(&marker, wanted).map_err(|e| format!("{}: {e}", marker.display()))?;
        Ok(Toolchain { bin })
    }

    /// CUDA C++ to PTX for `arch`, without line information: that would hold absolute paths.
    ///
    /// What this compiler writes follows the addresses it happens to get. With `fixed` they are not shuffled,
    /// where the system lets `setarch` see to that; even so another folder may give another text.
    pub fn compile(&self, root: &Path, source: &Path, ptx: &Path, arch: &str, fixed: bool) -> Result<(), String> {
        let program = self.bin.join("nvcc");
        let mut nvcc = Command::new(if fixed { Path::new("setarch") } else { &program });
        if fixed {
            nvcc.arg("-R").arg(&program);
        }
        nvcc.current_dir(root).args(["-ptx", "-arch", arch, "-std=c++17", "-O3", "-I", "kernels"]);
        run(nvcc.arg(source).arg("-o").arg(ptx)).map(|_| ())
    }

    /// PTX to machine code for `card`, which is thrown away; what the assembler reports of each kernel.
    pub fn assemble(&self, ptx: &Path, card: &str) -> Result<String, String> {
        let mut ptxas = Command::new(self.bin.join("ptxas"));
        ptxas.arg("-v").arg(format!("-arch={card}")).arg(ptx).arg("-o").arg("/dev/null");
        run(&mut ptxas)
    }
}

/// The folder that holds nvcc below an environment.
fn programs(home: &Path) -> Option<PathBuf> {
    let python = std::fs::read_dir(home.join("lib")).ok()?.flatten().next()?.path();
    let bin = python.join("site-packages/nvidia/cu13/bin");
    bin.join("nvcc").is_file().then_some(bin)
}

/// Runs a program; all it printed, or an error with that.
fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(text) } else { Err(format!("{command:?}: {}\n{text}", out.status)) }
}
