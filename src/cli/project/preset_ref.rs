//! The preset that a project names: `tanstack-start`, or `tanstack-start@<commit>` for one that never changes.
//!
//! A name is local to the runtime. What other tools or older documents spell differently is refused with the spelling
//! that was meant.

use crate::error::{Error, Kind, Result};

/// Longer names are no names.
const MAX_NAME: usize = 64;
/// Digits of a commit: as short as git shows it, as long as its longest hash.
const PIN: std::ops::RangeInclusive<usize> = 7..=64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PresetRef {
    pub name: String,
    /// Lower-case hex.
    pub pin: Option<String>,
}

impl PresetRef {
    /// # Errors
    /// Config, with the right spelling as its hint.
    pub fn parse(text: &str) -> Result<PresetRef> {
        let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        let refused = |why: String, hint: String| Err(Error::new(Kind::Config, why).hint(hint));
        let last = || text.rsplit(['/', ':']).next().unwrap_or_default();
        let meant = last().split('@').next().filter(|name| is_name(name)).unwrap_or("tanstack-start");
        if text.contains(':') {
            return refused(
                format!("`{shown}` names a place, and presets do not come from places of their own"),
                format!("write the name alone: preset = \"{meant}\""),
            );
        }
        if text.contains('/') {
            return refused(
                format!("`{shown}` has a namespace, and presets belong to the `runtime` of the app"),
                format!("write the name alone: preset = \"{meant}\""),
            );
        }
        let (name, pin) = match text.split_once('@') {
            Some((name, pin)) => (name, Some(pin)),
            None => (text, None),
        };
        if !is_name(name) {
            let hint = "use lower-case letters, digits and hyphens, such as \"tanstack-start\"";
            return refused(format!("`{shown}` is not the name of a preset"), hint.into());
        }
        if let Some(pin) = pin.filter(|pin| !is_pin(pin)) {
            let pin: String = pin.chars().take(80).flat_map(char::escape_debug).collect();
            return refused(
                format!("`{pin}` does not pin a preset"),
                format!("write 7 to 64 hex digits of a commit: preset = \"{name}@4f2c9ab\""),
            );
        }
        Ok(PresetRef { name: name.into(), pin: pin.map(str::to_ascii_lowercase) })
    }
}

impl std::fmt::Display for PresetRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pin {
            Some(pin) => write!(f, "{}@{pin}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_pin(pin: &str) -> bool {
    PIN.contains(&pin.len()) && pin.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_pinned() {
        let check = |text: &str, name: &str, pin: Option<&str>| {
            let parsed = PresetRef::parse(text).unwrap();
            assert_eq!((parsed.name.as_str(), parsed.pin.as_deref()), (name, pin), "{text}");
        };
        check("tanstack-start", "tanstack-start", None);
        check("vite@4f2c9ab", "vite", Some("4f2c9ab"));
        check("vite@4F2C9AB", "vite", Some("4f2c9ab"));
        check(&format!("vite@{}", "a".repeat(64)), "vite", Some(&"a".repeat(64)));
    }

    #[test]
    fn what_is_spelled_otherwise_is_refused_with_what_was_meant() {
        let check = |text: &str, hint: &str| {
            let e = PresetRef::parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Config);
            assert!(e.next_step().unwrap().contains(hint), "{text}: {e}: {:?}", e.next_step());
        };
        check("js/tanstack-start", "preset = \"tanstack-start\"");
        check("js/nextjs@4f2c9ab", "preset = \"nextjs\"");
        check("github:me/presets/nextjs", "preset = \"nextjs\"");
        check("https://example.com/a", "preset = \"a\"");
        check("a/../../b", "preset = \"b\"");
        check("", "lower-case");
        check("Next", "lower-case");
        check("..", "lower-case");
        check("next.js", "lower-case");
        check("next@", "preset = \"next@4f2c9ab\"");
        check("next@4f2c9a", "7 to 64");
        check(&format!("next@{}", "a".repeat(65)), "7 to 64");
        check("next@master", "7 to 64");
        check("next@4f2c9ab@1", "7 to 64");
        check(&"x".repeat(65), "lower-case");
    }
}
