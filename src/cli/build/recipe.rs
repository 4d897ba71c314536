//! Recipe: what is done to make, ship and start an app, once everybody has spoken: `tako.toml`, the preset that it
//! names, the runtime's base preset, and what lies in the project.
//!
//! | field | who wins |
//! | --- | --- |
//! | `main` | `tako.toml`; a preset's that is no `index.<ext>`; the `index.<ext>` that is there; a preset's that is one |
//! | `start` `install` `dev` | `tako.toml`, preset, base: the first that says something |
//! | `[build] install build include assets container targets` | the same |
//! | `[build] exclude` | all of them: base, preset, `tako.toml`, each pattern once |
//! | `[build] after modules` | preset, base: `tako.toml` has stages and installs of its own |
//! | `entry`, `[build] makes otherwise` | the preset, while `main` is its own |
//!
//! It must never look at a disk or a network: what was found there is an argument.
//!
//! **Invariant**: what a preset knows of its own `main` never meets another one.

use super::preset::file::Layer;
use crate::cli::project::Project;
use crate::proto::manifest::Runtime;

/// The effective preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Relative to the app. Its existence is checked after the build.
    pub main: Chosen<String>,
    /// The text of the file that is written at `main` after the build, unless the build or the project made one.
    pub entry: Option<Chosen<String>>,
    pub start: Option<Chosen<Vec<String>>>,
    /// On the server; empty is nothing, `None` is what the lock file says there.
    pub install: Option<Chosen<Vec<String>>>,
    pub dev: Option<Chosen<Vec<String>>>,
    /// For the shell; `None` is the package manager's, as far as it is needed.
    pub build_install: Option<Chosen<String>>,
    pub build: Option<Chosen<String>>,
    /// For the shell, right after `build`.
    pub after: Option<Chosen<String>>,
    /// Files of which one has to be there after the build, and what to do if none is.
    pub makes: Option<Chosen<Vec<String>>>,
    pub otherwise: Option<Chosen<String>>,
    /// Globs relative to the app; `None` is everything.
    pub include: Option<Chosen<Vec<String>>>,
    pub exclude: Vec<Chosen<String>>,
    /// Folders merged into `public/` in order.
    pub assets: Option<Chosen<Vec<String>>>,
    pub container: Option<Chosen<bool>>,
    pub targets: Option<Chosen<Vec<String>>>,
    /// `None` is links, which cost nothing.
    pub modules: Option<Chosen<Modules>>,
}

/// How installed packages come into the build tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modules {
    Link,
    Copy,
}

/// A value, and who chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    pub value: T,
    pub from: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `tako.toml`.
    Config,
    /// The preset that `tako.toml` names.
    Preset,
    /// What the runtime does by default.
    Base,
    /// What lies in the project.
    Detected,
}

/// Everybody's words, the strongest first.
pub(crate) struct Layers<'a> {
    pub config: &'a Layer,
    pub preset: &'a Layer,
    pub base: &'a Layer,
    pub runtime: Runtime,
    /// The `index.<ext>` that is in the project.
    pub found: Option<&'a str>,
}

/// `None` when nobody knows which file to run.
pub(crate) fn merge(layers: &Layers<'_>) -> Option<Recipe> {
    let main = main(layers)?;
    let all = [(layers.config, Origin::Config), (layers.preset, Origin::Preset), (layers.base, Origin::Base)];
    let [_, presets @ ..] = all;
    // A program of the project's own is not started by somebody else's file.
    let theirs = (main.from == Origin::Preset).then_some(all[1]);
    Some(Recipe {
        entry: first(theirs, |l| l.entry.clone()),
        makes: first(theirs, |l| l.makes.clone()),
        otherwise: first(theirs, |l| l.otherwise.clone()),
        main,
        start: first(all, |l| l.start.clone()),
        install: first(all, |l| l.install.clone()),
        dev: first(all, |l| l.dev.clone()),
        build_install: first(all, |l| l.build_install.clone()),
        build: first(all, |l| l.build.clone()),
        after: first(presets, |l| l.after.clone()),
        include: first(all, |l| l.include.clone()),
        exclude: every(all.into_iter().rev()),
        assets: first(all, |l| l.assets.clone()),
        container: first(all, |l| l.container),
        targets: first(all, |l| l.targets.clone()),
        modules: first(presets, |l| l.modules),
    })
}

fn main(layers: &Layers<'_>) -> Option<Chosen<String>> {
    let chosen = |main: &str, from| Some(Chosen { value: main.into(), from });
    let named = layers.preset.main.as_deref().or(layers.base.main.as_deref());
    let searches = layers.runtime != Runtime::Binary && named.is_none_or(is_index);
    match (&layers.config.main, layers.found, &layers.preset.main, &layers.base.main) {
        (Some(main), ..) => chosen(main, Origin::Config),
        (None, Some(found), ..) if searches => chosen(found, Origin::Detected),
        (None, _, Some(main), _) => chosen(main, Origin::Preset),
        (None, _, None, Some(main)) => chosen(main, Origin::Base),
        (None, _, None, None) => None,
    }
}

/// A name by habit rather than one that a build makes: the project may have it with another ending, or one folder up.
fn is_index(main: &str) -> bool {
    let name = main.strip_prefix("src/").unwrap_or(main);
    matches!(name, "index.ts" | "index.tsx" | "index.js" | "index.jsx")
}

fn first<'a, T>(
    layers: impl IntoIterator<Item = (&'a Layer, Origin)>,
    of: impl Fn(&Layer) -> Option<T>,
) -> Option<Chosen<T>> {
    layers.into_iter().find_map(|(layer, from)| Some(Chosen { value: of(layer)?, from }))
}

fn every<'a>(layers: impl Iterator<Item = (&'a Layer, Origin)>) -> Vec<Chosen<String>> {
    let mut all: Vec<Chosen<String>> = Vec::new();
    for (layer, from) in layers {
        for pattern in &layer.exclude {
            if !all.iter().any(|there| there.value == *pattern) {
                all.push(Chosen { value: pattern.clone(), from });
            }
        }
    }
    all
}

impl Layer {
    /// What `tako.toml` says itself.
    pub fn of(project: &Project) -> Layer {
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        Layer {
            main: project.main.clone(),
            entry: None,
            start: project.start.clone(),
            install: project.install.clone(),
            dev: project.dev.clone(),
            build_install: project.build.install.clone(),
            build: project.build.run.clone(),
            after: None,
            makes: None,
            otherwise: None,
            include: list(&project.build.include),
            exclude: project.build.exclude.clone(),
            assets: list(&project.build.assets),
            container: project.build.container,
            targets: list(&project.build.targets.iter().map(ToString::to_string).collect::<Vec<_>>()),
            modules: None,
        }
    }
}

impl Recipe {
    pub fn modules(&self) -> Modules {
        self.modules.as_ref().map_or(Modules::Link, |modules| modules.value)
    }

    pub fn include(&self) -> &[String] {
        self.include.as_ref().map_or(&[], |list| &list.value)
    }

    pub fn exclude(&self) -> Vec<String> {
        self.exclude.iter().map(|pattern| pattern.value.clone()).collect()
    }

    pub fn assets(&self) -> &[String] {
        self.assets.as_ref().map_or(&[], |list| &list.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(config: &Layer, preset: &Layer, base: &Layer, found: Option<&str>) -> Option<Recipe> {
        merge(&Layers { config, preset, base, runtime: Runtime::Bun, found })
    }

    /// A layer in which everything says `word`, or nothing says anything.
    fn layer(word: Option<&str>) -> Layer {
        let Some(word) = word else { return Layer::default() };
        let (text, list) = (|| Some(word.to_string()), || Some(vec![word.to_string()]));
        Layer {
            main: text(),
            entry: text(),
            start: list(),
            install: list(),
            dev: list(),
            build_install: text(),
            build: text(),
            after: text(),
            makes: list(),
            otherwise: text(),
            include: list(),
            exclude: vec![word.into(), "common".into()],
            assets: list(),
            container: Some(word == "config"),
            targets: list(),
            modules: Some(if word == "preset" { Modules::Copy } else { Modules::Link }),
        }
    }

    /// Every combination of who speaks, and for each field who is heard.
    #[test]
    fn the_strongest_voice_is_heard_and_excludes_are_added() {
        for speaks in 0..8_u8 {
            let voices = ["config", "preset", "base"];
            let origins = [Origin::Config, Origin::Preset, Origin::Base];
            let said = |n: usize| (speaks & (1 << n) != 0).then_some(voices[n]);
            let [config, preset, base] = [0, 1, 2].map(|n| layer(said(n)));
            let heard = (0..3).find(|n| said(*n).is_some());
            let Some(recipe) = merged(&config, &preset, &base, None) else {
                assert_eq!(heard, None, "nobody knows what to run only when nobody says it");
                continue;
            };
            let n = heard.unwrap();
            let text = |n: Option<usize>| n.map(|n| Chosen { value: voices[n].to_string(), from: origins[n] });
            let list = |n: Option<usize>| text(n).map(|c| Chosen { value: vec![c.value], from: c.from });
            assert_eq!(Some(recipe.main), text(heard));
            for field in [recipe.start, recipe.install, recipe.dev, recipe.include, recipe.assets, recipe.targets] {
                assert_eq!(field, list(heard), "{speaks:b}");
            }
            assert_eq!((recipe.build, recipe.build_install), (text(heard), text(heard)), "{speaks:b}");
            assert_eq!(recipe.container, Some(Chosen { value: n == 0, from: origins[n] }), "{speaks:b}");
            // Not a key of tako.toml.
            assert_eq!(recipe.after, text((1..3).find(|n| said(*n).is_some())), "{speaks:b}");
            assert_eq!(recipe.modules.is_some_and(|m| m.value == Modules::Copy), speaks & 2 != 0, "{speaks:b}");
            // What belongs to a preset's own main.
            let theirs = heard.filter(|n| *n == 1);
            assert_eq!((recipe.entry, recipe.otherwise), (text(theirs), text(theirs)), "{speaks:b}");
            assert_eq!(recipe.makes, list(theirs), "{speaks:b}");
            let exclude: Vec<&str> = recipe.exclude.iter().map(|e| e.value.as_str()).collect();
            let mut expected: Vec<&str> = (0..3).rev().filter_map(said).collect();
            expected.insert(1, "common");
            assert_eq!(exclude, expected, "{speaks:b}");
            assert_eq!(recipe.exclude[1].from, recipe.exclude[0].from, "{speaks:b}");
        }
    }

    #[test]
    fn main_is_looked_for_where_it_has_its_name_by_habit() {
        let check = |runtime, config: Option<&str>, preset: Option<&str>, found: Option<&str>, expected: Option<_>| {
            let with = |main: Option<&str>| Layer { main: main.map(Into::into), ..Layer::default() };
            let (config, preset, base) = (&with(config), &with(preset), &Layer::default());
            let main = merge(&Layers { config, preset, base, runtime, found }).map(|r| (r.main.value, r.main.from));
            let expected = expected.map(|(main, from): (&str, _)| (main.to_string(), from));
            assert_eq!(main, expected, "{runtime:?} {config:?} {preset:?} {found:?}");
        };
        let (config, preset, found) = (Origin::Config, Origin::Preset, Origin::Detected);
        use Runtime::{Binary, Bun, Node};
        check(Bun, Some("a.js"), Some("b.js"), Some("index.ts"), Some(("a.js", config)));
        check(Bun, None, Some("b.js"), Some("index.ts"), Some(("b.js", preset)));
        check(Bun, None, Some("build/index.js"), Some("index.ts"), Some(("build/index.js", preset)));
        check(Node, None, Some("index.js"), Some("src/index.tsx"), Some(("src/index.tsx", found)));
        check(Bun, None, Some("src/index.ts"), Some("index.js"), Some(("index.js", found)));
        check(Bun, None, Some("src/index.ts"), None, Some(("src/index.ts", preset)));
        check(Bun, None, None, Some("index.js"), Some(("index.js", found)));
        check(Bun, None, None, None, None);
        check(Binary, None, None, None, None);
        check(Binary, None, Some("index.js"), Some("index.js"), Some(("index.js", preset)));
    }

    #[test]
    fn what_a_preset_knows_of_its_main_never_meets_another_one() {
        let preset = Layer { main: Some("index.ts".into()), ..layer(Some("preset")) };
        let entry = |config: &Layer, found| merged(config, &preset, &Layer::default(), found).unwrap().entry.is_some();
        assert!(entry(&Layer::default(), None));
        assert!(!entry(&Layer::default(), Some("index.js")));
        assert!(!entry(&Layer { main: Some("index.ts".into()), ..Layer::default() }, None));
    }
}
