//! `session.store`: one text that says where sessions live.

use std::path::Path;

use percent_encoding::percent_decode_str;

use super::super::problem::Key;
use super::super::{Redis, RedisLayout, RedisTransport, Store};
use super::Checker;
use crate::secret::Secret;

/// What can be wrong with it, and the mend. The text itself is never repeated: a URL may hold a
/// password.
type Fault = (&'static str, &'static str);

const FORMS: &str = "write \"memory\", \"sqlite:PATH\", \"redis://HOST:PORT/0\", \"rediss://…\" or \
                     \"redis+sentinel://HOST,HOST/MASTER\"";

/// Reads the store, and notes what is wrong with it.
pub(super) fn store(text: &str, key: &Key, checker: &mut Checker<'_>) -> Option<Store> {
    let read = if text == "memory" {
        Ok(Store::Memory)
    } else if let Some(path) = text.strip_prefix("sqlite:") {
        sqlite(path, checker.folder)
    } else {
        redis(text).map(Store::Redis)
    };
    match read {
        Err((what, hint)) => {
            checker.wrong(key, what, hint);
            None
        }
        Ok(store) => {
            if matches!(&store, Store::Redis(redis) if redis.password.is_some()) {
                let what = "the password of the store stands in the configuration itself";
                checker.warn(key, what, "let nobody but the gateway read this file");
            }
            Some(store)
        }
    }
}

fn sqlite(path: &str, folder: &Path) -> Result<Store, Fault> {
    if path.is_empty() || path.starts_with("//") || path.contains('?') || path == ":memory:" {
        return Err(("names no file", "write for example \"sqlite:wxgate.db\""));
    }
    let path = folder.join(path);
    if path.is_dir() {
        return Err(("is a folder", "name a file in it"));
    }
    // join gives "" for the folder of a bare name.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return Err(("is in a folder that is not there", "make the folder first"));
    }
    Ok(Store::Sqlite(path))
}

fn redis(text: &str) -> Result<Redis, Fault> {
    let (scheme, rest) =
        text.split_once("://").ok_or(("is not a store that wxgate knows", FORMS))?;
    let (transport, sentinel) = match scheme {
        "redis" => (RedisTransport::Plain, false),
        "rediss" => (RedisTransport::Tls, false),
        "redis+sentinel" => (RedisTransport::Plain, true),
        "rediss+sentinel" => (RedisTransport::Tls, true),
        _ => return Err(("is not a store that wxgate knows", FORMS)),
    };
    if rest.contains(['?', '#']) {
        return Err(("has options behind its path, which are not known", FORMS));
    }
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let servers = hosts
        .split(',')
        .map(|host| server(host, if sentinel { 26379 } else { 6379 }))
        .collect::<Option<Vec<_>>>()
        .ok_or(("names a server that is none", "write HOST or HOST:PORT, with commas between"))?;
    let (username, password) = user.map_or(Ok((None, None)), account)?;
    let (layout, database) = layout(&servers, path, sentinel)?;
    Ok(Redis { servers, layout, transport, username, password, database })
}

fn layout(
    servers: &[(String, u16)],
    path: &str,
    sentinel: bool,
) -> Result<(RedisLayout, i64), Fault> {
    const NUMBER: Fault = ("ends in a database that is no number", "write for example \"…/0\"");
    let database = |text: &str| match text {
        "" => Ok(0),
        text => text.parse().ok().filter(|number| (0..=65_535).contains(number)).ok_or(NUMBER),
    };
    if sentinel {
        let (master, number) = path.split_once('/').unwrap_or((path, ""));
        if master.is_empty() {
            let hint = "write redis+sentinel://HOST,HOST/MASTER";
            return Err(("does not name the master that the sentinels watch", hint));
        }
        return Ok((RedisLayout::Sentinel { master: master.to_owned() }, database(number)?));
    }
    let number = database(path)?;
    if servers.len() == 1 {
        return Ok((RedisLayout::Single, number));
    }
    if number != 0 {
        return Err(("asks a cluster for a database other than 0", "leave the number out"));
    }
    Ok((RedisLayout::Cluster, 0))
}

fn account(text: &str) -> Result<(Option<String>, Option<Secret<String>>), Fault> {
    const ENCODING: Fault =
        ("has a user or password that cannot be read", "percent-encode it as UTF-8");
    let decoded =
        |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| ENCODING);
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let (user, password) = (decoded(user)?, decoded(password)?);
    Ok((
        Some(user).filter(|user| !user.is_empty()),
        Some(password).filter(|password| !password.is_empty()).map(Secret::new),
    ))
}

/// `HOST`, `HOST:PORT`, or an IPv6 address in brackets.
fn server(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, written) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        return None;
    }
    let port = written.map_or(Some(port), |port| port.parse().ok().filter(|port| *port != 0))?;
    Some((host.to_owned(), port))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_hosts_is_a_cluster_and_a_master_is_asked_of_sentinels() {
        let single = redis("redis://:p%40ss@cache.internal:6380/3").unwrap();
        assert_eq!(single.servers, [("cache.internal".to_owned(), 6380)]);
        assert_eq!((single.layout, single.database), (RedisLayout::Single, 3));
        assert_eq!(single.password.unwrap().expose(), "p@ss");

        let cluster = redis("rediss://user:pw@a,b:7000,[::1]:7001").unwrap();
        assert_eq!(cluster.layout, RedisLayout::Cluster);
        assert_eq!(cluster.transport, RedisTransport::Tls);
        assert_eq!(cluster.servers.last().unwrap(), &("::1".to_owned(), 7001));
        assert_eq!(cluster.username.as_deref(), Some("user"));

        let sentinel = redis("redis+sentinel://s1,s2:26380/mymaster/2").unwrap();
        assert_eq!(sentinel.layout, RedisLayout::Sentinel { master: "mymaster".to_owned() });
        assert_eq!(sentinel.servers.first().unwrap().1, 26379);
        assert_eq!(sentinel.database, 2);
    }

    #[test]
    fn what_is_no_store_is_refused_without_being_repeated() {
        for text in [
            "",
            "postgres://x",
            "redis://",
            "redis://host:0",
            "redis://host:70000",
            "redis://host/x",
            "redis://a,b/1",
            "redis://host/0?tls=1",
            "redis+sentinel://a,b",
            "redis://a b",
        ] {
            let (what, hint) = redis(text).unwrap_err();
            assert!(text.is_empty() || !format!("{what}{hint}").contains(text), "{text}");
        }
    }
}
