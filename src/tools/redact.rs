//! Keeps secrets out of texts and of streams of bytes: in every form they are known to take, also when a write ends in the
//! midst of one.
//!
//! The cost is linear in the length of the text, however many secrets there are.

use super::secret::{STARS, Secret};
use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

/// Shorter values are not redacted: they would blank ordinary words.
const SHORTEST: usize = 4;

/// So many digits of base64 do not stand at the end of a line by chance.
const BY_CHANCE: usize = 4;
/// What URLs keep as it is, by who writes them: RFC 3986 (and Python's `quote`), and JavaScript's `encodeURIComponent`.
const KEPT_IN_URLS: [&str; 2] = ["-._~", "-._~!'()*"];
/// The forms of a secret that are looked for.
#[derive(Default)]
struct Forms {
    /// Each of its lines as it is, in a URL, and in JSON.
    plain: BTreeSet<String>,
    /// In base64, wherever it stands in what was encoded. Programs break that into lines anywhere.
    base64: BTreeSet<String>,
}

/// What is looked for of a secret: the whole of it, and each of its lines.
fn pieces(secret: &Secret) -> impl Iterator<Item = &str> {
    let value = secret.expose().trim();
    std::iter::once(value).chain(value.lines().map(str::trim))
}

/// A text as it stands between the quotes of JSON.
fn in_json(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_default();
    json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

fn add_forms(secret: &Secret, Forms { plain, base64 }: &mut Forms) {
    // What is too short to be found within other digits is found alone.
    if secret.expose().trim().len() >= SHORTEST {
        plain.insert(STANDARD_NO_PAD.encode(secret.expose()));
    }
    for piece in pieces(secret) {
        plain.insert(piece.to_owned());
        plain.extend(in_urls(piece));
        let json = in_json(piece);
        plain.extend([json.replace('/', "\\/"), json]);
        for digits in (0..3).filter_map(|offset| base64_at(piece, offset)) {
            base64.extend([digits.replace('+', "-").replace('/', "_"), digits]);
        }
    }
    plain.retain(|form| form.len() >= SHORTEST);
}

/// A text as it stands in URLs, in upper and lower case digits.
fn in_urls(text: &str) -> Vec<String> {
    let plus: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let mut forms = vec![plus.replace('+', "%20"), plus];
    for kept in KEPT_IN_URLS {
        let byte = |byte: &u8| match byte.is_ascii_alphanumeric() || kept.contains(char::from(*byte)) {
            true => char::from(*byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        let upper: String = text.as_bytes().iter().map(byte).collect();
        let slashes = upper.replace("%2F", "/"); // `quote` leaves them
        forms.extend([lower(&upper), lower(&slashes), upper, slashes]);
    }
    forms
}

/// The same with small hexadecimal digits.
fn lower(text: &str) -> String {
    let mut after = 0;
    let digit = |c: char| {
        after = if c == '%' { 2 } else { i32::max(after - 1, -1) };
        if after >= 0 && c != '%' { c.to_ascii_lowercase() } else { c }
    };
    text.chars().map(digit).collect()
}

/// The digits of base64 that depend on this text alone when so many bytes, modulo three, come before it.
fn base64_at(text: &str, offset: usize) -> Option<String> {
    let mut bytes = vec![0_u8; offset];
    bytes.extend_from_slice(text.as_bytes());
    let encoded = STANDARD_NO_PAD.encode(&bytes);
    // The first digits mix in what comes before, the last one what comes after.
    let first = [0, 2, 3].get(offset).copied()?;
    let last = encoded.len() - usize::from(!bytes.len().is_multiple_of(3));
    let own = encoded.get(first..last)?;
    (own.len() >= 8).then(|| own.to_owned())
}

/// Texts that are looked for together.
struct Patterns {
    known: AhoCorasick,
    texts: Vec<String>,
    /// Which bytes a text begins with.
    firsts: [bool; 256],
    longest: usize,
}

impl Patterns {
    fn new(texts: BTreeSet<String>) -> Option<Self> {
        let texts: Vec<String> = texts.into_iter().collect();
        let known =
            (!texts.is_empty()).then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts).ok()).flatten()?;
        let mut firsts = [false; 256];
        for first in texts.iter().filter_map(|text| text.bytes().next()) {
            firsts.get_mut(usize::from(first)).into_iter().for_each(|is| *is = true);
        }
        let longest = texts.iter().map(String::len).max().unwrap_or_default();
        Some(Self { known, texts, firsts, longest })
    }

    /// How many of the last bytes may be the beginning of one.
    fn open_end(&self, bytes: &[u8]) -> usize {
        let most = self.longest.saturating_sub(1).min(bytes.len());
        let tail = bytes.get(bytes.len() - most..).unwrap_or_default();
        let begins = |from: usize| {
            let end = tail.get(from..).unwrap_or_default();
            end.first().is_some_and(|first| self.firsts.get(usize::from(*first)).copied().unwrap_or_default())
                && self.texts.iter().any(|text| text.len() > end.len() && text.as_bytes().starts_with(end))
        };
        (0..tail.len()).find(|from| begins(*from)).map_or(0, |from| tail.len() - from)
    }
}

/// What finds the secrets in a text.
#[derive(Default)]
struct Finder {
    plain: Option<Patterns>,
    base64: Option<Patterns>,
}

/// All secrets of a run, so that any text can be cleaned of them.
#[derive(Clone, Default)]
pub struct Redactor(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    secrets: Vec<Secret>,
    /// What the CI system was told to hide.
    masks: BTreeSet<String>,
    finder: Arc<Finder>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Learns a secret. Returns what a CI system has to be told to hide it as well: its lines, and its usual forms.
    pub fn learn(&self, secret: &Secret) -> Vec<String> {
        let Ok(mut known) = self.0.write() else { return Vec::new() };
        if known.secrets.iter().any(|other| other.expose() == secret.expose()) {
            return Vec::new();
        }
        known.secrets.push(secret.clone());
        known.finder = Arc::new(Finder::new(&known.secrets));
        masks(secret).into_iter().filter(|mask| known.masks.insert(mask.clone())).collect()
    }

    /// The text with every known secret replaced.
    pub fn clean(&self, text: &str) -> String {
        let Ok(finder) = self.0.read().map(|known| known.finder.clone()) else { return STARS.to_owned() };
        let mut out = Vec::with_capacity(text.len());
        finder.clean(text.as_bytes(), Ends::Here, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// A stream in which the secrets that are known by now do not appear.
    pub fn stream(&self) -> Stream {
        let finder = self.0.read().map(|known| known.finder.clone()).unwrap_or_default();
        Stream { finder, held: Vec::new() }
    }
}

/// A mask is one line; more than these would hide ordinary words.
fn masks(secret: &Secret) -> Vec<String> {
    let encoded = STANDARD.encode(secret.expose());
    let mut masks = vec![encoded.trim_end_matches('=').to_owned(), encoded];
    for piece in pieces(secret) {
        masks.extend(piece.lines().map(|line| line.trim().to_owned()));
        masks.extend([url::form_urlencoded::byte_serialize(piece.as_bytes()).collect(), in_json(piece)]);
    }
    masks.retain(|mask| mask.len() >= SHORTEST);
    masks
}

/// A stream that is cleaned piece by piece.
pub struct Stream {
    finder: Arc<Finder>,
    held: Vec<u8>,
}

impl Stream {
    /// A stream in which these secrets do not appear.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        Self { finder: Arc::new(Finder::new(secrets)), held: Vec::new() }
    }

    /// Takes the next piece, and appends to `out` what can be shown by now.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(piece);
        let shown = self.finder.clean(&held, Ends::Later, out);
        held.drain(..shown);
        self.held = held;
    }

    /// What is left at the end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.finder.clean(&held, Ends::Here, out);
    }
}

impl Finder {
    fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut forms = Forms::default();
        secrets.into_iter().for_each(|secret| add_forms(secret, &mut forms));
        Self { plain: Patterns::new(forms.plain), base64: Patterns::new(forms.base64) }
    }

    /// Appends what can be shown of these bytes; how many of them that were.
    fn clean(&self, bytes: &[u8], ends: Ends, out: &mut Vec<u8>) -> usize {
        if self.plain.is_none() && self.base64.is_none() {
            out.extend_from_slice(bytes);
            return bytes.len();
        }
        let joined = self.base64.is_some().then(|| Joined::new(bytes));
        let mut ready = bytes.len();
        if ends == Ends::Later {
            ready -= self.plain.as_ref().map_or(0, |plain| plain.open_end(bytes));
            if let (Some(base64), Some(joined)) = (&self.base64, &joined) {
                // A whole line is shown at once, unless a good part of a secret may end it: few digits fit by chance.
                let is_line = bytes.last().is_some_and(|last| matches!(last, b'\n' | b'\r'));
                let open = Some(base64.open_end(&joined.bytes)).filter(|open| !is_line || *open >= BY_CHANCE).unwrap_or_default();
                ready = if open == 0 { ready } else { ready.min(joined.origin(joined.bytes.len() - open)) };
            }
        }
        let mut found: Vec<(usize, usize)> =
            self.plain.iter().flat_map(|plain| plain.known.find_iter(bytes)).map(|found| (found.start(), found.end())).collect();
        if let (Some(base64), Some(joined)) = (&self.base64, &joined) {
            found.extend(
                base64.known.find_iter(&joined.bytes).map(|found| (joined.origin(found.start()), joined.origin(found.end() - 1) + 1)),
            );
            found.sort_unstable();
        }
        let mut from = 0;
        for (start, end) in found {
            // One that reaches into what is held back is decided when more has come.
            if end > ready {
                ready = ready.min(start.max(from));
                break;
            }
            if end <= from {
                continue;
            }
            out.extend_from_slice(bytes.get(from..start.max(from)).unwrap_or_default());
            if start >= from {
                out.extend_from_slice(STARS.as_bytes());
            }
            from = end;
        }
        out.extend_from_slice(bytes.get(from..ready.max(from)).unwrap_or_default());
        ready.max(from)
    }
}

/// Whether more may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Later,
    Here,
}

/// Bytes without their line ends, and where each of them was.
struct Joined {
    bytes: Vec<u8>,
    /// Where line ends were, in the bytes as they were.
    ends: Vec<usize>,
}

impl Joined {
    fn new(bytes: &[u8]) -> Self {
        let ends: Vec<usize> = memchr::memchr2_iter(b'\n', b'\r', bytes).collect();
        let mut joined = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for end in &ends {
            joined.extend_from_slice(bytes.get(from..*end).unwrap_or_default());
            from = end + 1;
        }
        joined.extend_from_slice(bytes.get(from..).unwrap_or_default());
        Self { bytes: joined, ends }
    }

    /// Where a byte was: as many later as there were line ends before it.
    fn origin(&self, at: usize) -> usize {
        // The first line end, counted from 0, that was not before it: end - count > at.
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.ends.get(middle).is_some_and(|end| end - middle <= at) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        at + low
    }
}

/// Makes bytes text: what is no UTF-8 becomes U+FFFD, and a character that a write cuts in two stays whole.
#[derive(Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8], out: &mut String) {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let mut rest: &[u8] = &held;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return out.push_str(text),
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        self.held = bad.to_vec(); // more may come
                        return;
                    };
                    out.push('\u{fffd}');
                    rest = bad.get(length..).unwrap_or_default();
                }
            }
        }
    }

    /// What is left at the end.
    pub fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.held).is_empty() {
            out.push('\u{fffd}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "pa ss/w\"rd+0123";

    #[test]
    fn every_form_in_a_text_is_cleaned_and_masked_once() {
        let redactor = Redactor::default();
        let secret = Secret::new("pa ss/w\"rd\nsecond line");
        let masks = redactor.learn(&secret);
        assert!(masks.iter().any(|mask| mask == "second line") && masks.iter().all(|mask| !mask.contains('\n')), "{masks:?}");
        assert!(redactor.learn(&secret).is_empty());
        for text in ["pa ss/w\"rd", "second line", "cGEgc3MvdyJyZApzZWNvbmQgbGluZQ==", "pa+ss%2Fw%22rd%0Asecond+line", r#"pa ss/w\"rd"#] {
            let clean = redactor.clean(&format!("<{text}>"));
            assert!(clean.contains(STARS) && clean.len() < text.len(), "{text}: {clean}");
        }
        redactor.learn(&Secret::new("pass"));
        assert_eq!(redactor.clean("cGFzcw==; \u{e9}pass\u{e9}"), "***==; \u{e9}***\u{e9}");
    }

    #[test]
    fn what_other_programs_write_is_found() {
        let value = "kT9~x!aZ?>/pQ+0(1)";
        let secret = Secret::new(value);
        let long = base64::engine::general_purpose::STANDARD.encode(format!("{}{value}", "x".repeat(50)));
        let broken: String = long.as_bytes().chunks(76).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
        for text in [
            "kT9~x%21aZ%3F%3E/pQ%2B0%281%29", // Python's quote
            "kT9~x!aZ%3F%3E%2FpQ%2B0(1)",     // encodeURIComponent
            "kT9~x!aZ%3f%3e%2fpQ%2b0(1)",
            "kT9%7Ex%21aZ%3F%3E%2FpQ%2B0%281%29", // a form
            "kT9~x!aZ?>\\/pQ+0(1)",
            &base64::engine::general_purpose::URL_SAFE.encode(value),
            &broken,
        ] {
            let mut stream = Stream::new([&secret]);
            let mut out = Vec::new();
            stream.push(text.as_bytes(), &mut out);
            stream.finish(&mut out);
            let shown = String::from_utf8(out).unwrap();
            assert!(shown.contains(STARS) && !shown.contains("kT9") && shown.len() < text.len() - 8, "{text}: {shown}");
        }
    }

    fn cleaned(pieces: &[&[u8]]) -> String {
        let secrets = [Secret::new(VALUE), Secret::new("pa ss"), Secret::new("two\nlines of it")];
        let mut stream = Stream::new(&secrets);
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| stream.push(piece, &mut out));
        stream.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn no_form_is_shown_however_it_is_cut() {
        let text = format!(
            "a {VALUE} b {} c {} d pa+ss%2Fw%22rd%2B0123 e lines of it f",
            "pa%20ss%2Fw%22rd%2B0123",
            serde_json::to_string(VALUE).unwrap()
        );
        let wanted = "a *** b *** c \"***\" d *** e *** f";
        assert_eq!(cleaned(&[text.as_bytes()]), wanted);
        for cut in 0..text.len() {
            let (one, other) = text.as_bytes().split_at(cut);
            assert_eq!(cleaned(&[one, other]), wanted, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(cleaned(&bytes), wanted);
    }

    #[test]
    fn base64_is_found_wherever_it_begins() {
        for before in ["", "a", "ab", "abc", "user:", "AWS:token="] {
            for after in ["", "x", "xy", "xyz"] {
                let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{before}{VALUE}{after}"));
                let shown = cleaned(&[encoded.as_bytes()]);
                assert!(shown.contains(STARS) && shown.len() < encoded.len() / 2 + 8, "{before:?} {after:?}: {shown}");
            }
        }
    }

    #[test]
    fn lines_are_shown_at_once_when_nothing_is_open() {
        let mut stream = Stream::new(&[Secret::new("hunter2-is-long")]);
        let mut out = Vec::new();
        stream.push(b"step one\n", &mut out);
        assert_eq!(out, b"step one\n");
        // What ends a line as the digits of the secret begin: one digit is chance, several are not.
        let digits = base64_at("hunter2-is-long", 0).unwrap();
        for line in [digits.get(..1).unwrap(), digits.get(..2).unwrap()] {
            out.clear();
            stream.push(format!("{line}\n").as_bytes(), &mut out);
            assert_eq!(out, format!("{line}\n").as_bytes());
        }
        out.clear();
        stream.push(format!("{}\n", digits.get(..8).unwrap()).as_bytes(), &mut out);
        assert!(out.is_empty());
        stream.push(digits.get(8..).unwrap().as_bytes(), &mut out);
        stream.push(b"\n", &mut out);
        assert_eq!(out, b"***\n");
        out.clear();
        stream.push(b"step one\n", &mut out);
        stream.push(b"hunt", &mut out);
        assert_eq!(out, b"step one\n");
        stream.push(b"ing\n", &mut out);
        assert_eq!(out, b"step one\nhunting\n");
    }

    #[test]
    fn text_is_made_of_any_bytes() {
        let mut text = String::new();
        let mut utf8 = Utf8::default();
        for piece in [&b"caf\xc3"[..], b"\xa9 \xff ", b"\xe2\x82", b"\xac\xe2"] {
            utf8.push(piece, &mut text);
        }
        utf8.finish(&mut text);
        assert_eq!(text, "caf\u{e9} \u{fffd} \u{20ac}\u{fffd}");
    }
}
