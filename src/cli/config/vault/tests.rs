use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".tako")).unwrap();
        World { dir }
    }

    fn vault(&self) -> Vault {
        self.vault_of("shop")
    }

    fn vault_of(&self, app: &str) -> Vault {
        Vault::load_with(self.dir.path(), &AppName::parse(app).unwrap(), &self.dir.path().join("home")).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(".tako/secrets")
    }
}

fn env(name: &str) -> EnvName {
    EnvName::parse(name).unwrap()
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, Zeroizing<String>> {
    pairs.iter().map(|(name, value)| (name.to_string(), Zeroizing::new(value.to_string()))).collect()
}

impl Vault {
    /// Whether a key was made.
    fn set_one(&mut self, env: &EnvName, name: &str, value: &str) -> Result<bool> {
        self.set(env, &values(&[(name, value)])).map(|changes| changes.new_key)
    }
}

#[test]
fn what_was_set_is_there_after_loading_again() {
    let world = World::new();
    let mut vault = world.vault();
    assert!(vault.set_one(&env("production"), "API_KEY", "one").unwrap());
    assert!(!vault.set_one(&env("production"), "DB_URL", "two é\nlines").unwrap());
    vault.save().unwrap();

    let opened = world.vault().open(&env("production")).unwrap();
    let values: Vec<(&str, &str)> = opened.values.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(values, [("API_KEY", "one"), ("DB_URL", "two é\nlines")]);
    assert_eq!(opened.hash, world.vault().open(&env("production")).unwrap().hash);

    let text = fs::read_to_string(world.file()).unwrap();
    assert!(!text.contains("one") && text.contains("\"API_KEY\": \"") && text.ends_with("}\n"), "{text}");
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let key = vault.keys.path(&env("production"));
    assert_eq!((mode(&key), mode(key.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn setting_one_secret_changes_one_line() {
    let world = World::new();
    let mut vault = world.vault();
    for name in ["A", "B", "C"] {
        vault.set_one(&env("staging"), name, "x").unwrap();
    }
    vault.save().unwrap();
    let before = fs::read_to_string(world.file()).unwrap();
    let mut vault = world.vault();
    vault.set_one(&env("staging"), "B", "y").unwrap();
    vault.save().unwrap();
    let after = fs::read_to_string(world.file()).unwrap();
    assert_eq!(before.lines().zip(after.lines()).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(before.lines().count(), after.lines().count());
}

#[test]
fn the_hash_tells_every_change_and_needs_the_key() {
    let world = World::new();
    let mut vault = world.vault();
    let production = env("production");
    let mut seen = vec![vault.open(&production).unwrap().hash];
    for (name, value) in [("A", "1"), ("A", "12"), ("AB", "2"), ("B", "")] {
        if value.is_empty() {
            vault.remove(&production, "AB");
        } else {
            vault.set_one(&production, name, value).unwrap();
        }
        let hash = vault.open(&production).unwrap().hash;
        assert_eq!(seen.contains(&hash), value.is_empty(), "{name}={value}");
        seen.push(hash);
    }
    let key = Key::random().unwrap();
    let set = |env_name: &str, pairs: &[(&str, &str)]| hash(&key, &env(env_name), &values(pairs));
    let one = set("production", &[("A", "BC")]);
    assert_eq!(one, set("production", &[("A", "BC")]));
    for other in [
        set("production", &[("AB", "C")]),
        set("production", &[("A", "BD")]),
        set("production", &[("A", "BC"), ("B", "C")]),
        set("production", &[]),
        set("staging", &[("A", "BC")]),
        // Who lacks the key can try every value and compares with nothing.
        hash(&Key::random().unwrap(), &env("production"), &values(&[("A", "BC")])),
    ] {
        assert_ne!(one, other);
    }
    // It is as long for one character as for the largest value, so it tells no length.
    assert_eq!(set("production", &[("A", &"x".repeat(MAX_VALUE))]).len(), one.len());
}

#[test]
fn a_value_opens_only_where_it_was_put() {
    let world = World::new();
    let mut vault = world.vault();
    vault.set_one(&env("production"), "A", "1").unwrap();
    vault.set_one(&env("production"), "B", "2").unwrap();
    let moved = vault.stored.envs[&env("production")]["A"].clone();
    vault.stored.envs.get_mut(&env("production")).unwrap().insert("B".into(), moved);
    let error = vault.open(&env("production")).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("B of production does not open"), "{error}");
}

#[test]
fn without_the_key_nothing_is_opened_and_nothing_is_set() {
    let world = World::new();
    let mut vault = world.vault();
    vault.set_one(&env("production"), "A", "1").unwrap();
    fs::remove_file(vault.keys.path(&env("production"))).unwrap();
    for error in [vault.open(&env("production")).unwrap_err(), vault.set_one(&env("production"), "B", "2").unwrap_err()]
    {
        assert_eq!(error.kind(), Kind::Config);
        let ways = error.detail().join("\n");
        for way in
            ["tako secrets key import --env production", "keys/shop/production.key", "TAKO_SECRETS_KEY_PRODUCTION"]
        {
            assert!(ways.contains(way), "{way}: {ways}");
        }
    }
    fs::write(vault.keys.path(&env("production")), STANDARD.encode([7; 32])).unwrap();
    assert!(vault.set_one(&env("production"), "B", "2").is_err());
    fs::write(vault.keys.path(&env("production")), "short").unwrap();
    assert!(vault.open(&env("production")).unwrap_err().to_string().contains("does not hold a key"));
    assert!(vault.open(&env("staging")).unwrap().values.is_empty());
}

#[test]
fn a_key_in_the_environment_comes_before_the_file() {
    let world = World::new();
    let mut vault = world.vault();
    vault.keys.var = |name| (name == "TAKO_SECRETS_KEY_PRE_PROD").then(|| STANDARD.encode([7; 32]));
    assert!(!vault.set_one(&env("pre-prod"), "A", "1").unwrap());
    assert!(!vault.keys.path(&env("pre-prod")).exists());
    assert_eq!(vault.open(&env("pre-prod")).unwrap().values["A"].as_str(), "1");
    vault.keys.var = |_| None;
    assert_eq!(vault.open(&env("pre-prod")).unwrap_err().kind(), Kind::Config);
    vault.keys.var = |_| Some("not a key".into());
    assert!(vault.open(&env("pre-prod")).unwrap_err().to_string().starts_with("TAKO_SECRETS_KEY_PRE_PROD"));
}

#[test]
fn names_another_environment_has_are_missing_here() {
    let world = World::new();
    let mut vault = world.vault();
    for (e, name) in [("production", "A"), ("production", "B"), ("staging", "A"), ("staging", "C")] {
        vault.set_one(&env(e), name, "x").unwrap();
    }
    assert_eq!(vault.missing(&env("production")), [("C".to_string(), env("staging"))]);
    assert_eq!(vault.missing(&env("staging")), [("B".to_string(), env("production"))]);
    assert_eq!(vault.missing(&env("qa")).len(), 3);
    assert_eq!(vault.presence()["A"], [env("production"), env("staging")]);
    assert!(vault.remove(&env("staging"), "C") && !vault.remove(&env("staging"), "C"));
    assert!(vault.missing(&env("production")).is_empty());
}

#[test]
fn development_forces_nothing_on_others() {
    let world = World::new();
    let mut vault = world.vault();
    for (e, name) in [("development", "MOCK"), ("development", "A"), ("production", "A"), ("production", "LIVE")] {
        vault.set_one(&env(e), name, "x").unwrap();
    }
    assert!(vault.missing(&env("production")).is_empty() && vault.extra(&env("production")).is_empty());
    assert_eq!(vault.missing(&env("development")), [("LIVE".to_string(), env("production"))]);
    assert_eq!(vault.missing(&env("staging")).len(), 2, "a new environment needs what production has");
    vault.set_one(&env("staging"), "A", "x").unwrap();
    assert_eq!(vault.extra(&env("production")), [("LIVE".to_string(), env("staging"))]);
}

#[test]
fn several_are_set_together_or_not_at_all() {
    let world = World::new();
    let project = world.dir.path();
    let (app, home) = (AppName::parse("shop").unwrap(), project.join("home"));
    let set = |pairs: &[(&str, &str)]| {
        Vault::edit_with(project, &app, &home, |vault| vault.set(&env("production"), &values(pairs)))
    };
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let first = set(&[("A", "1"), ("B", "2")]).unwrap();
    assert_eq!(first, Changes { added: names(&["A", "B"]), new_key: true, ..Changes::default() });
    let before = fs::read(world.file()).unwrap();
    assert_eq!(set(&[("A", "9"), ("C", "")]).unwrap_err().kind(), Kind::Refused);
    assert_eq!(set(&[("A", "1"), ("B", "2")]).unwrap().same, names(&["A", "B"]));
    assert_eq!(fs::read(world.file()).unwrap(), before, "what is the same is not sealed anew");
    let second = set(&[("A", "9"), ("B", "2"), ("C", "3")]).unwrap();
    assert_eq!((second.changed, second.same, second.added), (names(&["A"]), names(&["B"]), names(&["C"])));
}

#[test]
fn two_shells_at_once_lose_nothing() {
    let world = World::new();
    let project = world.dir.path();
    let (app, home) = (AppName::parse("shop").unwrap(), project.join("home"));
    std::thread::scope(|scope| {
        for shell in 0..8 {
            let (app, home) = (&app, &home);
            scope.spawn(move || {
                for n in 0..5 {
                    let one = values(&[(&format!("A_{shell}_{n}"), "x")]);
                    Vault::edit_with(project, app, home, |vault| vault.set(&env("production"), &one)).unwrap();
                }
            });
        }
    });
    assert_eq!(world.vault().open(&env("production")).unwrap().values.len(), 40);
}

#[test]
fn a_key_is_given_to_others_only_if_it_opens_what_is_here() {
    let world = World::new();
    let mut vault = world.vault();
    let production = env("production");
    assert!(vault.key(&production).err().unwrap().to_string().contains("no key yet"));
    vault.set_one(&production, "A", "1").unwrap();
    let key = vault.key(&production).unwrap();
    assert!(vault.try_key(&production, &Found { key: key.clone(), from: "x".into() }).unwrap());
    assert!(!vault.try_key(&env("staging"), &Found { key, from: "x".into() }).unwrap());

    // A wrong one is told by where it comes from.
    vault.keys.var = |_| Some(STANDARD.encode([7; 32]));
    for error in [vault.key(&production).err().unwrap(), vault.open(&production).unwrap_err()] {
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("with the key in TAKO_SECRETS_KEY_PRODUCTION"), "{error}");
        assert!(!error.to_string().contains(&STANDARD.encode([7; 32])));
    }
    vault.keys.var = |_| None;
    fs::remove_file(vault.keys.path(&production)).unwrap();
    assert!(vault.key(&production).err().unwrap().to_string().contains("not on this machine"));
}

#[test]
fn refuses_bad_names_and_values() {
    for good in ["A", "_X", "API_KEY_2"] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", "a", "1A", "A-B", "A B", "PORT", "TAKO_X", "NODE_ENV", "É", "A\n", &"A".repeat(129)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    let world = World::new();
    let mut vault = world.vault();
    let production = env("production");
    for bad in ["", "a\0b", &"x".repeat(MAX_VALUE + 1)] {
        assert_eq!(vault.set_one(&production, "A", bad).unwrap_err().kind(), Kind::Refused);
    }
    let largest = "x".repeat(MAX_VALUE);
    for n in 0..6 {
        vault.set_one(&production, &format!("A{n}"), &largest).unwrap();
    }
    assert!(vault.set_one(&production, "A6", &largest).unwrap_err().to_string().contains("400 KiB"));
}

#[test]
fn a_damaged_file_is_an_error_with_a_way_out() {
    let world = World::new();
    let load = |text: &str| {
        fs::write(world.file(), text).unwrap();
        Vault::load_with(world.dir.path(), &AppName::parse("shop").unwrap(), world.dir.path()).err().map(|e| e.kind())
    };
    assert_eq!(load(r#"{"format":1,"envs":{}}"#), None);
    for bad in [
        "",
        "{",
        "<<<<<<< HEAD",
        r#"{"format":2,"envs":{}}"#,
        r#"{"format":1,"envs":{"Prod":{}}}"#,
        r#"{"format":1,"envs":{"a":{"bad name":""}}}"#,
        r#"{"format":1,"envs":{},"x":1}"#,
    ] {
        assert_eq!(load(bad), Some(Kind::Config), "{bad}");
    }
    fs::write(world.file(), r#"{"format":1,"envs":{"a":{"X":"%%%"}}}"#).unwrap();
    let vault = world.vault();
    vault.keys.put(&env("a"), &Key::random().unwrap()).unwrap();
    assert!(vault.open(&env("a")).unwrap_err().to_string().contains("is damaged"));
}
