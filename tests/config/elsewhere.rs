//! What `{ env }` and `{ file }` stand for, where that is not what the key takes: whatever was found there may be anybody's
//! secret, so that no error says it. Each key of the schema is tried.

use changeover::config::{SourceError, Sources, json_schema, parse};
use serde_json::Value;

use super::SECRET;

/// What stands before each part.
const BEFORE: &str =
    "[listeners.l]\nbind = '127.0.0.1:1000'\npool = 'orders'\n[pools.orders]\nbackends = ['10.0.0.1:1']\n";
/// A table of each part, the last one, that is right but for what is put into it.
const TABLES: &[(&str, &str)] = &[
    ("daemon", "[daemon]\n"),
    ("admin", "[admin]\n"),
    (
        "token",
        "[admin.tokens.ops]\nrole = 'viewer'\n\
         sha256 = '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d'\n",
    ),
    ("jwt", "[admin.jwt]\nalgorithm = 'HS256'\nkey = 'a secret of at least thirty-two bytes'\n"),
    ("tls", "[admin.tls]\ncertificate = '/certificate'\nkey = '/key'\n"),
    ("log", "[log]\n"),
    ("listener", "[listeners.m]\nbind = '127.0.0.1:1001'\npool = 'orders'\n"),
    ("pool", "[pools.p]\nbackends = ['10.0.0.2:1']\n"),
    ("check", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.check]\n"),
    ("http", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.check]\nkind = 'http'\n[pools.p.check.http]\n"),
    ("agent", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.check]\nkind = 'agent'\n[pools.p.check.agent]\n"),
    ("expect", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.check]\nkind = 'expect'\n[pools.p.check.expect]\n"),
    ("failover", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.failover]\n"),
    ("sessions", "[pools.p]\nbackends = ['10.0.0.2:1']\n[pools.p.failover.sessions]\n"),
    ("postgres", "[pools.p]\nkind = 'postgres'\nbackends = ['10.0.0.2:1']\n[pools.p.postgres]\n"),
    ("backend", "[pools.p.backends.b]\naddress = '10.0.0.2:1'\n"),
    (
        "tunnel",
        "[pools.p.backends.b.tunnel]\nprovider = 'command'\ntarget = 'db:1'\ncommand = ['/x', '{local_port}']\n",
    ),
    (
        "address_lookup",
        "[pools.p.backends.b.tunnel]\nprovider = 'ngrok'\n[pools.p.backends.b.tunnel.lookup]\nurl = 'http://a/'\n\
         pointer = '/a'\n",
    ),
    ("tunnel_provider", "[tunnel_providers.x]\nattach = ['listen']\nlisten = ['/x', '{local_port}']\n"),
    (
        "tunnel_option",
        "[tunnel_providers.x]\nattach = ['listen']\nlisten = ['/x', '{local_port}', '{user}']\n\
         [tunnel_providers.x.options.user]\nkind = 'number'\n",
    ),
    ("webhook", "[webhooks.pager]\nurl = 'https://hooks.example.net/'\n"),
];

/// An environment and files in which one value is everywhere.
struct Everywhere(String);

impl Sources for Everywhere {
    fn env(&self, _: &str) -> Result<String, SourceError> {
        Ok(self.0.clone())
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        if path == "/ill" { Ok(self.0.clone()) } else { Err(SourceError::Unreadable("No such file".to_owned())) }
    }
}

/// What nobody takes for long: as it may be found in a variable that was meant for something else, and so that it is refused
/// late rather than early.
fn ill_values() -> Vec<String> {
    let mut values: Vec<String> = [
        "{}",
        "/{}",
        "{}:5432",
        "10.0.0.1/{}",
        "127.0.0.1:{}",
        "unix:{}",
        "5 {}",
        "pool.{}",
        "order{}",
        "https://user:{}@host/",
        "postgres://user:{}@db/orders",
        "{}\0\n",
    ]
    .iter()
    .map(|form| form.replace("{}", SECRET))
    .collect();
    // Longer than anything may be.
    values.push(format!("{SECRET}{}", "x".repeat(60_000)));
    values
}

/// A file with `line` in place of what the last table of `part` has for `name`.
fn with(part: &str, name: &str, line: &str) -> String {
    if part == "root" {
        return line.to_owned();
    }
    let (_, tables) = TABLES.iter().find(|(known, _)| *known == part).unwrap_or_else(|| panic!("no table of {part}"));
    let is_other = |of: &&str| !of.starts_with(&format!("{name} ="));
    let (before, table) = tables.split_at(tables.rfind("\n[").map_or(0, |end| end + 1));
    let kept: String = table.lines().filter(is_other).map(|of| format!("{of}\n")).collect();
    format!("{BEFORE}{before}{kept}{line}\n")
}

/// Each key of the schema with the part that it is of, and whether it may be looked up elsewhere.
fn all_keys() -> Vec<(String, String, bool)> {
    let schema = json_schema();
    let parts = schema["$defs"].as_object().unwrap().iter().filter(|(part, _)| *part != "lookup");
    let root = ("root".to_owned(), schema.clone());
    let parts = parts.map(|(part, table)| (part.clone(), table.clone())).chain([root]);
    let keys = parts.flat_map(|(part, table)| {
        let properties = table["properties"].as_object().unwrap().clone();
        properties.into_iter().map(move |(name, property): (String, Value)| {
            (part.clone(), name, property.to_string().contains("#/$defs/lookup"))
        })
    });
    keys.collect()
}

#[test]
fn what_stands_elsewhere_is_in_no_error_whatever_the_key() {
    let keys = all_keys();
    assert!(keys.len() > 100, "{}", keys.len());
    let ill = ill_values();
    for (part, name, may_be_elsewhere) in keys {
        let (mut refused, mut last) = (0, String::new());
        for at in ["{ env = 'ILL' }", "{ file = '/ill' }", "[{ env = 'ILL' }]", "['{', { file = '/ill' }]"] {
            let text = with(&part, &name, &format!("{name} = {at}"));
            for value in &ill {
                let Err(errors) = parse("test.toml", &text, &Everywhere(value.clone())) else { continue };
                assert!(!format!("{errors} {errors:?}").contains(SECRET), "{name} of {part}: {errors}");
                assert!(!errors.to_string().contains("not TOML"), "{name} of {part}: {errors}");
                last = errors.to_string();
                refused += usize::from(last.contains(&format!("`{name}`")));
            }
        }
        assert!(refused > 0 || !may_be_elsewhere, "{name} of {part} takes all of them: {last}");
    }
}
