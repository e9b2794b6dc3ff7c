//! A picture of both ways side by side: connections, and latency.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

const WAYS: [(&str, &str, &str); 2] = [
    ("classic", "#9aa5b1", "a LISTEN connection per client"),
    ("notify-server", "#2463eb", "notify-server"),
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Lines that the other commands have printed
    #[arg(long)]
    results: PathBuf,
    /// The picture to write, SVG
    #[arg(long)]
    to: PathBuf,
}

struct Panel {
    title: &'static str,
    left: f64,
    /// The values at the top and at the bottom of the panel, both powers of ten.
    top: f64,
    bottom: f64,
    /// What to draw: a solid bar, and a thin one behind it that reaches further.
    bar: fn(&Value) -> Option<f64>,
    reach: fn(&Value) -> Option<f64>,
}

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 220.0;
const TOP: f64 = 60.0;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.results)?;
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let lines: Vec<Value> = lines.context("a line that is no measurement")?;
    let mut clients: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["clients"].as_u64())
        .collect();
    clients.sort_unstable();
    clients.dedup();
    ensure!(!clients.is_empty(), "there is no measurement of clients");
    let panels = [
        Panel {
            title: "PostgreSQL connections",
            left: 60.0,
            top: 1e4,
            bottom: 1.0,
            bar: |line| line["connections"].as_f64(),
            reach: |_| None,
        },
        Panel {
            title: "from statement to client: p50, and p99 thin, ms",
            left: 520.0,
            top: 1e3,
            bottom: 0.1,
            bar: |line| line["latency"]["p50_ms"].as_f64(),
            reach: |line| line["latency"]["p99_ms"].as_f64(),
        },
    ];
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 940 350\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"940\" height=\"350\" fill=\"white\"/>\n",
    );
    for panel in &panels {
        draw(&mut svg, panel, &clients, &lines)?;
    }
    for (index, (_, colour, name)) in WAYS.iter().enumerate() {
        let left = 60.0 + 300.0 * index as f64;
        writeln!(
            svg,
            "<rect x=\"{left}\" y=\"325\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
        )?;
        writeln!(svg, "<text x=\"{}\" y=\"336\">{name}</text>", left + 18.0)?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(&arguments.to, svg)?;
    Ok(())
}

fn draw(svg: &mut String, panel: &Panel, clients: &[u64], lines: &[Value]) -> Result<()> {
    let (left, bottom) = (panel.left, TOP + HEIGHT);
    let decades = (panel.top / panel.bottom).log10();
    let height = |value: f64| (value / panel.bottom).log10().clamp(0.0, decades) / decades * HEIGHT;
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        TOP - 25.0,
        panel.title
    )?;
    for decade in 0..=decades.round() as i32 {
        let value = panel.bottom * 10_f64.powi(decade);
        let y = bottom - height(value);
        writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>",
            left + WIDTH
        )?;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">{value}</text>",
            left - 6.0,
            y + 4.0
        )?;
    }
    let group = WIDTH / clients.len() as f64;
    for (index, count) in clients.iter().enumerate() {
        let middle = left + group * (index as f64 + 0.5);
        writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{count} clients</text>",
            bottom + 20.0
        )?;
        for (side, (way, colour, _)) in WAYS.iter().enumerate() {
            let of = |line: &&Value| line["way"] == *way && line["clients"] == *count;
            let Some(line) = lines.iter().find(of) else {
                continue;
            };
            let x = middle + if side == 0 { -42.0 } else { 4.0 };
            if let Some(reach) = (panel.reach)(line) {
                let tall = height(reach);
                writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"4\" height=\"{tall}\" fill=\"{colour}\"/>",
                    x + 17.0,
                    bottom - tall
                )?;
            }
            let Some(value) = (panel.bar)(line) else {
                continue;
            };
            let tall = height(value);
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"38\" height=\"{tall}\" fill=\"{colour}\"/>",
                bottom - tall
            )?;
            let highest = (panel.reach)(line).map_or(tall, |reach| tall.max(height(reach)));
            let label = match (panel.reach)(line) {
                Some(reach) => format!("{value:.1} / {reach:.1}"),
                None => format!("{value}"),
            };
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{label}</text>",
                x + 19.0,
                bottom - highest - 5.0
            )?;
        }
    }
    Ok(())
}
