//! Owns the page: all figures and plots in one file that needs no other.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::{plot, target::Judged};

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:50rem;margin:0 auto;padding:1rem;color:#222;background:#fff}\
svg{width:100%;height:auto;margin:.5rem 0 1.5rem}table{border-collapse:collapse;width:100%;font-size:.95rem}\
td,th{padding:.3rem .5rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td:nth-child(2){text-align:right;white-space:nowrap}\
.met{color:#00734f}.missed{color:#b03a00;font-weight:bold}div{overflow-x:auto}\
@media(max-width:36rem){td:nth-child(2){white-space:normal}}";

/// Where and of what.
pub(crate) fn about(figures: &Value) -> String {
    let of = |key: &str| figures[key].as_str().unwrap_or("?").to_owned();
    format!(
        "{}, Linux {}, commit {}, {}; {} frames a run, {} runs of each case in turn.",
        of("machine"),
        of("kernel"),
        of("commit"),
        of("date"),
        figures["frames"],
        figures["rounds"]
    )
}

/// The page.
pub(crate) fn page(figures: &Value, judged: &[Judged]) -> Result<String> {
    let mut plots: Vec<(&str, String)> = Vec::new();
    // A quick run has not all of them.
    let has = |key: &str| figures[key].as_array().is_some_and(|rows| !rows.is_empty());
    if has("by_size") {
        plots.push(("Throughput", plot::throughput(figures)?));
    }
    plots.push(("What a frame's time is made of", plot::cost(figures)?));
    if has("by_sessions") {
        plots.push(("Sessions", plot::sessions(figures)?));
    }
    if has("latency") {
        plots.push(("Latency", plot::latency(figures)?));
    }
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>MAP-E gateway: measurements</title><style>{STYLE}</style></head><body>\n\
         <h1>MAP-E gateway: measurements</h1>\n<p>{}</p>\n",
        escaped(&about(figures))
    );
    let _ = writeln!(
        html,
        "<div><table><tr><th></th><th>median (least to most)</th><th>target</th><th></th></tr>"
    );
    for Judged {
        what,
        figure,
        limit,
        is_met,
    } in judged
    {
        let (class, word) = match is_met {
            None => ("", ""),
            Some(true) => ("met", "met"),
            Some(false) => ("missed", "missed"),
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escaped(what),
            escaped(figure),
            escaped(limit)
        );
    }
    html.push_str("</table></div>\n");
    for (title, svg) in plots {
        let _ = writeln!(html, "<h2>{title}</h2>\n{}", scalable(&svg));
    }
    if has("by_program") {
        html.push_str(&programs(&figures["by_program"]));
    }
    if has("tcp") {
        html.push_str(&tcp(&figures["tcp"]));
    }
    html.push_str("</body></html>\n");
    Ok(html)
}

/// What the programs take by themselves.
fn programs(rows: &Value) -> String {
    let mut html = String::from(
        "<h2>Programs alone</h2>\n<p>By the kernel's count of their runs. The rest of a packet's time is the driver's and the redirect's. Counting itself is part of each; \
         the bare redirect's program does next to nothing else.</p>\n<div><table><tr><th>step</th><th>ns</th><th>program</th></tr>\n",
    );
    for row in rows.as_array().into_iter().flatten() {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{:.0}</td><td>{}</td></tr>",
            escaped(row["step"].as_str().unwrap_or_default()),
            row["ns"].as_f64().unwrap_or_default(),
            escaped(row["program"].as_str().unwrap_or_default())
        );
    }
    html.push_str("</table></div>\n");
    html
}

/// iperf3's rows.
fn tcp(rows: &Value) -> String {
    let mut html = String::from(
        "<h2>TCP (iperf3)</h2>\n<p>Through both gateways and a router; the kernel's by source NAT without a tunnel. <em>large</em>: hosts and kernel \
         may make frames of up to 64 KB, which a path by the stack carries as one.</p>\n<div><table><tr><th>frames</th><th>streams</th>\
         <th>direction</th><th>gateways, Mbit/s</th><th>kernel, Mbit/s</th></tr>\n",
    );
    for row in rows.as_array().into_iter().flatten() {
        let rate = |key: &str| row[key].as_f64().unwrap_or_default();
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{:.0}</td></tr>",
            row["frames"].as_str().unwrap_or_default(),
            row["streams"],
            row["direction"].as_str().unwrap_or_default(),
            rate("gateways_mbps"),
            rate("kernel_snat_mbps")
        );
    }
    html.push_str("</table></div>\n");
    html
}

/// An SVG that fits whatever it stands in: its size in points becomes its proportions.
fn scalable(svg: &str) -> String {
    let Some((open, rest)) = svg.split_once('>') else {
        return svg.to_owned();
    };
    // A file of its own begins with what a part of a page must not have.
    let (open, rest) = if open.starts_with("<?xml") {
        rest.trim_start().split_once('>').unwrap_or((open, rest))
    } else {
        (open, rest)
    };
    let words: Vec<&str> = open
        .split_whitespace()
        .filter(|word| !word.starts_with("width=") && !word.starts_with("height="))
        .collect();
    format!("{}>{rest}", words.join(" "))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::scalable;

    #[test]
    fn a_plot_in_the_page_has_proportions_and_no_size() {
        let svg = r#"<svg width="760" height="440" viewBox="0 0 760 440" xmlns="x"><rect/></svg>"#;
        assert_eq!(scalable(svg), r#"<svg viewBox="0 0 760 440" xmlns="x"><rect/></svg>"#);
    }
}
