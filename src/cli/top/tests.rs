//! What is on the screen, in fixed pictures, and what keys do to it.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::super::explain;
use super::draw;
use super::feed::{News, Seen};
use super::screen::{Next, Order, Question, Screen, View};

fn backend(name: &str, role: &Value, health: &str, sessions: u64) -> Value {
    json!({
        "name": name, "address": format!("10.0.0.{sessions}:5432"), "role": role, "health": health, "admin_state": "ready",
        "active": role == "primary", "eligible": health == "healthy", "sessions": sessions, "latency_ms": 0.44,
        "lag_bytes": 2048, "lag_seconds": 0.0,
    })
}

fn seen() -> News {
    let cluster = [
        backend("pg1", &json!("primary"), "healthy", 17),
        backend("pg2", &json!("standby"), "healthy", 3),
        backend("pg-with-a-name-that-is-longer-than-a-column-may-be", &json!("standby"), "unhealthy", 0),
    ];
    let pools = json!({"pools": [
        {"name": "orders", "kind": "postgres", "state": "degraded", "redundancy": "dual", "active": ["pg1"], "standby": ["pg2"],
            "held": 2, "paused": true, "pinned": "pg1", "backends": cluster},
        {"name": "web", "kind": "tcp", "state": "down", "redundancy": "none", "active": [], "standby": [], "held": 0,
            "paused": false, "pinned": null, "backends": []},
    ]});
    let session = |id: u64, age: f64| {
        json!({"id": id, "client": "10.9.8.7:40000", "listener": "orders", "pool": "orders", "backend": "pg1", "state": "open",
            "age_seconds": age, "bytes_to_backend": 2048, "bytes_to_client": 5})
    };
    let sessions = json!({"sessions": [session(1, 300.0), session(2, 7.0), session(3, 86_400.0)]});
    let events = json!({"events": [
        {"id": 1, "time": "2026-11-21T10:00:00.123456Z", "kind": "backend.unhealthy", "pool": "orders", "backend": "pg2", "reason": "dead"},
        {"id": 2, "time": "2026-11-21T10:00:01.123456Z", "kind": "pool.failover", "pool": "orders", "backend": "pg2", "from": "pg1",
            "to": "pg2", "reason": "dead"},
    ]});
    News::Seen(Box::new(Seen { state: "ready".to_owned(), at: "10:00:02".to_owned(), pools, sessions, events }))
}

fn screen() -> Screen {
    let mut screen = Screen::new("unix:/run/changeover/admin.sock", true);
    screen.take(seen());
    screen
}

fn drawn(screen: &Screen, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::screen(frame, screen)).unwrap();
    terminal
}

/// The lines that are not empty, as they stand on a terminal of 80 columns and 24 lines.
fn lines(screen: &Screen) -> Vec<String> {
    let terminal = drawn(screen, 80, 24);
    let buffer = terminal.backend().buffer();
    let line = |y: u16| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..24).map(line).filter(|line| !line.is_empty()).collect()
}

fn press(screen: &mut Screen, keys: &str) -> Next {
    let mut next = Next::Nothing;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '↓' => KeyCode::Down,
            other => KeyCode::Char(other),
        };
        next = screen.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    next
}

#[test]
fn each_view_is_drawn_as_it_always_was() {
    let mut screen = screen();
    let keys = "Enter explain  d/r/f/p orders  s sort  / filter  ? help  q quit";
    let tabs = " 1 pools  2 backends  3 sessions  4 events";
    let title = "changeover: ready  pools 2  sessions 20  unix:/run/changeover/admin.so… 10:00:02";
    let pools = [
        "POOL    STATE     REDUNDANCY  ACTIVE  STANDBY  HELD  SESS  ORDERED",
        "orders  degraded  dual        pg1     pg2      2     20    paused, pinned to pg1",
        "web     down      none        -       -        0     0     -",
    ];
    assert_eq!(lines(&screen), [&[title, tabs], &pools[..], &[keys]].concat());
    for (key, view, rows) in [
        (
            "2",
            View::Backends,
            &[
                "BACKEND HEALTH ADMIN ROLE LAG SERVES SESS LATENCY",
                "orders/pg1 healthy ready primary - yes 17 0.4ms",
                "orders/pg2 healthy ready standby 2.0K reads 3 0.4ms",
                "orders/pg-with-a-name-t… unhealthy ready standby 2.0K no 0 0.4ms",
            ][..],
        ),
        (
            "3",
            View::Sessions,
            &[
                "ID  CLIENT          LISTENER  BACKEND     STATE  AGE   UP    DOWN",
                "1   10.9.8.7:40000  orders    orders/pg1  open   5m    2.0K  5B",
            ],
        ),
        (
            "4",
            View::Events,
            &[
                "TIME            KIND               POOL    BACKEND  WHAT",
                "11-21 10:00:01  pool.failover      orders  pg2      pg1 → pg2: dead",
                "11-21 10:00:00  backend.unhealthy  orders  pg2      dead",
            ],
        ),
    ] {
        assert_eq!(press(&mut screen, key), Next::Ask(Question::Look(view)));
        let shown = lines(&screen);
        let shown: Vec<String> = shown.iter().map(|line| squeezed(line)).collect();
        for row in rows {
            assert!(shown.contains(&squeezed(row)), "no `{row}` in {shown:#?}");
        }
    }
}

/// What was seen, with tunnels that fare so to the backends of the cluster.
fn behind_tunnels(states: [&str; 3]) -> Box<Seen> {
    let News::Seen(mut seen) = seen() else { panic!("seen") };
    for (at, state) in states.iter().enumerate() {
        seen.pools["pools"][0]["backends"][at]["tunnel"] =
            json!({"state": state, "provider": "ssh", "reason": null, "next_retry": null});
    }
    seen
}

#[test]
fn where_there_is_a_tunnel_each_backend_has_its_state() {
    let mut screen = screen();
    let mut seen = behind_tunnels(["connected", "reconnecting", "failed"]);
    screen.take(News::Seen(seen.clone()));
    press(&mut screen, "2");
    let shown: Vec<String> = lines(&screen).iter().map(|line| squeezed(line)).collect();
    for row in [
        "BACKEND HEALTH ADMIN TUNNEL ROLE LAG SERVES SESS",
        "orders/pg1 healthy ready connected primary - yes 17",
        "orders/pg2 healthy ready reconnec… standby 2.0K reads 3",
    ] {
        assert!(shown.contains(&squeezed(row)), "no `{row}` in {shown:#?}");
    }
    // The widest words that there are leave a place for every column.
    for at in 0..3 {
        let backend = &mut seen.pools["pools"][0]["backends"][at];
        (backend["admin_state"], backend["health"]) = (json!("maintenance"), json!("unhealthy"));
        (backend["lag_bytes"], backend["lag_seconds"]) = (json!(1_258_291), json!(3.21));
        backend["tunnel"]["state"] = json!("disconnected");
    }
    screen.take(News::Seen(seen.clone()));
    let shown = lines(&screen);
    assert!(shown.iter().any(|line| line.ends_with("  SESS")), "{shown:#?}");
    assert!(shown.iter().any(|line| line.contains("disconne…") && line.ends_with("  17")), "{shown:#?}");
    // Without a cluster there is room for latency and address.
    seen.pools["pools"][0]["kind"] = json!("tcp");
    screen.take(News::Seen(seen));
    let header = "BACKEND HEALTH ADMIN TUNNEL SERVES SESS LATENCY ADDRESS";
    assert!(lines(&screen).iter().any(|line| squeezed(line) == header), "{:#?}", lines(&screen));
    assert!(lines(&screen).iter().any(|line| line.contains("0.4ms    10.0.0.")), "{:#?}", lines(&screen));
}

#[test]
fn a_tunnel_is_sorted_by_and_filtered_for_as_any_other_column() {
    let mut screen = screen();
    screen.take(News::Seen(behind_tunnels(["reconnecting", "connected", "failed"])));
    press(&mut screen, "2ssss");
    assert!(lines(&screen).concat().contains("TUNNEL▼"), "{:#?}", lines(&screen));
    let chosen = |screen: &Screen| screen.rows().iter().map(|row| row.cells[3].shown.clone()).collect::<Vec<_>>();
    assert_eq!(chosen(&screen), ["connected", "failed", "reconnecting"]);
    press(&mut screen, "/failed\n");
    assert_eq!(chosen(&screen), ["failed"]);
}

#[test]
fn the_page_on_a_backend_behind_a_tunnel_says_why_it_is_not_up_and_when_it_is_tried_again() {
    let mut screen = screen();
    screen.take(News::Seen(behind_tunnels(["failed", "connected", "connected"])));
    assert_eq!(press(&mut screen, "2\n"), Next::Ask(Question::Explain("orders".to_owned())));
    let answer = json!({
        "pool": "orders", "state": "down", "serving": [], "rules": [], "time": "2026-11-21T10:00:00Z", "if_active_failed": null,
        "evidence": [{"name": "pg1", "reason": "", "tunnel": {"state": "failed", "reason": "Permission denied (publickey)",
            "next_retry": "2026-11-21T10:05:00Z"}}],
    });
    screen.take(News::Explained(explain::page(&answer)));
    let shown = squeezed(&lines(&screen).join(" ").replace('│', " "));
    let wanted = "pg1: its tunnel has failed: Permission denied (publickey); it is tried again at 10:05:00 UTC, in 5m";
    assert!(shown.contains(wanted), "{shown}");
}

/// Without the widths of columns, which `table` is tested for.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn no_size_of_a_terminal_is_too_small_to_draw_on() {
    let mut screen = screen();
    for keys in ["", "2", "3", "4", "?", "x1f", "y"] {
        press(&mut screen, keys);
        for (width, height) in [(80, 24), (40, 10), (1, 1), (3, 2), (200, 60)] {
            drawn(&screen, width, height);
        }
    }
    screen.take(News::Explained("orders: pg1 serves.\n".repeat(100)));
    press(&mut screen, "↓↓");
    drawn(&screen, 80, 24);
    drawn(&screen, 2, 1);
}

#[test]
fn an_order_asks_first_and_is_given_with_y_alone() {
    let mut screen = screen();
    press(&mut screen, "2");
    assert_eq!(press(&mut screen, "↓d"), Next::Nothing);
    let asked = lines(&screen).join("\n");
    assert!(asked.contains("changeover drain orders/pg2") && asked.contains("y does it"), "{asked}");
    assert_eq!(press(&mut screen, "n"), Next::Nothing);
    assert!(lines(&screen).concat().contains("not sent: drain orders/pg2"));
    let (pool, second) = ("orders".to_owned(), "pg2".to_owned());
    for (keys, order) in [
        ("dy", Order::Drain(pool.clone(), second.clone())),
        ("ry", Order::Ready(pool.clone(), second.clone())),
        ("fy", Order::Failover(pool.clone(), Some(second))),
        ("py", Order::Resume(pool.clone())),
    ] {
        assert_eq!(press(&mut screen, keys), Next::Ask(Question::Order(order)), "{keys}");
    }
    press(&mut screen, "1");
    assert_eq!(press(&mut screen, "fy"), Next::Ask(Question::Order(Order::Failover(pool.clone(), None))));
    assert_eq!(press(&mut screen, "↓py"), Next::Ask(Question::Order(Order::Pause("web".to_owned()))));
    assert_eq!(press(&mut screen, "dy"), Next::Nothing, "a pool is not drained");
    assert!(lines(&screen).concat().contains("pools"), "{:?}", lines(&screen));
    press(&mut screen, "3");
    assert_eq!(press(&mut screen, "fy"), Next::Nothing, "nobody chose the backend of a session");
    assert_eq!(press(&mut screen, "\n"), Next::Ask(Question::Explain(pool)));
    assert_eq!(press(&mut screen, "q"), Next::Quit);
}

#[test]
fn an_order_that_leaves_nobody_to_serve_is_warned_of() {
    let mut screen = screen();
    let asked = |screen: &mut Screen, keys: &str| {
        press(screen, keys);
        squeezed(&lines(screen).join(" "))
    };
    let told = asked(&mut screen, "2d");
    assert!(
        told.contains("WARNING: nothing will serve orders") && told.contains("changeover failback orders"),
        "{told}"
    );
    assert!(!asked(&mut screen, "n↓d").contains("WARNING"), "a standby serves no one who writes");
    assert!(asked(&mut screen, "nf").contains("WARNING: nobody can write to orders"));
}

#[test]
fn rows_are_sorted_by_what_they_mean_and_filtered_as_is_typed() {
    let mut screen = screen();
    press(&mut screen, "3");
    let ids = |screen: &Screen| screen.rows().iter().map(|row| row.id.clone()).collect::<String>();
    press(&mut screen, "ssssss");
    assert_eq!(ids(&screen), "213", "by age, not by its letters");
    press(&mut screen, "S");
    assert_eq!(ids(&screen), "312");
    assert!(lines(&screen).concat().contains("AGE▲"));
    press(&mut screen, "2/UNHEALTHY");
    assert!(lines(&screen)[1].contains("filter: UNHEALTHY_"), "{:?}", lines(&screen));
    assert_eq!(screen.rows().len(), 1);
    // What is typed is no order.
    press(&mut screen, "dyq");
    assert!(screen.rows().is_empty() && lines(&screen).concat().contains("nothing passes the filter"));
    press(&mut screen, "\u{1b}");
    assert_eq!(screen.rows().len(), 3);
}

#[test]
fn a_chosen_row_stays_chosen_when_others_go() {
    let mut screen = screen();
    press(&mut screen, "2↓");
    let rows = screen.rows();
    assert_eq!(rows[screen.chosen(&rows)].id, "orders/pg2");
    let News::Seen(mut seen) = seen() else { panic!("seen") };
    if let Some(backends) = seen.pools["pools"][0]["backends"].as_array_mut() {
        backends.remove(0);
    }
    screen.take(News::Seen(seen));
    let rows = screen.rows();
    assert_eq!(rows[screen.chosen(&rows)].id, "orders/pg2");
}

#[test]
fn a_daemon_that_does_not_answer_is_said_to_be_gone_since_when() {
    let mut screen = screen();
    for at in ["10:00:03", "10:00:04"] {
        screen.take(News::Lost { why: "the daemon does not answer".to_owned(), at: at.to_owned() });
    }
    let shown = lines(&screen);
    assert!(shown[0].starts_with("NOT REACHABLE since 10:00:03, trying each second: the daemon"), "{shown:?}");
    assert!(shown.concat().contains("orders"), "what was known last stays");
    screen.take(seen());
    assert!(lines(&screen)[0].starts_with("changeover: ready "));
}

#[test]
fn without_colour_nothing_has_one() {
    for is_coloured in [true, false] {
        let mut screen = Screen::new("unix:/x", is_coloured);
        screen.take(seen());
        let terminal = drawn(&screen, 80, 24);
        let has =
            terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(has, is_coloured);
    }
}
