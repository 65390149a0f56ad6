//! How the screen looks: a title, the views, a table, a line of keys; and what lies over it.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::super::colour::Tone;
use super::super::table::{laid_out, wrapped_to};
use super::super::views::{items, session_count};
use super::rows::header;
use super::screen::{Over, Screen, View};

/// Lines that are no rows: the title, the views, the header, the keys.
const FRAME_LINES: u16 = 4;

const KEYS: &str = "↑↓ choose  Enter explain  d drain  r ready  f fail over  p pause  / filter  ? help  q quit";
const KEYS_SHORT: &str = "Enter explain  d/r/f/p orders  s sort  / filter  ? help  q quit";

const HELP: &str = "\
1 2 3 4, Tab  pools, backends, sessions, events
↑ ↓, j k      choose a row; PgUp and PgDn by ten
s, S          sort by the next column; the other way round
/             filter: type, Enter keeps it, Esc takes it away
Enter         explain: why the pool's traffic goes where it goes
d, r          drain a backend; let it serve again
f             fail over: a pool to the best, or to the chosen backend
p             pause a pool, or resume it
q, Ctrl-C     quit

Orders ask first, and are done with y. Any key closes this.";

/// All of it.
pub(super) fn screen(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    let line = |at: u16| Rect { y: at.min(area.height.saturating_sub(1)), height: 1.min(area.height), ..area };
    frame.render_widget(title(screen, area.width), line(0));
    frame.render_widget(views(screen), line(1));
    table(frame, screen, Rect { y: 2, height: area.height.saturating_sub(3), ..area });
    frame.render_widget(bottom(screen, area.width), line(area.height.saturating_sub(1)));
    match &screen.over {
        Over::Nothing => {}
        Over::Help => page(frame, screen, " keys ", HELP, 0),
        Over::Confirm(order) => {
            let warning = screen.foreseen(order).map(|warning| format!("\n\nWARNING: {warning}.")).unwrap_or_default();
            let means = order.means();
            let asked = format!("changeover {order}\n\n{means}{warning}\n\ny does it, any other key does not.");
            page(frame, screen, " is this meant? ", &asked, 0);
        }
        Over::Page(text, from) => page(frame, screen, " explain: ↑↓ scroll, any other key closes ", text, *from),
    }
}

fn coloured(screen: &Screen, tone: Tone) -> Style {
    let style = Style::new();
    if !screen.is_coloured {
        return style;
    }
    style.fg(match tone {
        Tone::Good => Color::Green,
        Tone::Odd => Color::Yellow,
        Tone::Bad => Color::Red,
    })
}

/// Words of state in their colour.
fn painted<'a>(screen: &Screen, text: &'a str) -> Line<'a> {
    let span = |piece: &'a str| match Tone::of(piece.trim_end()) {
        Some(tone) => Span::styled(piece, coloured(screen, tone)),
        None => Span::raw(piece),
    };
    Line::from_iter(text.split_inclusive(' ').map(span))
}

fn title(screen: &Screen, width: u16) -> Line<'static> {
    let address = &screen.address;
    match (&screen.lost, &screen.seen) {
        (Some((since, why)), _) => {
            let said = format!("NOT REACHABLE since {since}, trying each second: {why}");
            Line::styled(cut(&said, width), coloured(screen, Tone::Bad).add_modifier(Modifier::BOLD))
        }
        (None, Some(seen)) => {
            let pools = items(&seen.pools["pools"]);
            let sessions: u64 = pools.iter().filter_map(|pool| session_count(pool).parse::<u64>().ok()).sum();
            let said = format!("changeover: {}  pools {}  sessions {sessions}  {address}", seen.state, pools.len());
            let room = usize::from(width).saturating_sub(seen.at.len() + 1);
            let said = cut(&said, u16::try_from(room).unwrap_or(u16::MAX));
            Line::styled(format!("{said:<room$} {}", seen.at), Modifier::BOLD)
        }
        (None, None) => Line::raw(cut(&format!("changeover: asking {address}"), width)),
    }
}

fn views(screen: &Screen) -> Line<'static> {
    let tab = |(at, view): (usize, View)| {
        let text = format!(" {} {} ", at + 1, view.name());
        if view == screen.view { Span::styled(text, Modifier::REVERSED) } else { Span::raw(text) }
    };
    let mut spans: Vec<Span<'static>> = View::ALL.into_iter().enumerate().map(tab).collect();
    if screen.is_typing || !screen.filter.is_empty() {
        let mark = if screen.is_typing { "_" } else { "" };
        spans.push(Span::raw(format!("   filter: {}{mark}", screen.filter)));
    }
    Line::from(spans)
}

fn table(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let Some(seen) = &screen.seen else { return };
    let rows = screen.rows();
    let mut header = header(screen.view, seen);
    let sorted = screen.sort.and_then(|column| Some((column, *header.get(column)?)));
    let marked = sorted.map(|(column, name)| (column, format!("{name}{}", if screen.is_reversed { "▲" } else { "▼" })));
    if let Some((column, name)) = &marked
        && let Some(place) = header.get_mut(*column)
    {
        *place = name;
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.cells.iter().map(|cell| cell.shown.clone()).collect()).collect();
    let lines = laid_out(&header, &cells, usize::from(area.width));
    let shown = usize::from(area.height.saturating_sub(1));
    let chosen = screen.chosen(&rows);
    // The chosen row is always among those that are shown.
    let from = (chosen + 1).saturating_sub(shown);
    let dim = if screen.lost.is_some() { Modifier::DIM } else { Modifier::empty() };
    let mut text: Vec<Line<'_>> =
        lines.first().map(|head| Line::styled(head.as_str(), Modifier::BOLD)).into_iter().collect();
    for (at, line) in lines.iter().skip(1).enumerate().skip(from).take(shown) {
        let line = painted(screen, line);
        text.push(if at == chosen { line.patch_style(Modifier::REVERSED) } else { line.patch_style(dim) });
    }
    if rows.is_empty() {
        text.push(Line::raw(if screen.filter.is_empty() {
            "there are none"
        } else {
            "nothing passes the filter: Esc takes it away"
        }));
    }
    frame.render_widget(Paragraph::new(text), area);
}

fn bottom(screen: &Screen, width: u16) -> Line<'static> {
    if screen.told.is_empty() {
        let fits = KEYS.chars().count() <= usize::from(width);
        return Line::raw(cut(if fits { KEYS } else { KEYS_SHORT }, width));
    }
    Line::styled(cut(&screen.told, width), Modifier::BOLD)
}

/// A text in a box over the rest, from its line `from` on.
fn page(frame: &mut Frame<'_>, screen: &Screen, title: &str, text: &str, from: usize) {
    let area = frame.area();
    let inside = usize::from(area.width.saturating_sub(4)).min(100);
    let lines: Vec<String> = text.lines().flat_map(|line| wrapped_to(line, inside)).collect();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let height = height.min(area.height.saturating_sub(FRAME_LINES - 2));
    let width = u16::try_from(inside).unwrap_or(area.width).saturating_add(2).min(area.width);
    let place = Rect { x: (area.width - width) / 2, y: (area.height.saturating_sub(height)) / 2, width, height };
    // No further than its end.
    let room = usize::from(height.saturating_sub(2));
    let from = from.min(lines.len().saturating_sub(room));
    let shown: Vec<Line<'_>> = lines.iter().skip(from).map(|line| painted(screen, line)).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(shown).block(Block::bordered().title(title.to_owned())), place);
}

fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    let text = text.replace('\n', " ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}
