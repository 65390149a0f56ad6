//! Every route, and what a caller must be for it. What is not here answers nobody.
//!
//! To add a route: one line below, and `.route(…)` in the router. A handler that answers about several pools takes
//! [`super::Identity`] and leaves out what [`super::Identity::sees`] does not; one whose path has `{pool}` needs not, since
//! that pool has been looked at by then. `tests/access.rs` wants a line for it too.

use crate::model::AccessRole;

/// What a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anybody who can connect.
    Open,
    /// A viewer; over loopback and Unix sockets also whoever presents nothing.
    View,
    /// The same, and one who is not kept to some pools: what is answered is of all.
    ViewAll,
    /// An operator. It is a change.
    Operate,
    /// An admin. It is a change.
    Administer,
}

impl Need {
    /// The least role that will do; none if no role is asked for.
    #[must_use]
    pub const fn role(self) -> Option<AccessRole> {
        match self {
            Self::Open => None,
            Self::View | Self::ViewAll => Some(AccessRole::Viewer),
            Self::Operate => Some(AccessRole::Operator),
            Self::Administer => Some(AccessRole::Admin),
        }
    }

    /// Whether something may be changed by it.
    #[must_use]
    pub const fn is_change(self) -> bool {
        matches!(self, Self::Operate | Self::Administer)
    }
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The method; `GET` is `HEAD` too.
    pub method: &'static str,
    /// The path, with the names of its parts in braces.
    pub path: &'static str,
    /// What a caller must be.
    pub need: Need,
    /// The word for it in the audit trail, if it is a change; the same whether it is granted or refused.
    pub action: &'static str,
}

const fn route(method: &'static str, path: &'static str, need: Need) -> Route {
    Route { method, path, need, action: "" }
}

const fn change(method: &'static str, path: &'static str, need: Need, action: &'static str) -> Route {
    Route { method, path, need, action }
}

/// Every route.
pub const ROUTES: &[Route] = &[
    route("GET", "/healthz", Need::Open),
    route("GET", "/readyz", Need::Open),
    route("GET", "/metrics", Need::ViewAll),
    route("GET", "/", Need::View),
    route("GET", "/dashboard/{file}", Need::View),
    route("GET", "/api/v1/openapi.json", Need::Open),
    route("GET", "/api/v1/listeners", Need::View),
    route("GET", "/api/v1/pools", Need::View),
    route("GET", "/api/v1/pools/{pool}", Need::View),
    route("GET", "/api/v1/pools/{pool}/explain", Need::View),
    route("GET", "/api/v1/pools/{pool}/pick", Need::View),
    route("POST", "/api/v1/pools/{pool}/evaluate", Need::View),
    route("GET", "/api/v1/pools/{pool}/events", Need::View),
    route("GET", "/api/v1/events", Need::View),
    route("GET", "/api/v1/events/stream", Need::View),
    route("GET", "/api/v1/sessions", Need::View),
    change("DELETE", "/api/v1/sessions/{id}", Need::Operate, "session.close"),
    change("POST", "/api/v1/pools/{pool}/failover", Need::Administer, "pool.failover"),
    change("POST", "/api/v1/pools/{pool}/failback", Need::Administer, "pool.failback"),
    change("POST", "/api/v1/pools/{pool}/pause", Need::Operate, "pool.pause"),
    change("POST", "/api/v1/pools/{pool}/resume", Need::Operate, "pool.resume"),
    change("POST", "/api/v1/pools/{pool}/reset", Need::Operate, "reset"),
    change("POST", "/api/v1/pools/{pool}/check", Need::Operate, "probe"),
    route("GET", "/api/v1/pools/{pool}/failover-config", Need::View),
    change("PATCH", "/api/v1/pools/{pool}/failover-config", Need::Administer, "failover_config.change"),
    change("POST", "/api/v1/pools/{pool}/backends", Need::Administer, "backend.register"),
    change("PATCH", "/api/v1/pools/{pool}/backends/{backend}", Need::Administer, "backend.change"),
    change("DELETE", "/api/v1/pools/{pool}/backends/{backend}", Need::Administer, "backend.remove"),
    change("PUT", "/api/v1/pools/{pool}/backends/{backend}/health", Need::Operate, "backend.health"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/failures", Need::Operate, "backend.failure"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/successes", Need::Operate, "backend.success"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/reset", Need::Operate, "reset"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/check", Need::Operate, "probe"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/drain", Need::Operate, "backend.drain"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/ready", Need::Operate, "backend.ready"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/maintenance", Need::Operate, "backend.maintenance"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/start", Need::Operate, "tunnel.start"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/stop", Need::Operate, "tunnel.stop"),
    change("POST", "/api/v1/pools/{pool}/backends/{backend}/tunnel/restart", Need::Operate, "tunnel.restart"),
    route("GET", "/api/v1/pools/{pool}/backends/{backend}/tunnel/logs", Need::View),
    route("GET", "/api/v1/pools/{pool}/backends/{backend}/tunnel/explain", Need::View),
];

/// What the table says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// This is the route.
    Route(&'static Route),
    /// The path is there, the method is not.
    OtherMethod,
    /// Nothing.
    Nothing,
}

/// The row for `method` at the router's `path`.
pub(super) fn find(method: &str, path: &str) -> Found {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut at_path = ROUTES.iter().filter(|route| route.path == path).peekable();
    if at_path.peek().is_none() {
        return Found::Nothing;
    }
    at_path.find(|route| route.method == method).map_or(Found::OtherMethod, Found::Route)
}

/// The methods that `path` takes, for an `Allow` header.
pub(super) fn methods(path: &str) -> String {
    let at_path = ROUTES.iter().filter(|route| route.path == path);
    at_path.map(|route| if route.method == "GET" { "GET, HEAD" } else { route.method }).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Found, Need, ROUTES, find, methods};

    #[test]
    fn no_route_stands_twice_and_whatever_is_not_there_is_nothing() {
        for (at, route) in ROUTES.iter().enumerate() {
            let same = |other: &&super::Route| (other.method, other.path) == (route.method, route.path);
            assert_eq!(ROUTES.iter().position(|other| same(&other)), Some(at), "{route:?}");
            assert_eq!(find(route.method, route.path), Found::Route(route));
        }
        assert_eq!(find("GET", "/api/v1/secrets"), Found::Nothing);
        assert_eq!(find("OPTIONS", "/healthz"), Found::OtherMethod);
        assert_eq!(methods("/api/v1/pools/{pool}/failover-config"), "GET, HEAD, PATCH");
    }

    #[test]
    fn whatever_is_no_get_is_a_change_but_for_a_question() {
        for route in ROUTES {
            let asks = route.method == "GET" || route.path.ends_with("/evaluate");
            assert_eq!(route.need.is_change(), !asks, "{route:?}");
            assert_eq!(route.action.is_empty(), asks, "{route:?}");
            let is_open = ["/healthz", "/readyz", "/api/v1/openapi.json"].contains(&route.path);
            assert_eq!(route.need == Need::Open, is_open, "{route:?}");
        }
    }
}
