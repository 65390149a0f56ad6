//! The dashboard: files that are in the program, and the headers that keep a browser from anything else. What the page
//! shows it asks of the API like any other caller; nothing here knows of pools.

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Admin;
use super::problem::Problem;
use super::tag::{hash, is_known};

/// What the page may do: load its own files, ask its own server, and nothing else. Text becomes markup nowhere, and the
/// browser holds the scripts to it (`require-trusted-types-for`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Ask each time whether it is still the same: after an update of the daemon no file of the old one is used.
const CACHING: &str = "no-cache";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const fn file(name: &'static str, kind: &'static str, bytes: &'static [u8]) -> File {
    File { name, kind, bytes }
}

const INDEX: File = file("index.html", "text/html; charset=utf-8", include_bytes!("index.html"));

/// What the page loads, below `/dashboard/`.
const FILES: &[File] = &[
    file("style.css", "text/css; charset=utf-8", include_bytes!("style.css")),
    file("icon.svg", "image/svg+xml", include_bytes!("icon.svg")),
    file("app.js", SCRIPT, include_bytes!("app.js")),
    file("api.js", SCRIPT, include_bytes!("api.js")),
    file("dom.js", SCRIPT, include_bytes!("dom.js")),
    file("explain.js", SCRIPT, include_bytes!("explain.js")),
    file("orders.js", SCRIPT, include_bytes!("orders.js")),
    file("picture.js", SCRIPT, include_bytes!("picture.js")),
    file("timeline.js", SCRIPT, include_bytes!("timeline.js")),
    file("tunnel.js", SCRIPT, include_bytes!("tunnel.js")),
    file("words.js", SCRIPT, include_bytes!("words.js")),
];

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/", get(index)).route("/dashboard/{file}", get(part))
}

/// `GET /`.
async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

/// `GET /dashboard/{file}`.
async fn part(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| name.as_ref().is_ok_and(|Path(name)| file.name == name)) {
        Some(file) => answer(file, &headers),
        None => Problem::NotFound.into_response(),
    }
}

fn answer(file: &File, asked: &HeaderMap) -> Response {
    let tag = tag(file.bytes);
    let guards: [(HeaderName, &str); 5] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, CACHING),
    ];
    if is_known(asked, &tag) {
        return (StatusCode::NOT_MODIFIED, guards, [(ETAG, tag)]).into_response();
    }
    (guards, [(CONTENT_TYPE, file.kind)], [(ETAG, tag)], file.bytes).into_response()
}

/// The entity tag of a file that is `bytes`.
fn tag(bytes: &[u8]) -> String {
    format!("\"{:016x}\"", hash(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use axum::http::header::{CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH};
    use axum::http::{HeaderMap, StatusCode};

    use super::{FILES, INDEX, answer, tag};

    #[test]
    fn every_file_of_the_page_is_served_and_every_name_in_it_is_a_file() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard");
        let on_disk = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let on_disk: BTreeSet<String> = on_disk.filter(|name| name != "mod.rs" && name != "index.html").collect();
        let served: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(served, on_disk);
        for file in FILES.iter().chain([&INDEX]) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for (opening, closing) in [("from \"./", '"'), ("href=\"dashboard/", '"'), ("src=\"dashboard/", '"')] {
                for part in text.split(opening).skip(1) {
                    let (name, _) = part.split_once(closing).unwrap();
                    assert!(served.contains(name), "{}: {name}", file.name);
                }
            }
        }
    }

    #[test]
    fn nothing_of_the_page_names_another_host_or_makes_markup_of_text() {
        // SVG is told from HTML by this name, which nobody fetches.
        const NAMESPACE: &str = "http://www.w3.org/2000/svg";
        for file in FILES.iter().chain([&INDEX]) {
            let text = std::str::from_utf8(file.bytes).unwrap().replace(NAMESPACE, "");
            let no = ["http://", "https://", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"];
            for word in no.into_iter().chain(["eval(", "new Function", " style=\"", "onclick=", "<script>", "<style"]) {
                assert!(!text.contains(word), "{}: {word}", file.name);
            }
        }
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let mut asked = HeaderMap::new();
        let whole = answer(&INDEX, &asked);
        assert_eq!(whole.status(), StatusCode::OK);
        assert_eq!(whole.headers()[ETAG], tag(INDEX.bytes));
        for known in [tag(INDEX.bytes), format!("\"0\", W/{}", tag(INDEX.bytes)), "*".to_owned()] {
            asked.insert(IF_NONE_MATCH, known.parse().unwrap());
            let answer = answer(&INDEX, &asked);
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert!(answer.headers().contains_key(CONTENT_SECURITY_POLICY));
        }
        asked.insert(IF_NONE_MATCH, tag(FILES[0].bytes).parse().unwrap());
        assert_eq!(answer(&INDEX, &asked).status(), StatusCode::OK);
    }
}
