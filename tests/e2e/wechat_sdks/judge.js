// Let co-wechat-api and node-easywechat, which others wrote, judge the sandbox:
// node judge.js BASE_URL [APPID SECRET]
//
// Only the base URLs are changed. Prints one line a check and `N passed, N failed`; exits with 1
// if any failed.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const CoWechat = require('co-wechat-api');
const MiniApp = require('node-easywechat/dist/MiniApp/Application');

const BASE = process.argv[2].replace(/\/$/, '');
const APPID = process.argv[3] || 'wxdemo0000000000';
const SECRET = process.argv[4] || 'demo';
const checks = [];
const check = (name, test) => checks.push([name, test]);

async function sandbox(what, order) {
  const answer = await fetch(`${BASE}/sandbox/${what}`, { method: 'POST', body: JSON.stringify(order) });
  const body = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(body));
  return body;
}

const loginCode = async (user) => (await sandbox('login', { appid: APPID, user })).code;

function coWechat(secret = SECRET) {
  const api = new CoWechat(APPID, secret);
  Object.assign(api, { prefix: `${BASE}/cgi-bin/`, snsPrefix: `${BASE}/sns/`, wxaPrefix: `${BASE}/wxa/` });
  return api;
}

function miniApp(secret = SECRET, more = {}) {
  // A cache of its own, so that a token of one check does not serve the next.
  const app = new MiniApp({ app_id: APPID, secret, http: { baseURL: `${BASE}/` }, ...more });
  const kept = new Map();
  app.setCache({
    get: async (key) => kept.get(key),
    set: async (key, value) => (kept.set(key, value), true),
    has: async (key) => kept.has(key),
    delete: async (key) => kept.delete(key),
  });
  return app;
}

async function coErrcode(call) {
  try {
    await call();
  } catch (error) {
    return error.code;
  }
  return 0;
}

const sign = (key) => crypto.createHmac('sha256', key).update('').digest('hex');

check('co-wechat-api: a login code gives the user once', async () => {
  const code = await loginCode('alice');
  const session = await coWechat().code2Session(code);
  assert.match(session.openid, /^o[\w-]{27}$/);
  assert.equal(Buffer.from(session.session_key, 'base64').length, 16);
  assert.equal(await coErrcode(() => coWechat().code2Session(code)), 40163);
});

check('co-wechat-api: 40029 for an unknown code, 40125 for a wrong secret', async () => {
  assert.equal(await coErrcode(() => coWechat().code2Session('x&appid=wx2')), 40029);
  const code = await loginCode('alice');
  assert.equal(await coErrcode(() => coWechat('wrong').code2Session(code)), 40125);
  assert.equal(await coErrcode(() => coWechat('wrong').getAccessToken()), 40125);
});

check('co-wechat-api: an access_token', async () => {
  const token = await coWechat().getAccessToken();
  assert.ok(token.accessToken.length > 64);
  assert.ok(token.expireTime > Date.now() + 7_000_000);
});

check('node-easywechat: a login code gives the user once', async () => {
  const code = await loginCode('alice');
  const session = await miniApp().getUtils().codeToSession(code);
  assert.match(session.openid, /^o[\w-]{27}$/);
  await assert.rejects(miniApp().getUtils().codeToSession(code), /40163/);
  await assert.rejects(miniApp().getUtils().codeToSession('unknown'), /40029/);
  await assert.rejects(miniApp('wrong').getUtils().codeToSession(code), /40125/);
});

check('node-easywechat: access_token of both kinds', async () => {
  const plain = await miniApp().getAccessToken().getToken();
  const stable = await miniApp(SECRET, { use_stable_access_token: true }).getAccessToken().getToken();
  const again = await miniApp(SECRET, { use_stable_access_token: true }).getAccessToken().getToken();
  assert.notEqual(plain, stable);
  assert.equal(stable, again);
});

check('node-easywechat: a phone code, and none of another kind or user', async () => {
  const app = miniApp(SECRET, { use_stable_access_token: true });
  const { openid } = await app.getUtils().codeToSession(await loginCode('alice'));
  const ask = async (code, whose) => {
    const client = app.getClient();
    const answer = await client.postJson('/wxa/business/getuserphonenumber', { code, openid: whose });
    return answer.toObject(false);
  };
  const pressed = await sandbox('phone', { appid: APPID, user: 'alice' });
  assert.equal((await ask(pressed.code, 'oNobody')).errcode, 40029);
  const found = await ask(pressed.code, openid);
  assert.equal(found.errcode, 0);
  assert.match(found.phone_info.purePhoneNumber, /^1\d{10}$/);
  assert.equal((await ask(pressed.code, openid)).errcode, 40163);
  assert.equal((await ask(await loginCode('alice'), openid)).errcode, 40029);
});

check('node-easywechat: userinfo decrypts with the session_key of the last login', async () => {
  const utils = miniApp().getUtils();
  const before = await utils.codeToSession(await loginCode('小明'));
  const session = await utils.codeToSession(await loginCode('小明'));
  const given = await sandbox('userinfo', { appid: APPID, user: '小明' });
  const opened = utils.decryptSession(session.session_key, given.iv, given.encryptedData);
  assert.equal(opened.openId, session.openid);
  assert.equal(opened.nickName, '小明');
  assert.equal(opened.watermark.appid, APPID);
  assert.throws(() => utils.decryptSession(before.session_key, given.iv, given.encryptedData));
});

check('node-easywechat: checksession knows the present session_key only', async () => {
  const app = miniApp(SECRET, { use_stable_access_token: true });
  const session = await app.getUtils().codeToSession(await loginCode('alice'));
  const ask = async (key) => {
    const params = { openid: session.openid, signature: sign(key), sig_method: 'hmac_sha256' };
    const answer = await app.getClient().get('/wxa/checksession', { params });
    return answer.toObject(false).errcode;
  };
  assert.equal(await ask(session.session_key), 0);
  await loginCode('alice');
  assert.equal(await ask(session.session_key), 87009);
});

async function main() {
  let failed = 0;
  for (const [name, test] of checks) {
    try {
      await test();
      console.log(`ok   ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error.stack}`);
    }
  }
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

main();
