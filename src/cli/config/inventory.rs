//! The servers a user knows: `[[servers]]` in `~/.tako/config.toml`. Comments and other sections survive edits.

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::alone::alone_in;
use super::edit::{edited, put, without_bom};
use super::problem::{Problem, report};
use super::section::{Problems, Section, Spanned, parse};
use super::ssh_option::SshOption;
use super::transport::options;
use crate::cli::nearest::did_you_mean;
use crate::disk::{private_dir, read_if_there, write_atomic};
use crate::error::{Error, Kind, Result};
use crate::proto::name::ServerName;
use crate::proto::paths;
use crate::proto::target::Target;

const FILE: &str = "config.toml";
/// Far beyond what a person writes.
const MAX_FILE: u64 = 1 << 20;
/// Longest host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;
/// Longest user name of Linux, and room for a directory service's.
const MAX_USER: usize = 64;
/// A note, not a novel.
const MAX_DESCRIPTION: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub name: ServerName,
    /// A host name, an address or an alias of the user's ssh_config. Harmless as an argument: no leading dash, no
    /// white space, no `%`, no shell characters.
    pub host: String,
    /// `None` leaves it to ssh_config.
    pub port: Option<u16>,
    pub user: Option<String>,
    pub description: Option<String>,
    /// As found when the server was added.
    pub target: Option<Target>,
    /// What is more to be said to `ssh` about this one.
    pub ssh_options: Vec<SshOption>,
}

/// The inventory file, read and to be written back.
#[derive(Debug)]
pub(crate) struct Inventory {
    path: PathBuf,
    text: String,
    servers: Vec<Server>,
    /// Since it was read: done again on what another process wrote meanwhile.
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(Server),
    Remove(ServerName),
}

impl Server {
    /// Whether it is the same one under another name.
    pub fn is_also(&self, other: &Server) -> bool {
        self.name != other.name && (&self.host, self.port, &self.user) == (&other.host, other.port, &other.user)
    }
}

impl Inventory {
    /// # Errors
    /// Config, with file, line and fix.
    pub fn load() -> Result<Inventory> {
        Inventory::load_from(&paths::home()?)
    }

    pub(crate) fn load_from(home: &Path) -> Result<Inventory> {
        let path = home.join(FILE);
        let bytes = read_if_there(&path, MAX_FILE)?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::new(Kind::Config, format!("{} is not UTF-8", path.display())).hint("save the file as UTF-8")
        })?;
        let servers = read(&path.display().to_string(), without_bom(&text))?;
        Ok(Inventory { path, text, servers, changes: Vec::new() })
    }

    /// The file and what is in it.
    pub fn file(&self) -> (&Path, &str) {
        (&self.path, without_bom(&self.text))
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// # Errors
    /// NotFound with a did-you-mean.
    pub fn find(&self, name: &ServerName) -> Result<&Server> {
        self.servers.iter().find(|s| s.name == *name).ok_or_else(|| {
            let error = Error::new(Kind::NotFound, format!("there is no server `{name}` in your inventory"));
            error.hint(
                did_you_mean(name.as_str(), self.servers.iter().map(|s| s.name.as_str()))
                    .unwrap_or_else(|| format!("see `tako servers ls`, or run `tako servers add HOST --name {name}`")),
            )
        })
    }

    /// Adds the server, or replaces the one of that name.
    pub fn put(&mut self, server: Server) -> Result<()> {
        check_host(&server.host)?;
        server.user.as_deref().map_or(Ok(()), check_user)?;
        server.description.as_deref().map_or(Ok(()), check_description)?;
        let change = Change::Put(server.clone());
        self.text = edited(&self.text, |document| {
            let tables = tables(document)?;
            let at = tables.iter().position(|t| names(t, &server.name));
            match at.and_then(|at| tables.get_mut(at)) {
                Some(table) => fill(table, &server),
                None => {
                    let mut table = Table::new();
                    fill(&mut table, &server);
                    tables.push(table);
                }
            }
            Ok(())
        })?;
        match self.servers.iter_mut().find(|s| s.name == server.name) {
            Some(known) => *known = server,
            None => self.servers.push(server),
        }
        self.changes.push(change);
        Ok(())
    }

    /// Whether there was one.
    pub fn remove(&mut self, name: &ServerName) -> Result<bool> {
        let before = self.servers.len();
        self.servers.retain(|s| s.name != *name);
        if self.servers.len() == before {
            return Ok(false);
        }
        self.text = edited(&self.text, |document| {
            tables(document)?.retain(|t| !names(t, name));
            Ok(())
        })?;
        self.changes.push(Change::Remove(name.clone()));
        Ok(true)
    }

    /// Only what was changed: what another process saved since this was read stays.
    pub fn save(&self) -> Result<()> {
        let home = self.path.parent().unwrap_or(Path::new("."));
        private_dir(home)?;
        let _alone = alone_in(home)?;
        let mut now = Inventory::load_from(home)?;
        for change in &self.changes {
            match change.clone() {
                Change::Put(server) => now.put(server)?,
                Change::Remove(name) => drop(now.remove(&name)?),
            }
        }
        // Through a symlink: many people keep such files in a repository of their own.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        write_atomic(&path, now.text.as_bytes(), 0o600)
    }
}

/// A host that is safe as an argument of ssh and in what ssh makes of it: a leading dash would be an option, `%` and
/// shell characters end up in a ProxyCommand.
///
/// # Errors
/// Config, with the rule.
pub(crate) fn check_host(host: &str) -> Result<()> {
    let good = (1..=MAX_HOST).contains(&host.len())
        && host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':' || c == '_')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b));
    let rule = "use a host name, an IP address or an alias of your ssh_config";
    if good {
        Ok(())
    } else {
        Err(Error::new(Kind::Config, format!("`{}` is not a valid host", shown(host))).hint(rule))
    }
}

/// A user that is safe as an argument of ssh.
pub(crate) fn check_user(user: &str) -> Result<()> {
    let good = (1..=MAX_USER).contains(&user.len())
        && user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let rule = "use letters, digits, `.`, `_` and `-`";
    if good {
        Ok(())
    } else {
        Err(Error::new(Kind::Config, format!("`{}` is not a valid user", shown(user))).hint(rule))
    }
}

fn check_description(text: &str) -> Result<()> {
    match text.len() <= MAX_DESCRIPTION && !text.contains(char::is_control) {
        true => Ok(()),
        false => Err(Error::new(Kind::Config, "the description is not a short line of text")
            .hint(format!("use at most {MAX_DESCRIPTION} bytes on one line"))),
    }
}

fn read(name: &str, text: &str) -> Result<Vec<Server>> {
    let fail = |problems| report(name, text, problems).map_or(Ok(()), Err);
    let document = match parse(text) {
        Ok(document) => document,
        Err(problem) => return fail(vec![problem]).map(|()| Vec::new()),
    };
    let problems = Problems::default();
    let root = Section::root(&document, &problems);
    let mut servers: Vec<Server> = Vec::new();
    for section in root.sections("servers") {
        let Some((server, at)) = read_server(section, &problems) else { continue };
        match servers.iter().any(|s| s.name == server.name) {
            true => problems.add(Problem::at(
                &at,
                format!("the server `{}` is there twice", server.name),
                "remove one of them",
            )),
            false => servers.push(server),
        }
    }
    // Other sections belong to others: no `finish` here.
    fail(problems.into_vec())?;
    Ok(servers)
}

fn read_server(section: Section<'_>, problems: &Problems) -> Option<(Server, std::ops::Range<usize>)> {
    let at = section.at().clone();
    let (name, host) = (section.text("name"), section.text("host"));
    let port = section.number("port", 1, u16::MAX.into());
    let (user, description) = (section.text("user"), section.text("description"));
    let (arch, libc) = (section.text("arch"), section.text("libc"));
    for (key, there) in [("name", section.at_key("name")), ("host", section.at_key("host"))] {
        if there.is_none() {
            problems.add(Problem::at(&at, format!("this server has no {key}"), format!("add a line: {key} = \"…\"")));
        }
    }
    let ssh_options = options(&section, "ssh_options", problems);
    section.finish();

    let name = checked(name, problems, ServerName::parse)?;
    let host = checked(host, problems, |h| check_host(h).map(|()| h.into()))?;
    let user = user.and_then(|u| checked(Some(u), problems, |u| check_user(u).map(|()| u.into())));
    let target = target(arch, libc, problems);
    let description = description.map(|d| d.value);
    let port = port.and_then(|p| u16::try_from(p.value).ok());
    Some((Server { name, host, port, user, description, target, ssh_options }, at))
}

fn checked<T>(text: Option<Spanned<String>>, problems: &Problems, check: impl Fn(&str) -> Result<T>) -> Option<T> {
    let text = text?;
    check(&text.value).map_err(|e| problems.add(Problem::of(&text.at, &e))).ok()
}

fn target(arch: Option<Spanned<String>>, libc: Option<Spanned<String>>, problems: &Problems) -> Option<Target> {
    let (arch, libc) = (arch?, libc?);
    checked(Some(arch), problems, |arch| Target::parse(&format!("linux-{arch}-{}", libc.value)))
}

fn tables(document: &mut DocumentMut) -> Result<&mut ArrayOfTables> {
    let item = document.entry("servers").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    // `servers = [{ … }]` means the same; written back it becomes sections.
    if let Some(array) = item.as_array() {
        *item = Item::ArrayOfTables(
            array.iter().filter_map(|v| v.as_inline_table().cloned()).map(|t| t.into_table()).collect(),
        );
    }
    item.as_array_of_tables_mut()
        .ok_or_else(|| Error::new(Kind::Config, "`servers` in config.toml is not a list of servers"))
}

fn names(table: &Table, name: &ServerName) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name.as_str())
}

fn fill(table: &mut Table, server: &Server) {
    let (arch, libc) = match server.target.map(|t| t.to_string()) {
        // `linux-<arch>-<libc>`
        Some(target) => match target.trim_start_matches("linux-").split_once('-') {
            Some((arch, libc)) => (Some(arch.to_string()), Some(libc.to_string())),
            None => (None, None),
        },
        None => (None, None),
    };
    let texts = [
        ("name", Some(server.name.to_string())),
        ("host", Some(server.host.clone())),
        ("user", server.user.clone()),
        ("description", server.description.clone()),
        ("arch", arch),
        ("libc", libc),
    ];
    let values = texts.map(|(key, text)| (key, text.map(Value::from)));
    for (key, value) in values.into_iter().chain([("port", server.port.map(|p| i64::from(p).into()))]) {
        match value {
            Some(value) => put(table, key, value),
            None => {
                table.remove(key);
            }
        }
    }
    let options: Vec<&str> = server.ssh_options.iter().map(SshOption::as_str).collect();
    // Comments within a list are lost when it is written anew, so one that says the same stays.
    let there = table.get("ssh_options").and_then(Item::as_array);
    let is_same = there.is_some_and(|list| list.iter().map(Value::as_str).eq(options.iter().map(|o| Some(*o))));
    match options.as_slice() {
        [] => drop(table.remove("ssh_options")),
        _ if is_same => {}
        options => put(table, "ssh_options", options.iter().copied().collect::<Array>()),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::error_lines;

    fn server(name: &str, host: &str) -> Server {
        let name = ServerName::parse(name).unwrap();
        let (port, user, description, target) = (None, None, None, None);
        Server { name, host: host.into(), port, user, description, target, ssh_options: Vec::new() }
    }

    fn home_with(text: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), text).unwrap();
        home
    }

    const WRITTEN: &str = "\
# my machines
[editor]
color = \"blue\" # not ours

# Frankfurt
[[servers]]
name = \"fra1\"   # the old one
host = \"203.0.113.7\"
port = 2222

[[servers]]
name = \"nyc1\"
host = \"nyc\"
arch = \"aarch64\"
libc = \"musl\"
";

    #[test]
    fn options_of_one_server_keep_their_comments_until_they_change() {
        let list = "ssh_options = [ # slow line\n  \"ConnectTimeout=30\", # seconds\n  \"-4\",\n] # end\n";
        let home = home_with(&WRITTEN.replace("port = 2222\n", &format!("port = 2222\n{list}")));
        let mut inventory = Inventory::load_from(home.path()).unwrap();
        let mut fra = inventory.servers()[0].clone();
        let written = |server: &Server| server.ssh_options.iter().map(|o| o.as_str().to_string()).collect::<Vec<_>>();
        assert_eq!(written(&fra), ["ConnectTimeout=30", "-4"]);
        fra.user = Some("ana".into());
        inventory.put(fra.clone()).unwrap();
        assert!(inventory.text.contains(list), "{}", inventory.text);
        fra.ssh_options = vec![SshOption::parse("Compression=yes").unwrap()];
        inventory.put(fra.clone()).unwrap();
        inventory.save().unwrap();
        let again = Inventory::load_from(home.path()).unwrap();
        assert!(again.text.contains("ssh_options = [\"Compression=yes\"] # end\n"), "{}", again.text);
        assert!(again.text.contains("# Frankfurt\n"), "{}", again.text);
        assert_eq!(written(&again.servers()[0]), ["Compression=yes"]);
        fra.ssh_options.clear();
        inventory.put(fra).unwrap();
        assert!(!inventory.text.contains("ssh_options"), "{}", inventory.text);
        let bad = WRITTEN.replace("port = 2222", "ssh_options = [\"RemoteCommand=x\"]");
        let e = read("config.toml", &bad).unwrap_err();
        assert!(e.to_string().contains("`RemoteCommand=x` is for tako to set"), "{e}");
        assert!(e.detail()[0].contains("config.toml:9:16"), "{:?}", e.detail());
    }

    #[test]
    fn two_shells_that_add_at_once_are_both_heard() {
        let home = home_with(WRITTEN);
        let (mut first, mut second) =
            (Inventory::load_from(home.path()).unwrap(), Inventory::load_from(home.path()).unwrap());
        first.put(server("a", "a.test")).unwrap();
        second.put(server("b", "b.test")).unwrap();
        assert!(second.remove(&ServerName::parse("nyc1").unwrap()).unwrap());
        first.save().unwrap();
        second.save().unwrap();
        let now = Inventory::load_from(home.path()).unwrap();
        let names: Vec<&str> = now.servers().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["fra1", "a", "b"]);
        assert!(now.text.starts_with("# my machines\n[editor]"), "{}", now.text);
    }

    #[test]
    fn comments_and_other_sections_survive_edits() {
        let home = home_with(WRITTEN);
        let mut inventory = Inventory::load_from(home.path()).unwrap();
        let mut fra = inventory.find(&ServerName::parse("fra1").unwrap()).unwrap().clone();
        assert_eq!(
            (fra.port, inventory.servers()[1].target.unwrap().to_string().as_str()),
            (Some(2222), "linux-aarch64-musl")
        );
        fra.port = Some(22);
        fra.user = Some("deploy".into());
        inventory.put(fra).unwrap();
        inventory.put(server("sin1", "sin.example.com")).unwrap();
        assert!(inventory.remove(&ServerName::parse("nyc1").unwrap()).unwrap());
        assert!(!inventory.remove(&ServerName::parse("nyc1").unwrap()).unwrap());
        inventory.save().unwrap();

        let expected = "\
# my machines
[editor]
color = \"blue\" # not ours

# Frankfurt
[[servers]]
name = \"fra1\"   # the old one
host = \"203.0.113.7\"
port = 22
user = \"deploy\"

[[servers]]
name = \"sin1\"
host = \"sin.example.com\"
";
        assert_eq!(fs::read_to_string(home.path().join(FILE)).unwrap(), expected);
        assert_eq!(Inventory::load_from(home.path()).unwrap().servers(), inventory.servers());
    }

    #[test]
    fn starts_with_no_file_and_keeps_every_field() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().join("new");
        let mut inventory = Inventory::load_from(&home).unwrap();
        assert!(inventory.servers().is_empty());
        let mut all = server("a", "a.example.com");
        all.port = Some(1);
        all.user = Some("u".into());
        all.description = Some("a \"note\"".into());
        all.target = Some(Target::parse("linux-x86_64-glibc").unwrap());
        inventory.put(all.clone()).unwrap();
        inventory.put(all.clone()).unwrap();
        inventory.save().unwrap();
        assert_eq!(Inventory::load_from(&home).unwrap().servers(), [all]);
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_no_host_or_user() {
        for good in ["fra1", "fra1.example.com", "203.0.113.7", "2001:db8::1", "::1", "my_alias"] {
            assert!(check_host(good).is_ok(), "{good}");
        }
        for bad in
            ["", "-oProxyCommand=x", "a b", "a;b", "%h", "a%eth0", "$(x)", "a\nb", "a/b", "u@h", "é", &"a".repeat(254)]
        {
            assert!(check_host(bad).is_err(), "{bad}");
        }
        for bad in ["", "-l", "a b", "root;", "a@b", "%r", "a\0"] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
        let mut inventory = Inventory::load_from(&tempfile::tempdir().unwrap().path().join("x")).unwrap();
        assert!(inventory.put(server("a", "-o")).is_err());
    }

    #[test]
    fn a_wrong_file_is_told_with_place_and_fix() {
        let check = |text: &str, expected: &str| {
            let error = read("config.toml", text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert_eq!(error_lines(&error).join("\n"), expected);
        };
        check(
            "[[servers]]\nname = \"a\"\nhost = \"b\"\nprot = 22\n",
            "unknown key `prot` in [[servers]]\n  config.toml:4:1\n   4 │ prot = 22\n     │ ^^^^ did you mean `port`?",
        );
        check(
            "[[servers]]\nname = \"a\"\nhost = \"-x\"\n",
            "`-x` is not a valid host\n  config.toml:3:8\n   3 │ host = \"-x\"\n     │        ^^^^ use a host name, an IP address or \
             an alias of your ssh_config",
        );
        assert!(read("config.toml", "[[servers]]\nname = \"a\"\n").unwrap_err().to_string().contains("has no host"));
        assert!(read("config.toml", "servers = 1").is_err());
        assert_eq!(read("config.toml", "servers = [{ name = \"a\", host = \"b\" }]").unwrap().len(), 1);
    }

    #[test]
    fn an_unknown_server_is_not_found_with_a_suggestion() {
        let home = home_with(WRITTEN);
        let inventory = Inventory::load_from(home.path()).unwrap();
        let error = inventory.find(&ServerName::parse("fra2").unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.next_step()), (Kind::NotFound, Some("did you mean `fra1`?")));
    }
}
