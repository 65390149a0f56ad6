//! Tables for people: aligned, and no wider than a terminal of the usual size.

/// The widest a line may be, in characters.
const WIDTH_MAX: usize = 100;

/// A column is cut to no less than this, unless it is the first.
const OTHERS_MIN: usize = 9;

/// What stands between two columns.
const GAP: &str = "  ";

/// Lays `rows` out under `header`. What does not fit is cut and marked with `…`.
pub(super) fn layout(header: &[&str], rows: &[Vec<String>]) -> String {
    laid_out(header, rows, WIDTH_MAX).iter().map(|line| format!("{line}\n")).collect()
}

/// The same in lines of at most `width` characters: the header's, and one for each row.
pub(super) fn laid_out(header: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let widths = widths(header, rows, width);
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let line = |row: &Vec<String>| fitted(&padded(row, &widths, true), width);
    std::iter::once(&header).chain(rows).map(line).collect()
}

/// A line of cells, each as wide as its column; what is wider is cut if `is_cut`, and else moves what comes after it.
pub(super) fn padded(cells: &[String], widths: &[usize], is_cut: bool) -> String {
    let cell = |(cell, &width): (&String, &usize)| {
        if is_cut { format!("{:<width$}", fitted(cell, width)) } else { format!("{cell:<width$}") }
    };
    let cells: Vec<String> = cells.iter().zip(widths).map(cell).collect();
    cells.join(GAP).trim_end().to_owned()
}

/// Each column as wide as its widest cell. If the line does not fit, the widest of the others give way
/// before the first column, which is the name.
pub(super) fn widths(header: &[&str], rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let natural = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain(header.get(index).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..header.len()).map(natural).collect();
    let gaps = GAP.len() * header.len().saturating_sub(1);
    let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
    for _ in 0..excess {
        let widest = widths.iter_mut().skip(1).filter(|width| **width > OTHERS_MIN).max();
        let Some(width) = widest else { break };
        *width -= 1;
    }
    let rest = widths.iter().skip(1).sum::<usize>() + gaps;
    if let Some(first) = widths.first_mut() {
        *first = (*first).min(width.saturating_sub(rest).max(OTHERS_MIN));
    }
    widths
}

/// One line of prose in as many as it takes, set in as it was, and those after the first a little more.
pub(super) fn wrapped(line: &str) -> String {
    wrapped_to(line, WIDTH_MAX).iter().map(|line| format!("{line}\n")).collect()
}

/// The same in lines of at most `width` characters, unless a single word is longer.
pub(super) fn wrapped_to(line: &str, width: usize) -> Vec<String> {
    if line.chars().count() <= width {
        return vec![line.trim_end().to_owned()];
    }
    let set_in = line.len() - line.trim_start().len();
    let mut lines = vec![" ".repeat(set_in)];
    let mut begun = false;
    for word in line.split_whitespace() {
        match lines.last_mut() {
            Some(last) if !begun => last.push_str(word),
            Some(last) if last.chars().count() + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            Some(_) | None => lines.push(format!("{}{word}", " ".repeat(set_in + GAP.len()))),
        }
        begun = true;
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// `cell`, cut and marked with `…` if it is wider than `width`.
pub(super) fn fitted(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::{layout, wrapped};

    #[test]
    fn columns_are_aligned_and_names_are_cut_last() {
        let rows = vec![
            vec!["a".repeat(70), "x".repeat(200), "1".to_owned()],
            vec!["longer".to_owned(), "y".to_owned(), "2".to_owned()],
        ];
        let text = layout(&["NAME", "ADDRESS", "N"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NAME ") && lines[2].starts_with("longer "), "{text}");
        assert!(lines[1].starts_with(&"a".repeat(70)) && lines[1].contains('…'), "{text}");
        assert_eq!(lines[1].chars().count(), 100, "{text}");
        assert_eq!(lines[0].find('N'), Some(0));
        assert_eq!(lines[1].chars().last(), Some('1'));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_however_long_the_name() {
        let text = layout(&["NAME", "ADDRESS"], &[vec!["n".repeat(300), "a".repeat(300)]]);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn prose_keeps_its_margin_and_loses_no_word() {
        let line = format!("    {}", "word ".repeat(60).trim_end());
        let text = wrapped(&line);
        assert!(text.lines().all(|line| line.starts_with("    word") || line.starts_with("      word")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.split_whitespace().count(), 60);
        assert_eq!(wrapped(""), "\n");
    }
}
