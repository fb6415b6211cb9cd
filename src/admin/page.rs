//! `/`: how everything stands, in a browser. It has no build step and needs no network; its texts come from `/status`, and its
//! script puts them there as text and as nothing else, which the policy in its headers enforces once more.

use hyper::{
    Response,
    body::Bytes,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};

use super::body::Answer;

/// The files of the page: content type and text.
const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/page.html"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page/page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    ),
];

/// Nothing but the listener's own files, no script in the document, and no string ever becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    // After an update the new one is shown.
    (CACHE_CONTROL, "no-cache"),
];

/// Whether the page has a file there.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|(name, ..)| *name == path)
}

/// A file of the page.
pub(super) fn file(path: &str) -> Option<Response<Answer>> {
    let (_, kind, text) = FILES.iter().find(|(name, ..)| *name == path)?;
    let kind = HeaderValue::from_static(kind);
    let text = Bytes::from_static(text.as_bytes());
    let mut response = super::response(hyper::StatusCode::OK, kind, [text]);
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_nothing_in_it_could_run_but_its_script() {
        let [html, css, script] = FILES.map(|(.., text)| text);
        for (name, ..) in &FILES[1..] {
            let quoted = format!("\"{}\"", &name[1..]);
            assert_eq!(html.matches(&quoted).count(), 1, "{name}");
        }
        // Neither handlers nor styles within tags, which the policy forbids, nor anything from elsewhere.
        for bad in [" on", " style=", "<style", "http:", "https:", "//"] {
            let tags = html.split('<').skip(1).map(|tag| tag.split('>').next());
            assert!(!tags.flatten().any(|tag| tag.contains(bad)), "{bad}");
        }
        assert!(!css.contains("url(") && !css.contains("@import"));
        for bad in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
        ] {
            assert!(!script.contains(bad), "{bad}");
        }
    }

    #[test]
    fn every_file_has_the_policy() {
        for (path, kind, _) in FILES {
            let response = file(path).unwrap();
            let headers = response.headers();
            assert_eq!(headers["content-type"], kind);
            assert_eq!(headers["x-content-type-options"], "nosniff");
            let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
            assert!(!policy.contains("unsafe"));
        }
        assert!(file("/page").is_none());
    }
}
