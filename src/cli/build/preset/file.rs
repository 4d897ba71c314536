//! A preset as written: a small TOML file with the keys of `tako.toml` that say how an app of its kind is built and
//! started. `docs/presets.md` describes it.
//!
//! A preset may come from elsewhere, so it says nothing of where an app runs, with which secrets or for whom: those keys
//! are refused by name, and unknown ones as in `tako.toml`.

use crate::cli::build::recipe::Modules;
use crate::cli::config::problem::{Problem, report};
use crate::cli::config::section::{Problems, Section, Spanned, parse};
use crate::error::{Error, Kind, Result};

/// What one voice says; `None` and empty leave it to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    pub main: Option<String>,
    pub entry: Option<String>,
    pub start: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub dev: Option<Vec<String>>,
    pub build_install: Option<String>,
    pub build: Option<String>,
    pub after: Option<String>,
    pub makes: Option<Vec<String>>,
    pub otherwise: Option<String>,
    pub include: Option<Vec<String>>,
    pub exclude: Vec<String>,
    pub assets: Option<Vec<String>>,
    pub container: Option<bool>,
    pub targets: Option<Vec<String>>,
    pub modules: Option<Modules>,
}

/// Keys that a preset may not have, and why.
const REFUSED: [(&str, &str); 11] = [
    ("name", "an app has a name, its preset does not know it"),
    ("runtime", "a preset belongs to the runtime that it lies under"),
    ("runtime_version", "the app chooses its version"),
    ("preset", "a preset cannot build upon another one"),
    ("deploy", "write `main`, `install` and `start` at the top level"),
    ("release", "what runs on a server is the app's own decision"),
    ("health", "what is healthy is the app's own decision"),
    ("vars", "variables belong to the app"),
    ("envs", "environments belong to the app"),
    ("servers", "servers belong to the user"),
    ("limits", "limits belong to the app"),
];
const REFUSED_IN_BUILD: [(&str, &str); 2] = [
    ("stages", "stages belong to the app: write [[build.stages]] in its tako.toml"),
    ("image", "the builder image is the app's own choice: write it in its tako.toml"),
];

/// Reads the preset `name` (for messages).
///
/// # Errors
/// Config with every problem and its place.
pub(crate) fn read(name: &str, text: &str) -> Result<Layer> {
    let fail = |problems| {
        report(name, text, problems).unwrap_or_else(|| Error::new(Kind::Bug, format!("{name} has no error after all")))
    };
    let document = parse(text).map_err(|problem| fail(vec![problem]))?;
    let problems = Problems::default();
    let layer = layer(Section::root(&document, &problems), &problems);
    match problems.into_vec() {
        found if found.is_empty() => Ok(layer),
        found => Err(fail(found)),
    }
}

fn layer(root: Section<'_>, problems: &Problems) -> Layer {
    let check = Check(problems);
    let mut layer = Layer {
        main: check.path(root.text("main"), "main"),
        entry: check.text(root.text("entry"), "entry"),
        start: check.argv(root.texts("start"), "start"),
        install: check.words(root.texts("install")),
        dev: check.argv(root.texts("dev"), "dev"),
        ..Layer::default()
    };
    // In the app's own folder, because a folder below may be a link into the user's tree.
    if let (Some(_), Some(at)) = (&layer.entry, root.at_key("entry"))
        && layer.main.as_ref().is_none_or(|main| main.contains('/'))
    {
        let fix = "add `main`, a name without a folder: the entry is written there";
        problems.add(Problem::at(&at, "`entry` is the text of no file", fix));
    }
    refuse(&root, &REFUSED, problems);
    if let Some(build) = root.section("build") {
        layer.build_install = check.text(build.text("install"), "install");
        layer.build = check.text(build.text("build"), "build");
        layer.after = check.text(build.text("after"), "after");
        layer.makes = check.paths(build.texts("makes"), "makes");
        layer.otherwise = check.text(build.text("otherwise"), "otherwise");
        layer.include = check.paths(build.texts("include"), "include");
        layer.exclude = check.paths(build.texts("exclude"), "exclude").unwrap_or_default();
        layer.assets = check.paths(build.texts("assets"), "assets");
        layer.container = build.flag("container").map(|flag| flag.value);
        layer.targets = check.words(build.texts("targets"));
        layer.modules = check.modules(build.text("modules"));
        refuse(&build, &REFUSED_IN_BUILD, problems);
        build.finish();
    }
    root.finish();
    layer
}

fn refuse(section: &Section<'_>, keys: &[(&'static str, &str)], problems: &Problems) {
    for (key, why) in keys {
        if let Some(at) = section.refused(key) {
            problems.add(Problem::at(&at, format!("`{key}` has no place in a preset"), *why));
        }
    }
}

type Text = Option<Spanned<String>>;
type Texts = Option<Spanned<Vec<Spanned<String>>>>;

struct Check<'a>(&'a Problems);

impl Check<'_> {
    fn text(&self, text: Text, key: &str) -> Option<String> {
        let text = text?;
        if text.value.trim().is_empty() || text.value.contains('\0') {
            self.0.add(Problem::at(&text.at, format!("`{key}` says nothing"), "write something, or remove the line"));
            return None;
        }
        Some(text.value)
    }

    fn words(&self, list: Texts) -> Option<Vec<String>> {
        let list = list?.value;
        for word in list.iter().filter(|word| word.value.contains('\0')) {
            self.0.add(Problem::at(&word.at, "a word cannot hold a zero byte", "remove it"));
        }
        Some(list.into_iter().map(|word| word.value).collect())
    }

    fn modules(&self, text: Text) -> Option<Modules> {
        let text = text?;
        match text.value.as_str() {
            "link" => Some(Modules::Link),
            "copy" => Some(Modules::Copy),
            _ => {
                self.0.add(Problem::at(&text.at, "`modules` is neither `link` nor `copy`", "write one of them"));
                None
            }
        }
    }

    fn argv(&self, list: Texts, key: &str) -> Option<Vec<String>> {
        let at = list.as_ref()?.at.clone();
        let words = self.words(list)?;
        if words.first().is_none_or(String::is_empty) {
            let fix = "write it like [\"bun\", \"run\", \"{main}\"]";
            self.0.add(Problem::at(&at, format!("`{key}` names no program"), fix));
            return None;
        }
        Some(words)
    }

    fn paths(&self, list: Texts, key: &str) -> Option<Vec<String>> {
        Some(list?.value.into_iter().filter_map(|path| self.path(Some(path), key)).collect())
    }

    /// Inside the app, so that a preset from elsewhere reaches nothing else.
    fn path(&self, path: Text, key: &str) -> Option<String> {
        let path = path?;
        let inside = !path.value.trim().is_empty()
            && !path.value.starts_with('/')
            && !path.value.split('/').any(|part| part == "..")
            && !path.value.contains(char::is_control);
        if !inside {
            self.0.add(Problem::at(
                &path.at,
                format!("this `{key}` lies outside of the app"),
                "write a path inside it",
            ));
            return None;
        }
        Some(path.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "
main = \"m.mjs\"
entry = \"e\"
start = [\"s\"]
install = []
dev = [\"d\"]
[build]
install = \"i\"
build = \"b\"
after = \"a\"
makes = [\"k\"]
otherwise = \"o\"
include = [\"n\"]
exclude = [\"x\"]
assets = [\"t?\"]
container = true
targets = [\"linux-x86_64-musl\"]
modules = \"copy\"
";
        let (text_of, list) = (|s: &str| Some(s.to_string()), |s: &str| Some(vec![s.to_string()]));
        let expected = Layer {
            main: text_of("m.mjs"),
            entry: text_of("e"),
            start: list("s"),
            install: Some(Vec::new()),
            dev: list("d"),
            build_install: text_of("i"),
            build: text_of("b"),
            after: text_of("a"),
            makes: list("k"),
            otherwise: text_of("o"),
            include: list("n"),
            exclude: vec!["x".into()],
            assets: list("t?"),
            container: Some(true),
            targets: list("linux-x86_64-musl"),
            modules: Some(Modules::Copy),
        };
        assert_eq!(read("p", text).unwrap(), expected);
        assert_eq!(read("p", "").unwrap(), Layer::default());
    }

    #[test]
    fn what_has_no_place_in_a_preset_is_refused_with_the_reason() {
        let check = |text: &str, said: &str| {
            let e = read("p", text).unwrap_err();
            let all = format!("{e} {}", e.detail().join(" "));
            assert!(e.kind() == Kind::Config && all.contains(said), "{text}: {all}");
        };
        for (key, why) in REFUSED {
            check(&format!("{key} = \"x\"\n"), why);
            check(&format!("[{key}]\nx = 1\n"), why);
        }
        for (key, why) in REFUSED_IN_BUILD {
            check(&format!("[build]\n{key} = \"x\"\n"), why);
        }
        check("[[build.stages]]\nrun = \"x\"\n", "stages belong to the app");
        check("[build]\nbiuld = \"x\"\n", "did you mean `build`?");
        check("main = \"../x\"\n", "outside of the app");
        check("[build]\nassets = [\"/etc\"]\n", "outside of the app");
        check("start = []\n", "names no program");
        check("[build]\nbuild = \" \"\n", "says nothing");
        check("entry = \"x\"\n", "the text of no file");
        check("entry = \"x\"\nmain = \"node_modules/x.js\"\n", "the text of no file");
        check("[build]\ncontainer = 1\n", "is a number");
        check("[build]\nmodules = \"hard\"\n", "neither");
        check("<html>", "not TOML");
    }
}
