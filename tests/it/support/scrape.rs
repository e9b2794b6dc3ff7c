//! What `/metrics` says, taken apart.

use std::collections::{BTreeMap, BTreeSet};

/// What is measured under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// The names of its labels, without `le` of histograms.
    pub(crate) labels: BTreeSet<String>,
}

/// The families of a scrape in the text format of Prometheus, by name.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            let family = Family {
                kind: kind.to_owned(),
                labels: BTreeSet::new(),
            };
            let before = families.insert(name.to_owned(), family);
            assert!(before.is_none(), "{name} is described twice");
        } else if !line.starts_with('#') {
            let (name, labels) = sample(line);
            let family = families
                .iter_mut()
                .find(|(known, family)| samples(known, family).contains(&name.to_owned()));
            let (_, family) = family.unwrap_or_else(|| panic!("{name} is of no family"));
            family.labels.extend(labels);
        }
    }
    families
}

/// The sum of the samples of this name whose labels contain `label`; 0 where there is none.
pub(crate) fn sum(text: &str, name: &str, label: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let same_name = labels.is_empty() || labels.starts_with('{');
        (same_name && labels.contains(label)).then(|| value.parse::<f64>().unwrap())
    });
    samples.sum()
}

/// The names of the samples of a family.
pub(crate) fn samples(name: &str, family: &Family) -> Vec<String> {
    match family.kind.as_str() {
        "histogram" => ["bucket", "sum", "count"]
            .map(|part| format!("{name}_{part}"))
            .to_vec(),
        _ => vec![name.to_owned()],
    }
}

/// The name of a sample and those of its labels.
fn sample(line: &str) -> (&str, Vec<String>) {
    let (series, _) = line.rsplit_once(' ').unwrap();
    let Some((name, labels)) = series.split_once('{') else {
        return (series, Vec::new());
    };
    let labels = labels.trim_end_matches('}').split(',');
    let names = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
    (name, names.filter(|name| name != "le").collect())
}
