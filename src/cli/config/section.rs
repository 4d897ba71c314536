//! Section: one table of a file, read key by key. What has the wrong type becomes a problem with its place; what was
//! never asked for is an unknown key.

use std::cell::RefCell;
use std::ops::Range;

use toml_edit::{Document, Item, TableLike, Value};

use super::problem::Problem;
use crate::cli::nearest::did_you_mean;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub at: Range<usize>,
}

impl<T> Spanned<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), at: self.at }
    }
}

/// The problems of a file, found while reading it.
#[derive(Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// Parses a file's text.
///
/// # Errors
/// The first place where it is no TOML.
pub(crate) fn parse(text: &str) -> Result<Document<&str>, Problem> {
    Document::parse(text).map_err(|e| {
        let at = e.span().unwrap_or(0..0);
        if value_missing(text, &at) {
            // The parser takes the emptiness for a text without quotes.
            return Problem::at(&at, "a value is missing after `=`", "write one, such as \"text\", 1 or true");
        }
        let message = e.message().lines().next().unwrap_or_default().trim_end_matches('.');
        let fix = match message {
            m if m.starts_with("string values must be quoted") => "put it in quotes",
            m if m.starts_with("duplicate key") => "it is there above already: remove one of the two",
            m if m.starts_with("key with no value") => "write it as: key = value",
            _ => "the mistake is here or just before",
        };
        Problem::at(&at, format!("this is not TOML: {message}"), fix)
    })
}

fn value_missing(text: &str, at: &Range<usize>) -> bool {
    let before = text.get(..at.start).unwrap_or_default().trim_end_matches([' ', '\t']);
    let after = text.get(at.start..).unwrap_or_default().trim_start_matches([' ', '\t', '\r']);
    before.ends_with('=') && (after.is_empty() || after.starts_with(['\n', '#']))
}

pub(crate) struct Section<'a> {
    table: &'a dyn TableLike,
    /// `[envs.production]`; empty for the file itself.
    name: String,
    at: Range<usize>,
    problems: &'a Problems,
    asked: RefCell<Vec<&'static str>>,
    refused: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn root(document: &'a Document<&str>, problems: &'a Problems) -> Section<'a> {
        Section::new(document.as_table(), String::new(), 0..0, problems)
    }

    fn new(table: &'a dyn TableLike, name: String, at: Range<usize>, problems: &'a Problems) -> Section<'a> {
        Section { table, name, at, problems, asked: RefCell::default(), refused: RefCell::default() }
    }

    /// Where the section's key stands.
    pub fn at(&self) -> &Range<usize> {
        &self.at
    }

    /// Where a key of this section stands, if it is there.
    pub fn at_key(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key)?;
        Some(self.table.key(key).and_then(toml_edit::Key::span).unwrap_or_else(|| self.at.clone()))
    }

    pub fn text(&self, key: &'static str) -> Option<Spanned<String>> {
        self.read(key, "a text in quotes", |item| item.as_str().map(Into::into))
    }

    pub fn flag(&self, key: &'static str) -> Option<Spanned<bool>> {
        self.read(key, "true or false", Item::as_bool)
    }

    /// A whole number from `least` to `most`.
    pub fn number(&self, key: &'static str, least: u64, most: u64) -> Option<Spanned<u64>> {
        let number = self.read(key, "a whole number", Item::as_integer)?;
        match u64::try_from(number.value).ok().filter(|n| (least..=most).contains(n)) {
            Some(n) => Some(number.map(|_| n)),
            None => {
                let message = format!("`{key} = {}` is out of range", number.value);
                self.problems.add(Problem::at(&number.at, message, format!("use a number from {least} to {most}")));
                None
            }
        }
    }

    /// A number, whole or with a fraction.
    pub fn decimal(&self, key: &'static str) -> Option<Spanned<f64>> {
        // Whole numbers of this size are exact; larger ones are out of every range.
        self.read(key, "a number", |item| item.as_float().or_else(|| item.as_integer().map(|n| n as f64)))
    }

    /// A list of texts, each with its place.
    pub fn texts(&self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        let (at, array) = self.array(key)?;
        let mut texts = Vec::new();
        for value in array {
            let at = value.span().unwrap_or_else(|| at.clone());
            match value.as_str() {
                Some(text) => texts.push(Spanned { value: text.into(), at }),
                None => self.problems.add(Problem::at(
                    &at,
                    format!("`{key}` holds {} where it needs a text", kind_of(value)),
                    "write it in quotes",
                )),
            }
        }
        Some(Spanned { value: texts, at })
    }

    /// Any value at all.
    pub fn any(&self, key: &'static str) -> Option<(Range<usize>, &'a Item)> {
        self.asked.borrow_mut().push(key);
        let item = self.table.get(key)?;
        Some((self.span_of(key, item), item))
    }

    /// Where a key stands that has a meaning, but not in this version: it is neither unknown nor suggested.
    pub fn refused(&self, key: &'static str) -> Option<Range<usize>> {
        self.refused.borrow_mut().push(key);
        self.at_key(key)
    }

    pub fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let (at, item) = self.any(key)?;
        self.as_section(key, item, at)
    }

    /// The sections of `[[key]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some((at, item)) = self.any(key) else { return Vec::new() };
        let name = format!("[[{}]]", self.path(key));
        let tables: Vec<(&dyn TableLike, Option<Range<usize>>)> = match item {
            Item::ArrayOfTables(tables) => tables.iter().map(|t| (t as &dyn TableLike, t.span())).collect(),
            Item::Value(Value::Array(array)) if array.iter().all(Value::is_inline_table) => {
                array.iter().filter_map(|v| Some((v.as_inline_table()? as &dyn TableLike, v.span()))).collect()
            }
            other => {
                self.wrong(key, other, &at, &format!("tables, each below a line `{name}`"));
                return Vec::new();
            }
        };
        let section = |(table, span): (&'a dyn TableLike, Option<Range<usize>>)| {
            Section::new(table, name.clone(), span.unwrap_or_else(|| at.clone()), self.problems)
        };
        tables.into_iter().map(section).collect()
    }

    /// All keys of a section whose keys the user chooses, with where each stands.
    pub fn entries(&self) -> Vec<(Spanned<String>, &'a Item)> {
        let place = |key: &str| self.at_key(key).unwrap_or_else(|| self.at.clone());
        self.table.iter().map(|(key, item)| (Spanned { value: key.into(), at: place(key) }, item)).collect()
    }

    /// The section that an entry is.
    pub fn as_section(&self, key: &str, item: &'a Item, at: Range<usize>) -> Option<Section<'a>> {
        let at = self.at_key(key).unwrap_or(at);
        match item.as_table_like() {
            Some(table) => Some(Section::new(table, format!("[{}]", self.path(key)), at, self.problems)),
            None => {
                self.wrong(key, item, &at, &format!("a section [{}]", self.path(key)));
                None
            }
        }
    }

    /// Every key that nobody asked for is an error.
    pub fn finish(self) {
        let (asked, refused) = (self.asked.borrow(), self.refused.borrow());
        for (key, _) in self.entries() {
            if asked.contains(&key.value.as_str()) || refused.contains(&key.value.as_str()) {
                continue;
            }
            let place = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
            let mut known = asked.clone();
            known.sort_unstable();
            let fix = did_you_mean(&key.value, asked.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            self.problems.add(Problem::at(&key.at, format!("unknown key `{}`{place}", shown(&key.value)), fix));
        }
    }

    fn read<T>(&self, key: &'static str, wanted: &str, read: impl Fn(&Item) -> Option<T>) -> Option<Spanned<T>> {
        let (at, item) = self.any(key)?;
        match read(item) {
            Some(value) => Some(Spanned { value, at }),
            None => {
                self.wrong(key, item, &at, wanted);
                None
            }
        }
    }

    fn array(&self, key: &'static str) -> Option<(Range<usize>, &'a toml_edit::Array)> {
        let (at, item) = self.any(key)?;
        match item.as_array() {
            Some(array) => Some((at, array)),
            None => {
                self.wrong(key, item, &at, "a list, such as [\"a\", \"b\"]");
                None
            }
        }
    }

    fn wrong(&self, key: &str, item: &Item, at: &Range<usize>, wanted: &str) {
        let is = match item {
            Item::Value(value) => kind_of(value),
            Item::Table(_) => "a section",
            Item::ArrayOfTables(_) => "a list of sections",
            Item::None => "nothing",
        };
        self.problems.add(Problem::at(at, format!("`{}` is {is}", self.path(key)), format!("make it {wanted}")));
    }

    /// `envs.production.route`.
    fn path(&self, key: &str) -> String {
        let name = self.name.trim_matches(['[', ']']);
        if name.is_empty() { shown(key) } else { format!("{name}.{}", shown(key)) }
    }

    /// A value's own place; a section's is that of its key.
    fn span_of(&self, key: &str, item: &Item) -> Range<usize> {
        let value = item.as_value().and_then(Value::span);
        value.or_else(|| self.at_key(key)).unwrap_or_else(|| self.at.clone())
    }
}

fn shown(key: &str) -> String {
    key.chars().take(80).flat_map(char::escape_debug).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "an inline table",
    }
}
