"""Let wechatpy, which others wrote, judge the sandbox: python3 judge.py BASE_URL [APPID SECRET].

Only the base URLs are changed. Prints one line a check and `N passed, N failed`; exits with 1
if any failed.
"""

import hashlib
import hmac
import sys
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import requests
from wechatpy import WeChatClient
from wechatpy.client.api import WeChatWxa
from wechatpy.crypto import WeChatWxaCrypto
from wechatpy.exceptions import WeChatClientException, WeChatOAuthException
from wechatpy.oauth import WeChatOAuth

BASE = sys.argv[1].rstrip("/")
APPID, SECRET = sys.argv[2:4] or ("wxdemo0000000000", "demo")
TIMEOUT = 10
RESULTS = []


class Client(WeChatClient):
    API_BASE_URL = BASE + "/cgi-bin/"

    def fetch_access_token(self):
        query = {"grant_type": "client_credential", "appid": self.appid, "secret": self.secret}
        return self._fetch_access_token(url=BASE + "/cgi-bin/token", params=query)


WeChatWxa.API_BASE_URL = BASE + "/"
WeChatOAuth.API_BASE_URL = BASE + "/"
WeChatOAuth.OAUTH_BASE_URL = BASE + "/connect/"


def client(secret=SECRET):
    return Client(APPID, secret, timeout=TIMEOUT)


def sandbox(what, **order):
    answer = requests.post(f"{BASE}/sandbox/{what}", json=order, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def login_code(user):
    return sandbox("login", appid=APPID, user=user)["code"]


def errcode_of(call):
    try:
        call()
    except (WeChatClientException, WeChatOAuthException) as error:
        return error.errcode
    return 0


def check(test):
    try:
        test()
    except Exception as error:  # Whatever it is, it is a failed check.
        RESULTS.append(False)
        print(f"FAIL {test.__name__}: {type(error).__name__}: {error}")
    else:
        RESULTS.append(True)
        print(f"ok   {test.__name__}")


@check
def a_login_code_gives_openid_session_key_and_unionid():
    session = client().wxa.code_to_session(login_code("alice"))
    assert len(session["openid"]) == 28 and session["openid"].startswith("o"), session
    assert len(session["session_key"]) == 24, session
    again = client().wxa.code_to_session(login_code("alice"))
    assert again["openid"] == session["openid"] and again["unionid"] == session["unionid"]
    assert again["session_key"] != session["session_key"]


@check
def a_used_code_is_40163_an_unknown_one_40029_and_a_wrong_secret_40125():
    code = login_code("alice")
    client().wxa.code_to_session(code)
    assert errcode_of(lambda: client().wxa.code_to_session(code)) == 40163
    assert errcode_of(lambda: client().wxa.code_to_session("0a1b2c3d")) == 40029
    assert errcode_of(lambda: client("wrong").fetch_access_token()) == 40125
    query = {"appid": APPID, "secret": "wrong", "js_code": "x", "grant_type": "authorization_code"}
    url = BASE + "/sns/jscode2session"
    assert errcode_of(lambda: client().get(url, params=query)) == 40125


@check
def a_new_token_leaves_the_old_one_alive():
    old = client()
    old.fetch_access_token()
    client().fetch_access_token()
    code = sandbox("phone", appid=APPID, user="alice")["code"]
    old.auto_retry = False
    assert old.wxa.get_phone_number(code)["errcode"] == 0


@check
def a_phone_code_gives_the_number_and_is_no_login_code():
    found = client().wxa.get_phone_number(sandbox("phone", appid=APPID, user="alice")["code"])
    phone = found["phone_info"]
    assert phone["phoneNumber"].isdigit() and phone["countryCode"] == "86", phone
    assert phone["watermark"]["appid"] == APPID
    code = login_code("alice")
    assert errcode_of(lambda: client().wxa.get_phone_number(code)) == 40029
    code = sandbox("phone", appid=APPID, user="alice")["code"]
    assert errcode_of(lambda: client().wxa.code_to_session(code)) == 40029


@check
def a_refused_token_is_replaced_and_the_call_repeated():
    sandbox("fault", api="getuserphonenumber", errcode=40001, times=1)
    code = sandbox("phone", appid=APPID, user="alice")["code"]
    assert client().wxa.get_phone_number(code)["errcode"] == 0


@check
def userinfo_decrypts_with_the_session_key_and_its_signature_fits():
    session = client().wxa.code_to_session(login_code("小明"))
    given = sandbox("userinfo", appid=APPID, user="小明")
    crypto = WeChatWxaCrypto(session["session_key"], given["iv"], APPID)
    opened = crypto.decrypt_message(given["encryptedData"])
    assert opened["openId"] == session["openid"] and opened["nickName"] == "小明", opened
    signed = (given["rawData"] + session["session_key"]).encode()
    assert hashlib.sha1(signed).hexdigest() == given["signature"]


@check
def the_older_phone_data_decrypts_too():
    session = client().wxa.code_to_session(login_code("alice"))
    given = sandbox("phone", appid=APPID, user="alice")
    crypto = WeChatWxaCrypto(session["session_key"], given["iv"], APPID)
    opened = crypto.decrypt_message(given["encryptedData"])
    phone = client().wxa.get_phone_number(given["code"])["phone_info"]
    assert opened["purePhoneNumber"] == phone["purePhoneNumber"]


@check
def checksession_knows_the_present_session_key_only():
    session = client().wxa.code_to_session(login_code("alice"))

    def ask(key, path="/wxa/checksession", openid=session["openid"]):
        signature = hmac.new(key.encode(), b"", hashlib.sha256).hexdigest()
        query = {"openid": openid, "signature": signature, "sig_method": "hmac_sha256"}
        return client().get(BASE + path, params=query)

    key = session["session_key"]
    assert ask(key)["errcode"] == 0
    assert errcode_of(lambda: ask(key, openid="oNobody")) == 40003
    fresh = ask(key, "/wxa/resetusersessionkey")["session_key"]
    assert errcode_of(lambda: ask(key)) == 87009
    assert ask(fresh)["errcode"] == 0


@check
def wechats_errcodes_come_as_ordered():
    for errcode in (-1, 40226, 45011, 50002):
        sandbox("fault", api="jscode2session", errcode=errcode, times=1)
        assert errcode_of(lambda: client().wxa.code_to_session(login_code("alice"))) == errcode


class Form(HTMLParser):
    """The fields of a page's form."""

    def __init__(self, html):
        super().__init__()
        self.fields, self.action = {}, None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.action = attributes["action"]
        if tag == "input":
            self.fields[attributes["name"]] = attributes.get("value", "")


def click(url, decision, user="alice"):
    """What a browser comes back with after a click on a button of the page."""
    form = Form(requests.get(url, timeout=TIMEOUT).text)
    query = form.fields | {"user": user, "decision": decision}
    answer = requests.get(
        BASE + form.action, params=query, timeout=TIMEOUT, allow_redirects=False
    )
    assert answer.status_code == 302, answer.text
    back = answer.headers["Location"]
    assert back.startswith("http://127.0.0.1:1/back?"), back
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


def oauth(scope):
    return WeChatOAuth(APPID, SECRET, "http://127.0.0.1:1/back", scope, "s1")


@check
def consent_in_wechat_gives_the_user():
    web = oauth("snsapi_userinfo")
    back = click(web.authorize_url, "allow")
    assert back["state"] == "s1"
    given = web.fetch_access_token(back["code"])
    assert given["scope"] == "snsapi_userinfo" and given["unionid"], given
    assert web.get_user_info()["nickname"] == "alice"
    assert web.check_access_token() is True
    assert errcode_of(lambda: web.check_access_token(openid="oNobody")) == 40003
    assert web.refresh_access_token(given["refresh_token"])["openid"] == given["openid"]
    assert errcode_of(lambda: web.fetch_access_token(back["code"])) == 40163


@check
def a_silent_login_learns_the_openid_only():
    web = oauth("snsapi_base")
    given = web.fetch_access_token(click(web.authorize_url, "allow")["code"])
    assert "unionid" not in given
    assert errcode_of(web.get_user_info) == 48001


@check
def a_qr_code_logs_in_and_a_refusal_comes_back_with_the_state_alone():
    web = oauth("snsapi_login")
    given = web.fetch_access_token(click(web.qrconnect_url, "allow")["code"])
    assert given["unionid"]
    assert click(web.qrconnect_url, "refuse") == {"state": "s1"}


@check
def a_snapshot_page_shows_a_virtual_user():
    web = oauth("snsapi_userinfo")
    given = web.fetch_access_token(click(web.authorize_url, "snapshot")["code"])
    assert given["is_snapshotuser"] == 1


print(f"{RESULTS.count(True)} passed, {RESULTS.count(False)} failed")
sys.exit(0 if all(RESULTS) else 1)
