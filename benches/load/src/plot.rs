//! The picture of a table: a bar for each candidate.

use std::fmt::Write as _;

const LEFT: f64 = 210.0;
const WIDTH: f64 = 430.0;
const ROW: f64 = 30.0;
const TOP: f64 = 56.0;

/// CPU time per request by candidate, in microseconds; the first is the one that is compared.
pub(crate) fn bars(costs: &[(&str, f64)]) -> String {
    let most = costs.iter().map(|(_, cost)| *cost).fold(1.0, f64::max);
    let height = TOP + ROW * costs.len() as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" \
         viewBox=\"0 0 720 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <title>CPU time of the gateway per request</title>\n\
         <rect width=\"720\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"16\" font-weight=\"bold\" fill=\"#1f2328\">CPU time of \
         the gateway per request, µs</text>\n\
         <text x=\"16\" y=\"43\" font-size=\"12\" fill=\"#59636e\">small authenticated request, 64 \
         connections, one worker; shorter is better</text>\n"
    );
    for (row, (name, cost)) in costs.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let middle = top + ROW / 2.0 + 1.0;
        let long = (WIDTH * cost / most).max(1.0);
        let colour = if name.starts_with("wxgate") { "#0a7d4f" } else { "#8c959f" };
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#1f2328\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{long:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1f2328\">{cost:.1}</text>",
            LEFT - 8.0,
            middle + 4.0,
            top + 5.0,
            ROW - 10.0,
            LEFT + long + 6.0,
            middle + 4.0,
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}
