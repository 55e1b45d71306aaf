//! `fuselstm devices`: what this machine can run models on.

use crate::Device;
use serde_json::json;

use crate::cli::common::{Failure, Output};

/// Arguments of `devices`: none.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, output: &mut Output) -> Result<bool, Failure> {
    let devices = Device::list();
    for device in &devices {
        output.line(format!("{:<10} {}", device.name, device.description));
        for (what, value) in &device.properties {
            output.line(format!("{:<10}   {what}: {value}", ""));
        }
    }
    if !devices.iter().any(|device| device.is_gpu) {
        output.line(if cfg!(feature = "gpu") {
            "no GPU adapter was found: a Vulkan, Metal or DirectX 12 driver is needed (on Debian the software one is in \
             mesa-vulkan-drivers)"
        } else {
            "this build has no GPU support (cargo feature `gpu`)"
        });
    }
    let properties = |device: &crate::session::DeviceReport| {
        device
            .properties
            .iter()
            .map(|(what, value)| ((*what).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
    };
    output.json(json!({
        "devices": devices.iter().map(|device| json!({
            "name": device.name,
            "description": device.description,
            "gpu": device.is_gpu,
            "usable": device.is_usable,
            "properties": properties(device),
        })).collect::<Vec<_>>(),
        "auto_gpu": devices.iter().any(|device| device.is_gpu && device.is_usable && !device.is_software),
        "default": Device::auto().to_string(),
    }));
    Ok(true)
}
