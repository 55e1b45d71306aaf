//! The adapter's rates and latencies, by kernels that do one thing each. Times are the host's, and
//! differences of two lengths of the same work, so that what a submission costs falls out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Shared;
use super::buffers::{self, View};
use super::device::Meter;
use super::pipeline::{Kernel, Pipeline, Shader};
use crate::backend::ceilings::{Bandwidth, Ceilings};
use crate::error::{Error, Result};

/// Bytes of each of the two buffers of a copy: over the caches of desktop GPUs, and a binding that
/// every adapter allows.
const COPY_BYTES: u64 = 128 << 20;
/// Rounds of a multiply-add kernel: the software driver ends loops after 65,535.
const ROUNDS: u32 = 2048;
/// Operations of one invocation in a round: eight vectors of four, two each.
const OPERATIONS: f64 = 64.0;
/// A measurement whose longer half takes less than this is repeated with more work.
const LEAST_SECONDS: f64 = 0.02;
/// Measurements of which the best counts.
const TRIES: usize = 3;

struct Bench<'a> {
    shared: &'a Shared,
    meter: Meter,
}

/// A kernel with its bindings.
struct Work {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    params: Vec<u32>,
    groups: [u32; 2],
}

pub(super) fn measure(shared: &Shared) -> Result<Ceilings> {
    let bench = Bench { shared, meter: Meter::default() };
    let (submit_us, readback_us) = bench.latencies()?;
    Ok(Ceilings {
        device: "gpu".to_owned(),
        adapter: shared.device.report.to_string(),
        threads: None,
        fma_gflops: bench.multiply_adds()?,
        bandwidth: vec![bench.copy()?],
        dispatch_us: Some(bench.chain()?),
        submit_us: Some(submit_us),
        readback_us: Some(readback_us),
    })
}

impl Bench<'_> {
    fn buffer(&self, bytes: u64) -> Result<View> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let buffer = buffers::create(&self.shared.device, &self.meter, "ceiling", bytes, usage)?;
        Ok(View::whole(buffer, bytes))
    }

    fn work(
        &self,
        shader: Shader,
        views: &[&View],
        params: Vec<u32>,
        groups: [u32; 2],
    ) -> Result<Work> {
        let device = &self.shared.device;
        let pipeline = self.shared.pipelines.get(device, &Kernel::new(shader), &self.meter)?;
        let entries: Vec<_> = (0u32..)
            .zip(views)
            .map(|(binding, view)| wgpu::BindGroupEntry { binding, resource: view.binding() })
            .collect();
        let bindings = device.guarded(|| {
            let descriptor = wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            };
            device.device.create_bind_group(&descriptor)
        })?;
        Ok(Work { pipeline, bindings, params, groups })
    }

    /// Seconds from recording `count` dispatches until the host knows that they have finished.
    fn seconds(&self, work: &Work, count: u32) -> Result<f64> {
        let device = &self.shared.device;
        let start = Instant::now();
        let mut encoder =
            device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder, work, count);
        let submission = device.queue.submit([encoder.finish()]);
        device.wait(submission)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of one dispatch among many.
    fn slope(&self, work: &Work) -> Result<f64> {
        self.seconds(work, 1)?;
        let mut count = 8;
        while count < 1 << 14 && self.seconds(work, count)? < LEAST_SECONDS {
            count *= 2;
        }
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            let (short, long) = (self.seconds(work, count / 4)?, self.seconds(work, count)?);
            best = best.min((long - short) / f64::from(count - count / 4));
        }
        if best > 0.0 {
            Ok(best)
        } else {
            Err(Error::device("the adapter's clock and work do not go together"))
        }
    }

    /// GFLOP/s of multiply-adds from registers.
    fn multiply_adds(&self) -> Result<f64> {
        // Groups that keep the adapter busy for some milliseconds; found by doubling.
        let most = self.shared.device.limits.max_compute_workgroups_per_dimension.min(1 << 14);
        let y = self.buffer(4 * 256 * u64::from(most))?;
        let mut groups = 16;
        loop {
            let params = vec![ROUNDS, 0.999_f32.to_bits(), 0.001_f32.to_bits()];
            let work = self.work(Shader::CeilingFma, &[&y], params, [groups, 1])?;
            self.seconds(&work, 1)?;
            if groups >= most || self.seconds(&work, 1)? > LEAST_SECONDS / 4.0 {
                let operations = OPERATIONS * f64::from(ROUNDS) * 256.0 * f64::from(groups);
                return Ok(operations / self.slope(&work)? / 1e9);
            }
            groups = (groups * 2).min(most);
        }
    }

    /// Bandwidth of a copy, reads and writes counted.
    fn copy(&self) -> Result<Bandwidth> {
        let limits = &self.shared.device.limits;
        let bytes =
            COPY_BYTES.min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size)
                & !255;
        let (x, y) = (self.buffer(bytes)?, self.buffer(bytes)?);
        let vectors = (bytes / 16) as u32;
        let groups = vectors.div_ceil(256);
        let across = groups.min(limits.max_compute_workgroups_per_dimension);
        let work = self.work(
            Shader::CeilingCopy,
            &[&x, &y],
            vec![vectors],
            [across, groups.div_ceil(across)],
        )?;
        let gbs = 2.0 * bytes as f64 / self.slope(&work)? / 1e9;
        Ok(Bandwidth { level: "copy".to_owned(), bytes: 2 * bytes, gbs })
    }

    /// Microseconds of a dispatch that waits for the one before it.
    fn chain(&self) -> Result<f64> {
        let y = self.buffer(256)?;
        let work = self.work(Shader::CeilingChain, &[&y], Vec::new(), [1, 1])?;
        Ok(self.slope(&work)? * 1e6)
    }

    /// Median microseconds of a submission of one small dispatch, without and with a word read
    /// back.
    fn latencies(&self) -> Result<(f64, f64)> {
        let device = &self.shared.device;
        let y = self.buffer(256)?;
        let work = self.work(Shader::CeilingChain, &[&y], Vec::new(), [1, 1])?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = buffers::create(device, &self.meter, "ceiling", 256, usage)?;
        let mut plain = Vec::new();
        let mut read = Vec::new();
        for _ in 0..30 {
            plain.push(self.seconds(&work, 1)? * 1e6);
            let start = Instant::now();
            let mut encoder =
                device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder, &work, 1);
            encoder.copy_buffer_to_buffer(&y.buffer, 0, &staging, 0, 256);
            let submission = device.queue.submit([encoder.finish()]);
            let mapped = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&mapped);
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                flag.store(result.is_ok(), Ordering::Release)
            });
            device.wait(submission)?;
            if !mapped.load(Ordering::Acquire) {
                return Err(Error::device("a buffer could not be mapped"));
            }
            read.push(start.elapsed().as_secs_f64() * 1e6);
            staging.unmap();
        }
        let median = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        Ok((median(plain), median(read)))
    }
}

/// Records dispatches of one pass.
fn record(encoder: &mut wgpu::CommandEncoder, work: &Work, count: u32) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&work.pipeline.pipeline);
    pass.set_bind_group(0, &work.bindings, &[]);
    if !work.params.is_empty() {
        pass.set_immediates(0, bytemuck::cast_slice(&work.params));
    }
    for _ in 0..count {
        pass.dispatch_workgroups(work.groups[0], work.groups[1], 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::BackendOptions;
    use crate::backend::gpu::testing::open;

    #[test]
    fn rates_and_latencies_are_possible() {
        let Some(gpu) = open(&BackendOptions::default()) else { return };
        let found = measure(&gpu.shared).unwrap();
        // From a busy software driver to a GPU that does not exist.
        assert!((0.01..1e6).contains(&found.fma_gflops), "{found:?}");
        assert!((0.01..1e5).contains(&found.bandwidth[0].gbs), "{found:?}");
        assert!((0.1..1e5).contains(&found.dispatch_us.unwrap()), "{found:?}");
        assert!((0.1..1e6).contains(&found.submit_us.unwrap()), "{found:?}");
    }

    #[test]
    fn dispatches_of_a_chain_wait_for_each_other() {
        let Some(gpu) = open(&BackendOptions::default()) else { return };
        let bench = Bench { shared: &gpu.shared, meter: Meter::default() };
        let y = bench.buffer(256).unwrap();
        let work = bench.work(Shader::CeilingChain, &[&y], Vec::new(), [1, 1]).unwrap();
        bench.seconds(&work, 100).unwrap();
        let device = &gpu.shared.device;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = buffers::create(device, &bench.meter, "test", 256, usage).unwrap();
        let mut encoder = device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&y.buffer, 0, &staging, 0, 256);
        let submission = device.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        device.wait(submission).unwrap();
        let bytes = staging.get_mapped_range(..).unwrap();
        assert!(
            bytemuck::cast_slice::<u8, u32>(&bytes).iter().all(|&n| n == 100),
            "a dispatch was lost"
        );
    }
}
