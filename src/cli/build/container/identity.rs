//! Identity: which image a name stands for on the engine at the moment. A tag is moved by whoever builds or pulls.
//!
//! It is the digest under which the registry has it, else the engine's own number for it. The digest is that of all
//! platforms together, so that two targets that share a tag do not take turns in knowing it: most engines hold one
//! platform of a tag at a time.
//!
//! **Invariant**: no answer is not another image. What is not known changes nothing.

use std::time::Duration;

use super::{argv, docker};
use crate::cli::interrupt::Interrupt;
use crate::error::{Kind, Result};

/// An engine that takes longer is not waited for: only the cache wants to know.
const GLANCE: Duration = Duration::from_secs(5);

/// What `image` stands for; `None` when the engine has nothing of that name, does not answer, or the name says it.
///
/// # Errors
/// Interrupted.
pub(crate) fn identity(image: &str, interrupt: Option<&Interrupt>) -> Result<Option<String>> {
    if image.contains("@sha256:") {
        return Ok(None);
    }
    match docker::glance(&argv::identity_of(image), GLANCE, interrupt) {
        Ok(lines) => Ok(lines.first().and_then(|line| said(image, line))),
        Err(e) if e.kind() == Kind::Interrupted => Err(e),
        Err(_) => Ok(None),
    }
}

/// From a line such as `sha256:3f… me/builder@sha256:a1…`.
fn said(image: &str, line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let id = words.next()?;
    // A colon before the last slash is the registry's port.
    let repository = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    };
    let mut digests: Vec<&str> = words
        .filter_map(|word| word.split_once('@').filter(|(name, _)| *name == repository).map(|(_, digest)| digest))
        .collect();
    digests.sort_unstable();
    Some(if digests.is_empty() { id.to_owned() } else { digests.join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_digest_counts_before_the_engines_number() {
        let check = |image: &str, line: &str, expected: Option<&str>| {
            assert_eq!(said(image, line).as_deref(), expected, "{image}: {line}");
        };
        check("me/builder:v1", "sha256:1", Some("sha256:1"));
        check("me/builder:v1", "sha256:1 me/builder@sha256:a", Some("sha256:a"));
        check("me/builder", "sha256:1 me/builder@sha256:a", Some("sha256:a"));
        check("r.test:5000/me/builder", "sha256:1 r.test:5000/me/builder@sha256:a", Some("sha256:a"));
        check("r.test:5000/me/builder:v1", "sha256:1 r.test:5000/me/builder@sha256:a", Some("sha256:a"));
        // Under another name it was pulled for something else.
        check("me/builder:v1", "sha256:1 other/builder@sha256:a", Some("sha256:1"));
        check("b:v1", "sha256:1 b@sha256:d b@sha256:c", Some("sha256:c sha256:d"));
        check("b:v1", "", None);
    }

    #[test]
    fn a_digest_in_the_name_says_it_without_an_engine() {
        assert_eq!(identity("me/builder@sha256:a", None).unwrap(), None);
        assert_eq!(identity("me/builder:v1@sha256:a", None).unwrap(), None);
    }
}
