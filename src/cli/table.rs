//! Tables for a terminal.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use crate::text::{Lines, clean};

/// A line under the headings and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with these headings; the columns from `numbers` on are aligned to the right. Its cells
/// may come from a file: they are cleaned.
pub(super) fn table<S: ToString>(
    headings: &[&str],
    numbers: usize,
    rows: impl IntoIterator<Item = Vec<S>>,
) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(&cell.to_string(), Lines::Escape).into_owned()));
    }
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_headings_and_rows() {
        let text = table(&["what", "n"], 1, [vec!["a\u{1b}[2J", "1"], vec!["b", "22"]]);
        assert!(text.contains("what") && text.contains("22") && text.contains("a\\u{1b}[2J"));
    }
}
