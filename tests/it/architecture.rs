//! Imports point one way: `http` and `transport` know the hub, the hub knows events, events know
//! nobody. Read from the sources, so that nobody has to remember it.

use std::path::{Path, PathBuf};

/// For each module in `src/`, the others that it may name: those of earlier rows only, so that
/// there are no loops.
const ALLOWED: [(&str, &[&str]); 42] = [
    ("files", &[]),
    ("histogram", &[]),
    ("causes", &[]),
    ("event", &[]),
    ("units", &[]),
    ("secret", &[]),
    ("credential", &[]),
    ("watch", &["units"]),
    ("telemetry", &["units"]),
    ("tls", &["units"]),
    ("address", &[]),
    ("limits", &[]),
    ("memory", &["units"]),
    ("pace", &[]),
    ("listener", &["limits", "pace", "tls"]),
    ("trace", &["causes", "event", "secret", "units"]),
    ("bus", &["event", "secret", "trace", "units"]),
    (
        "hub",
        &[
            "address",
            "credential",
            "event",
            "histogram",
            "memory",
            "pace",
            "units",
        ],
    ),
    ("auth", &["credential", "event", "secret", "units"]),
    ("database", &["causes", "event", "secret", "units"]),
    ("membership", &["database", "event", "histogram", "units"]),
    ("messages", &["database", "event"]),
    ("source", &["bus", "causes", "database", "event", "units"]),
    ("members", &["database", "event", "membership"]),
    ("refresh", &["event", "hub", "membership"]),
    ("rejections", &["event"]),
    ("acknowledgements", &["bus", "event"]),
    ("archive", &["bus", "event", "hub"]),
    ("authorize", &["bus", "event", "units"]),
    ("peers", &["auth", "bus", "event", "hub"]),
    ("inbox", &["bus", "event", "hub", "peers"]),
    (
        "revocation",
        &["auth", "bus", "credential", "event", "peers"],
    ),
    (
        "ingest",
        &[
            "bus",
            "database",
            "event",
            "histogram",
            "hub",
            "inbox",
            "membership",
            "refresh",
            "rejections",
            "trace",
            "units",
        ],
    ),
    (
        "presence",
        &["bus", "database", "event", "hub", "membership", "units"],
    ),
    (
        "explain",
        &[
            "archive",
            "bus",
            "database",
            "event",
            "hub",
            "inbox",
            "membership",
            "peers",
            "rejections",
        ],
    ),
    ("transport", &["event", "hub", "units"]),
    (
        "http",
        &[
            "acknowledgements",
            "address",
            "archive",
            "auth",
            "authorize",
            "bus",
            "causes",
            "credential",
            "database",
            "event",
            "explain",
            "hub",
            "inbox",
            "limits",
            "listener",
            "members",
            "membership",
            "memory",
            "messages",
            "pace",
            "peers",
            "presence",
            "rejections",
            "revocation",
            "secret",
            "source",
            "trace",
            "transport",
            "units",
        ],
    ),
    ("discovery", &["bus", "causes", "http", "peers"]),
    // Each section belongs to the module that reads it; the root only nests them.
    (
        "config",
        &[
            "auth",
            "authorize",
            "bus",
            "causes",
            "database",
            "http",
            "hub",
            "ingest",
            "presence",
            "secret",
            "source",
            "telemetry",
            "tls",
            "trace",
            "units",
            "watch",
        ],
    ),
    (
        "reload",
        &[
            "auth",
            "authorize",
            "causes",
            "config",
            "event",
            "http",
            "secret",
            "telemetry",
            "watch",
        ],
    ),
    (
        "metrics",
        &[
            "archive",
            "auth",
            "authorize",
            "bus",
            "database",
            "http",
            "hub",
            "inbox",
            "ingest",
            "limits",
            "source",
            "membership",
            "memory",
            "presence",
            "reload",
            "tls",
            "trace",
        ],
    ),
    (
        "bounds",
        &[
            "address", "event", "files", "http", "hub", "limits", "listener", "memory", "metrics",
            "units",
        ],
    ),
];

/// What builds and starts the rest may know everything, and nobody may know it.
const ABOVE_ALL: [&str; 4] = ["app", "cli", "lib", "main"];

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let module = module_of(&file);
        if ABOVE_ALL.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: {module} has no row", file.display()));
            continue;
        };
        for named in crate_modules(&text) {
            if named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{}: {module} may not know {named}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `src/hub/registry.rs` and `src/hub.rs` are `hub`.
fn module_of(file: &Path) -> String {
    let inside = file
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap();
    let first = inside.components().next().unwrap().as_os_str();
    first.to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn the_table_has_no_loops() {
    for (row, (name, allowed)) in ALLOWED.iter().enumerate() {
        for other in *allowed {
            let earlier = ALLOWED[..row].iter().any(|(earlier, _)| earlier == other);
            assert!(earlier, "{name} may know {other}, which stands below it");
        }
    }
}

/// Every `crate::name`, in `use` lines, in braces behind `crate::`, and in paths.
fn crate_modules(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(identifier(rest)),
        }
    }
    names
}

/// The first identifiers of `a::b, c::{d, e}}…`.
fn group_heads(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut at_head = true;
    for (index, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            _ if at_head && !character.is_whitespace() => {
                names.extend(identifier(&group[index..]));
                at_head = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (!name.is_empty() && name.starts_with(char::is_lowercase)).then(|| name.to_owned())
}

#[test]
fn names_are_found_wherever_they_stand() {
    let text = "use crate::event::Event;\nuse crate::{hub::{self, Hub}, units};\n\
        // use crate::comment;\nfn f() -> crate::auth::Error {}\nuse crate::Public;\n";
    assert_eq!(crate_modules(text), ["event", "hub", "units", "auth"]);
}
