//! `explain`: why a user did or did not get an event. Exit code 0 where the user has it, 1 where not, 2 where
//! that can't be told.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use notify_server::config::Config;
use notify_server::event::UserId;
use reqwest::Url;
use serde_json::{Value, json};

use super::caller::Caller;

/// How long the server may take to answer: it waits for the other instances, and may have to read the log.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The exit code where nothing can be said.
const UNKNOWN: u8 = 2;

/// Who, what, and which server to ask.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The user
    #[arg(long, value_parser = super::token::user)]
    user: UserId,
    /// The event: its id on streams, the id that its publisher gave it, or its Nats-Msg-Id
    #[arg(long, value_name = "ID")]
    event: String,
    /// The server's address, of any instance [default: the configured one on this machine]
    #[arg(long, alias = "server", value_name = "URL")]
    url: Option<String>,
    /// A token with the claim notify.admin; without, one is made
    #[arg(long, env = "NOTIFY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print all that is known as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let explanation = match ask(&config, &arguments).await {
        Ok(explanation) => explanation,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(UNKNOWN));
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", in_words(&explanation));
    }
    Ok(match explanation["delivered"].as_bool() {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => ExitCode::from(UNKNOWN),
    })
}

async fn ask(config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let (url, token) = (arguments.url.as_deref(), arguments.token.as_deref());
    let caller = Caller::new(config, url, token, json!({ "admin": true }), TIMEOUT)?;
    let address = format!("{}/api/v1/explain", caller.server.trim_end_matches('/'));
    let parameters = [
        ("user_id", arguments.user.to_string()),
        ("event", arguments.event.clone()),
    ];
    let address = Url::parse_with_params(&address, parameters).context("--url")?;
    let body = caller.send(caller.client.get(address)).await?;
    serde_json::from_str(&body).context("the server's answer is not JSON")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whom an event is for: as many as the answer names, and how many more.
fn audience(event: &Value) -> String {
    let named: Vec<String> = event["audience"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    let more = event["audience_size"]
        .as_u64()
        .unwrap_or(0)
        .saturating_sub(named.len() as u64);
    let mut told = match named.is_empty() {
        true => "nobody".to_owned(),
        false => named.join(", "),
    };
    if more > 0 {
        told.push_str(&format!(" and {more} more"));
    }
    if event["excluded"] == true {
        told.push_str(", but not for this user");
    }
    told
}

/// The sentence, the reason, and what it rests on.
fn in_words(explanation: &Value) -> String {
    let mut lines = vec![
        text(&explanation["explanation"]),
        format!("reason: {}", text(&explanation["reason"])),
    ];
    let event = &explanation["event"];
    if event.is_object() {
        let id = event["id"].as_str().unwrap_or("no id on streams");
        let (kind, audience) = (text(&event["type"]), audience(event));
        lines.push(format!("event: {kind} ({id}) for {audience}"));
        if let Some(at) = event["at"].as_str() {
            lines.push(format!("came: {at}"));
        }
    }
    let rejection = &explanation["rejection"];
    if rejection.is_object() {
        lines.push(format!("problem: {}", text(&rejection["problem"])));
        lines.push(format!("subject: {}", text(&rejection["subject"])));
        lines.push(format!("came: {}", text(&rejection["at"])));
        lines.push(format!("payload: {}", text(&rejection["payload"])));
    }
    for stay in explanation["memberships"].as_array().into_iter().flatten() {
        let then = match stay["then"].as_bool() {
            Some(true) => "was in it then",
            Some(false) => "was not in it then",
            None => "whether then, is not known",
        };
        let now = match stay["now"].as_bool() {
            Some(true) => "is in it now",
            Some(false) => "is not in it now",
            None => "whether now, is not known",
        };
        let listened = match stay["listened"].as_bool() {
            Some(true) => "; a stream listened on it then",
            Some(false) => "; no stream listened on it then",
            None => "",
        };
        let chat = text(&stay["chat_id"]);
        lines.push(format!(
            "chat {chat}, by the database: {then}, {now}{listened}"
        ));
    }
    match explanation["judged_by"].as_str() {
        Some("streams") => lines.push("judged by: what the user's streams listened on".to_owned()),
        Some(_) => lines.push(
            "judged by: what the database says now, joins and leaves since then undone: no stream was there".to_owned(),
        ),
        None => {}
    }
    for hint in explanation["hints"].as_array().into_iter().flatten() {
        lines.push(format!("note: {}", text(hint)));
    }
    for session in explanation["sessions"].as_array().into_iter().flatten() {
        let mut line = format!(
            "stream {} on {}, since {}: {}",
            text(&session["connection_id"]),
            text(&session["instance"]),
            text(&session["opened_at"]),
            text(&session["outcome"]),
        );
        if let Some(by) = session["written_by"].as_str() {
            line.push_str(&format!(", written by {by}"));
        }
        if let Some(at) = session["ended_at"].as_str() {
            line.push_str(&format!(
                ", ended {at} ({})",
                text(&session["ended_because"])
            ));
        }
        lines.push(line);
    }
    if let Some(times) = explanation["repeats"].as_u64().filter(|times| *times > 0) {
        lines.push(format!(
            "it was published {times} more times under the same message id, which counts for nothing"
        ));
    }
    let missing = explanation["missing"].as_array().into_iter().flatten();
    let missing: Vec<String> = missing.map(text).collect();
    if !missing.is_empty() {
        lines.push(format!(
            "instances that do not answer: {}",
            missing.join(", ")
        ));
    }
    if let Some(since) = explanation["remembered_since"].as_str() {
        lines.push(format!("recent events are remembered since {since}"));
    }
    lines.push(String::new());
    lines.join("\n")
}
