//! The valid requests of gunicorn: one stream of requests a file.

use std::collections::BTreeMap;
use std::fs;

use super::differences::{GUNICORN, Ours};
use super::{End, Hex, corpus, requests, unescape};
use crate::proxy::lab::parsers;

#[test]
fn every_valid_request_of_gunicorn_is_accepted_or_listed() {
    let Some(root) = corpus("gunicorn-valid") else { return };
    let mut found = BTreeMap::new();
    let (mut files, mut messages) = (0, 0);
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "http") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes.retain(|b| *b != b'\n'); // ends of lines are written as escapes
        let bytes = unescape(&bytes, Hex::Byte);
        parsers::request_head(&bytes);
        let reading = requests(&bytes);
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        match reading.end {
            End::Refused(status) => drop(found.insert(name, Ours::Refuses(status))),
            End::Open | End::Closed { .. } => {
                messages += reading.messages.len();
                if !reading.messages.last().unwrap().whole {
                    found.insert(name, Ours::Waits);
                }
            }
        }
        files += 1;
    }
    let listed: BTreeMap<String, Ours> = GUNICORN.iter().map(|(name, ours, _)| ((*name).into(), *ours)).collect();
    assert_eq!(found, listed);
    assert!(files > 60 && messages > 40, "{files} files, {messages} requests");
}
