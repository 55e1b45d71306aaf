//! Placement: from the name of a device to a backend, the choice that `auto` makes, and what takes
//! over when a GPU fails.

mod cost;
mod device;
mod fallback;
mod open;

pub use device::Device;
pub use open::DeviceReport;
pub(crate) use open::open;
