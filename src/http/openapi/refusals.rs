//! The answers that many endpoints have in common: problems, by status. Handlers name groups of them.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{
    ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, path::Operation,
};
use utoipa::{IntoResponses, Modify, ToSchema};

use crate::http::error::Problem;

/// A status, the name of its answer, what it means, and the header that comes with it.
struct Refusal {
    status: u16,
    name: &'static str,
    means: &'static str,
    header: Option<(&'static str, &'static str, Type)>,
}

const RETRY_AFTER: Option<(&str, &str, Type)> = Some((
    "Retry-After",
    "After how many seconds to ask again",
    Type::Integer,
));

const REFUSALS: [Refusal; 13] = [
    Refusal {
        status: 401,
        name: "Unauthorized",
        means: "The token is missing, or was refused; the header says why.",
        header: Some((
            "WWW-Authenticate",
            "`Bearer` with `error` and `error_description` (RFC 6750)",
            Type::String,
        )),
    },
    Refusal {
        status: 403,
        name: "Forbidden",
        means: "The token does not allow this; `detail` names the channel or the claim.",
        header: None,
    },
    Refusal {
        status: 404,
        name: "NotFound",
        means: "There is nothing of that name, or it is not for this token to know.",
        header: None,
    },
    Refusal {
        status: 405,
        name: "MethodNotAllowed",
        means: "The address exists, the method does not.",
        header: Some(("Allow", "The methods that there are", Type::String)),
    },
    Refusal {
        status: 408,
        name: "SlowBody",
        means: "The body has not come in time.",
        header: None,
    },
    Refusal {
        status: 409,
        name: "Conflict",
        means: "Another message has the id, or there are as many acknowledgements as are kept.",
        header: None,
    },
    Refusal {
        status: 413,
        name: "TooLarge",
        means: "The body, or a message in it, is larger than accepted.",
        header: None,
    },
    Refusal {
        status: 414,
        name: "LongUri",
        means: "The address is longer than accepted.",
        header: None,
    },
    Refusal {
        status: 422,
        name: "Invalid",
        means: "A part of the request can't be used; `field` says which, `detail` what would be right.",
        header: None,
    },
    Refusal {
        status: 429,
        name: "TooMany",
        means: "More streams or messages than this user, or this address, may have, or too many bad tokens from it.",
        header: RETRY_AFTER,
    },
    Refusal {
        status: 431,
        name: "LongHeaders",
        means: "The headers are larger than accepted.",
        header: None,
    },
    Refusal {
        status: 501,
        name: "NotInstalled",
        means: "The database does not have the tables that this takes; `notify-server migrate` makes them.",
        header: None,
    },
    Refusal {
        status: 503,
        name: "Unavailable",
        means: "The server can't do this now: the bus, the database or the keys are away, which tokens are revoked or which chats the user has can't be found out, or it is full, short of memory or stopping.",
        header: RETRY_AFTER,
    },
];

/// Adds the answers that handlers refer to, and their schema.
pub(super) struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let name = Problem::name().into_owned();
        components.schemas.insert(
            name.clone(),
            <Problem<'static> as utoipa::PartialSchema>::schema(),
        );
        for refusal in &REFUSALS {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(name.as_str())))
                .build();
            let mut response = ResponseBuilder::new()
                .description(refusal.means)
                .content("application/problem+json", content);
            if let Some((name, means, kind)) = &refusal.header {
                let schema = ObjectBuilder::new().schema_type(kind.clone());
                let header = HeaderBuilder::new()
                    .schema(Some(schema))
                    .description(Some(*means));
                response = response.header(*name, header.build());
            }
            components
                .responses
                .insert(refusal.name.to_owned(), response.build().into());
        }
    }
}

fn refer(statuses: &[u16]) -> BTreeMap<String, RefOr<Response>> {
    let named = REFUSALS
        .iter()
        .filter(|refusal| statuses.contains(&refusal.status));
    named
        .map(|refusal| {
            let answer = RefOr::Ref(Ref::from_response_name(refusal.name));
            (refusal.status.to_string(), answer)
        })
        .collect()
}

/// Whether an operation asks for a token.
pub(super) fn asks_for_a_token(operation: &Operation) -> bool {
    operation.responses.responses.contains_key("401")
}

macro_rules! groups {
    ($($(#[$doc:meta])* $name:ident: $statuses:expr;)*) => {$(
        $(#[$doc])*
        pub(in crate::http) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                refer(&$statuses)
            }
        }
    )*};
}

groups! {
    /// What whoever asks for a token can answer.
    ForToken: [401, 403, 414, 422, 429, 431, 503];
    /// What whoever reads a body can answer.
    ForBody: [408, 413, 422];
    /// What whoever counts what users do can answer.
    ForRate: [429];
    /// What is there in development mode only can answer.
    ForDevelopment: [403, 404, 503];
    /// The tables may not be there.
    ForTables: [501];
    /// There may be no such thing.
    ForUnknown: [404];
    /// There may be such a thing already.
    ForConflict: [409];
}
