//! The rules across keys: the file as written → the configuration as used, with every problem.
//!
//! One file per section below; each goes on after a problem, so that all are told in one run.

mod apps;
mod changes;
mod cors;
mod identity;
mod overlap;
mod paths;
mod routes;
mod secrets;
mod server;
mod session;
mod store;
mod tls;
mod upstreams;

use std::path::{Path, PathBuf};

use super::Config;
use super::file::File;
use super::problem::{Key, Problem, Severity};
use super::value::Period;

/// What the rules know of the world around the file, and what they found.
pub(super) struct Checker<'a> {
    /// Relative paths start here.
    folder: &'a Path,
    /// The environment.
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Files that were read.
    pub(super) files: Vec<PathBuf>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// What is allowed and yet not wise.
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Checker<'a> {
    /// Nothing is found yet.
    pub(super) fn new(folder: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { folder, env, files: Vec::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    /// Notes what is wrong with `key`, and how to mend it.
    fn wrong(&mut self, key: &Key, what: impl Into<String>, hint: impl Into<String>) {
        let mut problem = Problem::new(key.clone(), what);
        problem.hint(hint);
        self.problems.push(problem);
    }

    /// Notes what is not wise about `key`.
    fn warn(&mut self, key: &Key, what: impl Into<String>, hint: impl Into<String>) {
        let mut problem = Problem::new(key.clone(), what);
        problem.severity = Severity::Unwise;
        problem.hint(hint);
        self.warnings.push(problem);
    }

    /// The value of a key that must be there.
    fn required<T>(&mut self, key: &Key, value: Option<T>, example: &str) -> Option<T> {
        if value.is_none() {
            self.wrong(key, "is missing", format!("write {example}"));
        }
        value
    }

    /// A time-out that must be longer than zero.
    fn timeout(&mut self, key: &Key, period: Period) -> std::time::Duration {
        if period.0.is_zero() {
            self.wrong(key, "must be longer than zero", "write for example \"30s\"");
        }
        period.0
    }

    /// The path of a file that must be there and readable.
    fn file(&mut self, key: &Key, path: &Path) -> PathBuf {
        let path = self.folder.join(path);
        let opened = std::fs::File::open(&path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => {
                self.wrong(key, "is a folder", "name a file");
            }
            Ok(_) => self.files.push(path.clone()),
            Err(error) => self.wrong(key, format!("cannot be read: {error}"), RELATIVE),
        }
        path
    }

    /// Notes every element of `values` that stood there before; empty ones are passed over.
    fn distinct<'v>(&mut self, list: &Key, values: impl Iterator<Item = &'v str>) {
        let mut seen: Vec<&str> = Vec::new();
        for (index, value) in values.enumerate() {
            if let Some(first) = seen.iter().position(|other| *other == value && !value.is_empty())
            {
                let what = format!("is the same as {}", list.item(first));
                self.wrong(&list.item(index), what, "leave one of them out");
            }
            seen.push(value);
        }
    }
}

/// Where the path of a file starts.
const RELATIVE: &str = "relative paths start at the folder of the configuration";

/// Applies every rule. `None` if something is wrong that leaves no value at all; what is wrong
/// stands in `checker`.
pub(super) fn check(mut file: File, checker: &mut Checker<'_>) -> Option<Config> {
    let server = server::server(&file.server, checker);
    let admin = server::admin(file.admin, checker);
    if let Some(admin) = &admin {
        server::listeners(&file.server, admin.listen, checker);
    }
    let log = server::log(file.log, checker);
    let wechat = apps::wechat(&file.wechat, checker);
    let apps = apps::apps(file.apps, checker);
    let login_cors = file.login.cors.take();
    let mut login = apps::login(file.login, checker);
    if login.verify && server.trusted_proxies.is_empty() {
        let what = "is on, but server.trusted_proxies names nobody who may ask: all get 403";
        checker.warn(&Key::of("login").name("verify"), what, "name the proxy's address there");
    }
    let identity = identity::identity(file.identity, checker);
    let session = session::session(file.session, &identity, &apps, checker);
    let places = session.as_ref().map_or(&[][..], |session| &session.token_from);
    login.cors = login_cors.map(|written| cors::of_login(written, places, checker));
    let upstreams = upstreams::upstreams(file.upstreams, checker);
    let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let around = routes::Around {
        upstreams: &names,
        apps: &apps,
        prefix: &login.prefix,
        max_body_bytes: server.max_body_bytes,
        identity: &identity,
        places,
    };
    let routes = routes::routes(file.routes, &around, checker);
    Some(Config {
        server,
        admin: admin?,
        log,
        wechat: wechat?,
        apps,
        login,
        session: session?,
        identity,
        upstreams,
        routes,
    })
}
