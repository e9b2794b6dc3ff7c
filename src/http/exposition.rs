//! The metrics in the form that a scraper asks for: OpenMetrics, which the registry writes, or the text
//! format of Prometheus, which everything else reads.

/// The media type of OpenMetrics.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type of the text format.
pub(super) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Turns OpenMetrics into the text format. There the name of a family is that of its samples, so that
/// counters are described with their `_total`, and there are no infos, units or end.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, words)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_as_their_samples() {
        let open = "# HELP a Counts.\n# TYPE a counter\na_total{b=\"# c\"} 1\n\
                    # HELP d Information.\n# TYPE d info\nd_info{version=\"1\"} 1\n\
                    # HELP e_seconds Takes.\n# TYPE e_seconds gauge\n# UNIT e_seconds seconds\n\
                    e_seconds 2\n# EOF\n";
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{b=\"# c\"} 1\n\
                        # HELP d_info Information.\n# TYPE d_info gauge\nd_info{version=\"1\"} 1\n\
                        # HELP e_seconds Takes.\n# TYPE e_seconds gauge\ne_seconds 2\n";
        assert_eq!(plain(open), expected);
    }
}
