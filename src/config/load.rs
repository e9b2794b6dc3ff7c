//! Layers: defaults, then the file, then the environment, then flags.
//!
//! The defaults, written out as a tree, are also the list of keys that exist and of what kind
//! each value is, so that there is no second list to keep true.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::changes::Reading;
use super::problem::{ConfigError, Problem, near_miss};
use super::{Config, validate};
use crate::auth::KeyConfig;

/// What environment variables for any key begin with.
const ENV_PREFIX: &str = "NOTIFY_SERVER__";

/// Variables with names of their own, and the keys that they set.
const PLAIN_ENV: [(&str, &str); 8] = [
    ("SERVICE_PORT", "server.port"),
    ("MAX_CONNECTIONS", "server.max_connections"),
    ("HEARTBEAT_INTERVAL", "stream.ping_interval"),
    ("MESSAGE_TTL", "events.default_ttl"),
    ("CORS_ORIGINS", "server.allowed_origins"),
    ("ENABLE_AUTH", "auth.enabled"),
    ("NATS_URL", "nats.url"),
    ("DATABASE_URL", "database.url"),
];

/// The standard variables of OpenTelemetry that are understood, and the keys that they set. Those of traces
/// alone come later, and win.
const OTEL_ENV: [(&str, &str); 13] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "tracing.endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "tracing.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "tracing.protocol"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "tracing.protocol"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "tracing.headers"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "tracing.headers"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "tracing.timeout"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "tracing.timeout"),
    ("OTEL_BSP_SCHEDULE_DELAY", "tracing.interval"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "tracing.queue"),
    ("OTEL_RESOURCE_ATTRIBUTES", "tracing.resource_attributes"),
    ("OTEL_SERVICE_NAME", "tracing.service_name"),
    ("OTEL_TRACES_SAMPLER_ARG", "tracing.sample_ratio"),
];

/// Which part is traced where the publisher does not say.
const SAMPLER_ENV: &str = "OTEL_TRACES_SAMPLER";

/// The variables that turn traces off.
const OFF_ENV: [(&str, &str); 2] = [
    ("OTEL_SDK_DISABLED", "true"),
    ("OTEL_TRACES_EXPORTER", "none"),
];

/// The variable that adds a shared secret to the keys.
const SECRET_ENV: &str = "JWT_SECRET";

/// Values given on the command line: key and text, and the flag they came by.
pub type Overrides = Vec<(&'static str, String, &'static str)>;

/// Loads the configuration. `file` is required where `explicit`, else it may be missing.
///
/// # Errors
/// Everything that is wrong with it, at once where possible.
pub fn load(
    file: &Path,
    explicit: bool,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    read(file, explicit, environment, overrides).map(|reading| reading.config)
}

/// The same, with what tells it from another configuration.
///
/// # Errors
/// As of [`load`].
pub fn read(
    file: &Path,
    explicit: bool,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Reading, ConfigError> {
    let mut layers = Layers::new()?;
    layers.file(file, explicit)?;
    layers.environment(environment);
    for (key, text, flag) in overrides {
        layers.text(key, text, (*flag).to_owned());
    }
    let written = layers.tree.clone();
    let (config, origins) = layers.finish()?;
    let mut problems = validate::check(&config);
    if problems.is_empty() {
        return Ok(Reading::new(config, written));
    }
    for problem in &mut problems {
        problem.origin = origins.get(&problem.key).cloned();
    }
    Err(ConfigError(problems))
}

/// Errors must not quote the file, which may hold secrets.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

struct Layers {
    template: Value,
    tree: Value,
    origins: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Layers {
    fn new() -> Result<Self, ConfigError> {
        let write = |value: Result<Value, serde_json::Error>| {
            value.map_err(|error| ConfigError(vec![Problem::at("", error.to_string())]))
        };
        let tree = write(serde_json::to_value(Config::default()))?;
        let mut template = tree.clone();
        // The shape of a list's items, which an empty default list does not show.
        if let Some(keys) = template.pointer_mut("/auth/keys") {
            *keys = Value::Array(vec![write(serde_json::to_value(KeyConfig::default()))?]);
        }
        Ok(Self {
            template,
            tree,
            origins: BTreeMap::new(),
            problems: Vec::new(),
        })
    }

    fn file(&mut self, file: &Path, explicit: bool) -> Result<(), ConfigError> {
        let whole = |problem: String| {
            ConfigError(vec![Problem {
                origin: Some(file.display().to_string()),
                ..Problem::at("", problem)
            }])
        };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !explicit => {
                return Ok(());
            }
            Err(error) => return Err(whole(format!("the file can't be read: {error}"))),
        };
        let tree: Value = serde_saphyr::from_str_with_options(&text, yaml_options())
            .map_err(|error| whole(format!("the file is not valid YAML: {error}")))?;
        let origin = file.display().to_string();
        let template = self.template.clone();
        match tree {
            Value::Null => {}
            Value::Object(members) => self.members("", members, &template, &origin),
            _ => return Err(whole("the file must hold keys and values".to_owned())),
        }
        Ok(())
    }

    fn members(&mut self, at: &str, members: Map<String, Value>, template: &Value, origin: &str) {
        let Some(known) = template.as_object() else {
            return;
        };
        for (name, value) in members {
            let key = join(at, &name);
            match (known.get(&name), value) {
                (None, _) => self.unknown(key, &name, known, origin),
                // A section with nothing in it.
                (Some(Value::Object(_)), Value::Null) => {}
                (Some(section @ Value::Object(_)), Value::Object(members)) => {
                    self.members(&key, members, section, origin);
                }
                // The value may be a secret that was meant for a key of the section.
                (Some(Value::Object(_)), _) => self.problems.push(Problem {
                    origin: Some(origin.to_owned()),
                    ..Problem::at(key, "expected keys and values")
                }),
                (Some(template), value) => {
                    self.items(&key, &value, template, origin);
                    self.put(&key, value, origin.to_owned());
                }
            }
        }
    }

    /// Looks for unknown keys in a list of objects.
    fn items(&mut self, at: &str, value: &Value, template: &Value, origin: &str) {
        let (Some(items), Some(Value::Object(known))) = (
            value.as_array(),
            template.as_array().and_then(|shape| shape.first()),
        ) else {
            return;
        };
        for (index, item) in items.iter().enumerate() {
            for name in item.as_object().into_iter().flat_map(Map::keys) {
                if !known.contains_key(name) {
                    self.unknown(format!("{at}[{index}].{name}"), name, known, origin);
                }
            }
        }
    }

    fn unknown(&mut self, key: String, name: &str, known: &Map<String, Value>, origin: &str) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        self.problems.push(Problem {
            key,
            value: None,
            origin: Some(origin.to_owned()),
            problem: format!("unknown key; known here are {}", names.join(", ")),
            suggestion: near_miss(name, names.iter().copied()).map(str::to_owned),
        });
    }

    fn environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let mut variables: BTreeMap<String, String> = environment.collect();
        if variables.get(SECRET_ENV).is_some_and(String::is_empty) {
            // Taken for "not set" it would mean development mode.
            self.problems.push(Problem {
                origin: Some(format!("environment variable {SECRET_ENV}")),
                ..Problem::at(
                    "auth.keys",
                    "the secret is empty; make one with `openssl rand -hex 32`",
                )
            });
        }
        variables.retain(|_, value| !value.is_empty());
        for (name, key) in PLAIN_ENV {
            if let Some(value) = variables.get(name) {
                self.text(key, value, format!("environment variable {name}"));
            }
        }
        self.open_telemetry(&variables);
        if let Some(secret) = variables.get(SECRET_ENV) {
            self.add_secret(secret);
        }
        for (name, value) in &variables {
            if let Some(path) = name.strip_prefix(ENV_PREFIX) {
                let key = self.key_of(path);
                self.text(&key, value, format!("environment variable {name}"));
            }
        }
    }

    /// What OpenTelemetry's own variables say, in its own units and escapes.
    fn open_telemetry(&mut self, variables: &BTreeMap<String, String>) {
        for (name, key) in OTEL_ENV {
            let Some(value) = variables.get(name) else {
                continue;
            };
            let origin = format!("environment variable {name}");
            match key {
                "tracing.timeout" | "tracing.interval" => {
                    self.text(key, &format!("{}ms", value.trim()), origin);
                }
                "tracing.headers" | "tracing.resource_attributes" => {
                    let items = value.split(',').map(str::trim);
                    let items = items.filter(|item| !item.is_empty()).map(unescaped);
                    self.put(key, Value::from_iter(items), origin);
                }
                _ => self.text(key, value, origin),
            }
        }
        if let Some(sampler) = variables.get(SAMPLER_ENV) {
            self.sampler(sampler);
        }
        let off = |(name, value): &(&str, &str)| {
            let said = variables.get(*name);
            said.is_some_and(|said| said.eq_ignore_ascii_case(value))
        };
        if let Some((name, _)) = OFF_ENV.iter().find(|variable| off(variable)) {
            let origin = format!("environment variable {name}");
            self.put("tracing.endpoint", Value::Null, origin);
        }
    }

    /// The standard's samplers as a ratio. Those that don't ask the publisher are not among them.
    fn sampler(&mut self, name: &str) {
        let origin = format!("environment variable {SAMPLER_ENV}");
        let ratio = match name {
            "parentbased_always_on" => "1",
            "parentbased_always_off" => "0",
            // Its ratio has a variable of its own.
            "parentbased_traceidratio" => return,
            _ => {
                let why = "expected parentbased_always_on, parentbased_always_off or \
                           parentbased_traceidratio: whether a trace is recorded is for whoever begins it \
                           to say";
                let problem = Problem::at("tracing.sample_ratio", why).with_value(name);
                return self.problems.push(Problem {
                    origin: Some(origin),
                    ..problem
                });
            }
        };
        self.text("tracing.sample_ratio", ratio, origin);
    }

    /// `NATS__URL` is `nats.url`; `PORT`, which is in no section by that name, is `server.port`.
    fn key_of(&self, path: &str) -> String {
        let key = path.to_lowercase().replace("__", ".");
        let first = key.split('.').next().unwrap_or_default();
        if self.template.get(first).is_some() || !self.in_server(&key) {
            key
        } else {
            format!("server.{key}")
        }
    }

    fn in_server(&self, key: &str) -> bool {
        self.template["server"].get(key).is_some()
    }

    fn add_secret(&mut self, secret: &str) {
        let origin = format!("environment variable {SECRET_ENV}");
        let Some(keys) = self
            .tree
            .pointer_mut("/auth/keys")
            .and_then(Value::as_array_mut)
        else {
            return;
        };
        keys.push(serde_json::json!({ "secret": secret }));
        let index = keys.len() - 1;
        self.origins
            .insert(format!("auth.keys[{index}].secret"), origin);
    }

    /// Sets a key from text, read as the kind of value that the key has.
    fn text(&mut self, key: &str, text: &str, origin: String) {
        let Some(template) = lookup(&self.template, key) else {
            let parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
            let known = lookup(&self.template, parent).and_then(Value::as_object);
            let mut known = known
                .or_else(|| self.template.as_object())
                .cloned()
                .unwrap_or_default();
            if let (false, Some(server)) = (key.contains('.'), self.template["server"].as_object())
            {
                // These need no section in a variable's name.
                known.extend(server.clone());
            }
            let name = key.rsplit('.').next().unwrap_or(key);
            return self.unknown(key.to_owned(), name, &known, &origin);
        };
        let as_text = || Value::String(text.to_owned());
        let value = match template {
            Value::Number(number) if number.is_f64() => {
                text.parse::<f64>().map_or_else(|_| as_text(), Value::from)
            }
            Value::Number(_) => text.parse::<u64>().map_or_else(|_| as_text(), Value::from),
            Value::Bool(_) => match text {
                "true" | "1" | "yes" | "on" => Value::Bool(true),
                "false" | "0" | "no" | "off" => Value::Bool(false),
                _ => as_text(),
            },
            Value::Array(_) => Value::from(texts(text)),
            _ => as_text(),
        };
        self.put(key, value, origin);
    }

    fn put(&mut self, key: &str, value: Value, origin: String) {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(place) = self.tree.pointer_mut(&pointer) {
            *place = value;
            self.origins.insert(key.to_owned(), origin);
        } else {
            // An item of a list: lists are set as a whole.
            self.problems.push(Problem {
                origin: Some(origin),
                ..Problem::at(
                    key,
                    "can only be set in the file; JWT_SECRET adds a shared secret",
                )
            });
        }
    }

    fn finish(self) -> Result<(Config, BTreeMap<String, String>), ConfigError> {
        let mut problems = self.problems;
        match serde_path_to_error::deserialize(&self.tree) {
            Ok(config) if problems.is_empty() => Ok((config, self.origins)),
            Ok(_) => Err(ConfigError(problems)),
            Err(error) => {
                let key = error.path().to_string();
                let unknown = error.inner().to_string().starts_with("unknown field");
                if !unknown || problems.is_empty() {
                    problems.push(wrong_type(&self.tree, &self.origins, key, error.inner()));
                }
                Err(ConfigError(problems))
            }
        }
    }
}

/// A list in a variable: with commas between the items, or as a JSON list of texts, which other servers
/// want in variables that are understood here, too.
fn texts(text: &str) -> Vec<String> {
    if let Ok(items) = serde_json::from_str(text) {
        return items;
    }
    let items = text.split(',').map(str::trim);
    let items = items.filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}

/// A `key=value` whose value has percent escapes.
fn unescaped(item: &str) -> String {
    percent_encoding::percent_decode_str(item)
        .decode_utf8_lossy()
        .into_owned()
}

fn wrong_type(
    tree: &Value,
    origins: &BTreeMap<String, String>,
    key: String,
    error: &serde_json::Error,
) -> Problem {
    let origin = origins.iter().rev().find_map(|(set, origin)| {
        (key == *set || key.starts_with(&format!("{set}["))).then(|| origin.clone())
    });
    let mut problem = expected(&error.to_string());
    // In these sections anything can be a secret, at the right key or at a wrong one.
    let secret = [
        "auth",
        "nats",
        "database",
        "tracing.headers",
        "tracing.endpoint",
    ]
    .iter()
    .any(|section| key.starts_with(section));
    let mut value = None;
    if secret {
        if let Some(at) = problem.find("expected") {
            problem = problem[at..].to_owned();
        }
    } else {
        value = lookup(tree, &key).map(ToString::to_string);
    }
    Problem {
        value,
        origin,
        ..Problem::at(key, problem)
    }
}

/// The library's words for what it expected, with Rust's names of types put into plain ones.
fn expected(message: &str) -> String {
    const PLAIN: [(&str, &str); 6] = [
        ("expected u16", "expected a whole number from 0 to 65535"),
        (
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        ),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list"),
        ("expected struct", "expected keys and values, as of"),
    ];
    let mut text = message.to_owned();
    for (rust, plain) in PLAIN {
        text = text.replace(rust, plain);
    }
    text
}

fn lookup<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    if key.is_empty() {
        return Some(tree);
    }
    let path = key.replace('[', ".").replace(']', "");
    tree.pointer(&format!("/{}", path.replace('.', "/")))
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

#[cfg(test)]
mod tests;
