//! Why a token is refused, in words and as a label.

use jsonwebtoken::errors::{Error as JwtError, ErrorKind};

/// Why a token is refused. None of it holds any of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error(
        "no token: send it as `Authorization: Bearer`, `?access_token=` or cookie access_token"
    )]
    Missing,
    /// It is longer than allowed.
    #[error("the token has {0} bytes, at most {1} are accepted")]
    TooLarge(usize, usize),
    /// It is not a JWT.
    #[error("the token is not a JWT: {0}")]
    Malformed(&'static str),
    /// It is not signed.
    #[error("the token is not signed: alg none is not accepted")]
    Unsigned,
    /// It claims an algorithm that no configured key is for.
    #[error("the token is signed with an algorithm that no configured key is for")]
    Algorithm,
    /// No key has its `kid`.
    #[error("the token names a key (kid) that is not known here")]
    UnknownKey,
    /// The signature is not by any configured key.
    #[error("the token's signature is not valid")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    /// A claim that must be there is missing.
    #[error("the token has no claim {0}")]
    MissingClaim(String),
    /// A claim has a wrong form.
    #[error("the token's claim {0} has a wrong form")]
    WrongClaim(String),
    /// `iss` is not the configured one.
    #[error("the token is from another issuer (iss)")]
    Issuer,
    /// `aud` is not the configured one.
    #[error("the token is for another audience (aud)")]
    Audience,
    /// It names no usable user or grant.
    #[error("the token can't be used: {0}")]
    Claims(String),
    /// A ticket that is not known, was used, or is too old.
    #[error("the ticket is not known: it is good for one stream, within 30 seconds")]
    Ticket,
    /// It, or all of its user's tokens of its time, were revoked.
    #[error("the token has been revoked")]
    Revoked,
    /// The keys could not be fetched yet.
    #[error("the keys to verify tokens with could not be fetched: {0}")]
    KeysUnavailable(String),
    /// What is revoked could not be read yet.
    #[error(
        "which tokens are revoked is not known yet on this instance, so that it accepts none: try again"
    )]
    RevocationsUnknown,
}

impl TokenError {
    /// All labels that [`TokenError::cause`] can give.
    pub const CAUSES: [&str; 18] = [
        "missing",
        "too_large",
        "malformed",
        "unsigned",
        "algorithm",
        "unknown_key",
        "signature",
        "expired",
        "not_yet_valid",
        "missing_claim",
        "wrong_claim",
        "issuer",
        "audience",
        "claims",
        "ticket",
        "revoked",
        "keys_unavailable",
        "revocations_unknown",
    ];

    /// A label from a closed list.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLarge(..) => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Unsigned => "unsigned",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::MissingClaim(_) => "missing_claim",
            Self::WrongClaim(_) => "wrong_claim",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims(_) => "claims",
            Self::Ticket => "ticket",
            Self::Revoked => "revoked",
            Self::KeysUnavailable(_) => "keys_unavailable",
            Self::RevocationsUnknown => "revocations_unknown",
        }
    }

    /// Whether what was shown was never good for anything. A token by a key that is not known may be that of an honest
    /// client, from before the key was changed, which has to be told that it needs another one.
    #[must_use]
    pub fn is_junk(&self) -> bool {
        matches!(
            self,
            Self::TooLarge(..)
                | Self::Malformed(_)
                | Self::Unsigned
                | Self::Algorithm
                | Self::Ticket
        )
    }

    /// Whether it is this instance that can't judge the token for the moment, rather than the token that is wrong.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::KeysUnavailable(_) | Self::RevocationsUnknown)
    }
}

/// The library's reasons.
pub(super) fn refusal(error: &JwtError) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::MissingClaim(claim.clone()),
        ErrorKind::InvalidClaimFormat(claim) => TokenError::WrongClaim(claim.clone()),
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::Base64(_) => TokenError::Malformed("it is not base64url throughout"),
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            TokenError::Malformed("its header or claims are not a JSON object")
        }
        // Whatever else the library finds wrong, the token is not vouched for.
        _ => TokenError::Signature,
    }
}
