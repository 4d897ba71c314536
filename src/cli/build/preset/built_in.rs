//! The presets that come with Tako: one for each runtime, and those for families of apps. What one does is said in its
//! file alone; here it only has a name and the runtimes that it is for.

use crate::cli::nearest::did_you_mean;
use crate::error::{Error, Kind};
use crate::proto::manifest::Runtime;

use Runtime::{Binary, Bun, Deno, Node};

macro_rules! preset {
    ($file:literal) => {
        include_str!(concat!("../presets/", $file, ".toml"))
    };
}

const BASES: [(Runtime, &str); 4] = [
    (Bun, preset!("bun/base")),
    (Node, preset!("node/base")),
    (Deno, preset!("deno/base")),
    (Binary, preset!("binary/base")),
];

const FAMILIES: [(&str, &[Runtime], &str); 13] = [
    ("astro", ANY, preset!("javascript/astro")),
    ("hono", &[Bun], preset!("bun/hono")),
    ("hono", &[Deno], preset!("deno/hono")),
    ("hono", &[Node], preset!("node/hono")),
    ("nextjs", ANY, preset!("javascript/nextjs")),
    ("nuxt", ANY, preset!("javascript/nuxt")),
    ("react-router", ANY, preset!("javascript/react-router")),
    ("remix", ANY, preset!("javascript/remix")),
    ("static", ANY, preset!("javascript/static")),
    ("sveltekit", ANY, preset!("javascript/sveltekit")),
    ("tanstack-start", ANY, preset!("javascript/tanstack-start")),
    ("vite", ANY, preset!("javascript/static")),
    ("vite-ssr", ANY, preset!("javascript/vite-ssr")),
];
/// Any that runs JavaScript.
const ANY: &[Runtime] = &[Bun, Node, Deno];

/// What a runtime does when nobody says anything else.
pub(crate) fn base(runtime: Runtime) -> &'static str {
    let found = BASES.iter().find(|(of, _)| *of == runtime);
    found.map(|(_, text)| *text).expect("every runtime has a base")
}

pub(crate) fn family(runtime: Runtime, name: &str) -> Option<&'static str> {
    let found = FAMILIES.iter().find(|(known, runtimes, _)| *known == name && runtimes.contains(&runtime));
    found.map(|(_, _, text)| *text)
}

/// What to say to who wants a preset that there is not.
pub(crate) fn unknown(runtime: Runtime, name: &str) -> Error {
    let error = Error::new(Kind::Config, format!("there is no preset `{name}` for {}", runtime.as_str()));
    if let Some(other) = Runtime::parse(name) {
        return match other == runtime {
            true => error.hint(format!("`{name}` is the runtime: remove the line `preset`")),
            false => error.hint(format!("`{name}` is a runtime: write runtime = \"{name}\"")),
        };
    }
    let elsewhere: Vec<&str> =
        ALL.into_iter().filter(|other| family(*other, name).is_some()).map(Runtime::as_str).collect();
    if !elsewhere.is_empty() {
        let hint = format!("it is for {}: set `runtime`, or remove the line `preset`", elsewhere.join(", "));
        return error.hint(hint);
    }
    let mut known: Vec<&str> =
        FAMILIES.iter().filter(|(_, runtimes, _)| runtimes.contains(&runtime)).map(|(name, ..)| *name).collect();
    known.dedup();
    match (did_you_mean(name, known.iter().copied()), known.is_empty()) {
        (Some(guess), _) => error.hint(format!("{guess} there are {}", known.join(", "))),
        (None, false) => error.hint(format!("there are {}", known.join(", "))),
        (None, true) => error.hint("it needs none: remove the line `preset`, and say `main` and `[build] build`"),
    }
}

const ALL: [Runtime; 4] = [Bun, Node, Deno, Binary];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::build::preset::file;

    #[test]
    fn every_preset_of_ours_is_read_and_says_what_to_run() {
        for runtime in ALL {
            file::read(runtime.as_str(), base(runtime)).unwrap();
        }
        for (name, runtimes, text) in FAMILIES {
            let layer = file::read(name, text).unwrap_or_else(|e| panic!("{name}: {e}: {:#?}", e.detail()));
            assert!(layer.main.is_some(), "{name}");
            assert!(text.starts_with("# "), "{name} does not say what it is");
            for runtime in runtimes {
                assert_eq!(family(*runtime, name), Some(text), "{name}");
            }
        }
    }

    #[test]
    fn who_wants_another_one_is_told_what_there_is() {
        let check = |runtime, name: &str, hint: &str| {
            let e = unknown(runtime, name);
            assert!(e.next_step().unwrap().contains(hint), "{name}: {:?}", e.next_step());
        };
        check(Bun, "nextsj", "did you mean `nextjs`?");
        check(Bun, "rails", "there are astro, hono, ");
        check(Binary, "vite", "it is for bun, node, deno");
        check(Node, "deno", "write runtime = \"deno\"");
        check(Node, "node", "remove the line");
        check(Binary, "rails", "needs none");
    }
}
