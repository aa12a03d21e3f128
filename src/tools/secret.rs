//! Secret values, and the redactor that keeps them out of every line.

use base64::Engine;
use std::sync::{Arc, RwLock};

/// What stands where a secret was.
pub const STARS: &str = "***";
/// Shorter values are not redacted: they would blank ordinary words.
const SHORTEST: usize = 4;

/// A secret value. It prints as stars.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: only at the edge, where it is sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(STARS)
    }
}

/// All secrets of a run, so that any text can be cleaned of them.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Arc<RwLock<Vec<String>>>);

impl Redactor {
    /// Learns a secret: each of its lines, and the base64, URL and JSON forms. Returns the forms that are new.
    pub fn learn(&self, secret: &Secret) -> Vec<String> {
        let value = secret.expose().trim();
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret.expose());
        let mut forms = vec![encoded.trim_end_matches('=').to_owned(), encoded];
        for piece in std::iter::once(value).chain(value.lines().map(str::trim)) {
            forms.extend(piece.lines().map(|line| line.trim().to_owned()));
            forms.push(url::form_urlencoded::byte_serialize(piece.as_bytes()).collect());
            let json = serde_json::to_string(piece).unwrap_or_default();
            forms.extend(json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(str::to_owned));
        }
        let Ok(mut known) = self.0.write() else { return Vec::new() };
        let mut new = Vec::new();
        for form in forms.into_iter().filter(|form| form.len() >= SHORTEST) {
            if !known.contains(&form) {
                known.push(form.clone());
                new.push(form);
            }
        }
        known.sort_by_key(|form| std::cmp::Reverse(form.len())); // the longest first, or its rest would stay
        new
    }

    /// The text with every known secret replaced.
    pub fn clean(&self, text: &str) -> String {
        let Ok(known) = self.0.read() else { return STARS.to_owned() };
        known.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), STARS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_cleaned() {
        let redactor = Redactor::default();
        redactor.learn(&Secret::new("pa ss/w\"rd\nsecond line"));
        for text in ["pa ss/w\"rd", "second line", "cGEgc3MvdyJyZApzZWNvbmQgbGluZQ==", "pa+ss%2Fw%22rd%0Asecond+line", r#"pa ss/w\"rd"#] {
            assert!(redactor.clean(&format!("<{text}>")).contains(STARS), "{text}");
        }
        assert_eq!(format!("{:?}", Secret::new("x")), STARS);
    }
}
