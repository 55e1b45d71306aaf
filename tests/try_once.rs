#![allow(clippy::unwrap_used)]
use fuselstm::measure::{
    compare::{Tolerance, compare},
    golden,
};
use fuselstm::{Device, Model, Session};
#[test]
fn try_once() {
    let model = Model::open(std::env::var("TRY").unwrap()).unwrap();
    for r in model.reports() {
        println!("{r:#?}");
    }
    println!("{}", model.graph());
    let Ok(g) = std::env::var("GOLD") else { return };
    let session = Session::new(&model, Device::reference()).unwrap();
    let mut stream = session.stream();
    for run in golden::load(g).unwrap() {
        let outputs = stream.run(&run.named_inputs()).unwrap();
        for (name, expected) in &run.outputs {
            let r = compare(expected, outputs.get(name).unwrap(), Tolerance { atol: 1e-5, rtol: 0.0 }, &[]).unwrap();
            println!("{name}: {:e} holds {}", r.max_abs, r.holds());
        }
    }
}
