use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
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

#[test]
fn what_was_set_is_there_after_loading_again() {
    let world = World::new();
    let mut vault = world.vault();
    assert!(vault.set(&env("production"), "API_KEY", "one").unwrap());
    assert!(!vault.set(&env("production"), "DB_URL", "two é\nlines").unwrap());
    vault.save().unwrap();

    let opened = world.vault().open(&env("production")).unwrap();
    let values: Vec<(&str, &str)> = opened.values.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(values, [("API_KEY", "one"), ("DB_URL", "two é\nlines")]);
    assert_eq!(opened.hash, world.vault().open(&env("production")).unwrap().hash);

    let text = fs::read_to_string(world.file()).unwrap();
    assert!(!text.contains("one") && text.contains("\"API_KEY\": \"") && text.ends_with("}\n"), "{text}");
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let key = vault.key_path(&env("production"));
    assert_eq!((mode(&key), mode(key.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn setting_one_secret_changes_one_line() {
    let world = World::new();
    let mut vault = world.vault();
    for name in ["A", "B", "C"] {
        vault.set(&env("staging"), name, "x").unwrap();
    }
    vault.save().unwrap();
    let before = fs::read_to_string(world.file()).unwrap();
    let mut vault = world.vault();
    vault.set(&env("staging"), "B", "y").unwrap();
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
            vault.set(&production, name, value).unwrap();
        }
        let hash = vault.open(&production).unwrap().hash;
        assert_eq!(seen.contains(&hash), value.is_empty(), "{name}={value}");
        seen.push(hash);
    }
    let key = Key::random().unwrap();
    let set = |pairs: &[(&str, &str)]| {
        hash(&key, &pairs.iter().map(|(n, v)| ((*n).to_string(), Zeroizing::new((*v).to_string()))).collect())
    };
    assert_ne!(set(&[("A", "BC")]), set(&[("AB", "C")]));
    assert_ne!(
        set(&[("A", "x")]),
        hash(&Key::random().unwrap(), &BTreeMap::from([("A".into(), Zeroizing::new("x".into()))]))
    );
}

#[test]
fn a_value_opens_only_where_it_was_put() {
    let world = World::new();
    let mut vault = world.vault();
    vault.set(&env("production"), "A", "1").unwrap();
    vault.set(&env("production"), "B", "2").unwrap();
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
    vault.set(&env("production"), "A", "1").unwrap();
    fs::remove_file(vault.key_path(&env("production"))).unwrap();
    for error in [vault.open(&env("production")).unwrap_err(), vault.set(&env("production"), "B", "2").unwrap_err()] {
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.next_step().unwrap().contains("TAKO_SECRETS_KEY_PRODUCTION"), "{error}");
    }
    fs::write(vault.key_path(&env("production")), STANDARD.encode([7; 32])).unwrap();
    assert!(vault.set(&env("production"), "B", "2").is_err());
    fs::write(vault.key_path(&env("production")), "short").unwrap();
    assert!(vault.open(&env("production")).unwrap_err().to_string().contains("does not hold a key"));
    assert!(vault.open(&env("staging")).unwrap().values.is_empty());
}

#[test]
fn a_key_in_the_environment_comes_before_the_file() {
    let world = World::new();
    let mut vault = world.vault();
    vault.var = |name| (name == "TAKO_SECRETS_KEY_PRE_PROD").then(|| STANDARD.encode([7; KEY_LEN]));
    assert!(!vault.set(&env("pre-prod"), "A", "1").unwrap());
    assert!(!vault.key_path(&env("pre-prod")).exists());
    assert_eq!(vault.open(&env("pre-prod")).unwrap().values["A"].as_str(), "1");
    vault.var = |_| None;
    assert_eq!(vault.open(&env("pre-prod")).unwrap_err().kind(), Kind::Config);
    vault.var = |_| Some("not a key".into());
    assert!(vault.open(&env("pre-prod")).unwrap_err().to_string().starts_with("TAKO_SECRETS_KEY_PRE_PROD"));
}

#[test]
fn names_another_environment_has_are_missing_here() {
    let world = World::new();
    let mut vault = world.vault();
    for (e, name) in [("production", "A"), ("production", "B"), ("staging", "A"), ("staging", "C")] {
        vault.set(&env(e), name, "x").unwrap();
    }
    assert_eq!(vault.missing(&env("production")), [("C".to_string(), env("staging"))]);
    assert_eq!(vault.missing(&env("staging")), [("B".to_string(), env("production"))]);
    assert_eq!(vault.missing(&env("qa")).len(), 3);
    assert_eq!(vault.presence()["A"], [env("production"), env("staging")]);
    assert!(vault.remove(&env("staging"), "C") && !vault.remove(&env("staging"), "C"));
    assert!(vault.missing(&env("production")).is_empty());
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
        assert_eq!(vault.set(&production, "A", bad).unwrap_err().kind(), Kind::Refused);
    }
    let largest = "x".repeat(MAX_VALUE);
    for n in 0..6 {
        vault.set(&production, &format!("A{n}"), &largest).unwrap();
    }
    assert!(vault.set(&production, "A6", &largest).unwrap_err().to_string().contains("400 KiB"));
}

#[test]
fn a_damaged_file_is_an_error_with_a_way_out() {
    let world = World::new();
    fs::create_dir_all(world.dir.path().join(".tako")).unwrap();
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
    vault.make_key(&env("a")).unwrap();
    assert!(vault.open(&env("a")).unwrap_err().to_string().contains("is damaged"));
}
