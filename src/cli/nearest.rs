//! Did you mean: the one known word that somebody may have meant. It is suggested, never acted upon.

/// More than this many slips is another word.
const MAX_SLIPS: usize = 2;

/// The known word that `word` is a unique prefix of, else the single nearest one within [`MAX_SLIPS`] slips (a letter
/// too many, too few, wrong, or two swapped). At most half of a short word may be wrong.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.into_iter().collect();
    let mut starting = known.iter().filter(|k| !word.is_empty() && k.starts_with(word));
    if let (Some(one), None) = (starting.next(), starting.next()) {
        return Some(one);
    }
    let length = word.chars().count();
    let mut best: Vec<(usize, &str)> = known.iter().map(|k| (slips(word, k), *k)).collect();
    best.retain(|(n, _)| *n <= MAX_SLIPS && n * 2 <= length);
    best.sort_by_key(|(n, _)| *n);
    match best[..] {
        [] => None,
        [(a, _), (b, _), ..] if a == b => None,
        [(_, one), ..] => Some(one),
    }
}

/// `did you mean …?`, for the end of a message or as a hint.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|k| format!("did you mean `{k}`?"))
}

/// Edit distance in which swapping two neighbours counts once. Words beyond any name's length are not compared.
fn slips(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > MAX_SLIPS || a.len() > LONGEST {
        return usize::MAX / 4;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut least = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_one_word_that_was_meant() {
        let check = |word: &str, expected: Option<&str>| {
            let known = ["deploy", "delete", "status", "secrets", "servers", "scale", "ls", "rm"];
            assert_eq!(nearest(word, known), expected, "{word}");
        };
        check("depoly", Some("deploy"));
        check("dep", Some("deploy"));
        check("de", None);
        check("statsu", Some("status"));
        check("server", Some("servers"));
        check("lss", Some("ls"));
        check("xx", None);
        check("", None);
        check("frobnicate", None);
        check(&"x".repeat(100_000), None);
    }

    #[test]
    fn two_equally_near_words_are_no_suggestion() {
        assert_eq!(nearest("bat", ["cat", "hat"]), None);
    }
}
