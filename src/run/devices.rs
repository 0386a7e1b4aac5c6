//! The devices `--device` may name, as plain data.

/// One device a job can run on.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `wgpu:0`.
    pub id: String,
    /// The device's own name.
    pub name: String,
    /// The interface it is reached through: `host`, `vulkan`, `metal`, `dx12`.
    pub interface: String,
    /// Driver name and version, empty where there is none.
    pub driver: String,
    /// Whether it is hardware (a software rasteriser is not).
    pub hardware: bool,
    /// Device memory in bytes, where it can be known.
    pub memory: Option<u64>,
    /// What it lacks or how it is limited.
    pub notes: Vec<String>,
}

/// Every device of this machine, the host's cores first.
pub fn devices() -> Vec<DeviceInfo> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    vec![DeviceInfo {
        id: "cpu".into(),
        name: format!("{} ({cores} threads)", std::env::consts::ARCH),
        interface: "host".into(),
        driver: String::new(),
        hardware: true,
        memory: None,
        notes: Vec::new(),
    }]
}
