//! Cron expressions of five fields, as crontab(5) has them, on a clock without time zones. Pure.
//!
//! The crate `cron` parses expressions and finds the next time. Its format differs: seconds come first, Sunday is 1, and a day
//! must match both the day of the month and the day of the week. So this module translates an expression for it. If both kinds
//! of day are restricted, it becomes two expressions, and a time is due if it matches either. The caller converts local times
//! to instants.
//!
//! Not here: what runs on a schedule (`nodeletd::timers` of the agent). Start with [`Schedule`].

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDateTime, Utc};

/// Nicknames and what they stand for.
const NICKNAMES: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Start of the search for a first date. Every valid date follows within eight years: two 29 Februaries are at most that far apart.
const EPOCH: &str = "2000-01-01T00:00:00";
/// Longest expression that is read.
const LONGEST: usize = 256;

/// A recurring time, from a cron expression.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    /// A time is due if it matches any of these.
    parts: Vec<cron::Schedule>,
}

/// Why a text is not a schedule. Completes "expected a schedule: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("{found} fields instead of five (minute, hour, day of month, month, day of week)")]
    Fields {
        /// How many there are.
        found: usize,
    },
    /// An unknown nickname.
    #[error("`{nickname}` is not a nickname; use @hourly, @daily, @weekly, @monthly or @yearly")]
    Nickname {
        /// What was written.
        nickname: String,
    },
    /// A field with an invalid value.
    #[error("`{text}` as {field}: {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No date matches the expression.
    #[error("it never comes: no month has such a day")]
    Never,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field::of("minute", 0, 59, &[]),
    Field::of("hour", 0, 23, &[]),
    Field::of("day of month", 1, 31, &[]),
    Field::of("month", 1, 12, MONTHS),
    // 0 and 7 are Sunday.
    Field::of("day of week", 0, 7, DAYS),
];

impl Schedule {
    /// The first time after `after` that is due, on the same clock.
    #[must_use]
    pub fn next_after(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        // `cron` needs a time zone. UTC has no shifts, so it leaves a local time as it is.
        let after: DateTime<Utc> = after.and_utc();
        self.parts
            .iter()
            .filter_map(|part| part.after(&after).next())
            .map(|time| time.naive_utc())
            .min()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let expression = if text.starts_with('@') {
            let known = NICKNAMES.iter().find(|(nickname, _)| *nickname == text);
            known
                .map(|(_, stands_for)| *stands_for)
                .ok_or_else(|| ScheduleError::Nickname {
                    nickname: text.to_owned(),
                })?
        } else {
            text
        };
        let written: Vec<&str> = expression.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = written[..] else {
            return Err(ScheduleError::Fields {
                found: written.len(),
            });
        };
        if expression.len() > LONGEST {
            return Err(ScheduleError::Field {
                field: "the whole",
                text: expression.chars().take(20).collect::<String>() + "…",
                why: format!("it is longer than {LONGEST} characters"),
            });
        }
        let mut sets = Vec::new();
        for (field, text) in FIELDS.iter().zip([minute, hour, day, month, weekday]) {
            sets.push(list(&field.values(text)?));
        }
        let [minutes, hours, days, months, weekdays] = &sets[..] else {
            unreachable!("five fields make five sets");
        };
        // As in crontab(5): in this rule, a field that begins with `*` counts as unrestricted.
        let both = !day.starts_with('*') && !weekday.starts_with('*');
        let days_alone = format!("0 {minutes} {hours} {days} {months} *");
        let weekdays_alone = format!("0 {minutes} {hours} * {months} {weekdays}");
        let together = format!("0 {minutes} {hours} {days} {months} {weekdays}");
        let parts = if both {
            vec![days_alone, weekdays_alone]
        } else {
            vec![together]
        };
        let schedule = Self {
            text: text.to_owned(),
            parts: parts
                .iter()
                .map(|part| {
                    cron::Schedule::from_str(part).map_err(|error| ScheduleError::Field {
                        field: "the whole",
                        text: text.to_owned(),
                        why: error.to_string(),
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        let epoch = EPOCH.parse().expect("it is a time");
        match schedule.next_after(epoch) {
            Some(first) if first.year() < 2010 => Ok(schedule),
            _ => Err(ScheduleError::Never),
        }
    }
}

/// A set in the format of the crate: numbers with commas.
fn list(values: &[u32]) -> String {
    let texts: Vec<String> = values.iter().map(u32::to_string).collect();
    texts.join(",")
}

impl Field {
    const fn of(name: &'static str, least: u32, most: u32, names: &'static [&'static str]) -> Self {
        Self {
            name,
            least,
            most,
            names,
        }
    }

    /// The values of a field, numbered as in the crate.
    fn values(&self, text: &str) -> Result<Vec<u32>, ScheduleError> {
        let mut set = std::collections::BTreeSet::new();
        for item in text.split(',') {
            self.item(item, &mut set)
                .map_err(|why| ScheduleError::Field {
                    field: self.name,
                    text: text.to_owned(),
                    why,
                })?;
        }
        if self.names.len() == DAYS.len() {
            // Sunday is 0 or 7 here and 1 in the crate.
            set = set.into_iter().map(|day| day % 7 + 1).collect();
        }
        Ok(set.into_iter().collect())
    }

    /// Adds the values of one item: `*`, `a` or `a-b`; `*` and `a-b` may have a `/step`.
    fn item(&self, item: &str, set: &mut std::collections::BTreeSet<u32>) -> Result<(), String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = if range == "*" {
            // Without 7, so that Sunday counts once.
            let last = if self.names.len() == DAYS.len() {
                6
            } else {
                self.most
            };
            (self.least, last)
        } else if let Some((first, last)) = range.split_once('-') {
            (self.value(first)?, self.value(last)?)
        } else if step.is_some() {
            return Err("a step follows `*` or a range, as in `*/15` or `10-20/2`".to_owned());
        } else {
            let value = self.value(range)?;
            (value, value)
        };
        if first > last {
            return Err(format!("{first} comes after {last}"));
        }
        let step = match step {
            None => 1,
            Some(step) => step
                .parse::<usize>()
                .ok()
                .filter(|number| (1..=60).contains(number) && !step.starts_with('+'))
                .ok_or_else(|| format!("`{step}` is not a step; use 1 to 60"))?,
        };
        set.extend((first..=last).step_by(step));
        Ok(())
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            // The first name has the least number: 1 for January, 0 for Sunday.
            return Ok(u32::try_from(at).unwrap_or(0) + self.least);
        }
        text.parse()
            .ok()
            .filter(|value| {
                (self.least..=self.most).contains(value) && text.bytes().all(|b| b.is_ascii_digit())
            })
            .ok_or_else(|| format!("`{text}` is not from {} to {}", self.least, self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, after: &str) -> String {
        let schedule: Schedule = expression
            .parse()
            .unwrap_or_else(|error| panic!("{expression}: {error}"));
        let after: NaiveDateTime = after.parse().expect("a time");
        schedule.next_after(after).map_or_else(
            || "never".to_owned(),
            |time| time.format("%a %Y-%m-%d %H:%M").to_string(),
        )
    }

    #[test]
    fn times_are_those_of_crontab() {
        // 2026-03-04 is a Wednesday.
        let now = "2026-03-04T05:06:07";
        for (expression, due) in [
            ("0 3 * * *", "Thu 2026-03-05 03:00"),
            ("*/15 * * * *", "Wed 2026-03-04 05:15"),
            ("6 5 * * *", "Thu 2026-03-05 05:06"),
            ("7 5 * * *", "Wed 2026-03-04 05:07"),
            ("10-20/5 6 * * *", "Wed 2026-03-04 06:10"),
            ("0 0 1,15 * *", "Sun 2026-03-15 00:00"),
            ("0 0 31 * *", "Tue 2026-03-31 00:00"),
            ("0 0 31 4,6 *", "never"),
            ("30 4 * jan-feb *", "Fri 2027-01-01 04:30"),
            ("0 0 29 2 *", "Tue 2028-02-29 00:00"),
            // Sunday is 0, 7 and sun.
            ("0 0 * * 0", "Sun 2026-03-08 00:00"),
            ("0 0 * * 7", "Sun 2026-03-08 00:00"),
            ("0 0 * * SUN", "Sun 2026-03-08 00:00"),
            ("0 0 * * 1", "Mon 2026-03-09 00:00"),
            ("0 0 * * 6", "Sat 2026-03-07 00:00"),
            ("0 0 * * 5-7", "Fri 2026-03-06 00:00"),
            ("0 6 * * mon-wed", "Wed 2026-03-04 06:00"),
            ("0 0 * * */3", "Sat 2026-03-07 00:00"),
            // Either day matches if both are restricted.
            ("0 0 13 * 5", "Fri 2026-03-06 00:00"),
            ("0 0 5 * 1", "Thu 2026-03-05 00:00"),
            // Both days must match if one begins with `*`.
            ("0 0 */5 * 1", "Mon 2026-03-16 00:00"),
            ("@hourly", "Wed 2026-03-04 06:00"),
            ("@daily", "Thu 2026-03-05 00:00"),
            ("@weekly", "Sun 2026-03-08 00:00"),
            ("@monthly", "Wed 2026-04-01 00:00"),
            ("@yearly", "Fri 2027-01-01 00:00"),
            ("  0  3  *  *  *  ", "Thu 2026-03-05 03:00"),
        ] {
            if due == "never" {
                let error = Schedule::from_str(expression).expect_err(expression);
                assert_eq!(error, ScheduleError::Never, "{expression}");
            } else {
                assert_eq!(next(expression, now), due, "{expression}");
            }
        }
    }

    #[test]
    fn an_invalid_schedule_has_a_reason() {
        for (expression, why) in [
            ("", "0 fields"),
            ("0 3 * *", "4 fields"),
            ("0 0 3 * * *", "6 fields"),
            ("0 0 30 2 *", "never comes"),
            ("0 0 31 2,4,6,9,11 *", "never comes"),
            ("60 * * * *", "`60` is not from 0 to 59"),
            ("* 24 * * *", "`24` is not from 0 to 23"),
            ("* * 0 * *", "`0` is not from 1 to 31"),
            ("* * * 13 *", "`13` is not from 1 to 12"),
            ("* * * * 8", "`8` is not from 0 to 7"),
            ("* * * * monday", "`monday` is not from 0 to 7"),
            ("20-10 * * * *", "20 comes after 10"),
            ("*/0 * * * *", "not a step"),
            ("5/10 * * * *", "a step follows"),
            ("+5 * * * *", "`+5`"),
            ("*/+5 * * * *", "not a step"),
            ("1,,2 * * * *", "``"),
            ("@reboot", "not a nickname"),
            ("every night at three o'clock", "5 fields"),
        ] {
            let Err(error) = Schedule::from_str(expression) else {
                panic!("{expression} is no schedule");
            };
            let said = error.to_string();
            let meant = said.contains(why) || (why == "5 fields" && said.contains("minute"));
            assert!(meant, "{expression}: {said}");
        }
        let long = format!("{} * * * *", "1,".repeat(200) + "2");
        assert!(Schedule::from_str(&long).is_err());
    }
}
