//! Two runs under way at the same time: `run_async` of two sessions, polled together by one thread.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use fuselstm::graph::synthetic::{CellKind, Random, Shape};
use fuselstm::{Device, Model, Outputs, Result, Session};

/// Wakes the thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

type Run = Pin<Box<dyn Future<Output = Result<Outputs>> + Send>>;

/// Polls all futures until each is ready; a minute at most. Also: how many were under way at the
/// same time.
fn together(mut runs: Vec<Run>) -> (Vec<Outputs>, usize) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut done: Vec<Option<Outputs>> = runs.iter().map(|_| None).collect();
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(60);
    while done.iter().any(Option::is_none) {
        let mut pending = 0;
        for (run, done) in runs.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            match run.as_mut().poll(&mut context) {
                Poll::Ready(outputs) => *done = Some(outputs.unwrap()),
                Poll::Pending => pending += 1,
            }
        }
        most = most.max(pending);
        assert!(Instant::now() < end, "a run did not complete");
        if pending > 0 {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    (done.into_iter().map(Option::unwrap).collect(), most)
}

#[test]
fn two_sessions() {
    let shapes = [(CellKind::Lstm, 48), (CellKind::Gru, 80)];
    let mut runs: Vec<Run> = Vec::new();
    let mut wanted = Vec::new();
    let x = Random::new(3).tensor(&[64, 2, 8], 1.0).unwrap();
    for (cell, hidden) in shapes {
        let shape = Shape { cell, input: 8, hidden, layers: 1, bidirectional: false };
        let model = Model::from_graph(shape.graph(5).unwrap()).unwrap();
        let session = match Session::new(&model, Device::gpu()) {
            Ok(session) => session,
            Err(error) => {
                eprintln!("SKIPPED, there is no GPU to test on: {error}");
                assert!(
                    std::env::var_os("FUSELSTM_REQUIRE_GPU").is_none_or(|v| v != "1"),
                    "a GPU is required: {error}"
                );
                return;
            }
        };
        // Compiled before, so that the polls do nothing but run.
        session.run(&[("x", &x)]).unwrap();
        runs.push(Box::pin(session.run_async(&[("x", &x)])));
        wanted.push(Session::new(&model, Device::reference()).unwrap().run(&[("x", &x)]).unwrap());
    }
    let (got, most) = together(runs);
    for (got, want) in got.iter().zip(&wanted) {
        let (got, want) = (got.get("y").unwrap(), want.get("y").unwrap());
        let pairs = got.as_slice::<f32>().unwrap().iter().zip(want.as_slice::<f32>().unwrap());
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(got.shape() == want.shape() && error <= 1e-5, "{error}");
    }
    // A device that is fast enough completes a run before it is polled again, so that this is no
    // matter of right and wrong.
    eprintln!("{most} runs were under way at the same time");
}
