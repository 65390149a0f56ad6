//! The dashboard, in a real browser: what it shows, what it says of orders and of a daemon that is gone, and that keys and
//! screen readers get at all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use browser::Browser;
use fantoccini::key::Key;
use serde_json::{Value, json};
use support::callers::token_table;
use support::net::{echo, meet};
use support::{Backend, Daemon, dial, fresh_addr, http};
use tempfile::TempDir;

/// Four backends in two pools, behind three listeners, and an admin server at an address to come back to.
struct Scene {
    backends: [Backend; 4],
    admin: SocketAddr,
    config: String,
    dir: TempDir,
    daemon: Daemon,
}

impl Scene {
    #[track_caller]
    fn start() -> Self {
        Self::with("")
    }

    /// One whose configuration has `tables` too.
    #[track_caller]
    fn with(tables: &str) -> Self {
        let backends = ["pg1", "pg2", "web-a", "web-b"].map(Backend::start);
        let (admin, dir) = (fresh_addr(), tempfile::tempdir().expect("a directory"));
        let [one, two, left, right] = &backends;
        let config = format!(
            "[daemon]\nworkers = 1\n[admin]\nbind = [\"unix:{}\", \"{admin}\"]\n\
             [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
             [listeners.reports]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
             [listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
             [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n{}{}\
             [pools.web.check]\ninterval = \"50ms\"\n{}{}{tables}",
            dir.path().join("admin.sock").display(),
            one.toml("orders", 1),
            two.toml("orders", 2),
            left.toml("web", 1),
            right.toml("web", 1),
        );
        let daemon = Daemon::start(&config);
        for (pool, backend) in [("orders", "pg1"), ("orders", "pg2"), ("web", "web-a"), ("web", "web-b")] {
            daemon.wait_health(pool, backend, "healthy");
        }
        daemon.wait_active("orders", "pg1");
        Self { backends, admin, config, dir, daemon }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.admin)
    }

    /// The page, once it shows the pools.
    #[track_caller]
    fn page(&self, width: u32, height: u32) -> Browser {
        let page = Browser::open(&self.url(), width, height);
        page.wait("document.querySelectorAll('.backend').length === 4");
        page.wait_text("#link-text", "events live");
        page
    }

    /// Gives an order as the daemon's own user may.
    #[track_caller]
    fn order(&self, method: &str, path: &str, body: &str) {
        let socket = self.dir.path().join("admin.sock");
        let answer = http::send_unix(&socket, method, &format!("/api/v1/pools/{path}"), body).expect("answered");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }

    /// A session that has moved a few bytes.
    #[track_caller]
    fn session(&self, listener: &str) -> TcpStream {
        let (mut stream, _) = meet(self.daemon.listener(listener)).expect("served");
        echo(&mut stream, &[b'x'; 50_000]).expect("echoed");
        stream
    }
}

#[test]
fn the_page_shows_what_is_and_what_happens_without_being_loaded_again() {
    let mut scene = Scene::start();
    let _sessions = [scene.session("orders"), scene.session("reports"), scene.session("web")];
    let page = scene.page(1400, 1000);
    page.js("window.loaded = 'once'");
    let names = "return [...document.querySelectorAll('.backend')].map((backend) => backend.dataset.backend).join(' ')";
    assert_eq!(page.js(names), "orders/pg1 orders/pg2 web/web-a web/web-b");
    let listeners = "return [...document.querySelectorAll('.listener')].map((one) => one.dataset.listener).join(' ')";
    assert_eq!(page.js(listeners), "orders reports web");
    page.wait_text("[data-backend='orders/pg1'] .state", "healthy, serves");
    page.wait_text("[data-backend='orders/pg1']", "tier 1 of 2 (priority 1)");
    page.wait_text("[data-backend='orders/pg2'] .state", "healthy, stands by");
    page.wait_text("[data-pool='orders'] .serving", "New clients go to pg1.");
    page.wait_text("#summary", "2 pools · 4 of 4 backends healthy · 3 sessions · 0 clients waiting");
    page.wait_text("[data-listener='orders']", "1 client, 1 so far");
    assert!(page.js("return document.title").as_str().expect("text").starts_with('✓'));
    // Three lines lead to those that serve, and one, broken, to the one that stands by.
    let lines = |kind: &str| page.js(&format!("return document.querySelectorAll('.lines path.{kind}').length"));
    assert_eq!((lines("serves"), lines("stands-by")), (json!(6), json!(1)));

    scene.backends[0].kill();
    page.wait("document.querySelector('[data-backend=\"orders/pg1\"]').dataset.health === 'unhealthy'");
    page.wait_text("[data-backend='orders/pg1'] .note", "Connection refused");
    page.wait_text("[data-pool='orders'] .pool-state", "Failed over: others than the preferred backends serve.");
    page.wait_text("[data-pool='orders'] .serving", "New clients go to pg2.");
    page.wait_text("[data-kind='pool.failover'] .evidence", "Connection refused");
    page.wait_text("[data-kind='backend.unhealthy']", "orders/pg1");
    page.wait("document.title.startsWith('! 1 of 2 not as preferred')");
    page.wait("document.querySelector('#told').textContent.includes('pg1')");

    let ids = "return [...document.querySelectorAll('.event')].map((event) => Number(event.dataset.id))";
    let ids: Vec<u64> = serde_json::from_value(page.js(ids)).expect("numbers");
    assert!(ids.is_sorted_by(|one, next| one > next), "newest first, and none twice: {ids:?}");
    let kinds = |page: &Browser| -> BTreeSet<String> {
        let kinds = "return [...document.querySelectorAll('.event')].map((event) => event.dataset.kind)";
        serde_json::from_value(page.js(kinds)).expect("words")
    };
    let choose = |id: &str, value: &str| {
        page.js(&format!(
            "const select = document.getElementById('{id}'); select.value = '{value}'; select.dispatchEvent(new Event('change'))"
        ));
    };
    choose("by-kind", "pool.failover");
    assert_eq!(kinds(&page), BTreeSet::from(["pool.failover".to_owned()]));
    choose("by-pool", "web");
    assert_eq!(kinds(&page), BTreeSet::new());
    choose("by-kind", "");
    page.wait("document.querySelectorAll('.event').length > 0");
    assert!(page.text("#timeline").contains("web/web-a") && !page.text("#timeline").contains("orders/"));

    scene.backends[0].restart();
    page.wait_text("[data-backend='orders/pg1'] .state", "healthy, serves");
    page.wait("document.title.startsWith('✓')");
    assert_eq!(page.js("return window.loaded"), "once");
}

#[test]
fn explain_says_why_and_goes_with_escape() {
    let scene = Scene::start();
    let page = scene.page(1400, 1000);
    page.click("[data-pool='orders'] .buttons button");
    page.wait_text("#explain", "By which rule");
    let said = page.text("#explain");
    for part in [
        "orders: why is its traffic there?",
        "pg1 serves",
        "On which evidence",
        "If pg1 failed now",
        "pg2 would serve.",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(page.is("document.getElementById('explain').contains(document.activeElement)"));
    page.key(Key::Escape);
    page.wait("!document.getElementById('explain').open");
    assert!(page.text_of_focus().starts_with("Explain"), "the focus is where it was: {}", page.text_of_focus());
}

#[test]
fn an_order_says_what_would_happen_and_a_refusal_says_why() {
    let scene = Scene::start();
    let _session = scene.session("orders");
    let page = scene.page(1400, 1000);
    page.click("[data-backend='orders/pg1'] button");
    page.wait_text("#order-would", "New clients go to pg2 instead.");
    page.wait_text("#order-would", "Its sessions (1): left to end by themselves");
    page.wait_text("#order-token", "No token was given: over TCP the daemon will refuse");
    assert_eq!(page.text("#order-do"), "Drain orders/pg1");
    page.click("#order-do");
    page.wait_text("#order-answer .refused", "othing has changed.");
    page.wait_text("#order-answer", "(not_auth");
    assert_eq!(scene.daemon.backend("orders", "pg1")["admin_state"], "ready", "it was refused");
    page.click("#order-choices input[value='failover-to']");
    page.wait_text("#order-would", "By itself the daemon would not: pg1 can serve.");
    page.key(Key::Escape);
    page.wait("!document.getElementById('order').open");

    page.click("[data-pool='orders'] .buttons button + button");
    page.wait_text("#order-would", "New clients go to pg2, the best of the others and nowhere else");
    page.wait("document.querySelector('#order-to').options.length === 2");
    page.click("#order-choices input[value='pause']");
    page.wait_text("#order-would", "The sessions (1) go on.");
    page.key(Key::Escape);

    // What others order is seen.
    scene.order("POST", "orders/backends/pg2/drain", "");
    page.wait_text("[data-backend='orders/pg2'] .state", "healthy, drained");
    page.wait_text("[data-kind='admin.action']", "ordered");
    page.click("[data-backend='orders/pg1'] button");
    page.wait_text("#order-would", "Warning: Nothing else is fit");
    page.key(Key::Escape);
    scene.order("POST", "orders/pause", "");
    page.wait_text("[data-pool='orders'] .badges", "paused: new clients wait");
    let _waits = dial(scene.daemon.listener("orders")).expect("accepted");
    page.wait_text("[data-pool='orders'] .badges", "1 client waiting");
    scene.order("POST", "orders/resume", "");
    scene.order("POST", "orders/backends/pg2/ready", "");
    scene.order("POST", "orders/failover", "{\"to\": \"pg2\", \"reason\": \"upgrade\"}");
    page.wait_text("[data-pool='orders'] .badges", "pinned to pg2, by order");
    page.wait_text("[data-kind='pool.failover']", "completed; upgrade");
}

/// The page, once the token has been typed.
#[track_caller]
fn with_token(scene: &Scene, token: &str) -> Browser {
    let page = scene.page(1400, 1000);
    page.click("#token-open");
    page.keys(token);
    page.key(Key::Enter);
    page.wait("!document.getElementById('token').open");
    page.wait_text("#token-open", "Token: given");
    page
}

#[test]
fn whoever_has_typed_a_token_once_gives_the_orders_that_it_is_for() {
    let scene = Scene::with(&token_table("ops", "tests-only", "operator", ""));
    let page = with_token(&scene, "tests-only");
    page.wait_text("#link-text", "events live");
    page.click("[data-backend='orders/pg2'] button");
    page.wait_text("#order-token", "Your token is sent with the order.");
    assert_eq!(page.text("#order-do"), "Drain orders/pg2");
    page.click("#order-do");
    page.wait_text("#order-answer .done", "Done: Drain orders/pg2");
    page.key(Key::Escape);
    page.wait_text("[data-backend='orders/pg2'] .state", "healthy, drained");
    assert_eq!(scene.daemon.backend("orders", "pg2")["admin_state"], "drain");
    page.wait_text("[data-kind='admin.action']", "ops");

    // Without another word about the token: the next one, which an operator may not give.
    page.click("[data-pool='orders'] .buttons button + button");
    page.wait_text("#order-do", "Fail over orders");
    page.click("#order-do");
    page.wait_text("#order-answer .refused", "You may not do this.");
    page.wait_text("#order-answer .refused", "nothing has changed");
    page.wait_text("#order-answer", "(not_authorized)");
    page.key(Key::Escape);
    page.wait_text("[data-pool='orders'] .serving", "New clients go to pg1.");
}

#[test]
fn whoever_owns_a_pool_sees_that_pool_and_nothing_of_the_others() {
    let scene = Scene::with(&token_table("shop", "tests-only", "admin", "pools = [\"web\"]"));
    let page = with_token(&scene, "tests-only");
    let names = |class: &str, data: &str| {
        page.js(&format!("return [...document.querySelectorAll('{class}')].map((one) => one.dataset.{data}).join(' ')"))
    };
    page.wait("document.querySelectorAll('.backend').length === 2");
    assert_eq!(names(".backend", "backend"), "web/web-a web/web-b");
    assert_eq!(names(".listener", "listener"), "web");
    page.wait_text("#summary", "1 pool · 2 of 2 backends healthy");
    assert!(page.is("document.getElementById('banner').hidden"));
    page.wait("document.querySelectorAll('.event').length > 0");
    page.wait("!document.getElementById('timeline').innerText.includes('orders')");
    page.click("[data-backend='web/web-b'] button");
    page.click("#order-do");
    page.wait_text("#order-answer .done", "Done: Drain web/web-b");
}

#[test]
fn a_wrong_token_is_said_to_be_wrong_and_no_connection_to_be_lost() {
    let scene = Scene::with(&token_table("ops", "tests-only", "operator", ""));
    let page = with_token(&scene, "another one");
    page.wait("!document.getElementById('banner').hidden");
    page.wait_text("#banner", "The daemon does not know who you are");
    page.wait_text("#link-text", "not allowed");
    page.wait("document.title.startsWith('✕ not allowed')");
    assert!(!page.text("#banner").contains("lost") && !page.text("#banner").contains("reached"));
    // The right one is believed at once.
    page.click("#token-open");
    page.keys("tests-only");
    page.key(Key::Enter);
    page.wait("document.getElementById('banner').hidden && document.title.startsWith('✓')");
    page.wait_text("#link-text", "events live");
}

#[test]
fn a_token_is_kept_no_longer_than_the_page_unless_that_is_wanted() {
    let scene = Scene::start();
    let page = scene.page(1400, 1000);
    let give = |keep: bool| {
        page.click("#token-open");
        page.keys("one that the daemon does not know");
        if keep {
            page.click("#token-keep");
        }
        page.key(Key::Enter);
        page.wait("!document.getElementById('token').open");
        page.wait_text("#token-open", "Token: given");
    };
    give(false);
    assert!(page.is("sessionStorage.length === 0 && document.getElementById('token-field').value === ''"));
    page.goto(&scene.url());
    page.wait_text("#token-open", "Token: none");
    give(true);
    assert!(page.is("sessionStorage.length === 1 && localStorage.length === 0 && document.cookie === ''"));
    page.goto(&scene.url());
    page.wait_text("#token-open", "Token: given");
    page.click("#token-open");
    page.click("#token-forget");
    page.wait_text("#token-open", "Token: none");
    assert!(page.is("sessionStorage.length === 0"));
}

#[test]
fn a_daemon_that_is_gone_is_said_to_be_gone_and_one_that_is_back_is_believed() {
    let mut scene = Scene::start();
    let page = scene.page(1400, 1000);
    page.wait("document.querySelectorAll('.event').length >= 4");
    assert!(page.is("document.getElementById('banner').hidden"));
    scene.daemon.kill();
    page.wait_text("#banner", "The connection to the daemon is lost since");
    page.wait_text("#banner", "What is shown is old: it is from");
    page.wait("document.title.startsWith('✕ not connected since')");
    page.wait_text("#link-text", "not connected for");
    assert!(page.is("document.getElementById('banner').getAttribute('role') === 'alert'"));
    page.click("[data-backend='orders/pg1'] button");
    page.wait_text("#order-would", "Warning: It cannot be said: no connection");
    page.click("#order-do");
    page.wait_text("#order-answer .refused", "The daemon was not reached");
    page.key(Key::Escape);

    scene.daemon = Daemon::start(&scene.config);
    page.wait("document.getElementById('banner').hidden && document.title.startsWith('✓')");
    page.wait_text("#link-text", "events live");
    // It has no disk and begins its numbers anew: of what the other one told nothing is left. Of pauses of a busy machine, which
    // are told as they come, many are one line.
    let times = |events: &Value, is_wanted: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
        let events = events.as_array().expect("a list").iter().filter(|event| is_wanted(event));
        events.map(|event| event["time"].as_str().expect("text").to_owned()).collect()
    };
    let lines = "return [...document.querySelectorAll('.event time')].map((time) => ({ time: time.dateTime }))";
    support::wait_until("the new daemon's events are shown, and no others", support::DEADLINE, || {
        let shown = times(&page.js(lines), &|_| true);
        let known = scene.daemon.admin_get("/api/v1/events?limit=1000").json();
        let singly = times(&known["events"], &|event| event["kind"] != "daemon.stalled");
        singly.is_subset(&shown) && shown.is_subset(&times(&known["events"], &|_| true))
    });
    scene.backends[0].kill();
    page.wait_text("[data-kind='pool.failover']", "orders/pg2");
}

/// Has the page show older events until there are none, and returns the numbers of those that it shows.
#[track_caller]
fn all_shown(page: &Browser) -> Vec<u64> {
    support::wait_until("there are no older ones to be shown", support::DEADLINE, || {
        page.js("const older = document.getElementById('older'); if (!older.hidden) older.click(); return older.hidden")
            == json!(true)
    });
    let ids = "return [...document.querySelectorAll('.event')].map((event) => Number(event.dataset.id))";
    serde_json::from_value(page.js(ids)).expect("numbers")
}

/// Has so many backends taken out and put back: two events each time, at the least.
fn toggle(scene: &Scene, number: usize) {
    for at in 0..number {
        scene.order("POST", &format!("web/backends/web-b/{}", if at % 2 == 0 { "drain" } else { "ready" }), "");
    }
}

#[test]
fn the_time_line_has_no_hole_and_says_where_it_ends() {
    let mut scene = Scene::start();
    scene.daemon.kill();
    let state = scene.dir.path().join("state").display().to_string();
    scene.config = scene.config.replace("[daemon]\n", &format!("[daemon]\nstate_dir = \"{state}\"\n"));
    scene.config = scene.config.replace("[admin]\n", "[admin]\nrate_limit = \"0\"\n");
    scene.daemon = Daemon::start(&scene.config);
    let page = scene.page(1400, 1000);
    page.wait("document.querySelectorAll('.event').length >= 4");
    // The page is cut off while more happens than it asks for at once; what it follows the events by comes back last.
    page.js("window.real = window.fetch; window.fetch = () => Promise.reject(new TypeError('cut off'))");
    scene.daemon.kill();
    scene.daemon = Daemon::start(&scene.config);
    toggle(&scene, 200);
    page.js(
        "window.fetch = (url, asked) => String(url).endsWith('/stream') ? Promise.reject(new TypeError('later')) : real(url, asked)",
    );
    page.wait("document.getElementById('banner').hidden && document.querySelectorAll('.event').length > 50");
    page.js("window.fetch = window.real");
    page.wait_text("#link-text", "events live");
    let known = |limit: usize| -> Vec<u64> {
        let page = scene.daemon.admin_get(&format!("/api/v1/events?limit={limit}")).json();
        let events = page["events"].as_array().expect("a list").iter();
        // Pauses of a busy machine are one line.
        let events = events.filter(|event| event["kind"] != "daemon.stalled");
        events.rev().map(|event| event["id"].as_u64().expect("a number")).collect()
    };
    let shown: BTreeSet<u64> = all_shown(&page).into_iter().collect();
    let missing: Vec<u64> = known(1000).into_iter().filter(|id| !shown.contains(id)).collect();
    assert_eq!(missing, Vec::<u64>::new(), "of {}", shown.len());
    assert_eq!(page.text("#older-end"), "");

    toggle(&scene, 1000);
    let newest = known(1)[0];
    page.wait(&format!("Number(document.querySelector('.event').dataset.id) >= {newest}"));
    assert!(all_shown(&page).len() <= 2000);
    page.wait_text("#older-end", "This is as far back as the page goes: it remembers the newest 2000 events.");
}

#[test]
fn keys_and_screen_readers_get_at_everything() {
    let scene = Scene::start();
    let page = scene.page(1400, 1000);
    page.wait("document.querySelectorAll('.event').length > 0");
    let mut reached = BTreeSet::new();
    let mut order = Vec::new();
    for _ in 0..40 {
        page.key(Key::Tab);
        let focus = page.text_of_focus();
        assert!(
            page.is("document.activeElement === document.body || document.activeElement.matches(':focus-visible')")
        );
        order.push(focus.clone());
        reached.insert(focus);
    }
    let wanted = ["Skip to the pools", "Skip to the events", "Token: none", "Find", "Pool", "Kind"];
    let wanted = wanted.into_iter().chain(["Explain why traffic of orders goes where it goes", "Orders… for pool web"]);
    for control in wanted.chain(["Orders… for backend pg1 of orders", "Orders… for backend web-b of web"]) {
        assert!(reached.contains(control), "{control} is not among {order:?}");
    }
    assert!(reached.iter().any(|focus| focus.starts_with("Details of event")), "{order:?}");
    let at = |name: &str| order.iter().position(|focus| focus == name);
    assert!(at("Find") < at("Orders… for pool orders") && at("Orders… for pool orders") < at("Orders… for pool web"));

    // With keys alone: the orders of a backend, another choice, and away.
    page.js("document.querySelector('[data-backend=\"orders/pg2\"] button').focus()");
    page.key(Key::Enter);
    page.wait("document.getElementById('order').open && document.activeElement.value === 'drain'");
    page.key(Key::Down);
    page.wait_text("#order-do", "Take into maintenance orders/pg2");
    for _ in 0..12 {
        page.key(Key::Tab);
        assert!(page.is("document.activeElement === document.body || document.getElementById('order').contains(document.activeElement)"));
    }
    named(&page, "the dialog of orders");
    page.key(Key::Escape);
    page.wait("!document.getElementById('order').open");
    assert_eq!(page.text_of_focus(), "Orders… for backend pg2 of orders");

    let roles = named(&page, "the page");
    for role in ["banner", "main", "region", "heading", "status", "article", "list"] {
        assert!(roles.contains(role), "{role} is not among {roles:?}");
    }
    page.js("document.querySelector('[data-pool=\"web\"] .buttons button').focus()");
    page.key(Key::Enter);
    page.wait_text("#explain", "By which rule");
    assert!(named(&page, "the dialog of explain").contains("dialog"));
    page.key(Key::Escape);
}

/// Panics unless everything in the tree of accessibility that can be worked has a name. The roles that there are.
#[track_caller]
fn named(page: &Browser, what: &str) -> BTreeSet<String> {
    let tree = page.ask("Accessibility.getFullAXTree", &json!({}));
    let mut roles = BTreeSet::new();
    for node in tree["nodes"].as_array().expect("nodes").iter().filter(|node| node["ignored"] == false) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let is_worked =
            ["button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "dialog", "region", "article"];
        let name = node["name"]["value"].as_str().unwrap_or_default();
        assert!(!is_worked.contains(&role) || !name.trim().is_empty(), "{what}: a {role} without a name: {node}");
        roles.insert(role.to_owned());
    }
    roles
}

#[test]
fn the_page_asks_nobody_else_and_breaks_no_rule() {
    let scene = Scene::start();
    let page = scene.page(1400, 1000);
    page.click("[data-pool='orders'] .buttons button");
    page.wait_text("#explain", "By which rule");
    page.key(Key::Escape);
    let urls: Vec<String> = page
        .log("performance")
        .iter()
        .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok())
        .filter(|entry| entry["message"]["method"] == "Network.requestWillBeSent")
        .filter_map(|entry| Some(entry["message"]["params"]["request"]["url"].as_str()?.to_owned()))
        .collect();
    // The browser's own first page is no request to anybody.
    let urls: Vec<&String> = urls.iter().filter(|url| !url.starts_with("chrome://")).collect();
    let own = |url: &&String| url.starts_with(&scene.url()) || url.starts_with("data:");
    assert!(urls.len() > 8 && urls.iter().all(own), "{urls:?}");
    assert!(urls.iter().any(|url| url.ends_with("/api/v1/events/stream")), "{urls:?}");
    let complaints = page.log("browser");
    assert!(complaints.is_empty(), "{complaints:?}");
    // The rules are in force: what would make markup of text, or run what is not the daemon's, is refused by the browser.
    let refused = "try { document.body.innerHTML = '<b>x</b>'; return 'let in' } catch (error) { return error.name }";
    assert_eq!(page.js(refused), "TypeError");
}

#[test]
fn what_others_say_is_text_and_never_markup() {
    let scene = Scene::start();
    let page = scene.page(1400, 1000);
    let said = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let body = json!({ "health": "unhealthy", "ttl": "60s", "reason": said }).to_string();
    scene.order("PUT", "orders/backends/pg2/health", &body);
    page.wait_text("[data-backend='orders/pg2'] .note", said);
    page.wait_text("#timeline", said);
    page.click("[data-pool='orders'] .buttons button");
    page.wait_text("#explain-body", said);
    assert!(page.is("document.querySelectorAll('main img, dialog img, main script, dialog script').length === 0"));
}

/// Has the page believe that there is a tunnel to `orders/pg2`, which is `window.tunnel`. What is asked of it is kept in
/// `window.asked`, and answered by what `window.says` has for it: a status and a body; its log, if nothing else is said, is
/// `window.lines`. `window.looked` counts the looks at the pools.
const BEHIND_A_TUNNEL: &str = r#"
    window.tunnel = { state: "connected", provider: "ssh", attach: "listen", pid: 4711, restarts: 2, uptime_seconds: 75.2,
        next_retry: null, since: "2026-11-21T10:00:00Z", reason: null };
    [window.asked, window.says, window.lines, window.looked] = [[], {}, [], 0];
    const real = window.fetch;
    const answer = (status, body) => new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });
    const log = (path) => {
        const after = Number(/after=([0-9]+)/.exec(path)?.[1] ?? 0);
        const lines = window.lines.filter((line) => line.id > after);
        return { lines, next: window.lines.at(-1)?.id ?? 0, gap: after > 0 && lines.length > 0 && lines[0].id > after + 1 };
    };
    window.fetch = async (url, given) => {
        const [, path, what] = /(pools\/.*\/tunnel\/(\w+).*)$/.exec(String(url)) ?? [];
        if (what !== undefined) {
            window.asked.push(`${given.method} ${path} ${given.body ?? ""}`.trim());
            const otherwise = what === "logs" ? [200, log(path)] : [404, { code: "not_found", detail: "there is nothing here" }];
            const [status, body] = window.says[what] ?? otherwise;
            return answer(status, body);
        }
        const came = await real(url, given);
        if (String(url).endsWith("/stream") || !came.ok) return came;
        const body = await came.json();
        if (String(url).endsWith("/pools")) window.looked += 1;
        const all = [...(body.pools ?? []).flatMap((pool) => pool.backends), ...(body.evidence ?? [])];
        for (const one of all) if (one.name === "pg2") one.tunnel = window.tunnel;
        return answer(came.status, body);
    };
"#;

/// The part of the page that is the tunnel's.
const TUNNEL: &str = "[data-backend='orders/pg2'] .tunnel";

/// Its buttons, from 1 on.
fn button(number: usize) -> String {
    format!("{TUNNEL} button:nth-of-type({number})")
}

/// The page, once it shows the tunnel.
#[track_caller]
fn with_tunnel(scene: &Scene) -> Browser {
    let page = scene.page(1400, 1000);
    page.js(BEHIND_A_TUNNEL);
    page.wait_text(&format!("{TUNNEL} .tunnel-state"), "Tunnel connected");
    page
}

#[test]
fn a_tunnel_shows_how_it_fares_and_why_it_is_not_up() {
    let scene = Scene::start();
    let page = with_tunnel(&scene);
    page.wait_text(TUNNEL, "ssh · listen · process 4711 · 2 restarts · up for 1 min 15 s");
    assert!(page.is(&format!("document.querySelector(\"{TUNNEL} .note\").hidden")));
    assert!(!page.text("#summary").contains("not up"), "{}", page.text("#summary"));
    let shown = "[...document.querySelectorAll('.tunnel')].filter((one) => one.checkVisibility()).length";
    assert!(page.is(&format!("{shown} === 1")), "the others are reached without one");

    // In the words of its program, which are text.
    page.js(
        "Object.assign(window.tunnel, { state: 'failed', pid: null, uptime_seconds: null, reason: '<b>Permission</b> denied', \
         next_retry: new Date().toISOString().replace(/:..\\..*/, ':07Z') })",
    );
    page.wait_text(&format!("{TUNNEL} .tunnel-state"), "Tunnel failed");
    page.wait_text(&format!("{TUNNEL} .note"), "<b>Permission</b> denied; tried again at ");
    assert!(page.text(&format!("{TUNNEL} .note")).ends_with(":07"), "{}", page.text(TUNNEL));
    assert!(!page.text(TUNNEL).contains("process") && !page.text(TUNNEL).contains("up for"), "{}", page.text(TUNNEL));
    assert!(page.is(&format!("document.querySelector(\"{TUNNEL} .mark.bad\") !== null")), "not by colour alone");
    page.wait_text("#summary", "1 tunnel not up");
    page.click("[data-pool='orders'] .buttons button");
    page.wait_text("#explain-body", "its tunnel: failed (<b>Permission</b> denied; tried again at ");
    page.key(Key::Escape);
    page.wait("!document.getElementById('explain').open");
    for width in [320, 700, 1000] {
        page.size(width, 900, 1.0);
        page.wait("document.documentElement.scrollWidth <= window.innerWidth");
    }
    // It is taken out of the configuration.
    page.js("window.tunnel = null");
    page.wait(&format!("{shown} === 0"));
}

#[test]
fn an_order_to_a_tunnel_says_what_would_happen_and_what_the_daemon_said() {
    let scene = Scene::start();
    let page = with_tunnel(&scene);
    let press = |word: &str| {
        page.js(&format!(
            "[...document.querySelectorAll(\"{TUNNEL} button\")].find((one) => one.firstChild.data === '{word}').focus()"
        ));
        page.key(Key::Enter);
        page.wait("document.getElementById('order').open");
    };
    press("Stop");
    page.wait_text("#order-head", "Orders for the tunnel of pg2 of orders");
    page.wait_text("#order-would", "pg2 gets no new clients now; those go to pg1, as before.");
    page.wait_text("#order-would", "It stays stopped, also over restarts of the daemon, until it is started.");
    page.wait_text("#order-token", "No token was given: over TCP the daemon will refuse");
    assert_eq!(page.text("#order-do"), "Stop the tunnel of orders/pg2");
    assert!(page.is("document.activeElement.value === 'tunnel-stop'"), "what was pressed is chosen");
    assert_eq!(page.js("return window.asked"), json!([]), "nothing is done before it is meant");
    page.js("window.says.stop = [401, { code: 'not_authenticated', detail: 'present a token' }]");
    page.click("#order-do");
    page.wait_text("#order-answer .refused", "there is no token");
    page.wait_text("#order-answer", "The daemon says: present a token (not_authenticated)");
    page.js("window.says.stop = [200, { name: 'pg2' }]");
    page.click("#order-do");
    page.wait_text("#order-answer .done", "Done: Stop the tunnel of orders/pg2");
    let once = "POST pools/orders/backends/pg2/tunnel/stop {}";
    assert_eq!(page.js("return window.asked"), json!([once, once]));
    page.js("Object.assign(window.tunnel, { state: 'disconnected', pid: null, uptime_seconds: null })");
    page.key(Key::Escape);
    page.wait("!document.getElementById('order').open");
    assert_eq!(page.text_of_focus(), "Stop the tunnel of pg2 of orders", "the focus is where it was");
    page.wait_text(&format!("{TUNNEL} .tunnel-state"), "Tunnel disconnected");
    assert!(!page.text("#summary").contains("not up"), "what is not wanted is not missed: {}", page.text("#summary"));

    press("Start");
    page.wait_text("#order-would", "pg2 gets clients by the rules once its checks come through.");
    page.key(Key::Down);
    page.wait_text("#order-would", "It is stopped already.");
    page.key(Key::Escape);
    page.js("Object.assign(window.tunnel, { state: 'reconnecting' })");
    press("Restart");
    page.wait_text("#order-would", "Until checks come through it again:");
    page.wait_text("#order-would", "pg2 has no sessions.");
    page.js("window.says.restart = [200, { name: 'pg2' }]");
    page.click("#order-do");
    page.wait_text("#order-answer .done", "Done: Restart the tunnel of orders/pg2");
    assert_eq!(page.js("return window.asked.at(-1)"), "POST pools/orders/backends/pg2/tunnel/restart {}");
    named(&page, "the dialog of orders to a tunnel");
}

#[test]
fn the_log_of_a_tunnel_goes_on_while_it_is_open_and_is_text() {
    let scene = Scene::start();
    let page = with_tunnel(&scene);
    let write = |lines: &[(u64, &str)]| {
        let line = |(id, text): &(u64, &str)| json!({ "id": id, "time": "2026-11-21T10:00:00.123456Z", "text": text });
        page.js(&format!("window.lines = {}", Value::from(lines.iter().map(line).collect::<Vec<_>>())));
    };
    let shown = "[...document.querySelectorAll('#tunnel .log p')].map((one) => one.lastChild.data.trim()).join('|')";
    let shows = |wanted: &str| page.wait(&format!("{shown} === {}", json!(wanted)));
    let markup = "<img src=x onerror=alert(1)>";
    page.click(&button(4));
    page.wait_text("#tunnel-head", "orders/pg2: what the program of its tunnel has written");
    page.wait_text("#tunnel-body", "Nothing has been written yet.");
    write(&[(6, "hello"), (7, markup)]);
    shows(&format!("hello|{markup}"));
    assert!(page.is("document.querySelectorAll('#tunnel img').length === 0"));
    page.wait("window.asked.at(-1) === 'GET pools/orders/backends/pg2/tunnel/logs?limit=500&after=7'");
    shows(&format!("hello|{markup}"));
    write(&[(90, "later")]);
    shows(&format!("hello|{markup}|… what was written before is not kept any more|later"));
    // A daemon that is there again counts anew.
    write(&[(1, "anew")]);
    shows("anew");
    named(&page, "the log of a tunnel");
    // Without an answer it is asked again, and one who may not is told so.
    page.js("window.says.logs = [503, { code: 'draining', detail: 'going down' }]");
    page.wait_text("#tunnel .refused", "going down");
    shows("anew");
    page.js("delete window.says.logs");
    page.wait("document.querySelector('#tunnel .refused') === null");
    page.js("window.says.logs = [403, { code: 'not_authorized', detail: 'this pool is not yours' }]");
    page.wait_text("#tunnel .refused", "this pool is not yours");
    page.key(Key::Escape);
    page.wait("!document.getElementById('tunnel').open");
    assert_eq!(page.text_of_focus(), "Log of the tunnel of pg2 of orders");

    // One that is closed is asked for no more: not in the time of three looks at the pools, which are further apart.
    page.js("delete window.says.logs");
    page.click(&button(4));
    shows("anew");
    page.key(Key::Escape);
    page.wait("!document.getElementById('tunnel').open");
    page.js("window.was = [window.asked.length, window.looked]");
    page.wait("window.looked >= window.was[1] + 3");
    assert_eq!(page.js("return window.asked.length - window.was[0]"), 0);
}

#[test]
fn what_is_run_for_a_tunnel_is_shown_as_it_was_told() {
    let scene = Scene::start();
    let page = with_tunnel(&scene);
    page.click(&button(5));
    page.wait_text("#tunnel .refused", "there is nothing here");
    page.key(Key::Escape);
    page.wait("!document.getElementById('tunnel').open");
    let table = "provider = \"ssh\"\noptions = { password = \"***\" }\n# <script>alert(1)</script>\n";
    let known = json!({ "provider": "ssh", "attach": "listen", "expansion": table });
    page.js(&format!("window.says.explain = [200, {known}]"));
    page.click(&button(5));
    page.wait_text("#tunnel-head", "orders/pg2: what is run for its tunnel");
    page.wait_text("#tunnel-body", "Provider ssh, attached to by listen.");
    assert_eq!(page.js("return document.querySelector('#tunnel pre').textContent"), table);
    assert!(page.is("document.querySelectorAll('dialog script').length === 0"));
    assert!(named(&page, "what is run for a tunnel").contains("dialog"));
    page.key(Key::Escape);
    page.wait("!document.getElementById('tunnel').open");
    assert_eq!(page.text_of_focus(), "Explain the tunnel of pg2 of orders");
}

#[test]
fn the_files_are_served_with_the_rules_for_browsers() {
    let scene = Scene::start();
    let get = |path: &str, head: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}");
        http::exchange_head(dial(scene.admin).expect("accepted"), &head).expect("answered")
    };
    for (path, kind) in
        [("/", "text/html"), ("/dashboard/app.js", "text/javascript"), ("/dashboard/style.css", "text/css")]
    {
        let answer = get(path, "");
        assert_eq!((answer.status, answer.header("content-type").starts_with(kind)), (200, true), "{path}");
        let policy = answer.header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        for (header, value) in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")] {
            assert_eq!(answer.header(header), value, "{path}");
        }
        let again = get(path, &format!("If-None-Match: {}\r\n", answer.header("etag")));
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
    }
    assert_eq!(get("/dashboard/mod.rs", "").status, 404);
    assert_eq!(get("/dashboard/..%2findex.html", "").json()["code"], "not_found");
    let index = get("/", "").body;
    for path in ["/api/v1/pools", "/api/v1/events", "explain", "noscript"] {
        assert!(index.contains(path), "without JavaScript {path} is named");
    }
}

#[test]
fn the_api_tells_of_listeners_and_of_bytes() {
    let scene = Scene::start();
    let _session = scene.session("orders");
    support::wait_until("the bytes are counted", support::DEADLINE, || {
        let backend = scene.daemon.backend("orders", "pg1");
        backend["bytes_to_backend"] == 50_000 && backend["bytes_to_client"].as_u64() > Some(50_000)
    });
    let listeners = scene.daemon.admin_get("/api/v1/listeners").json();
    let wanted = json!({
        "name": "orders", "binds": ["127.0.0.1:0"], "pool": "orders", "target": "any", "connections": 1, "held": 0,
        "accepted": 1, "rejected": {},
    });
    assert_eq!(listeners["listeners"][0], wanted);
    assert_eq!(listeners["listeners"].as_array().map(Vec::len), Some(3));
}

#[test]
fn pictures_fit_a_phone_and_a_wide_screen_by_day_and_by_night() {
    let mut scene = Scene::start();
    let mut sessions = [scene.session("orders"), scene.session("reports"), scene.session("web"), scene.session("web")];
    let page = scene.page(1240, 860);
    let colour = || page.js("return getComputedStyle(document.body).backgroundColor");
    page.prefer(&[("prefers-color-scheme", "light"), ("prefers-reduced-motion", "no-preference")]);
    let (day, moves) = (colour(), "getComputedStyle(document.querySelector('.event')).animationName !== 'none'");
    page.wait("document.querySelectorAll('.event').length > 0");
    assert!(page.is(moves));
    page.wait_text("#summary", "4 sessions");
    // A picture to keep shows curves with some past.
    let points = if is_to_be_kept() { 24 } else { 2 };
    let curves = format!(
        "[...document.querySelectorAll('.spark .line')].every((line) => line.getAttribute('d')?.split('L').length >= {points})"
    );
    support::wait_until("there are curves", 3 * support::DEADLINE, || {
        sessions.iter_mut().for_each(|session| echo(session, &vec![b'x'; fastrand::usize(1..60_000)]).expect("echoed"));
        page.is(&curves)
    });
    keep(&page, "light");
    page.prefer(&[("prefers-color-scheme", "dark"), ("prefers-reduced-motion", "reduce")]);
    assert_ne!(day, colour());
    assert!(!page.is(moves), "whoever wants nothing to move sees nothing move");
    keep(&page, "dark");
    for width in [320, 390, 700, 1000, 1360, 2200] {
        page.size(width, 900, 1.0);
        page.wait("document.documentElement.scrollWidth <= window.innerWidth");
    }
    drop(sessions);
    scene.backends[0].kill();
    page.size(1240, 860, 1.0);
    page.prefer(&[("prefers-color-scheme", "light")]);
    page.wait_text("[data-kind='pool.failover'] .evidence", "Connection refused");
    page.wait_text("[data-backend='orders/pg1'] .state", "unhealthy, out");
    keep(&page, "failed-backend");
    page.click("[data-pool='orders'] .buttons button");
    page.wait_text("#explain", "By which rule");
    keep(&page, "explain");
    page.key(Key::Escape);
    page.size(390, 844, 1.5);
    page.wait("document.documentElement.scrollWidth <= window.innerWidth");
    keep(&page, "phone");
}

fn is_to_be_kept() -> bool {
    std::env::var("CHANGEOVER_WRITE_SCREENSHOTS").is_ok_and(|wanted| wanted == "1")
}

/// Takes a picture, and keeps it as `tests/screenshots/NAME.png` if that is wanted. Pictures are looked at by people; here
/// only their size is.
#[track_caller]
fn keep(page: &Browser, name: &str) {
    let picture = page.picture();
    assert!(picture.len() > 10_000, "{name} has {} bytes", picture.len());
    if is_to_be_kept() {
        assert!(picture.len() <= 200_000, "{name} has {} bytes", picture.len());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screenshots");
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join(format!("{name}.png")), picture).expect("written");
    }
}
