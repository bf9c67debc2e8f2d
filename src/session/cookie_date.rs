//! The times that backends write in `Expires` of a cookie, read as browsers read them (RFC 6265
//! section 5.1.1): whatever stands between them and in whatever order, a time, a day, a month and
//! a year are found.

use std::borrow::Cow;

use jiff::civil::DateTime;

/// A `Set-Cookie` in which every `Expires` stands as RFC 9110 writes times; one that is no time is
/// left out, as if it were not there.
pub(super) fn with_plain_dates(line: &str) -> Cow<'_, str> {
    if !line.split(';').skip(1).any(|attribute| expires(attribute).is_some()) {
        return Cow::Borrowed(line);
    }
    let mut parts = line.split(';');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for attribute in parts {
        let attribute = match expires(attribute).map(parse) {
            None => Cow::Borrowed(attribute),
            Some(None) => continue,
            Some(Some(time)) => {
                Cow::Owned(time.strftime(" Expires=%a, %d %b %Y %H:%M:%S GMT").to_string())
            }
        };
        plain.push(';');
        plain.push_str(&attribute);
    }
    Cow::Owned(plain)
}

/// The value of an attribute that is `Expires`.
fn expires(attribute: &str) -> Option<&str> {
    let (name, value) = attribute.split_once('=')?;
    name.trim().eq_ignore_ascii_case("expires").then_some(value)
}

/// The time that a text means, in UTC whatever zone it names.
fn parse(text: &str) -> Option<DateTime> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for word in text.split(is_delimiter).filter(|word| !word.is_empty()) {
        // The first that fits is taken, and each word but once.
        let _taken = take(&mut time, || time_of(word))
            || take(&mut day, || Some(number(word, 1..=2)?.0))
            || take(&mut month, || month_of(word))
            || take(&mut year, || Some(number(word, 2..=4)?.0));
    }
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    let (hour, minute, second) = time?;
    if year < 1601 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let small = |number: i16| i8::try_from(number).ok();
    let [day, hour, minute, second] = [small(day?)?, small(hour)?, small(minute)?, small(second)?];
    // Days that do not exist are refused here.
    DateTime::new(year, month?, day, hour, minute, second, 0).ok()
}

/// Fills a place that is free; tells whether that is done now.
fn take<T>(place: &mut Option<T>, find: impl FnOnce() -> Option<T>) -> bool {
    if place.is_some() {
        return false;
    }
    *place = find();
    place.is_some()
}

const fn is_delimiter(letter: char) -> bool {
    matches!(letter, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~')
}

/// `hh:mm:ss`, each of one or two digits, and whatever follows.
fn time_of(word: &str) -> Option<(i16, i16, i16)> {
    let (hour, rest) = number(word, 1..=2)?;
    let (minute, rest) = number(rest.strip_prefix(':')?, 1..=2)?;
    let (second, _) = number(rest.strip_prefix(':')?, 1..=2)?;
    Some((hour, minute, second))
}

fn month_of(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let begin = word.get(..3)?;
    let months = MONTHS.into_iter().zip(1..);
    months.into_iter().find(|(name, _)| begin.eq_ignore_ascii_case(name)).map(|(_, month)| month)
}

/// The number that a word begins with, if it has so many digits and no more, and the rest.
fn number(word: &str, digits: std::ops::RangeInclusive<usize>) -> Option<(i16, &str)> {
    let length = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = word.split_at_checked(length)?;
    digits.contains(&length).then(|| number.parse().ok())?.map(|number| (number, rest))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_found_however_it_is_written() {
        for text in [
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Thu, 1 Jan 1970 00:00:00 GMT",
            "Thu Jan 1 00:00:00 1970",
            "Thu Jan  1 00:00:00 1970",
            "thu, 01 jan 1970 00:00:00 gmt",
            "01 Jan 1970 00:00:00 GMT",
            "01 Jan 1970 00:00:00",
            "Thu, 01 Jan 1970 00:00:00 UTC",
            "Thu, 01 Jan 1970 00:00:00 +0000",
            "Thursday, 01-Jan-70 00:00:00 GMT",
            "Thu, 01-Jan-1970 00:00:00 GMT",
            "Thursday, 1 January 1970 0:0:0 GMT",
            "00:00:00 1970 January 1st",
            "1970/Jan/01 00:00:00.000Z",
            "Fri, 01 Jan 1970 00:00:00 GMT",
        ] {
            let epoch = DateTime::new(1970, 1, 1, 0, 0, 0, 0).unwrap();
            assert_eq!(parse(text), Some(epoch), "{text}");
        }
        for (text, year) in [("69", 2069), ("70", 1970), ("99", 1999), ("00", 2000), ("1601", 1601)]
        {
            let found = parse(&format!("Sun, 06 Nov {text} 08:49:37 GMT")).unwrap();
            assert_eq!((found.year(), found.second()), (year, 37), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "never",
            "Thu, 01 Jan 1970",
            "01 Jan 00:00:00",
            "1970-01-01 00:00:00",
            "1970-01-01T00:00:00Z",
            "Thu, 01 Jan 1600 00:00:00 GMT",
            "Thu, 00 Jan 1970 00:00:00 GMT",
            "Thu, 32 Jan 1970 00:00:00 GMT",
            "Mon, 30 Feb 2026 00:00:00 GMT",
            "Thu, 01 Jan 1970 24:00:00 GMT",
            "Thu, 01 Jan 1970 00:60:00 GMT",
            "Thu, 01 Jan 1970 00:00:60 GMT",
            "Thu, 01 Jan 1970 000:00:00 GMT",
            "Thu, 01 Jan 19700 00:00:00 GMT",
            "Thu, 001 Jan 1970x 00:00:00 GMT",
            "Thu, 01 Jän 1970 00:00:00 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_expires_is_changed() {
        for (line, plain) in [
            ("a=b", "a=b"),
            ("expires=1; Path=/", "expires=1; Path=/"),
            (
                "a=expires=x; EXPIRES = 1 Jan 70 0:0:0;Path=/;expires",
                "a=expires=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT;Path=/;expires",
            ),
            ("a=b; Expires=soon; Secure", "a=b; Secure"),
        ] {
            assert_eq!(with_plain_dates(line), plain);
        }
    }
}
