//! The pages that the binary carries: a chat, a diagnosis for who sees no data, an overview for administrators, and
//! the description of the interface. They are text that the binary was built with; what they show they ask the server for, as any
//! client does.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use actix_web::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::ServerConfig;
use super::config::SignIn;
use super::cors::Origins;
use super::development::{self, Development};
use super::error::ApiError;
use super::openapi::ForUnknown;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// What is around every page: the head, and the header with the ways to the others.
const FRAME: &str = include_str!("../../web/frame.html");
/// In the file of a page, between what it adds to the header and the rest.
const HEADER_END: &str = "<!-- The header ends here. -->\n";

/// What streams carry, and what is published on NATS.
const ASYNCAPI: &str = include_str!("../../docs/asyncapi.yaml");

/// The asset that is made from the configuration.
const SETTINGS: &str = "settings.json";

/// A page: the files `web/NAME.{html,css,js}` in the frame.
struct Page {
    name: &'static str,
    /// By which the frame leads to it.
    path: &'static str,
    title: &'static str,
    description: &'static str,
    content: &'static str,
}

const PAGES: [Page; 4] = [
    Page {
        name: "chat",
        path: "/",
        title: "Chat · notify-server",
        description: "A small chat over one user's notify-server event stream.",
        content: include_str!("../../web/chat.html"),
    },
    Page {
        name: "diagnostic",
        path: "/diagnostic",
        title: "Diagnosis · notify-server",
        description: "Finds out why a browser sees no events of notify-server.",
        content: include_str!("../../web/diagnostic.html"),
    },
    Page {
        name: "admin",
        path: "/admin",
        title: "Admin · notify-server",
        description: "Who is connected to notify-server, and how it is doing.",
        content: include_str!("../../web/admin.html"),
    },
    Page {
        name: "docs",
        path: "/docs",
        title: "API · notify-server",
        description: "The HTTP interface of this notify-server.",
        content: include_str!("../../web/docs.html"),
    },
];

impl Page {
    fn html(&self) -> String {
        let link = format!("href=\"{}\"", self.path);
        let (tools, body) = self
            .content
            .split_once(HEADER_END)
            .unwrap_or(("", self.content));
        FRAME
            .replace(&link, &format!("{link} aria-current=\"page\""))
            .replace("{{name}}", self.name)
            .replace("{{title}}", self.title)
            .replace("{{description}}", self.description)
            .replace("{{tools}}\n", tools)
            .replace("{{body}}\n", body)
    }
}

/// Name, media type and content of a file in `web/`.
macro_rules! asset {
    ($name:literal, $media_type:expr) => {
        (
            $name,
            $media_type,
            include_bytes!(concat!("../../web/", $name)).as_slice(),
        )
    };
}

/// Name, media type and content.
const ASSETS: [(&str, &str, &[u8]); 35] = [
    asset!("style.css", STYLE),
    asset!("chat.css", STYLE),
    asset!("diagnostic.css", STYLE),
    asset!("admin.css", STYLE),
    asset!("dom.js", SCRIPT),
    asset!("i18n.js", SCRIPT),
    asset!("words.js", SCRIPT),
    asset!("words-chat.js", SCRIPT),
    asset!("words-diagnostic.js", SCRIPT),
    asset!("words-admin.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("client.js", SCRIPT),
    asset!("connection.js", SCRIPT),
    asset!("sign-in.js", SCRIPT),
    asset!("endpoint.js", SCRIPT),
    asset!("chat.js", SCRIPT),
    asset!("view.js", SCRIPT),
    asset!("media.js", SCRIPT),
    asset!("picture.js", SCRIPT),
    asset!("messages.js", SCRIPT),
    asset!("diagnostic.js", SCRIPT),
    asset!("checks.js", SCRIPT),
    asset!("checks-stream.js", SCRIPT),
    asset!("finding.js", SCRIPT),
    asset!("probe.js", SCRIPT),
    asset!("admin.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("docs.js", SCRIPT),
    asset!("markdown.js", SCRIPT),
    asset!("docs.css", STYLE),
    asset!("icon.svg", "image/svg+xml"),
    asset!("sample.svg", "image/svg+xml"),
    asset!("sample.wav", "audio/wav"),
    asset!("sample.webm", "video/webm"),
    asset!("sample.txt", "text/plain; charset=utf-8"),
];

/// Whether the pages are served, and what they may ask besides this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    served: bool,
    policy: String,
    sign_in: String,
    origins: Origins,
    /// By name.
    pages: HashMap<&'static str, Bytes>,
}

/// What the pages have to know.
#[derive(Debug, Serialize)]
struct Settings<'a> {
    /// Where users sign in; empty where tokens are pasted.
    sign_in: &'a str,
    /// Whether there are demo users, and tokens for the asking.
    development: bool,
    /// Whether pages of the origin that was asked about may read from this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_allowed: Option<bool>,
    version: &'static str,
}

/// What the diagnosis asks about.
#[derive(Debug, Deserialize)]
pub(super) struct About {
    origin: Option<String>,
}

impl Pages {
    /// As configured.
    #[must_use]
    pub fn new(config: &ServerConfig, origins: Origins) -> Self {
        // It was validated; what can't be understood opens nothing.
        let origin = match config.sign_in() {
            Ok(SignIn::Elsewhere(origin)) => Some(origin),
            _ => None,
        };
        Self(Arc::new(Inner {
            served: config.pages,
            policy: policy(origin.as_deref()),
            sign_in: config.sign_in.clone(),
            origins,
            pages: PAGES
                .iter()
                .map(|page| (page.name, page.html().into()))
                .collect(),
        }))
    }

    fn page(&self, name: &str) -> Result<HttpResponse, ApiError> {
        let html = self.0.pages.get(name).ok_or(ApiError::NotFound)?;
        Ok(self.answer()?.content_type(HTML).body(html.clone()))
    }

    fn settings(&self, development: bool, about: &About) -> Settings<'_> {
        let inner = self.0.as_ref();
        let origin = about.origin.as_deref();
        Settings {
            sign_in: &inner.sign_in,
            development,
            origin_allowed: origin.map(|origin| inner.origins.allow(origin)),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn answer(&self) -> Result<actix_web::HttpResponseBuilder, ApiError> {
        if !self.0.served {
            return Err(ApiError::NotFound);
        }
        let mut answer = HttpResponse::Ok();
        answer
            .insert_header((CACHE_CONTROL, "no-cache"))
            .insert_header((CONTENT_SECURITY_POLICY, self.0.policy.as_str()))
            // A token in the address must not travel to a linked page.
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((X_FRAME_OPTIONS, "DENY"));
        Ok(answer)
    }
}

/// Nothing from anywhere else, nothing inline, and no text that becomes markup. Only where users sign in may
/// be elsewhere.
fn policy(sign_in: Option<&str>) -> String {
    let also = sign_in.map_or(String::new(), |origin| format!(" {origin}"));
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
         media-src 'self' blob:; connect-src 'self'{also}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

/// A handler that answers with a page; what stands before it becomes its description in the document.
macro_rules! page {
    ($(#[$summary:meta])+ $handler:ident, $path:literal, $name:literal, $says:literal) => {
        $(#[$summary])+
        #[utoipa::path(
            get,
            path = $path,
            tag = "Pages",
            responses((status = 200, description = $says, body = String, content_type = "text/html"), ForUnknown),
        )]
        pub(super) async fn $handler(pages: Data<Pages>) -> Result<HttpResponse, ApiError> {
            pages.page($name)
        }
    };
}

page!(
    /// The chat
    index, "/", "chat", "A page that shows a user's stream"
);
page!(
    /// The chat, by another name
    sse_demo, "/sse-demo", "chat", "The same page as at `/`"
);
page!(
    /// The diagnosis
    diagnostic, "/diagnostic", "diagnostic", "A page that finds out why a browser sees no events"
);
page!(
    /// The overview for administrators
    admin,
    "/admin",
    "admin",
    "A page that shows who is connected; what it shows takes the claim `notify.admin`"
);
page!(
    /// The page that shows this document
    docs, "/docs", "docs", "This document, to read"
);

/// What streams carry
///
/// And what is published on NATS: AsyncAPI 3.0.
#[utoipa::path(
    get,
    path = "/asyncapi.yaml",
    operation_id = "asyncapi",
    tag = "Pages",
    responses((status = 200, description = "AsyncAPI 3.0", body = serde_json::Map<String, serde_json::Value>, content_type = "application/yaml")),
)]
pub(super) async fn asyncapi() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/yaml")
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(ASYNCAPI)
}

/// What the pages are made of
#[utoipa::path(
    get,
    path = "/assets/{name}",
    operation_id = "asset",
    tag = "Pages",
    params(
        ("name" = String, Path, description = "A file", example = "style.css"),
        ("origin" = Option<String>, Query, description = "For `settings.json`: whether pages of this origin may read from this server"),
    ),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/css"),
            (String = "text/javascript"),
            (String = "text/plain"),
            (serde_json::Value = "application/json"),
            (String = "image/svg+xml"),
            (String = "audio/wav"),
            (String = "video/webm"),
        )),
        ForUnknown,
    ),
)]
pub(super) async fn asset(
    request: HttpRequest,
    name: Path<String>,
    about: Query<About>,
    pages: Data<Pages>,
    development: Data<Option<Development>>,
) -> Result<HttpResponse, ApiError> {
    if *name == SETTINGS {
        let development = development::allowed(&request, &development).is_ok();
        let settings = pages.settings(development, &about);
        return Ok(pages.answer()?.json(settings));
    }
    let found = ASSETS.iter().find(|(asset, ..)| *asset == name.as_str());
    let (_, media_type, content) = found.ok_or(ApiError::NotFound)?;
    let mut answer = pages.answer()?;
    Ok(answer.content_type(*media_type).body(*content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fill_the_frame() {
        for page in &PAGES {
            let html = page.html();
            assert!(page.content.contains(HEADER_END), "{}", page.name);
            assert!(!html.contains("{{") && !html.contains("}}"), "{html}");
            assert_eq!(html.matches("aria-current=\"page\"").count(), 1, "{html}");
            for end in ["css", "js"] {
                let asset = format!("{}.{end}", page.name);
                assert!(html.contains(&format!("/assets/{asset}\"")), "{asset}");
                assert!(ASSETS.iter().any(|(name, ..)| *name == asset), "{asset}");
            }
        }
    }
}
