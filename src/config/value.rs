//! How values are written: durations, sizes, rates, and what has a short and a long form.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::problem::quote;

/// Parts what is wrong from its mend in the one line of text that a serde error is.
pub(super) const HINT: &str = "\nhint: ";

/// A length of time such as `"500ms"` or `"2h"`, at most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

/// Longer periods are typing mistakes, and would overflow where they are added to a time.
const LONGEST: Duration = Duration::from_hours(24 * 3650);

impl Period {
    /// Reads `500ms`, `2h` or `1h30m`.
    ///
    /// # Errors
    /// What is wrong and, after [`HINT`], how to mend it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.parse::<f64>().is_ok() {
            let seconds = if text.parse::<u64>().is_ok() { text } else { "90" };
            return Err(format!(
                "{} has no unit{HINT}write \"{seconds}s\", \"2h\" or \"30d\"",
                quote(text)
            ));
        }
        let not_a_duration =
            || format!("{} is not a duration{HINT}write \"500ms\", \"2h\" or \"30d\"", quote(text));
        // humantime knows `M` for months and `y` too: "30M" would be two and a half years.
        let mut units = text.split(|character: char| !character.is_alphabetic());
        if !units.all(|unit| matches!(unit, "" | "ms" | "s" | "m" | "h" | "d" | "w")) {
            return Err(not_a_duration());
        }
        let period = humantime::parse_duration(text).map_err(|_| not_a_duration())?;
        if period > LONGEST {
            return Err(format!("{} is longer than ten years", quote(text)));
        }
        Ok(Self(period))
    }
}

/// A number of bytes such as `"16KiB"`; `0`, with or without quotes, has a meaning of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Size {
    /// Reads `16KiB`, `100MB` or `0`. Only whole numbers: the crates for this take fractions
    /// and round what is too large.
    ///
    /// # Errors
    /// What is wrong and, after [`HINT`], how to mend it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "0" {
            return Ok(Self(0));
        }
        if text.parse::<f64>().is_ok() {
            let bytes = if text.parse::<u64>().is_ok() { text } else { "512" };
            return Err(format!(
                "{} has no unit{HINT}write \"{bytes}B\", \"16KiB\" or \"100MiB\"",
                quote(text)
            ));
        }
        let number = text.trim_end_matches(|character: char| !character.is_ascii_digit());
        let unit = text.trim_start_matches(|character: char| character.is_ascii_digit()).trim();
        let factor: Option<u64> = match unit {
            "B" => Some(1),
            "KB" | "kB" => Some(1000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            "TiB" => Some(1 << 40),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(n, f)| n.checked_mul(f))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "{} is not a size{HINT}write \"16KiB\", \"100MiB\" or \"2GiB\"",
                    quote(text)
                )
            })
    }
}

/// So many per second, minute, hour or day: `"20/s"`, `"30/m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// At least 1.
    pub(super) count: u32,
    pub(super) period: Duration,
}

impl Rate {
    /// Reads `30/m`.
    ///
    /// # Errors
    /// What is wrong and, after [`HINT`], how to mend it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (count, unit) = text.split_once('/').unwrap_or((text, ""));
        let period = match unit.trim() {
            "s" => Some(Duration::from_secs(1)),
            "m" => Some(Duration::from_mins(1)),
            "h" => Some(Duration::from_hours(1)),
            "d" => Some(Duration::from_hours(24)),
            _ => None,
        };
        let count = count.trim().parse().ok().filter(|count| *count > 0);
        count.zip(period).map(|(count, period)| Self { count, period }).ok_or_else(|| {
            format!(
                "{} is not a rate{HINT}write \"20/s\" or \"30/m\": a whole number from 1 and one of s, m, h, d",
                quote(text)
            )
        })
    }
}

/// Deserialises what is written as text, and names numbers as if they were text: `7200` and
/// `"7200"` lack the same unit.
struct Text<T>(fn(&str) -> Result<T, String>, &'static str);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.1)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! written_as_text {
    ($name:ident, $expected:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text(Self::parse, $expected))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

written_as_text!(Period, "a duration", {
    "type": "string", "format": "duration", "pattern": r"^\s*([0-9]+(ms|s|m|h|d|w)\s*)+$"
});
written_as_text!(Size, "a size", {
    "type": ["string", "integer"], "format": "size",
    "pattern": r"^\s*(0|[0-9]+\s*(B|[kK]B|MB|GB|KiB|MiB|GiB|TiB))\s*$", "maximum": 0
});
written_as_text!(Rate, "a rate", {
    "type": "string", "format": "rate", "pattern": r"^\s*[1-9][0-9]*\s*/\s*[smhd]\s*$"
});

/// Prints the largest unit that leaves no rest.
fn print_whole(
    formatter: &mut fmt::Formatter<'_>,
    amount: u128,
    units: &[(u128, &str)],
) -> fmt::Result {
    let fits = units.iter().find(|(factor, _)| amount != 0 && amount.is_multiple_of(*factor));
    match fits.or(units.last()) {
        Some((factor, unit)) => write!(formatter, "{}{unit}", amount / factor),
        None => write!(formatter, "{amount}"),
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) {
            print_whole(formatter, millis, &units)
        } else {
            write!(formatter, "{millis}ms")
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match self.0 {
            0 => formatter.write_str("0"),
            bytes if bytes.is_multiple_of(1 << 10) => {
                print_whole(formatter, u128::from(bytes), &units)
            }
            bytes => write!(formatter, "{bytes}B"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.as_secs() {
            1 => "s",
            60 => "m",
            3600 => "h",
            _ => "d",
        };
        write!(formatter, "{}/{unit}", self.count)
    }
}

/// A list that may be written as its only element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct OneOrMore<T>(pub(super) Vec<T>);

/// What may be written as text where only its main part is wanted, else as a table.
pub(super) trait FromText: Sized {
    /// What may stand here, for the message where something else does.
    const EXPECTED: &'static str;

    /// The value that `text` is short for.
    fn from_text(text: &str) -> Self;
}

impl FromText for String {
    const EXPECTED: &'static str = "a string or a list of strings";

    fn from_text(text: &str) -> Self {
        text.to_owned()
    }
}

impl<'de, T: FromText + Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: FromText + Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMore(vec![T::from_text(text)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMore)
            }
        }

        deserializer.deserialize_any(List(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Deserialises `T` from text or from its table.
///
/// # Errors
/// Those of the table; anything but text and a table.
pub(super) fn text_or_table<'de, D, T, Table>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromText + From<Table>,
    Table: Deserialize<'de>,
{
    struct Either<T, Table>(PhantomData<(T, Table)>);

    impl<'de, T: FromText + From<Table>, Table: Deserialize<'de>> Visitor<'de> for Either<T, Table> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(T::EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(T::from_text(text))
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
            Table::deserialize(MapAccessDeserializer::new(table)).map(T::from)
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(Period::parse("500ms").unwrap().0, Duration::from_millis(500));
        assert_eq!(Period::parse("1h 30m").unwrap().0, Duration::from_mins(90));
        assert_eq!(Period::parse("0s").unwrap().0, Duration::ZERO);
        for text in ["", "7200", "1.5", "soon", "-1s", "30M", "1y", "1 month", "4000d", "s", "1e3s"]
        {
            assert!(Period::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_need_a_unit_unless_they_are_zero() {
        assert_eq!(Size::parse("16KiB"), Ok(Size(16 * 1024)));
        assert_eq!(Size::parse("2 GiB"), Ok(Size(2 << 30)));
        assert_eq!(Size::parse("1kB"), Ok(Size(1000)));
        assert_eq!(Size::parse("0"), Ok(Size(0)));
        for text in ["", "16", "1.5KiB", "16 KiBs", "KiB", "-1B", "16777216TiB", "1kib", "1 K"] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_a_whole_number_per_unit() {
        let rate = Rate::parse(" 30 / m ").unwrap();
        assert_eq!((rate.count, rate.period), (30, Duration::from_mins(1)));
        for text in
            ["", "30", "30/", "/m", "0/s", "-1/s", "1.5/s", "30/min", "30/m/s", "5000000000/s"]
        {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(millis in 0..=LONGEST.as_millis(), bytes: u64, count in 1_u32..) {
            let period = Period(Duration::from_millis(u64::try_from(millis).unwrap()));
            prop_assert_eq!(Period::parse(&period.to_string()), Ok(period));
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
            for unit in ["s", "m", "h", "d"] {
                let text = format!("{count}/{unit}");
                prop_assert_eq!(Rate::parse(&text).unwrap().to_string(), text);
            }
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(text in "\\PC{0,24}") {
            // Each may refuse; none may panic, and a refusal says something.
            for refusal in [
                Period::parse(&text).err(),
                Size::parse(&text).err(),
                Rate::parse(&text).err(),
            ] {
                prop_assert!(refusal.is_none_or(|refusal| !refusal.is_empty()));
            }
        }
    }
}
