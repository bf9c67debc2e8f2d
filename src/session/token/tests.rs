//! Every refusal of a token, and agreement with a second verifier on random and broken ones.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test may panic")]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config;

const NOW: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_hours(24);
const HMAC: &str = "0123456789abcdefghijklmnopqrstuv";
/// RFC 8410, section 10.3.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

struct World {
    keys: KeySet,
    apps: HashMap<String, AppId>,
}

impl World {
    /// Two keys, `first` signing; one app.
    fn new(first: &str, second: &str) -> Self {
        let key = |id: &str, secret: &str| config::SigningKey {
            id: id.to_owned(),
            secret: Secret::new(secret.to_owned()),
        };
        let keys = KeySet::configured(&[key("k1", first), key("k2", second)]).unwrap().unwrap();
        let app = AppId::parse("wxapp_1").unwrap();
        Self { keys, apps: HashMap::from([("wxapp_1".to_owned(), app)]) }
    }

    fn verify_at(&self, token: &str, now: u64) -> Result<Verified, TokenError> {
        let Self { keys, apps } = self;
        verify(token, &Rules { keys, apps, most_lifetime: DAY, now })
    }

    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        self.verify_at(token, NOW)
    }

    /// A token of exactly this header and these claims with a right signature.
    fn mint(&self, kid: &str, header: &str, claims: &str) -> String {
        self.seal(kid, &URL_SAFE_NO_PAD.encode(header), &URL_SAFE_NO_PAD.encode(claims))
    }

    fn seal(&self, kid: &str, header: &str, claims: &str) -> String {
        let message = format!("{header}.{claims}");
        let signature = self.keys.by_id(kid).unwrap().sign(&message).unwrap();
        format!("{message}.{signature}")
    }

    fn with_claims(&self, claims: &Value) -> String {
        self.mint("k1", HEADER, &claims.to_string())
    }
}

const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#;

static HMAC_FIRST: LazyLock<World> = LazyLock::new(hmac);

fn hmac() -> World {
    World::new(HMAC, PEM)
}

fn claims() -> Value {
    json!({
        "iss": "wxgate", "sub": "oUser_1", "aud": "wxapp_1", "sid": "s1", "iat": NOW,
        "exp": NOW + 7200, "jti": "j1",
    })
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().insert(name.to_owned(), value);
    claims
}

fn verified(unionid: Option<&str>, scope: &[&str]) -> Verified {
    Verified {
        identity: Identity {
            openid: OpenId::parse("oUser_1").unwrap(),
            appid: AppId::parse("wxapp_1").unwrap(),
            unionid: unionid.map(|text| UnionId::parse(text).unwrap()),
            sid: "s1".into(),
        },
        scope: scope.iter().map(|word| (*word).to_owned()).collect(),
        issued_at: NOW,
        expires_at: NOW + 7200,
        phone: OnceCell::new(),
        hashed: std::sync::OnceLock::new(),
    }
}

#[test]
fn a_token_says_what_was_signed_into_it() {
    for world in [hmac(), World::new(PEM, HMAC)] {
        for verified in [verified(None, &[]), verified(Some("uUnion_1"), &["phone", "more"])] {
            let token = sign(world.keys.signer(), &verified, "j1").unwrap();
            assert_eq!(world.verify(token.expose()), Ok(verified));
        }
    }
}

#[test]
fn a_token_is_written_exactly_as_documented() {
    let token = sign(hmac().keys.signer(), &verified(Some("uUnion_1"), &["a", "b"]), "j1").unwrap();
    let parts: Vec<_> = token.expose().split('.').collect();
    let decode = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(parts.len(), 3);
    assert_eq!(decode(parts.first().unwrap()), HEADER);
    assert_eq!(
        decode(parts.get(1).unwrap()),
        r#"{"iss":"wxgate","sub":"oUser_1","aud":"wxapp_1","sid":"s1","iat":1800000000,"exp":1800007200,"jti":"j1","unionid":"uUnion_1","scope":"a b"}"#
    );
    let bare = sign(hmac().keys.signer(), &verified(None, &[]), "j1").unwrap();
    let written: Value =
        serde_json::from_str(&decode(bare.expose().split('.').nth(1).unwrap())).unwrap();
    assert_eq!(written, claims());
}

#[test]
fn every_required_claim_is_required_and_typed() {
    let world = hmac();
    assert!(world.verify(&world.with_claims(&claims())).is_ok());
    for name in ["iss", "sub", "aud", "sid", "iat", "exp", "jti"] {
        let mut without = claims();
        without.as_object_mut().unwrap().remove(name);
        assert_eq!(world.verify(&world.with_claims(&without)), Err(TokenError::Invalid), "{name}");
        for wrong in [json!(null), json!(["wxapp_1"]), json!({}), json!(true), json!(1.5)] {
            let token = world.with_claims(&changed(name, wrong.clone()));
            assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{name}: {wrong}");
        }
    }
}

#[test]
fn a_claim_with_a_wrong_value_is_refused() {
    let world = hmac();
    for (name, wrong) in [
        ("iss", json!("WXGATE")),
        ("iss", json!("")),
        ("sub", json!("short")),
        ("sub", json!("o".repeat(65))),
        ("sub", json!("oUser 1")),
        ("sub", json!("oUser_1\r\nX-WX-OPENID: o2")),
        ("sub", json!("oUsér_1")),
        ("aud", json!("wxapp_2")),
        ("aud", json!("")),
        ("aud", json!(["wxapp_1"])),
        ("sid", json!("")),
        ("sid", json!("s".repeat(65))),
        ("sid", json!("s\n1")),
        ("jti", json!("")),
        ("iat", json!(NOW.to_string())),
        ("iat", json!(NOW + 61)),
        ("iat", json!(-1)),
        ("exp", json!((NOW + 60).to_string())),
        ("exp", json!(NOW + 60 + 86_400)),
        ("exp", json!(u64::MAX)),
        ("nbf", json!(NOW + 1)),
        ("nbf", json!(null)),
        ("nbf", json!("0")),
        ("unionid", json!(null)),
        ("unionid", json!("short")),
        ("unionid", json!(7)),
        ("scope", json!(null)),
        ("scope", json!(["phone"])),
    ] {
        let token = world.with_claims(&changed(name, wrong.clone()));
        assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{name}: {wrong}");
    }
    for (name, right) in [
        ("iat", json!(NOW + 60)),
        ("nbf", json!(NOW)),
        ("exp", json!(NOW + 86_400)),
        ("unionid", json!("uUnion_1")),
        ("scope", json!("phone")),
        ("scope", json!("")),
        ("cnf", json!({"jkt": "of another profile"})),
    ] {
        let token = world.with_claims(&changed(name, right.clone()));
        assert!(world.verify(&token).is_ok(), "{name}: {right}");
    }
}

#[test]
fn a_token_is_good_until_its_exp_and_not_a_second_longer() {
    let world = hmac();
    let token = world.with_claims(&claims());
    assert!(world.verify_at(&token, NOW + 7199).is_ok());
    assert_eq!(world.verify_at(&token, NOW + 7200), Err(TokenError::Expired));
    assert_eq!(world.verify_at(&token, u64::MAX), Err(TokenError::Expired));
    assert!(world.verify_at(&token, NOW - 60).is_ok());
    let backwards = world.with_claims(&changed("exp", json!(NOW - 1)));
    assert_eq!(world.verify_at(&backwards, NOW), Err(TokenError::Expired));
    assert_eq!(world.verify_at(&backwards, NOW - 2), Err(TokenError::Invalid));
    assert_eq!(world.verify_at(&token, NOW - 61), Err(TokenError::Invalid));
    let long = world.with_claims(&changed("exp", json!(NOW + 86_401)));
    assert_eq!(world.verify_at(&long, NOW + 86_400), Err(TokenError::Invalid), "longer than any");
    assert_eq!(world.verify_at(&long, NOW + 86_401), Err(TokenError::Expired));
}

/// serde takes an array of a struct's fields for the struct.
#[test]
fn a_header_or_claims_that_are_arrays_are_refused() {
    let world = hmac();
    let good = claims();
    let field = |name: &str| good.get(name).cloned().unwrap();
    let array = json!([
        field("iss"),
        field("sub"),
        field("aud"),
        field("sid"),
        field("iat"),
        field("exp"),
        field("jti"),
        NOW,
        "uUnion_1",
        "phone",
    ]);
    for (header, claims) in [
        (r#"["HS256","at+jwt","k1"]"#, good.to_string()),
        (HEADER, array.to_string()),
        (HEADER, format!(" {array}")),
    ] {
        let token = world.mint("k1", header, &claims);
        assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{header}.{claims}");
    }
    let spaced = world.mint("k1", &format!(" {HEADER}"), &format!("\n{good}"));
    assert!(world.verify(&spaced).is_ok());
}

#[test]
fn repeated_claims_and_trailing_text_are_refused() {
    let world = hmac();
    let good = claims().to_string();
    let inner = &good[1..good.len() - 1];
    for claims in [
        format!(r#"{{{inner},"sub":"oUser_2"}}"#),
        format!(r#"{{"exp":9999999999,{inner}}}"#),
        format!(r#"{{{inner},"scope":"a","scope":"b"}}"#),
        format!("{good}{good}"),
        format!("{good} x"),
        format!("[{good}]"),
        "null".to_owned(),
        String::new(),
    ] {
        assert_eq!(
            world.verify(&world.mint("k1", HEADER, &claims)),
            Err(TokenError::Invalid),
            "{claims}"
        );
    }
    let mut bytes = good.clone().into_bytes();
    let at = good.find("oUser_1").unwrap();
    *bytes.get_mut(at).unwrap() = 0xff;
    let token = world.seal("k1", &URL_SAFE_NO_PAD.encode(HEADER), &URL_SAFE_NO_PAD.encode(&bytes));
    assert_eq!(world.verify(&token), Err(TokenError::Invalid));
}

#[test]
fn the_header_chooses_nothing() {
    let world = hmac();
    let claims = claims().to_string();
    for (kid, header) in [
        ("k1", r#"{"alg":"none","typ":"at+jwt","kid":"k1"}"#),
        ("k1", r#"{"alg":"hs256","typ":"at+jwt","kid":"k1"}"#),
        ("k1", r#"{"alg":"HS384","typ":"at+jwt","kid":"k1"}"#),
        ("k1", r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#),
        // Signed by the HMAC key, but it names the other one.
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k2"}"#),
        ("k1", r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k2"}"#),
        ("k2", r#"{"alg":"HS256","typ":"at+jwt","kid":"k2"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k3"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":1}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt"}"#),
        ("k1", r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#),
        ("k1", r#"{"alg":"HS256","kid":"k1"}"#),
        ("k1", r#"{"typ":"at+jwt","kid":"k1"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","kid":"k1"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","crit":["exp"]}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","b64":false}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","zip":"DEF"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","jku":"https://evil.example/"}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","jwk":{"kty":"oct","k":"AA"}}"#),
        ("k1", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","x5u":"https://evil.example/"}"#),
        ("k1", "[]"),
        ("k1", ""),
    ] {
        let token = world.mint(kid, header, &claims);
        assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{header}");
    }
    for header in [
        r#"{"kid":"k1","typ":"at+jwt","alg":"HS256"}"#,
        r#"{ "alg": "HS256", "typ": "at+jwt", "kid": "k1" }"#,
    ] {
        assert!(world.verify(&world.mint("k1", header, &claims)).is_ok(), "{header}");
    }
}

#[test]
fn only_listed_keys_verify_and_the_older_ones_do_too() {
    let old = World::new(PEM, HMAC);
    let token = sign(old.keys.signer(), &verified(None, &[]), "j1").unwrap();
    assert!(old.verify(token.expose()).is_ok());
    // `k1` is now another key.
    assert_eq!(hmac().verify(token.expose()), Err(TokenError::Invalid));
    let second = sign(hmac().keys.by_id("k2").unwrap(), &verified(None, &[]), "j1").unwrap();
    assert!(hmac().verify(second.expose()).is_ok());
}

#[test]
fn base64url_must_be_canonical() {
    let world = hmac();
    // Claims of a length that leaves unused bits in the last letter.
    let mut text = claims().to_string();
    while text.len() % 3 != 1 {
        text.push(' ');
    }
    let payload = URL_SAFE_NO_PAD.encode(&text);
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    let good = world.seal("k1", &header, &payload);
    assert!(world.verify(&good).is_ok());
    let trailing_bits = format!("{}B", &payload[..payload.len() - 1]);
    for payload in [trailing_bits, format!("{payload}=="), format!("{payload}\n"), "+/".into()] {
        let token = world.seal("k1", &header, &payload);
        assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{payload}");
    }
    // 43 letters hold 258 bits: two of the last letter are unused.
    let last = good.chars().last().unwrap();
    for other in ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']) {
        let token = format!("{}{other}", &good[..good.len() - 1]);
        assert_eq!(world.verify(&token).is_ok(), other == last, "{other}");
    }
    for token in [
        format!("{good}="),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}."),
        format!(".{good}"),
        good.replacen('.', "..", 1),
        good[..good.rfind('.').unwrap()].to_owned(),
        format!("{}.", &good[..good.rfind('.').unwrap()]),
        String::new(),
        "..".to_owned(),
    ] {
        assert_eq!(world.verify(&token), Err(TokenError::Invalid), "{token}");
    }
}

#[test]
fn a_token_of_more_than_4_kib_is_refused() {
    let world = hmac();
    let of_scope = |length: usize| world.with_claims(&changed("scope", json!("s".repeat(length))));
    let letters = (2000..4000).find(|length| of_scope(*length).len() > MOST_BYTES).unwrap();
    assert!(world.verify(&of_scope(letters - 1)).is_ok());
    assert_eq!(world.verify(&of_scope(letters)), Err(TokenError::Invalid));
}

fn flips_are_refused(world: &World, bits: impl Fn(usize) -> std::ops::Range<u32>) {
    let verified = verified(Some("uUnion_1"), &["phone"]);
    let token = sign(world.keys.signer(), &verified, "j1").unwrap();
    for at in 0..token.expose().len() {
        for bit in bits(at) {
            let mut bytes = token.expose().clone().into_bytes();
            *bytes.get_mut(at).unwrap() ^= 1 << bit;
            let broken = String::from_utf8(bytes).unwrap();
            assert_eq!(world.verify(&broken), Err(TokenError::Invalid), "{at}.{bit}");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    flips_are_refused(&hmac(), |_| 0..7);
}

#[test]
fn a_flipped_bit_anywhere_is_refused_of_an_eddsa_token_too() {
    // One bit of each letter: without optimisation each costs milliseconds.
    let one = |at: usize| u32::try_from(at % 7).unwrap();
    flips_are_refused(&World::new(PEM, HMAC), |at| one(at)..one(at) + 1);
}

#[test]
fn a_token_is_ours_by_type_and_key_whatever_its_signature() {
    let world = hmac();
    let with = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
    for ours in [
        with(HEADER),
        with(r#"{"kid":"k2","typ":"at+jwt","alg":"none","crit":["x"]}"#),
        with(r#"{"typ":"at+jwt","kid":"k1"}"#).replacen('.', "==.", 1),
        format!("{}.", URL_SAFE_NO_PAD.encode(HEADER)),
    ] {
        assert!(is_ours(&ours, &world.keys), "{ours}");
    }
    for foreign in [
        with(r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#),
        with(r#"{"alg":"HS256","typ":"at+jwt","kid":"k3"}"#),
        with(r#"{"alg":"HS256","typ":"at+jwt"}"#),
        with("[]"),
        "opaque-token".to_owned(),
        "opaque.token".to_owned(),
        String::new(),
    ] {
        assert!(!is_ours(&foreign, &world.keys), "{foreign}");
    }
}

/// A second verifier by other means: jsonwebtoken for structure and signature, rules read off a
/// JSON tree.
fn oracle(token: &str, now: u64) -> Result<String, TokenError> {
    use jsonwebtoken::{Algorithm as Alg, DecodingKey, Validation, decode, decode_header};
    let invalid = TokenError::Invalid;
    let header = decode_header(token).map_err(|_| invalid)?;
    let (key, alg) = match header.kid.as_deref() {
        Some("k1") => (DecodingKey::from_secret(HMAC.as_bytes()), Alg::HS256),
        Some("k2") => {
            let public = ed25519_dalek::SigningKey::from_bytes(&seed()).verifying_key();
            (DecodingKey::from_ed_der(public.as_bytes()), Alg::EdDSA)
        }
        _ => return Err(invalid),
    };
    let raw = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).map_err(|_| invalid)?;
    let raw: HashMap<String, Value> = serde_json::from_slice(&raw).map_err(|_| invalid)?;
    if raw.len() != 3 || header.typ.as_deref() != Some("at+jwt") || token.len() > 4096 {
        return Err(invalid);
    }
    let mut validation = Validation::new(alg);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&["wxgate"]);
    validation.set_audience(&["wxapp_1"]);
    // Its clock cannot be set.
    validation.validate_exp = false;
    let claims = decode::<Value>(token, &key, &validation).map_err(|_| invalid)?.claims;
    let number = |name: &str| claims.get(name).and_then(Value::as_u64).ok_or(invalid);
    let text = |name: &str| claims.get(name).and_then(Value::as_str).ok_or(invalid);
    let (iat, exp, sub) = (number("iat")?, number("exp")?, text("sub")?);
    let shaped = |text: &str, least: usize| {
        (least..=64).contains(&text.len())
            && text.chars().all(|c| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '_'))
    };
    let good = text("aud")? == "wxapp_1"
        && shaped(sub, 6)
        && shaped(text("sid")?, 1)
        && !text("jti")?.is_empty()
        && iat <= now + 60
        && claims.get("nbf").is_none_or(|nbf| nbf.as_u64().is_some_and(|nbf| nbf <= now))
        && claims.get("unionid").is_none_or(|id| id.as_str().is_some_and(|id| shaped(id, 6)))
        && claims.get("scope").is_none_or(Value::is_string);
    if !good {
        return Err(invalid);
    }
    match () {
        () if exp <= now => Err(TokenError::Expired),
        () if exp < iat || exp - iat > 86_400 => Err(invalid),
        () => Ok(sub.to_owned()),
    }
}

/// The key of [`PEM`], by another way than ours.
fn seed() -> [u8; 32] {
    let body: String = PEM.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    der.get(16..).unwrap().try_into().unwrap()
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[A-Za-z0-9_-]{0,70}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        (NOW - 100..NOW + 100).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!(["wxapp_1"])),
    ]
}

/// A token that is good or has one claim changed, one dropped, another header, another key.
fn tokens(kids: &'static [&'static str]) -> impl Strategy<Value = String> {
    let names =
        ["iss", "sub", "aud", "sid", "iat", "exp", "jti", "nbf", "unionid", "scope", "other"];
    let headers = [
        HEADER,
        r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k2"}"#,
        r#"{"typ":"at+jwt","kid":"k2","alg":"EdDSA"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"k2"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"k1","cty":"x"}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#,
    ];
    let change =
        prop::option::of((prop::sample::select(names.to_vec()), prop::option::of(value())));
    let age = prop_oneof![Just(0), 0..20_000_u64];
    let kid = prop::sample::select(kids);
    (prop::sample::select(headers.to_vec()), change, age, kid).prop_map(
        |(header, change, age, kid)| {
            let mut claims = claims();
            let object = claims.as_object_mut().unwrap();
            object.insert("iat".to_owned(), json!(NOW - age));
            object.insert("exp".to_owned(), json!(NOW - age + 7200));
            match change {
                Some((name, Some(value))) => object.insert(name.to_owned(), value),
                Some((name, None)) => object.remove(name),
                None => None,
            };
            HMAC_FIRST.mint(kid, header, &claims.to_string())
        },
    )
}

fn agree(token: &str) -> Result<(), TestCaseError> {
    let ours =
        HMAC_FIRST.verify(token).map(|verified| verified.identity.openid.as_str().to_owned());
    prop_assert_eq!(ours, oracle(token, NOW), "{}", token);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_verifiers_agree_on_tokens_of_any_claims(token in tokens(&["k1", "k2"])) {
        agree(&token)?;
    }

    #[test]
    fn both_verifiers_agree_on_broken_tokens(
        token in tokens(&["k1", "k2"]), at in any::<prop::sample::Index>(), byte in "[A-Za-z0-9_.=-]", cut in 0..4_usize,
    ) {
        let at = at.index(token.len());
        agree(&format!("{}{byte}{}", &token[..at], token.get(at + cut..).unwrap_or_default()))?;
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC*") {
        prop_assert_eq!(HMAC_FIRST.verify(&text), Err(TokenError::Invalid));
        prop_assert!(!is_ours(&text, &HMAC_FIRST.keys));
    }
}

/// The bulk of the comparison, for the key that we verify by means of our own.
#[test]
fn both_verifiers_agree_on_a_hundred_thousand_tokens() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let world = hmac();
    let strategy = tokens(&["k1"]);
    let (mut judged, mut accepted) = (0, 0);
    while judged < 100_000 {
        let token = strategy.new_tree(&mut runner).unwrap().current();
        if !token.starts_with(world.keys.signer().header()) {
            continue;
        }
        for damage in 0..20_usize {
            let mut bytes = token.clone().into_bytes();
            if damage > 0 {
                let at = (judged * 7919 + damage * 104_729) % bytes.len();
                *bytes.get_mut(at).unwrap() ^= 1 << (damage % 7);
            }
            let token = String::from_utf8(bytes).unwrap();
            let ours = world.verify(&token).map(|good| good.identity.openid.as_str().to_owned());
            accepted += usize::from(ours.is_ok());
            judged += 1;
            assert_eq!(ours, oracle(&token, NOW), "{token}");
        }
    }
    // Agreement means something only if many were good.
    assert!(accepted > 500, "{accepted}");
}
