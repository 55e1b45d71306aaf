//! What `auto` does when the GPU fails after it was chosen: the processor takes over, and a note
//! says why.
//!
//! A program that the device cannot hold (a limit, an op) goes to the processor alone. A device
//! that is lost, or does not answer, is not used again by the session; the run in which it happened
//! is done again on the processor.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, Counters, Io, Program};
use crate::error::{ErrorKind, Result};
use crate::plan::Plan;

/// Makes the backend that takes over.
type Second = Box<dyn Fn() -> Result<Arc<dyn Backend>> + Send + Sync>;

/// A backend, and what takes over when it fails.
pub(super) struct Fallback {
    first: Arc<dyn Backend>,
    state: Arc<State>,
}

struct State {
    second: Second,
    made: Mutex<Option<Arc<dyn Backend>>>,
    /// Why the first backend is no longer used.
    lost: Mutex<Option<String>>,
}

impl State {
    fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A program of the backend that takes over, made once.
    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let backend = match made.as_ref() {
            Some(backend) => Arc::clone(backend),
            None => Arc::clone(made.insert((self.second)()?)),
        };
        drop(made);
        backend.compile(plan)
    }
}

impl Fallback {
    pub(super) fn new(first: Arc<dyn Backend>, second: Second) -> Fallback {
        Fallback {
            first,
            state: Arc::new(State { second, made: Mutex::default(), lost: Mutex::default() }),
        }
    }
}

impl Backend for Fallback {
    /// The backend that was chosen; the notes say when another one took over.
    fn name(&self) -> &'static str {
        self.first.name()
    }

    fn description(&self) -> String {
        self.first.description()
    }

    fn driver(&self) -> Option<String> {
        self.first.driver()
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        let mut program = Replaceable {
            program: None,
            plan: Arc::clone(plan),
            state: Arc::clone(&self.state),
            note: None,
        };
        let reason = match self.state.lost() {
            Some(reason) => reason,
            None => match self.first.compile(plan) {
                Ok(first) => {
                    program.program = Some(first);
                    return Ok(Box::new(program));
                }
                Err(error) => match error.kind() {
                    ErrorKind::Device => program.lose(error.to_string()),
                    ErrorKind::Limit | ErrorKind::Unsupported => error.to_string(),
                    _ => return Err(error),
                },
            },
        };
        program.replace(&reason)?;
        Ok(Box::new(program))
    }
}

/// A program of the first backend until that fails, then one of the second.
struct Replaceable {
    program: Option<Box<dyn Program>>,
    plan: Arc<Plan>,
    state: Arc<State>,
    /// Why the second backend runs it.
    note: Option<String>,
}

impl Replaceable {
    /// The first backend is not used again.
    fn lose(&self, reason: String) -> String {
        self.state.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason).clone()
    }

    fn replace(&mut self, reason: &str) -> Result<()> {
        log::warn!("the cpu takes over: {reason}");
        self.note = Some(format!("the cpu took over: {reason}"));
        // The first program goes before the second takes its memory.
        self.program = None;
        self.program = Some(self.state.compile(&self.plan)?);
        Ok(())
    }

    /// The program to run; another one when the device was lost meanwhile.
    fn current(&mut self) -> Result<&mut Box<dyn Program>> {
        if let (None, Some(reason)) = (&self.note, self.state.lost()) {
            self.replace(&reason)?;
        }
        self.program
            .as_mut()
            .ok_or_else(|| crate::Error::internal("a program that was not replaced"))
    }

    /// What to do after a run: `Some` when it has to be done again.
    fn after(&mut self, done: Result<()>) -> Option<Result<()>> {
        match done {
            Err(error) if error.kind() == ErrorKind::Device && self.note.is_none() => {
                let reason = self.lose(error.to_string());
                self.replace(&reason).err().map(Err)
            }
            done => Some(done),
        }
    }
}

impl Program for Replaceable {
    fn run(&mut self, io: Io<'_>) -> Result<()> {
        let Io { inputs, states, outputs } = io;
        let done = self.current()?.run(Io { inputs, states: &mut *states, outputs: &mut *outputs });
        match self.after(done) {
            Some(done) => done,
            None => self.current()?.run(Io { inputs, states, outputs }),
        }
    }

    fn run_async<'a>(
        &'a mut self,
        io: Io<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let Io { inputs, states, outputs } = io;
            let done = self
                .current()?
                .run_async(Io { inputs, states: &mut *states, outputs: &mut *outputs })
                .await;
            match self.after(done) {
                Some(done) => done,
                None => self.current()?.run_async(Io { inputs, states, outputs }).await,
            }
        })
    }

    fn counters(&self) -> Counters {
        self.program.as_ref().map(|program| program.counters()).unwrap_or_default()
    }

    fn replacements(&self) -> u32 {
        u32::from(self.note.is_some())
            + self.program.as_ref().map_or(0, |program| program.replacements())
    }

    fn notes(&self) -> Vec<String> {
        let own = self.program.as_ref().map(|program| program.notes()).unwrap_or_default();
        self.note.iter().cloned().chain(own).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Error;
    use crate::backend::reference::Reference;
    use crate::graph::synthetic::{CellKind, Random, Shape};
    use crate::session::Session;
    use crate::{Device, Model, Tensor};

    /// Runs on the reference for so many runs, then is lost.
    struct Mortal {
        runs: Arc<AtomicU32>,
        refuses: Option<ErrorKind>,
    }

    struct MortalProgram {
        runs: Arc<AtomicU32>,
        inner: Box<dyn Program>,
    }

    impl Backend for Mortal {
        fn name(&self) -> &'static str {
            "gpu"
        }

        fn description(&self) -> String {
            "a device that fails".into()
        }

        fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
            match self.refuses {
                Some(kind) => Err(Error::new(kind, "it was refused")),
                None => {
                    let inner = Reference.compile(plan)?;
                    Ok(Box::new(MortalProgram { runs: Arc::clone(&self.runs), inner }))
                }
            }
        }
    }

    impl Program for MortalProgram {
        fn run(&mut self, io: Io<'_>) -> Result<()> {
            match self.runs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            {
                Ok(_) => self.inner.run(io),
                Err(_) => Err(Error::device("it was lost")),
            }
        }

        fn counters(&self) -> Counters {
            self.inner.counters()
        }

        fn notes(&self) -> Vec<String> {
            self.inner.notes()
        }
    }

    /// Two runs on a device that fails; the results, the notes, and how often the backend that
    /// takes over was made.
    fn runs(first: Mortal, time: usize) -> (Vec<Vec<f32>>, Vec<String>, u32) {
        let shape =
            Shape { cell: CellKind::Lstm, input: 3, hidden: 5, layers: 1, bidirectional: false };
        let model = Model::from_graph(shape.graph(1).unwrap()).unwrap();
        let made = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&made);
        let backend = Fallback::new(
            Arc::new(first),
            Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Arc::new(Reference) as Arc<dyn Backend>)
            }),
        );
        let session = Session::on(&model, Arc::new(backend));
        let x = Random::new(2).tensor(&[time, 1, 3], 1.0).unwrap();
        let run = |_| {
            session.run(&[("x", &x)]).unwrap().get("y").unwrap().as_slice::<f32>().unwrap().to_vec()
        };
        let mut results: Vec<_> = (0..2).map(run).collect();
        let asynchronous = at_once(session.run_async(&[("x", &x)]));
        results.push(asynchronous.unwrap().get("y").unwrap().as_slice::<f32>().unwrap().to_vec());
        let want = Session::new(&model, Device::reference()).unwrap().run(&[("x", &x)]).unwrap();
        results.push(want.get("y").unwrap().as_slice::<f32>().unwrap().to_vec());
        (results, session.notes(), made.load(Ordering::Relaxed))
    }

    /// Polls a future that never waits.
    fn at_once(
        future: impl Future<Output = Result<crate::session::Outputs>>,
    ) -> Result<crate::session::Outputs> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    fn mortal(runs: u32, refuses: Option<ErrorKind>) -> Mortal {
        Mortal { runs: Arc::new(AtomicU32::new(runs)), refuses }
    }

    #[test]
    fn a_device_that_is_lost_between_runs() {
        let (results, notes, made) = runs(mortal(1, None), 4);
        assert!(results.iter().all(|result| result == &results[3]));
        assert!(
            notes.iter().any(|n| n.contains("the cpu took over") && n.contains("it was lost")),
            "{notes:?}"
        );
        assert_eq!(made, 1, "later runs stay where they are");
    }

    #[test]
    fn a_program_that_does_not_fit() {
        for kind in [ErrorKind::Device, ErrorKind::Limit, ErrorKind::Unsupported] {
            let (results, notes, made) = runs(mortal(9, Some(kind)), 4);
            assert!(results.iter().all(|result| result == &results[3]));
            assert!(
                notes
                    .iter()
                    .any(|n| n.contains("the cpu took over") && n.contains("it was refused")),
                "{notes:?}"
            );
            assert_eq!(made, 1);
        }
    }

    #[test]
    fn what_the_caller_did_wrong_is_not_hidden() {
        let backend = Fallback::new(
            Arc::new(mortal(9, Some(ErrorKind::InvalidInput))),
            Box::new(|| panic!("not asked for")),
        );
        let shape =
            Shape { cell: CellKind::Lstm, input: 3, hidden: 5, layers: 1, bidirectional: false };
        let session =
            Session::on(&Model::from_graph(shape.graph(1).unwrap()).unwrap(), Arc::new(backend));
        let x = Tensor::zeros(crate::DType::F32, &[2, 1, 3]).unwrap();
        assert!(
            session.run(&[("x", &x)]).is_err_and(|error| error.kind() == ErrorKind::InvalidInput)
        );
    }

    /// The same with a device: lost between two runs, and with too small bindings.
    #[cfg(feature = "gpu")]
    #[test]
    fn a_gpu_that_fails() {
        use crate::backend::BackendOptions;
        use crate::backend::gpu::testing::open;
        let shape =
            Shape { cell: CellKind::Lstm, input: 3, hidden: 200, layers: 1, bidirectional: false };
        let model = Model::from_graph(shape.graph(1).unwrap()).unwrap();
        let x = Random::new(2).tensor(&[4, 2, 3], 1.0).unwrap();
        let want = Session::new(&model, Device::reference()).unwrap().run(&[("x", &x)]).unwrap();
        let check = |session: &Session| {
            let got = session.run(&[("x", &x)]).unwrap();
            let pairs = got
                .get("y")
                .unwrap()
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .zip(want.get("y").unwrap().as_slice().unwrap());
            assert!(pairs.map(|(a, b): (&f32, &f32)| (a - b).abs()).fold(0f32, f32::max) < 1e-5);
        };
        let options = BackendOptions::default();
        let took_over = |session: &Session| {
            session.notes().iter().any(|note| note.contains("the cpu took over"))
        };

        let Some(gpu) = open(&options) else { return };
        let gpu = Arc::new(gpu);
        let session = Session::on(
            &model,
            crate::backend::placement::open::with_fallback(gpu.clone(), &options),
        );
        check(&session);
        assert!(!took_over(&session));
        gpu.lose();
        check(&session);
        check(&session);
        assert!(took_over(&session), "{:?}", session.notes());

        let Some(gpu) = open(&options) else { return };
        let gpu = Arc::new(gpu.with_largest_binding(4096));
        let session =
            Session::on(&model, crate::backend::placement::open::with_fallback(gpu, &options));
        check(&session);
        assert!(took_over(&session), "{:?}", session.notes());
    }
}
