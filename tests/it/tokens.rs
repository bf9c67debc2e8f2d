//! Which tokens are good, and that every other one is refused.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD as BASE64URL};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use crate::harness::token::{Forge, KEY, KID, decode, encode, is_signed_by, sign, unix_seconds};
use crate::harness::wechat::{APPID, openid_of};
use crate::harness::{Answer, Site, eventually};

/// Tries a token where one is needed and where one may be shown.
#[track_caller]
fn assert_refused(site: &Site, token: &str, what: &str) -> Answer {
    let optional = site.get("/maybe/me").bearer(token).send();
    assert_eq!(optional.status, 401, "{what} on an optional route: {}", optional.text());
    let answer = site.get("/api/me").bearer(token).send();
    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    answer.assert_refused(401, "invalid_token");
    let challenge = "Bearer realm=\"wxgate\", error=\"invalid_token\"";
    assert_eq!(answer.header("WWW-Authenticate"), Some(challenge), "{what}");
    assert!(site.upstream.requests().is_empty(), "{what} reached the backend");
    answer
}

#[test]
fn a_token_of_a_known_key_is_good() {
    let site = Site::start();
    let answer = site.get("/api/me").bearer(&Forge::of("alice").token()).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(site.upstream.last().values("X-WX-OPENID"), [openid_of("alice")]);
}

#[test]
fn what_is_no_token_of_ours_is_invalid() {
    let site = Site::start();
    let good = Forge::of("alice");
    let token = good.token();
    let (input, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let padded = BASE64_URL_SAFE.encode(BASE64URL.decode(signature).unwrap());
    let standard = BASE64_STANDARD.encode(BASE64URL.decode(signature).unwrap());
    // The last letter of 32 bytes carries two bits that are not used: canonical is only 00.
    let not_canonical = {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = letters.iter().position(|l| Some(*l) == signature.bytes().last()).unwrap();
        format!("{input}.{}{}", &signature[..42], letters[last ^ 1] as char)
    };
    for (what, bad) in [
        ("one word", "nonsense".to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("an empty signature", format!("{input}.")),
        ("four parts", format!("{token}.{signature}")),
        ("three dots", "..".to_owned()),
        ("a space within", token.replacen('.', " .", 1)),
        ("padding", format!("{input}.{padded}")),
        ("the standard alphabet or padding", format!("{input}.{standard}=")),
        ("base64url that is not canonical", not_canonical),
        ("a shorter signature", token[..token.len() - 2].to_owned()),
        ("a longer signature", format!("{token}AA")),
        ("another key", good.clone().key(b"another-signing-key-of-32-bytes-").token()),
        ("an empty key", good.clone().key(b"").token()),
        ("the key's id as key", good.clone().key(KID.as_bytes()).token()),
        ("an unknown kid", good.clone().header("kid", "nobody").token()),
        ("no kid", good.clone().header("kid", Value::Null).token()),
        ("a kid that is a path", good.clone().header("kid", "../../dev/null").token()),
        ("a kid that is a number", good.clone().header("kid", 1).token()),
        (
            "alg none",
            encode(
                json!({ "alg": "none", "typ": "at+jwt", "kid": KID }).to_string(),
                good.claims.to_string(),
            ) + ".",
        ),
        ("alg none with a signature", good.clone().header("alg", "none").token()),
        ("alg HS384", good.clone().header("alg", "HS384").token()),
        ("alg HS512", good.clone().header("alg", "HS512").token()),
        ("alg EdDSA", good.clone().header("alg", "EdDSA").token()),
        ("alg RS256", good.clone().header("alg", "RS256").token()),
        ("alg hs256", good.clone().header("alg", "hs256").token()),
        ("no alg", good.clone().header("alg", Value::Null).token()),
        ("typ JWT", good.clone().header("typ", "JWT").token()),
        ("no typ", good.clone().header("typ", Value::Null).token()),
        ("crit", good.clone().header("crit", json!(["exp"])).token()),
        ("b64 and crit", good.clone().header("b64", false).header("crit", json!(["b64"])).token()),
        (
            "a header that is no object",
            sign(&encode("[]", good.claims.to_string()), KEY.as_bytes()),
        ),
        ("a header that is no JSON", sign(&encode("{", good.claims.to_string()), KEY.as_bytes())),
        ("claims that are no object", sign(&encode(good.header.to_string(), "[]"), KEY.as_bytes())),
        ("claims that are no JSON", sign(&encode(good.header.to_string(), "{"), KEY.as_bytes())),
    ] {
        assert_refused(&site, &bad, what);
    }
}

#[test]
fn a_token_with_a_wrong_claim_is_invalid() {
    let site = Site::start();
    let good = Forge::of("alice");
    let now = unix_seconds();
    for (name, value) in [
        ("iss", Value::Null),
        ("iss", json!("wxgate2")),
        ("iss", json!(["wxgate"])),
        ("sub", Value::Null),
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!("short")),
        ("sub", json!("o evil")),
        ("sub", json!("oalice\r\nX-WX-OPENID: obob____________________")),
        ("sub", json!("o".repeat(65))),
        ("aud", Value::Null),
        ("aud", json!("wxfedcba9876543210")),
        ("aud", json!(7)),
        ("aud", json!([])),
        ("sid", Value::Null),
        ("sid", json!(7)),
        ("jti", Value::Null),
        ("jti", json!({})),
        ("iat", Value::Null),
        ("iat", json!("now")),
        ("iat", json!(now + 120)),
        ("exp", Value::Null),
        ("exp", json!("later")),
        ("exp", json!(-1)),
        ("unionid", json!(7)),
        ("unionid", json!("a b")),
        ("scope", json!({})),
    ] {
        let token = good.clone().claim(name, value.clone()).token();
        assert_refused(&site, &token, &format!("{name}: {value}"));
    }
}

#[test]
fn a_token_may_be_issued_a_minute_ahead_by_another_clock() {
    let site = Site::start();
    let token = Forge::of("alice").claim("iat", unix_seconds() + 50).token();
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
}

#[test]
fn an_expired_token_is_refused_as_such_without_leeway() {
    let site = Site::start();
    let now = unix_seconds();
    for ago in [0, 1, 30, 59, 3600] {
        let token = Forge::of("alice").claim("iat", now - 7200).claim("exp", now - ago).token();
        let answer = assert_refused(&site, &token, &format!("expired {ago} s ago"));
        assert!(answer.description().contains("expired"), "{}", answer.text());
    }
    // By whoever set the end alone: it may lie before the beginning.
    let token = Forge::of("alice").claim("iat", now).claim("exp", now - 60).token();
    let answer = assert_refused(&site, &token, "expired before it was issued");
    assert!(answer.description().contains("expired"), "{}", answer.text());
}

#[test]
fn a_cached_token_expires_to_the_second() {
    let site = Site::start();
    let exp = unix_seconds() + 3;
    let token = Forge::of("alice").claim("exp", exp).token();
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
    eventually("the token expires", || {
        let before = unix_seconds();
        let status = site.get("/api/me").bearer(&token).send().status;
        assert!(status == 401 || before < exp, "served {} s past exp", before - exp);
        status == 401
    });
    assert!(unix_seconds() >= exp, "refused before exp");
}

#[test]
fn the_description_of_a_bad_token_says_invalid() {
    let site = Site::start();
    let answer = assert_refused(&site, "nonsense", "nonsense");
    assert!(answer.description().contains("invalid"), "{}", answer.text());
}

#[test]
fn a_token_may_have_4_kib_and_no_more() {
    let site = Site::start();
    let good = Forge::of("alice");
    let padded = |pad: usize| good.clone().claim("pad", "x".repeat(pad)).token();
    let mut pad = 2_600;
    while padded(pad + 1).len() <= 4096 {
        pad += 1;
    }
    assert_eq!(site.get("/api/me").bearer(&padded(pad)).send().status, 200);
    site.upstream.forget();
    assert_refused(&site, &padded(pad + 3), "over 4 KiB");
}

#[test]
fn any_flipped_bit_makes_a_token_invalid() {
    let site = Site::start();
    let token = Forge::of("alice").token();
    let mut connection = site.connect();
    for position in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[position] ^= 1 << (position % 5);
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        if changed.bytes().any(|byte| !byte.is_ascii_graphic()) {
            continue;
        }
        let answer = site.get("/api/me").bearer(&changed).send_on(&mut connection);
        assert!(matches!(answer.status, 400 | 401), "{position}: {}", answer.status);
        if answer.header("Connection").is_some_and(|value| value == "close") {
            connection = site.connect();
        }
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn tokens_that_differ_only_in_their_tail_are_not_mixed_up() {
    let site = Site::start();
    let token = Forge::of("alice").token();
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
    site.upstream.forget();
    let last = if token.ends_with('A') { "B" } else { "A" };
    for cut in 1..=20 {
        let changed = format!("{}{}", &token[..token.len() - cut], last.repeat(cut));
        if changed != token {
            assert_refused(&site, &changed, "another tail");
        }
    }
}

#[test]
fn two_users_at_once_are_never_mixed_up() {
    let site = Site::start();
    std::thread::scope(|scope| {
        for user in ["alice", "bob", "carol", "dave"] {
            let site = &site;
            scope.spawn(move || {
                let token = site.log_in(user);
                let mut connection = site.connect();
                for _ in 0..100 {
                    let path = format!("/api/{user}");
                    let answer = site.get(&path).bearer(&token).send_on(&mut connection);
                    assert_eq!(answer.status, 200);
                }
            });
        }
    });
    let requests = site.upstream.requests();
    assert_eq!(requests.len(), 400);
    for request in requests {
        let user = request.target.strip_prefix("/api/").unwrap();
        assert_eq!(request.values("X-WX-OPENID"), [openid_of(user)]);
    }
}

#[test]
fn verifying_again_is_a_cache_hit() {
    let site = Site::start();
    let token = site.log_in("alice");
    let count = |result| site.gateway.metric("wxgate_token_cache_total", &[("result", result)]);
    site.get("/api/me").bearer(&token).send();
    let (hits, misses) = (count("hit"), count("miss"));
    for _ in 0..5 {
        site.get("/api/me").bearer(&token).send();
    }
    assert_eq!((count("hit"), count("miss")), (hits + 5.0, misses));
}

#[test]
fn a_rotated_key_signs_while_the_old_one_verifies_and_a_removed_one_does_neither() {
    let second_key = "second-signing-key-52b7e9d1c4a86f30";
    let mut site = Site::with().file("test-2.key", second_key).start();
    let old = site.log_in("alice");
    let taken = site.reload(|settings| {
        settings.signing_keys(
            "[{ id = \"test-2\", secret = { file = \"test-2.key\" } }, \
              { id = \"test-1\", secret = { file = \"test-1.key\" } }]",
        )
    });
    assert!(taken);
    let new = site.log_in("alice");
    assert_eq!(decode(&new).0["kid"], "test-2");
    assert!(is_signed_by(&new, second_key));
    for token in [&old, &new] {
        assert_eq!(site.get("/api/me").bearer(token).send().status, 200);
    }
    let refreshed = site.post("/wx/refresh").bearer(&old).send().json();
    assert_eq!(decode(refreshed["access_token"].as_str().unwrap()).0["kid"], "test-2");

    let only_second = "[{ id = \"test-2\", secret = { file = \"test-2.key\" } }]";
    assert!(site.reload(|settings| settings.signing_keys(only_second)));
    site.upstream.forget();
    assert_refused(&site, &old, "a token of a removed key");
    assert_eq!(site.get("/api/me").bearer(&new).send().status, 200);
}

#[test]
fn a_session_that_was_ended_stays_ended_over_a_reload() {
    let mut site = Site::start();
    let (ended, open) = (site.log_in("alice"), site.log_in("alice"));
    assert_eq!(site.post("/wx/logout").bearer(&ended).send().status, 204);
    assert!(site.reload(|settings| settings.session("ttl = \"1h\"")));
    site.get("/api/me").bearer(&ended).send().assert_refused(401, "invalid_token");
    assert_eq!(site.get("/api/me").bearer(&open).send().status, 200);
    assert_eq!(site.log_in_fully("alice")["expires_in"], 3600);
}

#[test]
fn tokens_of_an_app_that_is_no_longer_configured_are_refused() {
    let mut site = Site::start();
    let token = site.log_in("alice");
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
    let other = "[[apps]]\nappid = \"wxfedcba9876543210\"\nsecret = { env = \"WX_SECRET\" }\n\
                 kind = \"miniprogram\"\n";
    assert!(site.reload(|settings| settings.apps(other)));
    site.upstream.forget();
    assert_refused(&site, &token, "a token of a removed app");
    assert_eq!(decode(&token).1["aud"], APPID);
}

#[test]
fn without_signing_keys_one_is_made_per_start() {
    let site = Site::with().signing_keys("").start();
    let token = site.log_in("alice");
    assert_eq!(decode(&token).0["alg"], "HS256");
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
    site.upstream.forget();
    let other = Site::with().signing_keys("").start();
    assert_refused(&other, &token, "a token of another process");
}

fn ed25519() -> (SigningKey, String) {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let key = SigningKey::from_bytes(&seed);
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string();
    (key, pem)
}

#[test]
fn a_pem_of_ed25519_means_eddsa() {
    let (key, pem) = ed25519();
    let site = Site::with()
        .file("ed.pem", &pem)
        .signing_keys("[{ id = \"ed\", secret = { file = \"ed.pem\" } }]")
        .start();
    let token = site.log_in("alice");
    assert_eq!(decode(&token).0, json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": "ed" }));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = BASE64URL.decode(signature).unwrap().try_into().unwrap();
    let signature = ed25519_dalek::Signature::from_bytes(&signature);
    key.verifying_key().verify_strict(input.as_bytes(), &signature).unwrap();
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);

    let by_hand = Forge::of("bob").header("alg", "EdDSA").header("kid", "ed");
    let input = by_hand.signing_input();
    let signature = BASE64URL.encode(key.sign(input.as_bytes()).to_bytes());
    let answer = site.get("/api/me").bearer(&format!("{input}.{signature}")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    site.upstream.forget();

    // The classic: the public key as an HMAC key.
    let public = key.verifying_key().to_bytes();
    for secret in [&public[..], BASE64URL.encode(public).as_bytes(), pem.as_bytes()] {
        let confused = Forge::of("alice").header("kid", "ed").key(secret).token();
        assert_refused(&site, &confused, "HS256 with what is public");
    }
    let (stranger, _) = ed25519();
    let signature = BASE64URL.encode(stranger.sign(input.as_bytes()).to_bytes());
    assert_refused(&site, &format!("{input}.{signature}"), "EdDSA of another key");
}

#[test]
fn each_key_verifies_with_its_own_algorithm_only() {
    let (key, pem) = ed25519();
    let site = Site::with()
        .file("ed.pem", &pem)
        .signing_keys(
            "[{ id = \"ed\", secret = { file = \"ed.pem\" } }, \
              { id = \"test-1\", secret = { file = \"test-1.key\" } }]",
        )
        .start();
    assert_eq!(site.get("/api/me").bearer(&Forge::of("alice").token()).send().status, 200);
    site.upstream.forget();
    let input = Forge::of("alice").header("alg", "EdDSA").signing_input();
    let signature = BASE64URL.encode(key.sign(input.as_bytes()).to_bytes());
    assert_refused(&site, &format!("{input}.{signature}"), "EdDSA under the kid of an HMAC key");
    let token = Forge::of("alice").header("kid", "ed").token();
    assert_refused(&site, &token, "HS256 under the kid of an Ed25519 key");
}

#[test]
fn the_white_space_around_a_key_is_not_part_of_it() {
    let site = Site::with().file("test-1.key", &format!("\n  {KEY} \r\n\n")).start();
    assert_eq!(site.get("/api/me").bearer(&Forge::of("alice").token()).send().status, 200);
}

#[test]
fn random_and_forged_tokens_cost_no_memory() {
    let site = Site::start();
    let good = site.log_in("alice");
    assert_eq!(site.get("/api/x").bearer(&good).send().status, 200);
    let before = site.gateway.resident_memory();
    let forged = Forge::of("alice").key(b"another-signing-key-of-32-bytes-");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (site, forged) = (&site, forged.clone());
            scope.spawn(move || {
                let mut connection = site.connect();
                for number in 0..2_500 {
                    let bad = match number % 5 {
                        0 => forged.clone().claim("jti", format!("{thread}-{number}")).token(),
                        _ => format!("{}.{thread}.{number}", "x".repeat(1_000)),
                    };
                    let request = site.get("/api/x").bearer(&bad);
                    assert_eq!(request.send_on(&mut connection).status, 401);
                }
            });
        }
    });
    let grown = site.gateway.resident_memory().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "grew by {} KiB", grown / 1024);
    assert_eq!(site.get("/api/x").bearer(&good).send().status, 200);
}

#[test]
fn sessions_in_memory_are_bounded_and_the_one_that_ends_first_makes_room() {
    let site = Site::with().session("max_sessions = 2").start();
    let first = site.log_in("ann");
    // Ends are whole seconds.
    let begun = unix_seconds();
    eventually("the next second", || unix_seconds() > begun);
    let (second, third) = (site.log_in("bob"), site.log_in("carl"));
    let refresh = |token: &str| site.post("/wx/refresh").bearer(token).send().status;
    assert_eq!((refresh(&second), refresh(&third)), (200, 200));
    assert_eq!(site.get("/api/").bearer(&first).send().status, 200);
    assert_eq!(refresh(&first), 401);
    assert!(site.gateway.metric("wxgate_sessions_active", &[]) <= 2.0);
}

#[test]
fn a_token_ends_with_its_session_where_max_age_is_shorter_than_ttl() {
    let site = Site::with().session("max_age = \"3s\"").start();
    let opened = site.log_in_fully("alice");
    let token = opened["access_token"].as_str().unwrap();
    let end = decode(token).1["exp"].as_i64().unwrap();
    assert!(opened["expires_in"].as_i64().unwrap() <= 3, "{opened}");
    assert!(end <= unix_seconds() + 3);
    let refresh = || site.post("/wx/refresh").bearer(token).send();
    eventually("no refresh lives longer", || {
        let answer = refresh();
        if answer.status == 200 {
            let refreshed = answer.json();
            assert!(refreshed["expires_in"].as_i64().unwrap() <= 3, "{refreshed}");
            let later = decode(refreshed["access_token"].as_str().unwrap()).1;
            assert_eq!(later["exp"].as_i64(), Some(end));
        }
        answer.status == 401
    });
    refresh().assert_refused(401, "invalid_token");
    assert!(unix_seconds() >= end);
}
