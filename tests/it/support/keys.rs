//! Key pairs made for the occasion with the `openssl` command, as files and as JWKs.

use std::path::{Path, PathBuf};
use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tokens::base64url;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ed25519,
    P256,
    Rsa,
}

/// A private and a public PEM file that live as long as this value.
pub(crate) struct KeyPair {
    kind: Kind,
    directory: TempDir,
}

impl KeyPair {
    pub(crate) fn generate(kind: Kind) -> Self {
        let directory = TempDir::new().unwrap();
        let pair = Self { kind, directory };
        let private = pair.private_file();
        let private = private.to_str().unwrap();
        let algorithm: &[&str] = match kind {
            Kind::Ed25519 => &["-algorithm", "ED25519"],
            Kind::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Kind::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        openssl(&[&["genpkey", "-quiet", "-out", private], algorithm].concat());
        let public = pair.public_file();
        openssl(&[
            "pkey",
            "-in",
            private,
            "-pubout",
            "-out",
            public.to_str().unwrap(),
        ]);
        pair
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Ed25519 => Algorithm::EdDSA,
            Kind::P256 => Algorithm::ES256,
            Kind::Rsa => Algorithm::RS256,
        }
    }

    pub(crate) fn public_file(&self) -> PathBuf {
        self.directory.path().join("public.pem")
    }

    pub(crate) fn public_pem(&self) -> String {
        std::fs::read_to_string(self.public_file()).unwrap()
    }

    pub(crate) fn encoding_key(&self) -> EncodingKey {
        let pem = std::fs::read(self.private_file()).unwrap();
        match self.kind {
            Kind::Ed25519 => EncodingKey::from_ed_pem(&pem),
            Kind::P256 => EncodingKey::from_ec_pem(&pem),
            Kind::Rsa => EncodingKey::from_rsa_pem(&pem),
        }
        .unwrap()
    }

    /// The public key as a JWK of this id.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let spki = pem::parse(self.public_pem()).unwrap().into_contents();
        // Both curves' SubjectPublicKeyInfo end in the raw key.
        let tail = |length: usize| &spki[spki.len() - length..];
        let mut jwk = match self.kind {
            Kind::Ed25519 => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(tail(32))}),
            Kind::P256 => {
                let (x, y) = tail(64).split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)})
            }
            Kind::Rsa => json!({"kty": "RSA", "n": base64url(&self.modulus()), "e": "AQAB"}),
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(format!("{:?}", self.algorithm()));
        jwk
    }

    fn private_file(&self) -> PathBuf {
        self.directory.path().join("private.pem")
    }

    fn modulus(&self) -> Vec<u8> {
        let public = self.public_file();
        let public = public.to_str().unwrap();
        let text = openssl(&["rsa", "-pubin", "-in", public, "-modulus", "-noout"]);
        let hex = text.trim().strip_prefix("Modulus=").unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }
}

/// Files for TLS with a certificate authority of its own, all in `directory`:
/// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
pub(crate) fn write_certificates(directory: &Path) {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    openssl(&[&authority[..], &key, &["-keyout", &ca_key, "-out", &ca]].concat());
    for name in ["server", "client"] {
        let (certificate, private) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let subject = format!("/CN={name}");
        let request = ["req", "-x509", "-days", "2", "-subj", &subject];
        let signed = ["-CA", &ca, "-CAkey", &ca_key];
        // Without this extension the certificate would be one more authority, which TLS
        // libraries refuse as an end entity.
        let extensions = [
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        let output = ["-keyout", &private, "-out", &certificate];
        openssl(&[&request[..], &key, &signed, &extensions, &output].concat());
    }
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("the tests need the openssl command in PATH");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
