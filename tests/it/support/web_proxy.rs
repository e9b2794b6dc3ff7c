//! nginx and Caddy with the configurations that the project ships, on ports of their own.
//!
//! A shipped file is changed in the places that every deployment changes (addresses, certificate, files),
//! and gets a port without TLS beside the one with it. Each place has to be there exactly once.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::event_stream::EventStream;
use super::http::{Request, Response};
use super::keys::write_certificates;
use super::ports::free_port;
use super::process::Process;
use super::{eventually, tokens};

const INSTALL: &str =
    "the tests need nginx and caddy in PATH: scripts/install-test-tools installs Debian's packages";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Caddy,
}

/// A proxy before some servers, until it is dropped.
pub(crate) struct WebProxy {
    directory: TempDir,
    plain: SocketAddr,
    tls_port: u16,
    process: Process,
}

impl WebProxy {
    /// Starts a proxy as it is shipped.
    pub(crate) async fn start(kind: Kind, upstreams: &[SocketAddr]) -> Self {
        Self::start_with(kind, upstreams, &[]).await
    }

    /// Starts a proxy with some texts of its configuration replaced.
    pub(crate) async fn start_with(
        kind: Kind,
        upstreams: &[SocketAddr],
        changes: &[(&str, &str)],
    ) -> Self {
        let directory = TempDir::new().unwrap();
        write_certificates(directory.path());
        let (plain_port, tls_port) = (free_port(), free_port());
        let mut text = shipped(kind);
        for (from, to) in changes {
            text = replaced(&text, from, to);
        }
        let text = match kind {
            Kind::Nginx => nginx(&text, directory.path(), plain_port, tls_port, upstreams),
            Kind::Caddy => caddy(&text, directory.path(), plain_port, tls_port, upstreams),
        };
        let file = directory.path().join("proxy.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = match kind {
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command
                    .args(["-g", "daemon off;", "-p"])
                    .arg(directory.path());
                command.arg("-c").arg(&file);
                command
            }
            Kind::Caddy => {
                let mut command = Command::new("caddy");
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(&file);
                command.env("HOME", directory.path());
                command
            }
        };
        which(kind);
        let process = Process::spawn(&format!("{kind:?}"), &mut command);
        let plain = SocketAddr::from(([127, 0, 0, 1], plain_port));
        eventually("the proxy to accept connections", || async {
            tokio::net::TcpStream::connect(plain).await.ok().map(drop)
        })
        .await;
        Self {
            directory,
            plain,
            tls_port,
            process,
        }
    }

    /// The port without TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.plain
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The address with TLS and HTTP/2.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.tls_port)
    }

    /// The certificate authority's file.
    pub(crate) fn authority(&self) -> String {
        let file = self.directory.path().join("ca.pem");
        file.to_str().unwrap().to_owned()
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        request.send(self.plain).await
    }

    /// Opens a user's stream, and reads its first event.
    pub(crate) async fn connect(&self, user: i64) -> EventStream {
        let request = Request::get("/events").bearer(&tokens::of_user(user));
        let mut stream = EventStream::new(self.send(request).await);
        stream.expect_type("connection_confirmed").await;
        stream
    }

    /// Stops the proxy, and gives everything that it has written.
    pub(crate) async fn stop(self) -> String {
        self.process.signal("TERM");
        self.process.exited().await;
        let mut text = self.process.stdout() + &self.process.stderr();
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        text
    }
}

/// The configuration file that the project ships.
pub(crate) fn shipped(kind: Kind) -> String {
    let name = match kind {
        Kind::Nginx => "nginx.conf",
        Kind::Caddy => "Caddyfile",
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxy");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn which(kind: Kind) {
    let (program, version) = match kind {
        Kind::Nginx => ("nginx", "-v"),
        Kind::Caddy => ("caddy", "version"),
    };
    let output = Command::new(program).arg(version).output();
    assert!(output.is_ok(), "{INSTALL}");
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replace(from, to)
}

fn nginx(text: &str, directory: &Path, plain: u16, tls: u16, upstreams: &[SocketAddr]) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let server = |address: &SocketAddr| format!("server {address} max_fails=3 fail_timeout=5s;");
    let servers: Vec<String> = upstreams.iter().map(server).collect();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {};", at(name)));
    let listen = format!("listen 127.0.0.1:{tls} ssl http2; listen 127.0.0.1:{plain};");
    let changes = [
        ("user www-data;", "user root;".to_owned()),
        ("/run/nginx.pid", at("nginx.pid")),
        (
            "/var/log/nginx/error.log warn",
            format!("{} warn", at("error.log")),
        ),
        (
            "/var/log/nginx/error.log emerg",
            format!("{} emerg", at("error.log")),
        ),
        ("/var/log/nginx/notify.log", at("access.log")),
        (
            "server_tokens off;",
            format!("server_tokens off; {}", temporary.join(" ")),
        ),
        (
            "server 127.0.0.1:6687 max_fails=3 fail_timeout=5s;",
            servers.join(" "),
        ),
        (
            "server 127.0.0.1:6688 max_fails=3 fail_timeout=5s;",
            String::new(),
        ),
        ("listen 80;", format!("listen 127.0.0.1:{};", free_port())),
        ("listen 443 ssl http2;", listen),
        ("/etc/ssl/notify.example.com.pem", at("server.pem")),
        ("/etc/ssl/notify.example.com.key", at("server.key")),
    ];
    let mut text = text.to_owned();
    for (from, to) in changes {
        text = replaced(&text, from, &to);
    }
    text
}

fn caddy(text: &str, directory: &Path, plain: u16, tls: u16, upstreams: &[SocketAddr]) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let upstreams: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
    let site = text.find("\nnotify.example.com {").unwrap();
    // The same site twice: with TLS, and on a port without.
    let body = replaced(
        &text[site + 1..],
        "/var/log/caddy/notify.log",
        &at("access.log"),
    );
    let body = replaced(&body, "127.0.0.1:6687 127.0.0.1:6688", &upstreams.join(" "));
    let certificate = format!("tls {} {}", at("server.pem"), at("server.key"));
    let with_tls = format!("https://localhost:{tls} {{\n\tbind 127.0.0.1\n\t{certificate}");
    let without = format!("http://:{plain} {{\n\tbind 127.0.0.1");
    let global = replaced(
        &text[..site],
        "\n{\n",
        "\n{\n\tadmin off\n\tauto_https off\n",
    );
    let sites = [with_tls, without].map(|head| replaced(&body, "notify.example.com {", &head));
    format!("{global}\n{}\n{}", sites[0], sites[1])
}
