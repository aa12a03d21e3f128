//! Freeze windows: times in which nothing is deployed. Pure.

use crate::config::Freeze;
use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A window that was understood.
pub struct Window {
    from: Edge,
    to: Edge,
    zone: TimeZone,
}

/// Where a window begins or ends.
#[derive(PartialEq)]
enum Edge {
    Weekly(Weekday, Time),
    Once(DateTime),
}

/// What is wrong with a window: the key, what, and how to write it.
pub struct Wrong(pub &'static str, pub String, pub &'static str);

const EDGE: &str = "write it as \"Fri 16:00\", every week, or as \"2026-12-24 12:00\", once";

impl Window {
    /// Understands `from`, `to` and `zone`.
    pub fn parse(freeze: &Freeze) -> Result<Self, Wrong> {
        let edge = |key, text: &str| Edge::parse(text).ok_or_else(|| Wrong(key, format!("{text:?} is no time"), EDGE));
        let zone = TimeZone::get(&freeze.zone)
            .map_err(|_unknown| Wrong("zone", format!("{:?} is no time zone", freeze.zone), "write it as Europe/Zurich or UTC"))?;
        let window = Self { from: edge("from", &freeze.from)?, to: edge("to", &freeze.to)?, zone };
        match (&window.from, &window.to) {
            (Edge::Weekly(..), Edge::Once(_)) | (Edge::Once(_), Edge::Weekly(..)) => {
                Err(Wrong("to", "one end comes every week and the other one once".into(), EDGE))
            }
            (from, to) if from == to => Err(Wrong("to", "the freeze ends when it begins".into(), "give it a length")),
            (Edge::Once(from), Edge::Once(to)) if to < from => {
                Err(Wrong("to", "the freeze ends before it begins".into(), "change the two"))
            }
            (Edge::Weekly(..), Edge::Weekly(..)) | (Edge::Once(_), Edge::Once(_)) => Ok(window),
        }
    }

    /// When it ends, if it is on.
    pub fn end(&self, now: Timestamp) -> Option<Zoned> {
        let now = now.to_zoned(self.zone.clone());
        let here = now.datetime();
        let end = match (&self.from, &self.to) {
            (Edge::Once(from), Edge::Once(to)) => (*from <= here && here < *to).then_some(*to)?,
            (Edge::Weekly(day, time), Edge::Weekly(last_day, last_time)) => {
                let moment = |day: Weekday, time: Time| (day.to_monday_zero_offset(), time);
                let (from, to, at) = (moment(*day, *time), moment(*last_day, *last_time), moment(here.weekday(), here.time()));
                let is_on = if from < to { from <= at && at < to } else { from <= at || at < to };
                let days = i64::from(last_day.to_monday_zero_offset() - here.weekday().to_monday_zero_offset()).rem_euclid(7);
                let days = if days == 0 && here.time() >= *last_time { 7 } else { days };
                let date = here.date().checked_add(jiff::Span::new().days(days)).ok()?;
                is_on.then(|| date.to_datetime(*last_time))?
            }
            (Edge::Weekly(..), Edge::Once(_)) | (Edge::Once(_), Edge::Weekly(..)) => return None,
        };
        end.to_zoned(self.zone.clone()).ok()
    }
}

impl Edge {
    fn parse(text: &str) -> Option<Self> {
        let (first, time) = text.trim().split_once(' ')?;
        let time = ["%H:%M", "%H:%M:%S"].iter().find_map(|shape| Time::strptime(shape, time.trim()).ok())?;
        let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].iter().position(|day| day.eq_ignore_ascii_case(first));
        if let Some(day) = day.and_then(|day| i8::try_from(day).ok()) {
            return Some(Self::Weekly(Weekday::from_monday_zero_offset(day).ok()?, time));
        }
        let date = jiff::civil::Date::strptime("%Y-%m-%d", first).ok()?;
        Some(Self::Once(date.to_datetime(time)))
    }
}

/// Until when nothing is deployed, if a window is on; of several the one that ends last. In the words of its zone.
pub fn until(freezes: &[Freeze], now: Timestamp) -> Option<String> {
    let windows = freezes.iter().filter_map(|freeze| Window::parse(freeze).ok());
    let end = windows.filter_map(|window| window.end(now)).max()?;
    Some(end.strftime("%a %Y-%m-%d %H:%M %Z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(from: &str, to: &str) -> Freeze {
        Freeze { from: from.into(), to: to.into(), zone: "Europe/Zurich".into() }
    }

    fn until_at(from: &str, to: &str, now: &str) -> Option<String> {
        until(&[freeze(from, to)], now.parse().unwrap())
    }

    #[test]
    fn a_weekend_is_frozen_from_friday_to_monday_in_its_own_zone() {
        let weekend = |now| until_at("Fri 16:00", "Mon 08:00", now);
        // 2026-11-27 is a Friday; Zurich is one hour ahead of UTC in winter.
        assert_eq!(weekend("2026-11-27T14:59:59Z"), None);
        assert_eq!(weekend("2026-11-27T15:00:00Z").as_deref(), Some("Mon 2026-11-30 08:00 CET"));
        assert_eq!(weekend("2026-11-29T23:30:00Z").as_deref(), Some("Mon 2026-11-30 08:00 CET"));
        assert_eq!(weekend("2026-11-30T07:00:00Z"), None, "it ends at the minute that is named");
        // The summer begins within it, on Sunday 2027-03-28.
        assert_eq!(weekend("2027-03-27T12:00:00Z").as_deref(), Some("Mon 2027-03-29 08:00 CEST"));
        assert_eq!(weekend("2027-03-29T06:00:00Z"), None);
    }

    #[test]
    fn a_window_within_one_day_and_one_that_wraps_over_its_own_day() {
        assert!(until_at("Wed 09:00", "Wed 10:00", "2026-11-25T08:30:00Z").is_some());
        assert!(until_at("Wed 09:00", "Wed 10:00", "2026-11-25T09:30:00Z").is_none());
        assert_eq!(until_at("Wed 10:00", "Wed 09:00", "2026-11-25T09:30:00Z").as_deref(), Some("Wed 2026-12-02 09:00 CET"));
        assert!(until_at("Wed 10:00", "Wed 09:00", "2026-11-25T08:30:00Z").is_none());
    }

    #[test]
    fn a_holiday_is_frozen_once() {
        let holiday = |now| until_at("2026-12-24 12:00", "2027-01-04 08:00", now);
        assert_eq!(holiday("2026-12-31T00:00:00Z").as_deref(), Some("Mon 2027-01-04 08:00 CET"));
        assert!(holiday("2026-12-24T10:59:00Z").is_none() && holiday("2027-12-31T00:00:00Z").is_none());
    }

    #[test]
    fn of_two_windows_the_later_end_counts() {
        let both = [freeze("2026-12-24 12:00", "2026-12-27 08:00"), freeze("Sat 00:00", "Mon 08:00")];
        assert_eq!(until(&both, "2026-12-26T10:00:00Z".parse().unwrap()).as_deref(), Some("Mon 2026-12-28 08:00 CET"));
    }

    #[test]
    fn what_is_no_window_is_refused_by_its_key() {
        let key = |from: &str, to: &str, zone: &str| {
            Window::parse(&Freeze { from: from.into(), to: to.into(), zone: zone.into() }).err().map(|wrong| wrong.0)
        };
        assert_eq!(key("Fri 25:00", "Mon 08:00", "UTC"), Some("from"));
        assert_eq!(key("Fri 16:00", "2026-12-24 12:00", "UTC"), Some("to"));
        assert_eq!(key("2026-12-24 12:00", "2026-12-23 12:00", "UTC"), Some("to"));
        assert_eq!(key("Fri 16:00", "Fri 16:00", "UTC"), Some("to"));
        assert_eq!(key("Fri 16:00", "Mon 08:00", "Zurich"), Some("zone"));
        assert_eq!(key("fri 16:00", "mon 08:00", "UTC"), None);
    }
}
