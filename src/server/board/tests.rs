use std::sync::mpsc;

use super::*;
use crate::proxy::table::{EndpointId, Standing};
use crate::server::layout::Layout;

/// Keeps the tables that a proxy would have got.
struct Record(mpsc::Sender<Table>, Mutex<u64>);

impl Publish for Record {
    fn publish(&self, table: Table) -> u64 {
        let mut generation = self.1.lock().unwrap();
        *generation += 1;
        let _ = self.0.send(table);
        *generation
    }

    fn metrics(&self) -> crate::proxy::counters::Metrics {
        crate::proxy::counters::Metrics::default()
    }

    fn stop(self: Box<Self>, _deadline: Instant) {}
}

struct World {
    board: Board,
    tables: mpsc::Receiver<Table>,
    notices: Sender<Notice>,
    dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (to, tables) = mpsc::channel();
    let (notices, heard) = bounded(16);
    let folder = Folder::open(Arc::new(Layout::new(dir.path().into()))).unwrap();
    let board = Board::start(Box::new(Record(to, Mutex::new(0))), heard, folder).unwrap();
    World { board, tables, notices, dir }
}

impl World {
    fn last_table(&self) -> Table {
        self.tables.try_iter().last().expect("a table was published")
    }
}

fn app(s: &str) -> AppId {
    AppId::parse(s).unwrap()
}

fn routes(list: &[&str]) -> Vec<Route> {
    list.iter().map(|s| Route::parse(s).unwrap()).collect()
}

fn posting(list: &[&str]) -> Posting {
    let endpoint = Endpoint { id: EndpointId(7), addr: ([127, 0, 0, 1], 4000).into() };
    let (routes, endpoints) = (routes(list), vec![endpoint]);
    Posting { routes, endpoints, standing: Standing::Awake, body_limit: 10, assets: vec![] }
}

#[test]
fn two_apps_cannot_own_one_pattern_and_the_owner_is_named() {
    let w = world();
    w.board.post(&app("blog"), posting(&["a.test", "b.test/api/*"]));
    let e = w.board.check(&app("shop"), &routes(&["c.test", "B.test/api/*"])).unwrap_err();
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (Kind::Conflict, "shop cannot have route b.test/api/*: it belongs to blog")
    );
    assert!(w.board.check(&app("blog"), &routes(&["a.test"])).unwrap().is_empty());
    w.board.remove(&app("blog"));
    assert!(w.board.check(&app("shop"), &routes(&["a.test"])).is_ok());
}

#[test]
fn a_claim_keeps_others_away_until_it_is_dropped() {
    let w = world();
    let claim = w.board.claim(&app("blog"), &routes(&["a.test"])).unwrap();
    assert_eq!(w.board.claim(&app("shop"), &routes(&["a.test"])).err().unwrap().kind(), Kind::Conflict);
    assert!(w.board.claim(&app("blog"), &routes(&["a.test"])).is_ok());
    drop(claim);
    assert!(w.board.claim(&app("shop"), &routes(&["a.test"])).is_ok());
}

#[test]
fn lists_routes_of_others_that_take_from_ours() {
    let w = world();
    w.board.post(&app("blog"), posting(&["x.a.test/blog/*", "a.test/exact", "*.deep.a.test", "other.test"]));
    let check = |ours: &str, expected: &[&str]| {
        assert_eq!(w.board.check(&app("shop"), &routes(&[ours])).unwrap(), expected, "{ours}");
    };
    check("x.a.test", &["x.a.test/blog/* (blog)"]);
    check("x.a.test/blog/sub/*", &[]);
    check("x.a.test/blogger/*", &[]);
    check("*.a.test", &["*.deep.a.test (blog)", "x.a.test/blog/* (blog)"]);
    check("*.a.test/api/*", &["*.deep.a.test (blog)"]);
    check("a.test/*", &["a.test/exact (blog)"]);
    check("deep.a.test", &[]);
}

#[test]
fn refuses_more_routes_than_anyone_needs() {
    let w = world();
    let many: Vec<Route> = (0..=MAX_ROUTES).map(|n| Route::parse(&format!("h{n}.test")).unwrap()).collect();
    assert_eq!(w.board.check(&app("shop"), &many).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_table_holds_every_app_with_its_routes_endpoints_and_keys() {
    let w = world();
    assert!(w.last_table().upstreams.is_empty());
    let one = w.board.post(&app("shop"), posting(&["shop.test", "*.shop.test"]));
    let two = w.board.post(&app("blog"), posting(&["blog.test/a/*"]));
    assert!(two > one);
    let table = w.last_table();
    let shown: Vec<String> =
        table.entries.iter().map(|(r, at)| format!("{r} -> {}", table.upstreams[*at].name)).collect();
    assert_eq!(shown, ["blog.test/a/* -> blog", "shop.test -> shop", "*.shop.test -> shop"]);
    assert_eq!(table.upstreams[0].endpoints[0].id, EndpointId(7));
    assert_eq!(table.upstreams[0].body_limit, 10);
    let mut names: Vec<_> = table.certs.by_name.keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["*.shop.test", "blog.test", "shop.test"]);
}

#[test]
fn a_post_that_changes_no_name_keeps_the_certs_as_they_are() {
    let w = world();
    w.board.post(&app("shop"), posting(&["shop.test"]));
    let before = w.last_table().certs;
    w.board.post(&app("shop"), Posting { endpoints: vec![], ..posting(&["shop.test"]) });
    let table = w.last_table();
    assert!(Arc::ptr_eq(&before, &table.certs));
    assert!(table.upstreams[0].endpoints.is_empty());
}

#[test]
fn a_route_that_another_app_owns_never_gets_into_the_table_twice() {
    let w = world();
    w.board.post(&app("shop"), posting(&["a.test"]));
    w.board.post(&app("blog"), posting(&["a.test", "b.test"]));
    let table = w.last_table();
    let of_a: Vec<_> = table.entries.iter().filter(|(r, _)| r.host() == "a.test").collect();
    assert_eq!(of_a.len(), 1);
    assert_eq!(&*table.upstreams[of_a[0].1].name, "shop");
}

#[test]
fn publishes_again_when_a_certificate_was_renewed_and_only_then() {
    let w = world();
    w.board.post(&app("shop"), posting(&["shop.test"]));
    let before = w.last_table();
    w.board.refresh_certs(SystemTime::now());
    assert!(w.tables.try_recv().is_err());
    w.board.refresh_certs(SystemTime::now() + crate::server::mint::LIFETIME);
    assert_ne!(w.last_table().certs.by_name["shop.test"].cert, before.certs.by_name["shop.test"].cert);
}

#[test]
fn forgets_certificates_that_no_other_app_needs() {
    let w = world();
    w.board.post(&app("shop"), posting(&["a.test", "b.test"]));
    w.board.post(&app("blog"), posting(&["b.test/blog/*"]));
    w.board.remove(&app("shop"));
    w.board.forget_certs(&routes(&["a.test", "b.test"]));
    assert!(!w.dir.path().join("certs/a.test").exists());
    assert!(w.dir.path().join("certs/b.test/key.pem").exists());
}

#[test]
fn notices_reach_every_subscriber_and_one_that_is_full_holds_up_nobody() {
    let w = world();
    let (full, _kept) = bounded(0);
    let (gone, _) = bounded(1);
    let (to, heard) = bounded(4);
    w.board.subscribe(&app("full"), full);
    w.board.subscribe(&app("gone"), gone);
    w.board.subscribe(&app("shop"), to);
    w.notices.send(Notice::Acked(1)).unwrap();
    w.notices.send(Notice::Drained(EndpointId(7))).unwrap();
    let within = Duration::from_secs(5);
    assert_eq!(heard.recv_timeout(within).unwrap(), Notice::Acked(1));
    assert_eq!(heard.recv_timeout(within).unwrap(), Notice::Drained(EndpointId(7)));
    let kept: Vec<_> = w.board.subscribers().keys().map(AppId::to_string).collect();
    assert_eq!(kept, ["full", "shop"]);
}

#[test]
fn an_app_that_was_taken_off_hears_when_its_endpoints_are_drained() {
    let w = world();
    let (to, heard) = bounded(4);
    w.board.subscribe(&app("shop"), to);
    w.board.post(&app("shop"), posting(&["a.test"]));
    w.board.remove(&app("shop"));
    w.notices.send(Notice::Drained(EndpointId(7))).unwrap();
    assert_eq!(heard.recv_timeout(Duration::from_secs(5)).unwrap(), Notice::Drained(EndpointId(7)));
}

#[test]
fn a_post_after_the_stop_goes_nowhere() {
    let w = world();
    w.board.stop(Instant::now());
    let before = w.tables.try_iter().count();
    assert_eq!(before, 1);
    w.board.post(&app("shop"), posting(&["a.test"]));
    assert!(w.tables.try_recv().is_err());
}
