//! A line of the access log for a person: `GET shop.example.com/cart 200 12 ms 1.4 kB 203.0.113.7`. What is not as it should
//! be comes last.

use serde_json::Value;

use crate::cli::ui::units;

/// The line as it lies in the file where it is not one of those.
pub(super) fn shown(line: &str) -> String {
    read(line).unwrap_or_else(|| line.into())
}

fn read(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| line[name].as_str();
    let number = |name: &str| line[name].as_u64();
    let what = match (text("method"), text("raw")) {
        (Some(method), _) => format!("{method} {}{}", text("host").unwrap_or_default(), text("path")?),
        (None, raw) => format!("no request: {}", raw?),
    };
    let took = match line["total_ms"].as_f64()? {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    };
    // A client that left before there was an answer was sent none.
    let status = number("status").filter(|status| *status > 0).map_or("–".into(), |status| status.to_string());
    let mut shown = format!("{status} {what} {took} {}", units::size(number("bytes_out")?));
    if let Some(peer) = text("peer") {
        shown += &format!(" {peer}");
    }
    let reason = text("reason").map(Into::into);
    let end = text("end").filter(|end| *end != "done").map(Into::into);
    let retries = match number("retries") {
        None | Some(0) => None,
        Some(1) => Some("1 retry".into()),
        Some(n) => Some(format!("{n} retries")),
    };
    for odd in [reason, end, retries].into_iter().flatten() {
        shown += &format!(" · {odd}");
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_short_line_and_what_went_wrong_stands_at_its_end() {
        let line = |more: &str| {
            format!(
                "{{\"time\":\"2026-01-02T03:04:05.678Z\",\"app\":\"shop\",\"method\":\"GET\",\"host\":\"a.b\",\"path\":\"/x?y=1\",\
                 \"peer\":\"10.0.0.9\",\"bytes_in\":61,{more}}}"
            )
        };
        let check = |more: &str, expected: &str| assert_eq!(shown(&line(more)), expected);
        let fine =
            "\"status\":200,\"bytes_out\":1400,\"total_ms\":12.007,\"retries\":0,\"reason\":null,\"end\":\"done\"";
        check(fine, "200 GET a.b/x?y=1 12 ms 1.4 kB 10.0.0.9");
        let bad = "\"status\":502,\"bytes_out\":90,\"total_ms\":1.26,\"retries\":2,\"reason\":\"no instance\",\"end\":\"endpoint-wait\"";
        check(bad, "502 GET a.b/x?y=1 1.3 ms 90 B 10.0.0.9 · no instance · endpoint-wait · 2 retries");
        let left =
            "\"status\":0,\"bytes_out\":0,\"total_ms\":1500,\"retries\":1,\"reason\":null,\"end\":\"client-wait\"";
        check(left, "– GET a.b/x?y=1 1.5 s 0 B 10.0.0.9 · client-wait · 1 retry");
        for odd in ["", "no json", "{}", "{\"method\":1}"] {
            assert_eq!(shown(odd), odd);
        }
    }
}
