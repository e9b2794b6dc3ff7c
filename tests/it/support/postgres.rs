//! A real PostgreSQL of one's own, that can be stopped, started again and made to hang.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tempfile::TempDir;

use super::ports::free_port;
use super::process::{Process, send_signal};
use super::within;

const INSTALL: &str = "the tests need PostgreSQL's initdb and postgres, in PATH or under \
    /usr/lib/postgresql: install your system's package, e.g. postgresql";

pub(crate) struct Postgres {
    port: u16,
    directory: TempDir,
    account: Option<Account>,
    process: Option<Process>,
}

/// Whom PostgreSQL runs as where the tests run as root, which it refuses.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let mut postgres = Self {
            port: free_port(),
            directory: TempDir::new().unwrap(),
            account: Account::needed(),
            process: None,
        };
        if let Some(Account { uid, gid }) = postgres.account {
            chown(postgres.directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = postgres.command("initdb");
        initdb.args(["--auth=trust", "--username=tester", "--encoding=UTF8"]);
        initdb.args(["--no-locale", "--no-sync", "--pgdata=data"]);
        let outcome = Process::run("initdb", &mut initdb).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        postgres.start_again().await;
        postgres
    }

    pub(crate) async fn start_again(&mut self) {
        let mut command = self.command("postgres");
        command.args(["-D", "data", "-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=16MB",
        ] {
            command.args(["-c", setting]);
        }
        let process = Process::spawn("postgres", &mut command);
        process
            .stderr_line(|line| line.contains("ready to accept connections"))
            .await;
        self.process = Some(process);
    }

    /// Shuts down at once, so that connections are closed and new ones are refused.
    pub(crate) async fn stop(&mut self) {
        let process = self.process.take().expect("PostgreSQL runs");
        send_signal("INT", &process.pid().to_string());
        process.exited().await;
    }

    /// Kills every process, so that what was not on the disk yet is lost.
    pub(crate) async fn crash(&mut self) {
        self.signal_all("KILL");
        let process = self.process.take().expect("PostgreSQL runs");
        process.exited().await;
    }

    /// Stops every process where it is: connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal_all("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal_all("CONT");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://tester@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    /// The first column of the rows, as text.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn connect(&self) -> PgConnection {
        let url = self.url();
        within("PostgreSQL", PgConnection::connect(&url))
            .await
            .unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let program = program_path(program);
        let mut command = match self.account {
            None => Command::new(program),
            Some(Account { uid, gid }) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--clear-groups", &format!("--reuid={uid}")])
                    .arg(format!("--regid={gid}"))
                    .arg(program);
                command
            }
        };
        command.current_dir(self.directory.path());
        command
    }

    fn signal_all(&self, signal: &str) {
        let Some(process) = &self.process else { return };
        let postmaster = process.pid().to_string();
        // Stopped first, the postmaster can't fork a child that the list doesn't have.
        send_signal(signal, &postmaster);
        let list = format!("/proc/{postmaster}/task/{postmaster}/children");
        // The process may be gone, in which case so are its children.
        let children = std::fs::read_to_string(list).unwrap_or_default();
        for child in children.split_whitespace() {
            send_signal(signal, child);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Backends are in process groups of their own, and outlive a killed postmaster while
        // they are stopped.
        self.signal_all("KILL");
    }
}

impl Account {
    fn needed() -> Option<Self> {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        is_root.then(|| {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
            let of = |name| passwd.lines().find_map(|line| Self::parse(line, name));
            of("postgres")
                .or_else(|| of("nobody"))
                .expect("an account other than root to run PostgreSQL as")
        })
    }

    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { uid, gid })
    }
}

/// The newest installed version, else whatever PATH has.
fn program_path(program: &str) -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = installed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max();
    if let Some(version) = newest {
        return Path::new("/usr/lib/postgresql")
            .join(version.to_string())
            .join("bin")
            .join(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{INSTALL}"))
}
