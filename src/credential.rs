//! What a verified token leaves behind with whom it was shown for: enough to take back what it has
//! opened, and nothing that could be shown again. Pure.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The token that somebody was let in with, and the key that has signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The key.
    pub key: Mark,
    /// What the token is called, where it has a claim `jti`.
    pub id: Option<Mark>,
    /// What the signature is of.
    pub hash: Mark,
    /// The claim `iat`, in Unix seconds; 0 where there is none, as if it were as old as can be.
    pub issued_at: u64,
}

impl Credential {
    /// Whether a token is meant by this mark of its hash, or of its `jti`.
    #[must_use]
    pub fn goes_by(&self, mark: Mark) -> bool {
        self.hash == mark || self.id == Some(mark)
    }
}

/// The first half of a SHA-256, which tells things apart and says nothing about them. The same on every
/// instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(Uuid);

impl Mark {
    /// The mark of something of a kind.
    #[must_use]
    pub fn of(kind: &str, bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        // No kind has a line break, so that no two kinds have the same mark.
        context.update(kind.as_bytes());
        context.update(b"\n");
        context.update(bytes);
        Self::first_half(context.finish().as_ref())
    }

    /// The mark of what has this SHA-256, in hexadecimal digits; `None` where it is none.
    #[must_use]
    pub fn of_sha256(hex: &str) -> Option<Self> {
        let digits = hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
        let half = hex.get(..32).filter(|_| digits)?;
        Uuid::try_parse(half).ok().map(Self)
    }

    /// The mark of a token's signed part: what stands before its last dot, of which anybody can take the
    /// SHA-256. The signature itself can be written in more than one way.
    #[must_use]
    pub fn of_token(token: &str) -> Self {
        let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
        let mut context = Context::new(&SHA256);
        context.update(signed.as_bytes());
        Self::first_half(context.finish().as_ref())
    }

    /// The mark as text of 32 hexadecimal digits.
    #[must_use]
    pub fn to_text(self) -> String {
        self.0.simple().to_string()
    }

    /// The mark of such a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32;
        Uuid::try_parse(text).ok().filter(|_| plain).map(Self)
    }

    /// Its first 4 bytes: for tables, where others may have the same.
    #[must_use]
    pub fn short(self) -> u32 {
        let (fields, ..) = self.0.as_fields();
        fields
    }

    fn first_half(digest: &[u8]) -> Self {
        let mut half = [0; 16];
        half.iter_mut()
            .zip(digest)
            .for_each(|(to, from)| *to = *from);
        Self(Uuid::from_bytes(half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_mark_is_that_of_its_sha256() {
        let digest = aws_lc_rs::digest::digest(&SHA256, b"a.b");
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Mark::of_sha256(&hex), Some(Mark::of_token("a.b.c")));
        assert_eq!(
            Mark::of_sha256(&hex.to_uppercase()),
            Some(Mark::of_token("a.b.d"))
        );
        assert_ne!(Mark::of_token("a.b.c"), Mark::of_token("a.c.c"));
        for wrong in ["", "dd", &hex[1..], &format!("{}é", &hex[..62])] {
            assert_eq!(Mark::of_sha256(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn kinds_are_told_apart_and_texts_are_read_back() {
        assert_ne!(Mark::of("user", b"1"), Mark::of("jti", b"1"));
        let mark = Mark::of("user", b"1");
        assert_eq!(Mark::parse(&mark.to_text()), Some(mark));
        assert_eq!(Mark::parse("*"), None);
        assert_eq!(Mark::parse(&mark.0.to_string()), None);
    }
}
