//! What is on the screen, and what a key does to it. No terminal and no daemon are known here.

use std::cmp::Ordering;
use std::fmt;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::super::foresight;
use super::super::views::items;
use super::feed::{News, Seen};
use super::rows::{self, Cell, Row};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum View {
    /// A line a pool.
    #[default]
    Pools,
    /// A line a backend.
    Backends,
    /// A line a session.
    Sessions,
    /// A line an event, the newest first.
    Events,
}

impl View {
    pub(super) const ALL: [Self; 4] = [Self::Pools, Self::Backends, Self::Sessions, Self::Events];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pools => "pools",
            Self::Backends => "backends",
            Self::Sessions => "sessions",
            Self::Events => "events",
        }
    }

    /// The one so many further on, round and round.
    fn after(self, steps: usize) -> Self {
        let at = Self::ALL.iter().position(|view| *view == self).unwrap_or(0);
        Self::ALL.get((at + steps) % Self::ALL.len()).copied().unwrap_or(self)
    }
}

/// What a confirmed key has the daemon do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// A pool's backend gets no new sessions.
    Drain(String, String),
    /// It may serve again.
    Ready(String, String),
    /// A pool serves from another backend: this one, or the best.
    Failover(String, Option<String>),
    /// New clients of a pool wait.
    Pause(String),
    /// They go on.
    Resume(String),
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(pool, backend) => write!(f, "drain {pool}/{backend}"),
            Self::Ready(pool, backend) => write!(f, "ready {pool}/{backend}"),
            Self::Failover(pool, Some(to)) => write!(f, "failover {pool} --to {to}"),
            Self::Failover(pool, None) => write!(f, "failover {pool}"),
            Self::Pause(pool) => write!(f, "pause {pool}"),
            Self::Resume(pool) => write!(f, "resume {pool}"),
        }
    }
}

impl Order {
    /// What it comes to, for whoever is asked whether it is meant.
    pub(super) const fn means(&self) -> &'static str {
        match self {
            Self::Drain(..) => "It gets no new sessions; those it has go by the pool's `drained` policy.",
            Self::Ready(..) => "It may serve again.",
            Self::Failover(..) => "The pool serves from there and from nowhere else, until `changeover failback`.",
            Self::Pause(_) => "New clients wait until it is resumed; sessions that exist go on.",
            Self::Resume(_) => "The clients that wait go on, in the order of their arrival.",
        }
    }
}

/// What the feed is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// From now on to look at this as well.
    Look(View),
    /// Why a pool's traffic goes where it goes.
    Explain(String),
    /// To have the daemon do something.
    Order(Order),
}

/// What a key leads to besides another picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// This is asked.
    Ask(Question),
    /// The end.
    Quit,
}

/// What lies over the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing.
    Nothing,
    /// What the keys do.
    Help,
    /// Whether an order is meant.
    Confirm(Order),
    /// A page, from this line on.
    Page(String, usize),
}

/// All of it.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) address: String,
    pub(super) is_coloured: bool,
    pub(super) view: View,
    pub(super) over: Over,
    pub(super) filter: String,
    /// Whether what is typed goes to the filter.
    pub(super) is_typing: bool,
    /// The column that rows are sorted by; none is the daemon's order.
    pub(super) sort: Option<usize>,
    pub(super) is_reversed: bool,
    /// The chosen row's identity.
    chosen: Option<String>,
    /// What was seen last; none before the first answer.
    pub(super) seen: Option<Seen>,
    /// Since when and why the daemon does not answer.
    pub(super) lost: Option<(String, String)>,
    /// What came of the last order.
    pub(super) told: String,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a key that means nothing here does nothing, whatever keys there come to be"
)]
impl Screen {
    pub(super) fn new(address: &str, is_coloured: bool) -> Self {
        Self {
            address: address.to_owned(),
            is_coloured,
            view: View::default(),
            over: Over::Nothing,
            filter: String::new(),
            is_typing: false,
            sort: None,
            is_reversed: false,
            chosen: None,
            seen: None,
            lost: None,
            told: String::new(),
        }
    }

    /// Takes in what the daemon said.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Seen(seen) => {
                self.seen = Some(*seen);
                self.lost = None;
            }
            // Since when, not when last.
            News::Lost { why, at } => {
                let since = self.lost.take().map_or(at, |(since, _)| since);
                self.lost = Some((since, why));
            }
            News::Explained(page) => self.over = Over::Page(page, 0),
            News::Told(told) => self.told = told,
        }
    }

    /// The rows that pass the filter, as they are sorted.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Some(seen) = &self.seen else { return Vec::new() };
        let mut rows = rows::rows(self.view, seen);
        let wanted = self.filter.to_lowercase();
        rows.retain(|row| row.cells.iter().any(|cell| cell.shown.to_lowercase().contains(&wanted)));
        if let Some(column) = self.sort {
            rows.sort_by(|a, b| compared(a.cells.get(column), b.cells.get(column)));
        }
        if self.is_reversed {
            rows.reverse();
        }
        rows
    }

    /// Which of `rows` is chosen; the first if the one that was is gone.
    pub(super) fn chosen(&self, rows: &[Row]) -> usize {
        self.chosen.as_ref().and_then(|id| rows.iter().position(|row| row.id == *id)).unwrap_or(0)
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Next::Nothing;
        }
        match std::mem::replace(&mut self.over, Over::Nothing) {
            Over::Nothing => self.plain(key.code),
            Over::Help => Next::Nothing,
            Over::Confirm(order) => match key.code {
                KeyCode::Char('y' | 'Y') => {
                    self.told = format!("asked for: {order}");
                    Next::Ask(Question::Order(order))
                }
                _ => {
                    self.told = format!("left as it is, not sent: {order}");
                    Next::Nothing
                }
            },
            Over::Page(page, from) => {
                let last = page.lines().count().saturating_sub(1);
                let from = match key.code {
                    KeyCode::Down | KeyCode::Char('j') => Some((from + 1).min(last)),
                    KeyCode::Up | KeyCode::Char('k') => Some(from.saturating_sub(1)),
                    KeyCode::PageDown | KeyCode::Char(' ') => Some((from + 10).min(last)),
                    KeyCode::PageUp => Some(from.saturating_sub(10)),
                    _ => None,
                };
                if let Some(from) = from {
                    self.over = Over::Page(page, from);
                }
                Next::Nothing
            }
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn plain(&mut self, code: KeyCode) -> Next {
        self.told.clear();
        match code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char(digit @ '1'..='4') => return self.look(View::Pools.after(usize::from(digit as u8 - b'1'))),
            KeyCode::Tab => return self.look(self.view.after(1)),
            KeyCode::BackTab => return self.look(self.view.after(View::ALL.len() - 1)),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('S') => self.is_reversed = !self.is_reversed,
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::PageDown => self.choose(10),
            KeyCode::PageUp => self.choose(-10),
            KeyCode::Enter => return self.explain(),
            KeyCode::Char(c @ ('d' | 'r' | 'f' | 'p')) => self.begin(c),
            _ => {}
        }
        Next::Nothing
    }

    fn look(&mut self, view: View) -> Next {
        if view != self.view {
            (self.sort, self.is_reversed, self.chosen) = (None, false, None);
        }
        self.view = view;
        Next::Ask(Question::Look(view))
    }

    fn sort_by_next(&mut self) {
        let columns = self.seen.as_ref().map_or(0, |seen| rows::header(self.view, seen).len());
        self.sort = self.sort.map_or(Some(0), |column| Some(column + 1)).filter(|column| *column < columns);
    }

    fn choose(&mut self, steps: isize) {
        let rows = self.rows();
        let at = self.chosen(&rows).saturating_add_signed(steps).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(at).map(|row| row.id.clone());
    }

    fn row(&self) -> Option<Row> {
        let rows = self.rows();
        let at = self.chosen(&rows);
        rows.into_iter().nth(at)
    }

    fn explain(&mut self) -> Next {
        match self.row().and_then(|row| row.pool) {
            Some(pool) => Next::Ask(Question::Explain(pool)),
            None => {
                "nothing of a pool is chosen: there is nothing to explain".clone_into(&mut self.told);
                Next::Nothing
            }
        }
    }

    /// Asks whether the order of a key is meant, if there is something that it can be for.
    fn begin(&mut self, key: char) {
        let row = self.row();
        let (pool, backend) = row.map_or((None, None), |row| (row.pool, row.backend));
        // A session's or an event's backend may be gone, and whoever looks at them has not chosen it.
        let backend = backend.filter(|_| self.view == View::Backends);
        let is_chosen = matches!(self.view, View::Pools | View::Backends);
        self.over = match (key, pool.filter(|_| is_chosen), backend) {
            ('d', Some(pool), Some(backend)) => Over::Confirm(Order::Drain(pool, backend)),
            ('r', Some(pool), Some(backend)) => Over::Confirm(Order::Ready(pool, backend)),
            ('f', Some(pool), to) => Over::Confirm(Order::Failover(pool, to)),
            ('p', Some(pool), _) if self.is_paused(&pool) => Over::Confirm(Order::Resume(pool)),
            ('p', Some(pool), _) => Over::Confirm(Order::Pause(pool)),
            ('d' | 'r', ..) => {
                "choose a backend first: 2 shows them".clone_into(&mut self.told);
                Over::Nothing
            }
            _ => {
                "choose a pool or a backend first: 1 and 2 show them".clone_into(&mut self.told);
                Over::Nothing
            }
        };
    }

    /// A pool as it was seen last.
    fn pool(&self, name: &str) -> Option<&Value> {
        items(&self.seen.as_ref()?.pools["pools"]).iter().find(|pool| pool["name"] == name)
    }

    fn is_paused(&self, pool: &str) -> bool {
        self.pool(pool).is_some_and(|pool| pool["paused"] == true)
    }

    /// What is to be warned of before `order` is given, by what was seen last.
    pub(super) fn foreseen(&self, order: &Order) -> Option<String> {
        match order {
            Order::Drain(pool, backend) => foresight::without(self.pool(pool)?, backend),
            Order::Failover(pool, to) => foresight::moved(self.pool(pool)?, to.as_deref()),
            Order::Ready(..) | Order::Pause(_) | Order::Resume(_) => None,
        }
    }
}

/// Numbers by size, and what is no number by its letters and after them.
fn compared(a: Option<&Cell>, b: Option<&Cell>) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return Ordering::Equal };
    match (a.number, b.number) {
        (Some(x), Some(y)) => x.total_cmp(&y),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.shown.cmp(&b.shown),
    }
}
