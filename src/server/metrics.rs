//! Metrics: the proxy's numbers as Prometheus reads them (text format 0.0.4).
//!
//! **Invariant**: each family is told once with its help and type, and every label is an app of this server or a word of
//! this program.

use std::fmt::Write;

use crate::proxy::counters::{App, BUCKETS, ENDS, Histogram, Metrics};

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// `lost_on_disk` are access lines that could not be written.
pub(crate) fn page(metrics: &Metrics, lost_on_disk: u64) -> String {
    let mut page = Page(String::new());
    requests(&mut page, metrics);
    endpoints(&mut page, metrics);
    connections(&mut page, metrics);
    own(&mut page, metrics, lost_on_disk);
    page.0
}

fn requests(page: &mut Page, metrics: &Metrics) {
    page.family(
        "tako_http_requests_total",
        "counter",
        "Requests that a route led to an app, by class of their status.",
    );
    for (app, numbers) in &metrics.apps {
        for (class, n) in CLASSES.iter().zip(numbers.classes) {
            page.sample("tako_http_requests_total", &[("app", app), ("status", class)], n);
        }
    }
    page.family(
        "tako_http_request_ends_total",
        "counter",
        "The same requests by who ended them; done is the good end.",
    );
    for (app, numbers) in &metrics.apps {
        for (by, n) in ENDS.iter().zip(numbers.ends) {
            page.sample("tako_http_request_ends_total", &[("app", app), ("by", by)], n);
        }
    }
    page.family("tako_http_own_answers_total", "counter", "Answers of the proxy itself, by status and reason.");
    for ((status, reason), n) in &metrics.answers {
        let status = status.to_string();
        page.sample("tako_http_own_answers_total", &[("status", &status), ("reason", reason)], *n);
    }
    page.per_app("tako_http_request_bytes_total", "counter", "Bytes of requests.", metrics, |app| app.bytes_in);
    page.per_app("tako_http_response_bytes_total", "counter", "Bytes of responses.", metrics, |app| app.bytes_out);
    let help = "From the whole head to the last byte with the kernel; tunnels are left out.";
    page.histograms("tako_http_request_duration_seconds", help, metrics, |app| &app.duration);
    let help = "From asking an endpoint to the first byte of its answer.";
    page.histograms("tako_http_upstream_duration_seconds", help, metrics, |app| &app.upstream);
}

fn endpoints(page: &mut Page, metrics: &Metrics) {
    page.per_app("tako_endpoints", "gauge", "Endpoints in balancing.", metrics, |app| app.endpoints);
    let help = "Endpoints that took no connection, or broke it before an answer.";
    page.per_app("tako_endpoint_failures_total", "counter", help, metrics, |app| app.failures);
    let help = "Endpoints tried after the first one of a request.";
    page.per_app("tako_http_retries_total", "counter", help, metrics, |app| app.retries);
    page.family("tako_endpoint_links_total", "counter", "Links to endpoints that requests went out on.");
    for (app, numbers) in &metrics.apps {
        page.sample("tako_endpoint_links_total", &[("app", app), ("link", "new")], numbers.opened);
        page.sample("tako_endpoint_links_total", &[("app", app), ("link", "reused")], numbers.reused);
    }
    page.one("tako_endpoint_links_idle", "gauge", "Links kept for the next requests.", metrics.idle_links);
}

fn connections(page: &mut Page, metrics: &Metrics) {
    page.one("tako_connections", "gauge", "Client connections.", metrics.connections);
    page.one("tako_connections_limit", "gauge", "Most connections there can be.", metrics.max_connections);
    page.one("tako_connections_accepted_total", "counter", "Connections accepted.", metrics.accepted);
    page.one("tako_connections_evicted_total", "counter", "Idle connections closed to make room.", metrics.evicted);
    page.one("tako_connections_idled_total", "counter", "Connections closed after being idle.", metrics.idled);
    page.one("tako_accept_pauses_total", "counter", "Times a worker stopped accepting.", metrics.accept_pauses);
    page.one("tako_slow_clients_cut_total", "counter", "Clients that took an answer too slowly.", metrics.cut);
    page.one("tako_requests_parked", "gauge", "Requests that wait for a sleeping app.", metrics.parked);
    page.one("tako_tunnels", "gauge", "WebSockets that are open.", metrics.tunnels);
    page.family("tako_tls_handshakes_total", "counter", "TLS handshakes that succeeded.");
    page.sample("tako_tls_handshakes_total", &[("kind", "full")], metrics.full_handshakes);
    page.sample("tako_tls_handshakes_total", &[("kind", "resumed")], metrics.resumed_handshakes);
    page.family("tako_tls_handshake_failures_total", "counter", "TLS handshakes that did not, by reason.");
    for ((_, reason), n) in &metrics.failed_handshakes {
        page.sample("tako_tls_handshake_failures_total", &[("reason", reason)], *n);
    }
}

fn own(page: &mut Page, metrics: &Metrics, lost_on_disk: u64) {
    page.one("tako_buffered_bytes", "gauge", "Memory that holds bytes on their way.", metrics.buffered);
    page.one("tako_loop_stalls_total", "counter", "Passes of an event loop of more than 50 ms.", metrics.stalls);
    page.family("tako_loop_pass_max_seconds", "gauge", "The slowest pass of the last ten to twenty seconds.");
    page.value("tako_loop_pass_max_seconds", &[], &seconds(metrics.slowest_pass_us));
    page.one("tako_loop_panics_total", "counter", "Bugs that cost a connection.", metrics.panics);
    page.one("tako_tables_published_total", "counter", "Routing tables published.", metrics.tables);
    page.family("tako_access_lines_lost_total", "counter", "Access lines that were left out, by where.");
    page.sample("tako_access_lines_lost_total", &[("at", "queue")], metrics.lost_lines);
    page.sample("tako_access_lines_lost_total", &[("at", "disk")], lost_on_disk);
    page.family("tako_build_info", "gauge", "The version of tako-server.");
    page.sample("tako_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

struct Page(String);

impl Page {
    // Writing to memory does not fail, here and below.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn per_app(&mut self, name: &str, kind: &str, help: &str, metrics: &Metrics, of: impl Fn(&App) -> u64) {
        self.family(name, kind, help);
        for (app, numbers) in &metrics.apps {
            self.sample(name, &[("app", app)], of(numbers));
        }
    }

    fn histograms(&mut self, name: &str, help: &str, metrics: &Metrics, of: impl Fn(&App) -> &Histogram) {
        self.family(name, "histogram", help);
        for (app, numbers) in &metrics.apps {
            let Histogram { counts, sum_us } = of(numbers);
            let mut so_far = 0;
            let bounds = BUCKETS.iter().map(|us| seconds(*us)).chain(["+Inf".into()]);
            for (bound, n) in bounds.zip(counts) {
                so_far += n;
                self.sample(&format!("{name}_bucket"), &[("app", app), ("le", &bound)], so_far);
            }
            self.value(&format!("{name}_sum"), &[("app", app)], &seconds(*sum_us));
            self.sample(&format!("{name}_count"), &[("app", app)], so_far);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.value(name, labels, &value.to_string());
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if i == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

fn seconds(us: u64) -> String {
    (us as f64 / 1e6).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;

    type Labels = BTreeMap<String, String>;

    /// A reader of the text format that knows nothing of the writer; it refuses what the format does not allow.
    fn read(page: &str) -> BTreeMap<(String, Labels), f64> {
        let (mut types, mut helped, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut family = String::new();
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(helped.insert(name.to_string()) && !help.is_empty(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind) && helped.contains(name), "{line}");
                assert!(types.insert(name.to_string(), kind.to_string()).is_none(), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = name.into();
            } else {
                let (name, labels, value) = sample(line);
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
                let base = base.filter(|base| types.get(*base).is_some_and(|t| t == "histogram")).unwrap_or(&name);
                assert_eq!(base, family, "out of its family: {line}");
                assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        samples
    }

    fn sample(line: &str) -> (String, Labels, f64) {
        let is_name = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        assert!(is_name(name) && name.starts_with("tako_"), "{line}");
        let mut labels = Labels::new();
        if let Some(mut inner) = rest.strip_prefix('{') {
            while !inner.starts_with('}') {
                let (label, tail) = inner.split_once("=\"").unwrap();
                assert!(is_name(label), "{line}");
                let mut text = String::new();
                let mut chars = tail.char_indices();
                let end = loop {
                    match chars.next().unwrap() {
                        (i, '"') => break i,
                        (_, '\\') => text.push(match chars.next().unwrap().1 {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            c => panic!("\\{c} in {line}"),
                        }),
                        (_, c) => text.push(c),
                    }
                };
                assert!(labels.insert(label.into(), text).is_none(), "{line}");
                inner = tail[end + 1..].trim_start_matches(',');
            }
            rest = &inner[1..];
        }
        let value = rest.strip_prefix(' ').unwrap();
        (name.into(), labels, value.parse().unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn tells_what_there_is_in_the_format_of_prometheus() {
        let mut app = App { endpoints: 2, classes: [0, 1, 5, 0, 0, 2], ends: [7, 0, 0, 1, 0], ..App::default() };
        app.duration.counts[0] = 3;
        app.duration.counts[2] = 2;
        app.duration.counts[BUCKETS.len()] = 1;
        app.duration.sum_us = 12_345_678;
        let mut metrics = Metrics { apps: BTreeMap::from([(Arc::from("shop"), app)]), tables: 9, ..Metrics::default() };
        metrics.answers.insert((400, "`*` is \"for\" \\ OPTIONS\n"), 4);
        metrics.failed_handshakes.insert((0, "not TLS"), 3);
        let samples = read(&page(&metrics, 6));
        let value = |name: &str, pairs: &[(&str, &str)]| samples[&(name.to_string(), labels(pairs))];
        assert_eq!(value("tako_http_requests_total", &[("app", "shop"), ("status", "5xx")]), 2.0);
        assert_eq!(value("tako_http_request_ends_total", &[("app", "shop"), ("by", "timeout")]), 1.0);
        let reason = [("status", "400"), ("reason", "`*` is \"for\" \\ OPTIONS\n")];
        assert_eq!(value("tako_http_own_answers_total", &reason), 4.0);
        assert_eq!(value("tako_endpoints", &[("app", "shop")]), 2.0);
        assert_eq!(value("tako_tls_handshake_failures_total", &[("reason", "not TLS")]), 3.0);
        assert_eq!(value("tako_tables_published_total", &[]), 9.0);
        assert_eq!(value("tako_access_lines_lost_total", &[("at", "disk")]), 6.0);
        let bucket = |le: &str| value("tako_http_request_duration_seconds_bucket", &[("app", "shop"), ("le", le)]);
        assert_eq!([bucket("0.0005"), bucket("0.001"), bucket("0.0025"), bucket("10")], [3.0, 3.0, 5.0, 5.0]);
        assert_eq!(bucket("+Inf"), 6.0);
        assert_eq!(value("tako_http_request_duration_seconds_count", &[("app", "shop")]), 6.0);
        assert_eq!(value("tako_http_request_duration_seconds_sum", &[("app", "shop")]), 12.345678);
    }

    #[test]
    fn a_server_without_traffic_tells_so() {
        let samples = read(&page(&Metrics::default(), 0));
        assert!(samples.iter().all(|((name, _), value)| *value == 0.0 || name == "tako_build_info"), "{samples:?}");
    }
}
