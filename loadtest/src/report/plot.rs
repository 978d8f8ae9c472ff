//! Line plots and bars, as SVG. Each is drawn twice, for a wide and for a narrow page, so that its text has its size and its
//! ticks their number on both; the style sheet shows one.

use std::fmt::Write as _;

use super::axis::{Axis, digits};
use super::text::{escape, escape_to};

/// Colours there are; more runs begin again.
pub(super) const COLOURS: usize = 8;
/// With more points than this in a plot, they have no texts of their own to hover on.
const HOVER_MAX: usize = 1500;

/// The two sizes, in pixels.
const SIZES: [Size; 2] = [
    Size {
        class: "wide",
        width: 580.0,
        height: 300.0,
        left: 64.0,
        marks: 10.0,
        letters: 60,
    },
    Size {
        class: "narrow",
        width: 352.0,
        height: 260.0,
        left: 58.0,
        marks: 5.0,
        letters: 36,
    },
];
const TOP: f64 = 14.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 42.0;

struct Size {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    /// About so many ticks fit below.
    marks: f64,
    /// So many letters fit in a line.
    letters: usize,
}

/// One line of a plot.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    /// Of which run.
    pub(super) run: usize,
    /// Dashed, for the second figure of a run.
    pub(super) dashed: bool,
    /// Thin and faint, where rounds lie over each other.
    pub(super) faint: bool,
    /// Its points in pieces, between which nothing was measured.
    pub(super) pieces: Vec<Vec<Point>>,
}

/// A point of a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Shown on hovering.
    pub(super) text: String,
}

/// Lines over a common ground.
pub(super) struct Plot<'a> {
    /// What it shows, for those who cannot see it.
    pub(super) title: &'a str,
    /// Makes the x axis with about so many ticks.
    pub(super) x: &'a dyn Fn(f64) -> Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

impl Plot<'_> {
    /// Both sizes. Without a point, a sentence says so.
    pub(super) fn svg(&self) -> String {
        let points: usize = self
            .lines
            .iter()
            .flat_map(|line| &line.pieces)
            .map(Vec::len)
            .sum();
        if points == 0 {
            return "<p class=\"none\">Nothing was measured here.</p>".to_owned();
        }
        SIZES
            .iter()
            .map(|size| self.sized(size, points <= HOVER_MAX))
            .collect()
    }

    fn sized(&self, size: &Size, hover: bool) -> String {
        let mut out = open(size, size.height, self.title);
        let x = (self.x)(size.marks);
        let (right, bottom) = (size.width - RIGHT, size.height - BOTTOM);
        let across = |place: f64| size.left + place * (right - size.left);
        let up = |place: f64| bottom - place * (bottom - TOP);
        for (at, label) in &self.y.ticks {
            let Some(y) = self.y.place(*at).map(up) else {
                continue;
            };
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                size.left,
                size.left - 8.0,
                y + 4.0
            );
        }
        for (at, label) in &x.ticks {
            let Some(x) = x.place(*at).map(across) else {
                continue;
            };
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 17.0
            );
        }
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{:.1}\" y1=\"{bottom:.1}\" x2=\"{right:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"unit\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            size.left,
            size.height - 6.0,
            escape(&x.title)
        );
        for line in &self.lines {
            for piece in &line.pieces {
                let places: Vec<(f64, f64, &str)> = piece
                    .iter()
                    .filter_map(|point| {
                        let (x, y) = (x.place(point.x)?, self.y.place(point.y)?);
                        Some((across(x), up(y), point.text.as_str()))
                    })
                    .collect();
                draw(&mut out, line, &places, hover);
            }
        }
        out.push_str("</svg>");
        out
    }
}

fn draw(out: &mut String, line: &Line, places: &[(f64, f64, &str)], hover: bool) {
    let colour = line.run % COLOURS;
    let dashed = if line.dashed { " dashed" } else { "" };
    let faint = if line.faint { " faint" } else { "" };
    if let [(x, y, _)] = places {
        // A line of one point would not be seen.
        let _ = write!(
            out,
            "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
        );
    } else if !places.is_empty() {
        let _ = write!(out, "<path class=\"line c{colour}{dashed}{faint}\" d=\"");
        for (nth, (x, y, _)) in places.iter().enumerate() {
            let _ = write!(out, "{}{x:.1} {y:.1}", if nth == 0 { 'M' } else { 'L' });
        }
        out.push_str("\"/>");
    }
    for (x, y, text) in places.iter().filter(|_| hover) {
        let _ = write!(
            out,
            "<circle class=\"hover c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{}</title></circle>",
            escape(text)
        );
    }
}

fn open(size: &Size, height: f64, title: &str) -> String {
    format!(
        "<svg class=\"{}\" viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">",
        size.class,
        size.width,
        escape(title)
    )
}

/// One bar: a median and, over several rounds, the range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    pub(super) run: usize,
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) range: Option<(f64, f64)>,
}

/// Bars below each other, on an axis from 0.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 46.0;
    if bars.is_empty() {
        return "<p class=\"none\">Nothing was measured here.</p>".to_owned();
    }
    let highest = |bar: &Bar| bar.range.map_or(bar.value, |(_, high)| bar.value.max(high));
    let max = bars.iter().map(highest).fold(0.0, f64::max);
    let rows: f64 = bars.iter().map(|_| ROW).sum();
    let mut all = String::new();
    for size in &SIZES {
        let height = 6.0 + rows + BOTTOM;
        let mut out = open(size, height, title);
        let axis = Axis::amounts(unit, max, size.marks / 2.0, false);
        let (left, right, bottom) = (6.0, size.width - RIGHT - 52.0, 6.0 + rows);
        let across = |value: f64| axis.place(value).map(|place| left + place * (right - left));
        for (at, label) in &axis.ticks {
            let Some(x) = across(*at) else { continue };
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"6\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 17.0
            );
        }
        let mut top = 6.0;
        for bar in bars {
            let Some(end) = across(bar.value) else {
                continue;
            };
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{left}\" y=\"{:.1}\">{}</text>\
                 <rect class=\"bar c{}\" x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"18\" rx=\"2\"/>",
                top + 14.0,
                escape_to(&bar.label, size.letters),
                bar.run % COLOURS,
                top + 20.0,
                end - left
            );
            let mut text_at = end;
            if let Some((low, high)) = bar.range
                && let (Some(low), Some(high)) = (across(low), across(high))
            {
                let middle = top + 29.0;
                let _ = write!(
                    out,
                    "<path class=\"whisker\" d=\"M{low:.1} {middle}L{high:.1} {middle}M{low:.1} {:.1}v8M{high:.1} {:.1}v8\"/>",
                    middle - 4.0,
                    middle - 4.0
                );
                text_at = text_at.max(high);
            }
            let _ = write!(
                out,
                "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                text_at + 7.0,
                top + 33.5,
                digits(bar.value)
            );
            top += ROW;
        }
        let _ = write!(
            out,
            "<text class=\"unit\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text></svg>",
            height - 6.0,
            escape(unit)
        );
        all.push_str(&out);
    }
    all
}
