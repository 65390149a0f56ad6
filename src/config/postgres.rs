//! `[pools.NAME.postgres]`: how the servers of a postgres pool are watched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{PoolKind, PostgresPlan, Promotion, TlsMode, spoken};

use super::key::Key;
use super::keys;
use super::read::Reader;
use super::source::SourceError;
use super::value::{Given, Value, unknown_word};
use super::view::View;

/// From one heartbeat to the next at most: a promotion is noticed by it.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);
/// A server that is silent for longer is noticed by its clients first.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// So many heartbeats fit into the deadline at least: one that is late is no evidence by itself.
const HEARTBEATS_MIN: u32 = 2;
/// What a file of certificates has in it.
const PEM: &str = "-----BEGIN CERTIFICATE-----";

impl Value for Promotion {
    fn blank() -> Self {
        Self::Never
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let word = given.text(key)?;
        if let Some(promotion) = Self::from_label(word) {
            return Ok(promotion);
        }
        if keys::PROMOTIONS.contains(&word) {
            return Err(given.but(
                key,
                "cannot be had: this version promotes no server, and follows who does; write \"never\", \
                 and let Patroni, repmgr, an operator or the like promote",
            ));
        }
        Err(unknown_word(given, key, Self::LABELS))
    }
}

/// How the servers of a pool of that kind are watched; `kind` is none if what stands there is wrong.
pub(super) fn plan(reader: &mut Reader<'_>, pool: &View<'_>, kind: Option<PoolKind>) -> Option<Arc<PostgresPlan>> {
    let view = reader.table(pool, &keys::POSTGRES);
    let given: Option<TlsMode> = reader.given(&view, &keys::TLS);
    let tls = given.unwrap_or_else(|| TlsMode::preset(&keys::TLS));
    let known = given.is_some() || view.node(&keys::TLS).is_none();
    let plan = PostgresPlan {
        user: word(reader, &view, &keys::USER),
        password: reader.given(&view, &keys::PASSWORD),
        database: word(reader, &view, &keys::DATABASE),
        tls,
        ca_file: ca_file(reader, &view, known.then_some(tls)),
        session: reader.get(&view, &keys::SESSION),
        heartbeat: reader.get(&view, &keys::HEARTBEAT),
        heartbeat_deadline: reader.get(&view, &keys::HEARTBEAT_DEADLINE),
        max_lag: reader.get(&view, &keys::MAX_LAG),
        max_lag_time: reader.get(&view, &keys::MAX_LAG_TIME),
        promotion: reader.get(&view, &keys::PROMOTION),
    };
    refuse_hasty_beats(reader, &view, &plan);
    if let Some(node) = pool.node(&keys::POSTGRES).filter(|_| kind == Some(PoolKind::Tcp)) {
        let (label, of) = (&view.label, &pool.label);
        let message = format!(
            "[{label}] is given, but the pool's kind is \"tcp\"; write kind = \"postgres\" in [{of}], or leave the table out"
        );
        reader.faults.wrong(node.span(), message);
    }
    (kind == Some(PoolKind::Postgres)).then(|| Arc::new(plan))
}

/// A name that is sent to the server, which ends it with a NUL.
fn word(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> String {
    let word: String = reader.get(view, key);
    if word.is_empty() || word.contains('\0') {
        let message = format!("`{}` is empty or has a NUL in it; write a name, or leave it out", key.name);
        reader.faults.wrong(view.place(key), message);
    }
    word
}

/// The file of the certificates that are trusted, if it is one and is looked at at all; `tls` is none if what stands there
/// is wrong. The monitor reads the file itself.
fn ca_file(reader: &mut Reader<'_>, view: &View<'_>, tls: Option<TlsMode>) -> Option<PathBuf> {
    let key = &keys::CA_FILE;
    let path: PathBuf = reader.given(view, key)?;
    if let Some(tls @ (TlsMode::Disable | TlsMode::Prefer | TlsMode::Require)) = tls {
        let message = format!(
            "`{}` is given, but `{}` is \"{tls}\", which looks at no certificate; write {} = \"{}\", or leave the file out",
            key.name,
            keys::TLS.name,
            keys::TLS.name,
            TlsMode::VerifyFull
        );
        reader.faults.wrong(view.place(key), message);
        return None;
    }
    refuse_no_certificates(reader, view, key, &path);
    Some(path)
}

/// Says so if there are no certificates in the file at `path`, which stands under `key`.
pub(super) fn refuse_no_certificates(reader: &mut Reader<'_>, view: &View<'_>, key: &Key, path: &Path) {
    let wrong = match reader.content(path) {
        // Longer than any value: a system's whole bundle.
        Err(SourceError::TooLong) => None,
        Ok(text) if text.contains(PEM) => None,
        Ok(_) | Err(SourceError::NotText) => {
            Some(format!("has no certificate in PEM in it, which begins with {PEM}; name another one"))
        }
        Err(error @ (SourceError::Unset | SourceError::Unreadable(_))) => {
            Some(format!("{error}; create it, or let the daemon's user read it"))
        }
    };
    if let Some(why) = wrong {
        reader.faults.wrong(view.place(key), format!("`{}`: the file {why}", key.name));
    }
}

/// A heartbeat is at most so slow, and its deadline neither too near nor too far.
fn refuse_hasty_beats(reader: &mut Reader<'_>, view: &View<'_>, plan: &PostgresPlan) {
    let (beat, deadline) = (&keys::HEARTBEAT, &keys::HEARTBEAT_DEADLINE);
    if plan.heartbeat > HEARTBEAT_MAX {
        let message = format!("`{}` is too long; \"1s\" is the most", beat.name);
        reader.faults.wrong(view.place(beat), message);
    } else if plan.heartbeat_deadline < plan.heartbeat * HEARTBEATS_MIN {
        let place = if view.node(deadline).is_some() { deadline } else { beat };
        let message = format!(
            "`{}` ({}) is less than twice `{}` ({}), so that one late answer would be a server's end; \
             write at least {} for it",
            deadline.name,
            spoken(plan.heartbeat_deadline),
            beat.name,
            spoken(plan.heartbeat),
            spoken(plan.heartbeat * HEARTBEATS_MIN)
        );
        reader.faults.wrong(view.place(place), message);
    }
    if plan.heartbeat_deadline > DEADLINE_MAX {
        let message = format!("`{}` is too long; \"60s\" is the most", deadline.name);
        reader.faults.wrong(view.place(deadline), message);
    }
}
