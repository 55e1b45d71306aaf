//! Ties the stages together: [`Model`] (what a file says), [`Session`] (a model on a device),
//! [`Stream`] (a session with state).

mod inputs;
mod model;
mod pool;
mod stream;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

pub use inputs::{AsKey, AsView, Inputs, Key};
pub use model::{Axis, Model, TensorSpec};
pub use stream::{Outputs, Stream};

use crate::backend::ceilings::Ceilings;
pub use crate::backend::placement::{Device, DeviceReport};
use crate::backend::{
    Backend, BackendOptions, Counters, InstructionSet, Precision, Product, Program, Strategy,
    Tuning, placement,
};
use crate::error::{Error, Place as _, Result};
use crate::graph::Graph;
use crate::limits::RunOptions;
use crate::tensor::Tensor;
use pool::Pool;

/// A model made ready for a device. Cloning shares everything; any number of threads may run it at
/// the same time.
///
/// ```no_run
/// use fuselstm::{Device, Model, Session, Tensor};
///
/// let model = Model::open("model.tflite")?;
/// let session = Session::new(&model, Device::auto())?;
/// let x = Tensor::zeros(fuselstm::DType::F32, &[1, 28, 28])?;
/// let outputs = session.run(&[("INPUT", &x)])?;
/// println!("{:?}", outputs.get("OUTPUT_CLASS")?.as_slice::<f32>()?);
/// # Ok::<(), fuselstm::Error>(())
/// ```
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    model: Model,
    backend: Arc<dyn Backend>,
    /// What the backend is given: the model's graph, in float for `cpu` and `gpu`.
    graph: Arc<Graph>,
    pool: Pool,
    chosen: Vec<String>,
    /// Notes of the programs, in the order in which they were compiled.
    programs: Mutex<Vec<String>>,
}

/// Options of a [`Session`], set before it is built.
#[derive(Clone, Debug)]
#[must_use = "nothing is built before `build`"]
pub struct SessionBuilder {
    model: Model,
    device: Device,
    options: BackendOptions,
}

impl SessionBuilder {
    /// The device to run on; [`Device::auto`] when not set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Threads of the `cpu` device; when not set, chosen by the size of the work.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    /// How the weights of float models are stored and multiplied.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.options.precision = precision;
        self
    }

    /// Forces a recurrent strategy of the `gpu` device.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.options.strategy = Some(strategy);
        self
    }

    /// Forces the form of matrix products of the `gpu` device.
    pub fn product(mut self, product: Product) -> Self {
        self.options.product = Some(product);
        self
    }

    /// Forces the vector instructions of the `cpu` device.
    pub fn instruction_set(mut self, set: InstructionSet) -> Self {
        self.options.instruction_set = Some(set);
        self
    }

    /// Measures where the time of every run on the `gpu` device goes ([`Counters::phases`]); an
    /// error where the adapter has no timestamps.
    pub fn timestamps(mut self) -> Self {
        self.options.timestamps = true;
        self
    }

    /// Ignores what `fuselstm bench --tune` stored for the `gpu` device.
    pub fn untuned(mut self) -> Self {
        self.options.untuned = true;
        self
    }

    /// Neither reads nor writes the file of compiled pipelines of the `gpu` device.
    pub fn uncached(mut self) -> Self {
        self.options.uncached = true;
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The same for another model.
    pub(crate) fn for_model(mut self, model: &Model) -> Self {
        self.model = model.clone();
        self
    }

    /// All options of the backend, in place of those that were set before.
    #[cfg(feature = "cli")]
    pub(crate) fn options(mut self, options: BackendOptions) -> Self {
        self.options = options;
        self
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) when there is no such device,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an option that the device does not
    /// have, [`Unsupported`](crate::ErrorKind::Unsupported) for a model that cannot run on it.
    pub fn build(self) -> Result<Session> {
        let opened = placement::open(&self.device, &self.options, self.model.graph())?;
        Ok(Session {
            inner: Arc::new(Inner {
                model: self.model,
                backend: opened.backend,
                graph: opened.graph,
                pool: Pool::default(),
                chosen: opened.notes,
                programs: Mutex::default(),
            }),
        })
    }
}

impl SessionBuilder {
    /// As [`SessionBuilder::build`], as a future. Drivers of native systems answer within its first
    /// poll.
    ///
    /// # Errors
    /// As [`SessionBuilder::build`].
    #[allow(clippy::manual_async_fn)] // the bounds are part of the signature
    pub fn build_async(self) -> impl Future<Output = Result<Session>> + Send + 'static {
        async move { self.build() }
    }
}

impl Session {
    /// A session with the default options.
    ///
    /// # Errors
    /// As [`SessionBuilder::build`].
    pub fn new(model: &Model, device: Device) -> Result<Session> {
        Session::builder(model).device(device).build()
    }

    /// A session on a backend of its own.
    #[cfg(test)]
    pub(crate) fn on(model: &Model, backend: Arc<dyn Backend>) -> Session {
        let graph = model.graph().clone();
        let (pool, chosen, programs) = (Pool::default(), Vec::new(), Mutex::default());
        Session {
            inner: Arc::new(Inner { model: model.clone(), backend, graph, pool, chosen, programs }),
        }
    }

    /// Options first, then [`SessionBuilder::build`].
    pub fn builder(model: &Model) -> SessionBuilder {
        SessionBuilder {
            model: model.clone(),
            device: Device::auto(),
            options: BackendOptions::default(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.inner.model
    }

    /// `reference`, `cpu` or `gpu`: what runs it.
    pub fn device(&self) -> &'static str {
        self.inner.backend.name()
    }

    /// The device in words: the processor's features, or the adapter and its driver.
    pub fn description(&self) -> String {
        self.inner.backend.description()
    }

    /// The adapter's driver and its version, where there is one.
    pub fn driver(&self) -> Option<String> {
        self.inner.backend.driver()
    }

    /// What the device can do at best, measured now; on the processor with each of these numbers of
    /// threads.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for `reference`,
    /// [`Device`](crate::ErrorKind::Device).
    pub fn ceilings(&self, threads: &[usize]) -> Result<Vec<Ceilings>> {
        self.inner.backend.ceilings(threads)
    }

    /// Searches for the fastest way to run these inputs from the reset state and stores it for
    /// later sessions of this user on the same adapter and driver; a second of runs at most, and
    /// the compilation of some kernels. Only where it is asked for.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for devices where there is nothing to choose,
    /// [`Io`](crate::ErrorKind::Io) when the choice cannot be stored, or the backend's.
    pub fn tune(&self, inputs: &(impl Inputs + ?Sized)) -> Result<Tuning> {
        let inputs = self.gather(inputs)?;
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|input| input.shape().to_vec()).collect();
        let plan = Arc::new(crate::plan::Plan::new(&self.inner.graph, &shapes)?);
        let states = self.reset_states(&plan.state_shapes)?;
        self.inner.backend.tune(&plan, &inputs, &states)
    }

    /// What the program for these inputs has to say, as [`Session::notes`] has it for all of them;
    /// compiles it when there is none.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn notes_for(&self, inputs: &(impl Inputs + ?Sized)) -> Result<Vec<String>> {
        let ready = self.checkout(&self.gather(inputs)?)?;
        let notes = ready.program.notes();
        self.inner.pool.give_back(ready);
        Ok(notes)
    }

    /// Why this device was chosen, and what its programs have to say: strategies, nodes that run on
    /// the host.
    pub fn notes(&self) -> Vec<String> {
        let programs = self.inner.programs.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.chosen.iter().chain(programs.iter()).cloned().collect()
    }

    /// The graph that the device is given: the model's own for `reference`, its float form for
    /// `cpu` and `gpu`.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.inner.graph
    }

    /// Runs once from the reset state. [`Inputs`] by name, by position, or one tensor alone.
    ///
    /// The first run with inputs of some shapes plans and compiles; later ones of the same shapes
    /// do not.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the input, what was expected and
    /// what was given, or the backend's.
    pub fn run(&self, inputs: &(impl Inputs + ?Sized)) -> Result<Outputs> {
        self.stream().run(inputs)
    }

    /// As [`Session::run`], within bounds of time and memory, or until it is called off.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Limit`](crate::ErrorKind::Limit) with both numbers,
    /// [`Cancelled`](crate::ErrorKind::Cancelled).
    pub fn run_with(
        &self,
        inputs: &(impl Inputs + ?Sized),
        options: &RunOptions,
    ) -> Result<Outputs> {
        let mut stream = self.stream();
        stream.set_options(options.clone());
        stream.run(inputs)
    }

    /// As [`Session::run`], without blocking the thread where the device allows it; needs no
    /// particular async runtime.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_async(
        &self,
        inputs: &(impl Inputs + ?Sized),
    ) -> impl Future<Output = Result<Outputs>> + Send + 'static {
        let mut stream = self.stream();
        let gathered = stream.gather(inputs);
        async move {
            gathered?;
            let mut outputs = Outputs::of(&stream)?;
            stream.step_async(&mut outputs).await?;
            Ok(outputs)
        }
    }

    /// A stream in the reset state: what it runs goes on from where its last run ended.
    pub fn stream(&self) -> Stream {
        Stream::new(self.clone())
    }

    /// Plans and compiles for inputs of these shapes, so that the first run does not have to.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn prepare<K: AsKey>(&self, shapes: &[(K, &[usize])]) -> Result<()> {
        let mut sorted = vec![None; self.inner.graph.inputs.len()];
        for (key, shape) in shapes {
            if let Some(slot) = sorted.get_mut(self.inner.model.input_index(key.key())?) {
                *slot = Some(shape.to_vec());
            }
        }
        let missing = |index: usize| Error::input(format!("no shape for input {index} was given"));
        let shapes = sorted
            .into_iter()
            .enumerate()
            .map(|(index, shape)| shape.ok_or_else(|| missing(index)))
            .collect::<Result<Vec<_>>>()?;
        let ready = self.compile(shapes)?;
        self.inner.pool.give_back(ready);
        Ok(())
    }

    /// The inputs in the graph's order.
    fn gather(&self, inputs: &(impl Inputs + ?Sized)) -> Result<Vec<Tensor>> {
        let mut stream = self.stream();
        stream.gather(inputs)?;
        Ok(stream.into_inputs())
    }

    /// A program for these inputs: one that waits in the pool, or a new one.
    fn checkout(&self, inputs: &[Tensor]) -> Result<pool::Ready> {
        match self.inner.pool.take(inputs) {
            Some(ready) => Ok(ready),
            None => self.compile(inputs.iter().map(|input| input.shape().to_vec()).collect()),
        }
    }

    fn compile(&self, shapes: Vec<Vec<usize>>) -> Result<pool::Ready> {
        let plan = Arc::new(crate::plan::Plan::new(&self.inner.graph, &shapes)?);
        let program = self.inner.backend.compile(&plan).within(|| self.inner.backend.name())?;
        self.note(program.as_ref());
        let replacements = program.replacements();
        Ok(pool::Ready { shapes, plan, program, replacements })
    }

    /// Takes over what a program has to say.
    fn note(&self, program: &dyn Program) {
        let mut notes = self.inner.programs.lock().unwrap_or_else(PoisonError::into_inner);
        for note in program.notes() {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }

    /// Takes back a program whose run went well, and returns its counts; a program that had to
    /// replace itself says why.
    fn ran(&self, mut ready: pool::Ready) -> Counters {
        let (counters, replacements) = (ready.program.counters(), ready.program.replacements());
        if replacements != ready.replacements {
            self.note(ready.program.as_ref());
            ready.replacements = replacements;
        }
        self.inner.pool.give_back(ready);
        counters
    }

    /// States of these shapes as a reset leaves them.
    fn reset_states(&self, shapes: &[Vec<usize>]) -> Result<Vec<Tensor>> {
        let graph = &self.inner.graph;
        let broken = || Error::internal("a state without a value");
        graph
            .states
            .iter()
            .zip(shapes)
            .map(|(state, shape)| {
                let ty = &graph.get(state.value).ok_or_else(broken)?.ty;
                state.reset.state(ty.dtype, shape).within(|| format!("state '{}'", state.name))
            })
            .collect()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("device", &self.device()).finish_non_exhaustive()
    }
}

/// `Model` and `Session` may be shared between threads, a `Stream` moved to another one.
const _: () = {
    const fn shared<T: Send + Sync + Clone>() {}
    const fn moved<T: Send>() {}
    shared::<Model>();
    shared::<Session>();
    shared::<Device>();
    shared::<Tensor>();
    moved::<Stream>();
    moved::<Outputs>();
    moved::<Error>();
};
