//! Plots, as SVG.

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::spread::Spread;

/// A line of a plot that has medians, and a bar for the spread at each.
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Where on the horizontal axis, and what.
    pub points: Vec<(f64, Spread)>,
}

/// A curve over time.
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// Seconds, and the value.
    pub points: Vec<(f64, f64)>,
}

/// A span of time with a name.
pub struct Band {
    /// What happened in it.
    pub name: String,
    /// Its beginning and end, in seconds.
    pub span: (f64, f64),
}

const WIDTH: u32 = 640;
const FONT: &str = "sans-serif";

/// A colour for each thing that is compared, the same in all plots.
pub fn color(name: &str) -> RGBColor {
    match name {
        "xl" => RGBColor(120, 120, 120),
        "tsmc" => RGBColor(200, 40, 40),
        "precopy" => RGBColor(40, 90, 200),
        "postcopy" => RGBColor(40, 150, 70),
        _ => RGBColor(220, 140, 30),
    }
}

/// Lines with the spread at each point, from zero upwards. `x` and `y` say what the axes are.
pub fn lines(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|(at, _)| *at).fold(0.0, f64::max) * 1.08;
    let top = all().map(|(_, spread)| spread.most).fold(0.0, f64::max) * 1.1;
    draw((WIDTH, 320), |area| {
        let mut builder = ChartBuilder::on(area);
        let mut chart = builder
            .caption(title, (FONT, 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right.max(1.0), 0.0..top.max(1e-9))?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
        for line in lines {
            let color = color(&line.name);
            let medians = line.points.iter().map(|(at, spread)| (*at, spread.median));
            chart
                .draw_series(LineSeries::new(medians, color.stroke_width(2)).point_size(3))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
            let spreads = line.points.iter().map(|(at, spread)| {
                ErrorBar::new_vertical(*at, spread.least, spread.median, spread.most, color.stroke_width(1), 6)
            });
            chart.draw_series(spreads)?;
        }
        let legend = SeriesLabelPosition::UpperLeft;
        chart.configure_series_labels().position(legend).background_style(WHITE.mix(0.8)).draw()?;
        Ok(())
    })
}

/// Curves over the time `from..to`, with the bands behind them.
pub fn over_time(title: &str, y: &str, span: (f64, f64), bands: &[Band], curves: &[Curve]) -> Result<String> {
    let top = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1).fold(0.0, f64::max) * 1.1;
    let top = top.max(1e-9);
    draw((WIDTH * 3 / 2, 220), |area| {
        let mut builder = ChartBuilder::on(area);
        let mut chart = builder
            .caption(title, (FONT, 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(span.0..span.1, 0.0..top)?;
        for (index, band) in bands.iter().enumerate() {
            let shade = if index % 2 == 0 { RGBColor(238, 240, 246) } else { RGBColor(250, 244, 230) };
            let (from, to) = (band.span.0.max(span.0), band.span.1.min(span.1));
            chart.draw_series([Rectangle::new([(from, 0.0), (to, top)], shade.filled())])?;
            chart.draw_series([Text::new(band.name.clone(), (from, top * 0.99), (FONT, 12))])?;
        }
        chart.configure_mesh().x_desc("seconds since xl migrate began").y_desc(y).disable_mesh().draw()?;
        for curve in curves {
            let color = color(&curve.name);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        if curves.len() > 1 {
            let legend = SeriesLabelPosition::UpperRight;
            chart.configure_series_labels().position(legend).background_style(WHITE.mix(0.8)).draw()?;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn draw(size: (u32, u32), paint: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| paint(&area));
        drawn
            .and_then(|()| area.present().map_err(Into::into))
            .map_err(anyhow::Error::from_boxed)
            .context("cannot draw")?;
    }
    Ok(svg)
}
