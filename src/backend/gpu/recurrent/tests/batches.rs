//! More rows than an adapter has workgroups on an axis.

use super::*;

#[test]
fn more_rows_than_workgroups() {
    let case = plain(Cell::Lstm(lstm()), [1, 65_600, 2, 3]);
    for strategy in [Strategy::Loop, Strategy::Step] {
        let Some(gpu) = forced(strategy, false) else { return };
        check(&gpu, &case);
    }
}
