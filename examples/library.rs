//! The library in fifteen lines: load, inspect, run, stream.
//!
//! `cargo run --release --example library -- model.tflite`

use fuselstm::{Device, Model, Result, Session, measure::inputs};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/data/digits.tflite".to_owned());
    let model = Model::open(path)?;
    model.inputs().iter().for_each(|input| println!("takes {input}"));
    let session = Session::new(&model, Device::auto())?;
    let given = inputs::seeded(&model, inputs::Sizes::default(), 1)?;
    let mut stream = session.stream(); // keeps the state from run to run
    for (name, tensor) in stream.run(&given)?.iter() {
        println!("gives {name}: {} {:?}", tensor.dtype(), tensor.shape());
    }
    session.notes().iter().for_each(|note| println!("{note}"));
    Ok(())
}
