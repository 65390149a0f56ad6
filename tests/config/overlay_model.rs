//! The rules of precedence against a model: random files, random requests, random reloads. The model keeps
//! what was asked in plain maps, and what should be in force is a file written from them and read as any other.

use std::collections::BTreeMap;
use std::fmt::Write;

use changeover::config::Document;
use changeover::config::overlay::{
    Change, Changed, Dropped, Overlay, Patch, PatchKey, Registration, RejectCode, Rejected, Request, effective,
    failover_config,
};
use changeover::model::{Actor, BackendName, PoolName};
use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{Fake, read};

const SEQUENCES: u64 = 100;
const STEPS: usize = 25;
const POOLS: [&str; 3] = ["p", "q", "r"];

/// A backend of the model: its place, and the keys that somebody set, by dotted path.
#[derive(Clone, Debug, PartialEq)]
struct Backend {
    port: u16,
    keys: BTreeMap<&'static str, Value>,
}

/// A pool of the file.
#[derive(Clone, Debug, Default)]
struct Pool {
    is_list: bool,
    /// In a list in the order of the list, under their addresses.
    backends: Vec<(String, Backend)>,
    keys: BTreeMap<&'static str, Value>,
}

type Pools = BTreeMap<&'static str, Pool>;
/// A pool's name, the backend's if it is about one, and the dotted path.
type Key = (&'static str, Option<String>, &'static str);

#[derive(Default)]
struct Model {
    file: Pools,
    registered: BTreeMap<(&'static str, String), Backend>,
    /// The value, and what the file said.
    patched: BTreeMap<Key, (Value, Option<Value>)>,
}

/// One key of a pool with a value that it takes.
fn pool_key(random: &mut Rng) -> (&'static str, Value) {
    match random.u8(..4) {
        0 => ("check.interval", json!(random.choice(["20ms", "1s", "2s"]).unwrap())),
        1 => ("check.healthy_threshold", json!(random.u8(1..4))),
        2 => ("failover.automatic", json!(random.bool())),
        _ => ("failover.sessions.dead", json!(random.choice(["keep", "drain", "close"]).unwrap())),
    }
}

/// The same of a backend.
fn backend_key(random: &mut Rng) -> (&'static str, Value) {
    match random.u8(..3) {
        0 => ("weight", json!(random.u8(1..4))),
        1 => ("priority", json!(random.u8(1..4))),
        _ => ("check.interval", json!(random.choice(["20ms", "1s", "2s"]).unwrap())),
    }
}

fn port(random: &mut Rng) -> u16 {
    random.u16(9000..9008)
}

fn pools(random: &mut Rng) -> Pools {
    let mut pools = Pools::new();
    for name in POOLS {
        // The listener's pool is always there.
        if name != "p" && random.u8(..4) == 0 {
            continue;
        }
        let mut pool = Pool { is_list: random.bool(), ..Pool::default() };
        for _ in 0..random.u8(..3) {
            pool.keys.extend([pool_key(random)]);
        }
        let mut ports: Vec<u16> = (9000..9008).collect();
        random.shuffle(&mut ports);
        for (at, port) in ports.into_iter().take(random.usize(1..4)).enumerate() {
            let keys = if pool.is_list {
                BTreeMap::from([("priority", json!(at + 1))])
            } else {
                (0..random.u8(..3)).map(|_| backend_key(random)).collect()
            };
            let name = if pool.is_list { format!("127.0.0.1:{port}") } else { format!("b{}", random.u8(..6)) };
            if pool.backends.iter().all(|(other, _)| *other != name) {
                pool.backends.push((name, Backend { port, keys }));
            }
        }
        pools.insert(name, pool);
    }
    pools
}

fn write_keys(text: &mut String, keys: &BTreeMap<&'static str, Value>) {
    for (key, value) in keys {
        writeln!(text, "{key} = {value}").unwrap();
    }
}

fn file_text(pools: &Pools) -> String {
    let mut text = String::from("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n");
    for (name, pool) in pools {
        writeln!(text, "[pools.{name}]").unwrap();
        write_keys(&mut text, &pool.keys);
        if pool.is_list {
            let names: Vec<&str> = pool.backends.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(text, "backends = {}", json!(names)).unwrap();
            continue;
        }
        for (backend, Backend { port, keys }) in &pool.backends {
            writeln!(text, "[pools.{name}.backends.\"{backend}\"]\naddress = \"127.0.0.1:{port}\"").unwrap();
            write_keys(&mut text, keys);
        }
    }
    text
}

impl Model {
    fn in_file(&self, pool: &str, backend: &str) -> Option<&Backend> {
        self.file.get(pool)?.backends.iter().find(|(name, _)| name == backend).map(|(_, backend)| backend)
    }

    /// What the file says for a key.
    fn says(&self, (pool, backend, path): &Key) -> Option<Value> {
        match backend {
            None => self.file.get(pool)?.keys.get(path).cloned(),
            Some(backend) => self.in_file(pool, backend)?.keys.get(path).cloned(),
        }
    }

    fn is_taken(&self, pool: &str, port: u16, but: &str) -> bool {
        let in_file =
            || self.file.get(pool).is_some_and(|pool| pool.backends.iter().any(|(_, other)| other.port == port));
        in_file() || self.registered.iter().any(|((of, name), other)| *of == pool && name != but && other.port == port)
    }

    /// Another file: the rules, one after the other. Answers with how many entries had to go.
    fn reload(&mut self, file: Pools) -> usize {
        self.file = file;
        let before = self.registered.len() + self.patched.len();
        let registered = std::mem::take(&mut self.registered);
        self.registered = registered
            .into_iter()
            .filter(|((pool, name), backend)| {
                let Some(pool) = self.file.get(pool) else { return false };
                pool.backends.iter().all(|(other, known)| other != name && known.port != backend.port)
            })
            .collect();
        let patched = std::mem::take(&mut self.patched);
        self.patched = patched
            .into_iter()
            .filter(|(key, (_, base))| {
                let stands = match &key.1 {
                    Some(backend) => self.in_file(key.0, backend).is_some(),
                    None => self.file.contains_key(key.0),
                };
                stands && self.says(key) == *base
            })
            .collect();
        before - self.registered.len() - self.patched.len()
    }

    /// All of it as a file.
    fn merged(&self) -> String {
        let mut merged = self.file.clone();
        for ((pool, name), backend) in &self.registered {
            merged.get_mut(pool).unwrap().backends.push((name.clone(), backend.clone()));
        }
        for ((pool, backend, path), (value, _)) in &self.patched {
            let pool = merged.get_mut(pool).unwrap();
            let keys = match backend {
                None => &mut pool.keys,
                Some(name) => &mut pool.backends.iter_mut().find(|(other, _)| other == name).unwrap().1.keys,
            };
            keys.insert(path, value.clone());
        }
        for pool in merged.values_mut() {
            pool.is_list = false;
        }
        file_text(&merged)
    }
}

/// `value` at the dotted `path` of a body.
fn put(body: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(body.insert(path.to_owned(), value)),
        Some((table, rest)) => {
            let below = body.entry(table).or_insert_with(|| json!({}));
            put(below.as_object_mut().unwrap(), rest, value);
        }
    }
}

/// The keys of a request: some values, some nulls and now and then one that no key takes.
fn asked(random: &mut Rng, key: fn(&mut Rng) -> (&'static str, Value)) -> (BTreeMap<&'static str, Value>, bool) {
    let mut keys: BTreeMap<&'static str, Value> = (0..random.u8(1..4)).map(|_| key(random)).collect();
    for value in keys.values_mut() {
        if random.u8(..4) == 0 {
            *value = Value::Null;
        }
    }
    let wrong = random.u8(..8) == 0;
    if wrong {
        *keys.values_mut().next().unwrap() = json!("wrong");
    }
    (keys, !wrong)
}

/// What is known of a request before it is asked: why it is refused, if it is.
type Verdict = Result<(), RejectCode>;

struct Run {
    model: Model,
    document: Document,
    overlay: Overlay,
    step: i64,
    refusals: usize,
}

impl Run {
    fn ask(
        &mut self,
        pool: &'static str,
        verdict: Verdict,
        ask: impl Fn(&Request<'_>) -> Result<Changed, Rejected>,
    ) -> bool {
        let before = self.overlay.clone();
        let name = PoolName::from(pool);
        let at = jiff::Timestamp::from_second(self.step).unwrap();
        let request =
            Request { document: &self.document, overlay: &self.overlay, pool: &name, at, actor: Actor::from("ops") };
        let verdict = if self.model.file.contains_key(pool) { verdict } else { Err(RejectCode::PoolNotFound) };
        match ask(&request) {
            Ok(changed) => {
                assert_eq!(verdict, Ok(()), "accepted: {:?}", changed.changes);
                let mut applied = before;
                changed.changes.iter().cloned().for_each(|change| applied.apply(change));
                assert_eq!(applied, changed.overlay);
                let result = effective(&self.document, &changed.overlay);
                assert_eq!((result.notes, &result.overlay), (Vec::new(), &changed.overlay));
                assert_eq!(result.plan.pools[pool], changed.pool);
                self.overlay = changed.overlay;
                true
            }
            Err(rejected) => {
                assert_eq!(verdict, Err(rejected.code), "{rejected}");
                assert!(!rejected.faults.is_empty());
                assert_eq!(before, self.overlay);
                self.refusals += 1;
                false
            }
        }
    }

    fn register(&mut self, random: &mut Rng, pool: &'static str) {
        let (name, port) = (format!("b{}", random.u8(..6)), port(random));
        let (mut keys, right) = asked(random, backend_key);
        let mut body = Map::new();
        body.insert("name".to_owned(), json!(name));
        body.insert("address".to_owned(), json!(format!("127.0.0.1:{port}")));
        keys.iter().for_each(|(path, value)| put(&mut body, path, value.clone()));
        let exists =
            self.model.in_file(pool, &name).is_some() || self.model.registered.contains_key(&(pool, name.clone()));
        let verdict = if exists {
            Err(RejectCode::BackendExists)
        } else if self.model.is_taken(pool, port, &name) {
            Err(RejectCode::AddressInUse)
        } else if right {
            Ok(())
        } else {
            Err(RejectCode::InvalidValue)
        };
        if self.ask(pool, verdict, |request| request.register(&Value::Object(body.clone()))) {
            keys.retain(|_, value| !value.is_null());
            self.model.registered.insert((pool, name), Backend { port, keys });
        }
    }

    fn change(&mut self, random: &mut Rng, pool: &'static str, name: &str) {
        let (keys, right) = asked(random, backend_key);
        let mut body = Map::new();
        keys.iter().for_each(|(path, value)| put(&mut body, path, value.clone()));
        let known = (pool, name.to_owned());
        let registered = self.model.registered.contains_key(&known);
        let moved = (registered && random.bool()).then(|| port(random));
        if let Some(port) = moved {
            body.insert("address".to_owned(), json!(format!("127.0.0.1:{port}")));
        }
        let verdict = if !registered && self.model.in_file(pool, name).is_none() {
            Err(RejectCode::BackendNotFound)
        } else if moved.is_some_and(|port| self.model.is_taken(pool, port, name)) {
            Err(RejectCode::AddressInUse)
        } else if right {
            Ok(())
        } else {
            Err(RejectCode::InvalidValue)
        };
        let name = BackendName::from(name);
        if !self.ask(pool, verdict, |request| request.change(&name, &Value::Object(body.clone()))) {
            return;
        }
        if let Some(backend) = self.model.registered.get_mut(&known) {
            backend.port = moved.unwrap_or(backend.port);
            backend.keys.extend(keys);
            backend.keys.retain(|_, value| !value.is_null());
        } else {
            self.patched(pool, Some(name.as_str()), keys);
        }
    }

    fn patched(&mut self, pool: &'static str, backend: Option<&str>, keys: BTreeMap<&'static str, Value>) {
        for (path, value) in keys {
            let key = (pool, backend.map(str::to_owned), path);
            let says = self.model.says(&key);
            if value.is_null() {
                self.model.patched.remove(&key);
            } else {
                self.model.patched.insert(key, (value, says));
            }
        }
    }

    fn patch(&mut self, random: &mut Rng, pool: &'static str) {
        let (keys, right) = asked(random, pool_key);
        let mut body = Map::new();
        keys.iter().for_each(|(path, value)| put(&mut body, path, value.clone()));
        let verdict = if right { Ok(()) } else { Err(RejectCode::InvalidValue) };
        if self.ask(pool, verdict, |request| request.patch(&Value::Object(body.clone()))) {
            self.patched(pool, None, keys);
        }
    }

    fn remove(&mut self, pool: &'static str, name: &str) {
        let known = (pool, name.to_owned());
        let verdict = if self.model.registered.contains_key(&known) {
            Ok(())
        } else if self.model.in_file(pool, name).is_some() {
            Err(RejectCode::BackendInFile)
        } else {
            Err(RejectCode::BackendNotFound)
        };
        if self.ask(pool, verdict, |request| request.remove(&BackendName::from(name))) {
            self.model.registered.remove(&known);
        }
    }

    fn reload(&mut self, random: &mut Rng) {
        let mut next = pools(random);
        // Mostly the same file with little changed, so that something outlives it.
        for (name, pool) in &self.model.file {
            if random.u8(..4) > 0 {
                next.insert(name, pool.clone());
                if random.bool() {
                    next.get_mut(name).unwrap().keys.extend([pool_key(random)]);
                }
            }
        }
        self.document = Document::parse("test.toml", &file_text(&next), &Fake).unwrap();
        let gone = self.model.reload(next);
        let result = effective(&self.document, &self.overlay);
        assert_eq!((result.notes.len(), result.changes.len()), (gone, gone), "{:?}", result.notes);
        assert!(
            !result.notes.iter().any(|note| matches!(note.dropped, Dropped::Invalid { .. } | Dropped::Limit { .. }))
        );
        self.overlay = result.overlay;
    }

    fn step(&mut self, random: &mut Rng) {
        self.step += 1;
        let pool = random.choice(POOLS).unwrap();
        let of_file = self.model.file.get(pool).map(|pool| pool.backends.as_slice()).unwrap_or_default();
        let mut names: Vec<String> = of_file.iter().map(|(name, _)| name.clone()).collect();
        names.extend(self.model.registered.keys().filter(|(of, _)| *of == pool).map(|(_, name)| name.clone()));
        names.push("nobody".to_owned());
        let name = random.choice(&names).unwrap();
        match random.u8(..8) {
            0 | 1 => self.register(random, pool),
            2 | 3 => self.change(random, pool, name),
            4 | 5 => self.patch(random, pool),
            6 => self.remove(pool, name),
            _ => self.reload(random),
        }
        let wanted = read(&self.model.merged()).unwrap();
        assert_eq!(effective(&self.document, &self.overlay).plan, wanted);
    }
}

#[test]
fn random_changes_and_reloads_follow_the_rules_of_precedence() {
    let (mut refusals, mut kept) = (0, 0);
    for seed in 0..SEQUENCES {
        let mut random = Rng::with_seed(seed);
        let file = pools(&mut random);
        let document = Document::parse("test.toml", &file_text(&file), &Fake).unwrap();
        let (plain, overlay) = (read(&file_text(&file)).unwrap(), Overlay::default());
        assert_eq!((effective(&document, &overlay).plan, document.plan()), (plain.clone(), &plain));
        let mut run = Run { model: Model { file, ..Model::default() }, document, overlay, step: 0, refusals: 0 };
        for step in 0..STEPS {
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step(&mut random)));
            assert!(judged.is_ok(), "seed {seed}, step {step}:\n{}", run.model.merged());
        }
        refusals += run.refusals;
        kept += run.overlay.registrations.len() + run.overlay.patches.len();
    }
    let steps = STEPS * usize::try_from(SEQUENCES).unwrap();
    assert!(refusals * 10 > steps && refusals * 3 < steps * 2, "{refusals} of {steps} were refused");
    assert!(kept > usize::try_from(SEQUENCES).unwrap(), "{kept} changes were left");
}

/// Anything that JSON can say, keys of the file among it.
fn noise(random: &mut Rng, depth: usize) -> Value {
    const WORDS: &[&str] = &[
        "check",
        "http",
        "interval",
        "kind",
        "command",
        "authorization",
        "weight",
        "address",
        "file",
        "env",
        "a.b",
        "",
        "failover",
        "sessions",
        "dead",
        "\u{0}",
        "backends",
    ];
    match random.u8(..if depth > 12 { 6 } else { 10 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(random.f64() * 1e300),
        4 => json!(random.u64(..)),
        5 => json!(random.choice(["1s", "http", "127.0.0.1:1", "", "'''", "\u{1F600}", "unix:/x"]).unwrap()),
        6 => (0..random.u8(..3)).map(|_| noise(random, depth + 1)).collect(),
        _ => {
            let word = |random: &mut Rng| (*random.choice(WORDS).unwrap()).to_owned();
            Value::Object((0..random.u8(1..5)).map(|_| (word(random), noise(random, depth + 1))).collect())
        }
    }
}

#[test]
fn whatever_a_store_or_a_caller_says_there_is_a_plan_and_no_panic() {
    let document = Document::parse("f", &file_text(&pools(&mut Rng::with_seed(4))), &Fake).unwrap();
    let paths =
        ["check", "check.interval", "check.http", "check.http.port", "check.interval.x", "x.y", "", "..", "weight"];
    for seed in 0..1000 {
        let mut random = Rng::with_seed(seed);
        let (at, actor) = (jiff::Timestamp::UNIX_EPOCH, Actor::from("x"));
        let mut overlay = Overlay::default();
        for _ in 0..random.u8(1..6) {
            let pool = PoolName::from(random.choice(["p", "q", "r", "nobody"]).unwrap());
            let name = BackendName::from(random.choice(["b0", "b1", "127.0.0.1:9000", "", "a/b"]).unwrap());
            if random.bool() {
                let table = noise(&mut random, 0).as_object().cloned().unwrap_or_default();
                let registration = Registration { table, at, actor: actor.clone() };
                overlay.apply(Change::Registration(pool, name, Some(registration)));
            } else {
                let path = random.choice(paths).unwrap().to_owned();
                let key = PatchKey { backend: random.bool().then_some(name), path };
                let patch = Patch { value: noise(&mut random, 0), base: None, at, actor: actor.clone() };
                overlay.apply(Change::Patch(pool, key, Some(patch)));
            }
        }
        let result = effective(&document, &overlay);
        assert_eq!(result.plan.pools.len(), document.plan().pools.len());
        let again = effective(&document, &result.overlay);
        assert_eq!((again.notes, again.plan), (Vec::new(), result.plan), "seed {seed}: what is left is right");
        let pool = PoolName::from("p");
        assert!(failover_config(&document, &result.overlay, &pool).is_some());
        let request = Request { document: &document, overlay: &result.overlay, pool: &pool, at, actor };
        let body = noise(&mut random, 0);
        let change = request.change(&BackendName::from("b0"), &body);
        for changed in [request.register(&body), request.patch(&body), change].into_iter().flatten() {
            assert_eq!(effective(&document, &changed.overlay).notes, Vec::new(), "seed {seed}: {body}");
        }
    }
}
