//! `[admin]`: how often its callers may change something, and by what they prove who they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::model::{AccessRole, AdminPlan, JwtAlgorithm, JwtPlan, PoolName, Secret, TlsPlan, TokenPlan};

use super::credentials::{TlsFault, tls_server, verifying_key};
use super::key::{Key, Part, listed};
use super::keys;
use super::pools::PoolDraft;
use super::read::Reader;
use super::source::SourceError;
use super::view::View;
use super::wording::{nearest, quote};

/// The most tokens: each is compared with whatever a caller presents.
const TOKENS_MAX: usize = 1000;
/// The most pools of one caller.
const POOLS_MAX: usize = 1000;
/// Clocks further apart than this are wrong.
const LEEWAY_MAX: Duration = Duration::from_secs(300);
/// The hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// How to come by a token.
const MAKE_ONE: &str = "make a token with `(umask 077; openssl rand -hex 32 | tr -d '\\n' | tee token) | sha256sum`, and write the \
                       digits that this shows";

type Pools = BTreeMap<PoolName, PoolDraft>;

/// Who may call, and how often; the addresses are left to others.
pub(super) fn all(reader: &mut Reader<'_>, admin: &View<'_>, pools: &Pools) -> AdminPlan {
    AdminPlan {
        bind: Vec::new(),
        rate: reader.get(admin, &keys::ADMIN_RATE),
        tokens: tokens(reader, admin, pools),
        jwt: jwt(reader, admin),
        tls: tls(reader, admin),
    }
}

fn tokens(reader: &mut Reader<'_>, admin: &View<'_>, pools: &Pools) -> Vec<TokenPlan> {
    let mut tokens: Vec<TokenPlan> = Vec::new();
    for entry in reader.tables(admin, &keys::TOKENS, Part::Token, TOKENS_MAX) {
        let view = &entry.view;
        let role: Option<AccessRole> = reader.required(view, &keys::TOKEN_ROLE);
        let sha256 = digest(reader, view);
        let only = pools_of(reader, view, pools);
        let Some((role, sha256)) = role.zip(sha256) else { continue };
        if let Some(same) = tokens.iter().find(|token| token.sha256 == sha256) {
            let message = format!(
                "`{}`: [admin.tokens.{}] has the same, so that nobody could tell the two apart; make a token for each",
                keys::TOKEN_SHA256.name,
                same.name
            );
            reader.faults.wrong(view.place(&keys::TOKEN_SHA256), message);
        }
        tokens.push(TokenPlan { name: Arc::from(entry.name), role, sha256, pools: only });
    }
    tokens
}

/// The SHA-256 of a token.
fn digest(reader: &mut Reader<'_>, view: &View<'_>) -> Option<Secret> {
    let key = &keys::TOKEN_SHA256;
    if view.lacks(key) {
        // One that could be copied from here would be everybody's.
        let message = format!("[{}] has no `{}`; {MAKE_ONE}", view.label, key.name);
        reader.faults.lacking(view.span.clone(), key.name, message);
    }
    let sha256: Secret = reader.given(view, key)?;
    let text = sha256.expose();
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_capital = text.bytes().any(|b| b.is_ascii_uppercase());
    let begun = text.trim_end_matches(['…', '.']);
    let why = if text.len() == DIGITS && is_hex(text) {
        if !is_capital {
            return Some(sha256);
        }
        "has capital letters; write it in lower case".to_owned()
    } else if begun.len() < text.len() && is_hex(begun) {
        format!("is the beginning of a SHA-256; write all {DIGITS} digits of it")
    } else {
        let length = text.chars().count();
        format!(
            "is no SHA-256, which has {DIGITS} hexadecimal digits, and it has {length} characters; \
             if it is the token itself, it is known to whoever reads this file: {MAKE_ONE}"
        )
    };
    reader.faults.wrong(view.place(key), format!("`{}`: the value (not shown) {why}", key.name));
    None
}

/// The only pools of a caller, each of which is there.
fn pools_of(reader: &mut Reader<'_>, view: &View<'_>, pools: &Pools) -> Option<Arc<[PoolName]>> {
    let key = &keys::TOKEN_POOLS;
    let node = view.node(key)?;
    let DeValue::Array(list) = node.get_ref() else {
        if let Some(given) = reader.scalar(node, key) {
            reader.faults.wrong(node.span(), given.mismatch(key));
        }
        return Some(Arc::default());
    };
    if list.is_empty() || list.len() > POOLS_MAX {
        let message =
            format!("`{}` has {} names; write 1 to {POOLS_MAX}, or leave it out for all pools", key.name, list.len());
        reader.faults.wrong(node.span(), message);
    }
    let names: Vec<PoolName> = list.iter().filter_map(|item| known_pool(reader, key, item, pools)).collect();
    Some(names.into())
}

fn known_pool(reader: &mut Reader<'_>, key: &Key, item: &Spanned<DeValue<'_>>, pools: &Pools) -> Option<PoolName> {
    let name: String = reader.convert(item, key)?;
    if pools.contains_key(name.as_str()) {
        return Some(PoolName::from(name.as_str()));
    }
    let names = || pools.keys().map(PoolName::as_str);
    let shown = if item.get_ref().is_str() { quote(&name) } else { "of that name (not shown)".to_owned() };
    let meant = match nearest(&name, names()) {
        Some(guess) => format!("did you mean \"{guess}\"?"),
        None => format!("there is {}", listed(names().take(10))),
    };
    reader.faults.missing(item.span(), format!("`{}`: there is no pool {shown}; {meant}", key.name));
    None
}

fn jwt(reader: &mut Reader<'_>, admin: &View<'_>) -> Option<JwtPlan> {
    let view = reader.table(admin, &keys::JWT);
    let algorithm: Option<JwtAlgorithm> = reader.required(&view, &keys::JWT_ALGORITHM);
    let key: Option<Secret> = reader.required(&view, &keys::JWT_KEY);
    let leeway: Duration = reader.get(&view, &keys::JWT_LEEWAY);
    if leeway > LEEWAY_MAX {
        let message = format!("`{}` is too long; \"5m\" is the most", keys::JWT_LEEWAY.name);
        reader.faults.wrong(view.place(&keys::JWT_LEEWAY), message);
    }
    let words = [&keys::JWT_ISSUER, &keys::JWT_AUDIENCE, &keys::JWT_ROLE, &keys::JWT_POOLS];
    let [issuer, audience, role_claim, pools_claim] = words.map(|key| word(reader, &view, key));
    admin.node(&keys::JWT)?;
    let (algorithm, key) = (algorithm?, key?);
    if let Err(why) = verifying_key(algorithm, &key) {
        let name = keys::JWT_KEY.name;
        reader.faults.wrong(view.place(&keys::JWT_KEY), format!("`{name}`: the value (not shown) {why}"));
    }
    let claim = |word: Option<String>, default: &str| word.unwrap_or_else(|| default.to_owned());
    Some(JwtPlan {
        algorithm,
        key,
        issuer,
        audience,
        role_claim: claim(role_claim, "role"),
        pools_claim: claim(pools_claim, "pools"),
        leeway,
    })
}

/// A text that is not empty.
fn word(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> Option<String> {
    let word: String = reader.given(view, key)?;
    if word.is_empty() {
        let message = format!("`{}` is empty; write {} or the like, or leave it out", key.name, key.literal());
        reader.faults.wrong(view.place(key), message);
    }
    Some(word)
}

fn tls(reader: &mut Reader<'_>, admin: &View<'_>) -> Option<TlsPlan> {
    let view = reader.table(admin, &keys::ADMIN_TLS);
    let certificate: Option<PathBuf> = reader.required(&view, &keys::TLS_CERTIFICATE);
    let key: Option<PathBuf> = reader.required(&view, &keys::TLS_KEY);
    let chain = certificate.as_ref().and_then(|path| content(reader, &view, &keys::TLS_CERTIFICATE, path));
    let private_key = key.as_ref().and_then(|path| content(reader, &view, &keys::TLS_KEY, path));
    let (chain, private_key) = (chain?, Secret::new(&private_key?));
    if let Err(fault) = tls_server(&chain, &private_key) {
        let (key, why) = match fault {
            TlsFault::Certificate(why) => (&keys::TLS_CERTIFICATE, why),
            TlsFault::Key(why) => (&keys::TLS_KEY, why),
        };
        reader.faults.wrong(view.place(key), format!("`{}`: the file {why}; name another one", key.name));
    }
    Some(TlsPlan { certificate: certificate?, key: key?, chain: chain.into(), private_key })
}

/// What is in a file.
fn content(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, path: &std::path::Path) -> Option<String> {
    let why = match reader.content(path) {
        Ok(text) => return Some(text),
        Err(error @ (SourceError::NotText | SourceError::TooLong)) => {
            format!("{error}; it is probably not the one you mean")
        }
        Err(error @ (SourceError::Unset | SourceError::Unreadable(_))) => {
            format!("{error}; create it, or let the daemon's user read it")
        }
    };
    reader.faults.wrong(view.place(key), format!("`{}`: the file {why}", key.name));
    None
}
