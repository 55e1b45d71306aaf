//! What must hold of any recurrent layer, on every device, without a stored answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::devices;
use fuselstm::graph::recurrent::{CellWeights, Matrix, Recurrent};
use fuselstm::graph::synthetic::{CellKind, Random, Shape};
use fuselstm::graph::{Graph, Op, Reset, State, ValueType};
use fuselstm::{Device, Model, Session, Tensor};

const CELLS: [CellKind; 3] = [CellKind::Lstm, CellKind::Gru, CellKind::Rnn];

/// Two ways to the same sum of at most 40 products below 1, a few steps deep.
const CLOSE: f32 = 2e-6;

fn shape(cell: CellKind, bidirectional: bool) -> Shape {
    Shape { cell, input: 5, hidden: 7, layers: 1, bidirectional }
}

/// The layers of a graph.
fn layers(graph: &mut Graph) -> Vec<&mut Recurrent> {
    let ops = graph.nodes.iter_mut().map(|node| &mut node.op);
    ops.filter_map(|op| if let Op::Recurrent(layer) = op { Some(layer) } else { None }).collect()
}

/// The graph with its layers' states carried from run to run.
fn stateful(shape: Shape) -> Graph {
    let mut graph = shape.graph(3).unwrap();
    let batch = graph.values[0].ty.shape.as_ref().unwrap()[1];
    let width = fuselstm::graph::Dim::Known(shape.hidden);
    for index in 0..graph.nodes.len() {
        let Op::Recurrent(layer) = &graph.nodes[index].op else { continue };
        let (directions, cells) = (layer.directions.len(), layer.cell.has_cell_state());
        for direction in 0..directions {
            let mut slots = vec![(Recurrent::h0(direction), Recurrent::h_n(direction), "h")];
            if cells {
                slots.push((Recurrent::c0(direction), Recurrent::c_n(direction), "c"));
            }
            for (input, output, name) in slots {
                let ty = ValueType::symbolic(fuselstm::DType::F32, vec![batch, width]);
                let name = format!("{name}{index}.{direction}");
                let (value, next) = (
                    graph.add_value(name.clone(), ty.clone()),
                    graph.add_value(format!("{name} next"), ty),
                );
                graph.nodes[index].inputs[input] = Some(value);
                graph.nodes[index].outputs[output] = Some(next);
                graph.states.push(State { name, value, next, reset: Reset::ZERO });
            }
        }
    }
    graph
}

fn session(graph: Graph, device: &Device) -> Session {
    Session::new(&Model::from_graph(graph).unwrap(), device.clone()).unwrap()
}

/// `[T, B, 5]` of seeded numbers.
fn input(time: usize, batch: usize) -> Tensor {
    Random::new(11).tensor(&[time, batch, 5], 1.0).unwrap()
}

fn run(session: &Session, x: &Tensor) -> Tensor {
    session.run(&[("x", x)]).unwrap().get("y").unwrap().clone()
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let pairs = a.as_slice::<f32>().unwrap().iter().zip(b.as_slice::<f32>().unwrap());
    for (index, (a, b)) in pairs.enumerate() {
        assert!((a - b).abs() <= CLOSE, "{what}: element {index} is {a} and {b}");
    }
}

/// Steps `from..to` of a time-major tensor.
fn steps(x: &Tensor, from: usize, to: usize) -> Tensor {
    let row = x.shape()[1] * x.shape()[2];
    Tensor::from_slice(
        &[to - from, x.shape()[1], x.shape()[2]],
        &x.as_slice::<f32>().unwrap()[from * row..to * row],
    )
    .unwrap()
}

/// Tensors joined in time.
fn join(parts: &[Tensor]) -> Tensor {
    let data: Vec<f32> =
        parts.iter().flat_map(|part| part.as_slice::<f32>().unwrap().to_vec()).collect();
    let time = parts.iter().map(|part| part.shape()[0]).sum();
    Tensor::from_vec(&[time, parts[0].shape()[1], parts[0].shape()[2]], data).unwrap()
}

/// The same with its time steps in the other order.
fn reversed(x: &Tensor) -> Tensor {
    let time = x.shape()[0];
    join(&(0..time).rev().map(|t| steps(x, t, t + 1)).collect::<Vec<_>>())
}

/// One batch row of a time-major tensor.
fn row(x: &Tensor, b: usize) -> Tensor {
    let (batch, width) = (x.shape()[1], x.shape()[2]);
    let data = x
        .as_slice::<f32>()
        .unwrap()
        .chunks(width)
        .skip(b)
        .step_by(batch)
        .flatten()
        .copied()
        .collect();
    Tensor::from_vec(&[x.shape()[0], 1, width], data).unwrap()
}

#[test]
fn a_sequence_cut_in_pieces_is_the_whole_sequence() {
    let x = input(11, 3);
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let session = session(stateful(Shape { layers: 2, ..shape(cell, false) }), device);
        let whole = run(&session, &x);
        for cuts in [vec![0, 11], vec![0, 4, 11], vec![0, 1, 2, 3, 10, 11], vec![0, 5, 5, 11]] {
            let mut stream = session.stream();
            let pieces: Vec<Tensor> = cuts
                .windows(2)
                .map(|cut| {
                    stream
                        .run(&[("x", &steps(&x, cut[0], cut[1]))])
                        .unwrap()
                        .get("y")
                        .unwrap()
                        .clone()
                })
                .collect();
            assert_close(
                &join(&pieces),
                &whole,
                &format!("{device} {} cut at {cuts:?}", cell.name()),
            );
        }
    }
}

#[test]
fn a_state_moved_to_another_stream_goes_on_there() {
    let x = input(6, 2);
    for device in devices() {
        let session = session(stateful(shape(CellKind::Lstm, false)), &device);
        let mut first = session.stream();
        first.run(&[("x", &steps(&x, 0, 3))]).unwrap();
        let mut second = session.stream();
        let names: Vec<String> = first.state_names().map(str::to_owned).collect();
        for name in names {
            second.set_state(&name, first.state(&name).unwrap().unwrap().clone()).unwrap();
        }
        let rest = steps(&x, 3, 6);
        let (a, b) = (first.run(&[("x", &rest)]).unwrap(), second.run(&[("x", &rest)]).unwrap());
        assert_eq!(a.get("y").unwrap(), b.get("y").unwrap(), "{device}");
    }
}

#[test]
fn a_reverse_layer_is_a_forward_one_on_the_reversed_input() {
    let x = input(9, 2);
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let forward = shape(cell, false).graph(3).unwrap();
        let mut backward = forward.clone();
        layers(&mut backward).iter_mut().for_each(|layer| layer.directions[0].reverse = true);
        let (forward, backward) = (session(forward, device), session(backward, device));
        let expected = reversed(&run(&forward, &reversed(&x)));
        assert_close(&run(&backward, &x), &expected, &format!("{device} {}", cell.name()));
    }
}

#[test]
fn two_directions_are_two_runs() {
    let x = input(9, 2);
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let both = shape(cell, true).graph(3).unwrap();
        let joined = run(&session(both.clone(), device), &x);
        for direction in 0..2 {
            let mut one = both.clone();
            let width = one.values[0].ty.shape.as_ref().unwrap()[..2].to_vec();
            let mut shape = width.clone();
            shape.push(fuselstm::graph::Dim::Known(7));
            let output = one.outputs[0].value;
            one.values[output.index()].ty.shape = Some(shape);
            let layer = layers(&mut one).remove(0);
            layer.merge = fuselstm::graph::recurrent::Merge::Separate;
            layer.directions = vec![layer.directions[direction].clone()];
            let slots = (layer.input_slots(), layer.output_slots());
            one.nodes[0].inputs.truncate(slots.0);
            one.nodes[0].outputs.truncate(slots.1);
            let y = run(&session(one, device), &x);
            let half: Vec<f32> = joined
                .as_slice::<f32>()
                .unwrap()
                .chunks(14)
                .flat_map(|both| both[7 * direction..][..7].to_vec())
                .collect();
            let half = Tensor::from_vec(&[9, 2, 7], half).unwrap();
            assert_close(&y, &half, &format!("{device} {} direction {direction}", cell.name()));
        }
    }
}

#[test]
fn batch_rows_do_not_know_of_each_other() {
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let session = session(shape(cell, true).graph(3).unwrap(), device);
        let x = input(6, 17);
        let all = run(&session, &x);
        for b in [0, 1, 8, 16] {
            assert_close(
                &row(&all, b),
                &run(&session, &row(&x, b)),
                &format!("{device} {} row {b}", cell.name()),
            );
        }
        // A NaN in row 5 stays there.
        let mut poisoned = x.clone();
        poisoned.as_mut_slice::<f32>().unwrap()[5 * 5] = f32::NAN;
        let y = run(&session, &poisoned);
        for b in (0..17).filter(|&b| b != 5) {
            assert_close(
                &row(&y, b),
                &row(&all, b),
                &format!("{device} {} row {b} beside a NaN", cell.name()),
            );
        }
        assert!(
            row(&y, 5).as_slice::<f32>().unwrap().iter().any(|x| x.is_nan()),
            "{device}: NaN in, NaN out"
        );
    }
}

#[test]
fn permuted_units_give_permuted_outputs() {
    const ORDER: [usize; 7] = [3, 0, 6, 1, 5, 2, 4];
    let x = input(6, 2);
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let graph = shape(cell, false).graph(3).unwrap();
        let mut permuted = graph.clone();
        for layer in layers(&mut permuted) {
            let weights = &layer.directions[0].weights;
            let rows = |m: &Tensor| permute_rows(m, &ORDER);
            let new = CellWeights {
                input: Matrix::float(rows(&weights.input.data)),
                recurrent: Matrix::float(permute_columns(&rows(&weights.recurrent.data), &ORDER)),
                bias: weights.bias.as_ref().map(rows),
                recurrent_bias: weights.recurrent_bias.as_ref().map(rows),
                ..CellWeights::clone(weights)
            };
            layer.directions[0].weights = Arc::new(new);
        }
        let y = run(&session(graph, device), &x);
        let expected =
            permute_columns(&y.reshaped(&[12, 7]).unwrap(), &ORDER).reshaped(&[6, 2, 7]).unwrap();
        assert_close(
            &run(&session(permuted, device), &x),
            &expected,
            &format!("{device} {}", cell.name()),
        );
    }
}

/// Rows of every gate block in another order.
fn permute_rows(m: &Tensor, order: &[usize]) -> Tensor {
    let width = m.shape().get(1).copied().unwrap_or(1);
    let block = width * order.len();
    let data = m.as_slice::<f32>().unwrap().chunks(block);
    let data = data
        .flat_map(|gate| order.iter().flat_map(|&unit| gate[unit * width..][..width].to_vec()))
        .collect();
    Tensor::from_vec(m.shape(), data).unwrap()
}

fn permute_columns(m: &Tensor, order: &[usize]) -> Tensor {
    let data = m.as_slice::<f32>().unwrap().chunks(order.len());
    Tensor::from_vec(
        m.shape(),
        data.flat_map(|row| order.iter().map(|&unit| row[unit]).collect::<Vec<_>>()).collect(),
    )
    .unwrap()
}

#[test]
fn no_steps_and_no_rows_give_empty_outputs_and_the_state_as_it_was() {
    for (device, cell) in devices().iter().flat_map(|d| CELLS.map(|cell| (d, cell))) {
        let session = session(stateful(shape(cell, true)), device);
        let mut stream = session.stream();
        let y = stream.run(&[("x", &input(0, 2))]).unwrap();
        assert_eq!(y.get("y").unwrap().shape(), [0, 2, 14], "{device}");
        stream.run(&[("x", &input(3, 2))]).unwrap();
        let names: Vec<String> = stream.state_names().map(str::to_owned).collect();
        let before: Vec<Tensor> =
            names.iter().map(|name| stream.state(name).unwrap().unwrap().clone()).collect();
        stream.run(&[("x", &input(0, 2))]).unwrap();
        for (name, before) in names.iter().zip(&before) {
            assert_eq!(stream.state(name).unwrap().unwrap(), before, "{device} {name}");
        }
        let mut stream = session.stream();
        let y = stream.run(&[("x", &input(3, 0))]).unwrap();
        assert_eq!(y.get("y").unwrap().shape(), [3, 0, 14], "{device}");
        assert_eq!(stream.state(&names[0]).unwrap().unwrap().shape(), [0, 7], "{device}");
    }
}

#[test]
fn a_thousand_rows_are_a_thousand_rows() {
    let x = input(2, 1000);
    let graph = || shape(CellKind::Lstm, false).graph(3).unwrap();
    let expected = run(&session(graph(), &Device::reference()), &x);
    for device in devices() {
        assert_close(&run(&session(graph(), &device), &x), &expected, &device.to_string());
    }
}

#[test]
fn a_long_wide_sequence_is_the_same_on_cpu_and_gpu() {
    let Some(gpu) = common::gpu_or_skip() else { return };
    let shape =
        Shape { cell: CellKind::Lstm, input: 16, hidden: 256, layers: 1, bidirectional: false };
    let x = Random::new(11).tensor(&[2048, 4, 16], 1.0).unwrap();
    let [cpu, gpu] =
        [Device::cpu(), gpu].map(|device| run(&session(shape.graph(3).unwrap(), &device), &x));
    let pairs = cpu.as_slice::<f32>().unwrap().iter().zip(gpu.as_slice::<f32>().unwrap());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5, "off by {worst} after 2048 steps");
}

#[test]
fn another_batch_size_in_the_middle_of_a_stream_is_refused_and_changes_nothing() {
    for device in devices() {
        let session = session(stateful(shape(CellKind::Gru, false)), &device);
        let (x, wider) = (input(2, 2), input(2, 3));
        let (mut tried, mut plain) = (session.stream(), session.stream());
        tried.run(&[("x", &x)]).unwrap();
        plain.run(&[("x", &x)]).unwrap();
        let error = tried.run(&[("x", &wider)]).unwrap_err();
        assert_eq!(error.kind(), fuselstm::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("batch"), "{error}");
        let (a, b) = (tried.run(&[("x", &x)]).unwrap(), plain.run(&[("x", &x)]).unwrap());
        assert_eq!(a.get("y").unwrap(), b.get("y").unwrap(), "{device}");
        tried.reset();
        tried.run(&[("x", &wider)]).unwrap();
    }
}
