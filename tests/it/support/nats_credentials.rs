//! A NATS operator with one account, made by hand: what `nsc` would write, for credentials files.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::tokens::{base64url, now};

const OPERATOR: u8 = 14 << 3;
const ACCOUNT: u8 = 0;
const USER: u8 = 20 << 3;
const SEED: u8 = 18 << 3;

pub(crate) struct Operator {
    operator: NKey,
    account: NKey,
}

struct NKey {
    prefix: u8,
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            operator: NKey::generate(OPERATOR),
            account: NKey::generate(ACCOUNT),
        }
    }

    /// Writes a nats-server configuration that lets in nobody but users of the account.
    pub(crate) fn write_server_config(&self, file: &Path) {
        let operator = self
            .operator
            .issue(&self.operator, json!({"type": "operator", "version": 2}));
        let limits = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
            "data": -1, "payload": -1, "wildcards": true});
        let account = self.operator.issue(
            &self.account,
            json!({"type": "account", "version": 2, "limits": limits}),
        );
        let id = self.account.public();
        let text = format!(
            "operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {id}: {account} }}\n"
        );
        std::fs::write(file, text).unwrap();
    }

    /// Writes the credentials of a new user, and returns their text.
    pub(crate) fn write_credentials(&self, file: &Path) -> String {
        let user = NKey::generate(USER);
        let rights = json!({"type": "user", "version": 2, "pub": {}, "sub": {},
            "subs": -1, "data": -1, "payload": -1});
        let token = self.account.issue(&user, rights);
        let seed = user.seed();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(file, &text).unwrap();
        text
    }
}

impl NKey {
    fn generate(prefix: u8) -> Self {
        let seed: [u8; 32] = rand::random();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        Self { prefix, seed, pair }
    }

    fn public(&self) -> String {
        encode(&[&[self.prefix], self.pair.public_key().as_ref()].concat())
    }

    fn seed(&self) -> String {
        // The kind of key takes five bits, behind the five that say that this is a seed.
        let head = [SEED | (self.prefix >> 5), (self.prefix & 31) << 3];
        encode(&[&head[..], &self.seed].concat())
    }

    /// A JWT about `subject`, in the dialect of NATS.
    fn issue(&self, subject: &Self, rights: Value) -> String {
        let claims = json!({"jti": "test", "iat": now(), "iss": self.public(), "name": "test",
            "sub": subject.public(), "nats": rights});
        let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
        let part = |value: &Value| base64url(value.to_string().as_bytes());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = base64url(self.pair.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}

/// Base 32 of the bytes and their CRC-16/XMODEM, without padding.
fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let checked = [bytes, &crc16(bytes).to_le_bytes()].concat();
    let mut text = String::new();
    for group in checked.chunks(5) {
        let mut bits = [0; 8];
        bits[3..3 + group.len()].copy_from_slice(group);
        let bits = u64::from_be_bytes(bits);
        for digit in 0..(group.len() * 8).div_ceil(5) {
            let index = (bits >> (35 - 5 * digit)) & 31;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut crc: u16, &byte| {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
        crc
    })
}
