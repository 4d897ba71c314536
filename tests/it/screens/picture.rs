//! A screen as a picture: SVG that any browser shows, and whose text is the screen's.

use std::fmt::Write as _;

use crate::terminal::COLUMNS;

/// Of one character, in pixels, for a monospaced font of 14.
const WIDTH: f32 = 8.43;
const HEIGHT: f32 = 19.0;
const MARGIN: f32 = 16.0;

#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    colour: Option<usize>,
    bold: bool,
    dim: bool,
}

/// The eight colours of a terminal, then the bright ones, on a dark ground.
const COLOURS: [&str; 16] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681", "#ffa198",
    "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc",
];

/// `command` is shown as what was typed before the screen.
pub fn of(command: &str, screen: &str) -> String {
    let rows = 1 + screen.lines().count();
    let (width, height) = (COLUMNS as f32 * WIDTH + 2.0 * MARGIN, rows as f32 * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    let typed = format!("\x1b[2m$\x1b[0m \x1b[1m{command}\x1b[0m");
    let mut style = Style::default();
    for (row, line) in std::iter::once(typed.as_str()).chain(screen.lines()).enumerate() {
        let y = MARGIN + (row as f32 + 0.75) * HEIGHT;
        write!(svg, "<text x=\"{MARGIN}\" y=\"{y:.1}\" fill=\"#c9d1d9\" xml:space=\"preserve\">").unwrap();
        spans(line, &mut style, &mut svg);
        svg.push_str("</text>\n");
    }
    svg + "</svg>\n"
}

/// The style goes on from line to line, as in a terminal.
fn spans(line: &str, style: &mut Style, svg: &mut String) {
    let mut rest = line;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find('\x1b').unwrap_or(rest.len()));
        if !text.is_empty() {
            span(text, *style, svg);
        }
        let end = after.find('m').unwrap_or(after.len());
        if let Some(codes) = after.get(2..end) {
            style.apply(codes);
        }
        rest = after.get(end + 1..).unwrap_or_default();
    }
}

fn span(text: &str, style: Style, svg: &mut String) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if style == Style::default() {
        return svg.push_str(&text);
    }
    let colour = style.colour.map_or(String::new(), |n| format!(" fill=\"{}\"", COLOURS[n]));
    let bold = if style.bold { " font-weight=\"bold\"" } else { "" };
    let dim = if style.dim { " opacity=\"0.65\"" } else { "" };
    write!(svg, "<tspan{colour}{bold}{dim}>{text}</tspan>").unwrap();
}

impl Style {
    /// ECMA-48, 8.3.117, as far as tmux says it of ours.
    fn apply(&mut self, codes: &str) {
        for code in codes.split(';').map(|code| code.parse().unwrap_or(0)) {
            match code {
                0 => *self = Style::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                22 => (self.bold, self.dim) = (false, false),
                30..=37 => self.colour = Some(code - 30),
                39 => self.colour = None,
                // The ground, which we never colour.
                49 => {}
                90..=97 => self.colour = Some(code - 90 + 8),
                other => panic!("a picture has no {other}"),
            }
        }
    }
}

/// The text that a picture shows, line by line.
pub fn text(svg: &str) -> String {
    let mut lines = String::new();
    for line in svg.lines().filter(|line| line.starts_with("<text")) {
        let mut rest = line;
        while let Some(at) = rest.find('<') {
            lines.push_str(&rest[..at]);
            rest = rest[at..].find('>').map_or("", |end| &rest[at + end + 1..]);
        }
        lines.push('\n');
    }
    lines.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
