//! Owns the plots, each as the text of an SVG.

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{Shift, cartesian::Cartesian2d, ranged1d::ValueFormatter},
    prelude::{
        BLACK, Circle, Color as _, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
        RGBColor, Ranged, Rectangle, SVGBackend, Text, WHITE,
    },
    style::IntoFont as _,
};
use serde_json::Value;

const SIZE: (u32, u32) = (760, 440);
/// Large enough to be read where a sheet is as wide as a phone.
const TEXT: (&str, i32) = ("sans-serif", 20);
const CAPTION: (&str, i32) = ("sans-serif", 24);
/// What was before us: Mbit/s.
const BASELINE: f64 = 85.0;
/// In a byte.
const BITS: f64 = 8.0;

/// Of a colour-blind reader's palette, too (Okabe and Ito).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const RED: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(110, 110, 110);
const LIGHT: RGBColor = RGBColor(225, 225, 225);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Points = Vec<(f64, f64)>;

/// A line in a plot.
struct Line {
    name: String,
    colour: RGBColor,
    points: Points,
}

/// Draws on a white sheet.
fn sheet(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(drawing)?;
        draw(&area)?;
        area.present().map_err(drawing)?;
    }
    Ok(text)
}

fn drawing<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

fn lines<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>, lines: Vec<Line>) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    for Line { name, colour, points } in lines {
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
            .map_err(drawing)?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        if points.len() < 20 {
            let dots = points.into_iter().map(|point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots).map_err(drawing)?;
        }
    }
    Ok(())
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(LIGHT)
        .label_font(TEXT)
        .draw()
        .map_err(drawing)
}

/// Bits a second by the size of frames: ours both ways, the ceiling, the kernel, and what was before.
pub(crate) fn throughput(figures: &Value) -> Result<String> {
    let rows = figures["by_size"].as_array().filter(|rows| !rows.is_empty());
    let rows = rows.context("these figures have no sizes of frames: they are of a --quick run")?;
    let known = [
        ("redirect", "bare redirect (ceiling)", GREY),
        ("gateway_up", "gateway, LAN to WAN", BLUE),
        ("gateway_down", "gateway, WAN to LAN", GREEN),
        ("kernel_forward", "kernel, forwarding alone", ORANGE),
        ("kernel_snat", "kernel, source NAT, no tunnel", RED),
    ];
    let mut all = Vec::new();
    for (key, name, colour) in known {
        let Some(row) = rows.iter().find(|row| row["by"] == key) else {
            continue;
        };
        let points = numbers(&row["sizes"])
            .into_iter()
            .zip(numbers(&row["ns"]))
            .map(|(size, ns)| (size, size * BITS / ns))
            .collect();
        all.push(Line {
            name: name.to_owned(),
            colour,
            points,
        });
    }
    let most = all
        .iter()
        .flat_map(|line| &line.points)
        .fold(1.0_f64, |most, (_, y)| most.max(*y));
    all.push(Line {
        name: "before: 85 Mbit/s".to_owned(),
        colour: BLACK,
        points: vec![(64.0, BASELINE / 1e3), (1_400.0, BASELINE / 1e3)],
    });
    sheet(SIZE, |area| {
        // Room above the lines for the legend.
        let mut chart = ChartBuilder::on(area)
            .caption("One processor, 1,000 sessions", CAPTION)
            .margin(12)
            .x_label_area_size(56)
            .y_label_area_size(78)
            .build_cartesian_2d((60.0..1_450.0).log_scale(), (0.05..most * 30.0).log_scale())
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(LIGHT)
            .x_desc("bytes of a frame")
            .y_desc("Gbit/s")
            .x_labels(8)
            .x_label_formatter(&|size| format!("{size:.0}"))
            .y_label_formatter(&|rate| format!("{rate}"))
            .label_style(TEXT)
            .draw()
            .map_err(drawing)?;
        lines(&mut chart, all)?;
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

/// What the gateway adds to a frame by how many sessions are in use.
pub(crate) fn sessions(figures: &Value) -> Result<String> {
    let rows = figures["by_sessions"].as_array().context("no sessions")?;
    let mut all = Vec::new();
    for (way, order, name, colour) in [
        ("up", "sequential", "LAN to WAN, in order", BLUE),
        ("up", "random", "LAN to WAN, by chance", ORANGE),
        ("down", "sequential", "WAN to LAN, in order", GREEN),
        ("down", "random", "WAN to LAN, by chance", RED),
    ] {
        let of = |row: &&Value| row["way"] == way && row["order"] == order;
        let point = |row: &Value| Some((row["sessions"].as_f64()?, row["added_ns"].as_f64()?));
        all.push(Line {
            name: name.to_owned(),
            colour,
            points: rows.iter().filter(of).filter_map(point).collect(),
        });
    }
    let most = all
        .iter()
        .flat_map(|line| &line.points)
        .fold(60.0_f64, |most, (_, y)| most.max(*y));
    sheet(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Added over the bare redirect, 64 bytes", CAPTION)
            .margin(12)
            .x_label_area_size(56)
            .y_label_area_size(78)
            .build_cartesian_2d((90.0..70_000.0).log_scale(), 0.0..most * 1.15)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(LIGHT)
            .x_desc("sessions in use")
            .y_desc("ns a frame")
            .x_label_formatter(&|count| format!("{count:.0}"))
            .y_label_formatter(&|ns| format!("{ns:.0}"))
            .label_style(TEXT)
            .draw()
            .map_err(drawing)?;
        lines(&mut chart, all)?;
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

/// Which part of all frames is under way no longer than that.
pub(crate) fn latency(figures: &Value) -> Result<String> {
    let rows = figures["latency"].as_array().context("no latency")?;
    let colours = [GREY, BLUE, LIGHT_GREY, GREEN, ORANGE, RED];
    let mut all = Vec::new();
    for (row, colour) in rows.iter().zip(colours) {
        let by = row["by"].as_str().unwrap_or_default().replace('_', " ");
        let way = if row["way"] == "up" { "LAN to WAN" } else { "WAN to LAN" };
        let points = row["cdf"].as_array().into_iter().flatten();
        let points = points.filter_map(|point| Some((point[0].as_f64()? / 1e3, point[1].as_f64()? * 100.0)));
        all.push(Line {
            name: format!("{by}, {way}"),
            colour,
            points: points.collect(),
        });
    }
    sheet(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Time under way at half load, 64 bytes", CAPTION)
            .margin(12)
            .x_label_area_size(56)
            .y_label_area_size(78)
            .build_cartesian_2d((0.1..110.0).log_scale(), 0.0..100.0)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(LIGHT)
            .x_desc("µs")
            .y_desc("% of frames")
            .x_label_formatter(&|time| format!("{time}"))
            .y_label_formatter(&|part| format!("{part:.0}"))
            .label_style(TEXT)
            .draw()
            .map_err(drawing)?;
        lines(&mut chart, all)?;
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

const LIGHT_GREY: RGBColor = RGBColor(170, 170, 170);

/// What a frame's time is made of, ours and the kernel's.
pub(crate) fn cost(figures: &Value) -> Result<String> {
    let of = |key: &str| figures[key].as_f64().with_context(|| format!("no {key}"));
    let bars = [
        ("the least, LAN to WAN", "generator_ns", "redirect_ns", "least_ns"),
        ("gateway, LAN to WAN", "generator_ns", "redirect_ns", "up_ns"),
        (
            "gateway, WAN to LAN",
            "generator_down_ns",
            "redirect_down_ns",
            "down_ns",
        ),
        (
            "kernel, forwarding",
            "generator_ns",
            "generator_ns",
            "kernel_forward_ns",
        ),
        ("kernel, source NAT", "generator_ns", "generator_ns", "kernel_snat_ns"),
    ];
    let mut rows = Vec::new();
    for (name, made, moved, whole) in bars {
        let (made, moved, whole) = (of(made)?, of(moved)?, of(whole)?);
        rows.push((name, [made, moved.max(made), whole.max(made)]));
    }
    let most = rows.iter().fold(1.0_f64, |most, (_, [.., whole])| most.max(*whole));
    let size = (SIZE.0, 306);
    sheet(size, |area| {
        let scale = |ns: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "a place on the sheet")]
            let place = (200.0 + ns / most * 460.0) as i32;
            place
        };
        let font = TEXT.into_font();
        let mut top = 20;
        for (name, ends) in rows {
            let text = |text: String, x: i32| Text::new(text, (x, top + 10), font.clone());
            area.draw(&text(name.to_owned(), 8)).map_err(drawing)?;
            let mut from = 0.0;
            for (to, colour) in ends.into_iter().zip([LIGHT_GREY, GREY, BLUE]) {
                let bar = Rectangle::new([(scale(from), top), (scale(to), top + 30)], colour.filled());
                area.draw(&bar).map_err(drawing)?;
                from = to;
            }
            area.draw(&text(format!("{from:.0} ns"), scale(from) + 6))
                .map_err(drawing)?;
            top += 46;
        }
        for (left, name, colour) in [
            (8, "making the frame", LIGHT_GREY),
            (210, "moving it (bare redirect)", GREY),
            (480, "what the path does", BLUE),
        ] {
            let mark = Rectangle::new([(left, top + 8), (left + 14, top + 22)], colour.filled());
            area.draw(&mark).map_err(drawing)?;
            area.draw(&Text::new(name, (left + 20, top + 9), font.clone()))
                .map_err(drawing)?;
        }
        Ok(())
    })
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}
