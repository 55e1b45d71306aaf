//! The persistent strategy: right results whether or not its workgroups run at the same time.

use super::*;
use crate::backend::gpu::recurrent::persistent::{Look, probe_with};

fn persistent(checked: bool) -> Option<Gpu> {
    forced(Strategy::Persistent, checked)
}

/// Runs a case twice, holds it against `eval` and returns the notes.
fn run_twice(gpu: &Gpu, case: &Case, tolerance: f32) -> (Vec<String>, Counters) {
    let (graph, inputs) = case.build();
    let want = expected(&graph, &inputs);
    let plan = plan(graph);
    let mut program = gpu.compile(&plan).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    for round in 0..2 {
        let got = testing::run(program.as_mut(), &plan, &inputs);
        for ((got, want), port) in got.iter().zip(&want).zip(&plan.graph.outputs) {
            let error = max_abs(got.as_slice().unwrap(), want.as_slice().unwrap());
            assert!(
                error <= tolerance,
                "{} differs by {error} in round {round}: {case:?}",
                port.name
            );
        }
    }
    (program.notes(), program.counters())
}

fn says(notes: &[String], text: &str) -> bool {
    notes.iter().any(|note| note.contains(text))
}

/// One workgroup a direction has nobody to wait for, so these never fall back.
#[test]
fn alone() {
    let base = plain(Cell::Lstm(lstm()), [7, 3, 5, 20]);
    let both = Case { directions: vec![false, true], ..base.clone() };
    let cases = [
        base.clone(),
        Case { sizes: [1, 1, 3, 7], initial: true, ..base.clone() },
        Case { sizes: [0, 3, 5, 20], initial: true, ..base.clone() },
        Case { sizes: [4, 0, 5, 20], initial: true, ..base.clone() },
        Case { sizes: [150, 2, 5, 30], initial: true, ..both.clone() },
        Case { sizes: [9, 3, 5, 65], ..both.clone() },
        Case { sizes: [9, 2, 5, 128], merge: Merge::Concat, ..both.clone() },
        Case {
            mask: Some((true, Masking::Hold)),
            layout: Layout::BatchMajor,
            initial: true,
            ..both.clone()
        },
        Case { mask: Some((false, Masking::Zero)), y: false, ..both.clone() },
        Case {
            cell: Cell::Lstm(Lstm { coupled_input_forget: true, cell_clip: Some(0.6), ..lstm() }),
            ..base.clone()
        },
        Case { peephole: true, auxiliary: Some((4, false)), initial: true, ..base.clone() },
        Case { cell: gru(true), initial: true, sizes: [9, 3, 5, 33], ..both.clone() },
        Case { cell: Cell::Rnn(Rnn { activation: Activation::Tanh }), initial: true, ..base },
    ];
    for checked in [true, false] {
        let Some(gpu) = persistent(checked) else { return };
        if !gpu.shared.device.software {
            return;
        }
        gpu.shared.persistent.pass(Look::Exchange);
        for case in &cases {
            let (notes, counters) = run_twice(&gpu, case, 1e-5);
            assert!(
                says(&notes, "persistent strategy (asked for; 1 workgroups"),
                "{case:?}: {notes:?}"
            );
            assert_eq!((counters.pipelines_created, counters.buffers_created), (0, 0), "{case:?}");
        }
    }
}

/// Several workgroups: on a busy machine they may not run at the same time, which must not change
/// the results.
#[test]
fn together() {
    let base = plain(Cell::Lstm(lstm()), [70, 1, 5, 64]);
    let cases = [
        base.clone(),
        Case { sizes: [9, 3, 5, 100], initial: true, ..base.clone() },
        Case { cell: gru(true), sizes: [130, 1, 3, 128], ..base.clone() },
    ];
    for checked in [true, false] {
        let Some(gpu) = persistent(checked) else { return };
        for case in &cases {
            let (notes, _) = run_twice(&gpu, case, 1e-5);
            let (ran, refused) =
                (says(&notes, "persistent strategy"), says(&notes, "step strategy"));
            assert!(ran != refused, "{notes:?}");
            let reason =
                says(&notes, "the probe of") || says(&notes, "did not all run at the same time");
            assert!(ran || reason, "{notes:?}");
            eprintln!("{case:?} ran by the {} strategy", if ran { "persistent" } else { "step" });
        }
    }
}

#[test]
fn rounded() {
    for (precision, tolerance) in [(Precision::F16, 5e-3), (Precision::Int8, 5e-2)] {
        let options = BackendOptions {
            precision,
            strategy: Some(Strategy::Persistent),
            ..BackendOptions::default()
        };
        let Some(gpu) = open(&options) else { return };
        let case = plain(Cell::Lstm(lstm()), [6, 3, 5, 30]);
        run_twice(&gpu, &Case { directions: vec![false, true], initial: true, ..case }, tolerance);
    }
}

/// Waits that fail end in the steps, in the same run, with the same results and the reason; the
/// session stays with them.
#[test]
fn workgroups_that_do_not_meet() {
    let Some(gpu) = persistent(true) else { return };
    gpu.shared.persistent.pass(Look::Never);
    let case = Case { initial: true, ..plain(Cell::Lstm(lstm()), [70, 2, 5, 40]) };
    for _ in 0..2 {
        let (notes, counters) = run_twice(&gpu, &case, 1e-5);
        assert!(
            says(
                &notes,
                "step strategy (the workgroups of the strategy persistent did not all run"
            ),
            "{notes:?}"
        );
        assert_eq!((counters.pipelines_created, counters.buffers_created), (0, 0));
    }
}

#[test]
fn a_probe_that_fails() {
    let Some(gpu) = persistent(true) else { return };
    probe_with(&gpu.shared, &[Look::Never]);
    let (notes, _) = run_twice(&gpu, &plain(Cell::Lstm(lstm()), [5, 2, 5, 40]), 1e-5);
    assert!(
        says(&notes, "step strategy (the probe of the strategy persistent failed"),
        "{notes:?}"
    );
}

#[test]
fn layers_that_do_not_fit() {
    let Some(gpu) = persistent(false) else { return };
    gpu.shared.persistent.pass(Look::Exchange);
    let base = plain(Cell::Lstm(lstm()), [3, 2, 4, 20]);
    for (case, reason) in [
        (Case { projection: Some(9), ..base.clone() }, "projection"),
        (Case { layer_norm: true, ..base.clone() }, "layer norm"),
        (Case { cell: gru(false), ..base.clone() }, "reset"),
        (Case { diagonal: true, ..base.clone() }, "diagonal"),
        (Case { sizes: [2, 1, 4, 3000], ..base }, "do not fit"),
    ] {
        let error = gpu.compile(&plan(case.build().0)).err().unwrap();
        assert!(
            error.kind() == crate::ErrorKind::InvalidInput && error.to_string().contains(reason),
            "{error}"
        );
    }
}
