//! A running notify-server.

use std::net::SocketAddr;

use serde_json::Value;

use super::event_stream::EventStream;
use super::http::{Request, Response};
use super::logs::LogLine;
use super::process::Process;
use super::settings::Settings;
use super::{eventually, tokens};

pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    settings: Settings,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) async fn start(settings: Settings) -> Self {
        let server = Self::start_unready(settings).await;
        server.ready().await;
        server
    }

    /// Starts a server and waits until it listens.
    pub(crate) async fn start_unready(settings: Settings) -> Self {
        settings.prepare_database().await;
        let process = Process::spawn("notify-server", &mut settings.command(&[]));
        let listening = log_line(&process, |line| line.message() == "listening").await;
        let address = listening.text("address").parse().unwrap();
        Self {
            process,
            address,
            settings,
        }
    }

    /// A server that listens already, e.g. one whose log only people can read.
    pub(crate) fn of(process: Process, port: u16, settings: Settings) -> Self {
        Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            settings,
        }
    }

    pub(crate) async fn ready(&self) {
        eventually("/ready to answer 200", || async {
            (self.get("/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until `/ready` answers 503, and returns what it says.
    pub(crate) async fn not_ready(&self) -> String {
        eventually("/ready to answer 503", || async {
            let mut response = self.get("/ready").await;
            match response.status {
                503 => Some(response.text().await),
                _ => None,
            }
        })
        .await
    }

    /// The same, for a reason.
    pub(crate) async fn not_ready_because(&self, reason: &str) -> String {
        let what = format!("/ready to answer 503 because of {reason}");
        eventually(&what, || async {
            let says = self.not_ready().await;
            says.contains(reason).then_some(says)
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        request.send(self.address).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.send(Request::get(target)).await
    }

    /// Opens `/events` with a token in the header; the answer is as it comes.
    pub(crate) async fn events(&self, token: &str) -> Response {
        self.send(Request::get("/events").bearer(token)).await
    }

    /// Opens a user's stream, and reads its first event: from here on, the user is listening.
    pub(crate) async fn connect(&self, user: impl Into<Value>) -> EventStream {
        self.connect_with(&tokens::of_user(user)).await
    }

    /// The same with a token of the test's own.
    pub(crate) async fn connect_with(&self, token: &str) -> EventStream {
        let mut response = self.events(token).await;
        if response.status != 200 {
            let text = response.text().await;
            panic!("{}: {text}", response.status);
        }
        let mut stream = EventStream::new(response);
        stream.expect_type("connection_confirmed").await;
        stream
    }

    /// Opens a user's stream behind an event that the user has had; nothing of it is read yet.
    pub(crate) async fn come_back(&self, user: i64, last_event_id: &str) -> EventStream {
        let request = Request::get("/events")
            .bearer(&tokens::of_user(user))
            .header("last-event-id", last_event_id);
        EventStream::new(self.send(request).await)
    }

    /// The sum of a metric over all label sets that contain `label`, e.g. `reason="not_json"`;
    /// 0 where there is none.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").await.text().await;
        super::scrape::sum(&text, name, label)
    }

    /// How often a limit was met.
    pub(crate) async fn limited(&self, limit: &str) -> f64 {
        let label = format!("limit=\"{limit}\"");
        self.metric("notify_limited_total", &label).await
    }

    /// Waits for the line of the log that says that a limit was met.
    pub(crate) async fn limit_line(&self, limit: &str) -> LogLine {
        self.log_line(|line| line.message() == "a limit was met" && line.text("limit") == limit)
            .await
    }

    /// Waits until a metric has a value.
    pub(crate) async fn metric_becomes(&self, name: &str, label: &str, value: f64) {
        eventually(&format!("{name}{{{label}}} to be {value}"), || async {
            (self.metric(name, label).await == value).then_some(())
        })
        .await;
    }

    /// The first line of the log that `wanted` accepts; waits for it.
    pub(crate) async fn log_line(&self, wanted: impl Fn(&LogLine) -> bool) -> LogLine {
        log_line(&self.process, wanted).await
    }

    /// The lines that the log has now.
    pub(crate) fn log(&self) -> Vec<LogLine> {
        let text = self.process.stderr();
        text.lines().filter_map(LogLine::parse).collect()
    }

    /// How much memory the process holds, in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let kibibytes = self.kernel_says("VmRSS:");
        kibibytes * 1024
    }

    /// How many files the kernel's table of the process has places for.
    pub(crate) fn places_for_files(&self) -> usize {
        self.kernel_says("FDSize:")
    }

    /// A number of the process's status.
    fn kernel_says(&self, name: &str) -> usize {
        let file = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(file).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Puts another configuration in place of the server's, as a whole.
    pub(crate) fn rewrite(&self, settings: &Settings) {
        self.rewrite_text(&settings.config_text());
    }

    pub(crate) fn rewrite_text(&self, text: &str) {
        let file = self.settings.directory().join("config.yml");
        let other = file.with_extension("new");
        std::fs::write(&other, text).unwrap();
        std::fs::rename(other, file).unwrap();
    }

    /// How often the configuration was read again.
    pub(crate) async fn reloads(&self) -> f64 {
        self.metric("notify_config_reloads_total", "").await
    }

    /// Has the configuration read again, and waits until it was.
    pub(crate) async fn reload(&self) {
        let before = self.reloads().await;
        self.process.signal("HUP");
        eventually("the configuration to be read again", || async {
            (self.reloads().await > before).then_some(())
        })
        .await;
    }

    /// The same with another configuration.
    pub(crate) async fn reload_with(&self, settings: &Settings) {
        self.rewrite(settings);
        self.reload().await;
    }

    /// Asks the server to stop, and leaves it to it.
    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Stops the server, which must end well and in time; returns all that it has logged.
    pub(crate) async fn stop(self) -> String {
        self.terminate();
        let status = self.process.exited().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.stderr());
        self.process.stderr()
    }
}

async fn log_line(process: &Process, wanted: impl Fn(&LogLine) -> bool) -> LogLine {
    let line = process
        .stderr_line(|line| LogLine::parse(line).is_some_and(|line| wanted(&line)))
        .await;
    LogLine::parse(&line).unwrap()
}
