//! The time of a step over the number of units, as a picture: a line for each device, strategy and
//! shape, both axes logarithmic.

use std::fmt::Write as _;

use super::row::Row;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Room for the names of the lines.
const RIGHT: f64 = 250.0;

/// Colors that are told apart without red against green.
const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"];

/// Points (H, µs a step) of rows that differ in H only.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let (Some(time), Some(batch), Some(hidden)) = (row.time, row.batch, row.hidden) else {
            continue;
        };
        if time == 0 || row.median_ms <= 0.0 || hidden == 0 {
            continue;
        }
        let mut name = format!("{} {}", row.device, row.strategy);
        if row.strategy == row.device {
            name.clone_from(&row.device);
        }
        let _ = write!(
            name,
            " {} {} T{time} B{batch}",
            row.cell.as_deref().unwrap_or(""),
            row.precision
        );
        if let Some(threads) = row.threads {
            let _ = write!(name, " {threads}t");
        }
        if row.layers != Some(1) || row.bidirectional == Some(true) {
            let both = if row.bidirectional == Some(true) { " bi" } else { "" };
            let _ = write!(name, " L{}{both}", row.layers.unwrap_or(1));
        }
        let point = (hidden as f64, row.median_ms * 1e3 / time as f64);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// A logarithmic axis: from a value to its place between two ends.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Ends on powers of `base` around all values.
    fn around(values: impl Iterator<Item = f64>, base: f64, from: f64, to: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value.log(base)), high.max(value.log(base)));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let (low, high) = (low.floor(), high.ceil());
        let high = if high > low { high } else { low + 1.0 };
        Axis { low: base.powf(low), high: base.powf(high), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + share * (self.to - self.from)
    }

    /// Powers of `base` from end to end.
    fn ticks(&self, base: f64) -> Vec<f64> {
        let (first, last) = (self.low.log(base).round() as i32, self.high.log(base).round() as i32);
        (first..=last).map(|power| base.powi(power)).collect()
    }
}

/// Draws the rows that have a shape.
pub fn steps(rows: &[Row]) -> String {
    let lines = lines(rows);
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x = Axis::around(points().map(|(hidden, _)| hidden), 2.0, LEFT, WIDTH - RIGHT);
    let y = Axis::around(points().map(|(_, time)| time), 10.0, HEIGHT - BOTTOM, TOP);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>"##
    );
    for tick in x.ticks(2.0) {
        let at = x.place(tick);
        let (top, bottom, below) = (y.to, y.from, y.from + 16.0);
        let _ = writeln!(svg, r##"<path d="M{at:.1} {top}V{bottom}" stroke="#ddd"/>"##);
        let _ =
            writeln!(svg, r##"<text x="{at:.1}" y="{below}" text-anchor="middle">{tick}</text>"##);
    }
    for tick in y.ticks(10.0) {
        let at = y.place(tick);
        let (left, right, before) = (x.from, x.to, x.from - 6.0);
        let _ = writeln!(svg, r##"<path d="M{left} {at:.1}H{right}" stroke="#ddd"/>"##);
        let _ = writeln!(
            svg,
            r##"<text x="{before}" y="{:.1}" text-anchor="end">{tick}</text>"##,
            at + 4.0
        );
    }
    let middle = (x.from + x.to) / 2.0;
    let _ = writeln!(
        svg,
        r##"<text x="{middle}" y="{}" text-anchor="middle">units (H)</text>"##,
        HEIGHT - 12.0
    );
    let _ = writeln!(svg, r##"<text x="{LEFT}" y="18">µs a step, median</text>"##);
    for (index, line) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let dash = ["", "6 3", "2 2"][(index / COLORS.len()) % 3];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(hidden, time)| format!("{:.1} {:.1}", x.place(hidden), y.place(time)))
            .collect();
        let _ = writeln!(
            svg,
            r##"<path class="line" d="M{}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>"##,
            path.join("L")
        );
        for &(hidden, time) in &line.points {
            let (cx, cy) = (x.place(hidden), y.place(time));
            let _ = writeln!(svg, r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="3" fill="{color}"/>"##);
        }
        let (at, row) = (WIDTH - RIGHT + 16.0, TOP + 16.0 * index as f64);
        let name = crate::cli::svg::escape(&line.name);
        let _ =
            writeln!(svg, r##"<text x="{at}" y="{:.1}" fill="{color}">{name}</text>"##, row + 8.0);
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(strategy: &str, hidden: usize, median_ms: f64) -> Row {
        let (time, batch, layers) = (Some(100), Some(1), Some(1));
        Row {
            device: "gpu".into(),
            strategy: strategy.into(),
            hidden: Some(hidden),
            time,
            batch,
            layers,
            median_ms,
            ..Row::default()
        }
    }

    #[test]
    fn a_line_for_each_strategy_with_a_point_for_each_size() {
        let svg = steps(&[
            row("loop", 64, 1.0),
            row("step", 64, 5.0),
            row("loop", 256, 4.0),
            row("a<b", 64, 2.0),
        ]);
        assert_eq!((svg.matches("class=\"line\"").count(), svg.matches("<circle").count()), (3, 4));
        assert!(svg.contains("gpu loop") && svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn axes_end_on_powers_around_the_values() {
        let axis = Axis::around([60.0, 300.0].into_iter(), 2.0, 0.0, 100.0);
        assert_eq!((axis.low, axis.high), (32.0, 512.0));
        assert_eq!(axis.ticks(2.0), [32.0, 64.0, 128.0, 256.0, 512.0]);
        assert!((axis.place(128.0) - 50.0).abs() < 1e-9);
        // Nothing to draw is no division by zero.
        assert!(!steps(&[]).contains("NaN"));
        assert!(!steps(&[row("loop", 64, 1.0)]).contains("NaN"));
    }
}
