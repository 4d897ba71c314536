//! Assets: which folders are posted, and when they go.

use super::*;
use crate::proxy::files::root::Root;

impl Sandbox {
    /// A release with a folder of files.
    fn order_with_files(&self, version: &str, instances: u32) -> Deploy {
        let order = self.order(version, "serve", instances);
        disk::make_dirs(&self.release_dir(version).join("public"), 0o755).unwrap();
        order
    }

    fn drained_soon(&self, version: &str, instances: u32) -> Deploy {
        let mut order = self.order_with_files(version, instances);
        order.manifest.limits.drain_timeout_s = 1;
        order
    }

    /// The folders as they were posted, from the `from`th post on: each list that differs from the one before.
    fn told(&self, from: usize) -> Vec<Vec<Root>> {
        let mut told: Vec<_> = self.play.scene().posts[from..].iter().map(|p| p.assets.clone()).collect();
        told.dedup();
        told
    }

    fn go(&self, order: Deploy) {
        done(&self.handle.deploy(order, "ana".into())).unwrap();
    }
}

#[test]
fn assets_change_with_the_commit_and_the_former_ones_go_after_the_drain() {
    let it = Sandbox::new();
    it.go(it.drained_soon("v1", 1));
    let one = it.posted().assets;
    assert_eq!(one.len(), 1);
    let posts = it.play.scene().posts.len();
    it.go(it.order_with_files("v2", 1));
    until("the former assets go", || it.posted().assets.len() == 1 && it.posted().assets != one);
    let two = it.posted().assets;
    let both = [&two[..], &one[..]].concat();
    assert_eq!(it.told(posts), [both.clone(), two]);
    // Back: a drain of twenty seconds, so that both stay.
    done(&it.handle.rollback(None, "ana".into())).unwrap();
    let back = it.posted().assets;
    assert!(back.len() == 2 && back[1] == both[0], "{back:?}");
    it.go(it.order_with_files("v2", 1));
    assert_eq!(it.posted().assets.len(), 2, "one release is looked in once");
}

#[test]
fn a_release_without_files_leaves_those_of_the_one_before_for_the_drain() {
    let it = Sandbox::new();
    it.go(it.order("v1", "serve", 1));
    assert!(it.posted().assets.is_empty());
    it.go(it.drained_soon("v2", 1));
    assert_eq!(it.posted().assets.len(), 1);
    let (before, posts) = (it.posted().assets, it.play.scene().posts.len());
    it.go(it.order("v3", "serve", 1));
    until("they go", || it.posted().assets.is_empty());
    assert_eq!(it.told(posts), [before, vec![]], "after the drain, not before");
}

#[test]
fn before_the_commit_new_assets_are_looked_for_last_and_a_failure_takes_them_back() {
    let it = Sandbox::new();
    it.go(it.order_with_files("v1", 3));
    let before = it.posted();
    let posts = it.play.scene().posts.len();
    let mut order = it.order_with_files("v2", 3);
    order.manifest.vars = [("PLAY".to_string(), "third exits".to_string())].into();
    done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    let scene = it.play.scene();
    let told: Vec<_> = scene.posts[posts..].iter().map(|p| (p.assets.len(), p.assets[0] == before.assets[0])).collect();
    assert_eq!(told, [(2, true), (2, true), (1, true)]);
}

#[test]
fn a_link_in_place_of_the_folder_serves_nothing() {
    let it = Sandbox::new();
    let order = it.order("v1", "serve", 1);
    std::os::unix::fs::symlink(".", it.release_dir("v1").join("public")).unwrap();
    it.go(order);
    assert!(it.posted().assets.is_empty());
}

#[test]
fn assets_are_there_after_a_restart() {
    let mut it = Sandbox::new();
    it.go(it.order_with_files("v1", 1));
    it.restart();
    until("it serves", || it.play.scene().posts.last().is_some_and(|p| p.endpoints.len() == 1));
    assert_eq!(it.posted().assets.len(), 1);
}
