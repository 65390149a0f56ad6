//! What would become of a pool after an order, by what the daemon says of it now: whether nothing would serve. Nothing is asked
//! here, and nothing decided: the daemon carries every order out that it may.

use serde_json::Value;

use super::table::wrapped_to;
use super::views::{items, names, text};

/// The longest line of a warning, in characters.
const LINE_MAX: usize = 100;

/// How the daemon ends the reason of a backend that may not take over by itself.
const KEPT: &str = "automatic failover is off";

/// What is to be warned of before `backend` of `pool` (as the API shows it) is drained or maintained.
pub(super) fn without(pool: &Value, backend: &str) -> Option<String> {
    without_all(pool, &[backend.to_owned()])
}

/// The same before all of these are taken out.
pub(super) fn without_all(pool: &Value, backends: &[String]) -> Option<String> {
    let goes = |name: &Value| backends.iter().any(|backend| name == backend);
    let active = items(&pool["active"]);
    if active.is_empty() || !active.iter().all(goes) {
        return None;
    }
    let (name, backend) = (text(pool, "name"), names(pool, "active"));
    let takes_over = |one: &&Value| {
        !goes(&one["name"])
            && one["eligible"] == true
            && one["role"] != "standby"
            && !one["reason"].as_str().is_some_and(|reason| reason.ends_with(KEPT))
    };
    if let Some(pinned) = pool["pinned"].as_str() {
        return Some(format!(
            "nothing will serve {name} after this: it is pinned to {pinned} until `changeover failback {name}`"
        ));
    }
    if items(&pool["backends"]).iter().any(|one| takes_over(&one)) {
        return None;
    }
    Some(match pool["kind"] == "postgres" {
        true => format!("nobody can write to {name} after this, until a standby is promoted: {backend} is its primary"),
        false => {
            format!("nothing will serve {name} after this: no other backend is fit and may take over from {backend}")
        }
    })
}

/// What is to be warned of before `pool` fails over to `to`.
pub(super) fn moved(pool: &Value, to: Option<&str>) -> Option<String> {
    let (name, to) = (text(pool, "name"), to?);
    // Of others the daemon moves to none that cannot serve at once.
    let is_target = |one: &&Value| one["name"] == to && one["role"] == "standby";
    items(&pool["backends"]).iter().find(is_target)?;
    let now = if items(&pool["active"]).is_empty() { "nobody".to_owned() } else { names(pool, "active") };
    Some(format!(
        "nobody can write to {name} after this, until {to} is promoted: it is a standby, and {now} serves now"
    ))
}

/// A warning as it stands on standard error.
pub(super) fn lines(warning: &str) -> String {
    wrapped_to(&format!("changeover: {warning}"), LINE_MAX).join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{moved, without, without_all};

    fn backend(name: &str, is_active: bool, is_eligible: bool, role: &Value, reason: &str) -> Value {
        json!({"name": name, "active": is_active, "eligible": is_eligible, "role": role, "reason": reason})
    }

    fn pool(others: &[Value]) -> Value {
        let all = [&[backend("a", true, true, &Value::Null, "")], others].concat();
        json!({"name": "orders", "kind": "tcp", "active": ["a"], "pinned": null, "backends": all})
    }

    #[test]
    fn whoever_takes_the_last_one_out_is_told() {
        let fit = backend("b", false, true, &Value::Null, "standby: priority 1 serves");
        let dead = backend("c", false, false, &Value::Null, "dead: refused");
        let kept = backend("d", false, true, &Value::Null, "standby: automatic failover is off");
        assert_eq!(without(&pool(&[fit.clone(), dead.clone()]), "a"), None);
        assert_eq!(without(&pool(std::slice::from_ref(&dead)), "c"), None, "it serves nobody now");
        for others in [&[][..], &[dead], &[kept]] {
            let told = without(&pool(others), "a").unwrap();
            assert!(told.contains("nothing will serve orders after this"), "{told}");
        }
        let mut shared = pool(&[]);
        shared["active"] = json!(["a", "b"]);
        assert_eq!(without(&shared, "a"), None);
        let both = ["a".to_owned(), "b".to_owned()];
        assert!(without_all(&shared, &both).unwrap().ends_with("may take over from a,b"));
        assert!(without_all(&pool(std::slice::from_ref(&fit)), &both).is_some(), "b goes, too");
        assert_eq!(without_all(&pool(std::slice::from_ref(&fit)), &both[..1]), None);
        let mut down = pool(&[]);
        down["active"] = json!([]);
        assert_eq!(without(&down, "a"), None, "nothing serves before either");
        let mut pinned = pool(&[fit]);
        pinned["pinned"] = json!("a");
        assert!(without(&pinned, "a").unwrap().contains("`changeover failback orders`"));
    }

    #[test]
    fn whoever_leaves_a_cluster_without_a_primary_is_told() {
        let standby = backend("b", false, true, &json!("standby"), "standby");
        let mut cluster = pool(&[standby]);
        cluster["kind"] = json!("postgres");
        cluster["backends"][0]["role"] = json!("primary");
        assert!(without(&cluster, "a").unwrap().contains("until a standby is promoted: a is its primary"));
        assert_eq!(without(&cluster, "b"), None);
        assert!(moved(&cluster, Some("b")).unwrap().contains("until b is promoted"));
        assert_eq!((moved(&cluster, Some("a")), moved(&cluster, None)), (None, None));
        assert_eq!(moved(&pool(&[]), Some("a")), None, "the daemon moves to none that is not fit");
    }
}
