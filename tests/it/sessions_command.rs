//! `wxgate sessions`: an operator lists, shows and ends the sessions of a running gateway.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::wechat::{APPID, SECRET, openid_of};
use crate::harness::{Refusing, Reply, Site, Upstream};

/// Runs `wxgate sessions` with these arguments, in the folder of the site's gateway.toml.
fn sessions(site: &Site, arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.arg("sessions").args(arguments).current_dir(site.gateway.directory());
    command.env("WX_SECRET", SECRET).env_remove("WXGATE_ADMIN_TOKEN").stdin(Stdio::null());
    command.envs(token.map(|token| ("WXGATE_ADMIN_TOKEN", token))).output().unwrap()
}

/// As [`sessions`], of the site's own listener; what it printed and complained of.
#[track_caller]
fn at_admin(site: &Site, status: i32, arguments: &[&str]) -> (String, String) {
    let admin = site.gateway.admin().to_string();
    let (order, rest) = arguments.split_at(1);
    let output = sessions(site, &[order, &["--admin", &admin], rest].concat(), None);
    let (out, err) = said(&output);
    assert_eq!(output.status.code(), Some(status), "{out}{err}");
    (out, err)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn sid_of(token: &str) -> String {
    crate::harness::token::decode(token).1["sid"].as_str().unwrap().to_owned()
}

#[test]
fn a_list_is_a_table_that_lines_up_or_the_apis_json() {
    let site = Site::start();
    assert_eq!(at_admin(&site, 0, &["list"]), (String::new(), "no session is open\n".to_owned()));
    let ann = sid_of(&site.log_in("ann"));
    sid_of(&site.log_in("a-user-with-a-longer-name"));
    let (table, complaints) = at_admin(&site, 0, &["list"]);
    assert_eq!(complaints, "");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let column = |name: &str| lines[0].find(name).unwrap();
    let row = lines.iter().find(|line| line.starts_with(&ann)).unwrap();
    assert!(row[column("OPENID")..].starts_with(&openid_of("ann")), "{table}");
    assert!(row[column("APP")..].starts_with(APPID), "{table}");
    assert!(row[column("SCOPE")..].starts_with("- "), "{table}");
    let since = &row[column("SINCE (UTC)")..][..19];
    assert!(since.starts_with("20") && since[10..].starts_with(' '), "{table}");
    let (text, _) = at_admin(&site, 0, &["list", "--json", "--openid", &openid_of("ann")]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(json["sessions"][0]["sid"], *ann);
    assert!(!text.contains("session_key"));
    let (none, _) = at_admin(&site, 0, &["list", "--json", "--appid", "wx_of_nobody"]);
    assert_eq!(serde_json::from_str::<Value>(&none).unwrap()["sessions"], Value::Array(vec![]));
}

#[test]
fn a_list_follows_the_pages_as_far_as_asked() {
    let site = Site::start();
    for number in 0..12 {
        site.log_in(&format!("user{number}"));
    }
    let (table, complaints) = at_admin(&site, 0, &["list", "--limit", "5"]);
    assert_eq!(table.lines().count(), 6);
    assert!(complaints.contains("there are more"), "{complaints}");
    let (table, complaints) = at_admin(&site, 0, &["list", "--limit", "0"]);
    assert_eq!((table.lines().count(), complaints.as_str()), (13, ""));
}

/// A listener that gives one session a page.
#[test]
fn every_page_of_a_list_is_asked_for_once() {
    let site = Site::start();
    let admin = Upstream::start();
    let page = |sid: &str, next: &str| {
        Reply::ok(&format!("{{\"sessions\": [{{\"sid\": \"{sid}\"}}]{next}}}"))
    };
    admin.answers("/api/v1/sessions", page("s1", ", \"next_cursor\": \"c1\""));
    let url = format!("http://{}", admin.address());
    let output = sessions(&site, &["list", "--limit", "3", "--json", "--admin", &url], None);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["sessions"].as_array().unwrap().len(), 3);
    let asked: Vec<_> = admin.requests().into_iter().map(|request| request.target).collect();
    let path = "/api/v1/sessions?limit=";
    assert_eq!(
        asked,
        [format!("{path}3"), format!("{path}2&cursor=c1"), format!("{path}1&cursor=c1")]
    );
}

#[test]
fn a_session_is_shown_and_ended() {
    let site = Site::start();
    let token = site.log_in("ann");
    let sid = sid_of(&token);
    let (text, _) = at_admin(&site, 0, &["show", "--", &sid]);
    assert!(
        text.starts_with(&format!("session  {sid}\nopenid   {}\n", openid_of("ann"))),
        "{text}"
    );
    let (text, _) = at_admin(&site, 0, &["show", "--json", "--", &sid]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["appid"], APPID);
    let (text, _) = at_admin(&site, 0, &["kick", "--", &sid]);
    assert_eq!(text, format!("{sid} is ended\n"));
    site.get("/api/").bearer(&token).send().assert_refused(401, "invalid_token");
    for order in ["show", "kick"] {
        let (out, err) = at_admin(&site, 1, &[order, "--", &sid]);
        assert_eq!(out, "");
        assert!(err.contains("has no open session") && err.contains(&sid), "{err}");
    }
}

#[test]
fn the_id_of_a_session_may_begin_with_a_hyphen() {
    let site = Site::start();
    let admin = Upstream::start();
    let url = format!("http://{}", admin.address());
    for sid in ["-Vq3", "--Vq3", "-hQ7", "-"] {
        let path = format!("/api/v1/sessions/{sid}");
        admin.answers(&path, Reply::ok(&format!("{{\"sid\": \"{sid}\"}}")));
        for arguments in [["show", sid, "--admin", &url], ["kick", "--admin", &url, sid]] {
            let output = sessions(&site, &arguments, None);
            let complaint = said(&output).1;
            assert!(!complaint.contains("unexpected argument"), "{arguments:?}: {complaint}");
            assert_eq!(admin.last().target, path, "{arguments:?}: {complaint}");
        }
    }
    let output = sessions(&site, &["kick", "--openid", "nobody", "--admin", &url], None);
    assert!(admin.last().target.ends_with("/users/nobody/sessions"), "{output:?}");
}

#[test]
fn all_sessions_of_a_user_are_ended() {
    let site = Site::start();
    let tokens = [site.log_in("ann"), site.log_in("ann")];
    let bob = site.log_in("bob");
    at_admin(&site, 0, &["kick", "--openid", &openid_of("ann")]);
    for token in tokens {
        site.get("/api/").bearer(&token).send().assert_refused(401, "invalid_token");
    }
    assert_eq!(site.get("/api/").bearer(&bob).send().status, 200);
}

#[test]
fn the_configuration_tells_where_and_with_which_token() {
    let token = "an-admin-token-of-32-characters!";
    let refusing = Refusing::start();
    let listen = format!("listen = \"{}\"", refusing.address());
    let secret = format!("token = {{ file = \"admin.token\" }}\n{listen}");
    drop(refusing);
    let site = Site::with().file("admin.token", token).admin(&secret).start();
    site.log_in("ann");
    let output = sessions(&site, &["list"], None);
    let (out, err) = said(&output);
    assert_eq!((output.status.code(), out.lines().count()), (Some(0), 2), "{out}{err}");
    let admin = site.gateway.admin().to_string();
    let with = |token| {
        let output = sessions(&site, &["list", "--admin", &admin], token);
        (output.status.code(), said(&output).1)
    };
    assert_eq!(with(Some(token)).0, Some(0));
    for (shown, what) in [(None, "whoever has no token"), (Some("wrong"), "the token")] {
        let (status, err) = with(shown);
        assert_eq!(status, Some(1));
        assert!(err.contains(&format!("refuses {what}; set WXGATE_ADMIN_TOKEN")), "{err}");
        assert!(!err.contains(token) && !err.contains("wrong"), "{err}");
    }
}

#[test]
fn what_is_wrong_is_told_in_one_sentence_and_by_the_exit_status() {
    let site = Site::start();
    let nobody = Refusing::start();
    let backend = site.upstream.address().to_string();
    let nobody = nobody.address().to_string();
    for (arguments, status, words) in [
        (&["list", "--admin", &nobody][..], 1, "no gateway answers at http://127.0.0.1:"),
        (&["list", "--admin", &backend], 1, "is no admin listener of wxgate"),
        (&["list", "--admin", "ftp://x"], 2, "`ftp://x` is not the URL of an admin listener"),
        (&["list", "-c", "missing.toml"], 2, "missing.toml"),
        (&["list", "-c", "gateway.toml", "--admin", &nobody], 2, "cannot be used with"),
        (&["list", "--limit", "many"], 2, "invalid value 'many'"),
        (&["kick"], 2, "required"),
        (&["kick", "sid", "--openid", "oUser_1"], 2, "cannot be used with"),
        (&["show", "../config"], 2, "an id of a session is letters"),
        (&[], 2, "Usage: wxgate sessions"),
    ] {
        let output = sessions(&site, arguments, None);
        let (out, err) = said(&output);
        assert_eq!((output.status.code(), out.as_str()), (Some(status), ""), "{arguments:?} {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
        assert!(status == 2 || err.lines().count() == 1, "{err}");
    }
    let (_, err) = at_admin(&site, 1, &["list", "--openid", "o"]);
    assert!(err.contains("openid and appid are 6 to 64 letters"), "{err}");
}
