//! Tables for people: aligned, and no wider than a terminal of the usual size.

/// The widest a line may be, in characters.
const WIDTH_MAX: usize = 100;

/// Fewer characters of prose are of no use to anybody.
const PROSE_MIN: usize = 9;

/// What stands between two columns.
const GAP: &str = "  ";

/// Lays `rows` out under `header`. The last column takes what room is left; what does not fit is cut
/// and marked with `…`.
pub(super) fn layout(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths = widths(header, rows);
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{:<width$}", fitted(cell, width))).collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// Each column as wide as its widest cell. If the line does not fit, the last column, which is prose,
/// gives way first, and then the widest of the others.
fn widths(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let natural = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain(header.get(index).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..header.len()).map(natural).collect();
    let gaps = GAP.len() * header.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(WIDTH_MAX);
    if let Some(last) = widths.last_mut() {
        let given = excess.min(last.saturating_sub(PROSE_MIN));
        *last -= given;
        excess -= given;
    }
    for _ in 0..excess {
        let Some(widest) = widths.iter_mut().max() else { break };
        *widest -= 1;
    }
    widths
}

fn fitted(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::layout;

    #[test]
    fn columns_are_aligned_and_long_cells_are_cut() {
        let rows = vec![vec!["a".to_owned(), "x".repeat(200)], vec!["longer".to_owned(), "y".to_owned()]];
        let text = layout(&["NAME", "REASON"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME    REASON");
        assert_eq!(lines[2], "longer  y");
        assert!(lines[1].ends_with('…') && lines[1].chars().count() == 100, "{}", lines[1]);
    }
}
