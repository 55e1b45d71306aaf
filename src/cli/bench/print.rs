//! Rows as text, and beside those of an earlier time.

use std::path::Path;

use super::row::{self, Row};
use crate::backend::ceilings::Ceilings;
use crate::cli::table::table;
use crate::text::{bytes, error};
use serde_json::{Value, json};

use super::Format;
use crate::cli::common::{Failure, Output};

/// Columns that tell the rows of one machine apart, then numbers.
const HEADINGS: &[&str] = &[
    "device",
    "strategy",
    "cell",
    "precision",
    "T",
    "B",
    "I",
    "H",
    "layers",
    "threads",
    "median ms",
    "min",
    "p95",
    "p99",
    "sd",
    "µs/step",
    "steps/s",
    "sequences/s",
    "real time",
    "GFLOP/s",
    "GB/s",
    "dispatches",
    "submissions",
];

/// Columns that are the same for all rows of a machine: last in a Markdown row, above a table.
const MACHINE: &[&str] = &["adapter", "driver", "host", "version"];

/// Behind the others when a row has them.
const PHASES: &[&str] = &["upload ms", "projection", "recurrence", "other", "readback", "idle"];

/// As well.
const SHARES: &[&str] = &["of fma", "of bandwidth"];

/// As well.
const ERROR: &[&str] = &["max abs"];

/// The headings of these rows.
fn headings(rows: &[Row]) -> Vec<&'static str> {
    let shares = if rows.iter().any(|row| row.fma_share.is_some()) { SHARES } else { &[] };
    let phases = if rows.iter().any(|row| row.phases_ms.is_some()) { PHASES } else { &[] };
    let errors = if rows.iter().any(|row| row.max_abs.is_some()) { ERROR } else { &[] };
    HEADINGS.iter().chain(shares).chain(errors).chain(phases).copied().collect()
}

/// Prints what the devices can do.
pub(super) fn ceilings(ceilings: &[Ceilings], output: &mut Output) {
    for device in ceilings {
        let threads = device
            .threads
            .map_or_else(String::new, |n| format!(", {n} thread{}", if n == 1 { "" } else { "s" }));
        let mut rates = vec![format!("multiply-adds {:.1} GFLOP/s", device.fma_gflops)];
        rates.extend(
            device
                .bandwidth
                .iter()
                .map(|b| format!("{} {:.1} GB/s ({})", b.level, b.gbs, bytes(b.bytes))),
        );
        let latencies = [
            ("dependent dispatch", device.dispatch_us),
            ("submit and wait", device.submit_us),
            ("with readback", device.readback_us),
        ];
        rates.extend(
            latencies.iter().filter_map(|(what, us)| us.map(|us| format!("{what} {us:.1} µs"))),
        );
        output.line(format!(
            "{}{threads}: {}: {}\n",
            device.device,
            device.adapter,
            rates.join(", ")
        ));
    }
}

/// The cells of a row under [`headings`].
fn cells(row: &Row, headings: &[&str]) -> Vec<String> {
    let mut cells = plain_cells(row);
    let share =
        |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    if headings.contains(&SHARES[0]) {
        cells.extend([share(row.fma_share), share(row.bandwidth_share)]);
    }
    if headings.contains(&ERROR[0]) {
        cells.push(row.max_abs.map_or_else(|| "-".to_owned(), error));
    }
    if headings.contains(&PHASES[0]) {
        let phases = row
            .phases_ms
            .map(|p| [p.upload, p.projection, p.recurrence, p.other, p.readback, p.idle]);
        cells.extend((0..PHASES.len()).map(|phase| {
            match phases.and_then(|all| all.get(phase).copied()) {
                Some(ms) => format!("{ms:.4}"),
                None => "-".to_owned(),
            }
        }));
    }
    cells
}

fn plain_cells(row: &Row) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let size = |n: Option<usize>| or_dash(n.map(|n| n.to_string()));
    let layers = match (row.layers, row.bidirectional) {
        (Some(layers), Some(true)) => format!("{layers} bi"),
        (layers, _) => size(layers),
    };
    let ms = |value: f64| format!("{value:.4}");
    let per_step =
        row.time.filter(|&t| t > 0).map(|t| format!("{:.3}", row.median_ms * 1e3 / t as f64));
    vec![
        row.device.clone(),
        row.strategy.clone(),
        row.cell.clone().or_else(|| row.model.clone()).unwrap_or_default(),
        row.precision.clone(),
        size(row.time),
        size(row.batch),
        size(row.input),
        size(row.hidden),
        layers,
        size(row.threads),
        ms(row.median_ms),
        ms(row.min_ms),
        ms(row.p95_ms),
        ms(row.p99_ms),
        ms(row.sd_ms),
        or_dash(per_step),
        or_dash(row.steps_per_second.map(|n| format!("{n:.0}"))),
        or_dash(row.sequences_per_second.map(|n| format!("{n:.1}"))),
        or_dash(row.real_time_factor.map(|n| format!("{n:.1}"))),
        or_dash(row.gflops.map(|n| format!("{n:.2}"))),
        or_dash(row.weights_gbs.map(|n| format!("{n:.2}"))),
        row.dispatches.to_string(),
        row.submissions.to_string(),
    ]
}

fn machine(row: &Row) -> Vec<String> {
    vec![
        row.adapter.clone(),
        row.driver.clone().unwrap_or_else(|| "-".to_owned()),
        row.host.clone(),
        row.version.clone(),
    ]
}

/// Prints the rows in this form; nothing for the document, which is printed at the end.
pub(super) fn rows(rows: &[Row], format: Format, output: &mut Output) -> Result<(), Failure> {
    match format {
        Format::Table => as_table(rows, output),
        Format::Md => {
            let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
            let headings = headings(rows);
            output.line(line(headings.iter().chain(MACHINE).map(ToString::to_string).collect()));
            output.line(format!("|{}", " --- |".repeat(headings.len() + MACHINE.len())));
            rows.iter()
                .for_each(|row| output.line(line([cells(row, &headings), machine(row)].concat())));
        }
        Format::Csv => as_csv(rows, output)?,
        Format::Json => {}
        Format::Jsonl => rows.iter().for_each(|row| output.line(json!(row).to_string())),
    }
    Ok(())
}

/// A table for each machine, with the machine above it.
fn as_table(rows: &[Row], output: &mut Output) {
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|row| machine(row) == machine(first)).count();
        let [adapter, _, host, version] = &machine(first)[..] else { return };
        output.line(format!("{}: {adapter}; {host}; fuselstm {version}", first.device));
        let headings = headings(rows);
        output.line(table(&headings, 4, rest.iter().take(same).map(|row| cells(row, &headings))));
        rest = rest.get(same..).unwrap_or_default();
    }
}

/// Every field of every row, flattened: `phases_ms.upload` is a column. Quoted as RFC 4180 says.
fn as_csv(rows: &[Row], output: &mut Output) -> Result<(), Failure> {
    let flat: Vec<Vec<(String, String)>> = rows
        .iter()
        .map(|row| {
            let mut fields = Vec::new();
            flatten("", &json!(row), &mut fields);
            fields
        })
        .collect();
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in flat.iter().flatten() {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    output.line(columns.join(","));
    for fields in &flat {
        let value = |column: &&str| {
            fields.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value)
        };
        output.line(columns.iter().map(value).map(quoted).collect::<Vec<_>>().join(","));
    }
    Ok(())
}

fn flatten(name: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                flatten(
                    &if name.is_empty() { key.clone() } else { format!("{name}.{key}") },
                    value,
                    fields,
                );
            }
        }
        Value::Null => fields.push((name.to_owned(), String::new())),
        Value::String(text) => fields.push((name.to_owned(), text.clone())),
        other => fields.push((name.to_owned(), other.to_string())),
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Holds the rows against those of an earlier document; `false` when one became slower.
pub(super) fn compare(
    rows: &[Row],
    path: &Path,
    mut says: impl FnMut(String),
) -> Result<bool, Failure> {
    let unreadable = |error: String| Failure::from(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let document: Value =
        serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    let old = document.get("rows").cloned().unwrap_or(document);
    let old: Vec<Row> =
        serde_json::from_value(old).map_err(|error| unreadable(error.to_string()))?;
    let changes = row::against(rows, &old);
    if changes.is_empty() {
        return Err(unreadable("none of these rows is in it".to_owned()));
    }
    for change in &changes {
        let Some(row) = rows.get(change.row) else { continue };
        let verdict = if change.is_regression() { "SLOWER" } else { "ok" };
        let (title, ratio, noise) = (row.title(), change.ratio, change.noise);
        says(format!("{verdict}: {title}: {ratio:.3} of the earlier time, noise up to {noise:.3}"));
    }
    if changes.len() < rows.len() {
        says(format!(
            "{} of {} rows are not in {}",
            rows.len() - changes.len(),
            rows.len(),
            path.display()
        ));
    }
    Ok(!changes.iter().any(row::Change::is_regression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_has_commas_and_keeps_every_field() {
        let row = Row { adapter: "llvmpipe (software, \"vulkan\")".to_owned(), ..Row::default() };
        let mut fields = Vec::new();
        flatten("", &json!({ "a": { "b": 1, "c": null }, "d": row.adapter }), &mut fields);
        assert_eq!(
            fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["a.b", "a.c", "d"]
        );
        assert_eq!(quoted(&row.adapter), "\"llvmpipe (software, \"\"vulkan\"\")\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
