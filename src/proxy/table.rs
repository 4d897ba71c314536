//! Table: what the data plane chooses by. Immutable once published; the next one replaces it as a whole.
//!
//! [`Index`] is a table as the workers read it: hosts in maps, the routes of a host in the order they are tried.
//! **Invariant**: it finds the same route as trying all of them in the order of [`Route::precedence`] would.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustls::ServerConfig;

use super::certs::Certs;
use super::files::root::Root;
use super::quick::{Map, Set};
use crate::proto::route::Route;

/// What the control plane publishes.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Which upstream (an index into `upstreams`) answers to which route; in any order, the table sorts them.
    pub entries: Vec<(Route, usize)>,
    pub upstreams: Vec<Upstream>,
    pub certs: Arc<Certs>,
    /// What to say at `/.well-known/acme-challenge/…` over plain HTTP (RFC 8555 §8.3), by `host/token`.
    pub challenges: Arc<HashMap<String, String>>,
}

/// Names one running instance for as long as the server lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EndpointId(pub u64);

/// Where an instance listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub id: EndpointId,
    pub addr: SocketAddr,
}

/// One app's endpoints, and how it is to be treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// For logs: the app's id.
    pub name: Arc<str>,
    /// In balancing now; when there are none, `standing` says what becomes of a request.
    pub endpoints: Vec<Endpoint>,
    pub standing: Standing,
    /// Largest request body in bytes; 413 beyond.
    pub body_limit: u64,
    /// Folders whose files are served without asking the app: the live one first, then those of releases that drain.
    pub assets: Vec<Root>,
}

/// What a request meets while there are no endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There should be some: 503.
    Awake,
    /// There will be some once asked for: the request waits, `patience` at most, and [`super::Notice::Wake`] is said.
    /// While there are some, [`super::Notice::Activity`] is.
    OnDemand { patience: Duration },
    /// They could not be had: 502.
    Failed,
}

/// A network, as `address/bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net {
    pub address: IpAddr,
    pub bits: u8,
}

impl Net {
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (net, ip, width) = match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => (u128::from(net.to_bits()), u128::from(ip.to_bits()), 32u32),
            (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let host_bits = width.saturating_sub(u32::from(self.bits));
        (net ^ ip).checked_shr(host_bits).unwrap_or(0) == 0
    }
}

/// A published table, ready to be searched.
pub(super) struct Index {
    pub generation: u64,
    pub upstreams: Vec<Upstream>,
    /// What is known of each upstream beyond this table.
    pub lasting: Vec<Lasting>,
    pub tls: Arc<ServerConfig>,
    exact: Map<Box<str>, Vec<(Route, usize)>>,
    /// By the suffix after `*.`.
    wild: Map<Box<str>, Vec<(Route, usize)>>,
    endpoints: Set<EndpointId>,
    challenges: Arc<HashMap<String, String>>,
}

/// What an upstream keeps from one table to the next.
#[derive(Debug, Clone)]
pub(super) struct Lasting {
    /// Its name, for those who hold it over several tables.
    pub number: u32,
    /// Requests of all workers that wait for it.
    pub waiting: Arc<AtomicUsize>,
}

impl Index {
    /// Its generation is given when it is published.
    pub fn new(table: Table, tls: Arc<ServerConfig>, lasting: Vec<Lasting>) -> Self {
        let Table { mut entries, upstreams, challenges, .. } = table;
        debug_assert!(entries.iter().all(|(_, upstream)| *upstream < upstreams.len()), "a route leads nowhere");
        entries.sort_by(|(a, _), (b, _)| a.precedence().cmp(&b.precedence()));
        let (mut exact, mut wild) = (Map::<_, Vec<_>>::default(), Map::<_, Vec<_>>::default());
        for (route, upstream) in entries {
            let map = if route.is_wildcard() { &mut wild } else { &mut exact };
            map.entry(Box::from(route.host())).or_default().push((route, upstream));
        }
        let endpoints = upstreams.iter().flat_map(|u| &u.endpoints).map(|e| e.id).collect();
        Index { generation: 0, upstreams, lasting, tls, exact, wild, endpoints, challenges }
    }

    /// The upstream for `host` (lower-case, no port, no final dot) and `path` (no query).
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.entry(host, path).map(|(_, upstream)| *upstream)
    }

    /// How many bytes of `path` are the route's own.
    pub fn prefix(&self, host: &str, path: &str) -> usize {
        self.entry(host, path).map_or(0, |(route, _)| route.path_prefix().len())
    }

    fn entry(&self, host: &str, path: &str) -> Option<&(Route, usize)> {
        fn pick<'a>(routes: &'a [(Route, usize)], path: &str) -> Option<&'a (Route, usize)> {
            routes.iter().find(|(route, _)| route.matches_path(path))
        }
        if let Some(entry) = self.exact.get(host).and_then(|routes| pick(routes, path)) {
            return Some(entry);
        }
        // Longer suffixes come first. A suffix has a label before it, so a host never matches as its own suffix.
        let dots = host.bytes().enumerate().filter(|(i, b)| *b == b'.' && *i > 0);
        dots.map(|(i, _)| &host[i + 1..]).find_map(|suffix| pick(self.wild.get(suffix)?, path))
    }

    /// What proves to a certificate authority that `host` is served here.
    pub fn challenge(&self, host: &str, token: &str) -> Option<&str> {
        self.challenges.get(&format!("{host}/{token}")).map(String::as_str)
    }

    pub fn has(&self, endpoint: EndpointId) -> bool {
        self.endpoints.contains(&endpoint)
    }

    pub fn endpoints(&self) -> &Set<EndpointId> {
        &self.endpoints
    }

    /// Whether some upstream has the folder with this id.
    pub fn has_root(&self, id: u64) -> bool {
        self.upstreams.iter().flat_map(|u| &u.assets).any(|root| root.id() == id)
    }

    /// Where an upstream of an earlier table is now: places change, numbers stay.
    pub fn place_of(&self, number: u32) -> Option<usize> {
        self.lasting.iter().position(|l| l.number == number)
    }

    /// What a request for the upstream with this number meets; `None` when the table lacks it.
    pub fn standing(&self, number: u32) -> Option<Standing> {
        let upstream = &self.upstreams[self.place_of(number)?];
        Some(if upstream.endpoints.is_empty() { upstream.standing } else { Standing::Awake })
    }

    /// A request for it would have to wait.
    pub fn is_asleep(&self, number: u32) -> bool {
        matches!(self.standing(number), Some(Standing::OnDemand { .. }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proxy::tls;

    /// An index in which the n-th route leads to the n-th upstream.
    pub(in crate::proxy) fn index(routes: &[&str]) -> Index {
        let upstream = |name: &&str| Upstream {
            name: Arc::from(*name),
            endpoints: vec![],
            standing: Standing::Awake,
            body_limit: 1 << 20,
            assets: vec![],
        };
        let entries = routes.iter().enumerate().map(|(i, r)| (Route::parse(r).unwrap(), i)).collect();
        let certs = Arc::new(crate::proxy::certs::tests::certs("default.test"));
        let tls = tls::Configs::new().unwrap().server(&certs);
        let lasting = (0..routes.len() as u32).map(|number| Lasting { number, waiting: Arc::default() }).collect();
        let upstreams = routes.iter().map(upstream).collect();
        let challenges = Arc::new(HashMap::from([("a.b/token".to_string(), "token.thumb".to_string())]));
        Index::new(Table { entries, upstreams, certs, challenges }, tls, lasting)
    }

    #[test]
    fn finds_the_most_specific_route() {
        let routes = ["*.b", "a.b", "a.b/api/*", "*.a.b/x", "*.a.b", "*.c.a.b/only"];
        let index = index(&routes);
        let check = |host, path, expected: &str| {
            assert_eq!(index.find(host, path).map_or("none", |i| routes[i]), expected, "{host}{path}");
        };
        check("a.b", "/", "a.b");
        check("a.b", "/api/", "a.b/api/*");
        check("a.b", "/apix", "a.b");
        check("z.b", "/", "*.b");
        check("z.a.b", "/x/", "*.a.b/x");
        check("z.a.b", "/y", "*.a.b");
        check("z.c.a.b", "/y", "*.a.b");
        check("z.c.a.b", "/only", "*.c.a.b/only");
        check("b", "/", "none");
        check(".b", "/", "none");
        check("z.c", "/", "none");
    }

    #[test]
    fn networks_contain_by_prefix() {
        let check = |net: &str, bits, ip: &str, expected| {
            let net = Net { address: net.parse().unwrap(), bits };
            assert_eq!(net.contains(ip.parse().unwrap()), expected, "{net:?} {ip}");
        };
        check("10.0.0.0", 8, "10.255.1.1", true);
        check("10.0.0.0", 8, "11.0.0.0", false);
        check("0.0.0.0", 0, "1.2.3.4", true);
        check("1.2.3.4", 32, "1.2.3.5", false);
        check("1.2.3.4", 40, "1.2.3.5", false);
        check("fd00::", 8, "fdff::1", true);
        check("::", 0, "1.2.3.4", false);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_trying_all_routes_in_order(
            routes in proptest::collection::btree_set("(\\*\\.)?[ab](\\.[ab]){0,2}(/[xy](/[xy])?)?(/\\*)?", 1..12),
            host in "[ab](\\.[ab]){0,3}",
            path in "(/[xyz]){0,3}/?",
        ) {
            let mut parsed: Vec<Route> = routes.iter().map(|r| Route::parse(r).unwrap()).collect();
            parsed.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
            parsed.dedup();
            let names: Vec<String> = parsed.iter().map(Route::to_string).collect();
            let index = index(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = parsed.iter().position(|r| r.matches(&host, &path));
            proptest::prop_assert_eq!(index.find(&host, &path), expected);
        }
    }
}
