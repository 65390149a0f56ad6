//! `[webhooks.NAME]`: whom events are posted to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{EVENT_KINDS, PoolName, Secret, WebhookName, WebhookPlan, WebhookUrl, is_of_kind};

use super::key::{Key, Part};
use super::keys;
use super::listeners::no_such_pool;
use super::pools::PoolDraft;
use super::postgres::refuse_no_certificates;
use super::read::Reader;
use super::view::View;
use super::wording::{nearest, quote};

/// The most webhooks: each has a connection and a page of the history while it posts.
const WEBHOOKS_MAX: usize = 64;
/// The most kinds or pools of one.
const NAMES_MAX: usize = 1000;
/// The longest attempt.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What is posted if no kind is named.
const USUAL: &str = "pool.*";

/// Every webhook of the file, by name.
pub(super) fn all(
    reader: &mut Reader<'_>,
    root: &View<'_>,
    pools: &BTreeMap<PoolName, PoolDraft>,
) -> BTreeMap<WebhookName, Arc<WebhookPlan>> {
    let named = reader.tables(root, &keys::WEBHOOKS, Part::Webhook, WEBHOOKS_MAX);
    let plans = named.into_iter().filter_map(|entry| webhook(reader, entry.name, &entry.view, pools));
    plans.map(|plan| (plan.name.clone(), Arc::new(plan))).collect()
}

fn webhook(
    reader: &mut Reader<'_>,
    name: &str,
    view: &View<'_>,
    pools: &BTreeMap<PoolName, PoolDraft>,
) -> Option<WebhookPlan> {
    let url = url(reader, view);
    let mut kinds = names(reader, view, &keys::KINDS, refuse_unknown);
    if kinds.is_empty() {
        kinds.push(USUAL.to_owned());
    }
    let only = names(reader, view, &keys::WEBHOOK_POOLS, |pool, is_literal| {
        (!pools.contains_key(pool)).then(|| no_such_pool(&keys::WEBHOOK_POOLS, pool, is_literal, pools))
    });
    let timeout: Duration = reader.get(view, &keys::WEBHOOK_TIMEOUT);
    if timeout > TIMEOUT_MAX {
        let message = format!("`{}` is too long; \"60s\" is the most", keys::WEBHOOK_TIMEOUT.name);
        reader.faults.wrong(view.place(&keys::WEBHOOK_TIMEOUT), message);
    }
    let ca_file: Option<PathBuf> = reader.given(view, &keys::WEBHOOK_CA_FILE);
    if let Some(path) = &ca_file {
        let key = &keys::WEBHOOK_CA_FILE;
        if url.as_ref().is_some_and(|url| !url.is_tls) {
            let message =
                format!("`{}` is given, but the URL begins with http://; write https://, or leave it out", key.name);
            reader.faults.wrong(view.place(key), message);
        } else {
            refuse_no_certificates(reader, view, key, path);
        }
    }
    let plan = |url| WebhookPlan {
        name: WebhookName::from(name),
        url,
        kinds,
        pools: only.iter().map(|pool| PoolName::from(pool.as_str())).collect(),
        secret: reader.given(view, &keys::SECRET),
        format: reader.get(view, &keys::WEBHOOK_FORMAT),
        timeout,
        give_up_after: reader.get(view, &keys::GIVE_UP_AFTER),
        ca_file,
    };
    url.map(plan)
}

/// Where to, if it can be posted there.
fn url(reader: &mut Reader<'_>, view: &View<'_>) -> Option<WebhookUrl> {
    let key = &keys::URL;
    let text: Secret = reader.required(view, key)?;
    match text.expose().parse() {
        Ok(url) => Some(url),
        Err(why) => {
            // What stands in it may be a secret.
            reader.faults.wrong(view.place(key), format!("`{}`: the value (not shown) {why}", key.name));
            None
        }
    }
}

/// Why `kind` is none; one that stands elsewhere is not shown.
fn refuse_unknown(kind: &str, is_literal: bool) -> Option<String> {
    if EVENT_KINDS.iter().any(|known| is_of_kind(known, kind)) {
        return None;
    }
    let meant = match nearest(kind, EVENT_KINDS.iter().copied()) {
        Some(guess) => format!("did you mean \"{guess}\"?"),
        None => "the README has them all, such as \"pool.down\", or \"pool.*\" for all that begin so".to_owned(),
    };
    let shown = if is_literal { quote(kind) } else { "that stands there (not shown)".to_owned() };
    Some(format!("`{}`: no event is of the kind {shown}; {meant}", keys::KINDS.name))
}

/// The texts under `key`, none if it is absent; `refuse` says what is wrong with one, and is told whether it stands in the
/// file itself.
fn names(
    reader: &mut Reader<'_>,
    view: &View<'_>,
    key: &Key,
    refuse: impl Fn(&str, bool) -> Option<String>,
) -> Vec<String> {
    let mut names = Vec::new();
    for item in reader.list(view, key, NAMES_MAX, "entries") {
        let Some(name) = reader.convert::<String>(item, key) else { continue };
        match refuse(&name, item.get_ref().is_str()) {
            Some(message) => reader.faults.missing(item.span(), message),
            None => names.push(name),
        }
    }
    names
}
