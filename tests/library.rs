//! The public face as a program uses it: names, positions, errors, threads, async, state, memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::type_complexity)]

mod common;

use std::time::Duration;

use common::{devices, example_data};
use fuselstm::graph::{Graph, Op, Port, ValueType, op::Activation};
use fuselstm::types::{Cancel, InstructionSet, Precision, RunOptions};
use fuselstm::{DType, Device, ErrorKind, Model, Outputs, Session, Stream, Tensor, TensorView};

fn digits() -> Model {
    Model::open(example_data("digits.tflite")).unwrap()
}

fn image(value: f32) -> Tensor {
    Tensor::from_vec(&[1, 28, 28], vec![value; 784]).unwrap()
}

#[test]
fn inputs_and_outputs_go_by_name_or_position() {
    let session = Session::new(&digits(), Device::cpu()).unwrap();
    let x = image(0.5);
    let by_name = session.run(&[("INPUT", &x)]).unwrap();
    let by_position = session.run(&[("0", &x)]).unwrap();
    assert_eq!(by_name.get("LOGITS").unwrap(), by_position.get("0").unwrap());
    let names: Vec<&str> = by_name.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["LOGITS", "OUTPUT_CLASS"]);
}

#[test]
fn errors_name_the_input_what_was_expected_and_what_was_given() {
    let session = Session::new(&digits(), Device::cpu()).unwrap();
    let x = image(0.0);
    let doubles = Tensor::zeros(DType::F64, &[1, 28, 28]).unwrap();
    let narrow = Tensor::zeros(DType::F32, &[1, 28, 27]).unwrap();
    let flat = Tensor::zeros(DType::F32, &[784]).unwrap();
    let cases: [(&[(&str, &Tensor)], &[&str]); 6] = [
        (&[], &["INPUT", "float32 [", "not given"]),
        (&[("image", &x)], &["image", "INPUT"]),
        (&[("INPUT", &x), ("0", &x)], &["twice"]),
        (&[("INPUT", &doubles)], &["INPUT", "float32", "float64"]),
        (&[("INPUT", &flat)], &["INPUT", "[784]"]),
        (&[("INPUT", &narrow)], &["INPUT", "28", "27"]),
    ];
    for (inputs, parts) in cases {
        let error = session.run(inputs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "`{part}` in: {error}");
        }
    }
    assert!(
        session
            .run(&[("INPUT", &x)])
            .unwrap()
            .get("SCORES")
            .unwrap_err()
            .to_string()
            .contains("OUTPUT_CLASS")
    );
}

#[test]
fn threads_share_a_session() {
    for device in devices() {
        let session = Session::new(&digits(), device).unwrap();
        let expected: Vec<Outputs> =
            (0..4).map(|n| session.run(&[("0", &image(n as f32 / 4.0))]).unwrap()).collect();
        std::thread::scope(|scope| {
            for (n, expected) in expected.iter().enumerate() {
                let session = session.clone();
                scope.spawn(move || {
                    for _ in 0..3 {
                        let outputs = session.run(&[("0", &image(n as f32 / 4.0))]).unwrap();
                        assert_eq!(outputs.get("LOGITS").unwrap(), expected.get("LOGITS").unwrap());
                    }
                });
            }
        });
    }
}

fn block_on<F: Future + Send>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_future_gives_what_a_blocking_run_gives() {
    for device in devices() {
        let session = Session::new(&digits(), device.clone()).unwrap();
        let x = image(0.25);
        let outputs = block_on(session.run_async(&[("INPUT", &x)])).unwrap();
        assert_eq!(
            outputs.get("LOGITS").unwrap(),
            session.run(&[("INPUT", &x)]).unwrap().get("LOGITS").unwrap(),
            "{device}"
        );
        assert!(block_on(session.run_async(&())).is_err());
    }
}

#[test]
fn a_second_run_of_the_same_shapes_creates_nothing() {
    for device in devices() {
        let session = Session::new(&digits(), device.clone()).unwrap();
        session.prepare(&[("INPUT", &[1, 28, 28])]).unwrap();
        session.run(&[("INPUT", &image(0.0))]).unwrap();
        let counters = session.run(&[("INPUT", &image(1.0))]).unwrap().counters();
        assert_eq!((counters.pipelines_created, counters.buffers_created), (0, 0), "{device}");
    }
}

#[test]
fn run_into_goes_on_in_the_memory_there_is() {
    for device in devices() {
        let mut stream = Session::new(&digits(), device.clone()).unwrap().stream();
        let mut outputs = Outputs::default();
        let mut places = std::collections::BTreeSet::new();
        for run in 0..8 {
            stream.run_into(&[("INPUT", &image(0.5))], &mut outputs).unwrap();
            if run >= 2 {
                places.insert(
                    outputs.get("LOGITS").unwrap().as_slice::<f32>().unwrap().as_ptr() as usize
                );
            }
        }
        // A device may swap its own buffer for the caller's, and the other way round the next time.
        assert!(places.len() <= 2, "{device}: {places:x?}");
        // A clone keeps what it has: the next run may not write to shared memory.
        let kept = outputs.clone();
        let copy = kept.get("LOGITS").unwrap().as_slice::<f32>().unwrap().to_vec();
        stream.run_into(&[("INPUT", &image(1.0))], &mut outputs).unwrap();
        assert_eq!(kept.get("LOGITS").unwrap().as_slice::<f32>().unwrap(), copy, "{device}");
    }
}

#[test]
fn a_tensor_is_the_callers_own_again_after_the_run() {
    let mut stream = Session::new(&digits(), Device::cpu()).unwrap().stream();
    let mut x = image(0.5);
    let place = x.as_slice::<f32>().unwrap().as_ptr();
    stream.run(&[("INPUT", &x)]).unwrap();
    x.as_mut_slice::<f32>().unwrap()[0] = 1.0;
    assert_eq!(x.as_slice::<f32>().unwrap().as_ptr(), place, "it was not copied to be written to");
}

#[test]
fn states_are_named_and_checked() {
    let mut stream: Stream = Session::new(&digits(), Device::reference()).unwrap().stream();
    let names: Vec<String> = stream.state_names().map(str::to_owned).collect();
    assert_eq!(names.len(), 4, "two layers with two states each");
    assert!(stream.state(&names[0]).unwrap().is_none(), "no run has given it a size");
    stream.run(&[("INPUT", &image(0.5))]).unwrap();
    assert_eq!(stream.state(&names[0]).unwrap().unwrap().shape(), [1, 64]);
    assert!(stream.state("no such state").is_err());
    assert!(stream.set_state(&names[0], Tensor::zeros(DType::F64, &[1, 64]).unwrap()).is_err());
    let wrong = Tensor::zeros(DType::F32, &[2, 64]).unwrap();
    let error = stream.set_state(&names[0], wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(
        text.contains(&names[0]) && text.contains("[1, 64]") && text.contains("[2, 64]"),
        "{text}"
    );
    stream.reset();
    for shape in [&[1, 63][..], &[64], &[1, 1, 64]] {
        let wrong = Tensor::zeros(DType::F32, shape).unwrap();
        assert!(stream.set_state(0, wrong).is_err(), "{shape:?}");
    }
    stream.set_state(0, Tensor::zeros(DType::F32, &[2, 64]).unwrap()).unwrap();
    assert!(stream.set_state(1, Tensor::zeros(DType::F32, &[3, 64]).unwrap()).is_err());
    stream.reset();
    stream.run(&[("INPUT", &image(0.5))]).unwrap();
}

#[test]
fn inputs_are_pairs_lists_views_or_one_tensor_and_outputs_are_indexed() {
    for device in devices() {
        let session = Session::new(&digits(), device.clone()).unwrap();
        let pixels = [0.5f32; 784];
        let x = image(0.5);
        let view = TensorView::new(&[1, 28, 28], &pixels).unwrap();
        let expected = session.run(&[("INPUT", &x)]).unwrap();
        let named = vec![("INPUT".to_owned(), x.clone())];
        let runs = [
            session.run(&[(0, &x)]),
            session.run(&named),
            session.run(&[&x]),
            session.run(&x),
            session.run(&view),
            session.run(&[(0, view)]),
        ];
        for outputs in runs {
            let outputs = outputs.unwrap();
            assert_eq!(outputs["LOGITS"], expected[0], "{device}");
            assert_eq!(outputs.get(1).unwrap(), &expected["OUTPUT_CLASS"]);
        }
        assert!(session.run(&[&x, &x]).is_err() && session.run(&()).is_err());
        assert!(expected.get(2).is_err());
    }
}

#[test]
fn a_view_is_copied_into_memory_that_the_stream_keeps() {
    let mut stream = Session::new(&digits(), Device::cpu()).unwrap().stream();
    let mut pixels = vec![0.5f32; 784];
    let mut outputs = Outputs::default();
    for value in [0.5f32, 1.0, 0.25] {
        pixels.fill(value);
        stream.reset();
        let view = TensorView::new(&[1, 28, 28], &pixels).unwrap();
        stream.run_into(&view, &mut outputs).unwrap();
        let expected = stream.session().run(&image(value)).unwrap();
        assert_eq!(outputs["LOGITS"], expected["LOGITS"]);
    }
}

#[test]
fn a_stream_runs_as_a_future_too() {
    for device in devices() {
        let session = Session::new(&digits(), device).unwrap();
        let (mut one, mut other) = (session.stream(), session.stream());
        let x = image(0.25);
        for _ in 0..3 {
            let outputs = block_on(one.run_async(&x)).unwrap();
            assert_eq!(outputs["LOGITS"], other.run(&x).unwrap()["LOGITS"]);
        }
        drop(one.run_async(&x));
        assert_eq!(one.run(&x).unwrap()["LOGITS"], other.run(&x).unwrap()["LOGITS"]);
        let built = block_on(Session::builder(&digits()).device(Device::cpu()).build_async());
        assert_eq!(built.unwrap().device(), "cpu");
    }
}

#[test]
fn a_run_ends_at_its_bounds() {
    for device in devices() {
        let session = Session::new(&digits(), device).unwrap();
        let x = image(0.5);
        let stop = Cancel::new();
        let options = RunOptions::new().cancel(&stop);
        session.run_with(&x, &options).unwrap();
        stop.cancel();
        assert_eq!(session.run_with(&x, &options).unwrap_err().kind(), ErrorKind::Cancelled);
        let late = RunOptions::new().time_limit(Duration::ZERO);
        let error = session.run_with(&x, &late).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert_eq!(
            block_on({
                let mut stream = session.stream();
                stream.set_options(options.clone());
                async move { stream.run_async(&x).await }
            })
            .unwrap_err()
            .kind(),
            ErrorKind::Cancelled
        );
        let small = RunOptions::new().memory_limit(1000);
        let fresh = Session::new(&digits(), Device::cpu()).unwrap();
        let error = fresh.run_with(&image(0.5), &small).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains("1000"), "{error}");
        fresh.run(&image(0.5)).unwrap();
    }
}

#[test]
fn setters_do_not_undo_each_other() {
    let builder = Session::builder(&digits()).threads(2).precision(Precision::F16);
    let builder = builder.device(Device::reference()).instruction_set(InstructionSet::Portable);
    // Every one of them is still there to be refused.
    let text = builder.clone().build().unwrap_err().to_string();
    assert!(text.contains("threads"), "{text}");
    let session = builder.device(Device::cpu()).build().unwrap();
    assert!(session.description().contains("portable"), "{}", session.description());
}

#[test]
fn options_that_a_device_would_ignore_are_refused() {
    let model = digits();
    for builder in [
        Session::builder(&model).device(Device::reference()).threads(2),
        Session::builder(&model).device(Device::cpu()).strategy(fuselstm::types::Strategy::Loop),
        Session::builder(&model)
            .device(Device::reference())
            .precision(fuselstm::internal::backend::Precision::F16),
    ] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn auto_says_why() {
    let session = Session::new(&digits(), Device::auto()).unwrap();
    assert!(
        session.notes().iter().any(|note| note.starts_with("auto chose")),
        "{:?}",
        session.notes()
    );
}

#[test]
fn an_absent_gpu_is_an_error_of_its_own_kind() {
    let error = Session::new(&digits(), Device::gpu_named("no such adapter")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
}

#[test]
fn a_graph_made_by_hand_runs() {
    for device in devices() {
        let mut graph = Graph::default();
        let ty = ValueType::symbolic(DType::F32, vec![graph.add_symbol("n")]);
        let (x, y) = (graph.add_value("x", ty.clone()), graph.add_value("y", ty));
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.add_node("relu", Op::Activation(Activation::Relu), vec![Some(x)], vec![Some(y)]);
        let model = Model::from_graph(graph).unwrap();
        assert_eq!(model.inputs()[0].to_string(), "x: float32 [n]");
        let session = Session::new(&model, device).unwrap();
        for data in [vec![], vec![-1.0f32, 2.0], vec![3.0f32; 300]] {
            let x = Tensor::from_vec(&[data.len()], data.clone()).unwrap();
            let expected: Vec<f32> = data.iter().map(|x| x.max(0.0)).collect();
            assert_eq!(
                session.run(&[("x", &x)]).unwrap().get("y").unwrap().as_slice::<f32>().unwrap(),
                expected
            );
        }
    }
}
